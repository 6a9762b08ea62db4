/* SPDX-License-Identifier: Apache-2.0
 * jinja_arith.c - Python's operators on values: + - * / // % ** and comparisons.
 *
 * Integers have 64 bits; what would not fit is an error, never a wrong number. */
#include "text/jinja_ast.h"

#include <math.h>
#include <string.h>

static bool type_error(qn_jrun *r, qn_jop op, const qn_jvalue *a, const qn_jvalue *b)
{
    static const char *const signs[] = {
        [QN_JOP_ADD] = "+", [QN_JOP_SUB] = "-",  [QN_JOP_MUL] = "*",      [QN_JOP_DIV] = "/",
        [QN_JOP_MOD] = "%", [QN_JOP_POW] = "**", [QN_JOP_FLOORDIV] = "//"};
    if (a->type == QN_J_UNDEFINED)
        return qn_jvalue_refuse(r, a);
    if (b->type == QN_J_UNDEFINED)
        return qn_jvalue_refuse(r, b);
    return qn_jrun_fail(r, "unsupported operand types for %s: '%s' and '%s'", signs[op],
                        qn_jvalue_type_name(a), qn_jvalue_type_name(b));
}

static int64_t int_of(const qn_jvalue *v)
{
    return v->type == QN_J_INT ? v->u.i : v->u.b;
}

static bool int_power(int64_t base, int64_t exponent, int64_t *out)
{
    int64_t result = 1;
    while (exponent > 0) {
        if ((exponent & 1) && __builtin_mul_overflow(result, base, &result))
            return false;
        exponent >>= 1;
        if (exponent && __builtin_mul_overflow(base, base, &base))
            return false;
    }
    *out = result;
    return true;
}

static bool int_arith(qn_jrun *r, qn_jop op, int64_t a, int64_t b, qn_jvalue *out)
{
    int64_t i = 0;
    bool fits = true;
    switch (op) {
    case QN_JOP_ADD:
        fits = !__builtin_add_overflow(a, b, &i);
        break;
    case QN_JOP_SUB:
        fits = !__builtin_sub_overflow(a, b, &i);
        break;
    case QN_JOP_MUL:
        fits = !__builtin_mul_overflow(a, b, &i);
        break;
    case QN_JOP_POW:
        fits = int_power(a, b, &i);
        break;
    default: /* // and %, which round down */
        if (b == -1) {
            fits = op == QN_JOP_MOD || !__builtin_sub_overflow((int64_t)0, a, &i);
        } else if (op == QN_JOP_MOD) {
            i = a % b;
            i += i != 0 && (i < 0) != (b < 0) ? b : 0;
        } else {
            i = a / b - (a % b != 0 && (a < 0) != (b < 0));
        }
    }
    *out = qn_jvalue_int(i);
    return fits || qn_jrun_fail(r, "an integer of more than 64 bits");
}

static double float_mod(double a, double b)
{
    double m = fmod(a, b);
    if (m == 0)
        return copysign(0, b);
    return (m < 0) != (b < 0) ? m + b : m;
}

static bool float_arith(qn_jrun *r, qn_jop op, double a, double b, qn_jvalue *out)
{
    double f = 0;
    switch (op) {
    case QN_JOP_ADD:
        f = a + b;
        break;
    case QN_JOP_SUB:
        f = a - b;
        break;
    case QN_JOP_MUL:
        f = a * b;
        break;
    case QN_JOP_DIV:
        f = a / b;
        break;
    case QN_JOP_FLOORDIV:
        f = floor((a - float_mod(a, b)) / b + 0.5);
        break;
    case QN_JOP_MOD:
        f = float_mod(a, b);
        break;
    default:
        if (a == 0 && b < 0)
            return qn_jrun_fail(r, "0.0 cannot be raised to a negative power");
        f = pow(a, b);
        if (isnan(f) && !isnan(a) && !isnan(b))
            return qn_jrun_fail(r, "a negative number cannot be raised to a fractional power");
        if (isinf(f) && isfinite(a) && isfinite(b))
            return qn_jrun_fail(r, "a power too large for a float");
    }
    *out = qn_jvalue_float(f);
    return true;
}

static bool repeat(qn_jrun *r, const qn_jvalue *v, int64_t n, qn_jvalue *out)
{
    if (v->type == QN_J_STRING)
        return qn_jstring_repeat(r, v, n, out);
    size_t size = v->u.l->n, total;
    if (!qn_mul_size(size, (size_t)QN_MAX(n, 0), &total) || total > QN_LIMIT_TEMPLATE_OUTPUT)
        return qn_jrun_fail(r, "a list of more than %d items", QN_LIMIT_TEMPLATE_OUTPUT);
    if (!qn_jlist_unpack(r, v->u.l) || !qn_jvalue_list(r, v->u.l->kind, total, out))
        return false;
    for (size_t i = 0; i < total; i++)
        out->u.l->items[i] = v->u.l->items[i % size];
    return true;
}

static bool concat_lists(qn_jrun *r, qn_jlist *a, qn_jlist *b, qn_jvalue *out)
{
    if (!qn_jlist_unpack(r, a) || !qn_jlist_unpack(r, b) ||
        !qn_jvalue_list(r, a->kind, a->n + b->n, out))
        return false;
    for (size_t i = 0; i < a->n; i++)
        out->u.l->items[i] = a->items[i];
    for (size_t i = 0; i < b->n; i++)
        out->u.l->items[a->n + i] = b->items[i];
    return true;
}

static bool is_repeatable(const qn_jvalue *v)
{
    return v->type == QN_J_STRING || (v->type == QN_J_LIST && v->u.l->kind <= QN_J_LIST_TUPLE);
}

bool qn_jvalue_binary(qn_jrun *r, qn_jop op, const qn_jvalue *a, const qn_jvalue *b, qn_jvalue *out)
{
    if (qn_jvalue_is_number(a) && qn_jvalue_is_number(b)) {
        bool is_float = a->type == QN_J_FLOAT || b->type == QN_J_FLOAT || op == QN_JOP_DIV ||
                        (op == QN_JOP_POW && int_of(b) < 0);
        bool divides = op == QN_JOP_DIV || op == QN_JOP_FLOORDIV || op == QN_JOP_MOD,
             data = a->data || b->data;
        if (divides && qn_jvalue_number(b) == 0)
            return qn_jrun_fail(r, "division by zero");
        if (is_float ? !float_arith(r, op, qn_jvalue_number(a), qn_jvalue_number(b), out)
                     : !int_arith(r, op, int_of(a), int_of(b), out))
            return false;
        out->data = data;
        return true;
    }
    if (op == QN_JOP_ADD && a->type == QN_J_STRING && b->type == QN_J_STRING) {
        qn_jtext t = {0};
        return qn_jtext_add_value(r, &t, a) && qn_jtext_add_value(r, &t, b) &&
               qn_jtext_value(r, &t, out);
    }
    if (op == QN_JOP_ADD && a->type == QN_J_LIST && b->type == QN_J_LIST &&
        a->u.l->kind == b->u.l->kind && a->u.l->kind <= QN_J_LIST_TUPLE)
        return concat_lists(r, a->u.l, b->u.l, out);
    if (op == QN_JOP_MUL && is_repeatable(a) && (b->type == QN_J_INT || b->type == QN_J_BOOL))
        return repeat(r, a, int_of(b), out);
    if (op == QN_JOP_MUL && is_repeatable(b) && (a->type == QN_J_INT || a->type == QN_J_BOOL))
        return repeat(r, b, int_of(a), out);
    return type_error(r, op, a, b);
}

bool qn_jvalue_compare(qn_jrun *r, qn_jop op, const qn_jvalue *a, const qn_jvalue *b, bool *out)
{
    bool same, ok;
    switch (op) {
    case QN_JOP_EQ:
    case QN_JOP_NE:
        ok = qn_jvalue_equal(r, a, b, &same);
        *out = same == (op == QN_JOP_EQ);
        return ok;
    case QN_JOP_IN:
    case QN_JOP_NOT_IN:
        ok = qn_jvalue_contains(r, a, b, &same);
        *out = same == (op == QN_JOP_IN);
        return ok;
    default:
        break;
    }
    bool swap = op == QN_JOP_GT || op == QN_JOP_GE;
    if (!qn_jvalue_less(r, swap ? b : a, swap ? a : b, out))
        return false;
    if (*out || op == QN_JOP_LT || op == QN_JOP_GT)
        return true;
    return qn_jvalue_equal(r, a, b, out);
}
