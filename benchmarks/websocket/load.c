/* The load generator: one process, one epoll loop, many WebSocket clients (RFC 6455) on loopback.
 *
 * It connects, plays a script on each connection (--send a text frame, --await a frame that contains a text), and
 * says "ready". Then it counts how often --marker occurs in what arrives, and answers pings. It obeys lines on stdin:
 *   expect K   -> "armed"; "done {...}" once every connection has got exactly K markers more
 *   counters   -> "counters {...}"
 * End of stdin ends it. Whatever goes wrong is one line "failed ..." and exit code 1. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum state { CONNECTING, UPGRADING, PLAYING, READY };
enum { MAX_STEPS = 16, MAX_REPLIES = 4, MAX_HEADERS = 4096, IN_BYTES = 1 << 20, EVENTS = 512, PER_ADDRESS = 20000 };

/* Any 16 bytes are a valid key; with a fixed one the right answer is fixed too. */
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

struct connection {
    int fd;
    enum state state;
    int step;
    uint32_t kept; /* bytes of an incomplete frame */
    uint8_t *keep;
    long markers;
};
struct step { int is_send; const char *text; };
struct reply { const char *when, *answer; };

static struct step steps[MAX_STEPS];
static struct reply replies[MAX_REPLIES];
static int step_count, reply_count, port, wanted, in_flight_limit = 64, deadline_seconds = 120;
static const char *marker = "";
static size_t marker_length;
static char headers[MAX_HEADERS];
static char **paths;
static int path_count;

static struct connection *connections;
static uint8_t in[IN_BYTES];
static int loop, started, ready, complete;
static long target, frames, bytes, markers, pings;
static double began, armed;
static int is_armed;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    fflush(stdout);
}

static _Noreturn void fail(const char *what, const char *detail, size_t length) {
    char clean[201];
    size_t size = length < sizeof clean - 1 ? length : sizeof clean - 1;
    for (size_t i = 0; i < size; i++) clean[i] = detail[i] < 32 ? ' ' : detail[i];
    clean[size] = 0;
    say("failed %s: %s", what, clean);
    exit(1);
}

static _Noreturn void fail_errno(const char *what) {
    const char *text = strerror(errno);
    fail(what, text, strlen(text));
}

static void send_all(struct connection *c, const void *data, size_t length) {
    /* What a client says here is a few hundred bytes: a fresh socket takes them at once. */
    if (send(c->fd, data, length, MSG_NOSIGNAL) != (ssize_t)length) fail_errno("send");
}

static void send_frame(struct connection *c, int opcode, const uint8_t *payload, size_t length) {
    static uint8_t out[65536 + 16];
    static const uint8_t mask[4] = {0x12, 0x34, 0x56, 0x78};
    size_t head = 2;
    if (length > 65535) fail("frame", "too long to send", 16);
    out[0] = (uint8_t)(0x80 | opcode);
    if (length < 126) {
        out[1] = (uint8_t)(0x80 | length);
    } else {
        out[1] = 0x80 | 126, out[2] = (uint8_t)(length >> 8), out[3] = (uint8_t)length;
        head = 4;
    }
    memcpy(out + head, mask, 4);
    head += 4;
    for (size_t i = 0; i < length; i++) out[head + i] = payload[i] ^ mask[i & 3];
    send_all(c, out, head + length);
}

static void start_connection(void) {
    int index = started++;
    struct connection *c = &connections[index];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in from = {.sin_family = AF_INET};
    int one = 1;
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) fail_errno("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (index >= PER_ADDRESS) { /* one address has only so many ports */
        from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(index / PER_ADDRESS));
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(c->fd, (struct sockaddr *)&from, sizeof from)) fail_errno("bind");
    }
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS) fail_errno("connect");
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(loop, EPOLL_CTL_ADD, c->fd, &event)) fail_errno("epoll_ctl");
}

static void upgrade(struct connection *c) {
    char request[MAX_HEADERS + 4096];
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) errno = error, fail_errno("connect");
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: " KEY "\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                          paths[(c - connections) % path_count], port, headers);
    if (length >= (int)sizeof request) fail("request", "too long", 8);
    send_all(c, request, (size_t)length);
    c->state = UPGRADING;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(loop, EPOLL_CTL_MOD, c->fd, &event)) fail_errno("epoll_ctl");
}

static void play(struct connection *c) {
    while (c->step < step_count && steps[c->step].is_send) {
        const char *text = steps[c->step++].text;
        send_frame(c, 1, (const uint8_t *)text, strlen(text));
    }
    if (c->step < step_count) return;
    c->state = READY;
    if (++ready < wanted) return;
    say("ready {\"connections\":%d,\"seconds\":%.6f}", wanted, now() - began);
}

/* Length of the head of the answer, or 0 while it is incomplete. */
static size_t accept_upgrade(struct connection *c, const uint8_t *data, size_t length) {
    const uint8_t *end = memmem(data, length, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t head = (size_t)(end - data) + 4;
    if (length < 12 || memcmp(data, "HTTP/1.1 101", 12) || !memmem(data, head, ACCEPT, sizeof ACCEPT - 1))
        fail("handshake refused", (const char *)data, length);
    c->state = PLAYING;
    play(c);
    return head;
}

static void count_markers(struct connection *c, const uint8_t *payload, size_t length) {
    const uint8_t *at = payload, *end = payload + length;
    long found = 0;
    while ((at = memmem(at, (size_t)(end - at), marker, marker_length))) found++, at += marker_length;
    if (!found) return;
    frames++, bytes += (long)length, markers += found;
    int was_complete = c->markers >= target;
    c->markers += found;
    if (c->markers > target) fail("more than expected", (const char *)payload, length);
    if (!was_complete && c->markers == target) complete++;
}

static int answered(struct connection *c, const uint8_t *payload, size_t length) {
    for (int i = 0; i < reply_count; i++) {
        if (length != strlen(replies[i].when) || memcmp(payload, replies[i].when, length)) continue;
        pings++;
        send_frame(c, 1, (const uint8_t *)replies[i].answer, strlen(replies[i].answer));
        return 1;
    }
    return 0;
}

static void take_message(struct connection *c, const uint8_t *payload, size_t length) {
    if (answered(c, payload, length)) return;
    if (c->state == READY) {
        count_markers(c, payload, length);
        return;
    }
    const char *awaited = steps[c->step].text;
    if (memmem(payload, length, "\"type\":\"error\"", 14)) fail("refused", (const char *)payload, length);
    if (!memmem(payload, length, awaited, strlen(awaited))) return;
    c->step++;
    play(c);
}

static void take_frame(struct connection *c, int opcode, const uint8_t *payload, size_t length) {
    switch (opcode) {
    case 0: case 1: case 2: take_message(c, payload, length); return;
    case 8: fail("closed by the server", (const char *)payload + (length > 1 ? 2 : 0), length > 1 ? length - 2 : 0);
    case 9: pings++; send_frame(c, 10, payload, length); return;
    case 10: return;
    default: fail("frame", "unknown opcode", 14);
    }
}

/* Bytes used up; what is left is the beginning of a frame. */
static size_t take_frames(struct connection *c, const uint8_t *data, size_t length) {
    size_t used = 0;
    while (length - used >= 2) {
        const uint8_t *frame = data + used;
        size_t left = length - used, head = 2;
        uint64_t size = frame[1] & 127;
        if (frame[1] & 128) fail("frame", "a server must not mask", 22);
        if (size == 126) {
            if (left < (head = 4)) break;
            size = (uint64_t)frame[2] << 8 | frame[3];
        } else if (size == 127) {
            if (left < (head = 10)) break;
            for (int i = size = 0; i < 8; i++) size = size << 8 | frame[2 + i];
        }
        if (size > IN_BYTES / 2) fail("frame", "too long", 8);
        if (left < head + size) break;
        take_frame(c, frame[0] & 15, frame + head, (size_t)size);
        used += head + (size_t)size;
    }
    return used;
}

static void receive(struct connection *c) {
    size_t length = c->kept, used = 0;
    if (c->kept) memcpy(in, c->keep, c->kept);
    ssize_t got = recv(c->fd, in + length, IN_BYTES - length, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got < 0) fail_errno("recv");
    if (got == 0) fail("closed", c->state == READY ? "while it was ready" : "before it was ready", 18);
    free(c->keep);
    c->keep = NULL, c->kept = 0;
    length += (size_t)got;
    if (c->state == UPGRADING) used = accept_upgrade(c, in, length);
    if (c->state != UPGRADING) used += take_frames(c, in + used, length - used);
    if (used == length) return;
    c->kept = (uint32_t)(length - used);
    c->keep = malloc(c->kept);
    if (!c->keep) fail_errno("malloc");
    memcpy(c->keep, in + used, c->kept);
}

static void obey(const char *line) {
    long count;
    if (sscanf(line, "expect %ld", &count) == 1) {
        target += count, complete = 0, frames = bytes = markers = 0;
        armed = now(), is_armed = 1;
        say("armed");
    } else if (!strcmp(line, "counters")) {
        say("counters {\"pings\":%ld,\"messages\":%ld,\"frames\":%ld,\"bytes\":%ld}", pings, markers, frames, bytes);
    } else {
        fail("command", line, strlen(line));
    }
}

static void read_commands(void) {
    static char line[256];
    static size_t length;
    ssize_t got = read(0, line + length, sizeof line - 1 - length);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) exit(0);
    length += (size_t)got;
    char *end;
    while ((end = memchr(line, '\n', length))) {
        *end = 0;
        obey(line);
        length -= (size_t)(end + 1 - line);
        memmove(line, end + 1, length);
    }
}

static void check_deadline(void) {
    char text[64];
    if (ready == wanted || now() - began < deadline_seconds) return;
    int length = snprintf(text, sizeof text, "%d of %d were ready after %d s", ready, wanted, deadline_seconds);
    fail("timeout", text, (size_t)length);
}

static void run(void) {
    struct epoll_event events[EVENTS], commands = {.events = EPOLLIN, .data.ptr = NULL};
    loop = epoll_create1(EPOLL_CLOEXEC);
    if (loop < 0 || epoll_ctl(loop, EPOLL_CTL_ADD, 0, &commands)) fail_errno("epoll");
    began = now();
    for (;;) {
        while (started < wanted && started - ready < in_flight_limit) start_connection();
        int count = epoll_wait(loop, events, EVENTS, 200);
        if (count < 0 && errno != EINTR) fail_errno("epoll_wait");
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) read_commands();
            else if (c->state == CONNECTING) upgrade(c);
            else receive(c);
        }
        check_deadline();
        if (!is_armed || complete < wanted) continue;
        is_armed = 0;
        say("done {\"messages\":%ld,\"frames\":%ld,\"bytes\":%ld,\"seconds\":%.6f}", markers, frames, bytes, now() - armed);
    }
}

static void read_paths(const char *file) {
    char *line = NULL;
    size_t size = 0;
    ssize_t length;
    FILE *source = fopen(file, "r");
    if (!source) fail_errno("paths");
    paths = malloc(sizeof *paths * (size_t)wanted);
    while (path_count < wanted && (length = getline(&line, &size, source)) > 0) {
        line[strcspn(line, "\n")] = 0;
        paths[path_count++] = strdup(line);
    }
    if (!path_count) fail("paths", "none", 4);
}

static void add_header(const char *header) {
    if (strlen(headers) + strlen(header) + 3 > sizeof headers) fail("headers", "too long", 8);
    strcat(strcat(headers, header), "\r\n");
}

static void option(const char *name, char *value) {
    int is_send = !strcmp(name, "--send");
    char *equals;
    if (!strcmp(name, "--port")) port = atoi(value);
    else if (!strcmp(name, "--connections")) wanted = atoi(value);
    else if (!strcmp(name, "--paths")) read_paths(value); /* after --connections */
    else if (!strcmp(name, "--header")) add_header(value);
    else if (!strcmp(name, "--marker")) marker = value, marker_length = strlen(value);
    else if (!strcmp(name, "--deadline")) deadline_seconds = atoi(value);
    else if (!strcmp(name, "--in-flight")) in_flight_limit = atoi(value);
    else if (!strcmp(name, "--reply") && reply_count < MAX_REPLIES && (equals = strchr(value, '='))) {
        *equals = 0;
        replies[reply_count++] = (struct reply){value, equals + 1};
    } else if ((is_send || !strcmp(name, "--await")) && step_count < MAX_STEPS)
        steps[step_count++] = (struct step){is_send, value};
    else fail("option", name, strlen(name));
}

int main(int count, char **arguments) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    for (int i = 1; i + 1 < count; i += 2) option(arguments[i], arguments[i + 1]);
    if (!port || wanted < 1 || !path_count || !marker_length) fail("options", "port, connections, paths, marker", 32);
    connections = calloc((size_t)wanted, sizeof *connections);
    if (!connections) fail_errno("calloc");
    run();
}
