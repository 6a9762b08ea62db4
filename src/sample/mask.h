/* SPDX-License-Identifier: Apache-2.0
 * mask.h - which tokens may follow in a state, found once and kept.
 *
 *   survey of a state = the vocabulary's trie walked from it, knowing neither its count nor its stack (place.h: relative)
 *     main     tokens that stay in the rule, in any count
 *     groups   such as do if the count is in lo..hi
 *     tails    what is left of tokens where the rule may end, as a trie: to be walked on the stack when it is known
 *
 *   in a string "...     main: all that has no quote       tails: "," from `","`, `.","`, `?","`; "}" from `"}`, ...
 *
 * That is xgrammar's adaptive mask cache (arXiv 2411.15100) with the context-dependent tokens joined by what they have
 * behind the rule's end: a thousand tokens become some dozen ends. Sets that are equal are one; those that differ little
 * from one that is there are kept as the difference.
 *
 * What takes too many bytes is not kept (QN_LIMIT_GRAMMAR_MASKS): then the trie is walked each time.
 * Threads: surveys are made and read by any; a room has one user at a time. */
#ifndef QN_SAMPLE_MASK_H
#define QN_SAMPLE_MASK_H

#include "sample/place.h"
#include "sample/vocabulary.h"

typedef struct qn_masks qn_masks;

QN_MUST_USE qn_status qn_masks_new(qn_masks **out, const qn_vocabulary *v, const qn_automaton *a,
                                   qn_err *err);
void qn_masks_free(qn_masks *k); /* NULL allowed */
size_t qn_masks_n_bytes(qn_masks *k);
/* Surveys beforehand those states that take long. */
QN_MUST_USE qn_status qn_masks_prepare(qn_masks *k, qn_err *err);
/* Sets the bits of the tokens that may follow where the walker is: at its first n heads; their stacks come back as they were.
 * False: no memory, or (w->is_spent) its fuel does not do. */
QN_MUST_USE bool qn_masks_add(qn_masks *k, qn_walker *w, size_t n, uint64_t *mask);
/* Fuel for a walk of the vocabulary with one head, and more. */
uint64_t qn_masks_walk_fuel(const qn_vocabulary *v);

#endif
