/* A provider that costs next to nothing: one thread, epoll, answers made once.
 *
 *   upstream PORT CHUNKS INTERVAL_US
 *
 * POST with "stream":true in its body -> CHUNKS events of OpenAI's chat.completion.chunk, INTERVAL_US apart, each in an HTTP chunk and a
 * write of its own, then finish reason, usage and [DONE] in a last one. Any other POST -> one chat.completion. GET -> a list of one model.
 * Only for benchmarks: it trusts its peer.
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

#define BUFFER 65536

struct connection {
    int fd;
    int used;          /* bytes in `in` */
    int left;          /* events still to send; 0: no stream */
    int queued;        /* is in the queue below */
    int dead;          /* closed while queued: freed when its turn comes */
    uint64_t due;      /* when the next event goes out, us */
    struct connection *next;
    char in[BUFFER];
};

static const char ANSWER[] =
    "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"bench\",\"choices\":[{\"index\":0,"
    "\"message\":{\"role\":\"assistant\",\"content\":\"The quick brown fox jumps over the lazy dog.\"},\"logprobs\":null,"
    "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":10,\"total_tokens\":22}}";
static const char MODELS[] = "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"created\":0,\"owned_by\":\"bench\"}]}";
static const char HEAD[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
#define CHUNK "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench\",\"choices\":["
static const char EVENT[] = "data: " CHUNK "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\" token\"},\"finish_reason\":null}]}\n\n";
static const char LAST[] =
    "data: " CHUNK "{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
    "data: " CHUNK "],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":10,\"total_tokens\":22}}\n\n"
    "data: [DONE]\n\n";

static char answer[1024], models[512], event[512], last[1024];
static int answer_length, models_length, event_length, last_length;
static int chunks, interval;
/* Every stream has the same interval, so a queue in order of arrival is in order of time. */
static struct connection *first, *final;

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void send_all(struct connection *c, const char *data, int length)
{
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

static void enqueue(struct connection *c)
{
    c->queued = 1;
    c->next = NULL;
    if (final) final->next = c; else first = c;
    final = c;
}

static void send_event(struct connection *c)
{
    if (c->left > 0) {
        send_all(c, event, event_length);
        if (--c->left > 0) {
            c->due += interval;
            enqueue(c);
            return;
        }
    }
    send_all(c, last, last_length);
}

static void drop(struct connection *c)
{
    close(c->fd);
    if (c->queued) c->dead = 1; else free(c);
}

/* Answers every whole request in the buffer. Returns 0 when the connection is to be closed. */
static int serve(struct connection *c)
{
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
            send_all(c, HEAD, sizeof HEAD - 1);
            c->left = chunks;
            c->due = now_us();
            send_event(c);
        } else if (get)
            send_all(c, models, models_length);
        else
            send_all(c, answer, answer_length);
    }
}

static int whole_answer(char *out, size_t size, const char *body)
{
    return snprintf(out, size, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: %s PORT CHUNKS INTERVAL_US\n", argv[0]);
        return 2;
    }
    chunks = atoi(argv[2]);
    interval = atoi(argv[3]);
    signal(SIGPIPE, SIG_IGN);
    answer_length = whole_answer(answer, sizeof answer, ANSWER);
    models_length = whole_answer(models, sizeof models, MODELS);
    event_length = snprintf(event, sizeof event, "%zx\r\n%s\r\n", sizeof EVENT - 1, EVENT);
    last_length = snprintf(last, sizeof last, "%zx\r\n%s\r\n0\r\n\r\n", sizeof LAST - 1, LAST);

    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
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
            if (c->dead) free(c); else send_event(c);
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
