/* Connections that come and go, on bare epoll: plain_connections HOST PORT NUM_CONNS K SECONDS [SOURCE...]
 *
 * Keeps NUM_CONNS open. Each sends a message and waits for as many bytes, K times, then sends its FIN, waits for the
 * other one, closes, and the next is opened in its place. Nothing is checked but lengths. The sources are local
 * addresses to connect from, in turn. When the time is over no more are opened, and those that are open finish.
 *
 * A connection is registered once, edge-triggered, and no socket is tried without an event. Its calls are socket,
 * setsockopt, connect, epoll_ctl, K times send and recv, shutdown, recv and close; with a source another setsockopt and
 * bind. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 64, EVENTS = 512, PATIENCE_MS = 10000 };

typedef struct {
    int fd;
    unsigned received; /* bytes of the message that is coming back */
    unsigned left;     /* messages that are not yet back */
    int connecting;
} place_t;

static int epoll;
static struct sockaddr_in server;
static struct sockaddr_in *sources;
static unsigned source_count, next_source, messages;
static char message[SIZE];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void set(int fd, int level, int option) {
    const int on = 1;
    if (setsockopt(fd, level, option, &on, sizeof on) < 0) fail("setsockopt");
}

static void begin(place_t *place) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("socket");
    set(fd, IPPROTO_TCP, TCP_NODELAY);
    if (source_count > 0) {
        /* The port is chosen by connect: one that is in use towards another server is free towards this one. */
        set(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT);
        if (bind(fd, (struct sockaddr *)&sources[next_source], sizeof *sources) < 0) fail("bind");
        if (++next_source == source_count) next_source = 0;
    }
    if (connect(fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS) fail("connect");
    *place = (place_t){.fd = fd, .left = messages, .connecting = 1};
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = place};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) fail("epoll_ctl");
}

static void say(place_t *place) {
    if (send(place->fd, message, SIZE, MSG_NOSIGNAL) != SIZE) fail("send");
}

/* Does what an event allows. Whether the connection is over. */
static int advance(place_t *place, unsigned events) {
    char bytes[SIZE];
    if (place->connecting) {
        if (!(events & EPOLLOUT)) return 0;
        place->connecting = 0;
        say(place); /* If the connect has failed, this fails with its error. */
        return 0;
    }
    if (!(events & EPOLLIN)) return 0;
    if (place->left == 0) {
        ssize_t count = recv(place->fd, bytes, SIZE, 0);
        if (count < 0) fail("recv, for the FIN");
        if (count > 0) {
            fprintf(stderr, "more came back than was sent\n");
            exit(1);
        }
        if (close(place->fd) < 0) fail("close");
        return 1;
    }
    /* A part of a message may have come together with the server's FIN, for which there is no event of its own. */
    while (place->received < SIZE) {
        ssize_t count = recv(place->fd, bytes, SIZE - place->received, 0);
        if (count < 0 && errno == EAGAIN) return 0;
        if (count < 0) fail("recv");
        if (count == 0) {
            fprintf(stderr, "the server ended a connection early\n");
            exit(1);
        }
        place->received += (unsigned)count;
    }
    place->received = 0;
    if (--place->left > 0)
        say(place);
    else if (shutdown(place->fd, SHUT_WR) < 0)
        fail("shutdown");
    return 0;
}

static int address(const char *host, unsigned port, struct sockaddr_in *to) {
    *to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    return inet_pton(AF_INET, host, &to->sin_addr) == 1;
}

int main(int argc, char **argv) {
    unsigned port, count;
    double duration;
    if (argc < 6 || sscanf(argv[2], "%u", &port) != 1 || !address(argv[1], port, &server) ||
        sscanf(argv[3], "%u", &count) != 1 || sscanf(argv[4], "%u", &messages) != 1 || messages == 0 ||
        sscanf(argv[5], "%lf", &duration) != 1) {
        fprintf(stderr, "usage: plain_connections HOST PORT NUM_CONNS K SECONDS [SOURCE...]\n");
        return 2;
    }
    source_count = (unsigned)argc - 6;
    sources = calloc(source_count + 1, sizeof *sources);
    place_t *places = calloc(count, sizeof *places);
    if (!sources || !places) fail("calloc");
    for (unsigned i = 0; i < source_count; i++)
        if (!address(argv[6 + i], 0, &sources[i])) {
            fprintf(stderr, "not an address: %s\n", argv[6 + i]);
            return 2;
        }
    epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0) fail("epoll_create1");

    const double began = now();
    unsigned long done = 0;
    unsigned open = count;
    int is_over = 0;
    for (unsigned i = 0; i < count; i++) begin(&places[i]);
    struct epoll_event events[EVENTS];
    while (open > 0) {
        int ready = epoll_wait(epoll, events, EVENTS, PATIENCE_MS);
        if (ready < 0) fail("epoll_wait");
        if (ready == 0) {
            fprintf(stderr, "nothing came back for 10 s with %u connections open\n", open);
            return 1;
        }
        for (int i = 0; i < ready; i++) {
            place_t *place = events[i].data.ptr;
            if (!advance(place, events[i].events)) continue;
            done++;
            if (is_over)
                open--;
            else
                begin(place);
        }
        is_over = is_over || now() - began >= duration;
    }
    const double seconds = now() - began;
    printf("{\"connections\":%lu,\"measured_seconds\":%f,\"connections_per_second\":%f}\n", done, seconds, (double)done / seconds);
    return 0;
}
