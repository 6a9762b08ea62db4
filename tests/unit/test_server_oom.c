/* SPDX-License-Identifier: Apache-2.0
 * test_server_oom.c - every allocation of a server's life fails once: opening it and a model, a request of each API, streams that
 * their clients leave, the end; without TLS and with it.
 *
 *   parent --fork--> child: a server, its engine, a client        what the child found lies in memory that both share, so that a
 *     \--fork--> next child, after the fault that killed one      child that dies is one fault not survived, and the next goes on
 *
 * Survived is a fault after which the request it hit was answered with 503, cut off, or answered as always; the next one has its
 * answer bit for bit; and after the end base/mem holds what it held before, malloc no block more than after a life without faults, and
 * no descriptor is open that was not.
 *
 * This program defines malloc and its family itself: so every caller in the process goes through it, our code, libevent, OpenSSL,
 * jansson and libc alike, on every thread. Wrapping by the linker sees only our own objects, and the libraries' hooks (as
 * event_set_mem_functions) each only one of them. mmap of memory counts too, and the making of threads, which is memory for stacks. The client's
 * thread is let alone. Threads run as they like, so the n-th allocation is not always the same one; the number of distinct places
 * that failed is told.
 *
 * usage: test_server_oom [--full]   (--full: every allocation; else every so many) */
#include "golden.h"

#include "engine/engine.h"
#include "server/server.h"
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <malloc.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PUBLIC  __attribute__((visibility("default"))) /* libraries shall find these */
#define FRAMES  16
#define PLACES  8192
#define HANG_S  40 /* of a child; then it is taken for one that hangs */
#define IN_TURN 3  /* so many runs without a hit are the end: their number differs by some */

/* What parent and children share. */
static struct shared {
    atomic_long n_calls, fail_at; /* fail_at 0: never */
    void *frames[FRAMES];         /* of the last fault */
    int n_frames;
    void *crash[FRAMES]; /* and of the end of a child */
    int n_crash;
    uint64_t places[PLACES];
    atomic_int n_places;
    long at; /* the fault being tried */
    long n_faults, n_same, n_refused, n_cut;
    long n_openssl; /* lives after which it kept some blocks, having failed to get one */
    long blocks;    /* of malloc that a life without faults leaves behind */
    bool is_over;
    char failure[4096];
} * sh;

static bool is_full;

/* ---- the allocator in between ---- */

static _Thread_local bool is_exempt;
static atomic_long n_blocks;

static struct {
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void *(*memalign)(size_t, size_t);
    void (*free)(void *);
    void *(*mmap)(void *, size_t, int, int, int, off_t);
    int (*thread)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
} real;

/* dlsym and those before it (the loader, sanitizers) allocate too: from here, and never freed. */
static _Alignas(16) char early[1 << 16];
static size_t n_early;
static bool is_looking;

static void *take_early(size_t n)
{
    n = (n + 15) & ~(size_t)15;
    if (n > sizeof early - n_early)
        abort();
    void *p = early + n_early;
    n_early += n;
    return p;
}

static bool is_early(const void *p)
{
    return (uintptr_t)p - (uintptr_t)early < sizeof early;
}

static void look_up(void)
{
    const struct {
        void *to;
        const char *name;
    } of[] = {{&real.malloc, "malloc"},        {&real.calloc, "calloc"}, {&real.realloc, "realloc"},
              {&real.memalign, "memalign"},    {&real.free, "free"},     {&real.mmap, "mmap"},
              {&real.thread, "pthread_create"}};
    is_looking = true;
    for (size_t i = 0; i < QN_COUNT(of); i++) {
        void *f = dlsym(RTLD_NEXT, of[i].name);
        memcpy(of[i].to, &f, sizeof f);
    }
    is_looking = false;
}

static bool is_ready(void)
{
    if (!real.thread && !is_looking)
        look_up();
    return real.thread && !is_looking;
}

/* A sanitizer allocates for itself, through libc too (pthread_getattr_np where a thread begins), and ends the program where that
 * fails: whether the first one outside libc, from the allocator's caller outwards, is one. Further out it is where threads begin. */
static bool is_of_sanitizer(const void *caller)
{
    int i = 0;
    while (i < sh->n_frames && sh->frames[i] != caller)
        i++;
    Dl_info info;
    for (; i < sh->n_frames && dladdr(sh->frames[i], &info) && info.dli_fname; i++)
        if (!strstr(info.dli_fname, "/libc.so"))
            return strstr(info.dli_fname, "libasan") || strstr(info.dli_fname, "libtsan");
    return false;
}

static bool note_place(const void *caller)
{
    uint64_t h = 0xcbf29ce484222325u;
    sh->n_frames = backtrace(sh->frames, FRAMES);
    if (is_of_sanitizer(caller))
        return false;
    for (int i = 2; i < sh->n_frames; i++)
        h = (h ^ (uint64_t)(uintptr_t)sh->frames[i]) * 0x100000001b3u;
    for (int i = 0; i < sh->n_places; i++)
        if (sh->places[i] == h)
            return true;
    if (sh->n_places < PLACES)
        sh->places[sh->n_places++] = h;
    return true;
}

static bool fails_for(const void *caller)
{
    if (!sh || is_exempt || !atomic_load(&sh->fail_at))
        return false;
    if (atomic_fetch_add(&sh->n_calls, 1) + 1 != atomic_load(&sh->fail_at))
        return false;
    is_exempt = true;
    bool is_ours = note_place(caller);
    is_exempt = false;
    errno = is_ours ? ENOMEM : errno;
    return is_ours;
}

/* in each allocator: whether it fails for who called it */
#define FAILS() fails_for(__builtin_extract_return_addr(__builtin_return_address(0)))

static void *counted(void *p)
{
    if (p)
        (void)atomic_fetch_add(&n_blocks, 1);
    return p;
}

PUBLIC void *malloc(size_t n)
{
    if (!is_ready())
        return take_early(n);
    return FAILS() ? NULL : counted(real.malloc(n));
}

PUBLIC void *calloc(size_t n, size_t size)
{
    if (!is_ready())
        return take_early(n * size); /* zeros */
    return FAILS() ? NULL : counted(real.calloc(n, size));
}

PUBLIC void *realloc(void *p, size_t n)
{
    if (!is_ready() || is_early(p))
        abort(); /* no one does */
    if (FAILS())
        return NULL;
    void *q = real.realloc(p, n);
    if (!p)
        counted(q);
    return q;
}

PUBLIC void *memalign(size_t border, size_t n)
{
    return !is_ready() || FAILS() ? NULL : counted(real.memalign(border, n));
}

PUBLIC void *aligned_alloc(size_t border, size_t n)
{
    return !is_ready() || FAILS() ? NULL : counted(real.memalign(border, n));
}

PUBLIC int posix_memalign(void **out, size_t border, size_t n)
{
    void *p = !is_ready() || FAILS() ? NULL : counted(real.memalign(border, n));
    if (p)
        *out = p;
    return p ? 0 : ENOMEM;
}

PUBLIC void free(void *p)
{
    if (!p || is_early(p) || !is_ready())
        return;
    (void)atomic_fetch_sub(&n_blocks, 1);
    real.free(p);
}

/* Memory only; files have their own errors. */
PUBLIC void *mmap(void *p, size_t n, int prot, int flags, int fd, off_t at)
{
    if (!is_ready())
        abort();
    return fd < 0 && FAILS() ? MAP_FAILED : real.mmap(p, n, prot, flags, fd, at);
}

PUBLIC int pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*run)(void *), void *arg)
{
    return is_ready() && FAILS() ? EAGAIN : real.thread(t, a, run, arg);
}

static void arm(long at)
{
    atomic_store(&sh->n_calls, 0);
    atomic_store(&sh->fail_at, at);
}

static bool disarm(void)
{
    long at = atomic_exchange(&sh->fail_at, 0);
    return atomic_load(&sh->n_calls) >= at;
}

/* ---- a server in this process ---- */

typedef struct life {
    qn_server *server;
    qn_server_config cfg;
    qn_server_model model;
    pthread_t thread;
    bool has_thread;
    qn_status status;
    qn_err err;
    pthread_mutex_t lock;
    pthread_cond_t came;
    bool is_open, is_over;
    qn_engine *engine;
} life;

static void lose(void *arg, const char *line)
{
    (void)arg;
    (void)line;
}

static void on_opened(void *arg, const char *model, qn_engine *e, const qn_err *err)
{
    life *l = arg;
    (void)model;
    (void)err;
    (void)pthread_mutex_lock(&l->lock);
    l->engine = e;
    (void)pthread_mutex_unlock(&l->lock);
}

static void on_ready(void *arg)
{
    life *l = arg;
    (void)pthread_mutex_lock(&l->lock);
    l->is_open = true;
    (void)pthread_cond_signal(&l->came);
    (void)pthread_mutex_unlock(&l->lock);
}

static void *run_server(void *arg)
{
    life *l = arg;
    l->status = qn_server_run(l->server, &l->err);
    (void)pthread_mutex_lock(&l->lock);
    l->is_over = true;
    (void)pthread_cond_signal(&l->came);
    (void)pthread_mutex_unlock(&l->lock);
    return NULL;
}

static const char *pem_path; /* key and certificate; NULL: no TLS */

/* Until the model is open or the server has ended. */
static void begin(life *l)
{
    static const qn_class class = {.name = "default", .share = 100};
    static const qn_api_key key = {.key = "k", .tenant = "t", .class_name = "default"};
    *l = (life){.lock = PTHREAD_MUTEX_INITIALIZER, .came = PTHREAD_COND_INITIALIZER};
    l->model.name = "m";
    l->model.config = qn_config_default();
    l->model.config.model = QN_SOURCE_DIR "/tests/golden/models/qwen3-tied-bf16";
    l->model.config.n_threads = 1;
    l->model.config.max_ctx = 256;
    l->model.config.max_seqs = 4;
    l->model.config.n_kv_blocks = 64;
    l->model.config.no_prefix_cache = true; /* the same work, and the same bits, each time */
    l->model.config.classes = &class;
    l->model.config.n_classes = 1;
    l->cfg = (qn_server_config){.models = &l->model,
                                .n_models = 1,
                                .keys = &key,
                                .n_keys = 1,
                                .tls_cert = pem_path,
                                .tls_key = pem_path,
                                .n_workers = 1,
                                .any_model = true,
                                .drain_s = 30,
                                .log = lose,
                                .opened = on_opened,
                                .ready = on_ready,
                                .arg = l};
    l->status = qn_server_new(&l->server, &l->cfg, &l->err);
    if (l->status != QN_OK)
        return;
    is_exempt = true; /* this thread is the test's */
    l->has_thread = pthread_create(&l->thread, NULL, run_server, l) == 0;
    is_exempt = false;
    sigset_t
        pipe_only; /* the server's thread has to look after itself; a client of TLS that is cut off shall not die */
    (void)sigemptyset(&pipe_only);
    (void)sigaddset(&pipe_only, SIGPIPE);
    (void)pthread_sigmask(SIG_BLOCK, &pipe_only, NULL);
    (void)pthread_mutex_lock(&l->lock);
    while (!l->is_open && !l->is_over)
        (void)pthread_cond_wait(&l->came, &l->lock);
    (void)pthread_mutex_unlock(&l->lock);
}

static void stop(life *l)
{
    if (!l->server)
        return;
    qn_server_reload(l->server); /* before the end, or overtaken by it */
    qn_server_stop(l->server);
    if (l->has_thread)
        (void)pthread_join(l->thread, NULL);
    qn_server_free(l->server);
    l->server = NULL;
}

/* ---- a client ---- */

typedef struct ask {
    const char *method, *path, *body;
    const char *begin, *end; /* what to compare: all pieces between these, one after the other */
    bool is_cut;             /* the client leaves after the first bytes */
    bool is_kept; /* the connection lives on: the server has to say where the answer ends */
} ask;

#define CHAT "\"messages\":[{\"role\":\"user\",\"content\":\"hello there\"}]"
#define FEW  "\"temperature\":0,\"max_tokens\":4"
#define TOOL                                                                                       \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":\"d\","        \
    "\"parameters\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}}}}}]"

static const ask good = {
    "POST",         "/v1/completions", "{\"prompt\":\"Once upon a time\"," FEW "}",
    "\"choices\":", "\"usage\"",       false,
    false};

static const ask asks[] = {
    {"POST", "/v1/completions",
     "{\"prompt\":[\"a\",\"and b\"],\"logprobs\":2,\"stop\":[\"zzz\"],\"n\":2,\"seed\":1," FEW "}",
     "\"choices\":", "\"usage\"", false, false},
    {"POST", "/v1/completions", "{\"prompt\":\"hello\",\"stream\":true," FEW "}", "\"text\":\"",
     "\"", false, false},
    {"POST", "/v1/completions",
     "{\"prompt\":\"hello\",\"echo\":true,\"logprobs\":1,\"max_tokens\":0}",
     "\"choices\":", "\"usage\"", false, false},
    {"POST", "/v1/completions", "{\"prompt\":\"hello\",\"use_beam_search\":true,\"n\":2," FEW "}",
     "\"choices\":", "\"usage\"", false, false},
    {"POST", "/v1/chat/completions",
     "{" CHAT "," TOOL ",\"logprobs\":true,\"top_logprobs\":2," FEW "}",
     "\"choices\":", "\"usage\"", false, false},
    {"POST", "/v1/chat/completions",
     "{" CHAT ",\"stream\":true,\"stream_options\":{\"include_usage\":true}," FEW "}",
     "\"content\":\"", "\"", false, true},
    {"POST", "/v1/responses", "{\"input\":\"hello\",\"temperature\":0,\"max_output_tokens\":16}",
     "\"text\":\"", "\"", false, false},
    {"POST", "/v1/responses",
     "{\"input\":\"hello\",\"stream\":true,\"temperature\":0,\"max_output_tokens\":16}",
     "\"delta\":\"", "\"", false, false},
    {"POST", "/v1/messages", "{" CHAT ",\"system\":\"be brief\"," FEW "}", "\"content\":[",
     "\"stop_reason\"", false, false},
    {"POST", "/v1/messages", "{" CHAT ",\"stream\":true," FEW "}", "\"text_delta\",\"text\":\"",
     "\"", false, false},
    {"POST", "/api/generate",
     "{\"prompt\":\"hello\",\"stream\":false,\"options\":{\"num_predict\":4,\"temperature\":0}}",
     "\"response\":\"", "\"done\"", false, false},
    {"POST", "/api/chat",
     "{\"model\":\"m\"," CHAT ",\"options\":{\"num_predict\":4,\"temperature\":0}}",
     "\"content\":\"", "\"}", false, false},
    {"POST", "/api/embed", "{\"model\":\"m\",\"input\":[\"hello\",\"there\"]}",
     "\"embeddings\":", "\"total", false, false},
    {"POST", "/generate", "{\"inputs\":\"hello\",\"parameters\":{\"max_new_tokens\":4}}",
     "\"generated_text\":\"", "\"", false, false},
    {"POST", "/v1/embeddings", "{\"input\":[\"hello\",\"there\"]}", "\"data\":", "\"model\"", false,
     false},
    {"POST", "/tokenize", "{\"prompt\":\"hello there\"}", "\"tokens\":", "}", false, false},
    {"POST", "/tokenize", "{" CHAT "}", "\"tokens\":", "}", false, false},
    {"POST", "/detokenize", "{\"tokens\":[300,301,302]}", "\"prompt\":", "}", false, false},
    {"POST", "/apply-template", "{" CHAT "}", "\"prompt\":", "}", false, false},
    {"GET", "/v1/models", NULL, "\"id\":", ",", false, false},
    {"GET", "/v1/models/m", NULL, "\"id\":", ",", false, false},
    {"GET", "/api/tags", NULL, "\"name\":", ",", false, false},
    {"GET", "/api/ps", NULL, "\"name\":", ",", false, false},
    {"GET", "/health", NULL, "\"status\":", "}", false, false},
    {"GET", "/metrics", NULL, "# TYPE quern:model_ready ", "\n", false, false},
    {"GET", "/metrics.json", NULL, "\"version\":", ",", false, false},
    {"GET", "/debug/timeline", NULL, "\"displayTimeUnit\":", ",", false, false},
    {"GET", "/nothing", NULL, "\"message\":", ",", false, false},
    {"POST", "/v1/chat/completions", "{" CHAT ",\"temperature\":9}", "\"message\":", ",", false,
     false},
    {"POST", "/v1/completions",
     "{\"prompt\":\"hello\",\"stream\":true,\"ignore_eos\":true,\"max_tokens\":200}", NULL, NULL,
     true, false},
    {"POST", "/v1/chat/completions", "{" CHAT ",\"n\":2,\"stream\":true,\"max_tokens\":200}", NULL,
     NULL, true, false},
};

typedef struct reply {
    int status; /* 0: none came, or not a whole one */
    bool is_whole;
    char *text; /* of malloc: base/mem is what is tested */
    size_t n;
} reply;

static int connect_to(const life *l)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)qn_server_port(l->server)),
                            .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

static SSL_CTX *client_tls;

static size_t read_some(SSL *ssl, int fd, char *to, size_t n)
{
    int k = ssl ? SSL_read(ssl, to, (int)n) : (int)recv(fd, to, n, 0);
    return k > 0 ? (size_t)k : 0;
}

static bool send_all(SSL *ssl, int fd, const char *p, size_t n)
{
    return ssl ? SSL_write(ssl, p, (int)n) == (int)n : send(fd, p, n, MSG_NOSIGNAL) == (ssize_t)n;
}

/* A whole answer: as many bytes as its head says, or its last chunk. */
static bool is_whole(const char *text, size_t n)
{
    const char *end = strstr(text, "\r\n\r\n");
    const char *length = strstr(text, "\r\nContent-Length: "),
               *chunked = strstr(text, "\r\nTransfer-Encoding: chunked\r\n");
    if (!end)
        return false;
    if (length && length < end)
        return (size_t)(end + 4 - text) + (size_t)atol(length + 18) == n;
    return chunked && chunked < end && memcmp(text + n - 5, "0\r\n\r\n", 5) == 0;
}

static reply request(const life *l, const ask *a)
{
    char head[512];
    reply r = {.text = malloc((size_t)1 << 20)};
    const size_t room = ((size_t)1 << 20) - 1;
    size_t n_body = a->body ? strlen(a->body) : 0;
    int fd = connect_to(l);
    SSL *ssl = NULL;
    if (client_tls && fd >= 0) {
        ssl = SSL_new(client_tls);
        (void)SSL_set_fd(ssl, fd);
    }
    int n = snprintf(head, sizeof head,
                     "%s %s HTTP/1.1\r\nHost: localhost\r\nx-api-key: k\r\n%sContent-Type: "
                     "application/json\r\nContent-Length: %zu\r\n\r\n",
                     a->method, a->path, a->is_kept ? "" : "Connection: close\r\n", n_body);
    if (fd >= 0 && (!ssl || SSL_connect(ssl) == 1) && send_all(ssl, fd, head, (size_t)n) &&
        (!n_body || send_all(ssl, fd, a->body, n_body))) {
        for (size_t k; r.n < room && (k = read_some(ssl, fd, r.text + r.n, room - r.n)) > 0;) {
            r.n += k;
            r.text[r.n] = 0;
            if (a->is_cut || (a->is_kept && is_whole(r.text, r.n)))
                break;
        }
    }
    r.text[r.n] = 0;
    r.is_whole = is_whole(r.text, r.n);
    if (r.n > 12 && memcmp(r.text, "HTTP/1.1 ", 9) == 0)
        r.status = atoi(r.text + 9);
    if (ssl && a->is_cut) /* gone without a word */
        SSL_set_quiet_shutdown(ssl, 1);
    SSL_free(ssl);
    ERR_clear_error();
    if (fd >= 0)
        (void)close(fd);
    return r;
}

/* The parts of an answer that are the same each time. */
static char *essence(const reply *r, const ask *a)
{
    char *out = calloc(1, r->n + 1);
    size_t n = 0, n_begin = a->begin ? strlen(a->begin) : 0;
    for (const char *p = a->begin ? strstr(r->text, a->begin) : NULL; p; p = strstr(p, a->begin)) {
        p += n_begin;
        const char *end = strstr(p, a->end);
        size_t k = end ? (size_t)(end - p) : strlen(p);
        memcpy(out + n, p, k);
        n += k;
    }
    return out;
}

/* ---- what is checked ---- */

static void say_failure(const char *fmt, ...) QN_PRINTF(1, 2);
static void say_failure(const char *fmt, ...)
{
    va_list ap;
    size_t n = strlen(sh->failure);
    va_start(ap, fmt);
    if (n < sizeof sh->failure - 1)
        (void)vsnprintf(sh->failure + n, sizeof sh->failure - n, fmt, ap);
    va_end(ap);
}

static size_t live(void)
{
    size_t n = 0;
    for (int t = 0; t < QN_MEM_N_TAGS; t++)
        n += qn_mem_live((qn_mem_tag)t);
    return n;
}

static int n_descriptors(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    (void)closedir(d);
    return n;
}

/* What there was before a server. */
typedef struct before {
    size_t live;
    int n_descriptors;
    long n_blocks;
} before;

static before look(void)
{
    OPENSSL_thread_stop(); /* what it keeps of errors for this thread */
    return (before){live(), n_descriptors(), atomic_load(&n_blocks)};
}

/* The fault was in OpenSSL's own code, called by no other library. */
static bool is_of_openssl(void)
{
    Dl_info info;
    return sh->n_frames > 2 && dladdr(sh->frames[2], &info) && info.dli_fname &&
           (strstr(info.dli_fname, "libcrypto") || strstr(info.dli_fname, "libssl"));
}

static void check_left(const before *b, const char *what)
{
    before now = look();
    if (now.live != b->live)
        say_failure("%s: %zd bytes of base/mem are left\n", what, (ssize_t)(now.live - b->live));
    if (now.n_descriptors != b->n_descriptors)
        say_failure("%s: %d descriptors are left\n", what, now.n_descriptors - b->n_descriptors);
    long blocks = now.n_blocks - b->n_blocks;
    if (sh->blocks < 0)
        sh->blocks = blocks;
    if (blocks > sh->blocks && is_of_openssl())
        sh->n_openssl++;
    else if (blocks > sh->blocks)
        say_failure("%s: %ld blocks of malloc are left, %ld without faults\n", what, blocks,
                    sh->blocks);
}

static void check_good(const life *l, const char *want, const char *what)
{
    reply r = request(l, &good);
    char *have = essence(&r, &good);
    if (r.status != 200 || !r.is_whole || strcmp(have, want) != 0)
        say_failure("%s: the next request: status %d, '%.300s'\n", what, r.status, r.text);
    free(have);
    free(r.text);
}

static void wait_idle(const life *l)
{
    while (qn_block_pool_n_free(l->engine->pool) != qn_block_pool_n_blocks(l->engine->pool))
        (void)sched_yield();
}

/* ---- children ---- */

static void on_crash(int sig)
{
    is_exempt = true;
    sh->n_crash = backtrace(sh->crash, FRAMES);
    (void)signal(sig, SIG_DFL);
    (void)raise(sig);
}

/* Runs f in a child; false: it died. */
static bool in_child(void (*f)(const void *arg), const void *arg)
{
    sh->n_crash = 0;
    (void)fflush(NULL);
    pid_t p = fork();
    if (p == 0) {
        (void)alarm(HANG_S);
        (void)signal(SIGSEGV, on_crash);
        (void)signal(SIGABRT, on_crash);
        (void)signal(SIGBUS, on_crash);
        (void)signal(SIGALRM, on_crash);
        f(arg);
        _exit(0);
    }
    int status = 0;
    while (waitpid(p, &status, 0) < 0 && errno == EINTR)
        ;
    if (p > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    say_failure("%s %d", WIFSIGNALED(status) ? "died of signal" : "ended with",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return false;
}

static void print_frames(const char *what, void *const *frames, int n)
{
    print_error("  %s:\n", what);
    for (int i = 2; i < n; i++) {
        Dl_info info;
        char text[64] = "";
        if (dladdr(frames[i], &info) && info.dli_fname)
            (void)snprintf(text, sizeof text, "+0x%zx",
                           (size_t)((uintptr_t)frames[i] - (uintptr_t)info.dli_fbase));
        print_error("    %s%s %s\n", text[0] ? qn_base_name(info.dli_fname) : "?", text,
                    text[0] && info.dli_sname ? info.dli_sname : "");
    }
}

/* Prints what the last child found; whether it was good. */
static bool tell(const char *what)
{
    if (!sh->failure[0])
        return true;
    print_error("%s, allocation %ld fails: %s\n", what, sh->at, sh->failure);
    print_frames("it failed in", sh->frames, sh->n_frames);
    if (sh->n_crash)
        print_frames("it ended in", sh->crash, sh->n_crash);
    sh->failure[0] = 0;
    return false;
}

/* ---- opening and the end ---- */

static char *good_answer; /* of a server without faults */

/* sh->at fails, counted from the beginning to ready, and from stop to the end. */
static void live_once(const void *arg)
{
    (void)arg;
    life l;
    before b = look();
    arm(sh->at);
    begin(&l);
    bool is_hit = disarm();
    /* OpenSSL takes a certificate that it has no memory to read for a bad one */
    bool is_clear = l.status == QN_E_NOMEM || strncmp(l.err.msg, "TLS: ", 5) == 0;
    if (l.status != QN_OK && (!is_hit || !is_clear))
        say_failure("opening: status %d: %s\n", (int)l.status, l.err.msg);
    if (l.is_open) {
        is_exempt = true;
        check_good(&l, good_answer, "opened");
        is_exempt = false;
    }
    long n = atomic_load(&sh->n_calls);
    if (!is_hit) {
        atomic_store(&sh->fail_at, sh->at); /* goes on counting */
        stop(&l);
        is_hit = disarm();
        n = atomic_load(&sh->n_calls);
    } else {
        stop(&l);
    }
    sh->is_over = !is_hit;
    sh->n_faults += is_hit;
    sh->n_refused += is_hit && l.err.msg[0];
    sh->n_same += is_hit && !l.err.msg[0];
    check_left(&b, n < sh->at ? "no fault" : "the end");
}

static void test_lives(const char *name, long stride)
{
    long n_bad = 0;
    sh->n_faults = sh->n_same = sh->n_refused = sh->n_cut = sh->n_openssl = 0;
    atomic_store(&sh->n_places, 0);
    for (int n_over = 0, i = 0; n_over < IN_TURN; i++) {
        sh->at = 1 + (long)i * stride;
        sh->is_over = false;
        bool is_alive = in_child(live_once, NULL);
        sh->n_faults += !is_alive;
        n_bad += !tell(name);
        n_over += sh->is_over;
    }
    print_message(
        "A4: %s: %ld allocations failed, %d places, %ld survived: %ld with an error, %ld without\n",
        name, sh->n_faults, sh->n_places, sh->n_faults - n_bad, sh->n_refused, sh->n_same);
    if (sh->n_openssl)
        print_message("A4: after %ld of them OpenSSL has kept a block of its own\n", sh->n_openssl);
    assert_int_equal(n_bad, 0);
}

/* ---- requests ---- */

typedef struct asking {
    const ask *a;
    const char *want; /* essence */
    long stride;
} asking;

static void ask_once(const life *l, const asking *g)
{
    const ask *a = g->a;
    is_exempt = true;
    arm(sh->at);
    reply r = request(l, a);
    sh->is_over = !disarm();
    char *have = essence(&r, a);
    bool is_same = r.status != 0 && r.is_whole && g->want && strcmp(have, g->want) == 0;
    bool is_error = r.status == 503 || (r.status == 200 && strstr(r.text, "out of memory"));
    if (!a->is_cut && r.status && r.is_whole && !is_same && !is_error)
        say_failure("answered with %d: %.1200s\n", r.status, r.text);
    if (sh->is_over && !is_same && !a->is_cut)
        say_failure("without a fault: %d: %.1200s\n", r.status, r.text);
    if (!sh->is_over) {
        sh->n_faults++;
        sh->n_same += is_same;
        sh->n_refused += !is_same && is_error;
        sh->n_cut += !is_same && !is_error;
    }
    free(have);
    free(r.text);
    check_good(l, good_answer, "after it");
    wait_idle(l);
    is_exempt = false;
}

/* From sh->at on, until there are no more or one is not survived. */
static void ask_often(const void *arg)
{
    const asking *g = arg;
    life l;
    before b = look();
    begin(&l);
    if (l.status != QN_OK) {
        say_failure("opening: %s\n", l.err.msg);
        return;
    }
    for (int n_over = 0; n_over < IN_TURN && !sh->failure[0]; n_over += sh->is_over) {
        ask_once(&l, g);
        sh->at += sh->failure[0] ? 0 : g->stride;
    }
    (void)stop(&l);
    if (!sh->failure[0])
        check_left(&b, "the end");
}

static void get_want(const void *arg)
{
    const ask *a = arg;
    life l;
    begin(&l);
    is_exempt = true;
    reply r = request(&l, a);
    char *have = essence(&r, a);
    /* in the shared page, for the parent */
    (void)snprintf(sh->failure, sizeof sh->failure, "%s", have);
    is_exempt = false;
    stop(&l);
}

static char *want_of(const ask *a)
{
    sh->failure[0] = 0;
    assert_true(in_child(get_want, a));
    char *want = strdup(sh->failure);
    sh->failure[0] = 0;
    if (!a->is_cut && !want[0])
        fail_msg("%s %s: no answer", a->method, a->path);
    return want;
}

static void test_asks(const char *name, long stride)
{
    long n_bad = 0;
    sh->n_faults = sh->n_same = sh->n_refused = sh->n_cut = sh->n_openssl = 0;
    atomic_store(&sh->n_places, 0);
    for (size_t i = 0; i < QN_COUNT(asks); i++) {
        char what[128], *want = want_of(&asks[i]);
        asking g = {&asks[i], want, stride};
        (void)snprintf(what, sizeof what, "%s: %s %s%s", name, asks[i].method, asks[i].path,
                       asks[i].is_cut ? ", left" : "");
        sh->at = 1 + (long)i % stride;
        long n_before = sh->n_faults;
        for (bool is_over = false; !is_over;) {
            sh->is_over = false;
            sh->n_faults += !in_child(ask_often, &g); /* who dies has not counted it */
            is_over = !sh->failure[0];
            n_bad += !tell(what);
            sh->at += stride;
        }
        if (is_full)
            print_message("%s: %ld\n", what, sh->n_faults - n_before);
        free(want);
    }
    print_message("A4: %s: %ld allocations failed, %d places, %ld survived: %ld refused, %ld cut, "
                  "%ld without harm\n",
                  name, sh->n_faults, sh->n_places, sh->n_faults - n_bad, sh->n_refused, sh->n_cut,
                  sh->n_same);
    assert_int_equal(n_bad, 0);
}

/* ---- tests ---- */

/* What libraries make once for the process is made now; before, it is what fails, and may be left. */
static void warm_up(void)
{
    life l;
    begin(&l);
    assert_int_equal(l.status, QN_OK);
    is_exempt = true;
    free(request(&l, &good).text);
    is_exempt = false;
    stop(&l);
    sh->blocks = -1;
    sh->at = LONG_MAX;
    assert_true(in_child(live_once, NULL) && tell("no fault")); /* sets sh->blocks */
}

static void test_plain(void **state)
{
    (void)state;
    sh->blocks = LONG_MAX;
    good_answer = want_of(&good);
    test_lives("the first opening of a process", is_full ? 1 : 101);
    warm_up();
    test_lives("opening and the end", is_full ? 1 : 29);
    test_asks("requests", is_full ? 1 : 31);
    free(good_answer);
}

static void write_pem(const char *path)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    FILE *f = fopen(path, "w");
    assert_true(key && cert && f);
    (void)ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    (void)X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
    (void)X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    (void)X509_set_pubkey(cert, key);
    X509_NAME *name = X509_get_subject_name(cert);
    (void)X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"localhost",
                                     -1, -1, 0);
    (void)X509_set_issuer_name(cert, name);
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    assert_true(PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) == 1 &&
                PEM_write_X509(f, cert) == 1);
    assert_int_equal(fclose(f), 0);
    X509_free(cert);
    EVP_PKEY_free(key);
}

static void test_tls(void **state)
{
    (void)state;
    char path[] = "/tmp/test_server_oom.XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)close(fd);
    write_pem(path);
    pem_path = path;
    client_tls = SSL_CTX_new(TLS_client_method());
    sh->blocks = LONG_MAX;
    good_answer = want_of(&good);
    test_lives("with TLS, the first opening", is_full ? 1 : 211);
    warm_up();
    test_lives("with TLS, opening and the end", is_full ? 1 : 211);
    test_asks("with TLS, requests", is_full ? 3 : 211);
    free(good_answer);
    SSL_CTX_free(client_tls);
    (void)unlink(path);
}

int main(int argc, char **argv)
{
    void *warm[4];
    is_full = argc > 1 && strcmp(argv[1], "--full") == 0;
    sh = mmap(NULL, sizeof *sh, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (sh == MAP_FAILED || backtrace(warm, 4) == 0)
        return 1;
    const struct CMUnitTest t[] = {cmocka_unit_test(test_plain), cmocka_unit_test(test_tls)};
    int rc = cmocka_run_group_tests(t, NULL, NULL);
    (void)fflush(NULL);
    _exit(
        rc); /* LeakSanitizer would take blocks that the loader got through us for lost; ours were counted */
}
