/* SPDX-License-Identifier: Apache-2.0
 * jinja_eval.c - runs a template's tree: scopes, statements, expressions, macros.
 *
 * Scopes as in jinja2: the template's own (globals, by name id), and a frame for each loop turn,
 * macro call, with and captured block; `set` writes the innermost, `if` opens none. A macro sees
 * the frame it was made in. All evaluation recurses on the tree only, through eval and run_body,
 * which count the depth. */
#include "text/jinja_ast.h"

#include <string.h>

typedef struct variable {
    uint32_t name;
    qn_jvalue value;
} variable;

typedef struct qn_jframe {
    struct qn_jframe *parent;
    variable *vars;
    uint32_t n, cap;
} qn_jframe;

typedef struct qn_jmacro {
    const qn_jnode *node; /* MACRO or CALL_BLOCK */
    qn_jframe *frame;
    const qn_jnode *body;
    qn_jnode *const *defaults;
    uint32_t n_defaults;
} qn_jmacro;

typedef struct qn_jloop {
    const qn_jlist *list;
    size_t i;
} qn_jloop;

typedef enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE, FLOW_FAIL } flow;

static bool eval(qn_jrun *r, const qn_jnode *n, qn_jvalue *out);
static flow run_body(qn_jrun *r, const qn_jnode *body);
static bool call_macro(qn_jrun *r, const qn_jmacro *m, const qn_jargs *a, const qn_jvalue *caller,
                       qn_jvalue *out);

/* ---- scopes ---- */

static bool set_variable(qn_jrun *r, uint32_t name, const qn_jvalue *v)
{
    qn_jframe *f = r->frame;
    if (!f) {
        r->globals[name] = *v;
        return true;
    }
    for (uint32_t i = 0; i < f->n; i++) {
        if (f->vars[i].name == name) {
            f->vars[i].value = *v;
            return true;
        }
    }
    if (f->n == f->cap) {
        uint32_t cap = f->cap * 2 + 4;
        variable *vars = qn_jrun_alloc(r, cap, sizeof(*vars));
        if (!vars)
            return false;
        if (f->n)
            memcpy(vars, f->vars, f->n * sizeof(*vars));
        f->vars = vars;
        f->cap = cap;
    }
    f->vars[f->n++] = (variable){name, *v};
    return qn_jrun_spend(r, f->n / 8);
}

static bool get_variable(qn_jrun *r, uint32_t name, qn_jvalue *out)
{
    for (const qn_jframe *f = r->frame; f; f = f->parent) {
        for (uint32_t i = 0; i < f->n; i++) {
            if (f->vars[i].name == name) {
                *out = f->vars[i].value;
                return true;
            }
        }
        if (!qn_jrun_spend(r, f->n / 8 + 1))
            return false;
    }
    *out = r->globals[name];
    return out->type != QN_J_MISSING || qn_jvalue_undefined(r, NULL, qn_jrun_name(r, name), out);
}

static qn_jframe *push_frame(qn_jrun *r, qn_jframe *parent)
{
    qn_jframe *f = qn_jrun_alloc(r, 1, sizeof(*f));
    if (f) {
        *f = (qn_jframe){.parent = parent};
        r->frame = f;
    }
    return f;
}

/* Sets one of the evaluator's own names, if the template uses it at all. */
static bool set_word(qn_jrun *r, qn_jword w, const qn_jvalue *v)
{
    return r->t->words[w] == QN_JW_ABSENT || set_variable(r, r->t->words[w], v);
}

/* ---- calls ---- */

static bool eval_args(qn_jrun *r, const qn_jnode *n, qn_jargs *a)
{
    qn_jvalue *values = NULL;
    *a = (qn_jargs){.n_pos = n->n - n->n_names, .n_kw = n->n_names, .kw_names = n->names};
    if (n->n == 0)
        return true;
    values = qn_jrun_alloc(r, n->n, sizeof(*values));
    if (!values)
        return false;
    a->pos = values;
    a->kw = values + a->n_pos;
    for (uint32_t i = 0; i < n->n; i++)
        if (!eval(r, n->kids[i], &values[i]))
            return false;
    return true;
}

static bool loop_cycle(qn_jrun *r, const qn_jloop *l, const qn_jargs *a, qn_jvalue *out)
{
    if (a->n_pos == 0 || a->n_kw)
        return qn_jrun_fail(r, "no items for cycling given");
    *out = a->pos[l->i % a->n_pos];
    return true;
}

static bool call_value(qn_jrun *r, const qn_jvalue *v, const qn_jargs *a, const qn_jvalue *caller,
                       qn_jvalue *out)
{
    if (!qn_jrun_spend(r, 16))
        return false;
    if (v->type == QN_J_MACRO)
        return call_macro(r, v->u.macro, a, caller, out);
    if (v->type == QN_J_FUNCTION)
        return qn_jfunction_call(r, (int)v->u.i, a, out);
    if (v->type == QN_J_METHOD && v->u.method->self.type == QN_J_LOOP)
        return loop_cycle(r, v->u.method->self.u.loop, a, out);
    if (v->type == QN_J_METHOD)
        return qn_jmethod_call(r, v->u.method, a, out);
    if (v->type == QN_J_UNDEFINED)
        return qn_jvalue_refuse(r, v);
    return qn_jrun_fail(r, "'%s' object is not callable", qn_jvalue_type_name(v));
}

static bool bind_extra(qn_jrun *r, const qn_jmacro *m, const qn_jargs *a)
{
    uint32_t n_params = m->node->n_names;
    bool takes_more = r->t->words[QN_JW_VARARGS] != QN_JW_ABSENT;
    if (a->n_pos > n_params && !takes_more)
        return qn_jrun_fail(r, "macro '%.*s' takes not more than %u arguments",
                            (int)QN_MIN(qn_jrun_name(r, m->node->name).n, 60),
                            qn_jrun_name(r, m->node->name).p, n_params);
    if (!takes_more)
        return true;
    qn_jvalue rest;
    size_t n = a->n_pos > n_params ? a->n_pos - n_params : 0;
    if (!qn_jvalue_list(r, QN_J_LIST_TUPLE, n, &rest))
        return false;
    for (size_t i = 0; i < n; i++)
        rest.u.l->items[i] = a->pos[n_params + i];
    return set_word(r, QN_JW_VARARGS, &rest);
}

/* Sets a macro's parameters in the current frame. */
static bool bind_macro(qn_jrun *r, const qn_jmacro *m, const qn_jargs *a)
{
    const qn_jnode *n = m->node;
    bool takes_kw = r->t->words[QN_JW_KWARGS] != QN_JW_ABSENT;
    qn_jvalue v, rest;
    if (!bind_extra(r, m, a) || !qn_jvalue_dict(r, 0, &rest))
        return false;
    for (size_t k = 0; k < a->n_kw; k++) {
        uint32_t i = 0;
        qn_slice name = qn_jrun_name(r, a->kw_names[k]);
        while (i < n->n_names && n->names[i] != a->kw_names[k])
            i++;
        if (i < n->n_names && i >= a->n_pos)
            continue;
        if (i < n->n_names || !takes_kw)
            return qn_jrun_fail(r, "a macro was called with an unexpected argument '%.*s'",
                                (int)QN_MIN(name.n, 60), name.p);
        if (!qn_jvalue_string(r, name.p, name.n, false, &v) ||
            !qn_jdict_set(r, rest.u.d, &v, &a->kw[k]))
            return false;
    }
    if (!set_word(r, QN_JW_KWARGS, &rest))
        return false;
    for (uint32_t i = 0; i < n->n_names; i++) {
        uint32_t first_default = n->n_names - m->n_defaults;
        v.type = QN_J_MISSING;
        if (i < a->n_pos)
            v = a->pos[i];
        for (size_t k = 0; k < a->n_kw; k++)
            if (a->kw_names[k] == n->names[i])
                v = a->kw[k];
        if (v.type == QN_J_MISSING && i >= first_default &&
            !eval(r, m->defaults[i - first_default], &v))
            return false;
        if (v.type == QN_J_MISSING &&
            !qn_jvalue_undefined(r, NULL, qn_jrun_name(r, n->names[i]), &v))
            return false;
        if (!set_variable(r, n->names[i], &v))
            return false;
    }
    return true;
}

/* Runs body with its output kept as a value. */
static bool capture(qn_jrun *r, const qn_jnode *body, qn_jvalue *out)
{
    qn_jtext text = {0}, *outer = r->out;
    r->out = &text;
    flow f = run_body(r, body);
    r->out = outer;
    return f != FLOW_FAIL && qn_jtext_value(r, &text, out);
}

static bool call_macro(qn_jrun *r, const qn_jmacro *m, const qn_jargs *a, const qn_jvalue *caller,
                       qn_jvalue *out)
{
    qn_jframe *back = r->frame;
    uint32_t line = r->line;
    bool ok = qn_jrun_enter(r) && push_frame(r, m->frame) && bind_macro(r, m, a) &&
              (!caller || set_word(r, QN_JW_CALLER, caller)) && capture(r, m->body, out);
    r->depth--;
    r->frame = back;
    if (ok)
        r->line = line;
    return ok;
}

/* ---- expressions ---- */

static bool eval_sequence(qn_jrun *r, const qn_jnode *n, qn_jvalue *out)
{
    qn_jvalue list;
    if (!qn_jvalue_list(r, n->kind == QN_JN_TUPLE ? QN_J_LIST_TUPLE : QN_J_LIST_PLAIN, n->n, &list))
        return false;
    for (uint32_t i = 0; i < n->n; i++)
        if (!eval(r, n->kids[i], &list.u.l->items[i]))
            return false;
    *out = list;
    return true;
}

static bool eval_dict(qn_jrun *r, const qn_jnode *n, qn_jvalue *out)
{
    qn_jvalue dict, key, value;
    if (!qn_jvalue_dict(r, n->n / 2, &dict))
        return false;
    for (uint32_t i = 0; i + 1 < n->n; i += 2)
        if (!eval(r, n->kids[i], &key) || !eval(r, n->kids[i + 1], &value) ||
            !qn_jdict_set(r, dict.u.d, &key, &value))
            return false;
    *out = dict;
    return true;
}

static bool eval_logic(qn_jrun *r, const qn_jnode *n, qn_jvalue *out)
{
    for (uint32_t i = 0; i < n->n; i++) {
        if (!eval(r, n->kids[i], out))
            return false;
        if (qn_jvalue_truth(out) == (n->kind == QN_JN_OR))
            break;
    }
    return true;
}

static bool eval_compare(qn_jrun *r, const qn_jnode *n, qn_jvalue *out)
{
    qn_jvalue left, right;
    bool holds = true;
    if (!eval(r, n->kids[0], &left))
        return false;
    for (uint32_t i = 1; i < n->n && holds; i++) {
        if (!eval(r, n->kids[i], &right) ||
            !qn_jvalue_compare(r, n->ops[i - 1], &left, &right, &holds))
            return false;
        left = right;
    }
    *out = qn_jvalue_bool(holds);
    return true;
}

/* Text is gathered in one place, so that a + b + c + d copies each byte once. */
static bool eval_chain(qn_jrun *r, const qn_jnode *n, qn_jvalue *out)
{
    qn_jtext text = {0};
    bool is_text = false;
    qn_jvalue left, right;
    if (!eval(r, n->kids[0], &left))
        return false;
    for (uint32_t i = 1; i < n->n; i++) {
        if (!eval(r, n->kids[i], &right))
            return false;
        bool adds_text =
            n->ops[i - 1] == QN_JOP_ADD && left.type == QN_J_STRING && right.type == QN_J_STRING;
        if (adds_text && !is_text && !qn_jtext_add_value(r, &text, &left))
            return false;
        is_text |= adds_text;
        if (adds_text) {
            if (!qn_jtext_add_value(r, &text, &right))
                return false;
            continue;
        }
        if (is_text && !qn_jtext_value(r, &text, &left))
            return false;
        is_text = false;
        text = (qn_jtext){0};
        if (!qn_jvalue_binary(r, n->ops[i - 1], &left, &right, out))
            return false;
        left = *out;
    }
    *out = left;
    return !is_text || qn_jtext_value(r, &text, out);
}

static bool eval_concat(qn_jrun *r, const qn_jnode *n, qn_jvalue *out)
{
    qn_jtext text = {0};
    for (uint32_t i = 0; i < n->n; i++)
        if (!eval(r, n->kids[i], out) || !qn_jtext_add_value(r, &text, out))
            return false;
    return qn_jtext_value(r, &text, out);
}

static bool eval_sign(qn_jrun *r, const qn_jnode *n, qn_jvalue *out)
{
    qn_jvalue v, zero = qn_jvalue_int(0);
    if (!eval(r, n->kids[0], &v))
        return false;
    if (v.type == QN_J_FLOAT) {
        *out = v;
        out->u.f = n->op ? -v.u.f : v.u.f;
        return true;
    }
    return qn_jvalue_binary(r, n->op ? QN_JOP_SUB : QN_JOP_ADD, &zero, &v, out);
}

static bool eval_cond(qn_jrun *r, const qn_jnode *n, qn_jvalue *out)
{
    if (!eval(r, n->kids[0], out))
        return false;
    if (qn_jvalue_truth(out))
        return eval(r, n->kids[1], out);
    if (n->n > 2)
        return eval(r, n->kids[2], out);
    return qn_jvalue_undefined(r, NULL, QN_SLICE("inline if without else"), out);
}

static bool step_slice(qn_jrun *r, const qn_jnode *step, const qn_jvalue *v, qn_jvalue *out)
{
    qn_jvalue bounds[3];
    for (int i = 0; i < 3; i++) {
        bounds[i] = QN_J_NIL;
        if (step->kids[i] && !eval(r, step->kids[i], &bounds[i]))
            return false;
    }
    return qn_jvalue_slice(r, v, bounds, out);
}

static bool step_item(qn_jrun *r, const qn_jnode *step, const qn_jvalue *v, qn_jvalue *out)
{
    qn_jvalue key;
    return eval(r, step->kids[0], &key) && qn_jvalue_item(r, v, &key, out);
}

static bool step_call(qn_jrun *r, const qn_jnode *step, const qn_jvalue *v, qn_jvalue *out)
{
    qn_jargs a;
    return eval_args(r, step, &a) && call_value(r, v, &a, NULL, out);
}

static bool step_filter(qn_jrun *r, const qn_jnode *step, const qn_jvalue *v, qn_jvalue *out)
{
    qn_jargs a;
    return eval_args(r, step, &a) && qn_jfilter_apply(r, qn_jrun_name(r, step->name), v, &a, out);
}

static bool step_test(qn_jrun *r, const qn_jnode *step, const qn_jvalue *v, qn_jvalue *out)
{
    qn_jargs a;
    bool holds;
    if (!eval_args(r, step, &a) || !qn_jtest_apply(r, qn_jrun_name(r, step->name), v, &a, &holds))
        return false;
    *out = qn_jvalue_bool(holds != step->op);
    return true;
}

static bool eval_postfix(qn_jrun *r, const qn_jnode *n, qn_jvalue *out)
{
    qn_jvalue v;
    if (!eval(r, n->kids[0], &v))
        return false;
    *out = v;
    for (uint32_t i = 1; i < n->n; i++) {
        const qn_jnode *step = n->kids[i];
        bool ok;
        r->line = step->line;
        if (!qn_jrun_spend(r, 1))
            return false;
        switch (step->kind) {
        case QN_JN_ATTR:
            ok = qn_jvalue_attr(r, &v, qn_jrun_name(r, step->name), out);
            break;
        case QN_JN_ITEM:
            ok = step_item(r, step, &v, out);
            break;
        case QN_JN_SLICE:
            ok = step_slice(r, step, &v, out);
            break;
        case QN_JN_CALL:
            ok = step_call(r, step, &v, out);
            break;
        case QN_JN_FILTER:
            ok = step_filter(r, step, &v, out);
            break;
        default:
            ok = step_test(r, step, &v, out);
        }
        if (!ok)
            return false;
        v = *out;
    }
    return true;
}

static bool eval_kind(qn_jrun *r, const qn_jnode *n, qn_jvalue *out)
{
    switch (n->kind) {
    case QN_JN_LIST:
    case QN_JN_TUPLE:
        return eval_sequence(r, n, out);
    case QN_JN_DICT:
        return eval_dict(r, n, out);
    case QN_JN_OR:
    case QN_JN_AND:
        return eval_logic(r, n, out);
    case QN_JN_NOT:
        if (!eval(r, n->kids[0], out))
            return false;
        *out = qn_jvalue_bool(qn_jvalue_truth(out) != n->op);
        return true;
    case QN_JN_COMPARE:
        return eval_compare(r, n, out);
    case QN_JN_CHAIN:
        return eval_chain(r, n, out);
    case QN_JN_CONCAT:
        return eval_concat(r, n, out);
    case QN_JN_SIGN:
        return eval_sign(r, n, out);
    case QN_JN_COND:
        return eval_cond(r, n, out);
    default:
        return eval_postfix(r, n, out);
    }
}

static bool eval(qn_jrun *r, const qn_jnode *n, qn_jvalue *out)
{
    if (!qn_jrun_spend(r, 1))
        return false;
    if (n->kind == QN_JN_CONST) {
        *out = n->value;
        return true;
    }
    if (n->kind == QN_JN_NAME)
        return get_variable(r, n->name, out);
    bool ok = qn_jrun_enter(r) && eval_kind(r, n, out);
    r->depth--;
    return ok;
}

/* ---- loops ---- */

static bool set_targets(qn_jrun *r, const uint32_t *names, uint32_t n, bool unpack,
                        const qn_jvalue *v)
{
    qn_jlist *l;
    if (!unpack)
        return set_variable(r, names[0], v);
    if (v->type == QN_J_UNDEFINED)
        return qn_jvalue_refuse(r, v);
    if (!qn_jvalue_iterate(r, v, &l))
        return false;
    if (l->n != n)
        return qn_jrun_fail(r, "%zu values found to unpack, %u wanted", l->n, n);
    for (uint32_t i = 0; i < n; i++)
        if (!set_variable(r, names[i], &l->items[i]))
            return false;
    return true;
}

bool qn_jloop_attr(qn_jrun *r, qn_jloop *l, qn_slice name, qn_jvalue *out)
{
    int64_t i = (int64_t)l->i, n = (int64_t)l->list->n;
    if (qn_slice_is(name, "index0"))
        *out = qn_jvalue_int(i);
    else if (qn_slice_is(name, "index"))
        *out = qn_jvalue_int(i + 1);
    else if (qn_slice_is(name, "revindex0"))
        *out = qn_jvalue_int(n - i - 1);
    else if (qn_slice_is(name, "revindex"))
        *out = qn_jvalue_int(n - i);
    else if (qn_slice_is(name, "length"))
        *out = qn_jvalue_int(n);
    else if (qn_slice_is(name, "first"))
        *out = qn_jvalue_bool(i == 0);
    else if (qn_slice_is(name, "last"))
        *out = qn_jvalue_bool(i + 1 == n);
    else if (qn_slice_is(name, "depth") || qn_slice_is(name, "depth0"))
        *out = qn_jvalue_int(name.n == 5);
    else if (qn_slice_is(name, "previtem") && i > 0)
        *out = l->list->items[i - 1];
    else if (qn_slice_is(name, "nextitem") && i + 1 < n)
        *out = l->list->items[i + 1];
    else if (qn_slice_is(name, "previtem"))
        return qn_jvalue_undefined(r, NULL, QN_SLICE("there is no previous item"), out);
    else if (qn_slice_is(name, "nextitem"))
        return qn_jvalue_undefined(r, NULL, QN_SLICE("there is no next item"), out);
    else if (!qn_slice_is(name, "cycle"))
        return qn_jvalue_undefined(r, "jinja2.runtime.LoopContext object", name, out);
    else {
        qn_jmethod *m = qn_jrun_alloc(r, 1, sizeof(*m));
        if (!m)
            return false;
        m->self = (qn_jvalue){.type = QN_J_LOOP, .u.loop = l};
        *out = (qn_jvalue){.type = QN_J_METHOD, .u.method = m};
    }
    return true;
}

/* The items for which the loop's condition holds. */
static bool filter_items(qn_jrun *r, const qn_jnode *n, qn_jlist **list)
{
    qn_jvalue kept, v;
    qn_jframe *f, *back = r->frame;
    size_t n_kept = 0;
    if (!qn_jvalue_list(r, QN_J_LIST_PLAIN, (*list)->n, &kept) || !(f = push_frame(r, back)))
        return false;
    for (size_t i = 0; i < (*list)->n; i++) {
        f->n = 0;
        if (!qn_jrun_spend(r, 16) ||
            !set_targets(r, n->names, n->n_names, n->op, &(*list)->items[i]) ||
            !eval(r, n->kids[1], &v))
            return false;
        if (qn_jvalue_truth(&v))
            kept.u.l->items[n_kept++] = (*list)->items[i];
    }
    kept.u.l->n = n_kept;
    *list = kept.u.l;
    r->frame = back;
    return true;
}

static flow run_turns(qn_jrun *r, const qn_jnode *n, qn_jlist *list)
{
    qn_jframe *back = r->frame, *f = push_frame(r, back);
    qn_jloop *loop = f ? qn_jrun_alloc(r, 1, sizeof(*loop)) : NULL;
    if (!loop)
        return FLOW_FAIL;
    *loop = (qn_jloop){.list = list};
    qn_jvalue loop_value = {.type = QN_J_LOOP, .u.loop = loop};
    for (size_t i = 0; i < list->n; i++) {
        f->n = 0;
        r->frame = f;
        loop->i = i;
        if (!qn_jrun_spend(r, 16) ||
            !set_targets(r, n->names, n->n_names, n->op, &list->items[i]) ||
            !set_word(r, QN_JW_LOOP, &loop_value))
            return FLOW_FAIL;
        flow how = run_body(r, n->kids[2]);
        if (how == FLOW_FAIL)
            return how;
        if (how == FLOW_BREAK)
            break;
    }
    r->frame = back;
    return FLOW_NEXT;
}

static flow run_for(qn_jrun *r, const qn_jnode *n)
{
    qn_jvalue v;
    qn_jlist *list;
    if (!eval(r, n->kids[0], &v) || !qn_jvalue_iterate(r, &v, &list) ||
        (n->kids[1] && !filter_items(r, n, &list)))
        return FLOW_FAIL;
    if (list->n == 0)
        return n->kids[3] ? run_body(r, n->kids[3]) : FLOW_NEXT;
    return run_turns(r, n, list);
}

/* ---- other statements ---- */

static flow run_if(qn_jrun *r, const qn_jnode *n)
{
    uint32_t i = 0;
    for (; i + 1 < n->n; i += 2) {
        qn_jvalue v;
        r->line = n->kids[i]->line;
        if (!eval(r, n->kids[i], &v))
            return FLOW_FAIL;
        if (qn_jvalue_truth(&v))
            return run_body(r, n->kids[i + 1]);
    }
    return i < n->n ? run_body(r, n->kids[i]) : FLOW_NEXT;
}

/* The target of SET and SET_BLOCK: a name, an attribute of a namespace, or several names. */
static bool assign(qn_jrun *r, const qn_jnode *n, const qn_jvalue *v)
{
    qn_jvalue object, key;
    if (n->op != 1)
        return set_targets(r, n->names, n->n_names, n->op == 2, v);
    qn_slice name = qn_jrun_name(r, n->names[0]);
    if (!get_variable(r, n->name, &object))
        return false;
    if (object.type != QN_J_NAMESPACE)
        return qn_jrun_fail(r, "cannot assign attribute '%.*s' on an object that is no namespace",
                            (int)QN_MIN(name.n, 60), name.p);
    return qn_jvalue_string(r, name.p, name.n, false, &key) && qn_jdict_set(r, object.u.d, &key, v);
}

/* The body's output, in a frame of its own, through the filters in kids[first..]. */
static bool capture_filtered(qn_jrun *r, const qn_jnode *n, qn_jvalue *out)
{
    qn_jframe *back = r->frame;
    if (!push_frame(r, back) || !capture(r, n->kids[0], out))
        return false;
    for (uint32_t i = 1; i < n->n; i++) {
        qn_jvalue v = *out;
        if (!step_filter(r, n->kids[i], &v, out))
            return false;
    }
    r->frame = back;
    return true;
}

static bool make_macro(qn_jrun *r, const qn_jnode *n, uint32_t i_body, qn_jvalue *out)
{
    qn_jmacro *m = qn_jrun_alloc(r, 1, sizeof(*m));
    if (!m)
        return false;
    *m = (qn_jmacro){n, r->frame, n->kids[i_body], n->kids + i_body + 1, n->n - i_body - 1};
    *out = (qn_jvalue){.type = QN_J_MACRO, .u.macro = m};
    return true;
}

/* The callee and arguments of "f(x)", with the block's own macro as its caller. */
static bool run_call_block(qn_jrun *r, const qn_jnode *n)
{
    const qn_jnode *call = n->kids[0];
    qn_jnode callee = *call;
    qn_jvalue caller, f, out;
    qn_jargs a;
    callee.n--;
    return make_macro(r, n, 1, &caller) && eval_postfix(r, &callee, &f) &&
           eval_args(r, call->kids[call->n - 1], &a) && call_value(r, &f, &a, &caller, &out) &&
           qn_jtext_add_value(r, r->out, &out);
}

static flow run_with(qn_jrun *r, const qn_jnode *n)
{
    qn_jframe *back = r->frame, *f;
    qn_jvalue v;
    if (!(f = push_frame(r, back)))
        return FLOW_FAIL;
    for (uint32_t i = 0; i < n->n_names; i++) {
        r->frame = back; /* the values do not see each other */
        if (!eval(r, n->kids[1 + i], &v))
            return FLOW_FAIL;
        r->frame = f;
        if (!set_variable(r, n->names[i], &v))
            return FLOW_FAIL;
    }
    flow how = run_body(r, n->kids[0]);
    r->frame = back;
    return how;
}

static flow run_simple(qn_jrun *r, const qn_jnode *n)
{
    qn_jvalue v;
    bool ok;
    switch (n->kind) {
    case QN_JN_DATA:
        ok = qn_jtext_add_value(r, r->out, &n->value);
        break;
    case QN_JN_OUTPUT:
        ok = eval(r, n->kids[0], &v) && qn_jtext_add_value(r, r->out, &v);
        break;
    case QN_JN_SET:
        ok = eval(r, n->kids[0], &v) && assign(r, n, &v);
        break;
    case QN_JN_SET_BLOCK:
        ok = capture_filtered(r, n, &v) && assign(r, n, &v);
        break;
    case QN_JN_MACRO:
        ok = make_macro(r, n, 0, &v) && set_variable(r, n->name, &v);
        break;
    case QN_JN_CALL_BLOCK:
        ok = run_call_block(r, n);
        break;
    default:
        ok = capture_filtered(r, n, &v) && qn_jtext_add_value(r, r->out, &v);
    }
    return ok ? FLOW_NEXT : FLOW_FAIL;
}

static flow run_statement(qn_jrun *r, const qn_jnode *n)
{
    r->line = n->line;
    if (!qn_jrun_spend(r, 16))
        return FLOW_FAIL;
    switch (n->kind) {
    case QN_JN_IF:
        return run_if(r, n);
    case QN_JN_FOR:
        return run_for(r, n);
    case QN_JN_WITH:
        return run_with(r, n);
    case QN_JN_BREAK:
        return FLOW_BREAK;
    case QN_JN_CONTINUE:
        return FLOW_CONTINUE;
    default:
        return run_simple(r, n);
    }
}

static flow run_body(qn_jrun *r, const qn_jnode *body)
{
    flow how = qn_jrun_enter(r) ? FLOW_NEXT : FLOW_FAIL;
    for (uint32_t i = 0; i < body->n && how == FLOW_NEXT; i++)
        how = run_statement(r, body->kids[i]);
    r->depth--;
    return how;
}

/* ---- a rendering ---- */

static bool is_token_name(qn_slice name)
{
    return qn_slice_is(name, "bos_token") || qn_slice_is(name, "eos_token") ||
           qn_slice_is(name, "pad_token") || qn_slice_is(name, "unk_token");
}

/* The value of each of the template's names: a variable, what transformers always passes, or a
 * function. */
static bool set_globals(qn_jrun *r, const json_t *variables)
{
    r->globals = qn_jrun_alloc(r, r->t->n_names, sizeof(*r->globals));
    if (!r->globals)
        return false;
    for (uint32_t i = 0; i < r->t->n_names; i++) {
        qn_slice name = r->t->names[i];
        qn_jvalue *v = &r->globals[i];
        char key[256];
        const json_t *j = NULL;
        if (name.n < sizeof(key) && !memchr(name.p, 0, name.n)) {
            memcpy(key, name.p, name.n);
            key[name.n] = 0;
            j = json_object_get(variables, key);
        }
        int function = qn_jfunction_find(name);
        *v = (qn_jvalue){.type = QN_J_MISSING};
        if (j && !qn_jvalue_json(r, j, v))
            return false;
        if (j && is_token_name(name))
            v->data = false;
        else if (!j && (qn_slice_is(name, "tools") || qn_slice_is(name, "documents")))
            *v = QN_J_NIL;
        else if (!j && qn_slice_is(name, "add_generation_prompt"))
            *v = qn_jvalue_bool(false);
        else if (!j && function >= 0)
            *v = (qn_jvalue){.type = QN_J_FUNCTION, .u.i = function};
    }
    return true;
}

static bool mark_messages(qn_jrun *r)
{
    uint32_t id = r->t->words[QN_JW_MESSAGES];
    if (id == QN_JW_ABSENT || r->globals[id].type != QN_J_LIST)
        return true;
    qn_jlist *l = r->globals[id].u.l;
    if (!qn_jlist_unpack(r, l))
        return false;
    for (size_t i = 0; i < l->n; i++)
        if (l->items[i].type == QN_J_DICT)
            l->items[i].u.d->is_message = true;
    return true;
}

static qn_status copy_text(const qn_jtext *t, qn_chat_text *out, qn_err *err)
{
    qn_str_clear(&out->text);
    out->n_segments = 0;
    qn_str_add(&out->text, t->n ? t->p : "", t->n);
    if (out->text.failed ||
        !qn_grow(&out->segments, &out->cap, t->n_spans, sizeof(*out->segments), QN_MEM_REQUEST))
        return qn_fail_nomem(err, t->n);
    for (size_t i = 0; i < t->n_spans; i++)
        out->segments[out->n_segments++] =
            (qn_chat_segment){i ? t->spans[i - 1].end : 0, t->spans[i].end, !t->spans[i].data};
    return QN_OK;
}

qn_status qn_jinja_render(const qn_jinja *t, const json_t *variables, int64_t now,
                          qn_chat_text *out, qn_err *err)
{
    qn_jtext text = {0};
    qn_jrun r = {.t = t,
                 .fuel = 16LL * QN_LIMIT_TEMPLATE_STEPS,
                 .line = 1,
                 .err = err,
                 .now = now,
                 .out = &text};
    qn_arena_init(&r.arena, QN_LIMIT_TEMPLATE_MEMORY, QN_MEM_REQUEST);
    bool ok = set_globals(&r, variables) && mark_messages(&r) && run_body(&r, t->body) != FLOW_FAIL;
    qn_status s = ok ? copy_text(&text, out, err) : r.status;
    qn_arena_fini(&r.arena);
    return s;
}
