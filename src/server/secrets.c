/* SPDX-License-Identifier: Apache-2.0
 * secrets.c - keys and certificate: read at the start, and again when the server is told to.
 *
 *   qn_server_reload --> I/O thread: a job --> reader's thread: files --> fresh_keys, fresh_tls --> I/O thread: in their place
 *
 * Files are read on a thread of their own, since they may be slow. What cannot be used leaves the old in its place: keys and
 * certificate each for itself, so that a bad certificate does not keep a key valid that was taken back. Keys that running answers
 * were asked with live on until these end: their tenants and classes are named there.
 * The reader's queue holds one job: one that waits will read whatever is newest. */
#include "server/core.h"
#include "server/spec.h"

#include "base/file.h"
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <string.h>

#define KEY_FILE_MAX (1 << 20)

/* ---- keys ---- */

void qn_keys_drop(qn_keys *k)
{
    if (!k || --k->n_users)
        return;
    qn_arena_fini(&k->arena);
    qn_free(k);
}

static qn_status add_key(qn_keys *k, const qn_api_key *from, const qn_server_config *cfg,
                         qn_err *err)
{
    qn_key *to = &k->list[k->n];
    if (!from->key || !*from->key)
        return qn_fail(err, QN_E_ARG, "API key %zu is empty", k->n + 1);
    if (from->class_name && cfg->n_models &&
        qn_spec_class(&cfg->models[0].config, from->class_name) < 0)
        return qn_fail(err, QN_E_ARG, "%s: found class '%.40s', want one of --classes",
                       cfg->key_file ? cfg->key_file : "API keys", from->class_name);
    if (!SHA256((const unsigned char *)from->key, strlen(from->key), to->digest))
        return qn_fail_nomem(err, sizeof *to);
    for (size_t b = 0; b < 8; b++)
        (void)snprintf(to->made + 2 * b, 3, "%02x", to->digest[b]);
    to->tenant = from->tenant ? from->tenant : to->made;
    to->class_name = from->class_name;
    k->n++;
    return QN_OK;
}

static qn_status read_keys(qn_keys *k, const qn_server_config *cfg, qn_str *text, qn_err *err)
{
    qn_api_key *listed = NULL;
    size_t n = 0;
    if (cfg->key_file) {
        QN_TRY(qn_file_read(text, cfg->key_file, KEY_FILE_MAX, err));
        QN_TRY(qn_spec_keys(text->p, text->n, cfg->key_file, &k->arena, &listed, &n, err));
    }
    size_t bytes = (n + cfg->n_keys + 1) * sizeof *k->list;
    k->list = qn_arena_alloc(&k->arena, bytes);
    if (!k->list)
        return qn_fail_nomem(err, bytes);
    memset(k->list, 0, bytes);
    for (size_t i = 0; i < n; i++) {
        QN_TRY(add_key(k, &listed[i], cfg, err));
        OPENSSL_cleanse((char *)(uintptr_t)listed[i].key, strlen(listed[i].key));
    }
    for (size_t i = 0; i < cfg->n_keys; i++)
        QN_TRY(add_key(k, &cfg->keys[i], cfg, err));
    k->has_one_tenant = true;
    for (size_t i = 1; i < k->n; i++)
        k->has_one_tenant &= strcmp(k->list[i].tenant, k->list[0].tenant) == 0;
    return QN_OK;
}

qn_status qn_keys_read(qn_keys **out, const qn_server_config *cfg, qn_err *err)
{
    qn_str text = {0};
    *out = NULL;
    qn_keys *k = qn_calloc(1, sizeof *k, QN_MEM_MISC);
    if (!k)
        return qn_fail_nomem(err, sizeof *k);
    k->n_users = 1;
    qn_arena_init(&k->arena, 0, QN_MEM_MISC);
    qn_status st = read_keys(k, cfg, &text, err);
    if (text.p)
        OPENSSL_cleanse(text.p, text.n);
    qn_str_fini(&text);
    if (st != QN_OK)
        qn_keys_drop(k);
    else
        *out = k;
    return st;
}

bool qn_keys_find(const qn_keys *k, qn_slice given, const qn_key **out)
{
    uint8_t digest[32];
    *out = NULL;
    if (!SHA256((const unsigned char *)(given.p ? given.p : ""), given.n, digest))
        return false;
    for (size_t i = 0; i < k->n && given.p; i++)
        if (CRYPTO_memcmp(k->list[i].digest, digest, sizeof digest) == 0)
            *out = &k->list[i];
    return true;
}

/* ---- TLS ---- */

qn_status qn_tls_read(void **out, const qn_server_config *c, qn_err *err)
{
    *out = NULL;
    if (!c->tls_cert && !c->tls_key)
        return QN_OK;
    if (!c->tls_cert || !c->tls_key)
        return qn_fail(err, QN_E_ARG, "TLS: a certificate and a key are needed, both");
    SSL_CTX *t = SSL_CTX_new(TLS_server_method());
    if (!t)
        return qn_fail_nomem(err, 1 << 10);
    (void)SSL_CTX_set_min_proto_version(t, TLS1_2_VERSION);
    (void)SSL_CTX_set_options(t, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    const char *what = NULL;
    if (SSL_CTX_use_certificate_chain_file(t, c->tls_cert) != 1)
        what = c->tls_cert;
    else if (SSL_CTX_use_PrivateKey_file(t, c->tls_key, SSL_FILETYPE_PEM) != 1 ||
             SSL_CTX_check_private_key(t) != 1)
        what = c->tls_key;
    if (!what) {
        *out = t;
        return QN_OK;
    }
    SSL_CTX_free(t);
    const char *why = NULL;
    bool no_memory = false;
    for (unsigned long e; (e = ERR_get_error()) != 0;
         no_memory |= ERR_GET_REASON(e) == ERR_R_MALLOC_FAILURE)
        why = why ? why : ERR_reason_error_string(e);
    if (no_memory)
        return qn_fail_nomem(err, 1 << 10);
    return qn_fail(err, QN_E_FORMAT, "TLS: %s: %s", what, why ? why : "cannot be used");
}

/* ---- again ---- */

/* The reader's. The server may be told again meanwhile; then what is newer replaces what nobody took yet. */
static void read_again(qn_job *job)
{
    qn_server *s = (qn_server *)((char *)job - offsetof(qn_server, read_again));
    const qn_server_config *cfg = s->cfg;
    qn_err err = {0};
    qn_keys *keys = NULL;
    void *tls = NULL;
    if (cfg->key_file && qn_keys_read(&keys, cfg, &err) != QN_OK)
        qn_server_notice(s, "reload: %s; the old keys stay", err.msg);
    if (cfg->tls_cert && qn_tls_read(&tls, cfg, &err) != QN_OK)
        qn_server_notice(s, "reload: %s; the old certificate stays", err.msg);
    (void)pthread_mutex_lock(&s->fresh_lock);
    if (keys) {
        qn_keys_drop(s->fresh_keys);
        s->fresh_keys = keys;
    }
    if (tls) {
        SSL_CTX_free(s->fresh_tls);
        s->fresh_tls = tls;
    }
    (void)pthread_mutex_unlock(&s->fresh_lock);
    qn_server_wake(s);
}

qn_status qn_secrets_init(qn_server *s, qn_err *err)
{
    QN_TRY(qn_tls_read(&s->tls, s->cfg, err));
    return qn_keys_read(&s->keys, s->cfg, err);
}

qn_status qn_secrets_start(qn_server *s, qn_err *err)
{
    return qn_workers_new(&s->reader, 1, 1, 0, read_again, err);
}

static void take_fresh(qn_server *s)
{
    (void)pthread_mutex_lock(&s->fresh_lock);
    qn_keys *keys = s->fresh_keys;
    void *tls = s->fresh_tls;
    s->fresh_keys = NULL;
    s->fresh_tls = NULL;
    (void)pthread_mutex_unlock(&s->fresh_lock);
    if (keys) {
        qn_keys_drop(s->keys);
        s->keys = keys;
        qn_server_notice(s, "reload: %zu keys", keys->n);
    }
    if (tls) { /* connections that stand keep the one they began with */
        SSL_CTX_free(s->tls);
        s->tls = tls;
        qn_server_notice(s, "reload: the certificate %s", s->cfg->tls_cert);
    }
}

void qn_secrets_note(qn_server *s)
{
    int n_asked = atomic_load(&s->n_reloads);
    if (n_asked != s->n_reloads_seen) {
        s->n_reloads_seen = n_asked;
        if (!s->cfg->key_file && !s->cfg->tls_cert)
            qn_server_notice(s, "reload: there is no key file and no certificate to read");
        else
            (void)qn_workers_put(s->reader, &s->read_again,
                                 0); /* full: one that waits will read the same */
    }
    take_fresh(s);
}

void qn_secrets_end(qn_server *s)
{
    qn_workers_free(s->reader);
    qn_keys_drop(s->fresh_keys);
    SSL_CTX_free(s->fresh_tls);
    qn_keys_drop(s->keys);
    SSL_CTX_free(s->tls);
}
