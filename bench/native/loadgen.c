/* The load generator: one thread, one epoll, the same request on every connection.
 *
 * loadgen --port P --request FILE --connections N [--seconds S] [--streams EVENTS] [--open-after K]
 *         [--ramp-ms R] [--limit-s L] [--cpu-of PID,PID...]
 *
 * Closed loop (default): N keep-alive connections, each sends the next request when it has its answer,
 * for S seconds. With --streams EVENTS: N connections, opened evenly over R ms, one streamed request
 * each, which must yield exactly EVENTS events and [DONE].
 *
 * What is counted lies in a window: it opens at once in the closed loop, and when every stream has had
 * K events with --streams; it closes after S seconds, or when the first stream ends. The CPU of the
 * processes of --cpu-of is read at both ends, from the scheduler's clock of each process.
 * Prints {"open": true} when the window opens, and one line of JSON with the results at the end.
 * Anything but a complete 200 is a failure; exit code 1 if there was one.
 */
#include "wire.h"
#include <getopt.h>
#include <netdb.h>

#define READ_BYTES (256 * 1024)
#define HEAD_LIMIT_BYTES (16 * 1024)
#define EVENTS_A_WAIT 512
#define MAX_PIDS 64

/* Durations in buckets of at most 0.1 % width: what a proxy adds to a gap of 50 ms is less than 1 ms. */
#define SUB_BITS 10
#define SUBS (1 << SUB_BITS) /* buckets a power of two */

struct histogram {
    uint64_t counts[64 * SUBS], all;
};

struct conn {
    enum { UNBORN, SENDING, HEAD, BODY, OVER } at;
    int fd;
    size_t sent;
    struct buffer head, events; /* `events`: payload that no complete event has been taken from yet */
    bool is_chunked, closes, done_seen;
    size_t body_left;
    struct chunks chunks;
    int64_t started_ns, last_event_ns;
    int event_count;
};

static struct {
    int port, connections, stream_events, open_after, pid_count;
    int64_t seconds_ns, ramp_ns, limit_ns;
    struct buffer request;
    clockid_t cpu_clocks[MAX_PIDS];
} set = {.connections = 1, .open_after = 1, .seconds_ns = NS_PER_S, .limit_ns = 60 * NS_PER_S};

static struct {
    bool is_open, is_closed;
    int64_t opened_ns, closed_ns, cpu_opened_ns, cpu_closed_ns;
    uint64_t requests, events;
} window;

static struct histogram latency, first_token, gap, transit;
static int epoll_fd, born, over, ready_streams;
static uint64_t all_requests, all_events, failures, reconnects;
static char first_failure[256];
static char scratch[READ_BYTES];
static struct conn *conns;

static void record(struct histogram *h, int64_t ns) {
    uint64_t value = ns > 1 ? ns : 1;
    int power = 63 - __builtin_clzll(value);
    uint64_t scaled = power >= SUB_BITS ? value >> (power - SUB_BITS) : value << (SUB_BITS - power);
    h->counts[power * SUBS + (scaled & (SUBS - 1))]++;
    h->all++;
}

static double percentile_us(const struct histogram *h, double share) {
    uint64_t wanted = share * h->all, seen = 0;
    for (int i = 0; i < 64 * SUBS; i++)
        if ((seen += h->counts[i]) > wanted)
            return (double)(1ULL << (i / SUBS)) * (1 + (i % SUBS + 0.5) / SUBS) / NS_PER_US;
    return 0;
}

static int64_t cpu_ns(void) {
    int64_t sum = 0;
    for (int i = 0; i < set.pid_count; i++) {
        struct timespec t = {0};
        clock_gettime(set.cpu_clocks[i], &t);
        sum += t.tv_sec * NS_PER_S + t.tv_nsec;
    }
    return sum;
}

static void open_window(void) {
    window.is_open = true;
    window.cpu_opened_ns = cpu_ns();
    window.opened_ns = now_ns();
    printf("{\"open\": true}\n");
    fflush(stdout);
}

static void close_window(void) {
    if (!window.is_open || window.is_closed)
        return;
    window.is_closed = true;
    window.cpu_closed_ns = cpu_ns();
    window.closed_ns = now_ns();
}

static bool counts_now(void) { return window.is_open && !window.is_closed; }

static void connect_conn(struct conn *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(set.port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = tcp_socket();
    no_delay(c->fd);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS)
        die("connect");
    watch(epoll_fd, c->fd, EPOLLIN | EPOLLOUT, c, false);
}

static void begin_request(struct conn *c) {
    c->at = SENDING;
    c->sent = c->head.used = c->events.used = 0;
    c->done_seen = c->closes = false;
    c->event_count = 0;
    c->started_ns = now_ns();
}

static void end_conn(struct conn *c) {
    close(c->fd);
    c->at = OVER;
    over++;
}

static void fail(struct conn *c, const char *why) {
    failures++;
    if (!*first_failure) {
        snprintf(first_failure, sizeof first_failure, "%s after %d events", why, c->event_count);
        for (char *at = first_failure; *at; at++)
            if (*at == '"' || *at == '\\' || (unsigned char)*at < ' ')
                *at = ' ';
    }
    end_conn(c);
    if (set.stream_events)
        close_window();
}

static void send_request(struct conn *c) {
    while (c->sent < set.request.used) {
        ssize_t count = send(c->fd, set.request.bytes + c->sent, set.request.used - c->sent, MSG_NOSIGNAL);
        if (count < 0 && errno == EAGAIN)
            return;
        if (count < 0) {
            fail(c, "cannot send the request");
            return;
        }
        c->sent += count;
    }
    watch(epoll_fd, c->fd, EPOLLIN, c, true);
    c->at = HEAD;
}

static void next_request(struct conn *c) {
    if (set.stream_events || window.is_closed) {
        end_conn(c);
        return;
    }
    if (c->closes) {
        reconnects++;
        close(c->fd);
        connect_conn(c);
        begin_request(c);
        return;
    }
    begin_request(c);
    send_request(c);
    if (c->at == SENDING)
        watch(epoll_fd, c->fd, EPOLLIN | EPOLLOUT, c, true);
}

static void finish_request(struct conn *c) {
    if (set.stream_events && (!c->done_seen || c->event_count != set.stream_events)) {
        fail(c, c->done_seen ? "wrong number of events, [DONE]" : "the stream ended without [DONE]");
        return;
    }
    all_requests++;
    if (set.stream_events) {
        close_window();
    } else if (counts_now()) {
        record(&latency, now_ns() - c->started_ns);
        window.requests++;
    }
    next_request(c);
}

static void take_token(struct conn *c, const char *event, size_t event_bytes) {
    static const char sent_key[] = "\"sent_ns\":";
    int64_t now = now_ns();
    all_events++;
    if (!c->event_count++)
        record(&first_token, now - c->started_ns);
    if (counts_now()) {
        window.events++;
        record(&gap, now - c->last_event_ns);
        const char *sent = memmem(event, event_bytes, sent_key, sizeof sent_key - 1);
        if (sent)
            record(&transit, now - strtoll(sent + sizeof sent_key - 1, NULL, 10));
    }
    c->last_event_ns = now;
    if (c->event_count == set.open_after && ++ready_streams == set.connections)
        open_window();
}

/* Takes whole events out of the payload. */
static void take_events(struct conn *c) {
    static const char done[] = "data: [DONE]";
    size_t taken = 0;
    const char *end;
    while ((end = memmem(c->events.bytes + taken, c->events.used - taken, "\n\n", 2))) {
        const char *event = c->events.bytes + taken;
        size_t event_bytes = end - event;
        if (event_bytes == sizeof done - 1 && !memcmp(event, done, event_bytes))
            c->done_seen = true;
        else
            take_token(c, event, event_bytes);
        taken += event_bytes + 2;
    }
    if (taken)
        drop_front(&c->events, taken);
}

/* Returns how many of the bytes belong to the head; 0 after a failure. */
static size_t take_head(struct conn *c, const char *bytes, size_t count) {
    size_t before = c->head.used;
    append(&c->head, bytes, count);
    const char *end = memmem(c->head.bytes, c->head.used, "\r\n\r\n", 4);
    if (!end) {
        if (c->head.used <= HEAD_LIMIT_BYTES)
            return count;
        fail(c, "endless response head");
        return 0;
    }
    size_t head_bytes = end + 4 - c->head.bytes;
    if (strncmp(c->head.bytes, "HTTP/1.1 200 ", 13)) {
        char why[200];
        snprintf(why, sizeof why, "not a 200: %.*s", (int)(c->head.used < 180 ? c->head.used : 180), c->head.bytes);
        fail(c, why);
        return 0;
    }
    const char *length = header(c->head.bytes, head_bytes, "content-length");
    c->closes = header_is(header(c->head.bytes, head_bytes, "connection"), "close");
    c->is_chunked = header_is(header(c->head.bytes, head_bytes, "transfer-encoding"), "chunked");
    if (!length && !c->is_chunked) {
        fail(c, "a response without a length");
        return 0;
    }
    c->body_left = length ? strtoull(length, NULL, 10) : 0;
    c->chunks = (struct chunks){0};
    c->at = BODY;
    return head_bytes - before;
}

static void take_body(struct conn *c, const char *bytes, size_t count) {
    if (!c->is_chunked) {
        c->body_left -= count < c->body_left ? count : c->body_left;
        if (!c->body_left)
            finish_request(c);
        return;
    }
    dechunk(&c->chunks, bytes, count, &c->events);
    if (c->chunks.at == CHUNKS_BAD) {
        fail(c, "broken chunked coding");
        return;
    }
    if (set.stream_events)
        take_events(c);
    else
        c->events.used = 0;
    if (c->chunks.at == CHUNKS_DONE)
        finish_request(c);
}

static void on_readable(struct conn *c) {
    ssize_t count = recv(c->fd, scratch, sizeof scratch, 0);
    if (count < 0 && errno == EAGAIN)
        return;
    if (count <= 0) {
        fail(c, count ? strerror(errno) : c->at == BODY ? "truncated body" : "closed before an answer");
        return;
    }
    if (c->at == SENDING)
        c->at = HEAD; /* an answer before the whole request was sent: an error, most likely; it is looked at */
    size_t head_bytes = c->at == HEAD ? take_head(c, scratch, count) : 0;
    if (c->at == BODY)
        take_body(c, scratch + head_bytes, count - head_bytes);
}

/* When the next connection is to be opened: evenly over the ramp. */
static int64_t birth_ns(int64_t start_ns) { return start_ns + set.ramp_ns * born / set.connections; }

static void turn(int64_t start_ns) {
    struct epoll_event events[EVENTS_A_WAIT];
    int64_t due = start_ns + set.limit_ns;
    if (born < set.connections)
        due = birth_ns(start_ns);
    else if (counts_now() && window.opened_ns + set.seconds_ns < due)
        due = window.opened_ns + set.seconds_ns;
    struct timespec timeout = wait_until(due);
    int count = epoll_pwait2(epoll_fd, events, EVENTS_A_WAIT, &timeout, NULL);
    if (count < 0 && errno != EINTR)
        die("epoll_pwait2");
    for (int i = 0; i < count; i++) {
        struct conn *c = events[i].data.ptr;
        if (c->at == SENDING && events[i].events & EPOLLOUT)
            send_request(c);
        if (c->at != OVER && events[i].events & ~EPOLLOUT)
            on_readable(c);
    }
    for (; born < set.connections && birth_ns(start_ns) <= now_ns(); born++) {
        connect_conn(&conns[born]);
        begin_request(&conns[born]);
    }
    if (counts_now() && now_ns() - window.opened_ns >= set.seconds_ns)
        close_window();
}

static void run(void) {
    int64_t start_ns = now_ns();
    if (!set.stream_events)
        open_window();
    while (over < set.connections && now_ns() - start_ns < set.limit_ns)
        turn(start_ns);
    close_window();
    if (over < set.connections && !*first_failure)
        snprintf(first_failure, sizeof first_failure, "%d connections unfinished at the time limit",
                 set.connections - over);
    failures += set.connections - over;
}

static void print_histogram(const char *name, const struct histogram *h) {
    if (h->all)
        printf(", \"%s\": {\"p50\": %.1f, \"p99\": %.1f}", name, percentile_us(h, 0.5), percentile_us(h, 0.99));
}

static void print_results(void) {
    printf("{\"requests\": %llu, \"events\": %llu, \"all_requests\": %llu, \"all_events\": %llu, "
           "\"failures\": %llu, \"first_failure\": \"%s\", \"reconnects\": %llu, \"seconds\": %.6f, \"cpu_ns\": %lld",
           (unsigned long long)window.requests, (unsigned long long)window.events, (unsigned long long)all_requests,
           (unsigned long long)all_events, (unsigned long long)failures, first_failure,
           (unsigned long long)reconnects, (double)(window.closed_ns - window.opened_ns) / NS_PER_S,
           (long long)(window.cpu_closed_ns - window.cpu_opened_ns));
    print_histogram("latency_us", &latency);
    print_histogram("ttft_us", &first_token);
    print_histogram("gap_us", &gap);
    print_histogram("transit_us", &transit);
    printf("}\n");
}

static void read_request(const char *path) {
    FILE *file = fopen(path, "rb");
    size_t count;
    if (!file)
        die(path);
    while ((count = fread(scratch, 1, sizeof scratch, file)))
        append(&set.request, scratch, count);
    fclose(file);
}

static void read_pids(char *list) {
    for (char *pid = strtok(list, ","); pid && set.pid_count < MAX_PIDS; pid = strtok(NULL, ","))
        if (clock_getcpuclockid(atoi(pid), &set.cpu_clocks[set.pid_count++]))
            die("no such process in --cpu-of");
}

static void read_arguments(int argc, char **argv) {
    static const struct option options[] = {
        {"port", required_argument, 0, 'p'},       {"request", required_argument, 0, 'f'},
        {"connections", required_argument, 0, 'n'}, {"seconds", required_argument, 0, 's'},
        {"streams", required_argument, 0, 'e'},     {"open-after", required_argument, 0, 'k'},
        {"ramp-ms", required_argument, 0, 'r'},     {"limit-s", required_argument, 0, 'l'},
        {"cpu-of", required_argument, 0, 'c'},      {0}};
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case 'p': set.port = atoi(optarg); break;
        case 'f': read_request(optarg); break;
        case 'n': set.connections = atoi(optarg); break;
        case 's': set.seconds_ns = atof(optarg) * NS_PER_S; break;
        case 'e': set.stream_events = atoi(optarg); break;
        case 'k': set.open_after = atoi(optarg); break;
        case 'r': set.ramp_ns = atoll(optarg) * NS_PER_MS; break;
        case 'l': set.limit_ns = atof(optarg) * NS_PER_S; break;
        case 'c': read_pids(optarg); break;
        default: exit(2);
        }
    }
    if (!set.port || !set.request.used || set.connections < 1)
        die("--port, --request and --connections are needed");
}

int main(int argc, char **argv) {
    read_arguments(argc, argv);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    conns = calloc(set.connections, sizeof *conns);
    if (!conns)
        die("calloc");
    run();
    print_results();
    return failures > 0;
}
