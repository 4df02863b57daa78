/* Two engines that do no work: a prefill and a decode port in one process, one thread, one epoll.
 *
 * POST /generate gets an answer in SGLang's form: one JSON, or, if the body says "stream": true, one
 * event a token, each in a chunk of its own, the first at once and the others one --interval-us apart
 * (each stream has its own phase). Prefill answers a stream with one event. Any other request gets
 * 200 {}. With --hold-after K a stream rests after K tokens until the process gets SIGUSR1.
 *
 * Prints {"prefill": PORT, "decode": PORT} when it listens; runs until SIGTERM.
 */
#include "wire.h"
#include <getopt.h>
#include <signal.h>
#include <sys/queue.h>

#define SCAN_BYTES 4096 /* fields other than the prompt stand near the ends of a body */
#define ID_BYTES 64
#define EVENT_BYTES 1024
#define EVENTS_A_WAIT 512

struct conn {
    int fd;
    bool is_listener, is_decode, asks_write, closing;
    struct buffer in, out, dechunked;
    size_t head_bytes;     /* 0 until the head is complete */
    size_t content_length; /* of a body that is not chunked */
    bool is_chunked;
    struct chunks chunks;
    const char *body; /* in one of the buffers, once it is complete */
    size_t body_bytes;
    /* the stream under way */
    bool is_streaming, in_line;
    int sent_tokens, all_tokens;
    int64_t due_ns;
    char id[ID_BYTES];
    TAILQ_ENTRY(conn) line;
};

TAILQ_HEAD(line, conn);

static int epoll_fd;
static int tokens = 16, hold_after;
static int64_t interval_ns = 50 * NS_PER_MS;
static uint64_t ids;
/* In order of due time: each entry was put at the end with the same interval added. */
static struct line paced = TAILQ_HEAD_INITIALIZER(paced);
static struct line held = TAILQ_HEAD_INITIALIZER(held);
static struct line closed = TAILQ_HEAD_INITIALIZER(closed);
static volatile sig_atomic_t release_asked;

static void on_release(int signal_number) {
    (void)signal_number;
    release_asked = 1;
}

static void leave_line(struct conn *c) {
    if (c->in_line)
        TAILQ_REMOVE(c->due_ns ? &paced : &held, c, line);
    c->in_line = false;
}

static void join_line(struct conn *c, int64_t due_ns) {
    c->due_ns = due_ns;
    c->in_line = true;
    TAILQ_INSERT_TAIL(due_ns ? &paced : &held, c, line);
}

/* The memory goes at the end of the loop's turn: epoll may have returned further events of this connection. */
static void close_conn(struct conn *c) {
    if (c->closing)
        return;
    leave_line(c);
    close(c->fd);
    c->closing = true;
    TAILQ_INSERT_TAIL(&closed, c, line);
}

static void free_closed(void) {
    struct conn *c;
    while ((c = TAILQ_FIRST(&closed))) {
        TAILQ_REMOVE(&closed, c, line);
        discard(&c->in);
        discard(&c->out);
        discard(&c->dechunked);
        free(c);
    }
}

static void flush(struct conn *c) {
    while (c->out.used) {
        ssize_t count = send(c->fd, c->out.bytes, c->out.used, MSG_NOSIGNAL);
        if (count < 0 && errno != EAGAIN) {
            close_conn(c);
            return;
        }
        if (count < 0)
            break;
        drop_front(&c->out, count);
    }
    bool asks_write = c->out.used > 0;
    if (asks_write != c->asks_write)
        watch(epoll_fd, c->fd, EPOLLIN | (asks_write ? EPOLLOUT : 0), c, true);
    c->asks_write = asks_write;
}

static void answer_json(struct conn *c, const char *json, int json_bytes) {
    char head[160];
    int head_bytes = snprintf(head, sizeof head,
                              "HTTP/1.1 200 OK\r\nserver: stub\r\ncontent-length: %d\r\n"
                              "content-type: application/json\r\n\r\n",
                              json_bytes);
    append(&c->out, head, head_bytes);
    append(&c->out, json, json_bytes);
}

/* `finish` is JSON: null or a reason. */
static int result_json(struct conn *c, char *to, const char *finish, int completion_tokens) {
    return snprintf(to, EVENT_BYTES,
                    "{\"text\":\" token\",\"output_ids\":[%d],\"meta_info\":{\"id\":\"%s\",\"finish_reason\":%s,"
                    "\"prompt_tokens\":12,\"weight_version\":\"default\",\"num_retractions\":0,"
                    "\"reasoning_tokens\":0,\"completion_tokens\":%d,\"cached_tokens\":0,"
                    "\"cached_tokens_details\":null,\"dp_rank\":null,\"sent_ns\":%lld}}",
                    1000 + completion_tokens, c->id, finish, completion_tokens, (long long)now_ns());
}

static void send_token(struct conn *c) {
    char json[EVENT_BYTES], size_line[16], finish[48] = "null";
    bool is_last = ++c->sent_tokens >= c->all_tokens;
    if (is_last)
        snprintf(finish, sizeof finish, "{\"type\":\"length\",\"length\":%d}", c->all_tokens);
    int json_bytes = result_json(c, json, finish, c->sent_tokens);
    int size_bytes = snprintf(size_line, sizeof size_line, "%x\r\n", json_bytes + 8); /* "data: " and 2 newlines */
    append(&c->out, size_line, size_bytes);
    append(&c->out, "data: ", 6);
    append(&c->out, json, json_bytes);
    append(&c->out, "\n\n\r\n", 4);
    if (is_last) {
        static const char end[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
        append(&c->out, end, sizeof end - 1);
        c->is_streaming = false;
    } else {
        bool rests = c->sent_tokens == hold_after;
        join_line(c, rests ? 0 : (c->due_ns ? c->due_ns : now_ns()) + interval_ns);
    }
    flush(c);
}

static void start_stream(struct conn *c) {
    static const char head[] = "HTTP/1.1 200 OK\r\nserver: stub\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                               "transfer-encoding: chunked\r\n\r\n";
    append(&c->out, head, sizeof head - 1);
    c->is_streaming = true;
    c->sent_tokens = 0;
    c->all_tokens = c->is_decode ? tokens : 1;
    c->due_ns = 0;
    send_token(c);
}

/* A field's value and what follows it, looked for at both ends of the body; empty if it is not there. */
static const char *field(struct conn *c, const char *quoted_name, size_t *left) {
    size_t name_bytes = strlen(quoted_name), span = c->body_bytes < SCAN_BYTES ? c->body_bytes : SCAN_BYTES;
    const char *end = c->body + c->body_bytes;
    const char *found = memmem(end - span, span, quoted_name, name_bytes);
    if (!found)
        found = memmem(c->body, span, quoted_name, name_bytes);
    found = found ? found + name_bytes : end;
    while (found < end && (*found == ':' || *found == ' '))
        found++;
    *left = end - found;
    return found;
}

static bool asks_stream(struct conn *c) {
    size_t left;
    const char *value = field(c, "\"stream\"", &left);
    return left >= 4 && !memcmp(value, "true", 4);
}

/* As SGLang does: the request's rid comes back as id; without one the server makes it. */
static void choose_id(struct conn *c) {
    size_t left;
    const char *rid = field(c, "\"rid\"", &left);
    const char *end = left && *rid == '"' ? memchr(rid + 1, '"', left - 1) : NULL;
    if (end && end - rid <= ID_BYTES)
        snprintf(c->id, sizeof c->id, "%.*s", (int)(end - rid - 1), rid + 1);
    else
        snprintf(c->id, sizeof c->id, "%032llx", (unsigned long long)++ids);
}

static void answer(struct conn *c, bool is_generate) {
    if (!is_generate) {
        answer_json(c, "{}", 2);
        flush(c);
        return;
    }
    choose_id(c);
    if (asks_stream(c)) {
        start_stream(c);
        return;
    }
    char json[EVENT_BYTES], finish[48];
    snprintf(finish, sizeof finish, "{\"type\":\"length\",\"length\":%d}", tokens);
    answer_json(c, json, result_json(c, json, finish, tokens));
    flush(c);
}

/* False until the head is there. */
static bool read_head(struct conn *c) {
    const char *end = memmem(c->in.bytes, c->in.used, "\r\n\r\n", 4);
    if (!end)
        return false;
    c->head_bytes = end + 4 - c->in.bytes;
    const char *length = header(c->in.bytes, c->head_bytes, "content-length");
    c->content_length = length ? strtoull(length, NULL, 10) : 0;
    c->is_chunked = header_is(header(c->in.bytes, c->head_bytes, "transfer-encoding"), "chunked");
    c->chunks = (struct chunks){0};
    c->dechunked.used = 0;
    return true;
}

/* Answers the request in the buffer if it is complete; requests are not pipelined. */
static void advance(struct conn *c) {
    if (!c->head_bytes && !read_head(c))
        return;
    size_t arrived = c->in.used - c->head_bytes;
    if (c->is_chunked) {
        dechunk(&c->chunks, c->in.bytes + c->head_bytes, arrived, &c->dechunked);
        c->in.used = c->head_bytes;
        if (c->chunks.at == CHUNKS_BAD)
            close_conn(c);
        if (c->chunks.at != CHUNKS_DONE)
            return;
        c->body = c->dechunked.bytes;
        c->body_bytes = c->dechunked.used;
    } else {
        if (arrived < c->content_length) {
            reserve(&c->in, c->content_length - arrived);
            return;
        }
        c->body = c->in.bytes + c->head_bytes;
        c->body_bytes = c->content_length;
    }
    answer(c, !strncmp(c->in.bytes, "POST /generate ", 15));
    c->in.used = c->head_bytes = 0;
}

static void on_readable(struct conn *c) {
    for (;;) {
        reserve(&c->in, 4096);
        size_t room = c->in.room - c->in.used;
        ssize_t count = recv(c->fd, c->in.bytes + c->in.used, room, 0);
        if (count < 0 && errno == EAGAIN)
            return;
        if (count <= 0) {
            close_conn(c);
            return;
        }
        c->in.used += count;
        advance(c);
        if (c->closing || (size_t)count < room)
            return;
    }
}

static void on_acceptable(struct conn *listener) {
    int fd;
    while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct conn *c = calloc(1, sizeof *c);
        if (!c)
            die("calloc");
        no_delay(fd);
        c->fd = fd;
        c->is_decode = listener->is_decode;
        watch(epoll_fd, fd, EPOLLIN, c, false);
    }
    if (errno != EAGAIN)
        die("accept");
}

static int listen_on(struct conn *listener, int port, bool is_decode) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t address_bytes = sizeof address;
    int on = 1, fd = tcp_socket();
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4096) < 0)
        die("listen");
    getsockname(fd, (struct sockaddr *)&address, &address_bytes);
    *listener = (struct conn){.fd = fd, .is_listener = true, .is_decode = is_decode};
    watch(epoll_fd, fd, EPOLLIN, listener, false);
    return ntohs(address.sin_port);
}

static void release_held(void) {
    struct conn *c;
    release_asked = 0;
    while ((c = TAILQ_FIRST(&held))) {
        leave_line(c);
        join_line(c, now_ns());
    }
}

static void send_due(void) {
    struct conn *c;
    int64_t now = now_ns();
    while ((c = TAILQ_FIRST(&paced)) && c->due_ns <= now) {
        leave_line(c);
        send_token(c);
    }
}

static void turn(const sigset_t *while_waiting) {
    struct epoll_event events[EVENTS_A_WAIT];
    struct timespec timeout, *limit = NULL;
    if (!TAILQ_EMPTY(&paced)) {
        timeout = wait_until(TAILQ_FIRST(&paced)->due_ns);
        limit = &timeout;
    }
    int count = epoll_pwait2(epoll_fd, events, EVENTS_A_WAIT, limit, while_waiting);
    if (count < 0 && errno != EINTR)
        die("epoll_pwait2");
    for (int i = 0; i < count; i++) {
        struct conn *c = events[i].data.ptr;
        if (c->is_listener) {
            on_acceptable(c);
            continue;
        }
        if (!c->closing && events[i].events & EPOLLOUT)
            flush(c);
        if (!c->closing && events[i].events & ~EPOLLOUT)
            on_readable(c);
    }
    if (release_asked)
        release_held();
    send_due();
    free_closed();
}

static void read_arguments(int argc, char **argv) {
    static const struct option options[] = {{"tokens", required_argument, 0, 't'},
                                            {"interval-us", required_argument, 0, 'i'},
                                            {"hold-after", required_argument, 0, 'h'},
                                            {0}};
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 't')
            tokens = atoi(optarg);
        else if (option == 'i')
            interval_ns = atoll(optarg) * NS_PER_US;
        else if (option == 'h')
            hold_after = atoi(optarg);
        else
            exit(2);
    }
}

int main(int argc, char **argv) {
    read_arguments(argc, argv);
    /* SIGUSR1 is let in only while waiting, or it could come between the look at the flag and the wait. */
    sigset_t usual, while_waiting;
    sigemptyset(&usual);
    sigaddset(&usual, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usual, &while_waiting);
    sigdelset(&while_waiting, SIGUSR1);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_release}, NULL);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct conn prefill, decode;
    int prefill_port = listen_on(&prefill, 0, false), decode_port = listen_on(&decode, 0, true);
    printf("{\"prefill\": %d, \"decode\": %d}\n", prefill_port, decode_port);
    fflush(stdout);
    for (;;)
        turn(&while_waiting);
}
