/* SPDX-License-Identifier: Apache-2.0
 * sampling.h - the fields that all generating APIs share: from JSON to qn_params.
 *
 * temperature, top_p, top_k, min_p, typical_p, n, seed, stop (a string or several), stop_token_ids, presence_penalty,
 * frequency_penalty, repetition_penalty (repeat_penalty), logit_bias ({"id": bias}), max_tokens, max_completion_tokens,
 * max_new_tokens, min_tokens, ignore_eos, beam_width (use_beam_search, as wide as n or best_of), length_penalty, cache_salt, priority
 * (a class's name, or its number; also "class") and service_tier ("auto", "default", ...: no class).
 * max_tokens 0 is an error but beside "echo": true, where it means that nothing is generated and out->max_tokens is 0; else that
 * is "not given", up to the context.
 * Threads: pure. */
#ifndef QN_SERVER_SAMPLING_H
#define QN_SERVER_SAMPLING_H

#include "base/mem.h"
#include "server/fields.h"

/* Over the model's defaults (qn_engine_get_params). Arrays are the arena's or borrowed from o. *param names the field of an error. */
QN_MUST_USE qn_status qn_sampling_read(const json_t *o, const qn_engine *e, qn_arena *arena,
                                       qn_params *out, const char **param, qn_err *err);

#endif
