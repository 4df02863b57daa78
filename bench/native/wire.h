/* What the stub and the load generator share: time, sockets, a growing buffer, the chunked coding. */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000LL
#define NS_PER_MS 1000000LL
#define NS_PER_US 1000LL

static inline void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "bad argument");
    exit(2);
}

/* One clock for both programs, so that an event's send time can be compared with its arrival. */
static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static inline struct timespec wait_until(int64_t due_ns) {
    int64_t left = due_ns - now_ns();
    if (left < 0)
        left = 0;
    return (struct timespec){.tv_sec = left / NS_PER_S, .tv_nsec = left % NS_PER_S};
}

static inline int tcp_socket(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    return fd;
}

static inline void no_delay(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static inline void watch(int epoll_fd, int fd, uint32_t events, void *owner, bool known) {
    struct epoll_event interest = {.events = events, .data.ptr = owner};
    if (epoll_ctl(epoll_fd, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &interest) < 0)
        die("epoll_ctl");
}

/* Bytes that grow at the end. */
struct buffer {
    char *bytes;
    size_t used, room;
};

static inline void reserve(struct buffer *b, size_t more) {
    if (b->room - b->used >= more)
        return;
    size_t room = b->room ? b->room : 1024;
    while (room - b->used < more)
        room *= 2;
    b->bytes = realloc(b->bytes, room);
    if (!b->bytes)
        die("realloc");
    b->room = room;
}

static inline void append(struct buffer *b, const char *bytes, size_t count) {
    reserve(b, count);
    memcpy(b->bytes + b->used, bytes, count);
    b->used += count;
}

static inline void drop_front(struct buffer *b, size_t count) {
    memmove(b->bytes, b->bytes + count, b->used - count);
    b->used -= count;
}

static inline void discard(struct buffer *b) {
    free(b->bytes);
    *b = (struct buffer){0};
}

/* The value of a header in a head that ends with its blank line, or NULL; `name` is ": "-less. */
static inline const char *header(const char *head, size_t head_bytes, const char *name) {
    size_t name_bytes = strlen(name);
    const char *end = head + head_bytes;
    for (const char *line = memchr(head, '\n', head_bytes); line && line + 1 < end;
         line = memchr(line, '\n', end - line)) {
        line++;
        if ((size_t)(end - line) > name_bytes && !strncasecmp(line, name, name_bytes) && line[name_bytes] == ':') {
            const char *value = line + name_bytes + 1;
            while (*value == ' ')
                value++;
            return value;
        }
    }
    return NULL;
}

static inline bool header_is(const char *value, const char *word) {
    return value && !strncasecmp(value, word, strlen(word));
}

/* How far a chunked body has been read. */
struct chunks {
    enum { CHUNK_SIZE, CHUNK_DATA, CHUNK_DATA_CR, CHUNK_DATA_LF, CHUNK_TRAILER, CHUNKS_DONE, CHUNKS_BAD } at;
    size_t left;      /* of the chunk's data; while at CHUNK_SIZE: its size so far */
    bool size_over;   /* an extension follows the size */
    bool line_filled; /* the trailer line under way is not empty */
};

static inline int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static inline void chunk_size_char(struct chunks *c, char byte) {
    int digit = hex_digit(byte);
    if (byte == '\n') {
        c->at = c->left ? CHUNK_DATA : CHUNK_TRAILER;
        c->size_over = c->line_filled = false;
    } else if (byte == ';' || byte == '\r' || byte == ' ') {
        c->size_over = true;
    } else if (!c->size_over && digit >= 0) {
        c->left = c->left * 16 + digit;
    } else if (!c->size_over) {
        c->at = CHUNKS_BAD;
    }
}

static inline void chunk_trailer_char(struct chunks *c, char byte) {
    if (byte == '\n') {
        if (!c->line_filled)
            c->at = CHUNKS_DONE;
        c->line_filled = false;
    } else if (byte != '\r') {
        c->line_filled = true;
    }
}

/* Appends the payload within `bytes` to `out`; returns how many bytes were read: all, or up to the body's end. */
static inline size_t dechunk(struct chunks *c, const char *bytes, size_t count, struct buffer *out) {
    size_t i = 0;
    while (i < count && c->at != CHUNKS_DONE && c->at != CHUNKS_BAD) {
        if (c->at == CHUNK_DATA) {
            size_t run = count - i < c->left ? count - i : c->left;
            append(out, bytes + i, run);
            i += run;
            if (!(c->left -= run))
                c->at = CHUNK_DATA_CR;
            continue;
        }
        char byte = bytes[i++];
        if (c->at == CHUNK_SIZE)
            chunk_size_char(c, byte);
        else if (c->at == CHUNK_TRAILER)
            chunk_trailer_char(c, byte);
        else if (c->at == CHUNK_DATA_CR)
            c->at = byte == '\r' ? CHUNK_DATA_LF : CHUNKS_BAD;
        else
            c->at = byte == '\n' ? CHUNK_SIZE : CHUNKS_BAD;
    }
    return i;
}

#endif
