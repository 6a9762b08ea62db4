/* SPDX-License-Identifier: Apache-2.0
 * load_report.c - percentiles and the ways to show them. */
#include "cmd/load_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* ---- gathering ---- */

bool load_values_add(load_values *s, double v)
{
    if (!qn_grow(&s->v, &s->cap, s->n + 1, sizeof *s->v, QN_MEM_MISC))
        return false;
    s->v[s->n++] = v;
    return true;
}

void load_results_fini(load_results *r)
{
    qn_free(r->records);
    for (size_t i = 0; i < LOAD_MAX_CLASSES; i++)
        qn_free(r->gaps[i].v);
    *r = (load_results){0};
}

/* Is it done, and within target m of its class? */
static bool is_met(const load_record *x, const load_class *c, int m)
{
    bool is_measured = m != LOAD_GAP || x->has_gap;
    return x->outcome == LOAD_DONE &&
           (c->target_ms[m] <= 0 || !is_measured || x->ms[m] <= c->target_ms[m]);
}

/* The last row is for all that found none of its own. */
static void count_error(load_results *r, const load_record *x, const char *message)
{
    for (size_t i = 0; i < r->n_errors; i++) {
        load_error *e = &r->errors[i];
        bool is_same = e->status == x->status && e->trouble == (load_trouble)x->trouble;
        if (is_same || i == LOAD_MAX_ERRORS - 1) {
            e->n++;
            return;
        }
    }
    load_error *e = &r->errors[r->n_errors++];
    *e = (load_error){.status = x->status,
                      .trouble = (load_trouble)x->trouble,
                      .outcome = (load_outcome)x->outcome,
                      .n = 1};
    (void)snprintf(e->message, sizeof(e->message), "%s", message);
}

qn_status load_results_add(load_results *r, const load_record *record, const char *message,
                           const load_classes *c, qn_err *err)
{
    if (!qn_grow(&r->records, &r->cap, r->n + 1, sizeof *r->records, QN_MEM_MISC))
        return qn_fail_nomem(err, sizeof *r->records);
    load_record *x = &r->records[r->n++];
    *x = *record;
    x->is_met = true;
    for (int m = 0; m < LOAD_N_METRICS; m++)
        x->is_met &= is_met(x, &c->items[x->class_i], m);
    if (x->outcome != LOAD_DONE)
        count_error(r, x, message);
    return QN_OK;
}

/* ---- percentiles ---- */

static int by_value(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

double load_percentile(const double *sorted, size_t n, double p)
{
    if (n == 0)
        return 0;
    /* 99.9 * 1000 / 100 may come out a little over 999 */
    double rank = ceil(p * (double)n / 100 - 1e-9);
    size_t k = rank < 1 ? 1 : (size_t)rank;
    return sorted[QN_MIN(k, n) - 1];
}

static load_series series_of(double *v, size_t n)
{
    double sum = 0;
    if (n == 0)
        return (load_series){0};
    qsort(v, n, sizeof *v, by_value);
    for (size_t i = 0; i < n; i++)
        sum += v[i];
    return (load_series){.n = n,
                         .mean = sum / (double)n,
                         .p50 = load_percentile(v, n, 50),
                         .p90 = load_percentile(v, n, 90),
                         .p95 = load_percentile(v, n, 95),
                         .p99 = load_percentile(v, n, 99),
                         .p999 = load_percentile(v, n, 99.9),
                         .max = v[n - 1]};
}

/* Class k, or all for k = n. v has room for every record. */
static void count_class(load_class_report *p, const load_results *r, const load_classes *c,
                        size_t k, double *v)
{
    for (size_t i = 0; i < r->n; i++) {
        const load_record *x = &r->records[i];
        if (k < c->n && x->class_i != k)
            continue;
        p->n_all++;
        p->n[x->outcome]++;
        p->n_met_all += x->is_met;
        for (int m = 0; m < LOAD_N_METRICS; m++)
            p->n_met[m] += is_met(x, &c->items[x->class_i], m);
    }
    for (int m = 0; m < LOAD_N_METRICS; m++) {
        size_t n = 0;
        for (size_t i = 0; m != LOAD_GAP && i < r->n; i++) {
            const load_record *x = &r->records[i];
            if ((k == c->n || x->class_i == k) && x->outcome == LOAD_DONE)
                v[n++] = x->ms[m];
        }
        if (m != LOAD_GAP)
            p->series[m] = series_of(v, n);
    }
}

static qn_status count_gaps(load_report *out, load_results *r, const load_classes *c, qn_err *err)
{
    size_t n = 0, at = 0;
    for (size_t k = 0; k < c->n; k++)
        n += r->gaps[k].n;
    double *v = qn_alloc_array(QN_MAX(n, (size_t)1), sizeof *v, QN_MEM_MISC);
    if (!v)
        return qn_fail_nomem(err, n * sizeof *v);
    for (size_t k = 0; k < c->n; k++) {
        if (r->gaps[k].n)
            memcpy(v + at, r->gaps[k].v, r->gaps[k].n * sizeof *v);
        at += r->gaps[k].n;
        out->classes[k].series[LOAD_GAP] = series_of(r->gaps[k].v, r->gaps[k].n);
    }
    out->all.series[LOAD_GAP] = series_of(v, n);
    qn_free(v);
    return QN_OK;
}

qn_status load_report_make(load_report *out, load_results *r, const load_classes *c, qn_err *err)
{
    *out = (load_report){.n_classes = c->n, .is_mix = c->is_mix, .seconds = r->seconds};
    double *v = qn_alloc_array(QN_MAX(r->n, (size_t)1), sizeof *v, QN_MEM_MISC);
    if (!v)
        return qn_fail_nomem(err, r->n * sizeof *v);
    for (size_t k = 0; k < c->n; k++) {
        memcpy(out->classes[k].name, c->items[k].name, sizeof(out->classes[k].name));
        memcpy(out->classes[k].target_ms, c->items[k].target_ms, sizeof(c->items[k].target_ms));
        count_class(&out->classes[k], r, c, k, v);
    }
    memcpy(out->all.name, "all", 4);
    count_class(&out->all, r, c, c->n, v);
    for (size_t i = 0; i < r->n; i++) {
        const load_record *x = &r->records[i];
        v[i] = x->lag_ms;
        out->n_in += x->outcome == LOAD_DONE ? x->n_in : 0;
        out->n_out += x->outcome == LOAD_DONE ? x->n_out : 0;
    }
    out->lag = series_of(v, r->n);
    qn_free(v);
    return count_gaps(out, r, c, err);
}

static double percent(uint64_t a, uint64_t b)
{
    return b ? 100 * (double)a / (double)b : 100;
}

static bool has_target(const load_class_report *p)
{
    bool has = false;
    for (int m = 0; m < LOAD_N_METRICS; m++)
        has |= p->target_ms[m] > 0;
    return has;
}

double load_report_attained(const load_report *p)
{
    double least = 100;
    for (size_t k = 0; k < p->n_classes; k++)
        if (has_target(&p->classes[k]))
            least = QN_MIN(least, percent(p->classes[k].n_met_all, p->classes[k].n_all));
    return least;
}

static double per_second(uint64_t n, double seconds)
{
    return seconds > 0 ? (double)n / seconds : 0;
}

/* ---- text ---- */

static const char *const metric_names[LOAD_N_METRICS] = {"first token", "between tokens",
                                                         "whole answer"};

static void add_ms(qn_str *out, double v)
{
    qn_str_addf(out, " %9.*f", v < 100 ? 2 : v < 10000 ? 1 : 0, v);
}

static void add_row(qn_str *out, const load_class_report *p, int m, const char *label)
{
    const load_series *s = &p->series[m];
    char target[32] = "", attained[32] = "";
    qn_str_addf(out, "%-16s %-12.12s %8zu", label, p->name, s->n);
    const double v[] = {s->p50, s->p95, s->p99, s->max};
    for (size_t i = 0; i < QN_COUNT(v); i++)
        if (s->n)
            add_ms(out, v[i]);
        else
            qn_str_addf(out, " %9s", "-");
    if (p->target_ms[m] > 0) {
        (void)snprintf(target, sizeof(target), "%g", p->target_ms[m]);
        (void)snprintf(attained, sizeof(attained), "%.1f %%", percent(p->n_met[m], p->n_all));
        qn_str_addf(out, " %9s %9s", target, attained);
    }
    qn_str_addc(out, '\n');
}

static void add_outcomes(qn_str *out, const load_class_report *p)
{
    qn_str_addf(out, "%s: %llu requests, %llu done, %llu refused, %llu failed\n", p->name,
                (unsigned long long)p->n_all, (unsigned long long)p->n[LOAD_DONE],
                (unsigned long long)p->n[LOAD_REFUSED], (unsigned long long)p->n[LOAD_FAILED]);
}

static const char *const trouble_names[] = {"", "no connection", "cut", "bad answer", "timed out"};

static void add_errors(qn_str *out, const load_results *r)
{
    for (size_t i = 0; i < r->n_errors; i++) {
        const load_error *e = &r->errors[i];
        qn_str_addf(out, "  %llu %s: ", (unsigned long long)e->n,
                    e->outcome == LOAD_REFUSED ? "refused" : "failed");
        if (e->trouble)
            qn_str_adds(out, trouble_names[e->trouble]);
        else
            qn_str_addf(out, "HTTP %d", e->status);
        qn_str_addf(out, "%s%s\n", *e->message ? ", " : "", e->message);
    }
    if (r->is_interrupted)
        qn_str_addf(out, "interrupted: %llu requests had not ended and are not counted\n",
                    (unsigned long long)r->n_unended);
}

void load_report_failures(qn_str *out, const load_results *r)
{
    for (size_t i = 0; i < r->n_errors; i++) {
        const load_error *e = &r->errors[i];
        if (e->outcome != LOAD_FAILED)
            continue;
        qn_str_addf(out, "%s%llu ", out->n ? ", " : "", (unsigned long long)e->n);
        if (e->trouble)
            qn_str_adds(out, trouble_names[e->trouble]);
        else
            qn_str_addf(out, "HTTP %d", e->status);
        if (*e->message)
            qn_str_addf(out, " (%s)", e->message);
    }
}

void load_report_text(qn_str *out, const load_report *p, const load_results *r)
{
    qn_str_addf(out, "%-16s %-12s %8s %9s %9s %9s %9s %9s %9s\n", "ms", "class", "n", "p50", "p95",
                "p99", "max", "target", "attained");
    for (int m = 0; m < LOAD_N_METRICS; m++) {
        const char *label = metric_names[m];
        for (size_t k = 0; k < p->n_classes; k++) {
            add_row(out, &p->classes[k], m, label);
            label = "";
        }
        if (p->is_mix)
            add_row(out, &p->all, m, label);
    }
    qn_str_addc(out, '\n');
    for (size_t k = 0; p->is_mix && k < p->n_classes; k++)
        add_outcomes(out, &p->classes[k]);
    add_outcomes(out, &p->all);
    add_errors(out, r);
    qn_str_addf(out,
                "%.1f s: %.3g requests/s, %llu tokens in (%.1f tok/s), %llu out (%.1f tok/s)\n",
                p->seconds, per_second(p->all.n[LOAD_DONE], p->seconds),
                (unsigned long long)p->n_in, per_second(p->n_in, p->seconds),
                (unsigned long long)p->n_out, per_second(p->n_out, p->seconds));
    qn_str_addf(out, "sent after the intended start: p50 %.2f ms, p99 %.2f ms, max %.2f ms\n",
                p->lag.p50, p->lag.p99, p->lag.max);
}

/* ---- JSON ---- */

static void add_number(qn_str *out, const char *name, double v)
{
    char text[40];
    (void)qn_format_f64(text, isfinite(v) ? round(v * 1e4) / 1e4 : 0);
    qn_str_addf(out, "\"%s\": %s", name, text);
}

static void add_series(qn_str *out, const char *name, const load_series *s)
{
    qn_str_addf(out, "\"%s\": {\"n\": %zu", name, s->n);
    const struct {
        const char *name;
        double v;
    } fields[] = {{"mean", s->mean}, {"p50", s->p50},   {"p90", s->p90}, {"p95", s->p95},
                  {"p99", s->p99},   {"p999", s->p999}, {"max", s->max}};
    for (size_t i = 0; s->n && i < QN_COUNT(fields); i++) {
        qn_str_adds(out, ", ");
        add_number(out, fields[i].name, fields[i].v);
    }
    qn_str_addc(out, '}');
}

static void add_class_json(qn_str *out, const load_class_report *p)
{
    static const char *const names[LOAD_N_METRICS] = {"first_token", "between_tokens",
                                                      "whole_answer"};
    qn_str_addf(
        out,
        "{\"class\": \"%s\", \"requests\": %llu, \"done\": %llu, \"refused\": %llu, \"failed\": "
        "%llu",
        p->name, (unsigned long long)p->n_all, (unsigned long long)p->n[LOAD_DONE],
        (unsigned long long)p->n[LOAD_REFUSED], (unsigned long long)p->n[LOAD_FAILED]);
    for (int m = 0; m < LOAD_N_METRICS; m++) {
        char name[40];
        (void)snprintf(name, sizeof(name), "%s_ms", names[m]);
        qn_str_adds(out, ", ");
        add_series(out, name, &p->series[m]);
    }
    qn_str_adds(out, ", \"targets\": {");
    const char *comma = "";
    for (int m = 0; m < LOAD_N_METRICS; m++) {
        if (p->target_ms[m] <= 0)
            continue;
        qn_str_addf(out, "%s\"%s\": {", comma, names[m]);
        add_number(out, "ms", p->target_ms[m]);
        qn_str_adds(out, ", ");
        add_number(out, "attained", percent(p->n_met[m], p->n_all));
        qn_str_addc(out, '}');
        comma = ", ";
    }
    qn_str_addc(out, '}');
    if (has_target(p)) {
        qn_str_adds(out, ", ");
        add_number(out, "attained", percent(p->n_met_all, p->n_all));
    }
    qn_str_addc(out, '}');
}

static void add_title_json(qn_str *out, const load_title *t)
{
    const load_work *w = t->work;
    qn_str_adds(out, "\"url\": ");
    qn_str_add_json(out, t->url, strlen(t->url));
    qn_str_adds(out, ", \"path\": ");
    qn_str_add_json(out, t->path, strlen(t->path));
    qn_str_adds(out, ", \"model\": ");
    qn_str_add_json(out, t->model, strlen(t->model));
    qn_str_addf(out, ", \"seed\": %llu, \"in\": [%u, %u], \"out\": [%u, %u], ",
                (unsigned long long)w->seed, w->in.min, w->in.max, w->out.min, w->out.max);
    qn_str_addf(out, "\"shared_prefix\": %u, ", w->n_prefix);
    if (w->rate > 0)
        add_number(out, "rate", w->rate);
    else
        qn_str_addf(out, "\"concurrency\": %d", t->concurrency);
}

void load_report_json(qn_str *out, const load_report *p, const load_results *r, const load_title *t)
{
    qn_str_addc(out, '{');
    add_title_json(out, t);
    qn_str_adds(out, ", ");
    add_number(out, "seconds", p->seconds);
    qn_str_addf(out,
                ", \"requests\": %llu, \"done\": %llu, \"refused\": %llu, \"failed\": %llu, "
                "\"input_tokens\": %llu, \"output_tokens\": %llu, ",
                (unsigned long long)p->all.n_all, (unsigned long long)p->all.n[LOAD_DONE],
                (unsigned long long)p->all.n[LOAD_REFUSED],
                (unsigned long long)p->all.n[LOAD_FAILED], (unsigned long long)p->n_in,
                (unsigned long long)p->n_out);
    add_number(out, "requests_s", per_second(p->all.n[LOAD_DONE], p->seconds));
    qn_str_adds(out, ", ");
    add_number(out, "input_tok_s", per_second(p->n_in, p->seconds));
    qn_str_adds(out, ", ");
    add_number(out, "output_tok_s", per_second(p->n_out, p->seconds));
    qn_str_adds(out, ", ");
    add_series(out, "send_lag_ms", &p->lag);
    qn_str_adds(out, ", \"all\": ");
    add_class_json(out, &p->all);
    qn_str_adds(out, ", \"classes\": [");
    for (size_t k = 0; k < p->n_classes; k++) {
        qn_str_adds(out, k ? ", " : "");
        add_class_json(out, &p->classes[k]);
    }
    qn_str_adds(out, "], \"errors\": [");
    for (size_t i = 0; i < r->n_errors; i++) {
        const load_error *e = &r->errors[i];
        qn_str_addf(out,
                    "%s{\"status\": %d, \"kind\": \"%s\", \"refused\": %s, \"n\": %llu, "
                    "\"message\": ",
                    i ? ", " : "", e->status, e->trouble ? trouble_names[e->trouble] : "http",
                    e->outcome == LOAD_REFUSED ? "true" : "false", (unsigned long long)e->n);
        qn_str_add_json(out, e->message, strlen(e->message));
        qn_str_addc(out, '}');
    }
    qn_str_addf(out, "], \"interrupted\": %s, \"unended\": %llu}",
                r->is_interrupted ? "true" : "false", (unsigned long long)r->n_unended);
}

/* ---- CSV ---- */

void load_csv_head(qn_str *out)
{
    qn_str_adds(out, "step,request,class,outcome,status,trouble,intended_s,send_lag_ms,"
                     "first_token_ms,longest_gap_ms,whole_answer_ms,input_tokens,output_tokens,"
                     "met\n");
}

void load_csv_rows(qn_str *out, const load_results *r, const load_classes *c, int step)
{
    static const char *const outcomes[] = {"done", "refused", "failed"};
    for (size_t i = 0; i < r->n; i++) {
        const load_record *x = &r->records[i];
        qn_str_addf(out, "%d,%llu,%s,%s,%u,%s,%.6f,%.3f,", step, (unsigned long long)x->i,
                    c->items[x->class_i].name, outcomes[x->outcome], x->status,
                    trouble_names[x->trouble], x->intended_s, x->lag_ms);
        if (x->outcome == LOAD_DONE)
            qn_str_addf(out, "%.3f,%.3f,%.3f,", x->ms[LOAD_FIRST], x->ms[LOAD_GAP],
                        x->ms[LOAD_ALL]);
        else
            qn_str_addf(out, ",,%.3f,", x->ms[LOAD_ALL]);
        qn_str_addf(out, "%u,%u,%d\n", x->n_in, x->n_out, x->is_met);
    }
}
