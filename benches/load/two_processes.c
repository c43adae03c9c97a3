/* A floor for echoes of large bodies through a gateway with a worker process: two processes, shared
 * memory, a ring and a bell each way. One receives a request into shared memory, the other copies its body into the
 * place of the answer, and the first sends that behind a head. Nothing is checked but where a request ends, nothing is
 * allocated, and no route is looked for. A request has a place from its first byte to the last of its answer, the one
 * that was used last, so what is written was most likely in the cache. With `in-place` the body is not even copied:
 * it is sent from where it was received. With `alone` there is no worker either, and what is left is to receive and
 * to send. It is something to compare with; that nothing could take less, it does not show.
 *
 *     cc -O2 -o /tmp/two_processes benches/load/two_processes.c && /tmp/two_processes 3298 [copied|in-place|alone]
 *
 * Serves 127.0.0.1 only, prints where, at most CONNECTIONS at a time and ROOM bytes of request. Who sends a request
 * before the last one is answered is cut off, and nobody is told to continue. The worker ends with the process that
 * started it. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CONNECTIONS = 256, ROOM = 128 * 1024, ENTRIES = 1024, EVENTS = 64, DESCRIPTORS = 65536 };

/* One way between the processes. Each connection has at most one entry under way, so a ring cannot overflow. */
struct ring {
    _Alignas(64) atomic_uint tail;
    _Alignas(64) atomic_uint head;
    _Alignas(64) atomic_int sleeps; /* whether who reads it waits for the bell */
    struct entry { int connection, place; unsigned start, length; } entries[ENTRIES];
};

enum state { FREE, RECEIVING, WAITING, SENDING };
struct connection {
    enum state state;
    bool stirred; /* something came meanwhile */
    int fd;
    int place; /* of its request and its answer; none is -1 */
    size_t received, body, whole, sent;
    int head_length;
    unsigned length;
    char head[128];
};

static struct { struct ring requests, answers; } *rings;
static char *requests, *answers;
static int worker_bell, hub_bell;
static bool in_place, alone;
static struct connection connections[CONNECTIONS];
static int of_descriptor[DESCRIPTORS]; /* its connection, counted from 1 */
static int places[CONNECTIONS], free_places;

static void fail(const char *what) { perror(what); exit(1); }

static void *shared(size_t length) {
    void *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (at == MAP_FAILED) fail("mmap");
    return at;
}

static void push(struct ring *ring, struct entry entry) {
    unsigned tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    ring->entries[tail % ENTRIES] = entry;
    atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
}

static bool pop(struct ring *ring, struct entry *entry) {
    unsigned head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    if (head == atomic_load_explicit(&ring->tail, memory_order_acquire)) return false;
    *entry = ring->entries[head % ENTRIES];
    atomic_store_explicit(&ring->head, head + 1, memory_order_release);
    return true;
}

/* Rings for a reader that sleeps, once for all that was pushed. */
static void call(struct ring *ring, int bell) {
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_exchange(&ring->sleeps, 0) && eventfd_write(bell, 1)) fail("eventfd_write");
}

/* Whether the reader may sleep: nothing came before the writer could know that it does. */
static bool may_sleep(struct ring *ring) {
    atomic_store(&ring->sleeps, 1);
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load(&ring->head) == atomic_load(&ring->tail)) return true;
    atomic_store(&ring->sleeps, 0);
    return false;
}

static void work(void) {
    struct entry entry;
    eventfd_t rung;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        bool worked = false;
        while (pop(&rings->requests, &entry)) {
            size_t place = (size_t)entry.place * ROOM;
            if (!in_place) memcpy(answers + place, requests + place + entry.start, entry.length);
            push(&rings->answers, entry);
            worked = true;
        }
        if (worked) call(&rings->answers, hub_bell);
        else if (may_sleep(&rings->requests) && eventfd_read(worker_bell, &rung)) fail("eventfd_read");
    }
}

static void give_back(struct connection *it) {
    if (it->place >= 0) places[free_places++] = it->place;
    it->place = -1;
}

static void leave(struct connection *it) {
    give_back(it);
    of_descriptor[it->fd] = 0;
    close(it->fd);
    it->state = FREE;
}

static void send_rest(struct connection *it) {
    size_t place = (size_t)it->place * ROOM;
    char *body = in_place ? requests + place + it->body : answers + place;
    size_t whole = it->head_length + it->length;
    while (it->sent < whole) {
        size_t of_head = it->sent < (size_t)it->head_length ? it->head_length - it->sent : 0;
        size_t of_body = it->sent - (it->head_length - of_head);
        struct iovec parts[2] = {{it->head + it->sent, of_head}, {body + of_body, it->length - of_body}};
        struct msghdr message = {.msg_iov = parts + !of_head, .msg_iovlen = 2 - !of_head};
        ssize_t count = sendmsg(it->fd, &message, MSG_NOSIGNAL);
        if (count < 0 && errno == EAGAIN) return;
        if (count < 0) return leave(it);
        it->sent += count;
    }
    it->state = RECEIVING;
    it->received = it->whole = it->sent = 0;
    give_back(it);
}

/* Takes up to a whole request. Returns whether it is there. */
static bool receive(struct connection *it) {
    if (it->place < 0) it->place = places[--free_places];
    char *place = requests + (size_t)it->place * ROOM;
    it->stirred = false;
    while (it->whole == 0 || it->received < it->whole) {
        ssize_t count = recv(it->fd, place + it->received, ROOM - it->received, 0);
        if (count < 0 && errno == EAGAIN) {
            if (it->received == 0) give_back(it);
            return false;
        }
        if (count <= 0) return leave(it), false;
        it->received += count;
        char *end = it->whole ? NULL : memmem(place, it->received, "\r\n\r\n", 4);
        if (!end) continue;
        it->whole = it->body = end + 4 - place;
        for (char *at = place; at < end; at++)
            if (strncasecmp(at, "\ncontent-length:", 16) == 0) it->whole += strtoul(at + 16, NULL, 10);
    }
    if (it->received > it->whole) return leave(it), false;
    it->state = WAITING;
    return true;
}

static void answer(const struct entry *entry) {
    struct connection *it = &connections[entry->connection];
    it->length = entry->length;
    it->head_length = snprintf(it->head, sizeof it->head,
        "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %u\r\n\r\n", entry->length);
    it->state = SENDING;
    send_rest(it);
}

/* Receives, and hands what is complete to the worker, or answers it without one. Returns whether the worker is asked.
 * What comes behind a request that was received whole, but for an end, is told by an event of its own. */
static bool serve(struct connection *it) {
    if (it->state != RECEIVING || !receive(it)) return false;
    struct entry entry = {it - connections, it->place, it->body, it->whole - it->body};
    if (alone) return answer(&entry), false;
    push(&rings->requests, entry);
    return true;
}

static void watch(int epoll, int fd, unsigned events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
}

static void accept_one(int epoll, int listener) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), on = 1, index = 0;
    if (fd < 0) return;
    while (index < CONNECTIONS && connections[index].state != FREE) index++;
    if (index == CONNECTIONS || fd >= DESCRIPTORS) { close(fd); return; }
    connections[index] = (struct connection){.state = RECEIVING, .fd = fd, .place = -1};
    of_descriptor[fd] = index + 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    watch(epoll, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
}

int main(int count, char **arguments) {
    const char *way = count == 3 ? arguments[2] : "copied";
    alone = strcmp(way, "alone") == 0;
    in_place = alone || strcmp(way, "in-place") == 0;
    if (count < 2 || count > 3 || (!in_place && strcmp(way, "copied") != 0)) {
        fprintf(stderr, "usage: %s PORT [copied|in-place|alone]\n", arguments[0]);
        return 2;
    }
    for (int place = CONNECTIONS; place-- > 0;) places[free_places++] = place;
    rings = shared(sizeof *rings);
    requests = shared((size_t)CONNECTIONS * ROOM);
    answers = shared((size_t)CONNECTIONS * ROOM);
    worker_bell = eventfd(0, EFD_CLOEXEC);
    hub_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 512)) fail(arguments[1]);
    socklen_t length = sizeof address;
    getsockname(listener, (struct sockaddr *)&address, &length);
    printf("127.0.0.1:%u\n", ntohs(address.sin_port));
    fflush(stdout);
    pid_t worker = alone ? 1 : fork();
    if (worker < 0) fail("fork");
    if (worker == 0) work();
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, listener, EPOLLIN);
    watch(epoll, hub_bell, EPOLLIN | EPOLLET);
    for (;;) {
        struct epoll_event events[EVENTS];
        struct entry entry;
        bool answered = false, asked = false;
        while (pop(&rings->answers, &entry)) {
            answer(&entry);
            answered = true;
            struct connection *it = &connections[entry.connection];
            if (it->stirred) asked |= serve(it);
        }
        if (asked) call(&rings->requests, worker_bell);
        bool sleeps = !answered && may_sleep(&rings->answers);
        int ready = epoll_wait(epoll, events, EVENTS, sleeps ? -1 : 0);
        if (sleeps) atomic_store(&rings->answers.sleeps, 0);
        asked = false;
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) accept_one(epoll, listener);
            if (fd == listener || fd == hub_bell || of_descriptor[fd] == 0) continue;
            struct connection *it = &connections[of_descriptor[fd] - 1];
            it->stirred = true;
            if (it->state == SENDING) send_rest(it);
            asked |= serve(it);
            /* An end that came with a request has no event of its own. */
            if (it->state != FREE && events[i].events & EPOLLRDHUP) {
                it->stirred = true;
                asked |= serve(it);
            }
        }
        if (asked) call(&rings->requests, worker_bell);
    }
}
