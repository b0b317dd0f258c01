/* The floor: what a fan-out costs when a program does nothing else.
 *
 * Holds any number of TCP connections in one epoll loop. stdin carries frames, a 4-byte little-endian length
 * and so many bytes. The first frame is the answer to every request (anything that ends in an empty line); each
 * later one is sent to every connection with one send(). On start it prints its port. Ends with stdin.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_CONNECTIONS 65536
#define MAX_FRAME 65536
#define BATCH 256

static char greeting[MAX_FRAME], frame[MAX_FRAME];
static uint32_t greeting_bytes;
static int connections[MAX_CONNECTIONS];
static char asked[MAX_CONNECTIONS]; /* by descriptor: the request is complete */
static int count;

static void die(const char *what) {
  perror(what);
  exit(1);
}

static int read_all(void *to, size_t bytes) {
  for (size_t got = 0; got < bytes;) {
    ssize_t n = read(0, (char *)to + got, bytes - got);
    if (n <= 0) return 0;
    got += (size_t)n;
  }
  return 1;
}

static uint32_t read_frame(char *to) {
  uint32_t bytes;
  if (!read_all(&bytes, sizeof bytes) || bytes > MAX_FRAME || !read_all(to, bytes)) exit(0);
  return bytes;
}

/* A short send would count as an event that was not delivered, so it is an error and not hidden. */
static void send_all(int fd, const char *data, uint32_t bytes) {
  if (send(fd, data, bytes, MSG_NOSIGNAL) != (ssize_t)bytes && errno != EPIPE && errno != ECONNRESET)
    die("send");
}

static void watch(int epoll, int fd) {
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
}

static void accept_all(int epoll, int listener) {
  int fd;
  while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
    if (fd >= MAX_CONNECTIONS || count == MAX_CONNECTIONS) die("too many connections");
    asked[fd] = 0;
    connections[count++] = fd;
    watch(epoll, fd);
  }
}

static void drop(int fd) {
  for (int i = 0; i < count; i++)
    if (connections[i] == fd) connections[i--] = connections[--count];
  close(fd);
}

static void serve(int fd) {
  char request[8192];
  ssize_t n = recv(fd, request, sizeof request, 0);
  if (n <= 0) {
    drop(fd);
  } else if (!asked[fd] && n >= 4 && !memcmp(request + n - 4, "\r\n\r\n", 4)) {
    asked[fd] = 1;
    send_all(fd, greeting, greeting_bytes);
  }
}

static int listen_on_loopback(void) {
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  if (bind(listener, (struct sockaddr *)&address, length) || listen(listener, 2048)) die("listen");
  getsockname(listener, (struct sockaddr *)&address, &length);
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  return listener;
}

int main(void) {
  int epoll = epoll_create1(0), listener = listen_on_loopback();
  greeting_bytes = read_frame(greeting);
  watch(epoll, listener);
  watch(epoll, 0);
  for (;;) {
    struct epoll_event ready[BATCH];
    int n = epoll_wait(epoll, ready, BATCH, -1);
    for (int i = 0; i < n; i++) {
      int fd = ready[i].data.fd;
      if (fd == listener) {
        accept_all(epoll, listener);
      } else if (fd == 0) {
        uint32_t bytes = read_frame(frame);
        for (int j = 0; j < count; j++) send_all(connections[j], frame, bytes);
      } else {
        serve(fd);
      }
    }
  }
}
