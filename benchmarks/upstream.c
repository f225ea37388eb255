/* A provider that costs next to nothing: one thread, epoll, answers made once.
 *
 *   upstream PORT CHUNKS INTERVAL_US SHAPE
 *
 * POST with "stream":true in its body -> CHUNKS events of OpenAI's chat.completion.chunk,
 * INTERVAL_US apart, each in an HTTP chunk and a write of its own, then finish reason, usage and
 * [DONE] in a last one. Any other POST -> one chat.completion. GET -> a list of one model. No two
 * events of a stream have the same text: a word of a fixed list and a number.
 *
 * SHAPE is `providers` or `lean`. `providers`: the headers, fields and transfer coding that
 * OpenAI's API answers with; an answer in one piece is chunked and goes out in three writes, each a
 * TCP segment. `lean`: two headers and a Content-Length in one write, and short fields. Only for
 * benchmarks: it trusts its peer.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER 65536

struct connection {
    int fd;
    int used;     /* bytes in `in` */
    int left;     /* events still to send; 0: no stream */
    int queued;   /* is in the queue below */
    int dead;     /* closed while queued: freed when its turn comes */
    uint64_t due; /* when the next event goes out, us */
    struct connection *next;
    char in[BUFFER];
};

#define STARTS "\"created\":1700000000,\"model\":\"bench\""
#define EXTRA ",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_06737a9306\""
#define USAGE "\"prompt_tokens\":12,\"completion_tokens\":10,\"total_tokens\":22"
#define DETAILS                                                                                    \
    ",\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},\"completion_tokens_"     \
    "details\":{\"reasoning_tokens\":0,"                                                           \
    "\"audio_tokens\":0,\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}"
#define TEXT "The quick brown fox jumps over the lazy dog."

/* A provider's shape: its headers, the two halves of an answer in one piece, and what stands around
 * the text of an event. */
struct shape {
    const char *headers, *first_half, *second_half, *event_start, *event_end, *last;
};

static const struct shape LEAN = {
    "",
    "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\"," STARTS
    ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
    "\"content\":\"" TEXT "\"},",
    "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{" USAGE "}}",
    "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\"," STARTS
    ",\"choices\":[{\"index\":0,\"delta\":{"
    "\"role\":\"assistant\",\"content\":\"",
    "\"},\"finish_reason\":null}]}\n\n",
    "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\"," STARTS
    ",\"choices\":[{\"index\":0,\"delta\":{},"
    "\"finish_reason\":\"stop\"}]}\n\n"
    "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\"," STARTS
    ",\"choices\":[],\"usage\":{" USAGE "}}\n\n"
    "data: [DONE]\n\n",
};

/* The names are those of an answer of api.openai.com, in its order; Date is of the start, which
 * nobody reads. */
static const struct shape PROVIDERS = {
    "Date: Fri, 27 Nov 2026 00:00:00 GMT\r\n"
    "Connection: keep-alive\r\n"
    "access-control-expose-headers: X-Request-ID\r\n"
    "openai-organization: bench-organization\r\n"
    "openai-processing-ms: 412\r\n"
    "openai-project: proj_2f6HhQw0rTz9bXcVnLk3sPqE\r\n"
    "openai-version: 2020-10-01\r\n"
    "x-envoy-upstream-service-time: 431\r\n"
    "x-ratelimit-limit-requests: 10000\r\n"
    "x-ratelimit-limit-tokens: 10000000\r\n"
    "x-ratelimit-remaining-requests: 9999\r\n"
    "x-ratelimit-remaining-tokens: 9999969\r\n"
    "x-ratelimit-reset-requests: 6ms\r\n"
    "x-ratelimit-reset-tokens: 0s\r\n"
    "x-request-id: req_4f1d0c7a3b8e4d2f9a6b5c4d3e2f1a0b\r\n"
    "cf-cache-status: DYNAMIC\r\n"
    "Set-Cookie: __cf_bm=4n2xV8rJqYb1mKcT; path=/; domain=.api.example.com; HttpOnly; Secure; "
    "SameSite=None\r\n"
    "strict-transport-security: max-age=31536000; includeSubDomains; preload\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Server: cloudflare\r\n"
    "CF-RAY: 8f2a1b3c4d5e6f70-FRA\r\n"
    "alt-svc: h3=\":443\"; ma=86400\r\n",
    "{\n  \"id\": \"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\n  \"object\": "
    "\"chat.completion\",\n  \"created\": 1700000000,\n"
    "  \"model\": \"bench\",\n  \"choices\": [\n    {\n      \"index\": 0,\n      \"message\": {\n "
    "       \"role\": \"assistant\",\n"
    "        \"content\": \"" TEXT "\",\n",
    "        \"refusal\": null,\n        \"annotations\": []\n      },\n      \"logprobs\": "
    "null,\n      \"finish_reason\": \"stop\"\n"
    "    }\n  ],\n  \"usage\": {" USAGE DETAILS "}" EXTRA "\n}\n",
    "data: "
    "{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\"object\":\"chat.completion."
    "chunk\"," STARTS EXTRA ",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"",
    "\"},\"logprobs\":null,\"finish_reason\":null}],\"obfuscation\":\"q8Zt2LmXw\"}\n\n",
    "data: "
    "{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\"object\":\"chat.completion."
    "chunk\"," STARTS EXTRA ",\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_"
    "reason\":\"stop\"}],\"obfuscation\":\"h3\"}\n\n"
    "data: "
    "{\"id\":\"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT\",\"object\":\"chat.completion."
    "chunk\"," STARTS EXTRA ",\"choices\":[],\"usage\":{" USAGE DETAILS
    "},\"obfuscation\":\"\"}\n\n"
    "data: [DONE]\n\n",
};

static const char MODELS[] = "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":"
                             "\"model\",\"created\":0,\"owned_by\":\"bench\"}]}";
static const char *const WORDS[] = {"the",    "quick", "brown", "fox",   "jumps",   "over", "a",
                                    "lazy",   "dog",   "while", "five",  "wizards", "mix",  "quite",
                                    "strong", "ink",   "and",   "judge", "my",      "vow"};

/* What goes out in one write. */
struct piece {
    char *bytes;
    int length;
};

static struct piece answer[3], models, head, last, *events;
static int answer_pieces;
static int chunks, interval;
/* Every stream has the same interval, so a queue in order of arrival is in order of time. */
static struct connection *first, *final;

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void send_all(struct connection *c, const char *data, int length) {
    while (length > 0) {
        ssize_t n = send(c->fd, data, length, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR) continue;
            return; /* reset, or a reader that stalls: the next read sees it */
        }
        data += n;
        length -= n;
    }
}

static void send_piece(struct connection *c, const struct piece *p) {
    send_all(c, p->bytes, p->length);
}

static void enqueue(struct connection *c) {
    c->queued = 1;
    c->next = NULL;
    if (final)
        final->next = c;
    else
        first = c;
    final = c;
}

static void send_event(struct connection *c) {
    if (c->left > 0) {
        send_piece(c, &events[chunks - c->left]);
        if (--c->left > 0) {
            c->due += interval;
            enqueue(c);
            return;
        }
    }
    send_piece(c, &last);
}

static void drop(struct connection *c) {
    close(c->fd);
    if (c->queued)
        c->dead = 1;
    else
        free(c);
}

/* Answers every whole request in the buffer. Returns 0 when the connection is to be closed. */
static int serve(struct connection *c) {
    for (;;) {
        c->in[c->used] = 0;
        char *end = strstr(c->in, "\r\n\r\n");
        if (!end) return c->used < BUFFER - 1;
        end += 4;
        int body = 0;
        char *header = strcasestr(c->in, "\r\ncontent-length:");
        if (header && header < end) body = atoi(header + 17);
        int whole = (int)(end - c->in) + body;
        if (whole > BUFFER - 1) return 0;
        if (c->used < whole) return 1;
        char saved = c->in[whole];
        c->in[whole] = 0;
        int get = !strncmp(c->in, "GET", 3);
        int stream = !get && (strstr(end, "\"stream\":true") || strstr(end, "\"stream\": true"));
        c->in[whole] = saved;
        c->used -= whole;
        memmove(c->in, c->in + whole, c->used);
        if (stream) {
            send_piece(c, &head);
            c->left = chunks;
            c->due = now_us();
            send_event(c);
        } else if (get)
            send_piece(c, &models);
        else
            for (int i = 0; i < answer_pieces; i++) send_piece(c, &answer[i]);
    }
}

/* A piece by printf's rules. */
__attribute__((format(printf, 1, 2))) static struct piece made(const char *format, ...) {
    struct piece p;
    va_list values;
    va_start(values, format);
    p.length = vasprintf(&p.bytes, format, values);
    va_end(values);
    if (p.length < 0) abort();
    return p;
}

static struct piece chunk(const char *text, const char *end) {
    return made("%zx\r\n%s\r\n%s", strlen(text), text, end);
}

static void make_answers(const struct shape *shape) {
    models =
        made("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(MODELS), MODELS);
    head = made("HTTP/1.1 200 OK\r\n%sContent-Type: text/event-stream; "
                "charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n",
                shape->headers);
    last = chunk(shape->last, "0\r\n\r\n");
    if (shape == &LEAN) {
        answer[answer_pieces++] = made(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s%s",
            strlen(shape->first_half) + strlen(shape->second_half), shape->first_half,
            shape->second_half);
    } else {
        answer[answer_pieces++] = made("HTTP/1.1 200 OK\r\n%sContent-Type: "
                                       "application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
                                       shape->headers);
        answer[answer_pieces++] = chunk(shape->first_half, "");
        answer[answer_pieces++] = chunk(shape->second_half, "0\r\n\r\n");
    }
    events = calloc(chunks, sizeof *events);
    for (int i = 0; i < chunks; i++) {
        struct piece text = made("%s %s %d%s", shape->event_start,
                                 WORDS[i % (sizeof WORDS / sizeof *WORDS)], i, shape->event_end);
        events[i] = chunk(text.bytes, "");
        free(text.bytes);
    }
}

int main(int argc, char **argv) {
    if (argc != 5 || (strcmp(argv[4], "providers") && strcmp(argv[4], "lean"))) {
        fprintf(stderr, "usage: %s PORT CHUNKS INTERVAL_US providers|lean\n", argv[0]);
        return 2;
    }
    chunks = atoi(argv[2]);
    interval = atoi(argv[3]);
    signal(SIGPIPE, SIG_IGN);
    make_answers(strcmp(argv[4], "lean") ? &PROVIDERS : &LEAN);

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons(atoi(argv[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("listen");
        return 1;
    }
    int poll = epoll_create1(0);
    struct epoll_event add = {.events = EPOLLIN, .data.ptr = NULL}, ready[256];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &add);
    for (;;) {
        uint64_t now = now_us();
        while (first && (first->dead || first->due <= now)) {
            struct connection *c = first;
            first = c->next;
            if (!first) final = NULL;
            c->queued = 0;
            if (c->dead)
                free(c);
            else
                send_event(c);
        }
        int timeout = -1;
        if (first) {
            now = now_us();
            timeout = first->due <= now ? 0 : (int)((first->due - now + 999) / 1000);
        }
        int count = epoll_wait(poll, ready, 256, timeout);
        for (int i = 0; i < count; i++) {
            struct connection *c = ready[i].data.ptr;
            if (!c) {
                int fd;
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                    c = calloc(1, sizeof *c);
                    c->fd = fd;
                    add.events = EPOLLIN;
                    add.data.ptr = c;
                    epoll_ctl(poll, EPOLL_CTL_ADD, fd, &add);
                }
                continue;
            }
            ssize_t n = recv(c->fd, c->in + c->used, BUFFER - 1 - c->used, 0);
            if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
            if (n <= 0) {
                drop(c);
                continue;
            }
            c->used += n;
            if (!serve(c)) drop(c);
        }
    }
}
