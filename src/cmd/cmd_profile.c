/* SPDX-License-Identifier: Apache-2.0
 * cmd_profile.c - `quern profile`: which operation takes the time of a prompt and of an answer, which holds the memory, and how
 * near each comes to what the machine can do.
 *
 * An operation's time is its own (nothing is counted twice); what lies between operations and sampling are rows too, so that each
 * phase adds up to 100 %. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "cmd/cmd.h"
#include <quern/measure.h>

typedef struct profile_options {
    qn_config config;
    int n_in, n_out, depth, batch, fuse;
    bool layers, json;
    const char *trace;
} profile_options;

enum { FUSE_ON, FUSE_OFF, FUSE_BOTH };

static const qn_opt profile_opts[] = {
    {"in", 0, QN_OPT_INT, offsetof(profile_options, n_in), "N", 0, 1 << 20, "512",
     "tokens of the prompt"},
    {"out", 0, QN_OPT_INT, offsetof(profile_options, n_out), "N", 0, 1 << 20, "64",
     "tokens decoded behind it"},
    {"depth", 'd', QN_OPT_INT, offsetof(profile_options, depth), "N", 0, 1 << 20, "0",
     "tokens in the cache before it, not timed"},
    {"batch", 'b', QN_OPT_INT, offsetof(profile_options, batch), "N", 1, 1024, "1", "sequences"},
    {"fuse", 0, QN_OPT_ENUM, offsetof(profile_options, fuse), "on|off|off,on", .def = "on",
     .help = "off: one operation for each formula; off,on: both, and how they differ"},
    {"layers", 0, QN_OPT_FLAG, offsetof(profile_options, layers),
     .help = "a row for each operation of each layer"},
    {"trace", 0, QN_OPT_STR, offsetof(profile_options, trace), "FILE",
     .help = "write every operation as a Chrome trace (Perfetto, chrome://tracing)"},
    {"json", 0, QN_OPT_FLAG, offsetof(profile_options, json), .help = "one JSON object"},
};
static const qn_opt_group profile_group = {"Options", profile_opts, QN_COUNT(profile_opts)};

const qn_opts cmd_profile_opts = {
    .command = "profile",
    .args = "",
    .summary = "Show which operation takes the time and the memory",
    .about = "Runs random tokens with greedy sampling. Headroom is the time taken over the least "
             "this machine would need by bytes or by operations, as measured at the start.",
    .groups = {{&profile_group, 0}, {&cmd_config_group, offsetof(profile_options, config)}},
};

/* ---- collecting ---- */

/* Operations of one name, format and shape; with --layers of one layer. */
typedef struct group {
    qn_op_info op;
    int layer; /* -2: of several */
    uint64_t weight_bytes, kv_bytes;
} group;

typedef struct spent {
    uint64_t ns;
    size_t calls;
    qn_cost cost;
    double least_s;
} spent;

typedef struct phase {
    spent *rows; /* [n_groups + 2]: then sampling, then between operations */
    uint64_t ns;
    size_t n_tokens, n_steps, n_ops;
    double weight_bytes, kv_bytes;
} phase;

typedef struct profile {
    const profile_options *o;
    qn_engine *e;
    qn_engine_info info;
    qn_roofs roofs;
    double clock_ns;
    int *group_of; /* [n_ops] */
    int n_ops;
    group *groups; /* [n_groups], at most n_ops */
    size_t n_groups;
    phase phases[2];                    /* prompt, decode */
    qn_str trace;                       /* JSON events */
    float *logits;                      /* of COMPARED tokens */
    uint64_t misc_bytes, process_bytes; /* when all has run */
} profile;

#define COMPARED 32

static const char *const phase_names[] = {"prompt", "decode"};

static bool same_group(const profile *p, const group *g, const qn_op_info *op)
{
    return strcmp(g->op.name, op->name) == 0 && strcmp(g->op.format, op->format) == 0 &&
           g->op.n_in == op->n_in && g->op.n_out == op->n_out &&
           (!p->o->layers || g->layer == op->layer);
}

static qn_status find_groups(profile *p, qn_err *err)
{
    p->n_ops = qn_engine_n_ops(p->e);
    size_t n = (size_t)p->n_ops;
    p->group_of = qn_calloc(n, sizeof *p->group_of, QN_MEM_MISC);
    p->groups = qn_calloc(n, sizeof *p->groups, QN_MEM_MISC);
    for (int i = 0; i < 2; i++)
        p->phases[i].rows = qn_calloc(n + 2, sizeof *p->phases[i].rows, QN_MEM_MISC);
    if (!p->group_of || !p->groups || !p->phases[0].rows || !p->phases[1].rows)
        return qn_fail_nomem(err, n * sizeof *p->groups);
    for (int i = 0; i < p->n_ops; i++) {
        qn_op_info op;
        size_t g = 0;
        qn_engine_get_op(p->e, i, &op);
        while (g < p->n_groups && !same_group(p, &p->groups[g], &op))
            g++;
        group *to = &p->groups[g];
        if (g == p->n_groups) {
            *to = (group){.op = op, .layer = op.layer};
            p->n_groups++;
        } else if (to->layer != op.layer)
            to->layer = -2;
        to->weight_bytes += op.weight_bytes;
        to->kv_bytes += op.kv_bytes;
        p->group_of[i] = (int)g;
    }
    return QN_OK;
}

/* Bytes that the operation cannot do without: weights and K/V; of those that have neither, their operands. */
static double needed_bytes(const qn_cost *c)
{
    double b = c->weight_bytes + c->kv_bytes;
    return b > 0 ? b : c->activation_bytes;
}

static double least_s(const qn_roofs *r, const qn_cost *c)
{
    double read = 0, compute = 0;
    if (r->read_bytes_s > 0)
        read = needed_bytes(c) / r->read_bytes_s;
    if (r->int8_ops_s > 0 && r->f32_flops_s > 0)
        compute = c->int8_ops / r->int8_ops_s + c->f32_flops / r->f32_flops_s;
    return QN_MAX(read, compute);
}

static void add_spent(profile *p, spent *to, uint64_t ns, const qn_cost *c)
{
    to->ns += ns;
    to->calls++;
    to->cost.int8_ops += c->int8_ops;
    to->cost.f32_flops += c->f32_flops;
    to->cost.weight_bytes += c->weight_bytes;
    to->cost.kv_bytes += c->kv_bytes;
    to->cost.activation_bytes += c->activation_bytes;
    to->least_s += least_s(&p->roofs, c);
}

static void trace_event(profile *p, const qn_profile_step *s, const qn_profile_event *ev)
{
    qn_op_info op = {.name = "sampling", .format = "", .layer = -1};
    if (ev->op >= 0)
        op = p->groups[p->group_of[ev->op]].op;
    qn_str_addf(
        &p->trace,
        ",\n{\"name\": \"%s\", \"cat\": \"%s\", \"ph\": \"X\", \"ts\": %.3f, \"dur\": %.3f, "
        "\"pid\": 1, \"tid\": 1, \"args\": {\"op\": %d, \"rows\": %d, \"weights\": \"%s\", "
        "\"bytes\": %.0f, \"operations\": %.0f}}",
        op.name, phase_names[s->is_decode], (double)(s->start_ns + ev->start_ns) * 1e-3,
        (double)ev->ns * 1e-3, ev->op, ev->n_rows, op.format, needed_bytes(&ev->cost),
        ev->cost.int8_ops + ev->cost.f32_flops);
}

static void on_step(void *arg, const qn_profile_step *s)
{
    profile *p = arg;
    phase *ph = &p->phases[s->is_decode];
    uint64_t inside = 0;
    for (size_t i = 0; i < s->n_events; i++) {
        const qn_profile_event *ev = &s->events[i];
        size_t row = ev->op >= 0 ? (size_t)p->group_of[ev->op] : p->n_groups;
        add_spent(p, &ph->rows[row], ev->ns, &ev->cost);
        ph->weight_bytes += ev->cost.weight_bytes;
        ph->kv_bytes += ev->cost.kv_bytes;
        ph->n_ops += ev->op >= 0;
        inside += ev->ns;
    }
    add_spent(p, &ph->rows[p->n_groups + 1], s->ns - inside, &(qn_cost){0});
    ph->ns += s->ns;
    ph->n_tokens += (size_t)s->n_tokens;
    ph->n_steps++;
    if (!p->o->trace)
        return;
    qn_str_addf(&p->trace,
                "%s{\"name\": \"step\", \"cat\": \"%s\", \"ph\": \"X\", \"ts\": %.3f, \"dur\": "
                "%.3f, \"pid\": 1, \"tid\": 1, \"args\": {\"tokens\": %d}}",
                p->trace.n ? ",\n" : "", phase_names[s->is_decode], (double)s->start_ns * 1e-3,
                (double)s->ns * 1e-3, s->n_tokens);
    for (size_t i = 0; i < s->n_events; i++)
        trace_event(p, s, &s->events[i]);
}

static qn_status write_trace(const profile *p, qn_err *err)
{
    qn_str s = {0};
    qn_str_adds(&s, "{\"displayTimeUnit\": \"ms\", \"otherData\": {\"model\": ");
    qn_str_add_json(&s, p->info.name, strlen(p->info.name));
    qn_str_adds(&s, "},\n\"traceEvents\": [\n{\"name\": \"process_name\", \"ph\": \"M\", \"pid\": "
                    "1, \"args\": {\"name\": \"quern\"}},\n");
    qn_str_add(&s, p->trace.p ? p->trace.p : "", p->trace.n);
    qn_str_adds(&s, "\n]}\n");
    qn_status st = s.failed || p->trace.failed ? qn_fail_nomem(err, s.n + p->trace.n)
                                               : qn_file_write(p->o->trace, s.p, s.n, err);
    qn_str_fini(&s);
    return st;
}

/* ---- running ---- */

/* The second number of /proc/self/statm, in pages; 0 where there is none. */
static uint64_t resident_bytes(void)
{
    char text[96];
    uint64_t pages = 0;
    size_t n = qn_file_peek("/proc/self/statm", text, sizeof text);
    const char *p = n ? strchr(text, ' ') : NULL;
    if (!p || !qn_parse_u64(p + 1, strcspn(p + 1, " "), UINT32_MAX, &pages))
        return 0;
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static double clock_cost_ns(void)
{
    enum { N = 2000 };
    uint64_t t0 = qn_now_ns(), t1 = t0;
    for (int i = 0; i < N; i++)
        t1 = qn_now_ns();
    return (double)(t1 - t0) / N;
}

static bool keep_logits(void *arg, size_t pos, const float *logits, size_t n_vocab)
{
    memcpy((float *)arg + pos * n_vocab, logits, n_vocab * sizeof *logits);
    return true;
}

/* The logits of a few tokens, to hold two plans against each other. */
static qn_status compute_logits(profile *p, qn_err *err)
{
    int32_t ids[COMPARED];
    size_t n_vocab = (size_t)p->info.n_vocab;
    for (size_t i = 0; i < COMPARED; i++)
        ids[i] = (int32_t)((i * 7919 + 13) % n_vocab);
    p->logits = qn_calloc(COMPARED * n_vocab, sizeof *p->logits, QN_MEM_MISC);
    if (!p->logits)
        return qn_fail_nomem(err, COMPARED * n_vocab * sizeof *p->logits);
    return qn_score(p->e, ids, COMPARED, 0, keep_logits, NULL, p->logits, err);
}

static qn_status run_profile(profile *p, qn_err *err)
{
    const profile_options *o = p->o;
    qn_bench_result warm;
    qn_bench_spec spec = {
        .n_prefill = o->n_in, .n_decode = o->n_out, .depth = o->depth, .batch = o->batch};
    qn_bench_spec first = {.n_prefill = QN_MAX(QN_MIN(o->n_in, 64), 1),
                           .n_decode = QN_MAX(QN_MIN(o->n_out, 4), 1),
                           .batch = 1,
                           .repeat = 1};
    QN_TRY(find_groups(p, err));
    qn_engine_get_info(p->e, &p->info);
    qn_engine_get_roofs(p->e, &p->roofs);
    p->clock_ns = clock_cost_ns();
    QN_TRY(qn_bench(p->e, &first, &warm, err));
    QN_TRY(qn_profile(p->e, &spec, on_step, p, err));
    p->process_bytes = resident_bytes();
    p->misc_bytes = qn_mem_live(QN_MEM_MISC);
    if (o->fuse == FUSE_BOTH)
        QN_TRY(compute_logits(p, err));
    return o->trace ? write_trace(p, err) : QN_OK;
}

static void profile_fini(profile *p)
{
    qn_engine_free(p->e);
    qn_free(p->group_of);
    qn_free(p->groups);
    for (int i = 0; i < 2; i++)
        qn_free(p->phases[i].rows);
    qn_free(p->logits);
    qn_str_fini(&p->trace);
}

/* ---- the rows, by time ---- */

typedef struct order {
    uint64_t ns;
    size_t row;
} order;

static int by_time(const void *a, const void *b)
{
    const order *x = a, *y = b;
    return x->ns != y->ns ? (x->ns < y->ns) - (x->ns > y->ns)
                          : (x->row > y->row) - (x->row < y->row);
}

/* Rows that were run, the longest first; with --layers as they run. The two last rows stay last. */
static order *sorted(const profile *p, const phase *ph, size_t *n)
{
    order *list = qn_calloc(p->n_groups + 2, sizeof *list, QN_MEM_MISC);
    *n = 0;
    for (size_t i = 0; list && i < p->n_groups; i++)
        if (ph->rows[i].calls)
            list[(*n)++] = (order){ph->rows[i].ns, i};
    if (list && !p->o->layers)
        qsort(list, *n, sizeof *list, by_time);
    for (size_t i = p->n_groups; list && i < p->n_groups + 2; i++)
        if (ph->rows[i].calls)
            list[(*n)++] = (order){ph->rows[i].ns, i};
    return list;
}

static void row_name(const profile *p, size_t row, char *name, size_t n_name, char *weights,
                     size_t n_weights)
{
    static const char *const last[] = {"sampling", "between operations"};
    weights[0] = 0;
    if (row >= p->n_groups) {
        (void)snprintf(name, n_name, "%s", last[row - p->n_groups]);
        return;
    }
    const qn_op_info *op = &p->groups[row].op;
    if (p->o->layers && p->groups[row].layer >= 0)
        (void)snprintf(name, n_name, "%d %s", p->groups[row].layer, op->name);
    else
        (void)snprintf(name, n_name, "%s", op->name);
    if (op->n_in)
        (void)snprintf(weights, n_weights, "%s %dx%d", op->format, op->n_out, op->n_in);
}

static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

/* ---- text ---- */

static void add_cell(qn_str *s, int width, int digits, double v)
{
    if (v > 0)
        qn_str_addf(s, " %*.*f", width, digits, v);
    else
        qn_str_addf(s, " %*s", width, "-");
}

static void print_line(const char *name, const char *weights, const spent *r, double total_ns)
{
    qn_str s = {0};
    double seconds = (double)r->ns * 1e-9, bytes = needed_bytes(&r->cost),
           share = 100 * ratio((double)r->ns, total_ns);
    qn_str_addf(&s, "%-26s %-16s %7zu %10.3f %6.2f", name, weights, r->calls, seconds * 1e3, share);
    add_cell(&s, 10, 2, bytes * 1e-6);
    add_cell(&s, 7, 2, ratio(bytes * 1e-9, seconds));
    add_cell(&s, 8, 1, ratio((r->cost.int8_ops + r->cost.f32_flops) * 1e-9, seconds));
    add_cell(&s, 9, 2, ratio(seconds, r->least_s));
    if (isatty(STDOUT_FILENO))
        qn_str_addf(&s, "  %.*s", (int)(share / 5 + 0.5), "####################");
    (void)puts(s.p ? s.p : name);
    qn_str_fini(&s);
}

static void print_phase(const profile *p, int which)
{
    const phase *ph = &p->phases[which];
    char name[64], weights[48];
    size_t n;
    spent total = {0};
    if (!ph->n_steps)
        return;
    double ms = (double)ph->ns * 1e-6;
    printf("\n%s: %zu tokens in %zu steps, %.2f ms, %.2f tok/s; %.1f operations a step\n",
           phase_names[which], ph->n_tokens, ph->n_steps, ms, 1e3 * ratio((double)ph->n_tokens, ms),
           ratio((double)ph->n_ops, (double)ph->n_steps));
    printf("%-26s %-16s %7s %10s %6s %10s %7s %8s %9s\n", "operation", "weights", "calls", "ms",
           "%", "MB", "GB/s", "GFLOP/s", "headroom");
    order *list = sorted(p, ph, &n);
    for (size_t i = 0; list && i < n; i++) {
        const spent *r = &ph->rows[list[i].row];
        row_name(p, list[i].row, name, sizeof name, weights, sizeof weights);
        print_line(name, weights, r, (double)ph->ns);
        size_t calls = total.calls;
        total.ns += r->ns;
        total.calls = calls + (list[i].row < p->n_groups ? r->calls : 0);
        total.cost.weight_bytes += needed_bytes(&r->cost);
        total.cost.int8_ops += r->cost.int8_ops + r->cost.f32_flops;
        total.least_s += r->least_s;
    }
    print_line("total", "", &total, (double)ph->ns);
    qn_free(list);
}

typedef struct held {
    const char *name;
    uint64_t bytes;
} held;

/* Memory that no operation has for itself. */
static size_t shared_memory(const profile *p, held out[4])
{
    out[0] = (held){"activations, batch, logits", p->info.activation_bytes};
    out[1] = (held){"vocabulary", p->info.vocab_bytes};
    out[2] = (held){"plan and tables", p->misc_bytes};
    return 3;
}

static uint64_t total_memory(const profile *p)
{
    held shared[4];
    uint64_t total = 0;
    for (size_t i = 0; i < p->n_groups; i++)
        total += p->groups[i].weight_bytes + p->groups[i].kv_bytes;
    for (size_t i = 0, n = shared_memory(p, shared); i < n; i++)
        total += shared[i].bytes;
    return total;
}

static void print_memory(const profile *p)
{
    held shared[4];
    double total = (double)total_memory(p);
    char name[64], weights[48];
    printf("\nmemory: %.1f MB; %.1f MB of the process are resident\n", total * 1e-6,
           (double)p->process_bytes * 1e-6);
    printf("%-26s %-16s %10s %10s %6s\n", "holder", "weights", "MB", "MB of K/V", "%");
    for (size_t i = 0; i < p->n_groups; i++) {
        const group *g = &p->groups[i];
        qn_str s = {0};
        if (!g->weight_bytes && !g->kv_bytes)
            continue;
        row_name(p, i, name, sizeof name, weights, sizeof weights);
        qn_str_addf(&s, "%-26s %-16s", name, weights);
        add_cell(&s, 10, 2, (double)g->weight_bytes * 1e-6);
        add_cell(&s, 10, 2, (double)g->kv_bytes * 1e-6);
        qn_str_addf(&s, " %6.2f", 100 * (double)(g->weight_bytes + g->kv_bytes) / total);
        (void)puts(s.p ? s.p : name);
        qn_str_fini(&s);
    }
    for (size_t i = 0, n = shared_memory(p, shared); i < n; i++)
        printf("%-26s %-16s %10.2f %10s %6.2f\n", shared[i].name, "",
               (double)shared[i].bytes * 1e-6, "-", 100 * (double)shared[i].bytes / total);
}

static void print_text(const profile *p)
{
    char name[96];
    const phase *d = &p->phases[p->phases[1].n_steps != 0];
    qn_escape(name, sizeof name, p->info.name, strlen(p->info.name));
    printf("%s, %s; %s; plan %s\n", name, p->info.quantization, p->info.device,
           p->o->config.plain_plan || p->o->config.exact ? "plain" : "fused");
    printf("roofs: %.1f GB/s read, %.0f GOPS int8, %.0f GFLOPS float32\n",
           p->roofs.read_bytes_s * 1e-9, p->roofs.int8_ops_s * 1e-9, p->roofs.f32_flops_s * 1e-9);
    printf("profiling reads the clock twice an operation, %.0f ns each: %.3f %% of the time\n",
           p->clock_ns, 100 * ratio(2 * p->clock_ns * (double)d->n_ops, (double)d->ns));
    for (int i = 0; i < 2; i++)
        print_phase(p, i);
    print_memory(p);
}

/* ---- JSON ---- */

static void json_phase(qn_str *s, const profile *p, const phase *ph)
{
    char name[64], weights[48];
    size_t n;
    order *list = sorted(p, ph, &n);
    qn_str_addf(s, "{\"tokens\": %zu, \"steps\": %zu, \"ms\": %.4f, \"operations\": [",
                ph->n_tokens, ph->n_steps, (double)ph->ns * 1e-6);
    for (size_t i = 0; list && i < n; i++) {
        const spent *r = &ph->rows[list[i].row];
        size_t row = list[i].row;
        double seconds = (double)r->ns * 1e-9;
        row_name(p, row, name, sizeof name, weights, sizeof weights);
        qn_str_addf(s, "%s{\"operation\": \"%s\", ", i ? ", " : "",
                    row < p->n_groups ? p->groups[row].op.name : name);
        if (p->o->layers && row < p->n_groups)
            qn_str_addf(s, "\"layer\": %d, ", p->groups[row].layer);
        qn_str_addf(s,
                    "\"weights\": \"%s\", \"calls\": %zu, \"ms\": %.6f, \"percent\": %.4f, "
                    "\"bytes\": %.0f, \"activation_bytes\": %.0f, \"operations\": %.0f, \"gb_s\": "
                    "%.4f, \"gflops\": %.4f, \"headroom\": %.4f}",
                    weights, r->calls, seconds * 1e3, 100 * ratio((double)r->ns, (double)ph->ns),
                    needed_bytes(&r->cost), r->cost.activation_bytes,
                    r->cost.int8_ops + r->cost.f32_flops,
                    ratio(needed_bytes(&r->cost) * 1e-9, seconds),
                    ratio((r->cost.int8_ops + r->cost.f32_flops) * 1e-9, seconds),
                    ratio(seconds, r->least_s));
    }
    qn_str_adds(s, "]}");
    qn_free(list);
}

static void json_memory(qn_str *s, const profile *p)
{
    held shared[4];
    char name[64], weights[48];
    qn_str_addf(s, "{\"total_bytes\": %llu, \"process_bytes\": %llu, \"holders\": [",
                (unsigned long long)total_memory(p), (unsigned long long)p->process_bytes);
    bool any = false;
    for (size_t i = 0; i < p->n_groups; i++) {
        const group *g = &p->groups[i];
        if (!g->weight_bytes && !g->kv_bytes)
            continue;
        unsigned long long bytes = g->weight_bytes + g->kv_bytes;
        row_name(p, i, name, sizeof name, weights, sizeof weights);
        qn_str_addf(s, "%s{\"holder\": \"%s\", \"weights\": \"%s\", \"bytes\": %llu}",
                    any ? ", " : "", name, weights, bytes);
        any = true;
    }
    for (size_t i = 0, n = shared_memory(p, shared); i < n; i++)
        qn_str_addf(s, "%s{\"holder\": \"%s\", \"weights\": \"\", \"bytes\": %llu}",
                    any || i ? ", " : "", shared[i].name, (unsigned long long)shared[i].bytes);
    qn_str_adds(s, "]}");
}

static void json_profile(qn_str *s, const profile *p)
{
    qn_str_adds(s, "{\"model\": ");
    qn_str_add_json(s, p->info.name, strlen(p->info.name));
    qn_str_addf(s,
                ", \"fused\": %s, \"threads\": %d, \"clock_ns\": %.1f, \"roofs\": "
                "{\"read_bytes_s\": %.0f, \"int8_ops_s\": %.0f, \"f32_flops_s\": %.0f}",
                p->o->config.plain_plan || p->o->config.exact ? "false" : "true", p->info.n_threads,
                p->clock_ns, p->roofs.read_bytes_s, p->roofs.int8_ops_s, p->roofs.f32_flops_s);
    for (int i = 0; i < 2; i++)
        if (p->phases[i].n_steps) {
            qn_str_addf(s, ", \"%s\": ", phase_names[i]);
            json_phase(s, p, &p->phases[i]);
        }
    qn_str_adds(s, ", \"memory\": ");
    json_memory(s, p);
    qn_str_addc(s, '}');
}

/* ---- both plans ---- */

/* What is left of the first profile when its engine has gone. */
typedef struct kept {
    phase phases[2];
    float *logits;
    size_t n_logits;
    int n_ops;
} kept;

static double largest_difference(const kept *a, const profile *b)
{
    double most = 0;
    for (size_t i = 0; i < a->n_logits; i++) {
        double d = (double)a->logits[i] - (double)b->logits[i];
        most = QN_MAX(most, d < 0 ? -d : d);
    }
    return most;
}

static void compare(qn_str *s, const kept *a, const profile *b)
{
    bool json = b->o->json;
    if (json)
        qn_str_addf(s, ", \"compare\": {\"operations\": [%d, %d]", a->n_ops, b->n_ops);
    else
        qn_str_addf(s, "\n%-26s %14s %14s %9s\n%-26s %14d %14d\n", "plan", "plain", "fused",
                    "ratio", "operations", a->n_ops, b->n_ops);
    for (int i = 0; i < 2; i++) {
        const phase *x = &a->phases[i], *y = &b->phases[i];
        if (!x->n_steps || !y->n_steps)
            continue;
        double ms[2] = {1e-6 * (double)x->ns / (double)x->n_tokens,
                        1e-6 * (double)y->ns / (double)y->n_tokens},
               mb[2] = {1e-6 * (x->weight_bytes + x->kv_bytes) / (double)x->n_tokens,
                        1e-6 * (y->weight_bytes + y->kv_bytes) / (double)y->n_tokens};
        if (json)
            qn_str_addf(s, ", \"%s_ms_per_token\": [%.5f, %.5f], \"%s_mb_per_token\": [%.4f, %.4f]",
                        phase_names[i], ms[0], ms[1], phase_names[i], mb[0], mb[1]);
        else
            qn_str_addf(s, "%s %-19s %14.4f %14.4f %9.3f\n%s %-19s %14.3f %14.3f %9.3f\n",
                        phase_names[i], "ms a token", ms[0], ms[1], ratio(ms[0], ms[1]),
                        phase_names[i], "MB a token", mb[0], mb[1], ratio(mb[0], mb[1]));
    }
    if (json)
        qn_str_addf(s, ", \"largest_logit_difference\": %.6g}", largest_difference(a, b));
    else
        qn_str_addf(s, "%-26s %29.3g  of %d tokens\n", "largest logit difference",
                    largest_difference(a, b), COMPARED);
}

static qn_status open_profile(profile *p, profile_options *o, const char *path, bool plain,
                              qn_err *err)
{
    cmd_progress bar = {.start_ns = qn_now_ns()};
    *p = (profile){.o = o};
    o->config.model = path;
    o->config.plain_plan = plain;
    o->config.progress = cmd_progress_load;
    o->config.progress_arg = &bar;
    cmd_tuned(&o->config);
    qn_status s = qn_engine_open(&p->e, &o->config, err);
    cmd_progress_end(&bar);
    return s == QN_OK ? run_profile(p, err) : s;
}

static qn_status run(profile_options *o, const char *path, qn_err *err)
{
    profile p = {0};
    kept first = {.n_logits = 0};
    qn_str out = {0};
    qn_status s = QN_OK;
    if (o->fuse == FUSE_BOTH) { /* the plain one first; its text as it comes, its JSON kept */
        s = open_profile(&p, o, path, true, err);
        if (s == QN_OK && o->json) {
            qn_str_adds(&out, "{\"profiles\": [");
            json_profile(&out, &p);
            qn_str_adds(&out, ", ");
        } else if (s == QN_OK) {
            print_text(&p);
            (void)puts("");
        }
        first = (kept){
            {p.phases[0], p.phases[1]}, p.logits, COMPARED * (size_t)p.info.n_vocab, p.n_ops};
        p.phases[0].rows = p.phases[1].rows = NULL;
        p.logits = NULL;
        profile_fini(&p);
        p = (profile){0};
    }
    if (s == QN_OK)
        s = open_profile(&p, o, path, o->fuse == FUSE_OFF, err);
    if (s == QN_OK && o->json)
        json_profile(&out, &p);
    else if (s == QN_OK)
        print_text(&p);
    if (s == QN_OK && o->fuse == FUSE_BOTH) {
        qn_str_adds(&out, o->json ? "]" : "");
        compare(&out, &first, &p);
        qn_str_adds(&out, o->json ? "}" : "");
    }
    if (s == QN_OK && out.failed)
        s = qn_fail_nomem(err, out.n);
    if (s == QN_OK && out.p)
        printf("%s%s", out.p, o->json ? "\n" : "");
    qn_str_fini(&out);
    for (int i = 0; i < 2; i++)
        qn_free(first.phases[i].rows);
    qn_free(first.logits);
    profile_fini(&p);
    return s;
}

static qn_status find_and_run(profile_options *o, qn_err *err)
{
    qn_str path = {0};
    qn_config *c = &o->config;
    int longest = o->depth + o->n_in + o->n_out;
    c->max_seqs = QN_MAX(c->max_seqs, o->batch);
    c->max_ctx = c->max_ctx ? c->max_ctx : QN_MAX(longest, 64);
    size_t blocks = (size_t)o->batch * ((size_t)longest / 64 + 2);
    c->n_kv_blocks = (int)QN_MIN(QN_MAX(blocks, (size_t)3), (size_t)INT32_MAX / 2);
    qn_status s = cmd_model_find(&path, c->model, err);
    if (s == QN_OK)
        s = run(o, path.p, err);
    qn_str_fini(&path);
    return s;
}

int cmd_profile(int argc, char **argv)
{
    profile_options o = {.config = qn_config_default(), .n_in = 512, .n_out = 64, .batch = 1};
    qn_opts_found found = {0};
    qn_err err = {0};
    int code = cmd_parse(&cmd_profile_opts, &o, argc, argv, &found);
    if (code < 0 && !o.config.model)
        code = cmd_usage(&cmd_profile_opts, "no model given, want -m MODEL");
    if (code < 0 && o.n_in + o.n_out == 0)
        code = cmd_usage(&cmd_profile_opts, "--in and --out are both 0, want something to profile");
    if (code < 0)
        code = find_and_run(&o, &err) == QN_OK ? CMD_OK : cmd_fail(&err);
    qn_opts_found_fini(&found);
    return code;
}
