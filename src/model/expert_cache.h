/* SPDX-License-Identifier: Apache-2.0
 * expert_cache.h - experts of a packed file that are not all in memory.
 *
 *   slots   [gate | up | down] of one expert each, as many as the memory allows, shared by all layers
 *   scores  of every expert, in memory or not: its share of its layer's rows, decayed by every step
 *
 * An expert that a batch needs and no slot holds is read into the slot whose expert has the lowest score, of those that this wave does
 * not need: popular experts stay, the others take turns in the slots that are worth least.
 *
 * Invariants: expert.slot and slot.expert name each other, or neither; after plan every expert of the wave has a slot, and all reads of
 * one plan go to different slots. A wave takes experts until no slot is left that it does not need, at least one.
 * Threads: the engine thread, but for read and the counters (any). */
#ifndef QN_MODEL_EXPERT_CACHE_H
#define QN_MODEL_EXPERT_CACHE_H

#include "backend/ops.h"
#include "format/qpk.h"

typedef struct qn_expert_cache qn_expert_cache;

QN_MUST_USE qn_status qn_expert_cache_new(qn_expert_cache **out, const qn_qpk *file,
                                          const qn_backend *b, size_t n_layers, uint32_t n_experts,
                                          qn_err *err);
void qn_expert_cache_free(qn_expert_cache *c); /* NULL allowed */
/* A weight of an expert (gate, up, down) and where it stands in the file; NULL: it is not packed and stays where it is. */
void qn_expert_cache_set(qn_expert_cache *c, size_t layer, uint32_t id, int part, qn_dweight *w,
                         const qn_qpk_panels *p);
/* The layer's experts come from here from now on. */
void qn_expert_cache_bind(qn_expert_cache *c, size_t layer, qn_experts *ex);
/* Takes slots for at most `bytes`. Before the first step. */
QN_MUST_USE qn_status qn_expert_cache_fill(qn_expert_cache *c, uint64_t bytes, qn_err *err);
size_t qn_expert_cache_slot_bytes(const qn_expert_cache *c);

typedef struct qn_expert_counts {
    uint64_t n_experts, bytes; /* of all layers */
    uint64_t n_slots, slot_bytes;
    uint64_t uses, hits, read_bytes; /* an expert that rows of a step went to: one use */
} qn_expert_counts;
qn_expert_counts qn_expert_cache_count(const qn_expert_cache *c);

#endif
