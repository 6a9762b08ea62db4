/* SPDX-License-Identifier: Apache-2.0
 * schema.c - a JSON Schema to a form.
 *
 *   goal:  terms that a value must fulfil together --schema_case.c--> cases
 *   plan:  what a case means: members, items, each a goal again
 *
 *   1. goals, from the root on, each set of terms once; references may lead back to one
 *   2. which goals any value can fulfil at all: members of others are left out, and what needs them
 *   3. forms, children first; a goal that is needed while its own form is being written is a rule
 *
 * Members come in the schema's order; names that it does not name come last. */
#include "base/limits.h"
#include "base/str.h"
#include "sample/form.h"
#include "sample/schema_case.h"
#include <string.h>

#define ANY           0u         /* the goal without terms */
#define NONE          UINT32_MAX /* no goal */
#define MOST_PATTERNS 4          /* of names: each combination is a class of its own */
#define MOST_UNIQUE   8     /* values of an array whose items differ: each set of them is a state */
#define MOST_COUNTED  65536 /* states of an object whose members are counted */
#define NO_BOUND      (UINT64_C(1) << 30) /* no answer is as long */

typedef struct member {
    const char *name;
    bool is_required, is_allowed;
} member;

typedef struct name_pattern {
    const json_t *schema;
    const char *text;
} name_pattern;

/* children: goals of the members, of the classes of other names, of the first items, of the other items, of what the array
 * contains (or NONE). */
typedef struct plan {
    const qn_schema_case *c;
    unsigned live; /* types that some value has */
    bool is_unique;
    const json_t *unique_at, *contains_at, *counted_at;
    member *members;
    name_pattern patterns[MOST_PATTERNS];
    uint32_t *classes; /* bits of patterns that the names of a class match */
    uint32_t *children;
    size_t n_members, n_patterns, n_classes, n_prefix, n_children, children_cap;
    bool has_names; /* names of members must be of one of these cases */
    const qn_schema_case *names;
    size_t n_names;
} plan;

typedef struct goal {
    qn_terms terms;
    plan *plans;
    size_t n_plans, next_plan, next_child; /* next_: of the walk that writes the forms */
    qn_form_id form, rule;
    bool is_productive, is_open, is_done;
} goal;

typedef struct compiler {
    qn_schema_doc d;
    qn_json_forms j;
    qn_form *f;
    goal *goals;
    uint32_t *table; /* of goals by their terms; 0: empty, else number + 1 */
    size_t n_goals, goals_cap, table_size;
    uint32_t *stack;
    size_t n_stack, stack_cap;
    qn_err *err;
} compiler;

static const json_t *keyword(const plan *p, size_t i, const char *key)
{
    const qn_term *t = &p->c->plain.t[i];
    return t->is_negated ? NULL : json_object_get(t->schema, key);
}

/* The first plain schema of the plan that has the keyword, or NULL. */
static const json_t *who_says(const plan *p, const char *key)
{
    for (size_t i = 0; i < p->c->plain.n; i++)
        if (keyword(p, i, key))
            return p->c->plain.t[i].schema;
    return NULL;
}

/* ---- goals ---- */

static uint64_t hash_terms(qn_terms t)
{
    uint64_t h = t.n;
    for (size_t i = 0; i < t.n; i++)
        h = qn_hash(&t.t[i].schema, sizeof(const json_t *), h + t.t[i].is_negated);
    return h;
}

static bool same_terms(qn_terms a, qn_terms b)
{
    for (size_t i = 0; i < a.n && a.n == b.n; i++)
        if (a.t[i].schema != b.t[i].schema || a.t[i].is_negated != b.t[i].is_negated)
            return false;
    return a.n == b.n;
}

static size_t slot_of(const compiler *k, qn_terms t)
{
    size_t i = (size_t)hash_terms(t) & (k->table_size - 1);
    while (k->table[i] && !same_terms(k->goals[k->table[i] - 1].terms, t))
        i = (i + 1) & (k->table_size - 1);
    return i;
}

static qn_status grow_goals(compiler *k)
{
    if (!qn_grow(&k->goals, &k->goals_cap, k->n_goals + 1, sizeof *k->goals, QN_MEM_REQUEST))
        return qn_fail_nomem(k->err, (k->n_goals + 1) * sizeof *k->goals);
    if (2 * (k->n_goals + 1) <= k->table_size)
        return QN_OK;
    size_t n = QN_MAX((size_t)64, 2 * k->table_size);
    uint32_t *table = qn_calloc(n, sizeof *table, QN_MEM_REQUEST);
    if (!table)
        return qn_fail_nomem(k->err, n * sizeof *table);
    qn_free(k->table);
    k->table = table;
    k->table_size = n;
    for (uint32_t i = 0; i < k->n_goals; i++)
        k->table[slot_of(k, k->goals[i].terms)] = i + 1;
    return QN_OK;
}

/* Terms without those that say nothing, without repetitions, references replaced: so that equal goals look equal. */
static qn_status reduce(compiler *k, qn_term *t, size_t *n)
{
    size_t n_kept = 0;
    for (size_t i = 0; i < *n; i++) {
        qn_term own = t[i];
        bool is_old = json_is_true(own.schema);
        for (int hops = 0; hops < 64 && json_object_get(own.schema, "$ref") &&
                           !qn_schema_says(own.schema, "$ref");
             hops++)
            QN_TRY(qn_schema_resolve(&k->d, own.schema, &own.schema, k->err));
        is_old |= json_is_true(own.schema) ||
                  (json_is_object(own.schema) && !qn_schema_says(own.schema, NULL));
        for (size_t m = 0; m < n_kept && !is_old; m++)
            is_old = t[m].schema == own.schema;
        if (!is_old)
            t[n_kept++] = own;
    }
    *n = n_kept;
    return QN_OK;
}

/* The goal of these terms (which it keeps). */
static qn_status find_goal(compiler *k, qn_term *t, size_t n, uint32_t *out)
{
    QN_TRY(qn_schema_spend(&k->d, n * n + 1, n ? t->schema : k->d.root, k->err));
    QN_TRY(reduce(k, t, &n));
    QN_TRY(grow_goals(k));
    qn_terms terms = {t, n};
    size_t slot = slot_of(k, terms);
    if (!k->table[slot]) {
        k->goals[k->n_goals++] = (goal){.terms = terms};
        k->table[slot] = (uint32_t)k->n_goals;
    }
    *out = k->table[slot] - 1;
    return QN_OK;
}

static qn_status add_child(compiler *k, plan *p, qn_term *t, size_t n)
{
    if (p->n_children == p->children_cap) {
        size_t cap = 2 * p->children_cap + 8;
        uint32_t *children = qn_schema_alloc(&k->d, cap, sizeof *children);
        if (!children)
            return qn_schema_no_memory(&k->d, k->err);
        if (p->n_children)
            memcpy(children, p->children, p->n_children * sizeof *children);
        p->children = children;
        p->children_cap = cap;
    }
    return find_goal(k, t, n, &p->children[p->n_children++]);
}

static qn_status new_terms(compiler *k, const plan *p, qn_term **out)
{
    *out = qn_schema_alloc(&k->d, qn_case_most_terms(p->c) + 1, sizeof **out);
    return *out ? QN_OK : qn_schema_no_memory(&k->d, k->err);
}

/* ---- plans of objects ---- */

/* Adds a name once: `known` holds those that are there. */
static qn_status plan_member(compiler *k, plan *p, json_t *known, const char *name)
{
    qn_term *terms;
    size_t n = 0;
    if (json_object_get(known, name))
        return QN_OK;
    if (json_object_set_new(known, name, json_integer((json_int_t)p->n_members)) != 0)
        return qn_fail_nomem(k->err, strlen(name));
    QN_TRY(new_terms(k, p, &terms));
    QN_TRY(qn_case_member(&k->d, p->c, name, terms, &n, k->err));
    p->members[p->n_members++] = (member){.name = name, .is_allowed = true};
    return add_child(k, p, terms, n);
}

static qn_status plan_members(compiler *k, plan *p, json_t *known)
{
    size_t most = 0;
    for (size_t i = 0; i < p->c->plain.n; i++)
        most += json_object_size(keyword(p, i, "properties")) +
                json_array_size(keyword(p, i, "required"));
    p->members = qn_schema_alloc(&k->d, most, sizeof *p->members);
    if (!p->members)
        return qn_schema_no_memory(&k->d, k->err);
    for (size_t i = 0; i < p->c->plain.n; i++) {
        const char *name;
        json_t *v;
        json_object_foreach((json_t *)keyword(p, i, "properties"), name, v)
            QN_TRY(plan_member(k, p, known, name));
    }
    for (size_t i = 0; i < p->c->plain.n; i++) {
        const json_t *names = keyword(p, i, "required");
        for (size_t m = 0; m < json_array_size(names); m++) {
            const char *name = json_string_value(json_array_get(names, m));
            QN_TRY(plan_member(k, p, known, name));
            p->members[json_integer_value(json_object_get(known, name))].is_required = true;
        }
    }
    return QN_OK;
}

/* What the names must be. */
static qn_status plan_names(compiler *k, plan *p)
{
    qn_term *terms;
    size_t n = 0;
    QN_TRY(new_terms(k, p, &terms));
    for (size_t i = 0; i < p->c->plain.n; i++) {
        const json_t *own = keyword(p, i, "propertyNames");
        if (own && !json_is_true(own))
            terms[n++] = (qn_term){own, false};
    }
    p->has_names = n > 0;
    if (!n)
        return QN_OK;
    QN_TRY(qn_schema_cases(&k->d, (qn_terms){terms, n}, &p->names, &p->n_names, k->err));
    for (size_t i = 0; i < p->n_members; i++) {
        json_t *name = json_string(p->members[i].name);
        qn_status s = name ? QN_OK : qn_fail_nomem(k->err, strlen(p->members[i].name));
        p->members[i].is_allowed = false;
        for (size_t c = 0; c < p->n_names && !p->members[i].is_allowed && s == QN_OK; c++) {
            s = qn_case_admits(&k->d, &p->names[c], name, &p->members[i].is_allowed, k->err);
            const json_t **values = p->names[c].values;
            bool is_listed = !p->names[c].is_listed;
            for (size_t v = 0; v < p->names[c].n_values; v++)
                is_listed |= json_equal(values[v], name);
            p->members[i].is_allowed = p->members[i].is_allowed && is_listed;
        }
        json_decref(name);
        QN_TRY(s);
    }
    return QN_OK;
}

/* Names that no schema declares: a class for each set of patterns that a name may match. */
static qn_status plan_others(compiler *k, plan *p)
{
    for (size_t i = 0; i < p->c->plain.n; i++) {
        json_t *map = (json_t *)keyword(p, i, "patternProperties"), *v;
        const char *text;
        json_object_foreach(map, text, v)
        {
            if (p->n_patterns == MOST_PATTERNS)
                return qn_schema_fail(&k->d, k->err, QN_E_UNSUPPORTED, p->c->plain.t[i].schema,
                                      "patternProperties", "found more than %d patterns together",
                                      MOST_PATTERNS);
            p->patterns[p->n_patterns++] = (name_pattern){p->c->plain.t[i].schema, text};
        }
    }
    p->classes = qn_schema_alloc(&k->d, (size_t)1 << p->n_patterns, sizeof *p->classes);
    if (!p->classes)
        return qn_schema_no_memory(&k->d, k->err);
    for (uint32_t bits = 0; bits < 1u << p->n_patterns; bits++) {
        qn_term *terms;
        size_t n = 0;
        bool is_closed = false;
        QN_TRY(new_terms(k, p, &terms));
        for (size_t i = 0, at = 0; i < p->c->plain.n; i++) {
            const json_t *map = keyword(p, i, "patternProperties");
            const json_t *rest = keyword(p, i, "additionalProperties");
            for (size_t end = at + json_object_size(map); at < end; at++)
                if (bits >> at & 1) {
                    terms[n++] = (qn_term){json_object_get(map, p->patterns[at].text), false};
                    rest = NULL;
                }
            if (rest)
                terms[n++] = (qn_term){rest, false};
        }
        for (size_t i = 0; i < n; i++)
            is_closed |= json_is_false(terms[i].schema);
        if (!is_closed) {
            p->classes[p->n_classes++] = bits;
            QN_TRY(add_child(k, p, terms, n));
        }
    }
    return QN_OK;
}

static qn_status plan_object(compiler *k, plan *p)
{
    json_t *known = json_object();
    qn_status s = known ? plan_members(k, p, known) : qn_fail_nomem(k->err, sizeof known);
    json_decref(known);
    QN_TRY(s);
    QN_TRY(plan_names(k, p));
    return plan_others(k, p);
}

/* ---- plans of arrays ---- */

/* The goal of the item at i; past all prefixItems: of each one there. */
static qn_status plan_item(compiler *k, plan *p, size_t at, const json_t *also)
{
    qn_term *terms;
    size_t n = 0;
    QN_TRY(new_terms(k, p, &terms));
    for (size_t i = 0; i < p->c->plain.n; i++) {
        const json_t *own = json_array_get(keyword(p, i, "prefixItems"), at);
        const json_t *rest = keyword(p, i, "items");
        if (own || rest)
            terms[n++] = (qn_term){own ? own : rest, false};
    }
    if (also)
        terms[n++] = (qn_term){also, false};
    return add_child(k, p, terms, n);
}

static qn_status plan_contained(compiler *k, plan *p)
{
    const json_t *what = NULL;
    for (size_t i = 0; i < p->c->plain.n; i++) {
        const json_t *own = keyword(p, i, "contains"), *min = keyword(p, i, "minContains");
        const json_t *at = p->c->plain.t[i].schema;
        if (!own ||
            (json_is_number(min) && json_number_value(min) == 0 && !keyword(p, i, "maxContains")))
            continue;
        bool is_one = !min || json_number_value(min) == 1;
        if (what || !is_one || keyword(p, i, "maxContains") || p->n_prefix || p->c->items.min > 1 ||
            p->c->items.max != UINT64_MAX || p->is_unique)
            return qn_schema_fail(
                &k->d, k->err, QN_E_UNSUPPORTED, at, "contains",
                "found it beside counts, prefixItems, uniqueItems or another one");
        what = own;
        p->contains_at = at;
    }
    if (what)
        return plan_item(k, p, SIZE_MAX, what);
    return QN_OK;
}

static qn_status plan_array(compiler *k, plan *p)
{
    for (size_t i = 0; i < p->c->plain.n; i++) {
        p->n_prefix = QN_MAX(p->n_prefix, json_array_size(keyword(p, i, "prefixItems")));
        if (json_is_true(keyword(p, i, "uniqueItems")) && p->c->items.max > 1) {
            p->is_unique = true;
            p->unique_at = p->c->plain.t[i].schema;
        }
    }
    p->n_prefix = (size_t)QN_MIN((uint64_t)p->n_prefix, p->c->items.max);
    for (size_t i = 0; i < p->n_prefix; i++)
        QN_TRY(plan_item(k, p, i, NULL));
    QN_TRY(plan_item(k, p, SIZE_MAX, NULL));
    return plan_contained(k, p);
}

/* Where the goals of the parts begin among the children. */
static size_t first_class(const plan *p)
{
    return p->n_members;
}

static size_t first_item(const plan *p)
{
    return p->n_members + p->n_classes;
}

static uint32_t rest_of(const plan *p)
{
    return p->children[first_item(p) + p->n_prefix];
}

static uint32_t contained_of(const plan *p)
{
    return p->contains_at ? p->children[first_item(p) + p->n_prefix + 1] : NONE;
}

/* All goals that the root's needs, and what each means. */
static qn_status plan_all(compiler *k)
{
    for (uint32_t g = 0; g < k->n_goals; g++) {
        const qn_schema_case *cases;
        size_t n;
        if (g == ANY)
            continue;
        QN_TRY(qn_schema_cases(&k->d, k->goals[g].terms, &cases, &n, k->err));
        plan *plans = qn_schema_alloc(&k->d, n, sizeof *plans);
        if (!plans)
            return qn_schema_no_memory(&k->d, k->err);
        for (size_t i = 0; i < n; i++) {
            plan *p = &plans[i];
            *p = (plan){.c = &cases[i]};
            if (p->c->types & QN_TYPE_OBJECT && !p->c->is_listed)
                QN_TRY(plan_object(k, p));
            if (p->c->types & QN_TYPE_ARRAY && !p->c->is_listed)
                QN_TRY(plan_array(k, p));
        }
        k->goals[g].plans = plans; /* the table of goals may have moved */
        k->goals[g].n_plans = n;
    }
    return QN_OK;
}

/* ---- which goals can be fulfilled ---- */

static bool can_be(const compiler *k, uint32_t g)
{
    return g == NONE || k->goals[g].is_productive;
}

/* How many items an array may have before one that nothing can be. */
static uint64_t most_items(const compiler *k, const plan *p)
{
    for (size_t i = 0; i < p->n_prefix; i++)
        if (!can_be(k, p->children[first_item(p) + i]))
            return i;
    return can_be(k, rest_of(p)) ? p->c->items.max : p->n_prefix;
}

static unsigned live_types(const compiler *k, const plan *p)
{
    unsigned live = p->c->types;
    if (p->c->is_listed)
        return live;
    for (size_t i = 0; i < p->n_members && live & QN_TYPE_OBJECT; i++)
        if (p->members[i].is_required && (!p->members[i].is_allowed || !can_be(k, p->children[i])))
            live &= ~(unsigned)QN_TYPE_OBJECT;
    if (live & QN_TYPE_ARRAY && (most_items(k, p) < p->c->items.min || !can_be(k, contained_of(p))))
        live &= ~(unsigned)QN_TYPE_ARRAY;
    return live;
}

static qn_status find_productive(compiler *k)
{
    k->goals[ANY].is_productive = true;
    for (bool is_new = true; is_new;) {
        is_new = false;
        /* backwards: what is needed mostly has a larger number than what needs it */
        for (uint32_t g = (uint32_t)k->n_goals; g-- > 1;) {
            goal *own = &k->goals[g];
            bool was = own->is_productive;
            QN_TRY(qn_schema_spend(&k->d, own->n_plans + 1, k->d.root, k->err));
            for (size_t i = 0; i < own->n_plans; i++) {
                own->plans[i].live = live_types(k, &own->plans[i]);
                own->is_productive |= own->plans[i].live != 0;
            }
            is_new |= own->is_productive != was;
        }
    }
    return QN_OK;
}

/* ---- forms of strings and numbers ---- */

static qn_status count_bounds(compiler *k, const plan *p, const qn_count_range *r, const char *key,
                              uint32_t *min, uint32_t *max)
{
    if (r->min >= NO_BOUND)
        return qn_schema_fail(&k->d, k->err, QN_E_TOO_LONG, who_says(p, key), key,
                              "found a bound that no answer reaches");
    *min = (uint32_t)r->min;
    *max = r->max >= NO_BOUND ? QN_FORM_ENDLESS : (uint32_t)r->max;
    return QN_OK;
}

/* Texts less those of the values; as the forms of `write`. */
static qn_status without_values(compiler *k, const qn_term *t, unsigned type, qn_form_id *id)
{
    const json_t *list = json_object_get(t->schema, "enum"),
                 *one = json_object_get(t->schema, "const");
    size_t n = json_array_size(list) + (one != NULL);
    qn_form_id *ids = qn_schema_alloc(&k->d, n, sizeof *ids);
    size_t n_ids = 0;
    if (!ids)
        return qn_schema_no_memory(&k->d, k->err);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = one ? one : json_array_get(list, i);
        if (type == QN_TYPE_STRING && json_is_string(v))
            ids[n_ids++] = qn_json_text(k->f, json_string_value(v), json_string_length(v));
        if (type == QN_TYPE_NUMBER && json_is_number(v)) {
            qn_number_range *r = qn_schema_alloc(&k->d, 1, sizeof *r);
            if (!r)
                return qn_schema_no_memory(&k->d, k->err);
            *r = (qn_number_range){.has_low = true, .has_high = true};
            qn_decimal_of(&r->low, v);
            r->high = r->low;
            ids[n_ids++] = qn_number_form(&k->j, r);
        }
        if ((type == QN_TYPE_ARRAY && json_is_array(v)) ||
            (type == QN_TYPE_OBJECT && json_is_object(v)))
            return qn_schema_fail(&k->d, k->err, QN_E_UNSUPPORTED, t->schema,
                                  one ? "const" : "enum",
                                  "found an array or object that must not be");
    }
    if (n_ids)
        *id = qn_form_minus(k->f, *id, qn_form_alt(k->f, ids, n_ids));
    return QN_OK;
}

static qn_status text_of_pattern(compiler *k, const json_t *schema, const char *key,
                                 const char *text, unsigned use, qn_form_id *out)
{
    const qn_regex *re;
    qn_err why = {0};
    *out = 0;
    QN_TRY(qn_schema_regex(&k->d, schema, key, text, strcmp(key, "format") == 0, &re, k->err));
    if (!re)
        return QN_OK;
    qn_status s = qn_regex_form(re, k->f, QN_REGEX_JSON | use, out, &why);
    return s == QN_OK ? s : qn_schema_fail(&k->d, k->err, s, schema, key, "%s", why.msg);
}

/* What stands between the quotes; is_free: nothing is compared with it. */
static qn_status string_text(compiler *k, const plan *p, bool is_free, qn_form_id *out)
{
    static const char *const keys[] = {"pattern", "format"};
    uint32_t min = 0, max = 0;
    qn_form_id re, id = 0;
    QN_TRY(count_bounds(k, p, &p->c->lengths, "minLength", &min, &max));
    for (size_t i = 0; i < p->c->plain.n; i++)
        for (size_t m = 0; m < QN_COUNT(keys); m++) {
            const char *text = json_string_value(keyword(p, i, keys[m]));
            if (!text)
                continue;
            QN_TRY(text_of_pattern(k, p->c->plain.t[i].schema, keys[m], text, 0, &re));
            if (re)
                id = id ? qn_form_and(k->f, id, re) : re;
        }
    bool is_denied = false;
    for (size_t i = 0; i < p->c->plain.n; i++)
        is_denied |= p->c->plain.t[i].is_negated;
    is_free = is_free && !id && !is_denied;
    if (!id || min || max != QN_FORM_ENDLESS) {
        qn_form_id chars = qn_form_repeat(k->f, is_free ? k->j.free_char : k->j.char_, min, max);
        id = id ? qn_form_and(k->f, id, chars) : chars;
    }
    for (size_t i = 0; i < p->c->plain.n; i++) {
        const qn_term *t = &p->c->plain.t[i];
        const char *text = json_string_value(json_object_get(t->schema, "pattern"));
        if (!t->is_negated)
            continue;
        if (text) {
            QN_TRY(text_of_pattern(k, t->schema, "pattern", text, QN_REGEX_WIDE, &re));
            id = qn_form_minus(k->f, id, re);
        }
        QN_TRY(without_values(k, t, QN_TYPE_STRING, &id));
    }
    *out = id;
    return QN_OK;
}

static qn_status multiple_form(compiler *k, const json_t *schema, const qn_number_range *r,
                               const qn_decimal *step, qn_form_id *out)
{
    *out = qn_multiple_form(&k->j, r, step);
    bool has_failed = !qn_form_bytes(k->f, "", 0); /* then 0 means nothing */
    if (*out || has_failed)
        return QN_OK;
    return qn_schema_fail(&k->d, k->err, QN_E_UNSUPPORTED, schema, "multipleOf",
                          "found a step that takes too many states");
}

static qn_status number_form(compiler *k, const plan *p, qn_form_id *out)
{
    qn_number_range *r = qn_schema_alloc(&k->d, 1, sizeof *r);
    qn_form_id id = 0;
    qn_decimal step;
    bool is_denied = false;
    if (!r)
        return qn_schema_no_memory(&k->d, k->err);
    *r = p->c->numbers ? *p->c->numbers : (qn_number_range){0};
    r->is_whole = !(p->live & QN_TYPE_BROKEN);
    r->is_broken = !(p->live & QN_TYPE_WHOLE);
    for (size_t i = 0; i < p->c->plain.n; i++) {
        const json_t *of = keyword(p, i, "multipleOf");
        is_denied |= p->c->plain.t[i].is_negated;
        if (!of)
            continue;
        qn_decimal_of(&step, of);
        qn_form_id own;
        QN_TRY(multiple_form(k, p->c->plain.t[i].schema, r, &step, &own));
        id = id ? qn_form_and(k->f, id, own) : own;
    }
    if (is_denied)
        qn_number_range_close(r);
    if (!id)
        id = qn_number_form(&k->j, r);
    for (size_t i = 0; i < p->c->plain.n && is_denied; i++) {
        const qn_term *t = &p->c->plain.t[i];
        const json_t *of = json_object_get(t->schema, "multipleOf");
        if (!t->is_negated)
            continue;
        if (of) {
            qn_decimal_of(&step, of);
            qn_form_id own;
            QN_TRY(multiple_form(k, p->c->plain.t[i].schema, r, &step, &own));
            id = qn_form_minus(k->f, id, own);
        }
        QN_TRY(without_values(k, t, QN_TYPE_NUMBER, &id));
    }
    *out = id;
    return QN_OK;
}

/* ---- forms of objects ---- */

/* The form of a goal that another one needs. While its own is being written it gets a rule. */
static qn_form_id form_of(compiler *k, uint32_t g)
{
    goal *own = &k->goals[g];
    if (g == ANY)
        return k->j.value;
    if (!own->is_productive)
        return k->j.nothing;
    if (own->is_done)
        return own->form;
    if (!own->rule)
        own->rule = qn_form_rule(k->f);
    return own->rule;
}

static qn_status listed_form(compiler *k, const qn_schema_case *c, bool is_text, qn_form_id *out)
{
    qn_form_id *ids = qn_schema_alloc(&k->d, c->n_values, sizeof *ids);
    size_t n = 0;
    if (!ids)
        return qn_schema_no_memory(&k->d, k->err);
    for (size_t i = 0; i < c->n_values; i++)
        if (!is_text)
            QN_TRY(qn_json_exactly(&k->j, c->values[i], &ids[n++], k->err));
        else if (json_is_string(c->values[i]))
            ids[n++] = qn_json_text(k->f, json_string_value(c->values[i]),
                                    json_string_length(c->values[i]));
    *out = qn_form_alt(k->f, ids, n);
    return QN_OK;
}

/* Names of a class, without quotes. */
static qn_status name_form(compiler *k, const plan *p, uint32_t bits, qn_form_id *out)
{
    qn_form_id id = k->j.text, re, *ids = qn_schema_alloc(&k->d, p->n_members, sizeof *ids);
    if (!ids)
        return qn_schema_no_memory(&k->d, k->err);
    for (size_t i = 0; i < p->n_patterns; i++) {
        bool is_in = bits >> i & 1;
        QN_TRY(text_of_pattern(k, p->patterns[i].schema, "patternProperties", p->patterns[i].text,
                               is_in ? 0 : QN_REGEX_WIDE, &re));
        id = is_in ? qn_form_and(k->f, id, re) : qn_form_minus(k->f, id, re);
    }
    if (p->has_names) {
        qn_form_id any = k->j.nothing;
        for (size_t i = 0; i < p->n_names; i++) {
            plan own = {.c = &p->names[i]};
            qn_form_id text = k->j.nothing;
            if (own.c->obstacle && own.c->types & QN_TYPE_STRING)
                return qn_schema_fail(&k->d, k->err, QN_E_UNSUPPORTED, own.c->obstacle_at,
                                      own.c->obstacle_key, "%s", own.c->obstacle);
            if (own.c->is_listed)
                QN_TRY(listed_form(k, own.c, true, &text));
            else if (own.c->types & QN_TYPE_STRING)
                QN_TRY(string_text(k, &own, false, &text));
            any = qn_form_either(k->f, any, text);
        }
        id = qn_form_and(k->f, id, any);
    }
    for (size_t i = 0; i < p->n_members; i++)
        ids[i] = qn_json_text(k->f, p->members[i].name, strlen(p->members[i].name));
    *out = p->n_members ? qn_form_minus(k->f, id, qn_form_alt(k->f, ids, p->n_members)) : id;
    return QN_OK;
}

/* One member whose name is not declared; 0: there can be none. */
static qn_status other_form(compiler *k, const plan *p, qn_form_id *out)
{
    *out = 0;
    for (size_t i = 0; i < p->n_classes; i++) {
        uint32_t g = p->children[first_class(p) + i];
        qn_form_id name = 0;
        if (!can_be(k, g))
            continue;
        bool is_free = !p->n_patterns && !p->has_names && !p->n_members;
        if (!is_free)
            QN_TRY(name_form(k, p, p->classes[i], &name));
        qn_form_id quoted[] = {k->j.quote, is_free ? k->j.empty : name, k->j.quote};
        qn_form_id all[] = {is_free ? k->j.string : qn_form_seq(k->f, quoted, 3), k->j.colon,
                            form_of(k, g)};
        qn_form_id one = qn_form_seq(k->f, all, 3);
        *out = *out ? qn_form_either(k->f, *out, one) : one;
    }
    return QN_OK;
}

/* An object's members from i on, of which `c` have been written: rest[c] of row i. Rows from the last to the first. */
typedef struct counting {
    uint64_t min, max; /* max UINT64_MAX: none */
    size_t most;       /* counts from here on are one */
    bool is_counted;   /* else a count is only none or some */
    size_t n_required;
    qn_form_id other; /* 0: none */
} counting;

/* What may come behind the last declared member. */
static qn_status tail_form(compiler *k, const plan *p, const counting *n, size_t c, qn_form_id *out)
{
    uint64_t need = n->is_counted && n->min > c ? n->min - c : 0;
    uint32_t most =
        n->is_counted && n->max != UINT64_MAX ? (uint32_t)(n->max - c) : QN_FORM_ENDLESS;
    *out = need ? k->j.nothing : k->j.empty;
    if (!n->other || !most || c < QN_MIN(n->n_required, n->most))
        return QN_OK;
    if (need > 1)
        return qn_schema_fail(
            &k->d, k->err, QN_E_UNSUPPORTED, who_says(p, "minProperties"), "minProperties",
            "found names that may repeat, want fewer or additionalProperties false");
    if (c) {
        *out = qn_json_more(&k->j, n->other, (uint32_t)need, most);
        return QN_OK;
    }
    qn_form_id more = qn_json_more(&k->j, n->other, 0, most == QN_FORM_ENDLESS ? most : most - 1);
    *out = qn_form_pair(k->f, n->other, more);
    if (!need)
        *out = qn_form_maybe(k->f, *out);
    return QN_OK;
}

/* The member, if it comes, and what follows: from the row behind it. */
static qn_form_id member_rest(compiler *k, const plan *p, const counting *n, size_t i, size_t c,
                              const qn_form_id *behind)
{
    const member *m = &p->members[i];
    bool may_be = m->is_allowed && can_be(k, p->children[i]) && !(n->is_counted && c >= n->max);
    size_t next = QN_MIN(c + 1, n->most);
    if (!may_be)
        return m->is_required ? k->j.nothing : behind[c];
    qn_form_id parts[] = {c ? k->j.comma : k->j.empty,
                          qn_json_quoted(&k->j, m->name, strlen(m->name)), k->j.colon,
                          form_of(k, p->children[i])};
    qn_form_id own = qn_form_seq(k->f, parts, 4);
    if (m->is_required)
        return qn_form_pair(k->f, own, behind[next]);
    if (next == c)
        return qn_form_pair(k->f, qn_form_maybe(k->f, own), behind[c]);
    return qn_form_either(k->f, qn_form_pair(k->f, own, behind[next]), behind[c]);
}

static qn_status object_form(compiler *k, const plan *p, qn_form_id *out)
{
    counting n = {.min = p->c->members.min, .max = p->c->members.max, .most = 1};
    QN_TRY(other_form(k, p, &n.other));
    for (size_t i = 0; i < p->n_members; i++)
        n.n_required += p->members[i].is_required;
    if ((!n.other && n.max >= p->n_members) || n.max >= NO_BOUND)
        n.max = UINT64_MAX;
    if (n.min <= n.n_required)
        n.min = 0;
    n.is_counted = n.min || n.max != UINT64_MAX;
    if (n.is_counted)
        n.most = (size_t)QN_MAX(n.min, n.max == UINT64_MAX ? 1 : QN_MIN(n.max, p->n_members + 1));
    if (n.is_counted && (n.most > MOST_COUNTED || (n.most + 1) * (p->n_members + 1) > MOST_COUNTED))
        return qn_schema_fail(&k->d, k->err, QN_E_TOO_LONG, p->c->plain.t[0].schema, NULL,
                              "found counted members of more than %d states", MOST_COUNTED);
    qn_form_id *rows = qn_schema_alloc(&k->d, 2 * (n.most + 1), sizeof *rows), *row = rows;
    if (!rows)
        return qn_schema_no_memory(&k->d, k->err);
    for (size_t c = 0; c <= n.most; c++)
        QN_TRY(tail_form(k, p, &n, c, &row[c]));
    for (size_t i = p->n_members; i-- > 0;) {
        qn_form_id *next = row == rows ? rows + n.most + 1 : rows;
        for (size_t c = 0; c <= QN_MIN(n.most, i); c++)
            next[c] = member_rest(k, p, &n, i, c, row);
        row = next;
    }
    qn_form_id parts[] = {qn_form_bytes(k->f, "{", 1), row[0], qn_form_bytes(k->f, "}", 1)};
    *out = qn_form_seq(k->f, parts, 3);
    return QN_OK;
}

/* ---- forms of arrays ---- */

/* The values that the items can have, each once; *n over MOST_UNIQUE: they are not few, or not listed. */
static qn_status few_values(compiler *k, const plan *p, json_t *seen, qn_form_id *ids, size_t *n)
{
    static const char *const names[] = {"null", "false", "true"};
    const goal *g = &k->goals[rest_of(p)];
    qn_str text = {0};
    qn_status s = seen ? QN_OK : qn_fail_nomem(k->err, sizeof seen);
    *n = rest_of(p) == ANY || p->n_prefix ? SIZE_MAX : 0;
    for (size_t i = 0; i < g->n_plans && *n <= MOST_UNIQUE && s == QN_OK; i++) {
        const qn_schema_case *c = g->plans[i].c;
        if (!c->is_listed && c->types & ~(unsigned)(QN_TYPE_NULL | QN_TYPE_FALSE | QN_TYPE_TRUE))
            *n = SIZE_MAX;
        for (size_t v = 0; v < (c->is_listed ? c->n_values : 3) && *n <= MOST_UNIQUE && s == QN_OK;
             v++) {
            qn_str_clear(&text);
            if (c->is_listed)
                qn_json_normal(&text, c->values[v]);
            else if (c->types >> v & 1)
                qn_str_adds(&text, names[v]);
            else
                continue;
            if (!text.failed && json_object_getn(seen, text.p, text.n))
                continue;
            if (text.failed || json_object_setn_new(seen, text.p, text.n, json_true()) != 0)
                s = qn_fail_nomem(k->err, text.n);
            else if (*n == MOST_UNIQUE)
                *n = SIZE_MAX;
            else if (c->is_listed)
                s = qn_json_exactly(&k->j, c->values[v], &ids[(*n)++], k->err);
            else
                ids[(*n)++] = qn_form_bytes(k->f, names[v], strlen(names[v]));
        }
    }
    qn_str_fini(&text);
    return s;
}

/* Items that all differ, of at most MOST_UNIQUE values: what may follow depends on the set that has been. */
static qn_status unique_form(compiler *k, const plan *p, qn_form_id *out)
{
    qn_form_id ids[MOST_UNIQUE], rest[1 << MOST_UNIQUE];
    size_t n;
    json_t *seen = json_object();
    qn_status s = few_values(k, p, seen, ids, &n);
    json_decref(seen);
    QN_TRY(s);
    if (n > MOST_UNIQUE)
        return qn_schema_fail(&k->d, k->err, QN_E_UNSUPPORTED, p->unique_at, "uniqueItems",
                              "found items of other than at most %d listed values", MOST_UNIQUE);
    for (uint32_t set = 1u << n; set-- > 0;) {
        size_t n_in = (size_t)__builtin_popcount(set);
        qn_form_id parts[MOST_UNIQUE + 1];
        size_t n_parts = 0;
        if (n_in >= p->c->items.min)
            parts[n_parts++] = k->j.empty;
        for (size_t i = 0; i < n && n_in < p->c->items.max; i++)
            if (!(set >> i & 1)) {
                qn_form_id own[] = {set ? k->j.comma : k->j.empty, ids[i], rest[set | 1u << i]};
                parts[n_parts++] = qn_form_seq(k->f, own, 3);
            }
        rest[set] = qn_form_alt(k->f, parts, n_parts);
    }
    *out = rest[0];
    return QN_OK;
}

static qn_form_id contained_form(compiler *k, const plan *p)
{
    qn_form_id item = form_of(k, rest_of(p));
    qn_form_id before = qn_form_pair(k->f, item, k->j.comma);
    qn_form_id parts[] = {
        can_be(k, rest_of(p)) ? qn_form_repeat(k->f, before, 0, QN_FORM_ENDLESS) : k->j.empty,
        form_of(k, contained_of(p)), qn_json_more(&k->j, item, 0, QN_FORM_ENDLESS)};
    return qn_form_seq(k->f, parts, 3);
}

static qn_status items_form(compiler *k, const plan *p, qn_form_id *out)
{
    uint64_t most = most_items(k, p);
    qn_count_range r = {p->c->items.min, QN_MIN(most, p->c->items.max)};
    size_t n = (size_t)QN_MIN((uint64_t)p->n_prefix, r.max);
    uint32_t min = 0, max = 0;
    QN_TRY(count_bounds(k, p, &r, "minItems", &min, &max));
    qn_form_id item = form_of(k, rest_of(p)), id;
    if (n == 0) {
        id = max == 0 ? k->j.empty
                      : qn_form_pair(k->f, item,
                                     qn_json_more(&k->j, item, min ? min - 1 : 0,
                                                  max == QN_FORM_ENDLESS ? max : max - 1));
        *out = min || !max ? id : qn_form_maybe(k->f, id);
        return QN_OK;
    }
    id = qn_json_more(&k->j, item, min > n ? min - (uint32_t)n : 0,
                      max == QN_FORM_ENDLESS ? max : max - (uint32_t)n);
    for (size_t i = n; i-- > 0;) {
        qn_form_id parts[] = {i ? k->j.comma : k->j.empty,
                              form_of(k, p->children[first_item(p) + i]), id};
        id = qn_form_seq(k->f, parts, 3);
        if (i >= min)
            id = qn_form_maybe(k->f, id);
    }
    *out = id;
    return QN_OK;
}

static qn_status array_form(compiler *k, const plan *p, qn_form_id *out)
{
    qn_form_id inner = 0;
    if (p->is_unique && most_items(k, p) > 1)
        QN_TRY(unique_form(k, p, &inner));
    else if (p->contains_at)
        inner = contained_form(k, p);
    else
        QN_TRY(items_form(k, p, &inner));
    qn_form_id parts[] = {qn_form_bytes(k->f, "[", 1), inner, qn_form_bytes(k->f, "]", 1)};
    *out = qn_form_seq(k->f, parts, 3);
    return QN_OK;
}

/* ---- all of it ---- */

/* A negated enum or const may deny arrays or objects, which cannot be enforced. */
static qn_status check_denied(compiler *k, const plan *p, unsigned type)
{
    qn_form_id none = 0;
    for (size_t i = 0; i < p->c->plain.n; i++)
        if (p->c->plain.t[i].is_negated)
            QN_TRY(without_values(k, &p->c->plain.t[i], type, &none));
    return QN_OK;
}

static bool is_any_object(const plan *p)
{
    return !p->n_members && p->n_classes == 1 && p->children[first_class(p)] == ANY &&
           !p->has_names && !p->c->members.min && p->c->members.max == UINT64_MAX;
}

static bool is_any_array(const plan *p)
{
    return !p->n_prefix && rest_of(p) == ANY && !p->is_unique && !p->contains_at &&
           !p->c->items.min && p->c->items.max == UINT64_MAX;
}

static qn_status plan_form(compiler *k, const plan *p, qn_form_id *out)
{
    qn_form_id parts[8];
    size_t n = 0;
    if (p->c->obstacle)
        return qn_schema_fail(&k->d, k->err, QN_E_UNSUPPORTED, p->c->obstacle_at,
                              p->c->obstacle_key, "%s", p->c->obstacle);
    if (p->c->is_listed)
        return listed_form(k, p->c, false, out);
    if (p->live & QN_TYPE_OBJECT) {
        QN_TRY(check_denied(k, p, QN_TYPE_OBJECT));
        parts[n++] = k->j.object;
        if (!is_any_object(p))
            QN_TRY(object_form(k, p, &parts[n - 1]));
    }
    if (p->live & QN_TYPE_ARRAY) {
        QN_TRY(check_denied(k, p, QN_TYPE_ARRAY));
        parts[n++] = k->j.array;
        if (!is_any_array(p))
            QN_TRY(array_form(k, p, &parts[n - 1]));
    }
    if (p->live & QN_TYPE_STRING) {
        qn_form_id text;
        QN_TRY(string_text(k, p, true, &text));
        parts[n++] = qn_form_seq(k->f, (qn_form_id[]){k->j.quote, text, k->j.quote}, 3);
    }
    if (p->live & QN_TYPE_NUMBER)
        QN_TRY(number_form(k, p, &parts[n++]));
    if (p->live & QN_TYPE_TRUE)
        parts[n++] = qn_form_bytes(k->f, "true", 4);
    if (p->live & QN_TYPE_FALSE)
        parts[n++] = qn_form_bytes(k->f, "false", 5);
    if (p->live & QN_TYPE_NULL)
        parts[n++] = qn_form_bytes(k->f, "null", 4);
    *out = n == 1 ? parts[0] : qn_form_alt(k->f, parts, n);
    return QN_OK;
}

static qn_status goal_form(compiler *k, goal *g)
{
    qn_form_id *ids = qn_schema_alloc(&k->d, g->n_plans, sizeof *ids), id;
    size_t n = 0;
    if (!ids)
        return qn_schema_no_memory(&k->d, k->err);
    for (size_t i = 0; g->plans && i < g->n_plans; i++)
        if (g->plans[i].live)
            QN_TRY(plan_form(k, &g->plans[i], &ids[n++]));
    id = n == 1 ? ids[0] : qn_form_alt(k->f, ids, n);
    if (g->rule)
        qn_form_define(k->f, g->rule, id);
    g->form = g->rule && id ? g->rule : id;
    g->is_done = true;
    return QN_OK;
}

static qn_status push_goal(compiler *k, uint32_t g)
{
    goal *own = &k->goals[g];
    if (g == ANY || g == NONE || own->is_open || own->is_done || !own->is_productive)
        return QN_OK;
    if (!qn_grow(&k->stack, &k->stack_cap, k->n_stack + 1, sizeof *k->stack, QN_MEM_REQUEST))
        return qn_fail_nomem(k->err, (k->n_stack + 1) * sizeof *k->stack);
    own->is_open = true;
    k->stack[k->n_stack++] = g;
    return QN_OK;
}

static qn_status write_forms(compiler *k, uint32_t root)
{
    QN_TRY(push_goal(k, root));
    while (k->n_stack) {
        goal *g = &k->goals[k->stack[k->n_stack - 1]];
        const plan *p = g->next_plan < g->n_plans ? &g->plans[g->next_plan] : NULL;
        if (p && p->live && g->next_child < p->n_children) {
            QN_TRY(push_goal(k, p->children[g->next_child++]));
        } else if (p) {
            g->next_plan++;
            g->next_child = 0;
        } else {
            QN_TRY(goal_form(k, g));
            k->n_stack--;
        }
    }
    return QN_OK;
}

static qn_status compile(compiler *k, const char *json, size_t n, qn_form_id *out)
{
    qn_term *root;
    uint32_t any, first;
    QN_TRY(qn_schema_doc_init(&k->d, json, n, k->err));
    root = qn_schema_alloc(&k->d, 1, sizeof *root);
    if (!root)
        return qn_schema_no_memory(&k->d, k->err);
    QN_TRY(find_goal(k, root, 0, &any));
    *root = (qn_term){k->d.root, false};
    QN_TRY(find_goal(k, root, 1, &first));
    QN_TRY(plan_all(k));
    QN_TRY(find_productive(k));
    if (!can_be(k, first))
        return qn_schema_fail(&k->d, k->err, QN_E_ARG, k->d.root, NULL,
                              "found a schema that no value fits");
    QN_TRY(write_forms(k, first));
    *out = form_of(k, first);
    return *out ? QN_OK : qn_form_check(k->f, k->err);
}

qn_status qn_form_add_schema(qn_form *f, const char *json, size_t n, bool is_compact,
                             qn_form_id *out, qn_err *err)
{
    compiler k = {.f = f, .err = err};
    *out = 0;
    qn_json_forms_init(&k.j, f, is_compact);
    qn_status s = compile(&k, json, n, out);
    qn_schema_doc_fini(&k.d);
    qn_free(k.goals);
    qn_free(k.table);
    qn_free(k.stack);
    return s;
}

qn_status qn_form_add_json(qn_form *f, qn_form_id *out, qn_err *err)
{
    qn_json_forms j;
    qn_json_forms_init(&j, f, false);
    *out = j.object;
    return *out ? QN_OK : qn_form_check(f, err);
}

qn_status qn_form_add_choice(qn_form *f, const char *json, size_t n, qn_form_id *out, qn_err *err)
{
    json_t *list;
    *out = 0;
    qn_status s = qn_json_parse(&list, json, n, 1, "choice", err);
    if (s != QN_OK) {
        if (err && s == QN_E_FORMAT)
            err->status = QN_E_ARG;
        return s == QN_E_FORMAT ? QN_E_ARG : s;
    }
    size_t n_texts = json_array_size(list);
    qn_form_id *ids = qn_alloc_array(n_texts + 1, sizeof *ids, QN_MEM_REQUEST);
    if (!ids)
        s = qn_fail_nomem(err, n_texts * sizeof *ids);
    else if (!n_texts)
        s = qn_fail(err, QN_E_ARG, "choice: found %s, want an array of strings",
                    json_is_array(list) ? "an empty array" : qn_json_type_name(list));
    for (size_t i = 0; i < n_texts && s == QN_OK; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_string(v))
            s = qn_fail(err, QN_E_ARG, "choice: found %s at %zu, want a string",
                        qn_json_type_name(v), i);
        else
            ids[i] = qn_form_bytes(f, json_string_value(v), json_string_length(v));
    }
    if (s == QN_OK)
        *out = qn_form_alt(f, ids, n_texts);
    qn_free(ids);
    json_decref(list);
    if (s == QN_OK && !*out)
        s = qn_form_check(f, err);
    return s;
}
