/* The floor: a WebSocket server (RFC 6455) that does nothing but send() a prepared text frame to every connection.
 *
 * Usage: c_server PING_SECONDS FRAME_BYTES COALESCE. Says "ready <port>"; each line "<n>" on stdin sends n messages to
 * everybody, one send() per frame, or with COALESCE 1 one send() per connection for all n. End of stdin ends it. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { EVENTS = 512, MAX_FILES = 65536, REQUEST_BYTES = 4096, MAX_TURN = 16, MAX_FRAME = 1024 };

struct request { size_t length; char text[REQUEST_BYTES]; }; /* only while the handshake is incomplete */

static struct request *requests[MAX_FILES];
static int sockets[MAX_FILES], place[MAX_FILES], open_count; /* upgraded ones, and where each stands in the list */
static uint8_t frame[MAX_TURN * MAX_FRAME];
static size_t frame_length;
static int loop, listener, timer, coalesce;

static void die(const char *what) { perror(what); exit(1); }

static uint32_t rotate(uint32_t x, int n) { return x << n | x >> (32 - n); }

static void sha1_block(uint32_t state[5], const uint8_t *block) {
    uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 ? b ^ c ^ d : i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
        uint32_t k = i < 20 ? 0x5A827999 : i < 40 ? 0x6ED9EBA1 : i < 60 ? 0x8F1BBCDC : 0xCA62C1D6;
        uint32_t next = rotate(a, 5) + f + e + k + w[i];
        e = d, d = c, c = rotate(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

/* SHA-1 (RFC 3174) of at most 119 bytes: key and GUID are 60. */
static void sha1(const char *text, size_t length, uint8_t digest[20]) {
    uint32_t state[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    uint8_t blocks[128] = {0};
    size_t size = length < 56 ? 64 : 128;
    memcpy(blocks, text, length);
    blocks[length] = 0x80;
    blocks[size - 2] = (uint8_t)(length * 8 >> 8), blocks[size - 1] = (uint8_t)(length * 8);
    for (size_t at = 0; at < size; at += 64) sha1_block(state, blocks + at);
    for (int i = 0; i < 20; i++) digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
}

static void base64(const uint8_t digest[20], char out[29]) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0, o = 0; i < 20; i += 3, o += 4) {
        uint32_t three = (uint32_t)digest[i] << 16 | (uint32_t)digest[i + 1] << 8 | (i + 2 < 20 ? digest[i + 2] : 0);
        for (int j = 0; j < 4; j++) out[o + j] = letters[three >> (18 - 6 * j) & 63];
    }
    out[27] = '=', out[28] = 0; /* 20 bytes always end with one pad */
}

static void upgrade(int fd, const char *request) {
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    char joined[128], token[29], answer[256];
    uint8_t digest[20];
    const char *key = strcasestr(request, "Sec-WebSocket-Key: ");
    if (!key) die("no key");
    int length = snprintf(joined, sizeof joined, "%.24s%s", key + 19, guid);
    sha1(joined, (size_t)length, digest);
    base64(digest, token);
    length = snprintf(answer, sizeof answer,
                      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                      token);
    if (send(fd, answer, (size_t)length, MSG_NOSIGNAL) != length) die("answer");
    place[fd] = open_count;
    sockets[open_count++] = fd;
}

static void forget(int fd) {
    if (requests[fd]) {
        free(requests[fd]);
        requests[fd] = NULL;
    } else {
        int last = sockets[--open_count];
        sockets[place[fd]] = last, place[last] = place[fd];
    }
    close(fd);
}

static void accept_all(void) {
    int one = 1, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= MAX_FILES) die("too many files");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        requests[fd] = calloc(1, sizeof **requests);
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    }
}

static void receive(int fd) {
    static char ignored[4096]; /* pongs: this server has nothing to learn from its clients */
    struct request *r = requests[fd];
    char *into = r ? r->text + r->length : ignored;
    ssize_t got = recv(fd, into, r ? REQUEST_BYTES - 1 - r->length : sizeof ignored, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { forget(fd); return; }
    if (!r) return;
    r->length += (size_t)got;
    if (!strstr(r->text, "\r\n\r\n")) return;
    requests[fd] = NULL;
    upgrade(fd, r->text);
    free(r);
}

static void send_everybody(const void *data, size_t length) {
    for (int i = 0; i < open_count; i++)
        if (send(sockets[i], data, length, MSG_NOSIGNAL) != (ssize_t)length) die("send");
}

static void obey(void) {
    char line[16] = {0};
    if (read(0, line, sizeof line - 1) <= 0) exit(0);
    int count = atoi(line);
    if (count < 1 || count > MAX_TURN) die("count");
    if (coalesce) send_everybody(frame, frame_length * (size_t)count);
    else for (int i = 0; i < count; i++) send_everybody(frame, frame_length);
}

static void ping(void) {
    uint64_t expirations;
    if (read(timer, &expirations, sizeof expirations) > 0) send_everybody("\x89\x00", 2);
}

static void prepare(size_t length, int ping_seconds) {
    static const char start[] = "{\"type\":\"chat_message\",\"roomId\":\"bench\",\"text\":\"";
    struct itimerspec every = {{ping_seconds, 0}, {ping_seconds, 0}};
    size_t head = length < 126 ? 2 : 4;
    if (length < 64 || length > MAX_FRAME - 4) die("length");
    frame[0] = 0x81;
    if (head == 2) frame[1] = (uint8_t)length;
    else frame[1] = 126, frame[2] = (uint8_t)(length >> 8), frame[3] = (uint8_t)length;
    memset(frame + head, 'x', length);
    memcpy(frame + head, start, sizeof start - 1);
    memcpy(frame + head + length - 2, "\"}", 2);
    frame_length = head + length;
    for (int i = 1; i < MAX_TURN; i++) memcpy(frame + frame_length * (size_t)i, frame, frame_length);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (timer < 0 || timerfd_settime(timer, 0, &every, NULL)) die("timer");
}

static int listen_anywhere(void) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) die("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    return ntohs(address.sin_port);
}

int main(int count, char **arguments) {
    struct epoll_event events[EVENTS];
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (count != 4) return 2;
    coalesce = atoi(arguments[3]);
    prepare((size_t)atoi(arguments[2]), atoi(arguments[1]));
    int port = listen_anywhere();
    loop = epoll_create1(EPOLL_CLOEXEC);
    int watched[] = {0, listener, timer};
    for (int i = 0; i < 3; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = watched[i]};
        if (epoll_ctl(loop, EPOLL_CTL_ADD, watched[i], &event)) die("epoll_ctl");
    }
    printf("ready %d\n", port);
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(loop, events, EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) accept_all();
            else if (fd == timer) ping();
            else if (fd == 0) obey();
            else receive(fd);
        }
    }
}
