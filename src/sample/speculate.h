/* SPDX-License-Identifier: Apache-2.0
 * speculate.h - how many tokens to draft: the measured time of a step against measured acceptance.
 *
 *   a step over rows:    1 ---> 1 token             in t(1)
 *                        1 + k drafts ---> 1 + p1 + p1 p2 + ... + p1..pk tokens  in t(1 + k) + k d
 *
 * t comes from the engine's own steps (qn_step_cost), p from how often guesses of that kind came
 * true in this text (qn_accept), d is what a draft model takes for a token (a lookup: 0). Drafts
 * are chosen likeliest first, as many as make the most tokens a second; none where none gain, which
 * is so when many sequences decode together: their rows have made the step slow already.
 * Guesses that are not drafted are compared with the text all the same: what is off sees when it
 * would pay again; what a model would say is not known then, and what it was worth fades. A time measured long ago fades towards a low one, so that it is measured again.
 * Threads: one owner; pure arithmetic, times come in as numbers. */
#ifndef QN_SAMPLE_SPECULATE_H
#define QN_SAMPLE_SPECULATE_H

#include "base/base.h"

#define QN_SPEC_ROWS 64u /* rows of a step with drafts, at most */

/* t(rows): measured where there were steps, between them a line. */
typedef struct qn_step_cost {
    double ns[QN_SPEC_ROWS + 1]; /* [0] unused */
    bool measured[QN_SPEC_ROWS + 1];
    uint32_t n_since_plain; /* steps with drafts since the last without */
} qn_step_cost;
/* A step of `rows` rows, n_drafts of them drafts, took ns. */
void qn_step_cost_add(qn_step_cost *c, uint32_t rows, uint32_t n_drafts, double ns);
/* 0: nothing was measured yet. */
double qn_step_cost_of(const qn_step_cost *c, uint32_t rows);

/* Where a guess comes from: the length of the match, or the draft model. */
#define QN_SPEC_MODEL   17u /* instead of a length: guessed by a model */
#define QN_SPEC_N_KINDS 9

/* How often guesses came true: of late, per kind. */
typedef struct qn_accept {
    float hits[QN_SPEC_N_KINDS], seen[QN_SPEC_N_KINDS];
} qn_accept;
/* What is known before the first text. */
qn_accept qn_accept_default(void);
/* For a new text: what others showed, to be overruled soon. */
qn_accept qn_accept_from(const qn_accept *others);
/* No guess of that kind was tried: what is known of it gets a little older. */
void qn_accept_fade(qn_accept *a, uint32_t match);
void qn_accept_add(qn_accept *a, uint32_t match, bool hit);
double qn_accept_rate(const qn_accept *a, uint32_t match);

/* One sequence's guesses. */
typedef struct qn_spec_seq {
    const qn_accept *accept;
    uint32_t match;   /* of the first guess; each further one is one longer */
    uint32_t most;    /* guesses there are */
    uint32_t n_draft; /* out: drafts to verify */
    double chance;    /* that all drafts so far come true */
} qn_spec_seq;

/* Sets n_draft of every sequence, `room` in all at most. rows: of the step without drafts;
 * model_ns: what a draft model takes for one token of each. */
void qn_spec_choose(const qn_step_cost *c, qn_spec_seq *seqs, size_t n, uint32_t rows,
                    uint32_t room, double model_ns);

#endif
