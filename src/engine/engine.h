/* SPDX-License-Identifier: Apache-2.0
 * engine.h - the engine's own view of itself: what its files share.
 *
 *   caller's thread                                  engine thread
 *   submit: render, encode, checks ---> inbox -----> sequences, scheduler, runner, sampler
 *   next <------------------- events of the request <--- one push per token
 *
 * Who owns what:
 *   inbox, stopping, what serving.c tells            engine->lock
 *   events, text, logprobs, over, detached, error    request->lock
 *   active, sequences, samplers                      engine thread only
 *   scheduler, runner, device, block pool            engine->step_lock: the engine thread during
 *                                                    a step, qn_score for a chunk, qn_bench for a
 *                                                    whole run
 * A request ends by DETACHED: the engine thread will not look at it again, so that the caller may
 * free it. */
#ifndef QN_ENGINE_ENGINE_H
#define QN_ENGINE_ENGINE_H

#include "base/limits.h"
#include "engine/draft_model.h"
#include "engine/grammar_cache.h"
#include "sample/ngram.h"
#include "sample/sampler.h"
#include "sample/speculate.h"
#include "sched/forecast.h"
#include "sched/scheduler.h"
#include "text/chat.h"
#include <pthread.h>
#include <quern/measure.h>
#include <stdatomic.h>

/* One candidate or beam. */
typedef struct qn_seq {
    qn_sched_seq sched; /* first: the scheduler's pointer is ours */
    qn_request *request;
    int index;
    int32_t *tokens; /* prompt and output, sched.n_tokens of them; behind them a step's drafts */
    size_t cap;
    uint32_t n_prompt;
    qn_sampler *sampler;
    qn_detok detok;
    qn_str pending; /* text held back for stop strings */
    qn_seq_rope rope;
    double sum_logprob;
    bool done;
    /* guesses of what follows: see draft.c */
    qn_ngram ngram;
    qn_accept accept;
    uint32_t match; /* of the place where the text went alike; 0: none */
    uint32_t n_draft;
    int32_t guess; /* what followed the match; -1: none */
    bool by_model; /* the drafts are the draft model's */
    qn_draft_seq draft;
    /* an answer of a form: see constrain.c */
    qn_matcher *matcher; /* NULL: anything */
    qn_ids run;          /* tokens that must follow */
    size_t n_run_taken;
    /* beam search: the best continuations after the last token */
    qn_candidate *top;
    bool has_top;
} qn_seq;

typedef struct qn_event_node {
    qn_event_kind kind;
    int index;
    int32_t token_id;
    uint64_t at_ns;
    size_t text_at, n_text, logprobs_at, n_logprobs;
    qn_finish finish;
    const char *stop; /* the stop string; the request's */
    float score;
} qn_event_node;

/* A finished beam. */
typedef struct qn_hypothesis {
    int32_t *ids;
    size_t n;
    double score;
    qn_finish finish;
} qn_hypothesis;

struct qn_request {
    qn_engine *engine;
    qn_request *next_in_inbox;
    qn_params params; /* deep copy in arena */
    qn_arena arena;
    int32_t *prompt;
    size_t n_prompt;
    uint32_t max_tokens; /* of one sequence, prompt included */
    int32_t *stop_ids;   /* the model's, unless ignore_eos, and the caller's */
    size_t n_stop_ids;
    int class_id;       /* of the engine's classes */
    uint64_t tenant_id; /* equal for equal tenants; 0: nobody's */
    uint64_t salt[2];   /* of tenant and cache_salt: prefixes are shared among equal ones */
    qn_seq **seqs;      /* [n_seqs]: candidates, or beams */
    size_t n_seqs, seqs_cap;
    qn_hypothesis *finished; /* beam search */
    size_t n_finished;
    int n_output, n_drafted, n_accepted;
    /* told with DONE: of the prompt, what the prefix cache had and why no more; preempted
     * sequences */
    int n_cached, n_preempted;
    qn_miss miss;
    bool waits;  /* counted so in its tenant's load */
    bool forked; /* candidates 1..n-1 (or the beams) were made */
    bool ends;   /* the engine gave its sequences back */
    uint64_t t_submit, t_start, t_first, t_end;

    atomic_bool cancelled;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    void (*notify)(void *arg); /* of params; NULL once nobody wants to know */
    qn_event_node *events;
    size_t n_events, events_cap, n_taken;
    qn_str text;
    qn_logprob *logprobs;
    size_t n_logprobs, logprobs_cap;
    bool over;     /* no more events will come */
    bool detached; /* the engine thread is through with it */
    bool dropped;  /* nobody will free it: who comes last does */
    bool reported; /* the error was handed out */
    qn_err error;
    /* what next() handed out last */
    qn_str current;
    qn_logprob current_logprobs[QN_LIMIT_TOP_LOGPROBS + 1];
};

#define QN_CLASS_NAME 32

/* What a tenant has in the engine. */
typedef struct qn_tenant_load {
    uint64_t id;
    uint32_t n_requests, n_waiting; /* waiting: among them */
} qn_tenant_load;

struct qn_engine {
    qn_config config;
    bool is_following; /* no number of threads was given: the machine's state decides */
    qn_model *model;
    qn_runner *runner;
    qn_tokenizer *tokenizer;
    qn_chat_template *chat;
    qn_params defaults;
    qn_engine_info info;
    size_t live_before[QN_MEM_N_TAGS]; /* of other engines, when it was opened */
    char device[96];
    int32_t eos_ids[QN_LIMIT_EOS_TOKENS + 2]; /* the files', and two of the family */
    size_t n_eos;
    qn_block_pool *pool;
    qn_scheduler scheduler;
    qn_sched_seq **chosen; /* [max_seqs] */
    qn_run_seq *run_seqs;  /* [max_seqs] */
    qn_candidate *best;    /* [QN_LIMIT_TOP_LOGPROBS + 1] */
    qn_spec_seq *guesses;  /* [max_seqs] */
    qn_accept accept;      /* of all texts so far */
    qn_step_cost cost;
    qn_draft_model *draft_model; /* or NULL */
    qn_grammar_cache *grammars;

    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    qn_request *inbox, **inbox_end;
    bool stopping;
    pthread_mutex_t step_lock,
        turn_lock; /* turn_lock: who wants step_lock next waits here, so that each gets its turn */
    /* step_lock */
    int n_scoring;          /* runs of qn_score under way; what they hold comes back */
    pthread_cond_t stepped; /* a step or a chunk has ended: whose turn it is has changed */
    qn_request **active;    /* engine thread */
    size_t n_active, active_cap;
    uint64_t arrivals;

    /* serving.c; config.classes and config.buckets are these */
    qn_class classes[QN_MAX_CLASSES];
    char class_names[QN_MAX_CLASSES][QN_CLASS_NAME + 1];
    qn_bucket buckets[QN_MAX_BUCKETS];
    qn_engine_stats counts; /* engine thread: what grows, without requests that run */
    uint64_t n_seen_preempted;
    uint64_t last_sample_ns; /* of the step before */
    /* engine->lock */
    qn_engine_stats stats; /* as of the last step */
    qn_forecast forecast;
    uint32_t n_inbox[QN_MAX_CLASSES]; /* admitted since */
    uint64_t n_refused[QN_MAX_CLASSES];
    qn_tenant_load *tenants; /* that have requests */
    size_t n_tenants, tenants_cap;
};

/* ---- request.c ---- */
/* All on the engine thread. */
/* It will not look at r again, whose sequences are gone; r is freed by whoever owns it. */
void qn_request_detach(qn_request *r);
qn_seq *qn_seq_new(qn_request *r, int index, qn_err *err); /* not scheduled yet */
void qn_seq_free(qn_engine *e, qn_seq *q);
qn_status qn_seq_append(qn_seq *q, int32_t id, qn_err *err);
/* Puts token `best[0]` out: detokenises, looks for stop strings, pushes the event; marks the
 * sequence done when it ends. is_over: nothing may follow. */
qn_status qn_request_emit(qn_request *r, qn_seq *q, const qn_candidate *best, size_t n_best,
                          bool is_over, qn_err *err);
void qn_request_fail(qn_request *r, qn_status s, const qn_err *err);
void qn_request_finish(qn_request *r); /* pushes DONE and detaches */
/* Adds an event; text and logprobs are copied. */
qn_status qn_request_push(qn_request *r, const qn_event_node *node, const char *text, size_t n,
                          const qn_candidate *best, size_t n_best, qn_err *err);
bool qn_is_stop_id(const qn_request *r, int32_t id);

/* ---- engine.c ---- */
/* The runner for this thread alone. Fair: a busy engine cannot keep qn_score waiting for ever. */
void qn_step_lock(qn_engine *e);
void qn_step_unlock(qn_engine *e);

/* ---- request.c too: whose ---- */
/* Equal for equal tenants; 0: nobody's. */
uint64_t qn_tenant_id(const char *tenant);

/* ---- serving.c ---- */
/* classes, buckets and the sizes of queue and batch in a config. */
qn_status qn_serving_check(const qn_config *c, qn_err *err);
/* Copies classes and buckets; e->config then names the copies, and has its default class. */
void qn_serving_init(qn_engine *e);
/* The class of that name; NULL: the default one. -1: there is none. Any thread. */
int qn_engine_class(const qn_engine *e, const char *name);
/* Whether r, which has its prompt, class and max_tokens, may enter the inbox: with e->lock held,
 * right before it is linked in. A tenant may have more waiting while it has fewer than there are
 * places free: one alone half of the queue, each of two a third; so whoever comes finds a place.
 * QN_E_QUEUE_FULL: it has its share, or (nobody's) the queue is full; QN_E_BUSY: others fill it.
 * QN_E_TIMEOUT: its class refuses what will surely miss the target. */
qn_status qn_engine_admit(qn_engine *e, qn_request *r, qn_err *err);
/* The inbox was taken: with e->lock held, on the engine thread. */
void qn_serving_take(qn_engine *e);
/* r ends, with an answer or without: its numbers are counted. Engine thread. */
void qn_serving_end(qn_engine *e, qn_request *r, bool answered);
/* What qn_engine_get_stats tells from now on. Engine thread, with step_lock held. */
void qn_serving_publish(qn_engine *e);

/* ---- draft.c ---- */
/* Guesses what follows the n sequences of this step and chooses how much of it to verify: sets
 * their n_draft, and lays the drafts behind their tokens. Without a draft model it costs next to
 * nothing. */
void qn_draft_prepare(qn_engine *e, size_t n);
/* Tokens were appended to q since its row `row` of the step, behind the `at` that it had before the step. Returns the next row
 * that was computed for all of them, or 0: none was. drafts: as they were laid, which the tokens have taken the place of. */
uint32_t qn_draft_verify(qn_engine *e, qn_seq *q, const int32_t *drafts, uint32_t at, uint32_t row);
/* The step of n sequences took ns. */
void qn_draft_measure(qn_engine *e, size_t n, uint64_t ns);

/* ---- constrain.c ---- */
/* Before the first token of q, which is freed by qn_seq_free all the same if this fails. */
qn_status qn_constrain_begin(qn_seq *q, qn_err *err);
void qn_constrain_end(qn_seq *q);
/* The token that must come next; -1: one is to be chosen. */
int32_t qn_constrain_next(qn_seq *q);
/* The token comes next. *is_over: nothing may follow it. */
qn_status qn_constrain_accept(qn_seq *q, int32_t id, bool *is_over, qn_err *err);

/* ---- score.c ---- */
/* Blocks for n tokens, with step_lock held. *blocks is NULL on failure, and may be when given back. */
qn_status qn_engine_take_blocks(qn_engine *e, size_t n, int32_t **blocks, size_t *n_blocks,
                                qn_err *err);
void qn_engine_give_blocks(qn_engine *e, int32_t *blocks, size_t n_blocks);
/* Some, within the context, in the vocabulary. */
qn_status qn_engine_check_ids(const qn_engine *e, const int32_t *ids, size_t n, qn_err *err);

/* ---- beam.c ---- */
/* All beams have their next tokens' scores: keep the best, fork, finish. */
qn_status qn_beam_advance(qn_engine *e, qn_request *r, qn_err *err);
bool qn_beam_ready(const qn_request *r);

#endif
