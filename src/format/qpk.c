/* SPDX-License-Identifier: Apache-2.0
 * qpk.c - reader and writer of packed files.
 *
 * Reading: one cursor over the table, whose hash was compared before; every offset is checked against
 * the file, tensors and panels are in ascending order and disjoint, a tensor's bytes are what dtype and
 * shape ask for. Writing: the table's size is known before anything is written, so data goes to its
 * place in one pass, hashed on the way, and header and table come last. */
#include "format/qpk.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "base/cursor.h"
#include "format/gguf.h"

enum { HEADER_BYTES = 160, DATA_BEGIN = 4096, HASH = 32, ALIGN = 64 };
#define BORDER     ((uint64_t)2 << 20)
#define MAX_FILES  64u
#define MAX_ABSENT ((uint64_t)1 << 44)
#define READ_PIECE ((size_t)4 << 20)

static bool sha256(uint8_t out[HASH], qn_slice a, qn_slice b)
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    bool ok = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 &&
              EVP_DigestUpdate(md, a.p, a.n) == 1 && EVP_DigestUpdate(md, b.p, b.n) == 1 &&
              EVP_DigestFinal_ex(md, out, NULL) == 1;
    EVP_MD_CTX_free(md);
    return ok;
}

/* ---- reading ---- */

typedef struct reader {
    qn_cursor c;
    qn_weights *w;
    qn_qpk *q;
    uint64_t file_bytes;
    uint32_t n_tensors, source;
    qn_tensor *tensors;
} reader;

static void *take(reader *r, size_t n, size_t size)
{
    size_t bytes;
    void *m = qn_mul_size(n + 1, size, &bytes) ? qn_arena_alloc(&r->w->arena, bytes) : NULL;
    if (m)
        memset(m, 0, bytes);
    else
        (void)qn_cursor_fail(&r->c, QN_E_NOMEM, "out of memory for %zu entries", n);
    return m;
}

static bool read_name(reader *r, char **out)
{
    uint32_t n;
    qn_slice s = {0};
    if (!qn_cursor_u32(&r->c, &n))
        return false;
    if (n == 0 || n > QN_LIMIT_TENSOR_NAME)
        return qn_cursor_fail(&r->c, QN_E_FORMAT, "name of %" PRIu32 " bytes, want 1..%d", n,
                              QN_LIMIT_TENSOR_NAME);
    if (!qn_cursor_bytes(&r->c, n, &s))
        return false;
    if (memchr(s.p, 0, s.n) || !qn_utf8_valid(s.p, s.n))
        return qn_cursor_fail(&r->c, QN_E_FORMAT, "name is not UTF-8 text");
    *out = qn_arena_strndup(&r->w->arena, s.p, s.n);
    return *out || qn_cursor_fail(&r->c, QN_E_NOMEM, "out of memory");
}

static bool read_hash(qn_cursor *c, uint8_t out[HASH])
{
    qn_slice s = {0};
    if (!qn_cursor_bytes(c, HASH, &s))
        return false;
    memcpy(out, s.p, HASH);
    return true;
}

/* [offset, offset + bytes) is behind the header and inside the file. */
static bool check_place(reader *r, uint64_t offset, uint64_t bytes, uint64_t align)
{
    if (offset < DATA_BEGIN || offset % align || offset > r->file_bytes ||
        bytes > r->file_bytes - offset)
        return qn_cursor_fail(&r->c, QN_E_FORMAT,
                              "bytes %" PRIu64 " + %" PRIu64 " are not inside the file's %" PRIu64
                              " or not on a multiple of %" PRIu64,
                              offset, bytes, r->file_bytes, align);
    return true;
}

static bool read_files(reader *r)
{
    qn_cursor *c = &r->c;
    const uint8_t *base = r->q->file->data;
    for (size_t i = 0; i < r->q->n_files; i++) {
        qn_folder_file *f = &r->q->files[i];
        uint64_t offset, bytes;
        uint8_t want[HASH], have[HASH];
        char *name = NULL;
        qn_cursor_field(c, "small file %zu", i);
        if (!read_name(r, &name) || !qn_cursor_u64(c, &offset) || !qn_cursor_u64(c, &bytes) ||
            !read_hash(c, want) || !check_place(r, offset, bytes, ALIGN))
            return false;
        f->name = name;
        f->bytes = (qn_slice){(const char *)base + offset, (size_t)bytes};
        if (!sha256(have, f->bytes, (qn_slice){"", 0}) || memcmp(have, want, HASH) != 0)
            return qn_cursor_fail(c, QN_E_FORMAT,
                                  "'%.96s': the bytes are not those that were written (SHA-256)",
                                  name);
    }
    return true;
}

static bool read_dtype(reader *r, qn_dtype *out)
{
    char *name = NULL;
    if (!read_name(r, &name) || !name)
        return false;
    for (int t = 0; t < QN_N_DTYPES; t++)
        if (strcmp(qn_dtype_get((qn_dtype)t)->name, name) == 0 &&
            qn_dtype_get((qn_dtype)t)->block_bytes) {
            *out = (qn_dtype)t;
            return true;
        }
    return qn_cursor_fail(&r->c, QN_E_UNSUPPORTED, "type '%.32s' is not known", name);
}

static bool read_shape(reader *r, qn_tensor *t, uint64_t *bytes)
{
    qn_cursor *c = &r->c;
    size_t row_bytes = 0, n = 1;
    if (!qn_cursor_u32(c, &t->n_dims))
        return false;
    if (t->n_dims > QN_LIMIT_TENSOR_DIMS)
        return qn_cursor_fail(c, QN_E_FORMAT, "%" PRIu32 " dimensions, limit %d", t->n_dims,
                              QN_LIMIT_TENSOR_DIMS);
    bool fits = true;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (!qn_cursor_u64(c, &t->dims[i]))
            return false;
        if (i + 1 < t->n_dims)
            fits = fits && qn_mul_size(n, t->dims[i], &n);
    }
    uint64_t cols = t->n_dims ? t->dims[t->n_dims - 1] : 1;
    size_t want = 0;
    if (!fits || !qn_dtype_row_bytes(t->dtype, cols, &row_bytes) ||
        !qn_mul_size(n, row_bytes, &want))
        return qn_cursor_fail(c, QN_E_FORMAT, "shape does not fit %s",
                              qn_dtype_get(t->dtype)->name);
    *bytes = want;
    return true;
}

static bool read_tensors(reader *r)
{
    qn_cursor *c = &r->c;
    qn_qpk *q = r->q;
    uint64_t end = DATA_BEGIN;
    for (uint32_t i = 0; i < r->n_tensors; i++) {
        qn_tensor *t = &r->tensors[i];
        uint64_t place, bytes, want = 0;
        char shown[100], *name = NULL;
        qn_cursor_field(c, "tensor %" PRIu32, i);
        if (!read_name(r, &name))
            return false;
        t->name = name;
        qn_cursor_field(c, "tensor '%s'", qn_short_name(shown, qn_slice_of(name)));
        if (!read_dtype(r, &t->dtype) || !read_shape(r, t, &want) || !qn_cursor_u64(c, &place) ||
            !qn_cursor_u64(c, &bytes) || !read_hash(c, q->tensors[i].hash))
            return false;
        if (bytes != want)
            return qn_cursor_fail(
                c, QN_E_FORMAT, "%" PRIu64 " bytes, dtype and shape ask for %" PRIu64, bytes, want);
        bool is_absent = place >= r->file_bytes && bytes > 0;
        if (place < end || place % ALIGN)
            return qn_cursor_fail(
                c, QN_E_FORMAT, "place %" PRIu64 " overlaps or is no multiple of %d", place, ALIGN);
        if (is_absent ? place - r->file_bytes > q->absent_bytes ||
                            bytes > q->absent_bytes - (place - r->file_bytes)
                      : !check_place(r, place, bytes, ALIGN))
            return qn_cursor_fail(c, QN_E_FORMAT, "place %" PRIu64 " is outside of the file",
                                  place);
        end = place + bytes;
        q->tensors[i].place = place;
        t->bytes = (size_t)bytes;
        if (bytes)
            t->data = is_absent ? (const void *)(q->absent + (place - r->file_bytes))
                                : (const void *)(q->file->data + place);
    }
    return true;
}

static int by_place(const void *a, const void *b)
{
    const qn_qpk_panels *x = a, *y = b;
    if (x->place != y->place)
        return x->place < y->place ? -1 : 1;
    return x->row0 < y->row0 ? -1 : x->row0 > y->row0;
}

static bool read_panels(reader *r)
{
    qn_cursor *c = &r->c;
    qn_qpk *q = r->q;
    uint64_t end = DATA_BEGIN;
    for (size_t i = 0; i < q->n_panels; i++) {
        qn_qpk_panels *p = &q->panels[i];
        qn_cursor_field(c, "panels %zu", i);
        if (!qn_cursor_u64(c, &p->place) || !qn_cursor_u64(c, &p->row0) ||
            !qn_cursor_u64(c, &p->rows) || !qn_cursor_u64(c, &p->cols) ||
            !qn_cursor_u32(c, &p->form) || !qn_cursor_u32(c, &p->area) ||
            !qn_cursor_u64(c, &p->offset) || !qn_cursor_u64(c, &p->bytes) ||
            !read_hash(c, p->hash) || !check_place(r, p->offset, p->bytes, QN_QPK_PAGE))
            return false;
        if (p->area >= QN_QPK_N_AREAS || p->offset < q->area_offset[p->area] ||
            p->offset - q->area_offset[p->area] > q->area_bytes[p->area] ||
            p->bytes > q->area_bytes[p->area] - (p->offset - q->area_offset[p->area]))
            return qn_cursor_fail(c, QN_E_FORMAT, "are not inside their area");
        if (p->offset < end)
            return qn_cursor_fail(c, QN_E_FORMAT, "overlap those before");
        end = p->offset + p->bytes;
    }
    qsort(q->panels, q->n_panels, sizeof *q->panels, by_place);
    for (size_t i = 1; i < q->n_panels; i++)
        if (by_place(&q->panels[i - 1], &q->panels[i]) == 0)
            return qn_cursor_fail(c, QN_E_FORMAT, "two stand for one matrix");
    return true;
}

/* The fixed part; *table is where the cursor goes on. */
static bool read_header(reader *r, qn_slice *head, qn_slice *table, qn_slice *hash)
{
    qn_cursor *c = &r->c;
    qn_qpk *q = r->q;
    uint32_t version, n_files, n_panels;
    uint64_t absent, offset, bytes;
    qn_slice magic;
    qn_cursor_field(c, "header");
    if (!qn_cursor_bytes(c, 8, &magic) || !qn_cursor_u32(c, &version))
        return false;
    if (version != QN_QPK_VERSION)
        return qn_cursor_fail(c, QN_E_UNSUPPORTED,
                              "version %" PRIu32 " of packed files, want %u: run quern pack again",
                              version, QN_QPK_VERSION);
    if (!qn_cursor_u32(c, &q->layout) || !qn_cursor_u64(c, &r->file_bytes) ||
        !qn_cursor_u64(c, &absent) || !qn_cursor_u64(c, &offset) || !qn_cursor_u64(c, &bytes))
        return false;
    for (int i = 0; i < QN_QPK_N_AREAS; i++)
        if (!qn_cursor_u64(c, &q->area_offset[i]) || !qn_cursor_u64(c, &q->area_bytes[i]))
            return false;
    if (!qn_cursor_u32(c, &n_files) || !qn_cursor_u32(c, &r->n_tensors) ||
        !qn_cursor_u32(c, &n_panels) || !qn_cursor_u32(c, &r->source))
        return false;
    *head = (qn_slice){(const char *)c->start, (size_t)(c->p - c->start)};
    if (!qn_cursor_bytes(c, HASH, hash))
        return false;
    if (r->file_bytes != q->file->size)
        return qn_cursor_fail(c, QN_E_FORMAT, "file of %zu bytes, want %" PRIu64, q->file->size,
                              r->file_bytes);
    if (n_files > MAX_FILES || r->n_tensors > QN_LIMIT_TENSORS || n_panels > QN_LIMIT_TENSORS ||
        r->source > QN_FORMAT_HF || absent > MAX_ABSENT)
        return qn_cursor_fail(c, QN_E_FORMAT,
                              "%" PRIu32 " files, %" PRIu32 " tensors, %" PRIu32
                              " panels of source %" PRIu32 ": over the limits",
                              n_files, r->n_tensors, n_panels, r->source);
    if (!check_place(r, offset, bytes, ALIGN))
        return false;
    for (int i = 0; i < QN_QPK_N_AREAS; i++)
        if (q->area_bytes[i] && !check_place(r, q->area_offset[i], q->area_bytes[i], BORDER))
            return false;
    *table = (qn_slice){(const char *)c->start + offset, (size_t)bytes};
    q->n_files = n_files;
    q->n_panels = n_panels;
    q->absent_bytes = (size_t)absent;
    return true;
}

static bool read_all(reader *r)
{
    qn_cursor *c = &r->c;
    qn_qpk *q = r->q;
    qn_slice head = {0}, table = {0}, hash = {0};
    uint8_t have[HASH];
    if (!read_header(r, &head, &table, &hash))
        return false;
    if (!hash.p || !sha256(have, head, table) || memcmp(have, hash.p, HASH) != 0)
        return qn_cursor_fail(c, QN_E_FORMAT,
                              "header and table are not those that were written (SHA-256)");
    if (q->absent_bytes && !(q->absent = qn_zeros_map(q->absent_bytes)))
        return qn_cursor_fail(c, QN_E_NOMEM, "no address space for %zu bytes", q->absent_bytes);
    c->p = (const uint8_t *)table.p;
    c->end = c->p + table.n;
    q->files = take(r, q->n_files, sizeof *q->files);
    r->tensors = take(r, r->n_tensors, sizeof *r->tensors);
    q->tensors = take(r, r->n_tensors, sizeof *q->tensors);
    q->panels = take(r, q->n_panels, sizeof *q->panels);
    return q->files && r->tensors && q->tensors && q->panels && read_files(r) && read_tensors(r) &&
           read_panels(r);
}

/* Configuration and metadata from the small files. */
static qn_status read_metadata(qn_weights *w, qn_err *err)
{
    const char *name = qn_base_name(w->path);
    qn_folder folder = qn_weights_folder(w);
    bool has = false;
    if (w->format == QN_FORMAT_HF) {
        QN_TRY(qn_folder_json(&w->config, &folder, "config.json", err));
        QN_TRY(qn_folder_has(&folder, "generation_config.json", &has, err));
        return has ? qn_folder_json(&w->generation_config, &folder, "generation_config.json", err)
                   : QN_OK;
    }
    for (size_t i = 0; i < folder.n_files; i++) {
        const qn_folder_file *f = &folder.files[i];
        qn_tensor *none;
        size_t n;
        if (strcmp(f->name, "gguf") == 0)
            return qn_gguf_parse(f->bytes.p, f->bytes.n, name, &w->arena, &w->gguf, &none, &n, err);
    }
    return qn_fail(err, QN_E_FORMAT, "%s: small files: 'gguf' is missing", name);
}

qn_status qn_qpk_open(qn_weights *w, qn_err *err)
{
    const qn_file *f = w->files[0];
    reader r = {.w = w};
    w->qpk = r.q = qn_calloc(1, sizeof *r.q, QN_MEM_MISC);
    if (!r.q)
        return qn_fail_nomem(err, sizeof *r.q);
    r.q->file = f;
    qn_cursor_init(&r.c, f->data, f->size, qn_base_name(w->path), err);
    if (!read_all(&r))
        return r.c.status;
    w->format = (qn_format)r.source;
    QN_TRY(qn_weights_add(w, r.tensors, r.n_tensors, r.c.file, err));
    return read_metadata(w, err);
}

void qn_qpk_free(qn_qpk *q)
{
    if (!q)
        return;
    for (int i = 0; i < QN_QPK_N_AREAS; i++)
        qn_free(q->memory[i]);
    qn_zeros_unmap(q->absent, q->absent_bytes);
    qn_free(q);
}

bool qn_qpk_is_absent(const qn_qpk *q, const void *p)
{
    return q && (uintptr_t)p - (uintptr_t)q->absent < q->absent_bytes;
}

const qn_qpk_panels *qn_qpk_find(const qn_qpk *q, const qn_weight *view)
{
    uintptr_t p = (uintptr_t)view->data, base = (uintptr_t)q->file->data;
    qn_qpk_panels key = {.row0 = view->row0};
    if (qn_qpk_is_absent(q, view->data))
        key.place = q->file->size + (p - (uintptr_t)q->absent);
    else if (p - base < q->file->size)
        key.place = p - base;
    else
        return NULL;
    const qn_qpk_panels *found = bsearch(&key, q->panels, q->n_panels, sizeof *q->panels, by_place);
    return found && found->rows == view->rows && found->cols == view->cols ? found : NULL;
}

const void *qn_qpk_data(const qn_qpk *q, const qn_qpk_panels *p)
{
    const uint8_t *m = q->memory[p->area];
    return m ? m + (p->offset - q->area_offset[p->area]) : q->file->data + p->offset;
}

/* ---- areas into memory ---- */

typedef struct area_read {
    qn_qpk *q;
    int area;
    uint8_t *to;
    qn_status status[QN_LIMIT_THREADS];
    qn_err err[QN_LIMIT_THREADS];
} area_read;

static void read_part(void *arg, int thread, int n_threads)
{
    area_read *a = arg;
    size_t n = (size_t)a->q->area_bytes[a->area], step = (size_t)n_threads * READ_PIECE;
    qn_status s = QN_OK;
    for (size_t at = (size_t)thread * READ_PIECE; s == QN_OK && at < n; at += step)
        s = qn_file_pread(a->q->file, (size_t)a->q->area_offset[a->area] + at, a->to + at,
                          QN_MIN(READ_PIECE, n - at), &a->err[thread]);
    a->status[thread] = s;
}

qn_status qn_qpk_read(qn_qpk *q, int area, qn_team *team, qn_err *err)
{
    size_t n = (size_t)q->area_bytes[area];
    if (n == 0 || q->memory[area])
        return QN_OK;
    area_read *a = qn_calloc(1, sizeof *a, QN_MEM_MISC);
    q->memory[area] = a ? qn_alloc(n, QN_MEM_WEIGHTS) : NULL;
    if (!q->memory[area]) {
        qn_free(a);
        return qn_fail_nomem(err, n);
    }
    a->q = q;
    a->area = area;
    a->to = q->memory[area];
    qn_team_run(team, read_part, a);
    qn_status s = QN_OK;
    for (int i = 0; s == QN_OK && i < qn_team_size(team); i++)
        if (a->status[i] != QN_OK) {
            s = a->status[i];
            *err = a->err[i];
        }
    qn_free(a);
    return s;
}

/* ---- sums ---- */

static qn_status check_sum(const qn_qpk *q, uint64_t place, uint64_t bytes, const uint8_t *want,
                           const char *what, qn_err *err)
{
    uint8_t have[HASH];
    const uint8_t *p = q->file->data + place;
    if (!sha256(have, (qn_slice){(const char *)p, (size_t)bytes}, (qn_slice){"", 0}))
        return qn_fail_nomem(err, HASH);
    qn_file_drop(q->file, p, (size_t)bytes);
    if (memcmp(have, want, HASH) == 0)
        return QN_OK;
    return qn_fail(err, QN_E_FORMAT,
                   "%s: %s at byte %" PRIu64 ": not the bytes that were written (SHA-256)",
                   qn_base_name(q->file->path), what, place);
}

qn_status qn_qpk_check(const qn_weights *w, void (*progress)(void *, const char *, double),
                       void *progress_arg, qn_err *err)
{
    const qn_qpk *q = w->qpk;
    double done = 0, total = (double)q->file->size;
    for (size_t i = 0; i < w->n_tensors; i++) {
        const qn_tensor *t = &w->tensors[i];
        if (q->tensors[i].place >= q->file->size)
            continue;
        QN_TRY(check_sum(q, q->tensors[i].place, t->bytes, q->tensors[i].hash, t->name, err));
        done += (double)t->bytes;
        if (progress)
            progress(progress_arg, "verifying", done / total);
    }
    for (size_t i = 0; i < q->n_panels; i++) {
        const qn_qpk_panels *p = &q->panels[i];
        QN_TRY(check_sum(q, p->offset, p->bytes, p->hash, "panels", err));
        done += (double)p->bytes;
        if (progress)
            progress(progress_arg, "verifying", done / total);
    }
    return QN_OK;
}

/* ---- writing ---- */

typedef struct writer {
    const qn_qpk_source *s;
    qn_file_out *out;
    qn_qpk q; /* header fields, files and their bytes */
    qn_folder_file files[MAX_FILES];
    uint64_t file_place[MAX_FILES];
    uint8_t file_hash[MAX_FILES][HASH];
    qn_str texts;     /* bytes of all small files, one after the other */
    size_t *order;    /* tensors of the table: kept ones, then stand-ins */
    size_t *position; /* of a tensor in order */
    size_t n_tensors;
    qn_qpk_tensor *tensors; /* as order */
    uint64_t file_bytes, data_end, table_at;
    size_t table_bytes;
    qn_str table;
    qn_err *err;
} writer;

static void put_u32(qn_str *s, uint32_t v)
{
    uint8_t b[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
    qn_str_add(s, b, sizeof b);
}

static void put_u64(qn_str *s, uint64_t v)
{
    put_u32(s, (uint32_t)v);
    put_u32(s, (uint32_t)(v >> 32));
}

static void put_name(qn_str *s, const char *name)
{
    put_u32(s, (uint32_t)strlen(name));
    qn_str_adds(s, name);
}

static void put_table(writer *w)
{
    qn_str *t = &w->table;
    qn_str_clear(t);
    for (size_t i = 0; i < w->q.n_files; i++) {
        put_name(t, w->files[i].name);
        put_u64(t, w->file_place[i]);
        put_u64(t, w->files[i].bytes.n);
        qn_str_add(t, w->file_hash[i], HASH);
    }
    for (size_t i = 0; i < w->n_tensors; i++) {
        const qn_tensor *x = &w->s->w->tensors[w->order[i]];
        put_name(t, x->name);
        put_name(t, qn_dtype_get(x->dtype)->name);
        put_u32(t, x->n_dims);
        for (uint32_t d = 0; d < x->n_dims; d++)
            put_u64(t, x->dims[d]);
        put_u64(t, w->tensors[i].place);
        put_u64(t, x->bytes);
        qn_str_add(t, w->tensors[i].hash, HASH);
    }
    for (size_t i = 0; i < w->s->n_panels; i++) {
        const qn_qpk_panels *p = &w->s->panels[i];
        const uint64_t v[] = {p->place, p->row0, p->rows, p->cols};
        for (size_t k = 0; k < QN_COUNT(v); k++)
            put_u64(t, v[k]);
        put_u32(t, p->form);
        put_u32(t, p->area);
        put_u64(t, p->offset);
        put_u64(t, p->bytes);
        qn_str_add(t, p->hash, HASH);
    }
}

static qn_status put_header(writer *w)
{
    qn_str h = {0};
    uint8_t hash[HASH];
    qn_str_add(&h, QN_QPK_MAGIC, 8);
    put_u32(&h, QN_QPK_VERSION);
    put_u32(&h, w->s->layout);
    const uint64_t v[] = {w->file_bytes, w->q.absent_bytes, w->table_at, w->table_bytes};
    for (size_t i = 0; i < QN_COUNT(v); i++)
        put_u64(&h, v[i]);
    for (int i = 0; i < QN_QPK_N_AREAS; i++) {
        put_u64(&h, w->q.area_offset[i]);
        put_u64(&h, w->q.area_bytes[i]);
    }
    put_u32(&h, (uint32_t)w->q.n_files);
    put_u32(&h, (uint32_t)w->n_tensors);
    put_u32(&h, (uint32_t)w->s->n_panels);
    put_u32(&h, (uint32_t)w->s->w->format);
    qn_status s = QN_OK;
    if (h.failed || !sha256(hash, (qn_slice){h.p, h.n}, (qn_slice){w->table.p, w->table.n}))
        s = qn_fail_nomem(w->err, HEADER_BYTES);
    qn_str_add(&h, hash, HASH);
    if (s == QN_OK && h.failed)
        s = qn_fail_nomem(w->err, HEADER_BYTES);
    if (s == QN_OK)
        s = qn_file_out_put(w->out, 0, h.p, h.n, w->err);
    qn_str_fini(&h);
    return s;
}

/* The small files: what describes the model beside its tensors. */
static qn_status collect_files(writer *w)
{
    static const char *const names[] = {"config.json",
                                        "generation_config.json",
                                        "tokenizer.json",
                                        "tokenizer_config.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "qwen.tiktoken",
                                        "chat_template.jinja",
                                        "special_tokens_map.json"};
    const qn_weights *src = w->s->w;
    size_t begin[MAX_FILES] = {0};
    if (src->format == QN_FORMAT_GGUF) {
        const uint8_t *head = src->files[0]->data;
        static const uint8_t no_tensors[8] = {0};
        w->files[w->q.n_files++] = (qn_folder_file){"gguf", {NULL, src->gguf->bytes}};
        qn_str_add(&w->texts, head, 8); /* magic, version | tensors | values ... */
        qn_str_add(&w->texts, no_tensors, 8);
        qn_str_add(&w->texts, head + 16, src->gguf->bytes - 16);
    } else {
        const qn_folder folder = {.path = src->path};
        qn_str text = {0};
        qn_status s = QN_OK;
        for (size_t i = 0; s == QN_OK && i < QN_COUNT(names); i++) {
            bool has = false;
            s = qn_folder_has(&folder, names[i], &has, w->err);
            if (s != QN_OK || !has)
                continue;
            s = qn_folder_read(&text, &folder, names[i], QN_LIMIT_CONFIG_BYTES, w->err);
            begin[w->q.n_files] = w->texts.n;
            w->files[w->q.n_files++] = (qn_folder_file){names[i], {NULL, text.n}};
            qn_str_add(&w->texts, text.p ? text.p : "", text.n);
        }
        qn_str_fini(&text);
        QN_TRY(s);
    }
    if (w->texts.failed)
        return qn_fail_nomem(w->err, w->texts.n);
    for (size_t i = 0; i < w->q.n_files; i++) {
        w->files[i].bytes.p = w->texts.p + begin[i];
        if (!sha256(w->file_hash[i], w->files[i].bytes, (qn_slice){"", 0}))
            return qn_fail_nomem(w->err, HASH);
    }
    return QN_OK;
}

/* Where everything goes. */
static qn_status lay_out(writer *w)
{
    const qn_qpk_source *s = w->s;
    put_table(w);
    if (w->table.failed)
        return qn_fail_nomem(w->err, w->table.n);
    w->table_at = DATA_BEGIN;
    w->table_bytes = w->table.n;
    uint64_t at = DATA_BEGIN + w->table.n;
    for (size_t i = 0; i < w->q.n_files; i++) {
        w->file_place[i] = at = QN_ROUND_UP(at, ALIGN);
        at += w->files[i].bytes.n;
    }
    size_t i = 0;
    for (; i < w->n_tensors && s->is_kept[w->order[i]]; i++) {
        w->tensors[i].place = at = QN_ROUND_UP(at, ALIGN);
        at += s->w->tensors[w->order[i]].bytes;
    }
    for (uint32_t a = 0, k = 0; a < QN_QPK_N_AREAS; a++) {
        if (k == s->n_panels || s->panels[k].area != a)
            continue;
        w->q.area_offset[a] = at = QN_ROUND_UP(at, BORDER);
        for (; k < s->n_panels && s->panels[k].area == a; k++) {
            s->panels[k].offset = at = QN_ROUND_UP(at, QN_QPK_PAGE);
            at += s->panels[k].bytes;
        }
        w->q.area_bytes[a] = at - w->q.area_offset[a];
    }
    w->data_end = at;
    w->file_bytes = at = QN_ROUND_UP(at, QN_QPK_PAGE);
    for (; i < w->n_tensors; i++) {
        w->tensors[i].place = at = QN_ROUND_UP(at, ALIGN);
        at += s->w->tensors[w->order[i]].bytes;
    }
    w->q.absent_bytes = (size_t)(at - w->file_bytes);
    for (size_t k = 0; k < s->n_panels; k++) {
        const qn_weight *v = s->views[k];
        size_t t = s->view_tensors[k];
        s->panels[k].place = w->tensors[w->position[t]].place +
                             ((uintptr_t)v->data - (uintptr_t)s->w->tensors[t].data);
        s->panels[k].row0 = v->row0;
        s->panels[k].rows = v->rows;
        s->panels[k].cols = v->cols;
    }
    return QN_OK;
}

static qn_status put_panels(writer *w)
{
    const qn_qpk_source *s = w->s;
    size_t most = 1;
    double done = 0, total = (double)(w->q.area_bytes[0] + w->q.area_bytes[1]);
    for (size_t i = 0; i < s->n_panels; i++)
        most = QN_MAX(most, (size_t)s->panels[i].bytes);
    uint8_t *buf = qn_alloc(most, QN_MEM_WEIGHTS);
    if (!buf)
        return qn_fail_nomem(w->err, most);
    qn_status st = QN_OK;
    for (size_t i = 0; st == QN_OK && i < s->n_panels; i++) {
        qn_qpk_panels *p = &s->panels[i];
        s->pack(s->arg, i, buf);
        if (!sha256(p->hash, (qn_slice){(const char *)buf, (size_t)p->bytes}, (qn_slice){"", 0}))
            st = qn_fail_nomem(w->err, HASH);
        if (st == QN_OK)
            st = qn_file_out_put(w->out, p->offset, buf, (size_t)p->bytes, w->err);
        done += (double)p->bytes;
        if (s->progress)
            s->progress(s->arg, "packing", done / total);
    }
    qn_free(buf);
    return st;
}

static qn_status put_all(writer *w)
{
    const qn_qpk_source *s = w->s;
    QN_TRY(lay_out(w));
    for (size_t i = 0; i < w->q.n_files; i++)
        QN_TRY(qn_file_out_put(w->out, w->file_place[i], w->files[i].bytes.p, w->files[i].bytes.n,
                               w->err));
    for (size_t i = 0; i < w->n_tensors && s->is_kept[w->order[i]]; i++) {
        const qn_tensor *t = &s->w->tensors[w->order[i]];
        if (!sha256(w->tensors[i].hash, (qn_slice){t->bytes ? t->data : "", t->bytes},
                    (qn_slice){"", 0}))
            return qn_fail_nomem(w->err, HASH);
        QN_TRY(qn_file_out_put(w->out, w->tensors[i].place, t->data, t->bytes, w->err));
        qn_weights_drop(s->w, t->data, t->bytes);
    }
    QN_TRY(put_panels(w));
    put_table(w);
    if (w->table.failed)
        return qn_fail_nomem(w->err, w->table_bytes);
    QN_TRY(qn_file_out_put(w->out, w->table_at, w->table.p, w->table.n, w->err));
    static const uint8_t zero[1] = {0}; /* the last byte, so that the file has its length */
    if (w->data_end < w->file_bytes)
        QN_TRY(qn_file_out_put(w->out, w->file_bytes - 1, zero, 1, w->err));
    return put_header(w);
}

qn_status qn_qpk_write(const char *path, const qn_qpk_source *s, qn_err *err)
{
    size_t n = s->w->n_tensors;
    writer *w = qn_calloc(1, sizeof *w, QN_MEM_MISC);
    if (!w)
        return qn_fail_nomem(err, sizeof *w);
    w->s = s;
    w->err = err;
    w->order = qn_calloc(n + 1, sizeof *w->order, QN_MEM_MISC);
    w->position = qn_calloc(n + 1, sizeof *w->position, QN_MEM_MISC);
    w->tensors = qn_calloc(n + 1, sizeof *w->tensors, QN_MEM_MISC);
    qn_status st =
        w->order && w->position && w->tensors ? QN_OK : qn_fail_nomem(err, n * sizeof *w->tensors);
    for (int kept = 1; st == QN_OK && kept >= 0; kept--)
        for (size_t i = 0; i < n; i++)
            if (s->is_used[i] && s->is_kept[i] == kept)
                w->order[w->position[i] = w->n_tensors++] = i;
    if (st == QN_OK)
        st = collect_files(w);
    if (st == QN_OK)
        st = qn_file_out_new(&w->out, path, err);
    if (st == QN_OK) {
        st = put_all(w);
        if (st == QN_OK)
            st = qn_file_out_commit(w->out, err);
        else
            qn_file_out_abandon(w->out);
    }
    qn_str_fini(&w->texts);
    qn_str_fini(&w->table);
    qn_free(w->order);
    qn_free(w->position);
    qn_free(w->tensors);
    qn_free(w);
    return st;
}
