/* SPDX-License-Identifier: Apache-2.0
 * grammar_cache.c - see grammar_cache.h. */
#include "engine/grammar_cache.h"

#include "base/limits.h"
#include "base/mem.h"
#include <pthread.h>
#include <string.h>

typedef struct entry {
    uint64_t hash, last_use;
    qn_grammar_kind kind;
    char *text;
    size_t n_text;
    bool is_ready;       /* else somebody compiles it */
    qn_grammar *grammar; /* NULL: refused */
    qn_status refusal;
    char *why;
} entry;

struct qn_grammar_cache {
    const qn_tokenizer *tokenizer;
    const int32_t *eos_ids;
    size_t n_eos;
    pthread_mutex_t lock;
    pthread_cond_t ready;      /* an entry or the vocabulary is, or is gone */
    qn_vocabulary *vocabulary; /* NULL: no grammar was asked for yet, or it is being made */
    bool is_making;
    entry *entries;
    size_t n, cap;
    uint64_t n_asked, n_compiled;
};

qn_status qn_grammar_cache_new(qn_grammar_cache **out, const qn_tokenizer *tokenizer,
                               const int32_t *eos_ids, size_t n_eos, qn_err *err)
{
    qn_grammar_cache *c = qn_calloc(1, sizeof *c, QN_MEM_MISC);
    *out = c;
    if (!c)
        return qn_fail_nomem(err, sizeof *c);
    c->tokenizer = tokenizer;
    c->eos_ids = eos_ids;
    c->n_eos = n_eos;
    (void)pthread_mutex_init(&c->lock, NULL);
    (void)pthread_cond_init(&c->ready, NULL);
    return QN_OK;
}

static void entry_fini(entry *e)
{
    qn_grammar_let(e->grammar);
    qn_free(e->text);
    qn_free(e->why);
}

void qn_grammar_cache_free(qn_grammar_cache *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n; i++)
        entry_fini(&c->entries[i]);
    qn_free(c->entries);
    qn_vocabulary_free(c->vocabulary);
    (void)pthread_cond_destroy(&c->ready);
    (void)pthread_mutex_destroy(&c->lock);
    qn_free(c);
}

/* ---- compiling ---- */

static qn_vocab_kind token_of(void *arg, int32_t id, const char **text, size_t *n_text)
{
    const qn_grammar_cache *c = arg;
    for (size_t i = 0; i < c->n_eos; i++)
        if (c->eos_ids[i] == id)
            return QN_VOCAB_END;
    qn_token_kind kind = qn_tokenizer_kind(c->tokenizer, id);
    qn_slice s = qn_tokenizer_bytes(c->tokenizer, id);
    *text = s.p;
    *n_text = s.n;
    return kind == QN_TOKEN_NORMAL || kind == QN_TOKEN_ADDED ? QN_VOCAB_TEXT : QN_VOCAB_SPECIAL;
}

static qn_status add(qn_form *f, qn_grammar_kind kind, qn_slice text, qn_form_id *root, qn_err *err)
{
    switch (kind) {
    case QN_GRAMMAR_SCHEMA:
        return qn_form_add_schema(f, text.p, text.n, false, root, err);
    case QN_GRAMMAR_JSON:
        return qn_form_add_json(f, root, err);
    case QN_GRAMMAR_REGEX:
        return qn_form_add_regex(f, text.p, text.n, true, root, err);
    case QN_GRAMMAR_CHOICE:
        return qn_form_add_choice(f, text.p, text.n, root, err);
    case QN_GRAMMAR_GBNF:
        return qn_form_add_gbnf(f, text.p, text.n, root, err);
    }
    return qn_fail(err, QN_E_ARG, "grammar kind: found %d, want 0..%d", (int)kind, QN_GRAMMAR_GBNF);
}

static qn_status compile(const qn_vocabulary *v, qn_grammar **out, qn_grammar_kind kind,
                         qn_slice text, qn_err *err)
{
    qn_form *f = NULL;
    qn_form_id root = 0;
    *out = NULL;
    QN_TRY(qn_form_new(&f, err));
    qn_status s = add(f, kind, text, &root, err);
    if (s == QN_OK) {
        qn_form_set_root(f, root);
        s = qn_grammar_compile(out, v, f, err);
    }
    qn_form_free(f);
    return s;
}

/* ---- entries; with the lock held ---- */

static entry *find(const qn_grammar_cache *c, uint64_t hash, qn_grammar_kind kind, qn_slice text)
{
    for (size_t i = 0; i < c->n; i++) {
        entry *e = &c->entries[i];
        if (e->hash == hash && e->kind == kind && e->n_text == text.n &&
            (!text.n || memcmp(e->text, text.p, text.n) == 0))
            return e;
    }
    return NULL;
}

static void drop(qn_grammar_cache *c, entry *e)
{
    entry_fini(e);
    *e = c->entries[--c->n];
}

static size_t bytes_of(const entry *e)
{
    return sizeof *e + e->n_text + (e->grammar ? qn_grammar_n_bytes(e->grammar) : 0);
}

static size_t n_bytes(const qn_grammar_cache *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++)
        n += bytes_of(&c->entries[i]);
    return n;
}

/* Within the limits again, as far as entries are not in use. */
static void evict(qn_grammar_cache *c)
{
    size_t bytes = n_bytes(c);
    while (bytes > QN_LIMIT_GRAMMAR_CACHE || c->n > QN_LIMIT_GRAMMARS) {
        entry *oldest = NULL;
        for (size_t i = 0; i < c->n; i++) {
            entry *e = &c->entries[i];
            if (e->is_ready && !(e->grammar && qn_grammar_is_shared(e->grammar)) &&
                (!oldest || e->last_use < oldest->last_use))
                oldest = e;
        }
        if (!oldest)
            return;
        bytes -= bytes_of(oldest);
        drop(c, oldest);
    }
}

static qn_status use(entry *e, qn_grammar **out, qn_err *err)
{
    if (!e->grammar)
        return qn_fail(err, e->refusal, "%s", e->why);
    qn_grammar_keep(e->grammar);
    *out = e->grammar;
    return QN_OK;
}

/* A text that is compiled from now on. */
static qn_status open_entry(qn_grammar_cache *c, uint64_t hash, qn_grammar_kind kind, qn_slice text,
                            qn_err *err)
{
    char *copy = qn_strndup(text.p ? text.p : "", text.n, QN_MEM_MISC);
    if (!copy || !qn_grow(&c->entries, &c->cap, c->n + 1, sizeof *c->entries, QN_MEM_MISC)) {
        qn_free(copy);
        return qn_fail_nomem(err, text.n);
    }
    c->entries[c->n++] =
        (entry){.hash = hash, .last_use = c->n_asked, .kind = kind, .text = copy, .n_text = text.n};
    return QN_OK;
}

/* What came of it. What a text is refused for is kept as a grammar is; other failures may pass. */
static void close_entry(qn_grammar_cache *c, entry *e, qn_grammar *g, qn_status s,
                        const qn_err *why)
{
    e->is_ready = true;
    e->grammar = g;
    e->refusal = s;
    if (s == QN_E_ARG || s == QN_E_UNSUPPORTED || s == QN_E_TOO_LONG)
        e->why = qn_strdup(why->msg, QN_MEM_MISC);
    if (!g && !e->why)
        drop(c, e);
    evict(c);
    (void)pthread_cond_broadcast(&c->ready);
}

static qn_status make_vocabulary(qn_grammar_cache *c, qn_err *err)
{
    while (c->is_making)
        (void)pthread_cond_wait(&c->ready, &c->lock);
    if (c->vocabulary)
        return QN_OK;
    c->is_making = true;
    (void)pthread_mutex_unlock(&c->lock);
    qn_vocabulary *v = NULL;
    qn_status s = qn_vocabulary_new(&v, qn_tokenizer_n_tokens(c->tokenizer), token_of, c, err);
    (void)pthread_mutex_lock(&c->lock);
    c->is_making = false;
    c->vocabulary = v;
    (void)pthread_cond_broadcast(&c->ready);
    return s;
}

static qn_status get(qn_grammar_cache *c, qn_grammar **out, qn_grammar_kind kind, qn_slice text,
                     qn_err *err)
{
    uint64_t hash = qn_hash(text.p, text.n, (uint64_t)kind);
    entry *e;
    c->n_asked++;
    QN_TRY(make_vocabulary(c, err));
    while ((e = find(c, hash, kind, text)) && !e->is_ready)
        (void)pthread_cond_wait(&c->ready, &c->lock);
    if (e) {
        e->last_use = c->n_asked;
        return use(e, out, err);
    }
    evict(c); /* requests have ended since */
    size_t bytes = n_bytes(c);
    if (bytes > QN_LIMIT_GRAMMARS_IN_USE)
        return qn_fail(err, QN_E_NOMEM, "grammar: found %zu MB of grammars in use, want at most %d",
                       bytes >> 20, QN_LIMIT_GRAMMARS_IN_USE >> 20);
    QN_TRY(open_entry(c, hash, kind, text, err));
    c->n_compiled++;
    (void)pthread_mutex_unlock(&c->lock);
    qn_grammar *g = NULL;
    qn_err why = {0};
    qn_status s = compile(c->vocabulary, &g, kind, text, &why);
    (void)pthread_mutex_lock(&c->lock);
    if (s == QN_OK) {
        qn_grammar_keep(g);
        *out = g;
    } else {
        s = qn_fail(err, s, "%s", why.msg);
    }
    close_entry(c, find(c, hash, kind, text), g, s, &why);
    return s;
}

/* What is read of a text; too much of it is refused before it is looked at. */
static qn_status take_text(qn_grammar_kind kind, qn_slice *text, qn_err *err)
{
    if (kind == QN_GRAMMAR_JSON)
        *text = QN_SLICE("");
    if (text->n > QN_LIMIT_GRAMMAR_TEXT)
        return qn_fail(err, QN_E_TOO_LONG, "grammar: found %zu bytes, want at most %d", text->n,
                       QN_LIMIT_GRAMMAR_TEXT);
    return QN_OK;
}

qn_status qn_grammar_cache_get(qn_grammar_cache *c, qn_grammar **out, qn_grammar_kind kind,
                               qn_slice text, qn_err *err)
{
    *out = NULL;
    QN_TRY(take_text(kind, &text, err));
    (void)pthread_mutex_lock(&c->lock);
    qn_status s = get(c, out, kind, text, err);
    (void)pthread_mutex_unlock(&c->lock);
    return s;
}

qn_status qn_grammar_cache_find(qn_grammar_cache *c, qn_grammar **out, qn_grammar_kind kind,
                                qn_slice text, qn_err *err)
{
    *out = NULL;
    QN_TRY(take_text(kind, &text, err));
    uint64_t hash = qn_hash(text.p, text.n, (uint64_t)kind);
    qn_status s;
    (void)pthread_mutex_lock(&c->lock);
    entry *e = find(c, hash, kind, text);
    if (e && e->is_ready) {
        e->last_use = ++c->n_asked;
        s = use(e, out, err);
    } else {
        s = qn_fail(err, QN_E_NOT_FOUND, "the grammar was not compiled yet");
    }
    (void)pthread_mutex_unlock(&c->lock);
    return s;
}

bool qn_grammar_cache_owns(qn_grammar_cache *c, const qn_grammar *g)
{
    (void)pthread_mutex_lock(&c->lock);
    bool is_ours = c->vocabulary && qn_grammar_vocabulary(g) == c->vocabulary;
    (void)pthread_mutex_unlock(&c->lock);
    return is_ours;
}

qn_grammar_cache_counts qn_grammar_cache_count(qn_grammar_cache *c)
{
    (void)pthread_mutex_lock(&c->lock);
    qn_grammar_cache_counts n = {c->n, n_bytes(c), c->n_asked, c->n_compiled};
    (void)pthread_mutex_unlock(&c->lock);
    return n;
}
