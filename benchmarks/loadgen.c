/* A client that costs next to nothing: one thread, epoll, N connections, each sending one request
 * after the other. Only for benchmarks: it trusts its peer to speak HTTP.
 *
 *   loadgen PORT CONNECTIONS SECONDS [-p PAUSE_US] [-r RAMP_MS] [-n REQUESTS]
 *           [-a ADDRESSES] [-o OFFSET] [-m COUNT] < request
 *
 * Standard input is the whole HTTP/1.1 request. With -m it is COUNT requests that are sent in turn,
 * each behind a line with its length. After SECONDS (or REQUESTS) no request is begun; those that
 * run are waited for. With -p a connection waits between answer and next request. With -r the
 * connections start spread over RAMP_MS. With -a the 15 characters "@@@ADDRESS@@@@@" in the request
 * become another IPv4 address each time, out of ADDRESSES, from OFFSET on.
 *
 * Prints one JSON object; times are in microseconds. "events" counts blank lines in streamed
 * answers, "first" is the time to the first byte behind the headers. "streams" are the good answers
 * with events: how many ended with "[DONE]", the fewest and most events and bytes of one.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX 16384
#define MARK "@@@ADDRESS@@@@@"
#define TAIL 32

enum { IDLE, WAITING, HEADERS, BODY };

struct connection {
    int fd, state, status, chunked, close_after, head_used;
    long long left;            /* bytes of a body with Content-Length; -1: until close */
    uint64_t events, bytes;    /* of this answer */
    uint64_t at, sent, first;  /* when to start next; when it was sent; first byte of the body */
    char tail[TAIL], previous; /* last bytes, for the end of a body and events across reads */
    char head[HEAD_MAX];
};

struct samples {
    uint32_t *values;
    size_t count, room;
};

struct range {
    uint64_t least, most;
};

static struct samples latencies, firsts;
static struct connection *connections;
static char *request, *address_at;
static size_t request_length;
static struct {
    char *bytes;
    size_t length;
} *in_turn;
static uint64_t in_turn_count, in_turn_next;
static struct {
    uint64_t count, done;
    struct range events, bytes;
} streams;
static uint64_t started, ends, events, bytes, ok, begun, limit, pause_us, reconnects;
static uint64_t statuses[600], failures, addresses, address_index;
static int poll_fd, port, running;

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void sample(struct samples *s, uint64_t value) {
    if (s->count == s->room) {
        s->room = s->room ? s->room * 2 : 65536;
        s->values = realloc(s->values, s->room * sizeof *s->values);
    }
    s->values[s->count++] = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static void disconnect(struct connection *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
}

static int reconnect(struct connection *c) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) {
        disconnect(c);
        return 0;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event add = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, c->fd, &add);
    reconnects++;
    return 1;
}

static int over(uint64_t now) { return now >= ends || (limit && begun >= limit); }

static void begin(struct connection *c) {
    uint64_t now = now_us();
    c->state = IDLE;
    if (over(now)) {
        disconnect(c);
        running--;
        return;
    }
    if (address_at) {
        uint64_t n = address_index++ % addresses;
        char text[32];
        snprintf(text, sizeof text, "%d.%d.%d.%d               ", 10 + (int)(n >> 24 & 63),
                 (int)(n >> 16 & 255), (int)(n >> 8 & 255), (int)(n & 255));
        memcpy(address_at, text, sizeof MARK - 1);
    }
    if (in_turn) {
        request = in_turn[in_turn_next % in_turn_count].bytes;
        request_length = in_turn[in_turn_next++ % in_turn_count].length;
    }
    if ((c->fd < 0 && !reconnect(c)) ||
        send(c->fd, request, request_length, MSG_NOSIGNAL) != (ssize_t)request_length) {
        failures++;
        disconnect(c);
        c->at = now + 100000; /* refused: not in a tight loop */
        c->state = WAITING;
        return;
    }
    begun++;
    c->sent = now;
    c->first = 0;
    c->events = c->bytes = 0;
    c->head_used = 0;
    c->state = HEADERS;
}

static void widen(struct range *range, uint64_t value) {
    if (!streams.count || value < range->least) range->least = value;
    if (!streams.count || value > range->most) range->most = value;
}

static void finish(struct connection *c, int good) {
    uint64_t now = now_us();
    if (good && c->events) {
        widen(&streams.events, c->events);
        widen(&streams.bytes, c->bytes);
        streams.done += memmem(c->tail, TAIL, "data: [DONE]", 12) != NULL;
        streams.count++;
    }
    if (good && c->status >= 200 && c->status < 300) {
        ok++;
        sample(&latencies, now - c->sent);
        if (c->first) sample(&firsts, c->first - c->sent);
    } else if (!good)
        failures++;
    if (good && c->status > 0 && c->status < 600) statuses[c->status]++;
    if (!good || c->close_after) disconnect(c);
    if (pause_us) {
        c->at = now + pause_us;
        c->state = WAITING;
    } else
        begin(c);
}

/* Takes body bytes; returns 1 when the answer is whole. */
static int body(struct connection *c, const char *data, size_t length) {
    if (length && !c->first) c->first = now_us();
    bytes += length;
    c->bytes += length;
    for (const char *p = data, *end = data + length; p < end;) {
        if (*p == '\n' && c->previous == '\n') events++, c->events++;
        const char *newline = memchr(p + 1, '\n', end - p - 1);
        c->previous = newline ? newline[-1] : end[-1];
        p = newline ? newline : end;
    }
    if (length >= TAIL)
        memcpy(c->tail, data + length - TAIL, TAIL);
    else {
        memmove(c->tail, c->tail + length, TAIL - length);
        memcpy(c->tail + TAIL - length, data, length);
    }
    if (!c->chunked) {
        if (c->left < 0) return 0;
        c->left -= length;
        return c->left <= 0;
    }
    /* The end of a chunked body; the line end before it is that of the headers when the body is
     * empty. */
    return !memcmp(c->tail + TAIL - 7, "\r\n0\r\n\r\n", 7);
}

static void readable(struct connection *c) {
    static char buffer[262144];
    ssize_t n = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (c->state != HEADERS && c->state != BODY) {
        if (n <= 0) disconnect(c); /* closed while idle: the next request connects again */
        return;
    }
    if (n <= 0) {
        c->close_after = 1;
        finish(c, c->state == BODY && !c->chunked && c->left < 0);
        return;
    }
    char *data = buffer;
    if (c->state == HEADERS) {
        size_t room = HEAD_MAX - 1 - c->head_used, take = (size_t)n < room ? (size_t)n : room;
        memcpy(c->head + c->head_used, buffer, take);
        int before = c->head_used;
        c->head_used += take;
        c->head[c->head_used] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) {
            if (c->head_used == HEAD_MAX - 1) finish(c, 0);
            return;
        }
        *end = 0;
        size_t head = end - c->head + 4;
        char *field = strcasestr(c->head, "\r\ncontent-length:");
        c->status = atoi(c->head + 9);
        c->chunked = strcasestr(c->head, "\r\ntransfer-encoding: chunked") != NULL;
        c->close_after = strcasestr(c->head, "\r\nconnection: close") != NULL;
        c->left = field ? atoll(field + 17) : -1;
        c->previous = 0;
        memset(c->tail, 0, TAIL);
        memcpy(c->tail + TAIL - 2, "\r\n", 2);
        c->state = BODY;
        data += head - before;
        n -= head - before;
        if (!c->chunked && c->left == 0) {
            finish(c, 1);
            return;
        }
    }
    if (n > 0 && body(c, data, n)) finish(c, 1);
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void print_samples(const char *name, struct samples *s) {
    qsort(s->values, s->count, sizeof *s->values, by_value);
#define AT(q) (s->count ? s->values[(size_t)((s->count - 1) * (q))] : 0)
    printf("\"%s\":{\"count\":%zu,\"p50\":%u,\"p95\":%u,\"p99\":%u,\"max\":%u},", name, s->count,
           AT(0.50), AT(0.95), AT(0.99), AT(1.0));
}

static void read_requests(uint64_t count) {
    in_turn = calloc(count, sizeof *in_turn);
    for (in_turn_count = 0; in_turn_count < count; in_turn_count++) {
        size_t length;
        if (scanf("%zu", &length) != 1 || getchar() != '\n') break;
        in_turn[in_turn_count].bytes = malloc(length);
        in_turn[in_turn_count].length = fread(in_turn[in_turn_count].bytes, 1, length, stdin);
    }
    if (!count || in_turn_count < count) {
        fprintf(stderr, "-m %llu: only %llu requests\n", (unsigned long long)count,
                (unsigned long long)in_turn_count);
        exit(2);
    }
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr,
                "usage: %s PORT CONNECTIONS SECONDS [-p PAUSE_US] [-r RAMP_MS] [-n REQUESTS] [-a "
                "ADDRESSES] [-o OFFSET] [-m COUNT] < request\n",
                argv[0]);
        return 2;
    }
    port = atoi(argv[1]);
    int count = atoi(argv[2]);
    double seconds = atof(argv[3]);
    uint64_t ramp = 0, many = 0;
    for (int i = 4; i + 1 < argc; i += 2) {
        uint64_t value = strtoull(argv[i + 1], NULL, 10);
        switch (argv[i][1]) {
        case 'p':
            pause_us = value;
            break;
        case 'r':
            ramp = value * 1000;
            break;
        case 'n':
            limit = value;
            break;
        case 'a':
            addresses = value;
            break;
        case 'm':
            many = value;
            break;
        case 'o':
            address_index = value;
            break;
        default:
            fprintf(stderr, "unknown option %s\n", argv[i]);
            return 2;
        }
    }
    signal(SIGPIPE, SIG_IGN);
    if (many)
        read_requests(many);
    else {
        size_t room = 1 << 20;
        request = malloc(room);
        request_length = fread(request, 1, room, stdin);
        address_at = addresses ? memmem(request, request_length, MARK, sizeof MARK - 1) : NULL;
    }

    poll_fd = epoll_create1(0);
    connections = calloc(count, sizeof *connections);
    started = now_us();
    ends = started + (uint64_t)(seconds * 1e6);
    running = count;
    for (int i = 0; i < count; i++) {
        connections[i].fd = -1;
        connections[i].state = WAITING;
        connections[i].at = started + ramp * i / count;
    }
    struct epoll_event ready[256];
    int delayed = ramp || pause_us;
    while (running > 0) {
        uint64_t now = now_us(), next = UINT64_MAX;
        if (now > ends + 120000000) break; /* two minutes of grace for what runs */
        int waiting = 0;
        for (int i = 0; i < count; i++) {
            struct connection *c = &connections[i];
            if (c->state != WAITING) continue;
            if (c->at <= now || over(now)) begin(c);
            if (c->state == WAITING) {
                waiting = 1;
                if (c->at < next) next = c->at;
            }
        }
        int timeout = 1000;
        if (waiting || delayed) {
            now = now_us();
            timeout = next == UINT64_MAX ? 1000
                      : next <= now      ? 0
                                         : (int)((next - now + 999) / 1000);
        }
        int n = epoll_wait(poll_fd, ready, 256, timeout);
        for (int i = 0; i < n; i++) {
            struct connection *c = ready[i].data.ptr;
            if (c->fd >= 0) readable(c);
        }
    }
    double elapsed = (now_us() - started) / 1e6;
    printf("{\"requests\":%llu,\"failures\":%llu,\"unfinished\":%d,\"elapsed\":%.6f,\"events\":%"
           "llu,\"bytes\":%llu,\"connections\":%llu,",
           (unsigned long long)ok, (unsigned long long)failures, running, elapsed,
           (unsigned long long)events, (unsigned long long)bytes, (unsigned long long)reconnects);
    print_samples("latency", &latencies);
    print_samples("first", &firsts);
    printf(
        "\"streams\":{\"count\":%llu,\"done\":%llu,\"events\":[%llu,%llu],\"bytes\":[%llu,%llu]},",
        (unsigned long long)streams.count, (unsigned long long)streams.done,
        (unsigned long long)streams.events.least, (unsigned long long)streams.events.most,
        (unsigned long long)streams.bytes.least, (unsigned long long)streams.bytes.most);
    printf("\"statuses\":{");
    for (int i = 0, comma = 0; i < 600; i++)
        if (statuses[i])
            printf("%s\"%d\":%llu", comma++ ? "," : "", i, (unsigned long long)statuses[i]);
    printf("}}\n");
    return 0;
}
