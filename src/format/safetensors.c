/* SPDX-License-Identifier: Apache-2.0
 * safetensors.c - the safetensors reader.
 *
 * The header's grammar is fixed and three levels deep, so a scanner made for it reads the JSON
 * in one pass without a tree: a header of 100 MB takes no more memory than its tensors, and a
 * checkpoint of 100,000 experts opens in a blink. */
#include "format/safetensors.h"

#include "base/cursor.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct scanner {
    const char *text;
    size_t n, at;
    const char *file;
    char where[128];   /* what is being read: "tensor 'x'" */
    const char *field; /* of it, or NULL */
    qn_arena *arena;
    qn_str unescaped; /* the last string that had escapes */
    const uint8_t *data;
    size_t data_bytes;
    qn_status status;
    qn_err *err;
} scanner;

static bool failed(scanner *s, qn_status status, const char *fmt, ...) QN_PRINTF(3, 4);
static bool failed(scanner *s, qn_status status, const char *fmt, ...)
{
    char msg[200];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    s->status = qn_fail(s->err, status, "%s: %s: %s%s%s", s->file, s->where,
                        s->field ? s->field : "", s->field ? ": " : "", msg);
    return false;
}

/* ---- JSON ---- */

/* The next byte that is not white space; 0 at the end. */
static char peek(scanner *s)
{
    while (s->at < s->n && (s->text[s->at] == ' ' || s->text[s->at] == '\n' ||
                            s->text[s->at] == '\t' || s->text[s->at] == '\r'))
        s->at++;
    return s->at < s->n ? s->text[s->at] : 0;
}

static bool wanted(scanner *s, const char *what)
{
    unsigned c = (unsigned char)peek(s);
    size_t at = s->at + sizeof(uint64_t); /* in the file */
    if (s->at >= s->n)
        return failed(s, QN_E_FORMAT, "found the header's end, want %s (at byte %zu)", what, at);
    if (c < 0x21 || c > 0x7e)
        return failed(s, QN_E_FORMAT, "found byte 0x%02x, want %s (at byte %zu)", c, what, at);
    return failed(s, QN_E_FORMAT, "found '%c', want %s (at byte %zu)", (int)c, what, at);
}

static bool eat(scanner *s, char c, const char *what)
{
    if (peek(s) != c)
        return wanted(s, what);
    s->at++;
    return true;
}

/* After a member or element: true and *more when a comma follows, true when `close` does. */
static bool next(scanner *s, char close, bool *more)
{
    char c = peek(s);
    if (c != ',' && c != close)
        return wanted(s, close == '}' ? "',' or '}'" : "',' or ']'");
    s->at++;
    *more = c == ',';
    return true;
}

/* Opens an object or array; *more is false when it is empty. */
static bool open_list(scanner *s, char open, char close, const char *what, bool *more)
{
    if (!eat(s, open, what))
        return false;
    *more = peek(s) != close;
    if (!*more)
        s->at++;
    return true;
}

static int hex4(const char *p)
{
    int v = 0;
    for (int i = 0; i < 4; i++) {
        int d = p[i] >= '0' && p[i] <= '9'                 ? p[i] - '0'
                : (p[i] | 32) >= 'a' && (p[i] | 32) <= 'f' ? (p[i] | 32) - 'a' + 10
                                                           : -1;
        if (d < 0)
            return -1;
        v = v << 4 | d;
    }
    return v;
}

/* The escape after a backslash at text[at]; moves at behind it. False: not an escape. */
static bool unescape(scanner *s, size_t *at, size_t end)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *p = s->text + *at;
    const char *known = p[1] ? strchr(from, p[1]) : NULL;
    if (known) {
        qn_str_addc(&s->unescaped, to[known - from]);
        *at += 2;
        return true;
    }
    int high = p[1] == 'u' && end - *at >= 6 ? hex4(p + 2) : -1, low = 0;
    if (high < 0 || (high >= 0xdc00 && high < 0xe000))
        return false;
    *at += 6;
    if (high < 0xd800 || high >= 0xe000) {
        qn_str_add_utf8(&s->unescaped, (uint32_t)high);
        return true;
    }
    low = end - *at >= 6 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8) : -1;
    if (low < 0xdc00 || low >= 0xe000)
        return false;
    *at += 6;
    qn_str_add_utf8(&s->unescaped,
                    0x10000u + (uint32_t)(high - 0xd800) * 0x400u + (uint32_t)(low - 0xdc00));
    return true;
}

static bool unescape_all(scanner *s, size_t begin, size_t end, qn_slice *out)
{
    qn_str_clear(&s->unescaped);
    for (size_t at = begin; at < end;) {
        const char *slash = memchr(s->text + at, '\\', end - at);
        size_t run = slash ? (size_t)(slash - (s->text + at)) : end - at;
        qn_str_add(&s->unescaped, s->text + at, run);
        at += run;
        if (slash && !unescape(s, &at, end))
            return failed(s, QN_E_FORMAT, "bad escape in a string (at byte %zu)",
                          at + sizeof(uint64_t));
    }
    if (s->unescaped.failed)
        return failed(s, QN_E_NOMEM, "out of memory");
    *out = (qn_slice){s->unescaped.p, s->unescaped.n};
    return true;
}

/* A string: a view into the header or, with escapes, into s->unescaped (valid until the next
 * string). */
static bool string(scanner *s, const char *what, qn_slice *out)
{
    if (!eat(s, '"', what))
        return false;
    size_t begin = s->at;
    bool has_escapes = false;
    for (; s->at < s->n && s->text[s->at] != '"'; s->at++) {
        if ((unsigned char)s->text[s->at] < 0x20)
            return failed(s, QN_E_FORMAT, "control byte in a string (at byte %zu)",
                          s->at + sizeof(uint64_t));
        if (s->text[s->at] == '\\') {
            has_escapes = true;
            s->at++;
        }
    }
    if (s->at >= s->n) {
        s->at = s->n;
        return wanted(s, "the end of a string");
    }
    *out = (qn_slice){s->text + begin, s->at - begin};
    s->at++;
    if (!qn_utf8_valid(out->p, out->n))
        return failed(s, QN_E_FORMAT, "string is not UTF-8 (at byte %zu)",
                      begin + sizeof(uint64_t));
    return has_escapes ? unescape_all(s, begin, begin + out->n, out) : true;
}

/* A size: an integer without sign, fraction, exponent or leading zero. */
static bool size(scanner *s, uint64_t *out)
{
    char c = peek(s);
    size_t begin = s->at;
    if (c < '0' || c > '9')
        return wanted(s, "a size");
    while (s->at < s->n && s->text[s->at] >= '0' && s->text[s->at] <= '9')
        s->at++;
    size_t digits = s->at - begin;
    char after = s->at < s->n ? s->text[s->at] : 0;
    if ((c == '0' && digits > 1) || after == '.' || after == 'e' || after == 'E')
        return failed(s, QN_E_FORMAT, "want a size, an integer (at byte %zu)",
                      begin + sizeof(uint64_t));
    if (!qn_parse_u64(s->text + begin, digits, INT64_MAX, out))
        return failed(s, QN_E_FORMAT, "number is too large (at byte %zu)",
                      begin + sizeof(uint64_t));
    return true;
}

/* ---- tensors ---- */

/* Known to the format, not read here. */
static bool is_foreign_dtype(const char *name)
{
    static const char *const known[] = {"F4",      "F6_E2M3",     "F6_E3M2",     "F8_E5M2",
                                        "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "U16",
                                        "U32",     "U64",         "C64"};
    for (size_t i = 0; i < QN_COUNT(known); i++)
        if (strcmp(known[i], name) == 0)
            return true;
    return false;
}

static bool read_dtype(scanner *s, qn_dtype *out)
{
    qn_slice v = {0};
    char name[33];
    if (!string(s, "a string", &v))
        return false;
    size_t n = QN_MIN(v.n, sizeof name - 1);
    memcpy(name, v.p, n);
    name[n] = 0;
    if (n == v.n && !memchr(name, 0, n) && qn_dtype_from_safetensors(name, out))
        return true;
    return failed(s, is_foreign_dtype(name) ? QN_E_UNSUPPORTED : QN_E_FORMAT,
                  "'%s' is not read here", name);
}

static bool read_shape(scanner *s, qn_tensor *t)
{
    bool more;
    if (!open_list(s, '[', ']', "an array", &more))
        return false;
    while (more) {
        if (t->n_dims == QN_LIMIT_TENSOR_DIMS)
            return failed(s, QN_E_UNSUPPORTED, "more than %d dimensions", QN_LIMIT_TENSOR_DIMS);
        if (!size(s, &t->dims[t->n_dims++]) || !next(s, ']', &more))
            return false;
    }
    return true;
}

static bool read_offsets(scanner *s, uint64_t *begin, uint64_t *end)
{
    return eat(s, '[', "[begin, end]") && size(s, begin) && eat(s, ',', "','") && size(s, end) &&
           eat(s, ']', "']'");
}

/* Bytes from dtype and shape. */
static bool tensor_bytes(scanner *s, qn_tensor *t)
{
    size_t n = 1;
    bool fits = true, is_empty = false;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        is_empty = is_empty || t->dims[i] == 0;
        fits = fits && qn_mul_size(n, t->dims[i], &n);
    }
    if (is_empty)
        return true;
    if (!fits || !qn_mul_size(n, qn_dtype_get(t->dtype)->block_bytes, &t->bytes))
        return failed(s, QN_E_FORMAT, "size in bytes overflows");
    return true;
}

static bool place(scanner *s, qn_tensor *t, uint64_t begin, uint64_t end)
{
    if (!tensor_bytes(s, t))
        return false;
    if (begin > end || end > s->data_bytes)
        return failed(s, QN_E_FORMAT,
                      "data_offsets [%" PRIu64 ", %" PRIu64
                      "] are past the end (data section of %zu bytes)",
                      begin, end, s->data_bytes);
    if (end - begin != t->bytes)
        return failed(s, QN_E_FORMAT,
                      "data_offsets span %" PRIu64 " bytes, dtype and shape want %zu", end - begin,
                      t->bytes);
    t->data = s->data + begin;
    return true;
}

static bool read_fields(scanner *s, qn_tensor *t)
{
    static const char *const fields[] = {"dtype", "shape", "data_offsets"};
    unsigned seen = 0;
    uint64_t begin = 0, end = 0;
    bool more;
    if (!open_list(s, '{', '}', "an object", &more))
        return false;
    while (more) {
        qn_slice key = {0};
        size_t i = 0;
        if (!string(s, "a field name", &key))
            return false;
        while (i < QN_COUNT(fields) && !qn_slice_is(key, fields[i]))
            i++;
        if (i == QN_COUNT(fields))
            return failed(s, QN_E_FORMAT, "field '%.*s', want dtype, shape and data_offsets",
                          (int)QN_MIN(key.n, 32), key.p);
        s->field = fields[i];
        if (seen & 1u << i)
            return failed(s, QN_E_FORMAT, "appears twice");
        seen |= 1u << i;
        if (!eat(s, ':', "':'") || !(i == 0   ? read_dtype(s, &t->dtype)
                                     : i == 1 ? read_shape(s, t)
                                              : read_offsets(s, &begin, &end)))
            return false;
        s->field = NULL;
        if (!next(s, '}', &more))
            return false;
    }
    for (size_t i = 0; i < QN_COUNT(fields); i++)
        if (!(seen & 1u << i))
            return failed(s, QN_E_FORMAT, "has no %s", fields[i]);
    return place(s, t, begin, end);
}

static bool read_metadata(scanner *s)
{
    qn_name_index keys = {0};
    bool more, ok = open_list(s, '{', '}', "an object", &more);
    for (size_t n = 0; ok && more; n++) {
        qn_slice key = {0}, value = {0};
        char *name = NULL;
        if (n == QN_LIMIT_SAFETENSORS_METADATA)
            ok = failed(s, QN_E_FORMAT, "more than %d keys", QN_LIMIT_SAFETENSORS_METADATA);
        ok = ok && string(s, "a key", &key);
        if (ok && key.p && memchr(key.p, 0, key.n))
            ok = failed(s, QN_E_FORMAT, "a key holds NUL");
        if (ok && (!(name = qn_arena_strndup(s->arena, key.p, key.n)) ||
                   !qn_name_index_reserve(&keys, n + 1)))
            ok = failed(s, QN_E_NOMEM, "out of memory");
        if (ok && !qn_name_index_add(&keys, (qn_slice){name, key.n}, n))
            ok = failed(s, QN_E_FORMAT, "a key appears twice");
        ok = ok && eat(s, ':', "':'") && string(s, "a string", &value) && next(s, '}', &more);
    }
    qn_name_index_fini(&keys);
    return ok;
}

static bool read_name(scanner *s, qn_slice key, const char **out)
{
    char shown[100];
    (void)snprintf(s->where, sizeof s->where, "tensor '%s'", qn_short_name(shown, key));
    if (key.n < 1 || key.n > QN_LIMIT_TENSOR_NAME || memchr(key.p, 0, key.n))
        return failed(s, QN_E_FORMAT, "name of %zu bytes, want 1..%d without NUL", key.n,
                      QN_LIMIT_TENSOR_NAME);
    *out = qn_arena_strndup(s->arena, key.p, key.n);
    return *out ? true : failed(s, QN_E_NOMEM, "out of memory");
}

/* Reads the members of the header; t has room for `most` tensors. */
static bool read_members(scanner *s, qn_tensor *t, size_t most, size_t *n_tensors)
{
    qn_name_index names = {0};
    bool more, has_metadata = false, ok = open_list(s, '{', '}', "an object", &more);
    size_t n = 0;
    while (ok && more) {
        qn_slice key = {0};
        (void)snprintf(s->where, sizeof s->where, "header");
        if (!(ok = string(s, "a tensor name", &key)))
            break;
        if (qn_slice_is(key, "__metadata__")) {
            (void)snprintf(s->where, sizeof s->where, "__metadata__");
            ok = has_metadata ? failed(s, QN_E_FORMAT, "appears twice")
                              : eat(s, ':', "':'") && read_metadata(s) && next(s, '}', &more);
            has_metadata = true;
            continue;
        }
        if (n == most) {
            ok = failed(s, QN_E_FORMAT, "more than %zu tensors", most);
            break;
        }
        t[n] = (qn_tensor){0};
        ok = read_name(s, key, &t[n].name);
        if (ok && !qn_name_index_reserve(&names, n + 1))
            ok = failed(s, QN_E_NOMEM, "out of memory");
        if (ok && !qn_name_index_add(&names, qn_slice_of(t[n].name), n))
            ok = failed(s, QN_E_FORMAT, "name appears twice");
        ok = ok && eat(s, ':', "':'") && read_fields(s, &t[n]) && next(s, '}', &more);
        n++;
    }
    qn_name_index_fini(&names);
    *n_tensors = n;
    (void)snprintf(s->where, sizeof s->where, "header");
    if (ok && (peek(s), s->at < s->n))
        ok = wanted(s, "nothing behind the object");
    return ok;
}

/* By place; an empty tensor before the one that starts where it stands. */
static int by_place(const void *a, const void *b)
{
    const qn_tensor *x = a, *y = b;
    const uint8_t *p = x->data, *q = y->data;
    return p != q ? (p > q) - (p < q) : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* The tensors, sorted by place, must fill the data section. */
static bool check_filled(scanner *s, const qn_tensor *t, size_t n)
{
    size_t at = 0;
    char shown[100];
    for (size_t i = 0; i < n; i++) {
        size_t begin = (size_t)((const uint8_t *)t[i].data - s->data);
        (void)snprintf(s->where, sizeof s->where, "tensor '%s'",
                       qn_short_name(shown, qn_slice_of(t[i].name)));
        if (begin != at)
            return failed(s, QN_E_FORMAT, "begins at %zu, the tensor before it ends at %zu", begin,
                          at);
        at += t[i].bytes;
    }
    (void)snprintf(s->where, sizeof s->where, "data");
    if (at != s->data_bytes)
        return failed(s, QN_E_FORMAT, "the tensors end at %zu, the data section has %zu bytes", at,
                      s->data_bytes);
    return true;
}

static qn_status read_header(scanner *s, qn_tensor **tensors, size_t *n_tensors)
{
    size_t most = 0, bytes, n;
    for (size_t i = 0; i < s->n; i++) /* every tensor opens an object */
        most += s->text[i] == '{';
    most = QN_MIN(most, QN_LIMIT_TENSORS);
    qn_tensor *t = qn_mul_size(most, sizeof *t, &bytes) ? qn_arena_alloc(s->arena, bytes) : NULL;
    if (!t)
        return qn_fail(s->err, QN_E_NOMEM, "%s: no memory for %zu tensors", s->file, most);
    if (!read_members(s, t, most, &n))
        return s->status;
    qsort(t, n, sizeof *t, by_place);
    if (!check_filled(s, t, n))
        return s->status;
    *tensors = t;
    *n_tensors = n;
    return QN_OK;
}

qn_status qn_safetensors_parse(const void *data, size_t n, const char *name, qn_arena *arena,
                               qn_tensor **tensors, size_t *n_tensors, qn_err *err)
{
    qn_cursor c;
    uint64_t header_bytes;
    qn_slice text = {0};
    *tensors = NULL;
    *n_tensors = 0;
    qn_cursor_init(&c, data, n, name, err);
    qn_cursor_field(&c, "header");
    if (!qn_cursor_u64(&c, &header_bytes))
        return c.status;
    const char *foreign = qn_foreign_file(data, n);
    if (foreign)
        return qn_fail(err, QN_E_FORMAT, "%s: is %s, want a safetensors file", name, foreign);
    if (header_bytes > QN_LIMIT_SAFETENSORS_HEADER)
        return qn_fail(err, QN_E_FORMAT, "%s: header of %" PRIu64 " bytes, limit %d", name,
                       header_bytes, QN_LIMIT_SAFETENSORS_HEADER);
    if (!qn_cursor_bytes(&c, header_bytes, &text))
        return c.status;
    if (!text.n || text.p[0] != '{')
        return qn_fail(err, QN_E_FORMAT, "%s: header does not start with '{'", name);
    scanner s = {.text = text.p,
                 .n = text.n,
                 .file = name,
                 .where = "header",
                 .arena = arena,
                 .data = c.p,
                 .data_bytes = qn_cursor_left(&c),
                 .err = err};
    qn_status status = read_header(&s, tensors, n_tensors);
    qn_str_fini(&s.unescaped);
    return status;
}
