/* SPDX-License-Identifier: Apache-2.0
 * load_work.h - what `quern load` asks: classes, lengths, prompts and arrivals, all from one seed.
 *
 * Request i is the same for the same seed, whatever the server does: its class, its lengths, its prompt, and how long after request
 * i - 1 it arrives (exponential: a Poisson process).
 * Threads: pure. */
#ifndef QN_CMD_LOAD_WORK_H
#define QN_CMD_LOAD_WORK_H

#include "base/str.h"

#define LOAD_MAX_CLASSES QN_MAX_CLASSES

/* What is measured of a request: until its first token, the longest time between two, until its end. */
typedef enum load_metric { LOAD_FIRST, LOAD_GAP, LOAD_ALL, LOAD_N_METRICS } load_metric;

typedef struct load_class {
    char name[33];
    double weight;
    double target_ms[LOAD_N_METRICS]; /* 0: none */
} load_class;

typedef struct load_classes {
    load_class items[LOAD_MAX_CLASSES];
    size_t n;
    bool is_mix; /* requests name their class; else there is one, "all", that they do not name */
} load_classes;
/* "p0:10,p1:30", or "10,30" for p0, p1, ...; NULL: no classes. */
QN_MUST_USE qn_status load_mix_parse(load_classes *out, const char *text, qn_err *err);
/* "p0:200ms,p1:first=500ms,p1:gap=50ms", or "500ms" for all classes; "-" is no target. NULL: none. */
QN_MUST_USE qn_status load_slo_parse(load_classes *c, const char *text, qn_err *err);
bool load_classes_have_target(const load_classes *c);

typedef struct load_range {
    uint32_t min, max;
} load_range;
/* "200" or "100-300" */
QN_MUST_USE qn_status load_range_parse(load_range *out, const char *name, const char *text,
                                       uint32_t least, qn_err *err);

typedef struct load_work {
    uint64_t seed;
    load_range in, out; /* tokens; of a chat, words */
    uint32_t n_prefix;  /* the first ones, the same in all prompts */
    uint32_t n_vocab;   /* ids are below it */
    bool is_chat;
    double rate; /* arrivals a second; 0: closed loop */
    const load_classes *classes;
    const char *model;
} load_work;

typedef struct load_ask {
    uint64_t i;
    size_t class_i;
    uint32_t n_in, n_out;
} load_ask;
void load_work_ask(const load_work *w, uint64_t i, load_ask *out);
/* Nanoseconds between arrival i and the one before. */
uint64_t load_work_gap_ns(const load_work *w, uint64_t i);
/* Appends the JSON body of the request. */
void load_work_body(const load_work *w, const load_ask *a, qn_str *out);

/* Finds the highest load that meets the targets: doubles until one fails (or halves until one does not), then bisects until the two
 * are within 5 %, or neighbours where only whole numbers make sense.
 * Zero-initialise, set value to the first and is_whole; run `value`, tell, while tell says so. */
typedef struct load_sweep {
    double value;  /* to run next */
    double lo, hi; /* highest that met, lowest that did not; 0: none yet */
    bool is_whole;
    int n;
} load_sweep;
bool load_sweep_tell(load_sweep *s, bool is_met);

#endif
