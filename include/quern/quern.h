/* SPDX-License-Identifier: Apache-2.0
 * quern.h - the public API of Quern: open a model, submit requests, read events.
 *
 *   qn_err err;
 *   qn_config config = qn_config_default();
 *   config.model = "model.gguf";
 *   qn_engine *engine;
 *   if (qn_engine_open(&engine, &config, &err) != QN_OK)
 *       fail(err.msg);
 *   qn_prompt prompt = {.text = "Hello"};
 *   qn_params params = qn_params_default();
 *   qn_request *request;
 *   qn_event event;
 *   if (qn_request_submit(&request, engine, &prompt, &params, &err) != QN_OK)
 *       fail(err.msg);
 *   while (qn_request_next(request, &event, &err) == QN_OK && event.kind != QN_EVENT_DONE)
 *       fwrite(event.text, 1, event.n_text, stdout);
 *   qn_request_free(request);
 *   qn_engine_free(engine);
 *
 * Errors: every function that can fail returns a qn_status and writes one line into err (which may
 * be NULL): what the thing is, what was found, what is wanted. On failure *out is NULL and there is
 * nothing to free. Nothing here prints, exits or ends the process over its input.
 * Memory: what goes in is borrowed for the call, copied if it is needed longer. What comes out says
 * how long it is valid, or how it is freed.
 * Text: strings are UTF-8; with a length beside them they need no NUL at the end.
 * Threads: an engine has a thread of its own. Its functions may be called from any thread at any
 * time; those of one request from one thread at a time, but for qn_request_cancel. Several engines may be open;
 * they are opened one after the other. */
#ifndef QUERN_QUERN_H
#define QUERN_QUERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QN_VERSION "0.1.0"
#define QN_API     __attribute__((visibility("default")))

typedef enum qn_status {
    QN_OK = 0,
    QN_E_ARG,         /* a parameter is wrong */
    QN_E_FORMAT,      /* a file or text is malformed */
    QN_E_UNSUPPORTED, /* understood, and not done here */
    QN_E_NOT_FOUND,   /* no such file, or nothing (more) of that kind */
    QN_E_IO,          /* the system or the network failed */
    QN_E_NOMEM,       /* out of memory; the engine goes on */
    QN_E_KV_FULL,     /* no room in the K/V cache now (qn_score, qn_bench) */
    QN_E_TOO_LONG,    /* more tokens or bytes than can ever fit */
    QN_E_QUEUE_FULL,  /* as many wait as this tenant may have */
    QN_E_BUSY,        /* the queue is full of others' */
    QN_E_CANCELLED,   /* by qn_request_cancel or qn_engine_free */
    QN_E_TIMEOUT,
    QN_E_DEVICE,
    QN_E_PEER,
    QN_E_INTERNAL /* a mistake of ours, or weights that give no finite number */
} qn_status;

typedef struct qn_err {
    qn_status status;
    char msg[400]; /* one line without control bytes; longer ones are cut */
} qn_err;

QN_API const char *qn_status_name(qn_status s); /* "bad argument"; static */

/* ---- engine ---- */

typedef struct qn_engine qn_engine;
typedef struct qn_grammar qn_grammar; /* grammar.h */

/* Which sequences use the scaled positions (YaRN) that a config names. */
typedef enum qn_rope_scaling {
    /* those that need more than the model's original context; with `exact` every one, as the
     * reference implementation */
    QN_ROPE_AUTO,
    QN_ROPE_ALWAYS,
    QN_ROPE_NEVER
} qn_rope_scaling;

/* How keys and values are kept. int8 takes 0.53 of the memory of f16 (head_dim 128). */
typedef enum qn_kv_cache_dtype {
    QN_KV_CACHE_AUTO, /* f16; f32 with `exact` */
    QN_KV_CACHE_F32,
    QN_KV_CACHE_F16,
    QN_KV_CACHE_INT8
} qn_kv_cache_dtype;

/* Tokens guessed ahead and verified several in one step: the answers are the same to the bit. */
typedef enum qn_speculation {
    QN_SPEC_AUTO, /* as far as measured times and successes say that it gains */
    QN_SPEC_OFF,
    QN_SPEC_NGRAM, /* always: what followed where the text last went alike (prompt lookup) */
    QN_SPEC_DRAFT  /* always: what draft_model says */
} qn_speculation;

/* What requests of one kind may count on, and what they weigh against others. */
#define QN_MAX_CLASSES 16
#define QN_GAP_AUTO    UINT32_MAX
typedef struct qn_class {
    const char *name; /* 1 to 32 of [A-Za-z0-9_-] */
    uint32_t share;   /* of the time that others want too, 1 to 10000; unused share is lent */
    /* from submit to the end of the answer, while the class keeps to its share; 0: none */
    uint32_t target_ms;
    /* a running answer waits no longer for its next token while prompts are read; 0: no limit;
     * QN_GAP_AUTO: twice as long as without them, 50 ms or more; up to 6 times where many wait */
    uint32_t gap_ms;
    bool refuse_late; /* what will surely miss the target is refused at once (QN_E_TIMEOUT) */
} qn_class;

/* At most max_seqs sequences of up to max_tokens tokens (prompt and answer) are computed together. */
typedef struct qn_bucket {
    uint32_t max_tokens, max_seqs;
} qn_bucket;

typedef struct qn_config {
    /* a GGUF file (the first of a split set), a packed file, or a Hugging Face folder */
    const char *model;
    const char *device;        /* "cpu"; NULL: the same */
    const char *chat_template; /* a Jinja file to use instead of the model's; NULL: the model's */
    /* 0: as many as affinity, physical cores and cgroup quota allow when the engine is opened, and
     * fewer while the quota is lowered or other programs leave less */
    int n_threads;
    unsigned cpu_mask; /* instruction sets allowed; 0: the plain C kernels; default: all */
    bool exact;        /* float32 activations and K/V, no fused operations */
    qn_kv_cache_dtype kv_cache_dtype;
    bool plain_plan; /* one operation for each formula, also without exact: to compare with */
    /* weights stay in the mapped file, whose pages processes share (a packed file, or formats that
     * need no packing); slower by what huge pages give */
    bool mmap;
    bool prefault; /* the whole K/V cache is resident from the start; else as it fills */
    bool dry;      /* sizes only (qn_engine_get_info): weights are not read, nothing can be run */
    /* Bytes of memory for weights, K/V and all else; 0: as many as are needed. Experts of a packed
     * file that find no room stay in it and are read when a token needs them; same results. */
    uint64_t mem_limit;
    int max_ctx;  /* tokens of one sequence, may pass the model's; 0: the model's, at most 32768 */
    int max_seqs; /* sequences computed together; more wait. 0: 16 */
    int max_batch_tokens; /* tokens of one step, prompts and answers together; 0: 512 */
    /* K/V cache, in blocks of 64 tokens; 0: enough for max_ctx and for 1024 tokens of each of
     * max_seqs, within half of the memory that the weights leave (max_ctx shrinks with it) */
    int n_kv_blocks;
    qn_rope_scaling rope_scaling;
    qn_speculation speculation;
    const char *draft_model; /* a small model with the same vocabulary that guesses; NULL: none */
    int max_draft;           /* tokens guessed ahead in one step; 0: 16, at most 63 */
    /* Requests of several classes, most urgent first; NULL: one class, "default". Copied. */
    const qn_class *classes;
    int n_classes;
    int default_class;        /* of requests that name none */
    bool fifo;                /* in order of arrival, whatever the class: to compare with */
    const qn_bucket *buckets; /* by ascending max_tokens; NULL: none. Copied */
    int n_buckets;
    int min_seqs; /* adaptive: between this and max_seqs, as many as gain throughput; 0: max_seqs */
    int batch_timeout_ms; /* an idle engine waits so long for max_seqs requests; 0: not */
    int max_queue; /* waiting requests. 0: 512. A tenant may have as many as are left free: half of them alone */
    bool no_prefix_cache; /* K/V of ended requests are not kept for those that begin alike */
    /* Called by qn_engine_open: what is being done, and how much of it (0 to 1). NULL: silent. */
    void (*progress)(void *arg, const char *what, double done);
    void *progress_arg;
} qn_config;
QN_API qn_config qn_config_default(void);

QN_API qn_status qn_engine_open(qn_engine **out, const qn_config *cfg, qn_err *err);
/* Ends what still runs: those requests fail with QN_E_CANCELLED and are freed as ever, before or
 * after. NULL allowed. */
QN_API void qn_engine_free(qn_engine *e);

typedef struct qn_engine_info {
    const char *name, *arch, *quantization; /* all strings are valid while the engine lives */
    const char *device;                     /* "cpu: 2 threads, avx2" */
    uint64_t n_params;
    uint64_t weight_bytes;           /* in memory */
    uint64_t weight_bytes_per_token; /* read to decode a token of one sequence */
    double prompt_flops; /* of prompt_tokens, logits of the last; multiply and add are two */
    int prompt_tokens;
    const char *kv_cache_dtype; /* "f16" */
    uint64_t kv_bytes, activation_bytes, vocab_bytes;
    uint64_t spare_bytes; /* of weight_bytes: experts that a mem_limit could leave in the file */
    int n_layers, hidden_size, n_vocab; /* n_vocab: logits of a row */
    int max_ctx, model_max_ctx;         /* tokens of one sequence: here; as trained */
    size_t max_prompt_bytes; /* a text of more has more tokens than max_ctx, whatever it is */
    int n_threads;
    bool has_chat_template;
} qn_engine_info;
QN_API void qn_engine_get_info(const qn_engine *e, qn_engine_info *out);

/* Experts under qn_config.mem_limit. Counts grow from qn_engine_open on. */
typedef struct qn_expert_info {
    uint64_t n_experts, n_in_memory; /* of all layers; the most that are in memory together */
    uint64_t n_uses, n_hits; /* experts that tokens of a step went to; those there already */
    uint64_t read_bytes;     /* of the others, from the file */
} qn_expert_info;
/* False: all stay in memory. */
QN_API bool qn_engine_get_experts(const qn_engine *e, qn_expert_info *out);

/* ---- requests ---- */

typedef struct qn_message {
    const char *role, *content; /* "user", ...: whatever the template knows */
} qn_message;

/* What to continue: exactly one of text, ids, messages, chat_json. In a conversation special tokens
 * are recognised in the template's own text only, never in what messages hold. */
typedef struct qn_prompt {
    const char *text;   /* raw text; special tokens in it are text unless parse_special */
    size_t n_text;      /* its bytes; 0: up to its NUL */
    bool parse_special; /* of text only */
    const int32_t *ids; /* token ids */
    size_t n_ids;
    const qn_message *messages; /* a conversation, rendered with the chat template */
    size_t n_messages;
    /* a JSON object: messages, tools, and any template variable. continue_final_message: the text ends
     * where the last message's content does */
    const char *chat_json;
} qn_prompt;

typedef struct qn_logit_bias {
    int32_t token_id;
    float bias; /* -100 to 100, added to the logit */
} qn_logit_bias;

/* A field out of its range is QN_E_ARG. */
typedef struct qn_params {
    float temperature;        /* 0: greedy; to 100 */
    int top_k;                /* 0: off */
    float top_p;              /* over 0 to 1; 1: off */
    float min_p;              /* 0: off; below 1 */
    float typical_p;          /* over 0 to 1; 1: off */
    float repetition_penalty; /* 1: off; over 0 to 10; over prompt and output, as Hugging Face */
    float presence_penalty;   /* 0: off; -2 to 2; over the output, as OpenAI */
    float frequency_penalty;
    const qn_logit_bias *logit_bias;
    size_t n_logit_bias;     /* at most 1024 */
    uint64_t seed;           /* candidate i draws with seed + i; 0: a random seed */
    int max_tokens;          /* 0: up to the context */
    int min_tokens;          /* end tokens are not chosen before */
    bool ignore_eos;         /* the model's end tokens do not end the answer */
    const char *const *stop; /* stop strings; the text ends before the first one found */
    size_t n_stop;           /* at most 16, of 1 to 256 bytes */
    const int32_t *stop_ids; /* stop tokens besides the model's own */
    size_t n_stop_ids;       /* at most 1024 */
    qn_grammar *grammar;     /* of the answer (grammar.h); NULL: anything. No beam search */
    int n_logprobs;          /* -1: none; 0: of the chosen token; n: and of the n best (to 20) */
    int n;                   /* candidates, 1 to 16; with beam_width at most that */
    int beam_width;          /* 0: sample; to 16: beam search that gives the n best */
    float length_penalty;    /* beam search: score = sum of logprobs / length^penalty */
    /* serving */
    const char *class_name; /* of qn_config.classes; NULL: the default one */
    /* Whose request: classes and the queue are fair among tenants, and cached prefixes are shared within one only (unless
     * shares_prefixes). NULL: nobody's, which is one more tenant, but for the queue: it may fill that */
    const char *tenant;
    bool shares_prefixes;   /* with everybody that does */
    const char *cache_salt; /* prefixes are shared among equal salts only; NULL: none */
    /* Called when an event was added or the request ended: on the engine's thread, which waits
     * meanwhile; it must be short and call nothing of here. Not called after qn_request_drop or
     * qn_request_free has returned. */
    void (*notify)(void *arg);
    void *notify_arg;
    bool is_probe; /* asks only whether the engine works: never refused, in no count of stats */
} qn_params;
QN_API qn_params qn_params_default(void);
/* The defaults, and over them the model's generation_config.json. */
QN_API void qn_engine_get_params(const qn_engine *e, qn_params *out);

typedef struct qn_request qn_request;

/* Renders, tokenises (on this thread) and queues. Free the request with qn_request_free. */
QN_API qn_status qn_request_submit(qn_request **out, qn_engine *e, const qn_prompt *prompt,
                                   const qn_params *params, qn_err *err);

typedef struct qn_logprob {
    int32_t token_id;
    float logprob;    /* natural logarithm, of the model's own distribution */
    const char *text; /* the token's bytes, maybe not whole UTF-8; valid while the engine lives */
    size_t n_text;
} qn_logprob;

/* Why no more of a prompt was found in the prefix cache. */
typedef enum qn_miss {
    QN_MISS_NONE,  /* all that can be: the last token is always computed */
    QN_MISS_OFF,   /* no prefix cache */
    QN_MISS_SHORT, /* the prompt is shorter than a block of 64 tokens */
    QN_MISS_NEW,   /* nothing of it was seen before (of this tenant and salt), or it was evicted */
    QN_MISS_PART   /* it began like an earlier one, then went another way */
} qn_miss;

typedef enum qn_event_kind { QN_EVENT_TOKEN, QN_EVENT_DONE } qn_event_kind;

typedef enum qn_finish {
    QN_FINISH_NONE,
    QN_FINISH_STOP,   /* end token, stop token or stop string */
    QN_FINISH_LENGTH, /* max_tokens or the context */
    /* in no event, since qn_request_next fails instead; for what programs note down */
    QN_FINISH_CANCELLED,
    QN_FINISH_ERROR
} qn_finish;

/* TOKEN: one for each token of each candidate. DONE: one, at the end. */
typedef struct qn_event {
    qn_event_kind kind;
    int index;      /* candidate, 0 to n - 1 */
    uint64_t at_ns; /* when it came to be, by the monotonic clock */
    int32_t token_id;
    /* Whole UTF-8; empty while a character or a stop string is incomplete. Valid, as logprobs,
     * until the next call for this request. */
    const char *text;
    size_t n_text;
    const qn_logprob *logprobs; /* [0] the chosen token, then the best ones */
    size_t n_logprobs;
    qn_finish finish; /* set on the last TOKEN event of each candidate */
    const char *stop; /* with it: the stop string that ended the text; NULL: a token, or a limit */
    /* With finish: sum of logprobs, NaN for a single candidate whose logprobs were not asked for;
     * with beam search its score. */
    float score;
    /* DONE: */
    int n_prompt_tokens, n_output_tokens;  /* of all candidates together */
    int n_draft_tokens, n_accepted_tokens; /* guessed ahead; those of them that came true */
    int n_cached_tokens;                   /* of the prompt, from the prefix cache */
    qn_miss miss;
    int n_preempted;   /* how often its sequences gave their place to others */
    double queue_ms;   /* from submit until the engine took it up */
    double prefill_ms; /* from there until the first token */
    double decode_ms;  /* from there until the end */
} qn_event;

/* Waits for the next event. A request that failed gives its error once, after the events before it.
 * After that, and after DONE: QN_E_NOT_FOUND. */
QN_API qn_status qn_request_next(qn_request *r, qn_event *out, qn_err *err);
/* Asks for the end: next then fails with QN_E_CANCELLED, unless the request is done by then. Does
 * not wait; from any thread, also in a signal handler. */
QN_API void qn_request_cancel(qn_request *r);
/* The same without waiting: *got is false when there is no event now. */
QN_API qn_status qn_request_poll(qn_request *r, qn_event *out, bool *got, qn_err *err);
/* Cancels if needed, and waits until the engine has let go of it. NULL allowed. */
QN_API void qn_request_free(qn_request *r);
/* The same without waiting: the engine frees it. NULL allowed. */
QN_API void qn_request_drop(qn_request *r);

/* ---- text ---- */

/* The token ids that a request with this prompt would begin with. *ids is freed with qn_release. */
QN_API qn_status qn_encode(const qn_engine *e, const qn_prompt *prompt, int32_t **ids,
                           size_t *n_ids, qn_err *err);
/* A conversation's text as the chat template writes it. *text ends with a NUL that n_text does not
 * count, and is freed with qn_release. */
QN_API qn_status qn_render(const qn_engine *e, const qn_prompt *prompt, char **text, size_t *n_text,
                           qn_err *err);
/* A token's own bytes, maybe not whole UTF-8; valid while the engine lives. From anywhere, also from
 * callbacks. False: there is no such token. */
QN_API bool qn_token_text(const qn_engine *e, int32_t id, const char **text, size_t *n_text);
/* Token ids of text[0..n), without a token for its beginning. *ids is freed with qn_release. */
QN_API qn_status qn_tokenize(const qn_engine *e, const char *text, size_t n, bool parse_special,
                             int32_t **ids, size_t *n_ids, qn_err *err);
/* Text of ids; bytes that are not UTF-8 become U+FFFD. *text ends with a NUL that n_text does not
 * count, and is freed with qn_release. */
QN_API qn_status qn_detokenize(const qn_engine *e, const int32_t *ids, size_t n_ids,
                               bool skip_special, char **text, size_t *n_text, qn_err *err);
QN_API void qn_release(void *p); /* NULL allowed */

typedef struct qn_text_info {
    int32_t bos_id, eos_id;    /* as the files name them; -1: they do not */
    bool adds_bos;             /* raw text begins with bos_id */
    const char *chat_template; /* its source, valid while the engine lives; NULL: none */
} qn_text_info;
QN_API void qn_engine_get_text(const qn_engine *e, qn_text_info *out);

/* ---- scoring ---- */

/* One row for each position: logits [n_vocab] of what follows ids[0..pos]; valid during the call.
 * Return false to end. */
typedef bool (*qn_logits_fn)(void *arg, size_t pos, const float *logits, size_t n_vocab);
/* Residual stream: layer 0 is the embedding output, n_layers the last layer's, n_layers + 1 the
 * final norm's. */
typedef bool (*qn_hidden_fn)(void *arg, int layer, size_t pos, const float *hidden, size_t width);
/* Runs ids through the model on this thread, in chunks of at most `chunk` tokens (0: as many as the
 * engine takes); requests wait while a chunk is computed. Either callback may be NULL; neither may call the engine.
 * QN_E_KV_FULL: running requests leave too little room. */
QN_API qn_status qn_score(qn_engine *e, const int32_t *ids, size_t n_ids, size_t chunk,
                          qn_logits_fn on_logits, qn_hidden_fn on_hidden, void *arg, qn_err *err);
/* The same beside requests, as one of them would be: within the share of a class and a tenant, in chunks as short as
 * the others' gaps and targets want them. */
typedef struct qn_scoring {
    const int32_t *ids;
    size_t n_ids, chunk, first;      /* positions before `first` are computed and not handed out */
    const char *class_name, *tenant; /* as in qn_params */
    qn_logits_fn on_logits;
    qn_hidden_fn on_hidden;
    /* Asked before each chunk and while it waits; NULL: it does. False: QN_E_CANCELLED. */
    bool (*goes_on)(void *arg);
    void *arg, *goes_on_arg;
} qn_scoring;
QN_API qn_status qn_score_shared(qn_engine *e, const qn_scoring *s, qn_err *err);

#ifdef __cplusplus
}
#endif
#endif
