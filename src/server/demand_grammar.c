/* SPDX-License-Identifier: Apache-2.0
 * demand_grammar.c - a demand as GBNF.
 *
 *   root ::= lead body                                      what is empty is left out
 *   lead ::= %until[budget] "</think>" "...</think>" "\n\n"     behind "<think>\n" where the prompt has not opened it
 *   body ::= form | call ("\n" call)* | text (call text)* | %any
 *   call ::= "<tool_call>\n{\"name\": \"f\", \"arguments\": " %json {...} "}\n</tool_call>" | ...
 *
 * text is any without "<tool_call>", as a regular expression. A parameter's value in XML is text up to its closing tag: what a
 * schema says of strings beyond enum and const can not be enforced there. */
#include "server/demand.h"

#include <string.h>

/* As Qwen's own recipe for a thinking budget ends thoughts. */
static const char closing[] =
    "\n\nConsidering the limited time by the user, I have to give the solution based on the "
    "thinking directly now.\n</think>";

/* Schemas that are looked through for the types of one parameter. */
#define NESTED 64

/* ---- texts ---- */

/* A quoted text. */
static void add_literal(qn_str *out, const char *p, size_t n)
{
    qn_str_addc(out, '"');
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (c == '"' || c == '\\')
            qn_str_addf(out, "\\%c", c);
        else if (c == '\n')
            qn_str_adds(out, "\\n");
        else if (c < ' ' || c == 127)
            qn_str_addf(out, "\\x%02X", c);
        else
            qn_str_addc(out, (char)c);
    }
    qn_str_addc(out, '"');
}

static void add_text(qn_str *out, const char *text)
{
    add_literal(out, text, strlen(text));
}

/* Any text in which no "<tool_call>" is: what follows a '<' up to the next one does not begin with the rest of it. */
static void add_free(qn_str *out)
{
    static const char rest[] = "tool_call>";
    size_t n = sizeof rest - 1;
    qn_str_adds(out, "%regex /[^<]*(?:<");
    for (size_t i = 0; i < n; i++) {
        qn_str_addf(out, "(?:[^<%c][^<]*", rest[i]);
        if (i + 1 < n)
            qn_str_addf(out, "|%c", rest[i]);
    }
    for (size_t i = 0; i < n; i++)
        qn_str_adds(out, ")?");
    qn_str_adds(out, ")*/");
}

static void add_regex(qn_str *out, qn_slice re)
{
    qn_str_adds(out, "%regex /");
    for (size_t i = 0; i < re.n; i++) {
        char c = re.p[i];
        bool is_escape = c == '\\' && i + 1 < re.n;
        if (is_escape && (re.p[i + 1] == '\n' || re.p[i + 1] == '\r'))
            continue;
        if (is_escape) {
            qn_str_addc(out, c);
            qn_str_addc(out, re.p[++i]);
        } else if (c == '\n' || c == '\r' || c == '/')
            qn_str_adds(out, c == '/' ? "\\/" : c == '\n' ? "\\n" : "\\r");
        else
            qn_str_addc(out, c);
    }
    qn_str_addc(out, '/');
}

/* ---- a grammar of the client's ---- */

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

/* Behind a quoted text, class, or expression, at whose beginning i is. */
static size_t skip_quoted(qn_slice s, size_t i, char end)
{
    for (i++; i < s.n && s.p[i] != end; i++)
        i += s.p[i] == '\\';
    return QN_MIN(i + 1, s.n);
}

static size_t skip_json(qn_slice s, size_t i)
{
    size_t depth = 0;
    while (i < s.n) {
        char c = s.p[i];
        if (c == '"') {
            i = skip_quoted(s, i, '"');
            continue;
        }
        depth += c == '{';
        i++;
        if (c == '}' && --depth == 0)
            break;
    }
    return i;
}

/* Up to where no name can be: texts, classes, comments, terms in other languages. */
static size_t skip_opaque(qn_slice s, size_t i)
{
    char c = s.p[i];
    size_t k = i;
    if (c == '"')
        return skip_quoted(s, i, '"');
    if (c == '[')
        return skip_quoted(s, i, ']');
    if (c == '#') {
        while (k < s.n && s.p[k] != '\n')
            k++;
        return k;
    }
    if (c != '%')
        return i;
    for (k++; k < s.n && is_name(s.p[k]);)
        k++;
    qn_slice term = {s.p + i, k - i};
    bool is_json = qn_slice_is(term, "%json"), is_regex = qn_slice_is(term, "%regex");
    while ((is_json || is_regex) && k < s.n && (s.p[k] == ' ' || s.p[k] == '\t'))
        k++;
    if (is_json && k < s.n && s.p[k] == '{')
        return skip_json(s, k);
    return is_regex && k < s.n && s.p[k] == '/' ? skip_quoted(s, k, '/') : k;
}

/* The client's rules, whose root is no longer the whole's. */
static void add_rules(qn_str *out, qn_slice s)
{
    for (size_t i = 0, k; i < s.n; i = k) {
        k = skip_opaque(s, i);
        if (k == i && !is_name(s.p[i]))
            k++;
        while (k < s.n && is_name(s.p[i]) && is_name(s.p[k]))
            k++;
        if (qn_slice_is((qn_slice){s.p + i, k - i}, "root"))
            qn_str_adds(out, "quern-form");
        else
            qn_str_add(out, s.p + i, k - i);
    }
    qn_str_addc(out, '\n');
}

/* ---- the form ---- */

static qn_status add_choices(qn_str *out, const qn_demand *d, qn_err *err)
{
    json_t *list;
    qn_status s = QN_OK;
    QN_TRY(qn_json_parse(&list, d->text.p, d->text.n, 0, d->form_param, err));
    for (size_t i = 0; s == QN_OK && i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        qn_str_adds(out, i ? " | " : "");
        if (json_is_string(v))
            add_literal(out, json_string_value(v), json_string_length(v));
        else
            s = qn_fail(err, QN_E_ARG, "%s: found %s, want strings", d->form_param,
                        qn_json_type_name(v));
    }
    if (s == QN_OK && !json_array_size(list))
        s = qn_fail(err, QN_E_ARG, "%s: found no texts, want at least one", d->form_param);
    json_decref(list);
    return s;
}

static qn_status add_form(qn_str *out, const qn_demand *d, qn_err *err)
{
    if (d->form == QN_GRAMMAR_GBNF) {
        add_rules(out, d->text);
        return QN_OK;
    }
    qn_str_adds(out, "quern-form ::= ");
    if (d->form == QN_GRAMMAR_SCHEMA)
        qn_str_addf(out, "%%json %.*s", (int)d->text.n, d->text.p);
    else if (d->form == QN_GRAMMAR_JSON)
        qn_str_adds(out, "%json {\"type\": \"object\"}");
    else if (d->form == QN_GRAMMAR_REGEX)
        add_regex(out, d->text);
    else
        QN_TRY(add_choices(out, d, err));
    qn_str_addc(out, '\n');
    return QN_OK;
}

/* ---- calls in JSON ---- */

static bool is_lax(const qn_demand *d, const qn_tool *t)
{
    return t->is_lax || (d->choice == QN_TOOLS_AUTO && !t->is_strict);
}

/* A tool's schema with "type": "object", and without parameters one of no properties. NULL: out of memory. */
static json_t *object_schema(const qn_tool *t)
{
    json_t *o = t->parameters ? json_copy((json_t *)t->parameters) : json_object();
    bool is_ok = o;
    if (is_ok && !t->parameters)
        is_ok = json_object_set_new(o, "additionalProperties", json_false()) == 0;
    if (is_ok && !json_object_get(o, "type"))
        is_ok = json_object_set_new(o, "type", json_string("object")) == 0;
    if (is_ok)
        return o;
    json_decref(o);
    return NULL;
}

static qn_status check_object(const qn_tool *t, qn_err *err)
{
    const json_t *type = json_object_get(t->parameters, "type");
    const char *name = json_string_value(type);
    if (!type || (name && strcmp(name, "object") == 0))
        return QN_OK;
    return qn_fail(err, QN_E_ARG, "%s: #/type: found %s, want \"object\"", t->where,
                   name ? name : qn_json_type_name(type));
}

static qn_status add_json_call(qn_str *out, const qn_demand *d, const qn_tool *t, qn_err *err)
{
    json_t *schema = is_lax(d, t) ? json_pack("{s:s}", "type", "object") : object_schema(t);
    if (!schema)
        return qn_fail_nomem(err, 64);
    qn_str_adds(out, "\"<tool_call>\\n{\\\"name\\\": \\\"");
    qn_str_adds(out, t->name); /* has no byte to be quoted */
    qn_str_adds(out, "\\\", \\\"arguments\\\": \" %json ");
    qn_json_write(out, schema);
    qn_str_adds(out, " \"}\\n</tool_call>\"\n");
    json_decref(schema);
    return QN_OK;
}

/* ---- what a schema says of a parameter ---- */

static unsigned type_named(const char *name)
{
    static const struct {
        const char *name;
        unsigned type;
    } types[] = {{"null", QN_REPLY_NULL},       {"boolean", QN_REPLY_BOOL},
                 {"integer", QN_REPLY_INTEGER}, {"number", QN_REPLY_NUMBER},
                 {"string", QN_REPLY_STRING},   {"array", QN_REPLY_ARRAY},
                 {"object", QN_REPLY_OBJECT}};
    for (size_t i = 0; name && i < QN_COUNT(types); i++)
        if (strcmp(types[i].name, name) == 0)
            return types[i].type;
    return 0;
}

/* "#/$defs/name" in the tool's schema; NULL: nothing there. */
static const json_t *resolve(const json_t *root, const char *ref)
{
    if (*ref != '#')
        return NULL;
    const json_t *v = root;
    for (const char *p = ref + 1; v && *p == '/';) {
        char key[128];
        size_t n = 0;
        for (p++; *p && *p != '/' && n + 1 < sizeof key; p++) {
            char c = *p;
            if (c == '~' && (p[1] == '0' || p[1] == '1'))
                c = *++p == '0' ? '~' : '/';
            key[n++] = c;
        }
        key[n] = 0;
        v = *p && *p != '/' ? NULL : json_object_get(v, key);
        if (!*p)
            return v;
    }
    return ref[1] ? NULL : v; /* an anchor */
}

/* A schema and those that it is one of, one after the other. is_cut: there are more, or it is not just one of these. */
typedef struct walk {
    const json_t *root, *left[NESTED];
    size_t n, n_seen;
    bool is_cut;
} walk;

static void push(walk *w, const json_t *schema)
{
    if (!schema)
        return;
    if (w->n < NESTED)
        w->left[w->n++] = schema;
    else
        w->is_cut = true;
}

static const json_t *next(walk *w)
{
    static const char *const several[] = {"anyOf", "oneOf", "allOf"};
    if (!w->n || w->n_seen++ == (size_t)4 * NESTED) {
        w->is_cut |= w->n > 0;
        return NULL;
    }
    const json_t *s = w->left[--w->n], *to = json_object_get(s, "$ref");
    int n_ways = (json_object_get(s, "type") != NULL) + (to != NULL);
    if (to) {
        const char *ref = json_string_value(to);
        to = ref ? resolve(w->root, ref) : NULL;
        w->is_cut |= !to;
        push(w, to);
    }
    for (size_t i = 0; i < QN_COUNT(several); i++) {
        const json_t *list = json_object_get(s, several[i]);
        n_ways += list != NULL;
        w->is_cut |= list && !json_array_size(list);
        for (size_t k = 0; k < json_array_size(list); k++)
            push(w, json_array_get(list, k));
    }
    w->is_cut |= n_ways > 1;
    return s;
}

static unsigned types_of(const json_t *root, const json_t *schema)
{
    unsigned all = 0;
    walk w = {.root = root};
    push(&w, schema);
    for (const json_t *s; (s = next(&w));) {
        const json_t *type = json_object_get(s, "type"), *values = json_object_get(s, "enum");
        all |= type_named(json_string_value(type));
        for (size_t i = 0; i < json_array_size(type); i++)
            all |= type_named(json_string_value(json_array_get(type, i)));
        if (!type && json_object_get(s, "const"))
            all |= qn_reply_type_of(json_object_get(s, "const"));
        for (size_t i = 0; !type && i < json_array_size(values); i++)
            all |= qn_reply_type_of(json_array_get(values, i));
    }
    return all;
}

unsigned qn_demand_types(void *arg, qn_slice tool, qn_slice parameter)
{
    const qn_demand *d = arg;
    char key[QN_LIMIT_REPLY_NAME + 1];
    for (size_t i = 0; i < d->n_tools; i++) {
        const json_t *root = d->tools[i].parameters;
        if (!qn_slice_is(tool, d->tools[i].name) || parameter.n >= sizeof key)
            continue;
        memcpy(key, parameter.p, parameter.n);
        key[parameter.n] = 0;
        return types_of(root, json_object_get(json_object_get(root, "properties"), key));
    }
    return 0;
}

/* ---- calls in XML ---- */

static bool is_one_of(const char *name, const char *const *list)
{
    while (*list && strcmp(*list, name) != 0)
        list++;
    return *list;
}

/* Keywords of a schema that its text alone keeps to. */
static const char *const said[] = {"type",     "anyOf",       "oneOf",     "$ref",       "title",
                                   "default",  "description", "examples",  "deprecated", "$comment",
                                   "readOnly", "writeOnly",   "minLength", "maxLength",  NULL};
static const char *const said_of_values[] = {"type",     "enum",        "const",     "title",
                                             "default",  "description", "examples",  "deprecated",
                                             "$comment", "readOnly",    "writeOnly", NULL};
static const char *const said_of_objects[] = {
    "type",    "properties",  "required", "additionalProperties",
    "$defs",   "definitions", "title",    "description",
    "$schema", "$id",         "strict",   NULL};

/* The first keyword that is not among them; NULL: none. */
static const char *unsaid(const json_t *schema, const char *const *list)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)schema, key, v)
    {
        (void)v;
        if (!is_one_of(key, list))
            return key;
    }
    return NULL;
}

typedef struct parameter {
    const qn_tool *tool;
    const char *key;
    const json_t *schema; /* behind its references */
} parameter;

static qn_status not_in_text(const parameter *p, const char *keyword, qn_err *err)
{
    return qn_fail(err, QN_E_UNSUPPORTED,
                   "%s: #/properties/%.60s/%.40s: can not be enforced in the calls of this model, "
                   "whose strings are bare text",
                   p->tool->where, p->key, keyword);
}

/* Whether the type is one, or a list of such. */
static bool is_type(const json_t *v)
{
    bool is_known = json_is_array(v) ? json_array_size(v) > 0 : type_named(json_string_value(v));
    for (size_t i = 0; i < json_array_size(v); i++)
        is_known &= type_named(json_string_value(json_array_get(v, i))) != 0;
    return is_known;
}

/* No value can be of two of the schemas. */
static bool is_apart(const json_t *root, const json_t *schemas)
{
    const unsigned number = QN_REPLY_INTEGER | QN_REPLY_NUMBER;
    unsigned seen = 0;
    for (size_t i = 0; i < json_array_size(schemas); i++) {
        unsigned types = types_of(root, json_array_get(schemas, i));
        types |= types & number ? number : 0;
        if (!types || (types & seen))
            return false;
        seen |= types;
    }
    return true;
}

/* Text up to the closing tag. */
static qn_status add_string(qn_str *out, const parameter *p, unsigned types, qn_err *err)
{
    const json_t *least = json_object_get(p->schema, "minLength"),
                 *most = json_object_get(p->schema, "maxLength");
    walk w = {.root = p->tool->parameters};
    push(&w, p->schema);
    for (const json_t *s; (s = next(&w));) {
        const char *keyword = unsaid(s, said);
        bool is_long = json_object_get(s, "minLength") || json_object_get(s, "maxLength");
        const json_t *type = json_object_get(s, "type");
        if (keyword || (is_long && (s != p->schema || types != QN_REPLY_STRING)))
            return not_in_text(p, keyword ? keyword : "maxLength", err);
        if ((type && !is_type(type)) || !(json_is_object(s) || json_is_true(s)))
            return not_in_text(p, "type", err);
        if (!is_apart(w.root, json_object_get(s, "oneOf")))
            return not_in_text(p, "oneOf", err);
    }
    if (w.is_cut)
        return not_in_text(p, "anyOf", err);
    if (!least && !most) {
        qn_str_adds(out, "%until \"</parameter>\" \"\\n\"");
        return QN_OK;
    }
    if ((least && !json_is_integer(least)) || (most && !json_is_integer(most)))
        return not_in_text(p, "minLength", err);
    qn_str_addf(out, "[^<]{%lld,", least ? (long long)json_integer_value(least) : 0);
    if (most)
        qn_str_addf(out, "%lld", (long long)json_integer_value(most));
    qn_str_adds(out, "} \"\\n</parameter>\\n\"");
    return QN_OK;
}

/* One of some values of the keyword, those that are of its types. */
static qn_status add_values(qn_str *out, const parameter *p, unsigned types, const json_t *values,
                            const char *keyword, qn_err *err)
{
    const char *other = unsaid(p->schema, said_of_values);
    const json_t *type = json_object_get(p->schema, "type");
    size_t n = 0;
    if (other || (type && !is_type(type)))
        return not_in_text(p, other ? other : "type", err);
    qn_str_adds(out, "( ");
    for (size_t i = 0; i < json_array_size(values); i++) {
        const json_t *v = json_array_get(values, i);
        qn_str text = {0};
        if (!(qn_reply_type_of(v) & types))
            continue;
        const qn_slice string = {json_string_value(v), json_string_length(v)};
        if (string.p && qn_reply_read(string, types).p) /* it would not be a string */
            return not_in_text(p, keyword, err);
        qn_str_adds(out, n++ ? " | " : "");
        if (json_is_string(v))
            qn_str_add(&text, json_string_value(v), json_string_length(v));
        else
            qn_json_write(&text, v);
        add_literal(out, text.p ? text.p : "", text.n);
        out->failed |= text.failed;
        qn_str_fini(&text);
    }
    qn_str_adds(out, " ) \"\\n</parameter>\\n\"");
    return n ? QN_OK : not_in_text(p, "type", err);
}

/* The text has a reference to something that is elsewhere in the tool's schema, and not behind $defs. */
static bool refers_elsewhere(const char *json)
{
    static const char key[] = "\"$ref\": \"", *const known[] = {"#/$defs/", "#/definitions/"};
    for (const char *at = json; (at = strstr(at, key));) {
        at += sizeof key - 1;
        if (strncmp(at, known[0], strlen(known[0])) != 0 &&
            strncmp(at, known[1], strlen(known[1])) != 0)
            return true;
    }
    return false;
}

/* Definitions go along: the schema stands by itself. */
static qn_status add_typed(qn_str *out, const parameter *p, qn_err *err)
{
    static const char *const defs[] = {"$defs", "definitions"};
    size_t begin = out->n;
    json_t *schema = json_copy((json_t *)p->schema);
    bool is_ok = schema;
    for (size_t i = 0; is_ok && i < QN_COUNT(defs); i++) {
        json_t *v = json_object_get(p->tool->parameters, defs[i]);
        is_ok = !v || json_object_set(schema, defs[i], v) == 0;
    }
    if (is_ok) {
        qn_str_adds(out, "%json ");
        qn_json_write(out, schema);
        qn_str_adds(out, " \"\\n</parameter>\\n\"");
    }
    json_decref(schema);
    if (!is_ok)
        return qn_fail_nomem(err, 64);
    return !out->failed && refers_elsewhere(out->p + begin) ? not_in_text(p, "$ref", err) : QN_OK;
}

static qn_status add_value(qn_str *out, parameter *p, qn_err *err)
{
    const json_t *root = p->tool->parameters;
    for (int hops = 0; hops < NESTED && json_object_size(p->schema) == 1; hops++) {
        const char *ref = json_string_value(json_object_get(p->schema, "$ref"));
        const json_t *to = ref ? resolve(root, ref) : NULL;
        if (!to)
            break;
        p->schema = to;
    }
    const json_t *values = json_object_get(p->schema, "enum"),
                 *constant = json_object_get(p->schema, "const");
    unsigned types = types_of(root, p->schema);
    if (types && !(types & QN_REPLY_STRING))
        return add_typed(out, p, err);
    if (constant && values)
        return not_in_text(p, "const", err);
    if (constant) {
        json_t *one = json_pack("[O]", constant);
        qn_status s =
            one ? add_values(out, p, types, one, "const", err) : qn_fail_nomem(err, sizeof one);
        json_decref(one);
        return s;
    }
    if (json_array_size(values))
        return add_values(out, p, types, values, "enum", err);
    return add_string(out, p, types, err);
}

static bool is_required(const qn_tool *t, const char *key)
{
    const json_t *list = json_object_get(t->parameters, "required");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (name && strcmp(name, key) == 0)
            return true;
    }
    return false;
}

static qn_status check_parameters(const qn_tool *t, qn_err *err)
{
    const json_t *list = json_object_get(t->parameters, "required");
    const json_t *properties = json_object_get(t->parameters, "properties");
    const char *keyword = unsaid(t->parameters, said_of_objects);
    if (keyword)
        return qn_fail(err, QN_E_UNSUPPORTED,
                       "%s: #/%.60s: can not be enforced in the calls of this model", t->where,
                       keyword);
    if (properties && !json_is_object(properties))
        return qn_fail(err, QN_E_ARG, "%s: #/properties: found %s, want an object", t->where,
                       qn_json_type_name(properties));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (!name || !json_object_get(properties, name))
            return qn_fail(err, QN_E_UNSUPPORTED,
                           "%s: #/required/%zu: found no property of that name", t->where, i);
    }
    return QN_OK;
}

static qn_status add_parameters(qn_str *out, const qn_tool *t, qn_err *err)
{
    const char *key;
    json_t *schema;
    QN_TRY(check_parameters(t, err));
    json_object_foreach(json_object_get(t->parameters, "properties"), key, schema)
    {
        parameter p = {t, key, schema};
        if (json_is_false(schema) && !is_required(t, key))
            continue; /* it may not be there */
        if (!*key || strpbrk(key, "<>\n") || strlen(key) > QN_LIMIT_REPLY_NAME)
            return qn_fail(err, QN_E_UNSUPPORTED,
                           "%s: #/properties: found a name that no call of this model can have: "
                           "'%.60s'",
                           t->where, key);
        qn_str_adds(out, " ( \"<parameter=");
        qn_str name = {0};
        add_text(&name, key);
        qn_str_add(out, name.p ? name.p + 1 : "", name.n ? name.n - 2 : 0);
        out->failed |= name.failed;
        qn_str_fini(&name);
        qn_str_adds(out, ">\\n\" ");
        QN_TRY(add_value(out, &p, err));
        qn_str_adds(out, is_required(t, key) ? " )" : " )?");
    }
    return QN_OK;
}

static qn_status add_xml_call(qn_str *out, const qn_demand *d, const qn_tool *t, qn_err *err)
{
    qn_str_addf(out, "\"<tool_call>\\n<function=%s>\\n\"", t->name);
    if (is_lax(d, t))
        qn_str_adds(out,
                    " ( \"<parameter=\" [^<>\\n]+ \">\\n\" %until \"</parameter>\" \"\\n\" )*");
    else
        QN_TRY(add_parameters(out, t, err));
    qn_str_adds(out, " \"</function>\\n</tool_call>\"\n");
    return QN_OK;
}

/* ---- the whole ---- */

static qn_status add_calls(qn_str *out, const qn_demand *d, const char **param, qn_err *err)
{
    size_t n = 0;
    *param = "tools";
    for (size_t i = 0; i < d->n_tools; i++) {
        const qn_tool *t = &d->tools[i];
        if (!t->is_allowed)
            continue;
        if (!is_lax(d, t))
            QN_TRY(check_object(t, err));
        qn_str_addf(out, "quern-tool-%zu ::= ", i);
        QN_TRY(d->speech.is_xml ? add_xml_call(out, d, t, err) : add_json_call(out, d, t, err));
    }
    qn_str_adds(out, "quern-call ::=");
    for (size_t i = 0; i < d->n_tools; i++)
        if (d->tools[i].is_allowed)
            qn_str_addf(out, "%s quern-tool-%zu", n++ ? " |" : "", i);
    qn_str_adds(out, d->is_single ? "\nquern-calls ::= quern-call\n"
                                  : "\nquern-calls ::= quern-call ( \"\\n\" quern-call )*\n");
    *param = NULL;
    return QN_OK;
}

bool qn_demand_holds_calls(const qn_demand *d)
{
    bool is_strict = false;
    for (size_t i = 0; i < d->n_tools; i++)
        is_strict |= d->tools[i].is_strict;
    return d->n_tools && d->choice != QN_TOOLS_NONE &&
           (d->choice == QN_TOOLS_REQUIRED || d->has_form || d->is_single || d->is_subset ||
            is_strict);
}

/* The rule of the body. */
static void add_body(qn_str *out, const qn_demand *d, bool has_calls)
{
    if (has_calls && d->choice == QN_TOOLS_REQUIRED) {
        qn_str_adds(out, "quern-body ::= quern-calls\n");
    } else if (has_calls && d->has_form) {
        qn_str_adds(out, "quern-body ::= quern-form | quern-calls\n");
    } else if (has_calls) {
        qn_str_adds(out, "quern-text ::= ");
        add_free(out);
        qn_str_adds(out, d->is_single ? "\nquern-body ::= quern-text quern-call?\n"
                                      : "\nquern-body ::= quern-text ( quern-call quern-text )*\n");
    } else
        qn_str_adds(out, d->has_form ? "quern-body ::= quern-form\n" : "quern-body ::= %any\n");
}

/* Thoughts from behind their opening tag on, and the rule of the whole. */
static void add_root(qn_str *out, const qn_demand *d, bool is_any)
{
    const char *gap = is_any ? "" : " \"\\n\\n\"";
    qn_str_adds(out, "quern-thoughts ::= ");
    if (d->budget > 0) {
        qn_str_addf(out, "%%until[%d] \"</think>\" ", d->budget);
        add_text(out, closing);
    } else
        qn_str_adds(out, d->budget == 0 ? "\"\\n</think>\"" : "%until \"</think>\"");
    if (d->style.begin == QN_REPLY_THINKS)
        qn_str_addf(out, "\nroot ::= quern-thoughts%s quern-body\n", gap);
    else if (d->speech.is_switched)
        qn_str_addf(out, "\nroot ::= \"<think>\\n\" quern-thoughts%s quern-body\n", gap);
    else if (is_any)
        qn_str_adds(out, "\nroot ::= \"<think>\" quern-thoughts %any | ( [^< \\t\\r\\n] %any )?\n");
    else
        qn_str_addf(out, "\nroot ::= ( \"<think>\" quern-thoughts%s )? quern-body\n", gap);
}

qn_status qn_demand_write(const qn_demand *d, qn_str *out, const char **param, qn_err *err)
{
    bool has_calls = qn_demand_holds_calls(d), is_any = !has_calls && !d->has_form;
    bool thinks = d->style.begin != QN_REPLY_ANSWERS;
    if (is_any && (!thinks || d->budget < 0))
        return QN_OK;
    if (thinks)
        add_root(out, d, is_any);
    else
        qn_str_adds(out, "root ::= quern-body\n");
    add_body(out, d, has_calls);
    if (has_calls)
        QN_TRY(add_calls(out, d, param, err));
    if (d->has_form && !(has_calls && d->choice == QN_TOOLS_REQUIRED)) {
        *param = d->form_param;
        QN_TRY(add_form(out, d, err));
    }
    *param = NULL;
    return out->failed ? qn_fail_nomem(err, out->n) : QN_OK;
}
