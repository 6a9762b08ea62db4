/* SPDX-License-Identifier: Apache-2.0
 * gguf.c - the GGUF reader.
 *
 * One pass with a cursor over header, values and tensor table, then one over the tensors: sizes
 * from dtype and shape, offsets aligned and inside the file, and, in order of their offsets, no
 * overlap. Every count is compared with the bytes that are left before memory is taken for it.
 * Nothing of the data section is touched. */
#include "format/gguf.h"

#include "base/cursor.h"
#include "tensor/fp.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Smallest bytes of an entry: key of one byte, type, one byte; name of one byte, one dimension,
 * type, offset. */
#define MIN_VALUE_BYTES  (8 + 1 + 4 + 1)
#define MIN_TENSOR_BYTES (8 + 1 + 4 + 8 + 4 + 8)
#define MAX_KEY          512
#define GGUF_DIMS        4
#define DEFAULT_ALIGN    32

static const struct {
    const char *name;
    uint32_t bytes; /* 0: not a number */
} types[QN_GGUF_N_TYPES] = {
    [QN_GGUF_U8] = {"u8", 1},       [QN_GGUF_I8] = {"i8", 1},     [QN_GGUF_U16] = {"u16", 2},
    [QN_GGUF_I16] = {"i16", 2},     [QN_GGUF_U32] = {"u32", 4},   [QN_GGUF_I32] = {"i32", 4},
    [QN_GGUF_F32] = {"f32", 4},     [QN_GGUF_BOOL] = {"bool", 1}, [QN_GGUF_STRING] = {"string", 0},
    [QN_GGUF_ARRAY] = {"array", 0}, [QN_GGUF_U64] = {"u64", 8},   [QN_GGUF_I64] = {"i64", 8},
    [QN_GGUF_F64] = {"f64", 8},
};

const char *qn_gguf_type_name(qn_gguf_type t)
{
    return (unsigned)t < QN_GGUF_N_TYPES ? types[t].name : "unknown";
}

/* ---- parsing ---- */

typedef struct parser {
    qn_cursor c;
    qn_arena *arena;
    qn_gguf_meta *meta;
    qn_tensor *tensors;
    size_t n_tensors;
    uint64_t *offsets; /* of the tensors, from the start of the data */
    uint64_t align;
} parser;

static void *take(parser *p, size_t n, size_t size)
{
    size_t bytes;
    void *m = qn_mul_size(n, size, &bytes) ? qn_arena_alloc(p->arena, bytes) : NULL;
    if (!m)
        (void)qn_cursor_fail(
            &p->c, QN_E_NOMEM,
            "%zu entries of %zu bytes are more memory than there is (limit %zu MiB)", n, size,
            p->arena->limit >> 20);
    else
        memset(m, 0, bytes);
    return m;
}

static bool read_string(qn_cursor *c, qn_slice *out)
{
    uint64_t n;
    if (!qn_cursor_u64(c, &n))
        return false;
    if (n > QN_LIMIT_GGUF_STRING)
        return qn_cursor_fail(c, QN_E_FORMAT, "string of %" PRIu64 " bytes, limit %d", n,
                              QN_LIMIT_GGUF_STRING);
    return qn_cursor_bytes(c, n, out);
}

/* A key or tensor name. */
static bool read_name(qn_cursor *c, size_t max, qn_slice *out)
{
    if (!read_string(c, out))
        return false;
    if (out->n == 0 || out->n > max)
        return qn_cursor_fail(c, QN_E_FORMAT, "name of %zu bytes, want 1..%zu", out->n, max);
    if (memchr(out->p, 0, out->n) || !qn_utf8_valid(out->p, out->n))
        return qn_cursor_fail(c, QN_E_FORMAT, "name is not UTF-8 text");
    return true;
}

static bool read_type(qn_cursor *c, qn_gguf_type *out)
{
    uint32_t t;
    if (!qn_cursor_u32(c, &t))
        return false;
    if (t >= QN_GGUF_N_TYPES)
        return qn_cursor_fail(c, QN_E_FORMAT, "value type %" PRIu32 ", want 0..%d", t,
                              QN_GGUF_N_TYPES - 1);
    *out = (qn_gguf_type)t;
    return true;
}

/* The number of `type` at p, sign-extended or widened into v. */
static void load_number(qn_gguf_type type, const uint8_t *p, qn_gguf_value *v)
{
    uint64_t u = 0;
    for (uint32_t i = types[type].bytes; i-- > 0;)
        u = u << 8 | p[i];
    if (type == QN_GGUF_I8)
        v->v.i = (int8_t)u;
    else if (type == QN_GGUF_I16)
        v->v.i = (int16_t)u;
    else if (type == QN_GGUF_I32)
        v->v.i = (int32_t)u;
    else if (type == QN_GGUF_F32)
        v->v.f = (double)qn_bits_to_f32((uint32_t)u);
    else
        v->v.u = u; /* unsigned and bool; i64 and f64 are their bits */
}

static bool read_array(parser *p, qn_gguf_value *v)
{
    qn_cursor *c = &p->c;
    uint64_t n;
    if (!read_type(c, &v->item) || !qn_cursor_u64(c, &n))
        return false;
    if (v->item == QN_GGUF_ARRAY)
        return qn_cursor_fail(c, QN_E_UNSUPPORTED, "array of arrays");
    if (n > QN_LIMIT_GGUF_ARRAY)
        return qn_cursor_fail(c, QN_E_FORMAT, "array of %" PRIu64 " items, limit %d", n,
                              QN_LIMIT_GGUF_ARRAY);
    size_t item_bytes = v->item == QN_GGUF_STRING ? 8 : types[v->item].bytes;
    if (n > qn_cursor_left(c) / item_bytes)
        return qn_cursor_fail(c, QN_E_FORMAT,
                              "array of %" PRIu64
                              " items of %zu bytes or more, the file has %zu left",
                              n, item_bytes, qn_cursor_left(c));
    v->n = (size_t)n;
    if (v->item != QN_GGUF_STRING) {
        qn_slice bytes = {0};
        if (!qn_cursor_bytes(c, n * item_bytes, &bytes))
            return false;
        v->items = (const uint8_t *)bytes.p;
        return true;
    }
    qn_slice *s = take(p, v->n, sizeof *s);
    if (!s)
        return false;
    for (size_t i = 0; i < v->n; i++)
        if (!read_string(c, &s[i]))
            return false;
    v->strings = s;
    return true;
}

static bool read_value(parser *p, qn_gguf_value *v)
{
    qn_cursor *c = &p->c;
    qn_slice bytes = {0};
    char key[100];
    if (!read_name(c, MAX_KEY, &v->key))
        return false;
    qn_cursor_field(c, "'%s'", qn_short_name(key, v->key));
    if (!read_type(c, &v->type))
        return false;
    if (v->type == QN_GGUF_ARRAY)
        return read_array(p, v);
    if (v->type == QN_GGUF_STRING)
        return read_string(c, &v->v.s);
    if (!qn_cursor_bytes(c, types[v->type].bytes, &bytes))
        return false;
    load_number(v->type, (const uint8_t *)bytes.p, v);
    if (v->type == QN_GGUF_BOOL && v->v.u > 1)
        return qn_cursor_fail(c, QN_E_FORMAT, "bool is %" PRIu64 ", want 0 or 1", v->v.u);
    return true;
}

static bool read_values(parser *p, size_t n)
{
    qn_cursor *c = &p->c;
    qn_name_index keys = {0};
    bool ok = (p->meta->values = take(p, n, sizeof *p->meta->values)) != NULL;
    if (ok && !qn_name_index_reserve(&keys, n))
        ok = qn_cursor_fail(c, QN_E_NOMEM, "out of memory");
    for (size_t i = 0; ok && i < n; i++) {
        qn_gguf_value *v = &p->meta->values[i];
        qn_cursor_field(c, "metadata value %zu", i);
        ok = read_value(p, v);
        if (ok && !qn_name_index_add(&keys, v->key, i))
            ok = qn_cursor_fail(c, QN_E_FORMAT, "key appears twice");
    }
    qn_name_index_fini(&keys);
    p->meta->n_values = ok ? n : 0;
    return ok;
}

/* Types that ggml has or had and we do not read, for the message. */
static const char *foreign_type(uint32_t t)
{
    static const struct {
        uint32_t type;
        const char *name;
    } known[] = {{4, "Q4_2"},        {5, "Q4_3"},        {9, "Q8_1"},      {15, "Q8_K"},
                 {31, "Q4_0_4_4"},   {32, "Q4_0_4_8"},   {33, "Q4_0_8_8"}, {36, "IQ4_NL_4_4"},
                 {37, "IQ4_NL_4_8"}, {38, "IQ4_NL_8_8"}, {41, "Q1_0"}};
    for (size_t i = 0; i < QN_COUNT(known); i++)
        if (known[i].type == t)
            return known[i].name;
    return "unknown";
}

/* Bytes of a tensor from its dtype and dims (innermost last). */
static bool tensor_bytes(qn_cursor *c, qn_tensor *t)
{
    size_t elements = 1, rows = 1, row_bytes;
    const qn_dtype_info *d = qn_dtype_get(t->dtype);
    for (uint32_t i = 0; i < t->n_dims; i++) {
        if (t->dims[i] == 0)
            return qn_cursor_fail(c, QN_E_FORMAT, "dimension %" PRIu32 " is 0", t->n_dims - 1 - i);
        if (!qn_mul_size(elements, t->dims[i], &elements))
            return qn_cursor_fail(c, QN_E_FORMAT, "number of elements overflows");
        rows = i + 1 < t->n_dims ? elements : rows;
    }
    uint64_t cols = t->dims[t->n_dims - 1];
    if (cols % d->block_size)
        return qn_cursor_fail(c, QN_E_FORMAT,
                              "rows of %" PRIu64 " elements, want a multiple of %" PRIu32 " (%s)",
                              cols, d->block_size, d->name);
    if (!qn_dtype_row_bytes(t->dtype, cols, &row_bytes) || !qn_mul_size(rows, row_bytes, &t->bytes))
        return qn_cursor_fail(c, QN_E_FORMAT, "size in bytes overflows");
    return true;
}

static bool read_tensor(parser *p, qn_tensor *t, uint64_t *offset)
{
    qn_cursor *c = &p->c;
    qn_slice name = {0};
    char shown[100];
    uint32_t type;
    if (!read_name(c, QN_LIMIT_TENSOR_NAME, &name))
        return false;
    qn_cursor_field(c, "tensor '%s'", qn_short_name(shown, name));
    t->name = qn_arena_strndup(p->arena, name.p, name.n);
    if (!t->name)
        return qn_cursor_fail(c, QN_E_NOMEM, "out of memory");
    if (!qn_cursor_u32(c, &t->n_dims))
        return false;
    if (t->n_dims < 1 || t->n_dims > GGUF_DIMS)
        return qn_cursor_fail(c, QN_E_FORMAT, "%" PRIu32 " dimensions, want 1..%d", t->n_dims,
                              GGUF_DIMS);
    for (uint32_t i = t->n_dims; i-- > 0;)
        if (!qn_cursor_u64(c, &t->dims[i]))
            return false;
    if (!qn_cursor_u32(c, &type))
        return false;
    if (!qn_dtype_from_ggml(type, &t->dtype))
        return qn_cursor_fail(c, QN_E_UNSUPPORTED, "type %" PRIu32 " (%s) is not read here", type,
                              foreign_type(type));
    return qn_cursor_u64(c, offset) && tensor_bytes(c, t);
}

static bool read_tensors(parser *p, size_t n)
{
    qn_cursor *c = &p->c;
    qn_name_index names = {0};
    p->tensors = take(p, n, sizeof *p->tensors);
    p->offsets = take(p, n, sizeof *p->offsets);
    bool ok = p->tensors && p->offsets;
    if (ok && !qn_name_index_reserve(&names, n))
        ok = qn_cursor_fail(c, QN_E_NOMEM, "out of memory");
    for (size_t i = 0; ok && i < n; i++) {
        qn_cursor_field(c, "tensor %zu", i);
        ok = read_tensor(p, &p->tensors[i], &p->offsets[i]);
        if (ok && !qn_name_index_add(&names, qn_slice_of(p->tensors[i].name), i))
            ok = qn_cursor_fail(c, QN_E_FORMAT, "name appears twice");
    }
    qn_name_index_fini(&names);
    p->n_tensors = ok ? n : 0;
    return ok;
}

static bool read_alignment(parser *p)
{
    const qn_gguf_value *v = qn_gguf_find(p->meta, "general.alignment");
    p->align = DEFAULT_ALIGN;
    if (!v)
        return true;
    qn_cursor_field(&p->c, "'general.alignment'");
    if (v->type != QN_GGUF_U32)
        return qn_cursor_fail(&p->c, QN_E_FORMAT, "is %s, want u32", types[v->type].name);
    if (v->v.u < 8 || v->v.u > QN_LIMIT_GGUF_ALIGNMENT || (v->v.u & (v->v.u - 1)))
        return qn_cursor_fail(&p->c, QN_E_FORMAT, "is %" PRIu64 ", want a power of two, 8..%d",
                              v->v.u, QN_LIMIT_GGUF_ALIGNMENT);
    p->align = v->v.u;
    return true;
}

/* Errors of placement name the tensor, not a position in the header. */
static qn_status fail_tensor(const parser *p, const qn_tensor *t, const char *what, uint64_t offset,
                             const char *other)
{
    char a[100], b[100];
    return qn_fail(p->c.err, QN_E_FORMAT, "%s: tensor '%s': offset %" PRIu64 " %s%s%s%s", p->c.file,
                   qn_short_name(a, qn_slice_of(t->name)), offset, what, other ? " '" : "",
                   other ? qn_short_name(b, qn_slice_of(other)) : "", other ? "'" : "");
}

static int by_data(const void *a, const void *b)
{
    const qn_tensor *x = *(const qn_tensor *const *)a, *y = *(const qn_tensor *const *)b;
    return ((const uint8_t *)x->data > (const uint8_t *)y->data) -
           ((const uint8_t *)x->data < (const uint8_t *)y->data);
}

/* Turns offsets into pointers: aligned, inside the file, disjoint. The cursor stands behind the
 * tensor table. */
static qn_status place(parser *p)
{
    const uint8_t *base = p->c.p;
    uint64_t room = qn_cursor_left(&p->c);
    const qn_tensor **order = take(p, p->n_tensors, sizeof *order);
    if (!order)
        return p->c.status;
    for (size_t i = 0; i < p->n_tensors; i++) {
        qn_tensor *t = &p->tensors[i];
        uint64_t at = p->offsets[i];
        char what[128];
        if (at % p->align) {
            (void)snprintf(what, sizeof what, "is not a multiple of the alignment %" PRIu64,
                           p->align);
            return fail_tensor(p, t, what, at, NULL);
        }
        if (at > room) {
            (void)snprintf(what, sizeof what, "is past the end (data section of %" PRIu64 " bytes)",
                           room);
            return fail_tensor(p, t, what, at, NULL);
        }
        if (t->bytes > room - at) {
            (void)snprintf(what, sizeof what,
                           "plus %zu bytes is past the end (data section of %" PRIu64 " bytes)",
                           t->bytes, room);
            return fail_tensor(p, t, what, at, NULL);
        }
        t->data = base + at;
        order[i] = t;
    }
    qsort(order, p->n_tensors, sizeof *order, by_data);
    for (size_t i = 1; i < p->n_tensors; i++) {
        const qn_tensor *t = order[i], *before = order[i - 1];
        if ((size_t)((const uint8_t *)t->data - (const uint8_t *)before->data) < before->bytes)
            return fail_tensor(p, t, "overlaps tensor", (uint64_t)((const uint8_t *)t->data - base),
                               before->name);
    }
    return QN_OK;
}

static qn_status check_version(const parser *p, uint32_t version)
{
    const char *file = p->c.file;
    if (version == 2 || version == 3)
        return QN_OK;
    if (version == 1)
        return qn_fail(p->c.err, QN_E_UNSUPPORTED,
                       "%s: GGUF version 1, want 2 or 3; convert the model again", file);
    if (version == 2u << 24 || version == 3u << 24)
        return qn_fail(p->c.err, QN_E_UNSUPPORTED, "%s: a big-endian GGUF file, want little-endian",
                       file);
    return qn_fail(p->c.err, QN_E_UNSUPPORTED, "%s: GGUF version %" PRIu32 ", want 2 or 3", file,
                   version);
}

/* Header, values, tensor table, padding. */
static qn_status parse(parser *p)
{
    qn_cursor *c = &p->c;
    qn_slice magic = {0};
    uint32_t version;
    uint64_t n_tensors, n_values;
    qn_cursor_field(c, "header");
    if (!qn_cursor_bytes(c, 4, &magic))
        return c->status;
    if (!qn_slice_is(magic, "GGUF")) {
        (void)qn_cursor_fail(c, QN_E_FORMAT, "does not start with \"GGUF\"");
        return c->status;
    }
    if (!qn_cursor_u32(c, &version))
        return c->status;
    QN_TRY(check_version(p, version));
    p->meta->version = version;
    if (!qn_cursor_u64(c, &n_tensors) || !qn_cursor_u64(c, &n_values))
        return c->status;
    if (n_values > QN_LIMIT_GGUF_VALUES || n_values > qn_cursor_left(c) / MIN_VALUE_BYTES)
        (void)qn_cursor_fail(c, QN_E_FORMAT,
                             "%" PRIu64 " metadata values, the file has room for %zu (limit %d)",
                             n_values, qn_cursor_left(c) / MIN_VALUE_BYTES, QN_LIMIT_GGUF_VALUES);
    else if (n_tensors > QN_LIMIT_GGUF_TENSORS || n_tensors > qn_cursor_left(c) / MIN_TENSOR_BYTES)
        (void)qn_cursor_fail(c, QN_E_FORMAT,
                             "%" PRIu64 " tensors, the file has room for %zu (limit %d)", n_tensors,
                             qn_cursor_left(c) / MIN_TENSOR_BYTES, QN_LIMIT_GGUF_TENSORS);
    if (c->status != QN_OK || !read_values(p, (size_t)n_values))
        return c->status;
    p->meta->bytes = (size_t)(c->p - c->start);
    if (!read_alignment(p) || !read_tensors(p, (size_t)n_tensors))
        return c->status;
    qn_cursor_field(c, "padding before the tensor data");
    if (n_tensors && !qn_cursor_align(c, p->align))
        return c->status;
    return place(p);
}

qn_status qn_gguf_parse(const void *data, size_t n, const char *name, qn_arena *arena,
                        qn_gguf_meta **meta, qn_tensor **tensors, size_t *n_tensors, qn_err *err)
{
    parser p = {.arena = arena};
    *meta = NULL;
    *tensors = NULL;
    *n_tensors = 0;
    qn_cursor_init(&p.c, data, n, name, err);
    qn_cursor_field(&p.c, "header");
    p.meta = take(&p, 1, sizeof *p.meta);
    if (!p.meta)
        return p.c.status;
    QN_TRY(parse(&p));
    *meta = p.meta;
    *tensors = p.tensors;
    *n_tensors = p.n_tensors;
    return QN_OK;
}

/* ---- split files ---- */

/* The name of part i (from 0) of n: "<stem>-00001-of-00003.gguf". */
static void part_name(qn_str *out, const char *path, size_t stem, uint32_t i, uint32_t n)
{
    qn_str_clear(out);
    qn_str_add(out, path, stem);
    qn_str_addf(out, "-%05" PRIu32 "-of-%05" PRIu32 ".gguf", i + 1, n);
}

static qn_status check_part(const qn_gguf_meta *m, const char *name, uint32_t part,
                            uint32_t n_parts, qn_err *err)
{
    uint32_t no = UINT32_MAX, count = 0;
    QN_TRY(qn_gguf_u32(m, name, "split.no", 0, UINT16_MAX, &no, err));
    QN_TRY(qn_gguf_u32(m, name, "split.count", 0, UINT16_MAX, &count, err));
    if (count != n_parts)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: split.count is %" PRIu32 ", the first part says %" PRIu32, name, count,
                       n_parts);
    if (no != part)
        return qn_fail(err, QN_E_FORMAT, "%s: split.no is %" PRIu32 ", want %" PRIu32, name, no,
                       part);
    return QN_OK;
}

/* Opens parts 1.. of a split set whose first part is in w. */
static qn_status open_parts(qn_weights *w, uint32_t n_parts, qn_err *err)
{
    qn_str path = {0};
    const char *name = qn_base_name(w->path);
    size_t length = strlen(w->path), tail = strlen("-00001-of-00001.gguf");
    size_t stem = length > tail ? length - tail : 0;
    part_name(&path, w->path, stem, 0, n_parts);
    qn_status s = QN_OK;
    if (path.failed)
        s = qn_fail_nomem(err, length);
    else if (!stem || strcmp(path.p, w->path) != 0)
        s = qn_fail(err, QN_E_FORMAT,
                    "%s: first of %" PRIu32 " parts, but not named ...-00001-of-%05" PRIu32 ".gguf",
                    name, n_parts, n_parts);
    for (uint32_t i = 1; s == QN_OK && i < n_parts; i++) {
        const qn_file *f;
        qn_gguf_meta *meta;
        qn_tensor *tensors;
        size_t n;
        part_name(&path, w->path, stem, i, n_parts);
        s = path.failed ? qn_fail_nomem(err, length) : qn_weights_map(w, path.p, &f, err);
        if (s != QN_OK) {
            s = qn_wrap(err, s, "part %" PRIu32 " of %" PRIu32, i + 1, n_parts);
            break;
        }
        name = qn_base_name(f->path);
        s = qn_gguf_parse(f->data, f->size, name, &w->arena, &meta, &tensors, &n, err);
        s = s == QN_OK ? check_part(meta, name, i, n_parts, err) : s;
        s = s == QN_OK ? qn_weights_add(w, tensors, n, name, err) : s;
    }
    qn_str_fini(&path);
    return s;
}

qn_status qn_gguf_open(qn_weights *w, qn_err *err)
{
    const qn_file *f = w->files[0];
    const char *name = qn_base_name(w->path);
    qn_tensor *tensors;
    size_t n;
    uint32_t no = 0, n_parts = 1, n_all = 0;
    QN_TRY(qn_gguf_parse(f->data, f->size, name, &w->arena, &w->gguf, &tensors, &n, err));
    QN_TRY(qn_gguf_u32(w->gguf, name, "split.no", 0, UINT16_MAX, &no, err));
    QN_TRY(qn_gguf_u32(w->gguf, name, "split.count", 0, QN_LIMIT_SHARDS, &n_parts, err));
    if (no)
        return qn_fail(err, QN_E_ARG,
                       "%s: part %" PRIu32 " of %" PRIu32
                       "; open the first, ...-00001-of-%05" PRIu32 ".gguf",
                       name, no + 1, n_parts, n_parts);
    QN_TRY(qn_weights_add(w, tensors, n, name, err));
    if (n_parts <= 1)
        return QN_OK;
    QN_TRY(open_parts(w, n_parts, err));
    QN_TRY(qn_gguf_u32(w->gguf, name, "split.tensors.count", 0, UINT32_MAX, &n_all, err));
    if (n_all != w->n_tensors)
        return qn_fail(err, QN_E_FORMAT,
                       "%s: split.tensors.count is %" PRIu32 ", the %" PRIu32 " parts hold %zu",
                       name, n_all, n_parts, w->n_tensors);
    return QN_OK;
}

/* ---- metadata ---- */

const qn_gguf_value *qn_gguf_find(const qn_gguf_meta *m, const char *key)
{
    qn_slice k = qn_slice_of(key);
    for (size_t i = 0; i < m->n_values; i++)
        if (qn_slice_eq(m->values[i].key, k))
            return &m->values[i];
    return NULL;
}

static qn_status wrong_type(const qn_gguf_value *v, const char *file, const char *want, qn_err *err)
{
    char key[100];
    return qn_fail(err, QN_E_FORMAT, "%s: '%s': is %s, want %s", file, qn_short_name(key, v->key),
                   qn_gguf_type_name(v->type), want);
}

static bool is_signed(qn_gguf_type t)
{
    return t == QN_GGUF_I8 || t == QN_GGUF_I16 || t == QN_GGUF_I32 || t == QN_GGUF_I64;
}

static bool is_unsigned(qn_gguf_type t)
{
    return t == QN_GGUF_U8 || t == QN_GGUF_U16 || t == QN_GGUF_U32 || t == QN_GGUF_U64;
}

qn_status qn_gguf_u32(const qn_gguf_meta *m, const char *file, const char *key, uint32_t min,
                      uint32_t max, uint32_t *out, qn_err *err)
{
    const qn_gguf_value *v = qn_gguf_find(m, key);
    if (!v)
        return QN_OK;
    if (is_signed(v->type) && v->v.i < 0)
        return qn_fail(err, QN_E_FORMAT, "%s: '%s': found %" PRId64 ", want %" PRIu32 "..%" PRIu32,
                       file, key, v->v.i, min, max);
    if (!is_signed(v->type) && !is_unsigned(v->type))
        return wrong_type(v, file, "an integer", err);
    if (v->v.u < min || v->v.u > max)
        return qn_fail(err, QN_E_FORMAT, "%s: '%s': found %" PRIu64 ", want %" PRIu32 "..%" PRIu32,
                       file, key, v->v.u, min, max);
    *out = (uint32_t)v->v.u;
    return QN_OK;
}

qn_status qn_gguf_f32(const qn_gguf_meta *m, const char *file, const char *key, double min,
                      double max, float *out, qn_err *err)
{
    const qn_gguf_value *v = qn_gguf_find(m, key);
    if (!v)
        return QN_OK;
    double d;
    if (v->type == QN_GGUF_F32 || v->type == QN_GGUF_F64)
        d = v->v.f;
    else if (is_signed(v->type))
        d = (double)v->v.i;
    else if (is_unsigned(v->type))
        d = (double)v->v.u;
    else
        return wrong_type(v, file, "a number", err);
    if (!(d >= min && d <= max)) /* NaN too */
        return qn_fail(err, QN_E_FORMAT, "%s: '%s': found %g, want %g..%g", file, key, d, min, max);
    *out = (float)d;
    return QN_OK;
}

qn_status qn_gguf_bool(const qn_gguf_meta *m, const char *file, const char *key, bool *out,
                       qn_err *err)
{
    const qn_gguf_value *v = qn_gguf_find(m, key);
    if (!v)
        return QN_OK;
    if (v->type != QN_GGUF_BOOL)
        return wrong_type(v, file, "bool", err);
    *out = v->v.u != 0;
    return QN_OK;
}

qn_status qn_gguf_str(const qn_gguf_meta *m, const char *file, const char *key, qn_slice *out,
                      qn_err *err)
{
    const qn_gguf_value *v = qn_gguf_find(m, key);
    if (!v)
        return QN_OK;
    if (v->type != QN_GGUF_STRING)
        return wrong_type(v, file, "string", err);
    *out = v->v.s;
    return QN_OK;
}

static qn_gguf_value item_at(const qn_gguf_value *v, size_t i)
{
    qn_gguf_value e = {.type = v->item};
    if (i < v->n && v->items)
        load_number(v->item, v->items + i * types[v->item].bytes, &e);
    return e;
}

int64_t qn_gguf_item_i64(const qn_gguf_value *v, size_t i)
{
    qn_gguf_value e = item_at(v, i);
    if (e.type != QN_GGUF_F32 && e.type != QN_GGUF_F64)
        return e.v.i;
    return e.v.f >= -0x1p62 && e.v.f <= 0x1p62 ? (int64_t)e.v.f : 0;
}

double qn_gguf_item_f64(const qn_gguf_value *v, size_t i)
{
    qn_gguf_value e = item_at(v, i);
    if (e.type == QN_GGUF_F32 || e.type == QN_GGUF_F64)
        return e.v.f;
    return is_signed(e.type) ? (double)e.v.i : (double)e.v.u;
}
