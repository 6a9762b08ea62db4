/* SPDX-License-Identifier: Apache-2.0
 * quern.h - the public API of Quern: open a model, submit requests, read events.
 *
 *   qn_engine *e; qn_request *r; qn_event ev; qn_err err;
 *   qn_config cfg = qn_config_default();  cfg.model = "model.gguf";
 *   qn_engine_open(&e, &cfg, &err);
 *   qn_prompt p = {.text = "Hello"};  qn_params sp = qn_params_default();
 *   qn_request_submit(&r, e, &p, &sp, &err);
 *   while (qn_request_next(r, &ev, &err) == QN_OK && ev.kind != QN_EVENT_DONE) fwrite(ev.text, 1, ev.n_text, stdout);
 *   qn_request_free(r);  qn_engine_free(e);
 *
 * Every function that can fail returns a qn_status and writes one line into err (which may be NULL): what the thing is,
 * what was found, what is wanted. Strings are UTF-8. Nothing here prints, exits or reads the environment.
 * Threads: an engine has a thread of its own; submit, next, cancel and free may be called from any thread, one thread at
 * a time for the same request. */
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
    QN_E_NOT_FOUND,
    QN_E_IO,
    QN_E_NOMEM,
    QN_E_KV_FULL, /* internal: never leaves the engine */
    QN_E_TOO_LONG,
    QN_E_QUEUE_FULL,
    QN_E_CANCELLED,
    QN_E_TIMEOUT,
    QN_E_DEVICE,
    QN_E_PEER,
    QN_E_INTERNAL
} qn_status;

typedef struct qn_err {
    qn_status status;
    char msg[400];
} qn_err;

QN_API const char *qn_status_name(qn_status s);

/* ---- engine ---- */

typedef struct qn_engine qn_engine;

typedef enum qn_rope_scaling {
    QN_ROPE_AUTO, /* YaRN only for sequences that need more than the model's original context; with `exact`
                     * for every sequence, as the reference implementation */
    QN_ROPE_ALWAYS, /* every sequence, if the config names it */
    QN_ROPE_NEVER
} qn_rope_scaling;

typedef struct qn_config {
    const char *model;  /* a GGUF file (the first of a split set), or a Hugging Face folder */
    const char *device; /* "cpu" */
    const char *chat_template; /* a Jinja file to use instead of the model's; NULL: the model's */
    int n_threads;             /* 0: what affinity and cgroup quota allow */
    unsigned cpu_mask;         /* instruction sets allowed; 0: the plain C kernels; default: all */
    bool exact;                /* plain plan, float32 activations, weights expanded exactly */
    int max_ctx;  /* tokens of one sequence, may pass the model's; 0: the model's, at most 32768 */
    int max_seqs; /* sequences computed together; 0: 16 */
    int max_batch_tokens; /* tokens of one step; 0: 512 */
    int n_kv_blocks; /* 0: enough for max_ctx, at least 1024 tokens for each of max_seqs, within memory */
    qn_rope_scaling rope_scaling;
    /* Called while loading: what is being done, and how much of it (0..1). NULL: silent. */
    void (*progress)(void *arg, const char *what, double done);
    void *progress_arg;
} qn_config;
QN_API qn_config qn_config_default(void);

QN_API qn_status qn_engine_open(qn_engine **out, const qn_config *cfg, qn_err *err);
QN_API void qn_engine_free(qn_engine *e); /* cancels what still runs; NULL allowed */

typedef struct qn_engine_info {
    const char *name, *arch, *quantization; /* valid while the engine lives */
    const char *device;                     /* "cpu: 2 threads, avx2" */
    uint64_t n_params;
    uint64_t weight_bytes, weight_bytes_per_token; /* in memory; read for each decoded token */
    uint64_t kv_bytes, activation_bytes, vocab_bytes;
    int n_layers, hidden_size, n_vocab, max_ctx, model_max_ctx;
    int n_threads;
    bool has_chat_template;
} qn_engine_info;
QN_API void qn_engine_get_info(const qn_engine *e, qn_engine_info *out);

/* ---- requests ---- */

typedef struct qn_message {
    const char *role, *content;
} qn_message;

/* What to continue: exactly one of text, ids, messages, chat_json. */
typedef struct qn_prompt {
    const char *text; /* raw text; special tokens in it are text unless parse_special */
    bool parse_special;
    const int32_t *ids; /* token ids */
    size_t n_ids;
    const qn_message *messages; /* a conversation, rendered with the chat template */
    size_t n_messages;
    const char *chat_json; /* object: messages, tools, and any template variable */
} qn_prompt;

typedef struct qn_logit_bias {
    int32_t token_id;
    float bias;
} qn_logit_bias;

typedef struct qn_params {
    float temperature;                         /* 0: greedy */
    int top_k;                                 /* 0: off */
    float top_p;                               /* 1: off */
    float min_p;                               /* 0: off */
    float typical_p;                           /* 1: off */
    float repetition_penalty;                  /* 1: off; over prompt and output, as Hugging Face */
    float presence_penalty, frequency_penalty; /* 0: off; over the output, as OpenAI */
    const qn_logit_bias *logit_bias;
    size_t n_logit_bias;
    uint64_t seed;  /* 0: a random one */
    int max_tokens; /* 0: up to the context */
    int min_tokens;
    bool ignore_eos;
    const char *const *stop; /* stop strings; the text ends before the first one found */
    size_t n_stop;
    const int32_t *stop_ids; /* stop tokens besides the model's own */
    size_t n_stop_ids;
    int n_logprobs;       /* -1: none; 0: of the chosen token; n: and of the n best (at most 20) */
    int n;                /* candidates, 1..16 */
    int beam_width;       /* 0: sample; else beam search giving the n best */
    float length_penalty; /* beam search: score = sum logprob / length^penalty */
} qn_params;
QN_API qn_params qn_params_default(void);
/* The model's generation_config.json over the defaults. */
QN_API void qn_engine_get_params(const qn_engine *e, qn_params *out);

typedef struct qn_request qn_request;

/* Tokenises and queues. Everything in prompt and params is copied. */
QN_API qn_status qn_request_submit(qn_request **out, qn_engine *e, const qn_prompt *prompt,
                                   const qn_params *params, qn_err *err);

typedef struct qn_logprob {
    int32_t token_id;
    float logprob;    /* natural log */
    const char *text; /* the token's bytes */
    size_t n_text;
} qn_logprob;

typedef enum qn_event_kind { QN_EVENT_TOKEN, QN_EVENT_DONE } qn_event_kind;
typedef enum qn_finish {
    QN_FINISH_NONE,
    QN_FINISH_STOP,   /* end token, stop token or stop string */
    QN_FINISH_LENGTH, /* max_tokens or the context */
    QN_FINISH_CANCELLED,
    QN_FINISH_ERROR
} qn_finish;

typedef struct qn_event {
    qn_event_kind kind;
    int index;        /* candidate, 0..n-1 */
    int32_t token_id; /* TOKEN; -1 where only held-back text is delivered */
    const char
        *text;     /* whole UTF-8, maybe empty while a character or a stop string is incomplete */
    size_t n_text; /* valid until the next call for this request */
    const qn_logprob *logprobs; /* [0] the chosen token, then the best ones */
    size_t n_logprobs;
    qn_finish finish; /* set on the last TOKEN event of each candidate */
    float score;      /* with finish: sum of log-probabilities (beam search: the score) */
    /* DONE: after the last candidate */
    int n_prompt_tokens, n_output_tokens;
    double queue_ms, prefill_ms, decode_ms;
} qn_event;

/* Waits for the next event. A request that failed returns its error once. After DONE: QN_E_NOT_FOUND. */
QN_API qn_status qn_request_next(qn_request *r, qn_event *out, qn_err *err);
QN_API void qn_request_cancel(qn_request *r); /* safe in a signal handler */
QN_API void qn_request_free(qn_request *r);   /* cancels if needed; NULL allowed */

/* ---- text ---- */

/* Token ids of text, written to *ids (free with qn_release). */
QN_API qn_status qn_tokenize(const qn_engine *e, const char *text, size_t n, bool parse_special,
                             int32_t **ids, size_t *n_ids, qn_err *err);
QN_API qn_status qn_detokenize(const qn_engine *e, const int32_t *ids, size_t n_ids,
                               bool skip_special, char **text, size_t *n_text, qn_err *err);
QN_API void qn_release(void *p); /* frees what an API function handed out */

/* ---- scoring ---- */

/* One row for each position: logits [n_vocab] of what follows ids[0..pos]; valid during the call. Return false to end. */
typedef bool (*qn_logits_fn)(void *arg, size_t pos, const float *logits, size_t n_vocab);
/* Residual stream: layer 0 is the embedding output, n_layers the last layer's, n_layers + 1 the final norm's. */
typedef bool (*qn_hidden_fn)(void *arg, int layer, size_t pos, const float *hidden, size_t width);
/* Runs ids through the model in chunks of at most `chunk` tokens (0: the engine's). Either callback may be NULL. */
QN_API qn_status qn_score(qn_engine *e, const int32_t *ids, size_t n_ids, size_t chunk,
                          qn_logits_fn on_logits, qn_hidden_fn on_hidden, void *arg, qn_err *err);

/* ---- measuring ---- */

typedef struct qn_bench_spec {
    int n_prefill; /* prompt tokens timed, of one sequence */
    int n_decode;  /* tokens decoded one by one, for each of `batch` sequences together */
    int depth;     /* tokens already in the cache */
    int batch;
} qn_bench_spec;

typedef struct qn_bench_result {
    double prefill_ms, decode_ms; /* 0 where nothing was asked for */
} qn_bench_result;

/* Runs the model on random tokens without sampling, once. The engine must be idle. */
QN_API qn_status qn_bench(qn_engine *e, const qn_bench_spec *spec, qn_bench_result *out,
                          qn_err *err);

#ifdef __cplusplus
}
#endif
#endif
