/* SPDX-License-Identifier: Apache-2.0
 * cmd_segment.c - `quern segment`: a long text in pieces: where it is cut (text/segment.h), a prompt over each piece and one over
 * the answers (map_reduce.h), and what that takes against one shot. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "cmd/map_reduce.h"
#include "text/segment.h"

typedef struct segment_options {
    run_options run; /* params.max_tokens: of an answer */
    const char *in, *map, *reduce;
    int max_tokens, overlap;
    bool dry, compare;
} segment_options;

static const qn_opt segment_opts[] = {
    {"in", 'i', QN_OPT_STR, offsetof(segment_options, in), "FILE",
     .help = "the text; - or nothing: standard input"},
    {"max-tokens", 0, QN_OPT_INT, offsetof(segment_options, max_tokens), "N", 1, QN_LIMIT_CONTEXT,
     "8192", "tokens of a piece, overlap included, prompt not"},
    {"overlap", 0, QN_OPT_INT, offsetof(segment_options, overlap), "N", 0, QN_LIMIT_CONTEXT,
     "1/64 of --max-tokens", "tokens of what came before that a piece begins with"},
    {"map", 0, QN_OPT_STR, offsetof(segment_options, map), "PROMPT",
     .help = "asked of each piece; {text}, {part} and {parts} stand for the piece, its number and "
             "how many there are; without {text} the piece comes behind the prompt"},
    {"reduce", 0, QN_OPT_STR, offsetof(segment_options, reduce), "PROMPT",
     .help = "asked of all answers together, in several levels if they are too long"},
    {"dry", 0, QN_OPT_FLAG, offsetof(segment_options, dry),
     .help = "only show where the text is cut, as without --map; weights are not read"},
    {"compare", 0, QN_OPT_FLAG, offsetof(segment_options, compare),
     .help = "ask --map of the whole text, too, if the context holds it: time, memory, and how far "
             "the answers overlap"},
    {"json", 0, QN_OPT_FLAG, offsetof(segment_options, run.json),
     .help = "lines of JSON: the pieces, each answer, the end"},
    {"quiet", 'q', QN_OPT_FLAG, offsetof(segment_options, run.quiet),
     .help = "no line of time and memory after the answer"},
};
static const qn_opt_group segment_group = {"Text and prompts", segment_opts,
                                           QN_COUNT(segment_opts)};

static const qn_opt answer_opts[] = {
    {"answer-tokens", 'n', QN_OPT_INT, offsetof(qn_params, max_tokens), "N", 1, QN_LIMIT_CONTEXT,
     "1/4 of --max-tokens, at most 512", "tokens of an answer at most"},
    {"temperature", 0, QN_OPT_FLOAT, offsetof(qn_params, temperature), "T", 0, 100, "the model's",
     "0: greedy"},
    {"top-k", 0, QN_OPT_INT, offsetof(qn_params, top_k), "N", 0, 1 << 24, "the model's",
     "choose among the N likeliest tokens; 0: all"},
    {"top-p", 0, QN_OPT_FLOAT, offsetof(qn_params, top_p), "P", 0, 1, "the model's",
     "... among the likeliest with this much probability together"},
    {"seed", 's', QN_OPT_U64, offsetof(qn_params, seed), "N", .def = "0: another each time",
     .help = "the same seed gives the same answers"},
};
static const qn_opt_group answer_group = {"Answering", answer_opts, QN_COUNT(answer_opts)};

static const qn_opt template_opts[] = {
    {"system", 0, QN_OPT_STR, offsetof(run_options, system), "TEXT", .help = "the system message"},
    {"chat-template", 0, QN_OPT_STR, offsetof(run_options, cfg.chat_template), "FILE",
     .help = "a Jinja file instead of the model's template"},
    {"var", 0, QN_OPT_LIST, offsetof(run_options, vars), "NAME=VALUE",
     .help = "a variable of the template, such as enable_thinking=false; may be repeated"},
    {"raw", 0, QN_OPT_FLAG, offsetof(run_options, raw),
     .help = "no template: continue the prompts as they are"},
};
static const qn_opt_group template_group = {"Template", template_opts, QN_COUNT(template_opts)};

#define ANSWER_GROUP 1 /* its index below */

const qn_opts cmd_segment_opts = {
    .command = "segment",
    .args = "",
    .summary = "Cut a long text into pieces, ask of each, and reduce the answers to one",
    .about = "A piece ends at a heading, a paragraph, a sentence or a word, the strongest in the "
             "last three quarters of what fits.",
    .groups = {{&segment_group, 0},
               {&answer_group, offsetof(segment_options, run.params)},
               {&template_group, offsetof(segment_options, run)},
               {&cmd_config_group, offsetof(segment_options, run.cfg)}},
};

/* ---- the pieces ---- */

typedef struct pieces {
    const char *name; /* of the file, for messages */
    qn_str text;
    size_t n_lines, n_tokens;
    qn_segments list;
} pieces;

static void pieces_fini(pieces *p)
{
    qn_str_fini(&p->text);
    qn_segments_fini(&p->list);
}

static qn_slice piece_text(const pieces *p, size_t i)
{
    const qn_segment *s = &p->list.p[i];
    return (qn_slice){p->text.p + s->begin, s->end - s->begin};
}

static qn_status read_text(pieces *p, const char *path, qn_err *err)
{
    p->name = cmd_is_stdin(path) ? "standard input" : path;
    QN_TRY(cmd_read(&p->text, path, err));
    const char *zero = p->text.n ? memchr(p->text.p, 0, p->text.n) : NULL;
    if (zero)
        return qn_fail(err, QN_E_FORMAT, "%s: found a zero byte at %zu, wanted text in UTF-8",
                       p->name, (size_t)(zero - p->text.p));
    if (p->text.n == 0)
        return qn_fail(err, QN_E_FORMAT, "%s: found no text, wanted some", p->name);
    for (size_t i = 0; i < p->text.n; i++)
        p->n_lines += p->text.p[i] == '\n';
    p->n_lines += p->text.p[p->text.n - 1] != '\n';
    return QN_OK;
}

/* With the tokenizer alone, so that --dry reads no weights. */
static qn_status cut(pieces *p, const segment_options *o, qn_err *err)
{
    cmd_text model;
    qn_ids ids = {0};
    qn_slice text = {p->text.p, p->text.n};
    QN_TRY(cmd_text_open(&model, o->run.cfg.model, err));
    qn_status s = qn_segments_cut(&p->list, model.tokenizer, text, (size_t)o->max_tokens,
                                  (size_t)o->overlap, err);
    if (s == QN_OK)
        s = qn_tokenizer_encode(model.tokenizer, text.p, text.n, QN_SPECIAL_NONE, &ids, err);
    p->n_tokens = ids.n;
    qn_ids_fini(&ids);
    cmd_text_close(&model);
    return s == QN_OK ? s : qn_wrap(err, s, "%s", p->name);
}

static void add_pieces_json(qn_str *out, const pieces *p, const segment_options *o)
{
    size_t token = 0; /* the first new one of a piece, by the counts of those before */
    qn_str_adds(out, "{\"event\": \"segments\", \"file\": ");
    qn_str_add_json_or_null(out, cmd_is_stdin(o->in) ? NULL : o->in);
    qn_str_addf(out,
                ", \"bytes\": %zu, \"lines\": %zu, \"tokens\": %zu, \"max_tokens\": %d, "
                "\"overlap\": %d, \"segments\": [",
                p->text.n, p->n_lines, p->n_tokens, o->max_tokens, o->overlap);
    for (size_t i = 0; i < p->list.n; i++) {
        const qn_segment *s = &p->list.p[i];
        qn_str_addf(out,
                    "%s{\"part\": %zu, \"begin\": %zu, \"new\": %zu, \"end\": %zu, "
                    "\"first_line\": %zu, \"last_line\": %zu, \"first_token\": %zu, "
                    "\"tokens\": %zu, \"overlap_tokens\": %zu, \"border\": \"%s\"}",
                    i ? ", " : "", i + 1, s->begin, s->fresh, s->end, s->first_line, s->last_line,
                    token - s->n_overlap, s->n_tokens, s->n_overlap, qn_border_name(s->border));
        token += s->n_tokens - s->n_overlap;
    }
    qn_str_adds(out, "]}\n");
}

static void add_range(qn_str *out, size_t a, size_t b)
{
    char range[48];
    (void)snprintf(range, sizeof range, "%zu-%zu", a, b);
    qn_str_addf(out, "%17s", range);
}

static void add_pieces_table(qn_str *out, const pieces *p, const segment_options *o)
{
    char name[128], words[64];
    size_t token = 0;
    qn_escape(name, sizeof name, p->name, strlen(p->name));
    qn_str_addf(out, "part %17s %17s %17s again border      begins with\n", "bytes", "lines",
                "tokens");
    for (size_t i = 0; i < p->list.n; i++) {
        const qn_segment *s = &p->list.p[i];
        const char *begin = p->text.p + s->fresh;
        size_t n = QN_MIN(s->end - s->fresh, (size_t)40);
        const char *nl = memchr(begin, '\n', n);
        n = qn_utf8_whole(begin, nl ? (size_t)(nl - begin) : n);
        qn_escape(words, sizeof words, begin, n);
        qn_str_addf(out, "%4zu ", i + 1);
        add_range(out, s->begin, s->end);
        qn_str_addc(out, ' ');
        add_range(out, s->first_line, s->last_line);
        qn_str_addc(out, ' ');
        add_range(out, token - s->n_overlap, token - s->n_overlap + s->n_tokens);
        qn_str_addf(out, " %5zu %-11s %s\n", s->n_overlap, qn_border_name(s->border), words);
        token += s->n_tokens - s->n_overlap;
    }
    qn_str_addf(out,
                "%s: %zu bytes, %zu lines, %zu tokens in %zu parts of at most %d, up to %d of them "
                "again\n",
                name, p->text.n, p->n_lines, p->n_tokens, p->list.n, o->max_tokens, o->overlap);
}

static qn_status print(qn_str *out, qn_err *err)
{
    qn_status s = out->failed ? qn_fail_nomem(err, out->n) : QN_OK;
    if (s == QN_OK)
        fwrite(out->p, 1, out->n, stdout);
    fflush(stdout);
    qn_str_fini(out);
    return s;
}

/* ---- the answers ---- */

typedef struct work {
    const segment_options *o;
    const pieces *p;
    map_reduce mr;
    uint64_t given;          /* of answer_opts */
    mr_answer *parts, final; /* [n] */
    size_t n, n_parts;       /* whole answers to --map */
    int level;               /* of --reduce, where it is */
    double map_ms, reduce_ms;
    size_t peak;           /* bytes of the process; 0: not known */
    size_t whole_ctx;      /* of --map over the whole text, with its answer */
    int model_ctx;         /* what the model could hold */
    const qn_str *against; /* one shot: the answer of the pieces; NULL: these are they */
    double overlap;        /* with it */
    bool ends_line;
} work;

static double since_ms(uint64_t start_ns)
{
    return (double)(qn_now_ns() - start_ns) / 1e6;
}

static void on_text(void *arg, const char *text, size_t n)
{
    work *w = arg;
    qn_str out = {0};
    w->ends_line = text[n - 1] == '\n';
    if (w->o->run.json) {
        qn_str_adds(&out, "{\"event\": \"text\", \"text\": ");
        qn_str_add_json(&out, text, n);
        qn_str_adds(&out, "}\n");
        (void)print(&out, NULL);
    } else
        cmd_print_text(text, n);
}

static qn_slice text_of(const mr_answer *a)
{
    return (qn_slice){a->text.p ? a->text.p : "", a->text.n};
}

static void end_line(work *w)
{
    if (!w->ends_line)
        puts("");
    w->ends_line = true;
    fflush(stdout);
}

static void print_answer_json(const mr_round *r, size_t i)
{
    const mr_answer *a = &r->answers[i];
    qn_str out = {0};
    qn_str_addf(&out, "{\"event\": \"%s\", ", r->level ? "reduce" : "map");
    if (r->level)
        qn_str_addf(&out, "\"level\": %d, ", r->level);
    qn_str_addf(&out,
                "\"part\": %zu, \"parts\": %zu, \"prompt_tokens\": %d, \"output_tokens\": %d, "
                "\"finish\": \"%s\", \"text\": ",
                i + 1, r->n, a->n_prompt, a->n_output, run_finish_name(a->finish));
    qn_str_add_json(&out, text_of(a).p, text_of(a).n);
    qn_str_adds(&out, "}\n");
    (void)print(&out, NULL);
}

static void on_answer(void *arg, const mr_round *r, size_t i)
{
    work *w = arg;
    const mr_answer *a = &r->answers[i];
    w->n_parts += r->level == 0;
    w->level = r->level;
    if (w->o->run.json)
        print_answer_json(r, i);
    else if (r->is_streamed)
        end_line(w);
    else if (!w->o->reduce) {
        const qn_segment *s = &w->p->list.p[i];
        printf("--- part %zu of %zu, lines %zu-%zu ---\n", i + 1, r->n, s->first_line,
               s->last_line);
        qn_slice text = text_of(a);
        cmd_print_text(text.p, text.n);
        w->ends_line = text.n && text.p[text.n - 1] == '\n';
        end_line(w);
    }
}

static qn_status run_prompts(work *w, const qn_slice *texts, size_t n, qn_err *err)
{
    const segment_options *o = w->o;
    mr_round r = {.prompt = o->map, .texts = texts, .n = n, .answers = w->parts};
    uint64_t start = qn_now_ns();
    r.is_streamed = n == 1 && !o->reduce;
    w->mr.n_expect = n + (o->reduce != NULL);
    qn_status s = mr_ask(&w->mr, &r, err);
    w->map_ms = since_ms(start);
    if (s != QN_OK || !o->reduce)
        return s;
    start = qn_now_ns();
    w->level = 1;
    s = mr_reduce(&w->mr, o->reduce, (size_t)o->max_tokens, w->parts, n, &w->final, err);
    w->reduce_ms = since_ms(start);
    return s;
}

/* What --compare would need. */
static qn_status measure_whole(work *w, qn_err *err)
{
    qn_slice text = {w->p->text.p, w->p->text.n};
    mr_round r = {.prompt = w->o->map, .texts = &text, .n = 1};
    qn_engine_info info;
    qn_engine_get_info(w->mr.e, &info);
    w->model_ctx = QN_MAX(info.model_max_ctx, info.max_ctx);
    qn_status s = mr_count(&w->mr, &r, 0, &w->whole_ctx, err);
    if (s == QN_E_TOO_LONG) { /* for any context; at least so many */
        w->whole_ctx = QN_MAX(w->p->n_tokens, (size_t)w->model_ctx);
        s = QN_OK;
    }
    w->whole_ctx += (size_t)w->o->run.params.max_tokens;
    return s;
}

static int by_value(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Of the tokens of two texts, whatever their order: twice those in common by all of both (F1). */
static qn_status overlap_of(const qn_engine *e, const qn_str *a, const qn_str *b, double *out,
                            qn_err *err)
{
    int32_t *ids[2] = {NULL, NULL};
    size_t n[2] = {0, 0}, common = 0;
    qn_status s = qn_tokenize(e, a->p ? a->p : "", a->n, false, &ids[0], &n[0], err);
    if (s == QN_OK)
        s = qn_tokenize(e, b->p ? b->p : "", b->n, false, &ids[1], &n[1], err);
    for (size_t k = 0; s == QN_OK && k < 2; k++)
        if (n[k])
            qsort(ids[k], n[k], sizeof *ids[k], by_value);
    for (size_t i = 0, j = 0; s == QN_OK && i < n[0] && j < n[1];) {
        int32_t x = ids[0][i], y = ids[1][j];
        common += x == y;
        i += x <= y;
        j += y <= x;
    }
    *out = n[0] + n[1] ? 2.0 * (double)common / (double)(n[0] + n[1]) : 1;
    qn_release(ids[0]);
    qn_release(ids[1]);
    return s;
}

/* --map over the texts, and --reduce, with an engine of their own. max_ctx: of that; 0: as the options say. */
static qn_status ask(work *w, const qn_slice *texts, size_t n, int max_ctx, qn_err *err)
{
    const run_options *o = &w->o->run;
    qn_config c = o->cfg;
    qn_engine *e = NULL;
    qn_engine_info info;
    cmd_progress bar = {0};
    c.max_ctx = max_ctx ? max_ctx : c.max_ctx;
    c.no_prefix_cache = true; /* K/V of pieces that are done would count as needed for them */
    c.progress = cmd_progress_load;
    c.progress_arg = &bar;
    cmd_tuned(&c);
    if (!(w->parts = qn_calloc(n, sizeof *w->parts, QN_MEM_MISC)))
        return qn_fail_nomem(err, n * sizeof *w->parts);
    qn_status s = qn_engine_open(&e, &c, err);
    cmd_progress_end(&bar);
    if (s != QN_OK)
        return s;
    qn_engine_get_info(e, &info);
    if (!info.has_chat_template && !o->raw && !o->quiet && !w->against)
        fprintf(stderr,
                "quern: %s has no chat template: continuing the prompts as they are (--raw)\n",
                c.model);
    w->mr = (map_reduce){.run = o,
                         .e = e,
                         .params = o->params,
                         .raw = o->raw || !info.has_chat_template,
                         .n_seats = (size_t)c.max_seqs,
                         .on_text = on_text,
                         .on_answer = on_answer,
                         .arg = w};
    qn_engine_get_params(e, &w->mr.params);
    qn_opts_copy(&answer_group, w->given, &o->params, &w->mr.params);
    w->mr.params.max_tokens = o->params.max_tokens;
    bool has_peak = qn_mem_resident_peak_reset(); /* without what loading took */
    if (w->o->compare)
        s = measure_whole(w, err);
    if (s == QN_OK)
        s = run_prompts(w, texts, n, err);
    w->peak = has_peak ? qn_mem_resident_peak() : 0;
    if (s == QN_OK && w->against)
        s = overlap_of(e, w->against, &w->parts[0].text, &w->overlap, err);
    qn_engine_free(e);
    return s;
}

static void work_fini(work *w)
{
    mr_answers_free(w->parts, w->n);
    qn_str_fini(&w->final.text);
}

/* ---- what it took ---- */

static void add_took_json(qn_str *out, const work *w)
{
    qn_str_addf(out,
                "\"answers\": %zu, \"cut_answers\": %zu, \"prompt_tokens\": %lld, "
                "\"output_tokens\": %lld, \"map_ms\": %.1f, \"reduce_ms\": %.1f, \"peak_bytes\": ",
                w->mr.n_answers, w->mr.n_cut, w->mr.n_prompt, w->mr.n_output, w->map_ms,
                w->reduce_ms);
    if (w->peak)
        qn_str_addf(out, "%zu", w->peak);
    else
        qn_str_adds(out, "null");
}

/* The last answer: of --reduce, or the only one. */
static const mr_answer *last_answer(const work *w)
{
    return w->o->reduce ? &w->final : w->n == 1 ? &w->parts[0] : NULL;
}

static void print_done_json(const work *w, const work *one, bool is_interrupted)
{
    const mr_answer *a = last_answer(w);
    qn_str out = {0};
    qn_finish finish = is_interrupted ? QN_FINISH_CANCELLED : a ? a->finish : QN_FINISH_STOP;
    qn_str_addf(&out, "{\"event\": \"done\", \"finish\": \"%s\", \"parts\": %zu, ",
                run_finish_name(finish), w->n);
    add_took_json(&out, w);
    if (one && one->n) {
        qn_str_adds(&out, ", \"one_shot\": {");
        add_took_json(&out, one);
        qn_str_addf(&out, ", \"answer_overlap\": %.4f, \"text\": ", one->overlap);
        qn_str_add_json(&out, text_of(one->parts).p, text_of(one->parts).n);
        qn_str_addc(&out, '}');
    } else if (one)
        qn_str_addf(&out, ", \"one_shot\": null, \"one_shot_context\": %zu, \"context\": %d",
                    w->whole_ctx, w->model_ctx);
    if (a) {
        qn_str_adds(&out, ", \"text\": ");
        qn_str_add_json(&out, text_of(a).p, text_of(a).n);
    }
    qn_str_adds(&out, "}\n");
    (void)print(&out, NULL);
}

static void print_took(const work *w)
{
    fprintf(stderr, "%zu part%s, %zu answer%s, %lld + %lld tokens, %.1f s", w->n,
            w->n == 1 ? "" : "s", w->mr.n_answers, w->mr.n_answers == 1 ? "" : "s", w->mr.n_prompt,
            w->mr.n_output, (w->map_ms + w->reduce_ms) * 1e-3);
    if (w->o->reduce)
        fprintf(stderr, " (map %.1f, reduce %.1f)", w->map_ms * 1e-3, w->reduce_ms * 1e-3);
    if (w->peak)
        fprintf(stderr, ", at most %.0f MB", (double)w->peak * 1e-6);
    if (w->mr.n_cut)
        fprintf(stderr, ", %zu cut at %d tokens (--answer-tokens)", w->mr.n_cut,
                w->o->run.params.max_tokens);
    fputs("\n", stderr);
}

static void print_comparison(const work *w, const work *one)
{
    if (!one->n) {
        printf("one shot: not asked, since %zu tokens with the answer are more than the model's "
               "context of %d\n",
               w->whole_ctx, w->model_ctx);
        return;
    }
    printf("%-16s %12s %12s\n", "", "in parts", "one shot");
    printf("%-16s %12zu %12zu\n", "answers", w->mr.n_answers, one->mr.n_answers);
    printf("%-16s %12lld %12lld\n", "prompt tokens", w->mr.n_prompt, one->mr.n_prompt);
    printf("%-16s %12lld %12lld\n", "answer tokens", w->mr.n_output, one->mr.n_output);
    printf("%-16s %12.1f %12.1f\n", "seconds", (w->map_ms + w->reduce_ms) * 1e-3,
           one->map_ms * 1e-3);
    if (w->peak && one->peak)
        printf("%-16s %12.0f %12.0f\n", "memory, MB", (double)w->peak * 1e-6,
               (double)one->peak * 1e-6);
    printf("%.0f %% of the tokens of both answers are the same\n", one->overlap * 100);
}

/* ---- the command ---- */

/* --map of the whole text, after the pieces and without anything of theirs. one->n stays 0 where the context does not hold it. */
static qn_status ask_whole(work *one, const work *w, qn_err *err)
{
    qn_slice text = {w->p->text.p, w->p->text.n};
    qn_str all = {0};
    segment_options o = *w->o;
    o.reduce = NULL;
    o.compare = false;
    if (w->whole_ctx > (size_t)w->model_ctx)
        return QN_OK;
    for (const mr_answer *a = w->parts; a && !last_answer(w) && a < w->parts + w->n; a++)
        qn_str_add(&all, text_of(a).p, text_of(a).n);
    if (all.failed) {
        qn_str_fini(&all);
        return qn_fail_nomem(err, w->n);
    }
    one->o = &o;
    one->n = 1;
    one->against = last_answer(w) ? &last_answer(w)->text : &all;
    if (!o.run.json)
        puts("--- one shot ---");
    qn_status s = ask(one, &text, 1, (int)w->whole_ctx, err);
    one->o = w->o;
    one->against = NULL;
    qn_str_fini(&all);
    return s;
}

static int interrupted(const work *w, uint64_t start)
{
    if (!w->ends_line && !w->o->run.json)
        puts("");
    if (w->o->run.json)
        print_done_json(w, NULL, true);
    fprintf(stderr, "quern: interrupted after %.1f s: %zu of %zu parts answered%s\n",
            since_ms(start) * 1e-3, w->n_parts, w->n,
            w->level ? ", their answers not reduced to one" : "");
    return CMD_INTERRUPTED;
}

static int answer(work *w)
{
    uint64_t start = qn_now_ns();
    work one = {.p = w->p, .given = w->given, .ends_line = true};
    qn_slice *texts = qn_calloc(w->n, sizeof *texts, QN_MEM_MISC);
    qn_err err;
    qn_status s = texts ? run_catch_interrupt(&err) : qn_fail_nomem(&err, w->n * sizeof *texts);
    for (size_t i = 0; s == QN_OK && i < w->n; i++)
        texts[i] = piece_text(w->p, i);
    if (s == QN_OK)
        s = ask(w, texts, w->n, 0, &err);
    if (s == QN_OK && w->o->compare)
        s = ask_whole(&one, w, &err);
    int rc = s == QN_E_CANCELLED ? interrupted(w, start) : s == QN_OK ? CMD_OK : cmd_fail(&err);
    if (rc == CMD_OK && w->o->run.json)
        print_done_json(w, w->o->compare ? &one : NULL, false);
    else if (rc == CMD_OK) {
        if (w->o->compare)
            print_comparison(w, &one);
        fflush(stdout);
        if (!w->o->run.quiet)
            print_took(w);
    }
    work_fini(&one);
    qn_free(texts);
    return rc;
}

static int run(segment_options *o, const qn_opts_found *found)
{
    pieces p = {0};
    qn_str out = {0}, path = {0};
    qn_err err;
    bool is_dry = o->dry || !o->map;
    int rc = CMD_OK;
    qn_status s = read_text(&p, o->in, &err);
    if (s == QN_OK)
        s = cmd_model_find(&path, o->run.cfg.model, &err);
    if (s == QN_OK) {
        o->run.cfg.model = path.p;
        s = cut(&p, o, &err);
    }
    if (s == QN_OK && o->run.json)
        add_pieces_json(&out, &p, o);
    else if (s == QN_OK && is_dry)
        add_pieces_table(&out, &p, o);
    if (s == QN_OK && (is_dry || o->run.json))
        s = print(&out, &err);
    if (s != QN_OK)
        rc = cmd_fail(&err);
    else if (!is_dry) {
        work w = {
            .o = o, .p = &p, .n = p.list.n, .given = found->given[ANSWER_GROUP], .ends_line = true};
        rc = answer(&w);
        work_fini(&w);
    }
    qn_str_fini(&out);
    qn_str_fini(&path);
    pieces_fini(&p);
    return rc;
}

/* -1: good; else the exit status. */
static int check(segment_options *o, const qn_opts_found *found)
{
    static const int at_once = 16384; /* tokens of pieces computed together: K/V of one long one */
    const qn_opts *opts = &cmd_segment_opts;
    int *answer_tokens = &o->run.params.max_tokens;
    if (!o->run.cfg.model)
        return cmd_usage(opts, "--model: found none, wanted a model");
    if (!o->in && isatty(STDIN_FILENO))
        return cmd_usage(opts, "--in: found none, wanted a file, or the text on standard input");
    if (o->overlap < 0)
        o->overlap = o->max_tokens / 64;
    if (o->overlap >= o->max_tokens)
        return cmd_usage(opts, "--overlap: found %d, wanted less than the %d of --max-tokens",
                         o->overlap, o->max_tokens);
    if (o->reduce && !o->map)
        return cmd_usage(opts, "--reduce: found without --map, wanted both");
    if (o->compare && (!o->map || o->dry))
        return cmd_usage(opts, "--compare: found %s, wanted --map alone",
                         o->dry ? "with --dry" : "without --map");
    if (!(found->given[ANSWER_GROUP] & 1u))
        *answer_tokens = QN_MAX(QN_MIN(o->max_tokens / 4, 512), 1);
    if (!o->run.cfg.max_seqs)
        o->run.cfg.max_seqs = QN_MIN(QN_MAX(at_once / o->max_tokens, 1), 16);
    return run_check_vars(opts, &o->run.vars);
}

int cmd_segment(int argc, char **argv)
{
    segment_options o = {.run = {.cfg = qn_config_default(), .params = qn_params_default()},
                         .max_tokens = 8192,
                         .overlap = -1};
    qn_opts_found found;
    int rc = cmd_parse(&cmd_segment_opts, &o, argc, argv, &found);

    if (rc < 0)
        rc = check(&o, &found);
    if (rc < 0)
        rc = run(&o, &found);
    qn_opt_list_fini(&o.run.vars);
    qn_opts_found_fini(&found);
    return rc;
}
