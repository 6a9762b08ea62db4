/* SPDX-License-Identifier: Apache-2.0
 * engine.c - opening, the engine thread's loop, closing. */
#include "engine/engine.h"

#include "base/cpu.h"
#include <limits.h>
#include <math.h>
#include <string.h>
#include <sys/random.h>

qn_config qn_config_default(void)
{
    return (qn_config){.device = "cpu", .cpu_mask = QN_CPU_ALL};
}

/* ---- the loop ---- */

/* Keys depend on how positions are scaled: that is part of what prefixes share. */
static uint64_t hash_rope(const qn_seq_rope *rope)
{
    const uint8_t *p = (const uint8_t *)rope;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < sizeof *rope; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

/* The request's first sequence goes to the scheduler. */
static qn_status start(qn_engine *e, qn_request *r, qn_err *err)
{
    qn_seq *q = qn_seq_new(r, 0, err);
    if (!q)
        return err->status;
    q->sched.arrival = e->arrivals++;
    q->sched.class_id = (uint32_t)r->class_id;
    q->sched.tenant_id = r->tenant_id;
    q->sched.salt[0] = r->salt[0];
    q->sched.salt[1] = r->salt[1];
    q->sched.salt[2] = hash_rope(&q->rope);
    q->sched.submit_ns = r->t_submit;
    return qn_scheduler_add(&e->scheduler, &q->sched, r->max_tokens, err);
}

/* With e->lock held: until there is something to do. An idle engine may wait for more requests than
 * one. */
static void wait_for_work(qn_engine *e)
{
    uint64_t timeout = (uint64_t)e->config.batch_timeout_ms * 1000000u;
    while (!e->stopping && !e->n_active) {
        size_t n = 0;
        for (const qn_request *r = e->inbox; r; r = r->next_in_inbox, n++)
            if (atomic_load(&r->cancelled))
                return;
        if (!n) {
            (void)pthread_cond_wait(&e->wake, &e->lock);
            continue;
        }
        uint64_t now = qn_now_ns(),
                 ns = qn_scheduler_hold_ns(&e->scheduler, n, e->inbox->t_submit, now, timeout);
        if (!ns)
            return;
        struct timespec until = {.tv_sec = (time_t)((now + ns) / 1000000000u),
                                 .tv_nsec = (long)((now + ns) % 1000000000u)};
        (void)pthread_cond_timedwait(&e->wake, &e->lock, &until);
    }
}

/* What came since; false: the engine is to end. */
static bool take_inbox(qn_engine *e, qn_request **taken)
{
    (void)pthread_mutex_lock(&e->lock);
    wait_for_work(e);
    qn_request *r = e->inbox;
    e->inbox = NULL;
    e->inbox_end = &e->inbox;
    qn_serving_take(e);
    bool go_on = !e->stopping;
    (void)pthread_mutex_unlock(&e->lock);
    *taken = r;
    return go_on;
}

/* With step_lock held. */
static void start_all(qn_engine *e, qn_request *r)
{
    while (r) {
        qn_request *next = r->next_in_inbox;
        qn_err err = {0};
        if (qn_grow(&e->active, &e->active_cap, e->n_active + 1, sizeof(qn_request *),
                    QN_MEM_MISC)) {
            e->active[e->n_active++] = r;
            qn_status s = start(e, r, &err);
            if (s != QN_OK)
                qn_request_fail(r, s, &err);
        } else {
            qn_request_fail(r, qn_fail_nomem(&err, sizeof(qn_request *)), &err);
            qn_serving_end(e, r, false);
            qn_request_detach(r);
        }
        r = next;
    }
}

static bool all_done(const qn_request *r)
{
    for (size_t i = 0; i < r->n_seqs; i++)
        if (!r->seqs[i]->done)
            return false;
    return true;
}

/* Gives back what ended or cancelled requests hold; then tells the numbers, and only then who asked,
 * so that these see themselves counted. */
static void drop_ended(qn_engine *e, bool stopping)
{
    for (size_t i = 0; i < e->n_active; i++) {
        qn_request *r = e->active[i];
        qn_err err = {0};
        if (!r->over && (stopping || atomic_load(&r->cancelled)))
            qn_request_fail(r, qn_fail(&err, QN_E_CANCELLED, "the request was cancelled"), &err);
        r->ends = r->over || all_done(r);
        if (!r->ends)
            continue;
        qn_serving_end(e, r, !r->over);
        for (size_t k = 0; k < r->n_seqs; k++)
            qn_seq_free(e, r->seqs[k]);
        r->n_seqs = 0;
    }
    qn_serving_publish(e);
    size_t k = 0;
    for (size_t i = 0; i < e->n_active; i++) {
        qn_request *r = e->active[i];
        if (!r->ends) {
            e->active[k++] = r;
            continue;
        }
        if (!r->over)
            qn_request_finish(r);
        qn_request_detach(r);
    }
    e->n_active = k;
}

/* The first sequence has its prompt computed: the other candidates start from its blocks. */
static qn_status fork_candidates(qn_engine *e, qn_request *r, qn_err *err)
{
    qn_seq *first = r->seqs[0];
    for (int i = 1; i < r->params.n; i++) {
        qn_seq *q = qn_seq_new(r, i, err);
        if (!q)
            return err->status;
        q->sched.arrival = first->sched.arrival;
        int32_t to, from;
        qn_status s = qn_scheduler_fork(&e->scheduler, &q->sched, &first->sched, &to, &from, err);
        if (s != QN_OK && s != QN_E_KV_FULL)
            return s;
        if (to != QN_BLOCK_NULL)
            QN_TRY(qn_kv_cache_copy_block(e->runner->kv, (uint32_t)to, (uint32_t)from, err));
    }
    return QN_OK;
}

/* best[0] comes next. */
static qn_status take(qn_seq *q, const qn_candidate *best, size_t n_best, qn_err *err)
{
    bool is_over;
    qn_sampler_accept(q->sampler, best[0].id, true);
    q->sum_logprob += (double)best[0].logprob;
    QN_TRY(qn_constrain_accept(q, best[0].id, &is_over, err));
    return qn_request_emit(q->request, q, best, n_best, is_over, err);
}

/* The token of a row, and those that must follow it. */
static qn_status sample_one(qn_engine *e, qn_seq *q, const float *logits, qn_err *err)
{
    qn_request *r = q->request;
    if (r->params.beam_width) {
        q->has_top = true;
        return qn_sampler_top(q->sampler, logits, q->top, 2 * (size_t)r->params.beam_width, err);
    }
    bool scored = r->params.n_logprobs >= 0 || r->params.n > 1;
    size_t n_best = (size_t)QN_MAX(r->params.n_logprobs, 0), want = scored ? n_best : QN_ID_ONLY;
    int32_t id = qn_constrain_next(q);
    QN_TRY(id >= 0 ? qn_sampler_score(q->sampler, logits, id, e->best, want, err)
                   : qn_sampler_sample(q->sampler, logits, q->matcher, e->best, want, err));
    QN_TRY(take(q, e->best, 1 + n_best, err));
    for (int i = 0; i < QN_LIMIT_FORCED_TOKENS && !scored && !q->done; i++) {
        if ((id = qn_constrain_next(q)) < 0)
            break;
        QN_TRY(take(q, &(qn_candidate){id, NAN}, 1, err));
    }
    return QN_OK;
}

static qn_status after_row(qn_engine *e, qn_seq *q, const float *logits, qn_err *err)
{
    qn_request *r = q->request;
    if (!r->t_first)
        r->t_first = qn_now_ns();
    if (!r->forked) {
        r->forked = true;
        if (!r->params.beam_width && r->params.n > 1) {
            QN_TRY(fork_candidates(e, r, err));
            for (size_t i = 1; i < r->n_seqs; i++) /* they see the same row of logits */
                if (r->seqs[i]->sched.n_computed == r->seqs[i]->sched.n_tokens)
                    QN_TRY(sample_one(e, r->seqs[i], logits, err));
        }
    }
    return sample_one(e, q, logits, err);
}

/* The rows of a step's logits that are q's: the token after its last, then one more as long as the
 * draft before it came true. */
static qn_status after_step(qn_engine *e, qn_seq *q, const float *logits, qn_err *err)
{
    int32_t drafts[QN_SPEC_ROWS];
    uint32_t at = q->sched.n_tokens, row = 0;
    memcpy(drafts, q->tokens + at, q->n_draft * sizeof *drafts); /* the tokens take their place */
    do {
        QN_TRY(after_row(e, q, logits + (size_t)row * e->model->config.n_vocab, err));
        row = qn_draft_verify(e, q, drafts, at, row);
    } while (row);
    return QN_OK;
}

static void end_sequences(qn_engine *e, qn_request *r)
{
    for (size_t i = 0; i < r->n_seqs; i++)
        if (r->seqs[i]->done && r->seqs[i]->sched.state != QN_SEQ_FINISHED)
            qn_scheduler_remove(&e->scheduler, &r->seqs[i]->sched);
}

/* Nothing could be scheduled: the oldest request that wants tokens holds all there is and will
 * never get more. */
static void fail_stuck(qn_engine *e)
{
    qn_err err = {0};
    for (size_t i = 0; i < e->scheduler.n_seqs; i++) {
        const qn_seq *q = (const qn_seq *)e->scheduler.seqs[i];
        if (q->sched.n_computed == q->sched.n_tokens)
            continue;
        qn_status st =
            e->scheduler.no_memory
                ? qn_fail_nomem(&err, QN_DIV_UP(q->sched.n_tokens, QN_KV_BLOCK) * sizeof(int32_t))
                : qn_fail(
                      &err, QN_E_TOO_LONG,
                      "%zu sequences of one request need more K/V cache than there is (%zu blocks)",
                      q->request->n_seqs, qn_block_pool_n_blocks(e->pool));
        qn_request_fail(q->request, st, &err);
        return;
    }
}

/* What the scheduler decided about requests that they will be told. */
static void note_schedule(qn_engine *e, size_t n, uint64_t now)
{
    for (size_t i = 0; i < n; i++) {
        const qn_seq *q = (const qn_seq *)e->chosen[i];
        qn_request *r = q->request;
        if (r->t_start)
            continue;
        r->t_start = now;
        r->n_cached = (int)q->sched.n_cached;
        r->miss = q->sched.miss;
    }
    if (e->n_seen_preempted == e->scheduler.n_preempted)
        return;
    e->n_seen_preempted = e->scheduler.n_preempted;
    for (size_t i = 0; i < e->scheduler.n_seqs; i++) {
        qn_seq *q = (qn_seq *)e->scheduler.seqs[i];
        q->request->n_preempted += (int)q->sched.n_preempted;
        q->sched.n_preempted = 0;
    }
}

/* Where a sequence's tokens are; NULL: they are not looked for in the prefix cache, nor kept. */
static void set_tokens(const qn_engine *e, qn_seq *q, bool is_good)
{
    is_good &= !e->config.no_prefix_cache && !q->request->params.is_probe;
    q->sched.tokens = is_good ? q->tokens : NULL;
}

static size_t schedule(qn_engine *e, uint64_t now)
{
    for (size_t i = 0; i < e->scheduler.n_seqs; i++)
        set_tokens(e, (qn_seq *)e->scheduler.seqs[i], true);
    size_t n = qn_scheduler_schedule(&e->scheduler, now, e->chosen);
    note_schedule(e, n, now);
    qn_draft_prepare(e, n);
    for (size_t i = 0; i < n; i++) {
        qn_seq *q = (qn_seq *)e->chosen[i];
        const qn_sched_seq *s = &q->sched;
        bool is_last = s->n_computed + s->n_scheduled >= s->n_tokens;
        e->run_seqs[i] = (qn_run_seq){.tokens = q->tokens,
                                      .n_computed = s->n_computed,
                                      .n_new = s->n_scheduled,
                                      .blocks = s->blocks,
                                      .n_blocks = s->n_blocks,
                                      .rope = &q->rope,
                                      .n_logits = is_last ? 1 + q->n_draft : 0};
        e->counts.n_step_rows += s->n_scheduled;
    }
    return n;
}

/* Tokens for the n sequences of a step that ended with st. */
static void take_tokens(qn_engine *e, size_t n, qn_status st, qn_err *err)
{
    const float *row = e->runner->logits;
    for (size_t i = 0; i < n; i++) {
        qn_seq *q = (qn_seq *)e->chosen[i];
        qn_status s = st;
        if (s == QN_OK && e->run_seqs[i].n_logits) {
            if (!q->request->over)
                s = after_step(e, q, row, err);
            row += (size_t)e->run_seqs[i].n_logits * e->model->config.n_vocab;
        }
        if (s != QN_OK)
            qn_request_fail(q->request, s, err);
    }
    for (size_t i = 0; i < e->n_active; i++) {
        qn_request *r = e->active[i];
        if (!r->over && r->params.beam_width && qn_beam_ready(r)) {
            qn_status s = qn_beam_advance(e, r, err);
            if (s != QN_OK)
                qn_request_fail(r, s, err);
        }
        end_sequences(e, r);
    }
}

static void step(qn_engine *e)
{
    qn_err err = {0};
    uint64_t t0 = qn_now_ns();
    qn_classes_begin_step(&e->scheduler.classes);
    size_t n = schedule(e, t0);
    if (!n) {
        if (!e->n_scoring) /* else blocks will come back */
            fail_stuck(e);
        return;
    }
    uint64_t t1 = qn_now_ns();
    qn_status st = qn_runner_step(e->runner, e->run_seqs, (uint32_t)n, NULL, &err);
    uint64_t t2 = qn_now_ns();
    qn_draft_measure(e, n, t2 - t1);
    for (size_t i = 0; i < n; i++) /* drafts may have moved them */
        set_tokens(e, (qn_seq *)e->chosen[i], st == QN_OK);
    qn_scheduler_advance(&e->scheduler, t2, t2 - t0 + e->last_sample_ns);
    take_tokens(e, n, st, &err);
    uint64_t t3 = qn_now_ns();
    e->last_sample_ns = t3 - t2;
    e->counts.n_steps++;
    e->counts.n_step_seqs += n;
    e->counts.schedule_ns += t1 - t0;
    e->counts.model_ns += t2 - t1;
    e->counts.sample_ns += t3 - t2;
}

void qn_step_lock(qn_engine *e)
{
    (void)pthread_mutex_lock(&e->turn_lock);
    (void)pthread_mutex_lock(&e->step_lock);
    (void)pthread_mutex_unlock(&e->turn_lock);
}

void qn_step_unlock(qn_engine *e)
{
    if (e->n_scoring)
        (void)pthread_cond_broadcast(&e->stepped);
    (void)pthread_mutex_unlock(&e->step_lock);
}

static void *engine_main(void *arg)
{
    qn_engine *e = arg;
    qn_request *taken;
    while (take_inbox(e, &taken)) {
        qn_step_lock(e);
        start_all(e, taken);
        drop_ended(e, false);
        step(e);
        drop_ended(e, false);
        qn_step_unlock(e);
    }
    qn_step_lock(e);
    start_all(e, taken);
    drop_ended(e, true);
    qn_step_unlock(e);
    return NULL;
}

/* ---- opening ---- */

/* By qn_kv_cache_dtype; AUTO has been resolved. */
static const struct {
    const char *name;
    qn_dtype dtype;
} kv_dtypes[] = {[QN_KV_CACHE_F32] = {"f32", QN_F32},
                 [QN_KV_CACHE_F16] = {"f16", QN_F16},
                 [QN_KV_CACHE_INT8] = {"int8", QN_I8}};

static qn_status check_config(const qn_config *c, qn_err *err)
{
    if (!c->model || !*c->model)
        return qn_fail(err, QN_E_ARG,
                       "config: no model given, want a GGUF file or a Hugging Face folder");
    if (c->device && strcmp(c->device, "cpu") != 0)
        return qn_fail(err, QN_E_UNSUPPORTED, "device: found '%s', want 'cpu'", c->device);
    if (c->speculation == QN_SPEC_DRAFT && !c->draft_model)
        return qn_fail(err, QN_E_ARG, "speculation: found draft, and no draft model to do it");
    const struct {
        const char *name;
        int found, most;
    } sizes[] = {{"n_threads", c->n_threads, QN_LIMIT_THREADS},
                 {"max_ctx", c->max_ctx, QN_LIMIT_CONTEXT},
                 {"max_seqs", c->max_seqs, QN_LIMIT_BATCH_SEQS},
                 {"max_batch_tokens", c->max_batch_tokens, QN_LIMIT_BATCH_TOKENS},
                 {"n_kv_blocks", c->n_kv_blocks, INT_MAX - 1},
                 {"max_draft", c->max_draft, (int)QN_SPEC_ROWS - 1},
                 {"batch_timeout_ms", c->batch_timeout_ms, 60000},
                 {"max_queue", c->max_queue, 1 << 20}};
    for (size_t i = 0; i < QN_COUNT(sizes); i++)
        if (sizes[i].found < 0 || sizes[i].found > sizes[i].most)
            return qn_fail(err, QN_E_ARG, "%s: found %d, want 0..%d", sizes[i].name, sizes[i].found,
                           sizes[i].most);
    if ((size_t)c->kv_cache_dtype >= QN_COUNT(kv_dtypes))
        return qn_fail(err, QN_E_ARG, "kv_cache_dtype: found %d, want 0..%zu",
                       (int)c->kv_cache_dtype, QN_COUNT(kv_dtypes) - 1);
    return qn_serving_check(c, err);
}

static void default_sizes(qn_config *c)
{
    c->n_threads = c->n_threads ? c->n_threads : qn_cpu_n_usable();
    if (c->exact && c->rope_scaling == QN_ROPE_AUTO)
        c->rope_scaling = QN_ROPE_ALWAYS;
    if (c->kv_cache_dtype == QN_KV_CACHE_AUTO)
        c->kv_cache_dtype = c->exact ? QN_KV_CACHE_F32 : QN_KV_CACHE_F16;
    c->max_seqs = c->max_seqs ? c->max_seqs : 16;
    c->max_batch_tokens = c->max_batch_tokens ? c->max_batch_tokens : 512;
    c->max_batch_tokens = QN_MAX(c->max_batch_tokens, c->max_seqs);
    c->max_draft = c->max_draft ? c->max_draft : 16;
    c->max_queue = c->max_queue ? c->max_queue : QN_LIMIT_QUEUE;
}

static void add_eos(qn_engine *e, int32_t id)
{
    for (size_t i = 0; i < e->n_eos; i++)
        if (e->eos_ids[i] == id)
            return;
    if (id >= 0 && e->n_eos < QN_COUNT(e->eos_ids))
        e->eos_ids[e->n_eos++] = id;
}

/* The ids that end an answer: the files', and for GGUF (which names one) the two end tokens of the
 * family. */
static void find_eos(qn_engine *e)
{
    const qn_model_config *c = &e->model->config;
    for (uint32_t i = 0; i < c->n_eos; i++)
        add_eos(e, c->eos_ids[i]);
    if (!c->n_eos)
        add_eos(e, qn_tokenizer_eos(e->tokenizer));
    if (e->model->files->format != QN_FORMAT_GGUF)
        return;
    static const char *const ends[] = {"<|im_end|>", "<|endoftext|>"};
    for (size_t i = 0; i < QN_COUNT(ends); i++) {
        int32_t id = qn_tokenizer_find(e->tokenizer, qn_slice_of(ends[i]));
        if (qn_tokenizer_kind(e->tokenizer, id) == QN_TOKEN_SPECIAL)
            add_eos(e, id);
    }
}

static qn_status read_generation_config(qn_engine *e, qn_err *err)
{
    qn_params *p = &e->defaults;
    const json_t *g = e->model->files->generation_config;
    static const char where[] = "generation_config.json";
    *p = qn_params_default();
    if (!g)
        return QN_OK;
    bool do_sample = true;
    uint32_t top_k = (uint32_t)p->top_k;
    QN_TRY(qn_json_bool(g, where, "do_sample", &do_sample, err));
    QN_TRY(qn_json_f32(g, where, "temperature", 0, 100, &p->temperature, err));
    QN_TRY(qn_json_u32(g, where, "top_k", 0, INT32_MAX, &top_k, err));
    QN_TRY(qn_json_f32(g, where, "top_p", 0, 1, &p->top_p, err));
    QN_TRY(qn_json_f32(g, where, "min_p", 0, 1, &p->min_p, err));
    QN_TRY(qn_json_f32(g, where, "typical_p", 0, 1, &p->typical_p, err));
    QN_TRY(qn_json_f32(g, where, "repetition_penalty", 0, 10, &p->repetition_penalty, err));
    p->top_k = (int)top_k;
    if (!do_sample)
        p->temperature = 0;
    qn_status s = qn_params_check(p, e->model->config.n_vocab, err);
    return s == QN_OK ? QN_OK : qn_wrap(err, s, "%s", where);
}

static qn_status open_chat(qn_engine *e, qn_err *err)
{
    if (!e->config.chat_template)
        return qn_chat_template_from_model(&e->chat, e->model->files, err);
    qn_str text = {0};
    qn_status s = qn_file_read(&text, e->config.chat_template, QN_LIMIT_TEMPLATE_BYTES, err);
    if (s == QN_OK)
        s = qn_chat_template_new(&e->chat, text.p ? text.p : "", text.n, e->config.chat_template,
                                 err);
    qn_str_fini(&text);
    return s;
}

/* Bytes of the experts that a limit of memory may leave in their packed file. */
static uint64_t expert_bytes(const qn_engine *e)
{
    const qn_qpk *file = e->model->files->qpk;
    return file && e->model->config.n_experts ? file->area_bytes[QN_QPK_EXPERTS] : 0;
}

/* Blocks for one sequence of max_ctx, or 1,024 tokens for each of max_seqs, within half of the
 * memory the machine has left. */
static qn_status size_cache(qn_engine *e, qn_dtype kv_dtype, uint32_t *n_blocks, qn_err *err)
{
    qn_config *c = &e->config;
    const qn_model_config *mc = &e->model->config;
    c->max_ctx = c->max_ctx ? c->max_ctx : (int)QN_MIN(mc->max_ctx, 32768u);
    qn_kv_shape shape = {mc->n_layers, mc->n_kv_heads, mc->head_dim, kv_dtype};
    size_t one = qn_kv_block_bytes(e->model->backend, &shape), total = qn_cpu_memory_bytes();
    if (c->mem_limit)
        total = (size_t)QN_MIN((uint64_t)total, c->mem_limit);
    uint64_t used = qn_model_weight_bytes(e->model), want = (uint64_t)c->n_kv_blocks;
    if (c->dry && c->mem_limit) /* as it will be: experts get what K/V leaves */
        used -= QN_MIN(used, expert_bytes(e));
    uint64_t left = total - QN_MIN((uint64_t)total, used);
    if (!want) {
        uint64_t tokens = QN_MAX((uint64_t)c->max_ctx, (uint64_t)c->max_seqs * 1024);
        want = QN_MAX(QN_MIN(QN_DIV_UP(tokens, QN_KV_BLOCK), left / 2 / one), (uint64_t)4);
        c->max_ctx = (int)QN_MIN((uint64_t)c->max_ctx, want * QN_KV_BLOCK);
    } else if (!c->dry && want > left / one) {
        return qn_fail(err, QN_E_NOMEM,
                       "n_kv_blocks: %llu blocks of %u tokens take %.2f GB, want at most %.2f GB, "
                       "what weights leave",
                       (unsigned long long)want, QN_KV_BLOCK, (double)want * (double)one * 1e-9,
                       (double)left * 1e-9);
    }
    if (want >= INT32_MAX)
        return qn_fail(err, QN_E_ARG, "n_kv_blocks: found %llu, want less than 2^31",
                       (unsigned long long)want);
    *n_blocks = (uint32_t)want + 1; /* and the null block */
    return QN_OK;
}

/* Bytes of this engine. What others take and give back meanwhile is of requests, and small. */
static uint64_t live_bytes(const qn_engine *e, qn_mem_tag tag)
{
    size_t now = qn_mem_live(tag);
    return now - QN_MIN(now, e->live_before[tag]);
}

/* What a limit of memory leaves is for experts; it must do for those of a row in one layer. */
static qn_status share_limit(qn_engine *e, qn_err *err)
{
    uint64_t limit = e->config.mem_limit, used = 0, want = 0;
    uint64_t weights = live_bytes(e, QN_MEM_WEIGHTS), kv = live_bytes(e, QN_MEM_KV),
             activations = live_bytes(e, QN_MEM_ACTIVATIONS);
    qn_expert_cache *cache = e->model->cache;
    if (!limit || e->config.dry)
        return QN_OK;
    for (int t = 0; t < QN_MEM_N_TAGS; t++)
        used += live_bytes(e, (qn_mem_tag)t);
    if (cache)
        want = (uint64_t)e->model->config.n_experts_active * qn_expert_cache_slot_bytes(cache);
    if (used + want > limit)
        return qn_fail(
            err, QN_E_NOMEM,
            "--mem of %.2f GB: weights that stay in memory take %.2f GB, K/V %.2f, "
            "activations %.2f, the rest %.2f, the experts of one row %.2f: want %.2f GB, "
            "or a smaller --max-ctx or --max-batch-tokens",
            (double)limit * 1e-9, (double)weights * 1e-9, (double)kv * 1e-9,
            (double)activations * 1e-9, (double)(used - weights - kv - activations) * 1e-9,
            (double)want * 1e-9, (double)(used + want) * 1e-9);
    return cache ? qn_expert_cache_fill(cache, limit - used, err) : QN_OK;
}

/* Experts of a packed file, but for those of one row. */
static uint64_t spare_bytes(const qn_engine *e)
{
    const qn_model_config *c = &e->model->config;
    uint64_t n = (uint64_t)c->n_layers * c->n_experts;
    return c->n_experts_active < n ? expert_bytes(e) / n * (n - c->n_experts_active) : 0;
}

/* The longest token as often as the context has places, and one more; three times, since composing characters (NFC) may
 * leave a third of the text. */
static size_t max_prompt_bytes(const qn_engine *e)
{
    size_t longest = 1;
    for (size_t i = 0; i < qn_tokenizer_n_tokens(e->tokenizer); i++)
        longest = QN_MAX(longest, qn_tokenizer_bytes(e->tokenizer, (int32_t)i).n);
    return 3 * longest * ((size_t)e->config.max_ctx + 1);
}

static void fill_info(qn_engine *e)
{
    const qn_model_config *c = &e->model->config;
    uint64_t draft = e->draft_model ? qn_draft_model_weight_bytes(e->draft_model) : 0;
    qn_plan_cost cost = qn_plan_cost_of(e->model->plan, 1, 0, 1);
    e->model->backend->describe(e->model->device, e->device, sizeof e->device);
    e->info =
        (qn_engine_info){.name = c->name,
                         .arch = qn_arch_name(c->arch),
                         .quantization = qn_model_main_dtype(e->model->matrices, e->model->plan),
                         .device = e->device,
                         .n_params = qn_model_config_n_params(c),
                         .weight_bytes = qn_model_weight_bytes(e->model) + draft,
                         .weight_bytes_per_token = (uint64_t)cost.weight_bytes,
                         .prompt_flops = qn_plan_cost_of(e->model->plan, 512, 0, 1).flops,
                         .prompt_tokens = 512,
                         .kv_cache_dtype = kv_dtypes[e->config.kv_cache_dtype].name,
                         .kv_bytes = live_bytes(e, QN_MEM_KV),
                         .activation_bytes = live_bytes(e, QN_MEM_ACTIVATIONS),
                         .vocab_bytes = live_bytes(e, QN_MEM_VOCAB),
                         .spare_bytes = spare_bytes(e),
                         .n_layers = (int)c->n_layers,
                         .hidden_size = (int)c->hidden_size,
                         .n_vocab = (int)c->n_vocab,
                         .max_ctx = e->config.max_ctx,
                         .model_max_ctx = (int)c->max_ctx,
                         .max_prompt_bytes = max_prompt_bytes(e),
                         .n_threads = e->config.n_threads,
                         .has_chat_template = e->chat != NULL};
}

static qn_status open_draft_model(qn_engine *e, const qn_model_options *o, uint32_t n_blocks,
                                  qn_dtype kv_dtype, qn_err *err)
{
    const qn_config *c = &e->config;
    qn_draft_options d = {.path = c->draft_model,
                          .model = *o,
                          .n_blocks = n_blocks,
                          .max_seqs = (uint32_t)c->max_seqs,
                          .max_ctx = (uint32_t)c->max_ctx,
                          .kv_dtype = kv_dtype,
                          .rope_scaling = c->rope_scaling,
                          .tokenizer = e->tokenizer,
                          .n_vocab = (uint32_t)qn_tokenizer_n_tokens(e->tokenizer)};
    return qn_draft_model_open(&e->draft_model, &d, err);
}

static qn_status open_scheduler(qn_engine *e, uint32_t n_blocks, qn_err *err)
{
    const qn_config *c = &e->config;
    uint64_t seed = 0;
    QN_TRY(qn_block_pool_new(&e->pool, n_blocks, err));
    if (getrandom(&seed, sizeof seed, 0) != sizeof seed)
        seed = qn_now_ns();
    if (!c->no_prefix_cache)
        QN_TRY(qn_block_pool_enable_cache(e->pool, QN_KV_BLOCK, seed, 0, err));
    qn_sched_options o = {.block_size = QN_KV_BLOCK,
                          .max_batch_tokens = (uint32_t)c->max_batch_tokens,
                          .max_seqs = (uint32_t)c->max_seqs,
                          .min_seqs = (uint32_t)c->min_seqs,
                          .fifo = c->fifo,
                          .classes = c->classes,
                          .n_classes = c->n_classes,
                          .buckets = c->buckets,
                          .n_buckets = c->n_buckets};
    qn_scheduler_init(&e->scheduler, e->pool, &o);
    qn_serving_publish(e);
    return QN_OK;
}

static qn_status open_steps(qn_engine *e, qn_err *err)
{
    qn_config *c = &e->config;
    uint32_t n_blocks = 0;
    qn_model_options o = {
        .device = {.n_threads = c->n_threads,
                   .follow = e->is_following,
                   .cpu_mask = c->cpu_mask,
                   .exact = c->exact,
                   .max_rows = (uint32_t)c->max_batch_tokens,
                   .max_seqs = (uint32_t)c->max_seqs,
                   .max_ctx = (uint32_t)(c->max_ctx ? c->max_ctx : QN_LIMIT_CONTEXT)},
        .max_logit_rows = (uint32_t)QN_MAX(c->max_seqs, 64),
        .mapped = c->mmap,
        .dry = c->dry,
        .mem_limit = c->dry ? 0 : c->mem_limit, /* dry: what all of it takes */
        .plain_plan = c->exact || c->plain_plan,
        .progress = c->progress,
        .progress_arg = c->progress_arg};
    QN_TRY(qn_model_open(&e->model, c->model, &o, err));
    QN_TRY(qn_tokenizer_new(&e->tokenizer, e->model->files, err));
    if (qn_tokenizer_n_tokens(e->tokenizer) > e->model->config.n_vocab)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: the tokenizer has %zu tokens, the model only %u rows of output",
                       c->model, qn_tokenizer_n_tokens(e->tokenizer), e->model->config.n_vocab);
    QN_TRY(open_chat(e, err));
    find_eos(e);
    QN_TRY(qn_grammar_cache_new(&e->grammars, e->tokenizer, e->eos_ids, e->n_eos, err));
    QN_TRY(read_generation_config(e, err));
    qn_dtype kv_dtype = kv_dtypes[c->kv_cache_dtype].dtype;
    QN_TRY(size_cache(e, kv_dtype, &n_blocks, err));
    QN_TRY(qn_runner_new(&e->runner, e->model, n_blocks, (uint32_t)c->max_seqs,
                         (uint32_t)c->max_ctx, kv_dtype, err));
    if (c->prefault)
        QN_TRY(qn_kv_cache_touch(e->runner->kv, err));
    QN_TRY(open_scheduler(e, n_blocks, err));
    if (c->draft_model)
        QN_TRY(open_draft_model(e, &o, n_blocks, kv_dtype, err));
    size_t n = (size_t)c->max_seqs;
    e->chosen = qn_calloc(n, sizeof *e->chosen, QN_MEM_MISC);
    e->run_seqs = qn_calloc(n, sizeof *e->run_seqs, QN_MEM_MISC);
    e->best = qn_calloc(QN_LIMIT_TOP_LOGPROBS + 1, sizeof *e->best, QN_MEM_MISC);
    e->guesses = qn_calloc(n, sizeof *e->guesses, QN_MEM_MISC);
    e->accept = qn_accept_default();
    if (!e->chosen || !e->run_seqs || !e->best || !e->guesses)
        return qn_fail_nomem(err, n * sizeof *e->run_seqs);
    QN_TRY(share_limit(e, err));
    fill_info(e);
    e->inbox_end = &e->inbox;
    if (pthread_create(&e->thread, NULL, engine_main, e) != 0)
        return qn_fail(err, QN_E_NOMEM, "cannot start the engine thread");
    e->has_thread = true;
    return QN_OK;
}

qn_status qn_engine_open(qn_engine **out, const qn_config *cfg, qn_err *err)
{
    *out = NULL;
    QN_TRY(check_config(cfg, err));
    qn_engine *e = qn_calloc(1, sizeof *e, QN_MEM_MISC);
    if (!e)
        return qn_fail_nomem(err, sizeof *e);
    e->config = *cfg;
    for (int t = 0; t < QN_MEM_N_TAGS; t++)
        e->live_before[t] = qn_mem_live((qn_mem_tag)t);
    e->is_following = !cfg->n_threads;
    default_sizes(&e->config);
    qn_serving_init(e);
    pthread_condattr_t clock;
    (void)pthread_condattr_init(&clock);
    (void)pthread_condattr_setclock(&clock, CLOCK_MONOTONIC); /* as qn_now_ns */
    (void)pthread_mutex_init(&e->lock, NULL);
    (void)pthread_mutex_init(&e->step_lock, NULL);
    (void)pthread_mutex_init(&e->turn_lock, NULL);
    (void)pthread_cond_init(&e->wake, &clock);
    (void)pthread_cond_init(&e->stepped, NULL);
    (void)pthread_condattr_destroy(&clock);
    qn_status s = open_steps(e, err);
    e->config.model = e->config.chat_template = e->config.device = e->config.draft_model =
        NULL; /* the caller's strings */
    if (s != QN_OK) {
        qn_engine_free(e);
        return s;
    }
    *out = e;
    return QN_OK;
}

void qn_engine_free(qn_engine *e)
{
    if (!e)
        return;
    if (e->has_thread) {
        (void)pthread_mutex_lock(&e->lock);
        e->stopping = true;
        (void)pthread_cond_signal(&e->wake);
        (void)pthread_mutex_unlock(&e->lock);
        (void)pthread_join(e->thread, NULL);
    }
    qn_scheduler_fini(&e->scheduler);
    qn_block_pool_free(e->pool);
    qn_free(e->chosen);
    qn_free(e->run_seqs);
    qn_free(e->best);
    qn_free(e->guesses);
    qn_free(e->active);
    qn_free(e->tenants);
    qn_chat_template_free(e->chat);
    qn_grammar_cache_free(e->grammars);
    qn_tokenizer_free(e->tokenizer);
    qn_draft_model_free(e->draft_model);
    qn_runner_free(e->runner);
    qn_model_free(e->model);
    (void)pthread_cond_destroy(&e->wake);
    (void)pthread_cond_destroy(&e->stepped);
    (void)pthread_mutex_destroy(&e->step_lock);
    (void)pthread_mutex_destroy(&e->turn_lock);
    (void)pthread_mutex_destroy(&e->lock);
    qn_free(e);
}

void qn_engine_get_info(const qn_engine *e, qn_engine_info *out)
{
    *out = e->info;
}

bool qn_engine_get_experts(const qn_engine *e, qn_expert_info *out)
{
    *out = (qn_expert_info){0};
    if (!e->model->cache)
        return false;
    qn_expert_counts n = qn_expert_cache_count(e->model->cache);
    *out = (qn_expert_info){.n_experts = n.n_experts,
                            .n_in_memory = n.n_slots,
                            .n_uses = n.uses,
                            .n_hits = n.hits,
                            .read_bytes = n.read_bytes};
    return true;
}

void qn_engine_get_roofs(qn_engine *e, qn_roofs *out)
{
    qn_step_lock(e);
    e->model->backend->measure_roofs(e->model->device, out);
    qn_step_unlock(e);
}

void qn_engine_get_params(const qn_engine *e, qn_params *out)
{
    *out = e->defaults;
}
