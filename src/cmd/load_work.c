/* SPDX-License-Identifier: Apache-2.0
 * load_work.c - options of the workload, random requests, the search for the highest load. */
#include "cmd/load_work.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/limits.h"

/* ---- options ---- */

static load_class *find_class(load_classes *c, const char *name, size_t n)
{
    for (size_t i = 0; i < c->n; i++)
        if (strlen(c->items[i].name) == n && memcmp(c->items[i].name, name, n) == 0)
            return &c->items[i];
    return NULL;
}

qn_status load_mix_parse(load_classes *out, const char *text, qn_err *err)
{
    *out = (load_classes){0};
    if (!text) {
        out->n = 1;
        out->items[0] = (load_class){.name = "all", .weight = 1};
        return QN_OK;
    }
    out->is_mix = true;
    for (const char *p = text;; p++) {
        size_t n = strcspn(p, ",");
        const char *colon = memchr(p, ':', n);
        const char *weight = colon ? colon + 1 : p;
        char made[8];
        load_class c = {0};
        (void)snprintf(made, sizeof(made), "p%zu", out->n);
        const char *name = colon ? p : made;
        size_t name_n = colon ? (size_t)(colon - p) : strlen(made);
        if (!qn_slice_is_word((qn_slice){name, name_n}, sizeof(c.name) - 1) ||
            !qn_parse_f64(weight, (size_t)(p + n - weight), &c.weight) || !(c.weight > 0) ||
            c.weight > 1e9)
            return qn_fail(err, QN_E_ARG, "--mix: found '%.*s', wanted CLASS:WEIGHT, as p0:10",
                           (int)QN_MIN(n, (size_t)64), p);
        if (out->n == LOAD_MAX_CLASSES)
            return qn_fail(err, QN_E_ARG, "--mix: found more than %d classes", LOAD_MAX_CLASSES);
        if (find_class(out, name, name_n))
            return qn_fail(err, QN_E_ARG, "--mix: found %.*s twice", (int)name_n, name);
        memcpy(c.name, name, name_n);
        out->items[out->n++] = c;
        p += n;
        if (!*p)
            return QN_OK;
    }
}

/* 200ms, 1.5s, 2m */
static bool time_ms(const char *p, size_t n, double *ms)
{
    double unit = 0, v;
    if (n > 2 && memcmp(p + n - 2, "ms", 2) == 0) {
        unit = 1;
        n -= 2;
    } else if (n > 1 && (p[n - 1] == 's' || p[n - 1] == 'm')) {
        unit = p[n - 1] == 's' ? 1000 : 60000;
        n--;
    }
    *ms = 0;
    if (unit == 0 || !qn_parse_f64(p, n, &v) || !(v > 0) || v > 1e6)
        return false;
    *ms = v * unit;
    return true;
}

qn_status load_slo_parse(load_classes *c, const char *text, qn_err *err)
{
    static const char *const names[LOAD_N_METRICS] = {"first=", "gap=", "all="};
    for (const char *p = text; p; p++) {
        size_t n = strcspn(p, ",");
        const char *colon = memchr(p, ':', n), *v = colon ? colon + 1 : p, *end = p + n;
        int shown = (int)QN_MIN(n, (size_t)64);
        load_class *one = colon ? find_class(c, p, (size_t)(colon - p)) : NULL;
        int m = LOAD_ALL;
        double ms = 0;
        if (colon && !one)
            return qn_fail(err, QN_E_ARG, "--slo: found '%.*s', a class that --mix does not name",
                           shown, p);
        for (int i = 0; i < LOAD_N_METRICS; i++) {
            size_t k = strlen(names[i]);
            if ((size_t)(end - v) > k && memcmp(v, names[i], k) == 0) {
                m = i;
                v += k;
                break;
            }
        }
        if (!(end - v == 1 && *v == '-') && !time_ms(v, (size_t)(end - v), &ms))
            return qn_fail(err, QN_E_ARG,
                           "--slo: found '%.*s', wanted CLASS:TIME, CLASS:first=TIME or "
                           "CLASS:gap=TIME, as p0:200ms",
                           shown, p);
        for (size_t i = 0; i < c->n; i++)
            if (!one || one == &c->items[i])
                c->items[i].target_ms[m] = ms;
        p = end;
        if (!*p)
            break;
    }
    return QN_OK;
}

bool load_classes_have_target(const load_classes *c)
{
    for (size_t i = 0; i < c->n; i++)
        for (int m = 0; m < LOAD_N_METRICS; m++)
            if (c->items[i].target_ms[m] > 0)
                return true;
    return false;
}

qn_status load_range_parse(load_range *out, const char *name, const char *text, uint32_t least,
                           qn_err *err)
{
    uint64_t min = 0, max = 0;
    size_t n = strlen(text), k = strcspn(text, "-");
    bool good = qn_parse_u64(text, k, QN_LIMIT_CONTEXT, &min);
    max = min;
    if (good && k < n)
        good = qn_parse_u64(text + k + 1, n - k - 1, QN_LIMIT_CONTEXT, &max);
    if (!good || min < least || max < min)
        return qn_fail(err, QN_E_ARG, "--%s: found '%s', wanted tokens, as 200 or 100-300", name,
                       text);
    *out = (load_range){(uint32_t)min, (uint32_t)max};
    return QN_OK;
}

/* ---- random ---- */

/* SplitMix64: any seed is a good one, so each request has a stream of its own. */
static uint64_t draw(uint64_t *x)
{
    uint64_t z = *x += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint32_t draw_below(uint64_t *x, uint32_t n)
{
    return (uint32_t)(((draw(x) >> 32) * n) >> 32);
}

/* In [0, 1). */
static double draw_unit(uint64_t *x)
{
    return (double)(draw(x) >> 11) * 0x1p-53;
}

enum { STREAM_PREFIX, STREAM_ASK, STREAM_PROMPT, STREAM_ARRIVAL };

static uint64_t stream_of(const load_work *w, uint64_t i, uint64_t purpose)
{
    uint64_t x = w->seed * 4 + purpose;
    x = draw(&x) + i;
    return draw(&x);
}

void load_work_ask(const load_work *w, uint64_t i, load_ask *out)
{
    uint64_t x = stream_of(w, i, STREAM_ASK);
    const load_classes *c = w->classes;
    double sum = 0;
    for (size_t k = 0; k < c->n; k++)
        sum += c->items[k].weight;
    double at = draw_unit(&x) * sum;
    size_t k = 0;
    while (k + 1 < c->n && at >= c->items[k].weight)
        at -= c->items[k++].weight;
    *out = (load_ask){.i = i, .class_i = k};
    out->n_in = w->in.min + draw_below(&x, w->in.max - w->in.min + 1);
    out->n_out = w->out.min + draw_below(&x, w->out.max - w->out.min + 1);
}

uint64_t load_work_gap_ns(const load_work *w, uint64_t i)
{
    uint64_t x = stream_of(w, i, STREAM_ARRIVAL);
    double s = -log1p(-draw_unit(&x)) / w->rate;
    return (uint64_t)(QN_MIN(s, 1e6) * 1e9);
}

/* One token each, with the space before them, in the vocabularies of Qwen, Llama and GPT. */
static const char *const words[] = {
    "time",  "people", "water", "light", "house", "world", "paper", "music", "river", "table",
    "green", "small",  "right", "place", "years", "great", "found", "still", "under", "never",
    "night", "white",  "start", "story", "point", "young", "power", "heart", "group", "early",
    "money", "later",  "hands", "above", "voice", "round", "sound", "black", "field", "order",
    "plant", "short",  "human", "local", "study", "class", "north", "south", "event", "level",
    "whole", "space",  "force", "value", "print", "sense", "stage", "trade", "floor", "image",
    "color", "board",  "horse", "peace"};

#define FIRST_ID 3 /* below it are special tokens in Llama's vocabularies */

static void add_prompt(const load_work *w, const load_ask *a, qn_str *out)
{
    uint64_t prefix = stream_of(w, 0, STREAM_PREFIX), own = stream_of(w, a->i, STREAM_PROMPT);
    for (uint32_t k = 0; k < a->n_in; k++) {
        uint64_t *x = k < w->n_prefix ? &prefix : &own;
        if (w->is_chat)
            qn_str_addf(out, "%s%s", k ? " " : "", words[draw_below(x, QN_COUNT(words))]);
        else
            qn_str_addf(out, "%s%u", k ? "," : "", FIRST_ID + draw_below(x, w->n_vocab - FIRST_ID));
    }
}

void load_work_body(const load_work *w, const load_ask *a, qn_str *out)
{
    const char *name = w->classes->items[a->class_i].name;
    uint64_t number;
    qn_str_adds(out, "{\"model\":");
    qn_str_add_json(out, w->model, strlen(w->model));
    qn_str_adds(out,
                w->is_chat ? ",\"messages\":[{\"role\":\"user\",\"content\":\"" : ",\"prompt\":[");
    add_prompt(w, a, out);
    qn_str_adds(out, w->is_chat ? "\"}]" : "]");
    qn_str_addf(out,
                ",\"max_tokens\":%u,\"temperature\":0,\"ignore_eos\":true,\"stream\":true,"
                "\"stream_options\":{\"include_usage\":true}",
                a->n_out);
    /* A class that is a number is sent as one: vLLM's priority is an integer. */
    if (w->classes->is_mix && qn_parse_u64(name, strlen(name), INT32_MAX, &number))
        qn_str_addf(out, ",\"priority\":%llu", (unsigned long long)number);
    else if (w->classes->is_mix)
        qn_str_addf(out, ",\"priority\":\"%s\"", name);
    qn_str_addc(out, '}');
}

/* ---- the highest load ---- */

#define SWEEP_STEPS 40
#define SWEEP_CLOSE 1.05

bool load_sweep_tell(load_sweep *s, bool is_met)
{
    *(is_met ? &s->lo : &s->hi) = s->value;
    s->n++;
    if (s->hi == 0)
        s->value = 2 * s->lo;
    else if (s->lo == 0)
        s->value = s->hi / 2;
    else
        s->value = (s->lo + s->hi) / 2;
    if (s->is_whole)
        s->value = floor(s->value);
    bool is_close = s->lo > 0 && s->hi > 0 && s->hi <= s->lo * SWEEP_CLOSE;
    bool is_out = s->is_whole ? s->value < 1 || s->value == s->lo : s->value < 1e-3;
    return s->n < SWEEP_STEPS && !is_close && !is_out && s->value <= 1e5;
}
