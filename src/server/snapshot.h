/* SPDX-License-Identifier: Apache-2.0
 * snapshot.h - what the server does now, as one JSON object for programs and as a table for people.
 *
 *   now - an earlier reading = rates over the last seconds      tally's last values = exact percentiles
 *
 * Rates come from counters that are read whenever a snapshot is asked for, so that they cost nothing while nobody looks: the first
 * one tells the mean since the start, later ones of the five seconds before, or since the one before.
 * Threads: any. A lock, held while readings are compared. */
#ifndef QN_SERVER_SNAPSHOT_H
#define QN_SERVER_SNAPSHOT_H

#include "server/tally.h"

#define QN_SNAPSHOT_BLOCK 64 /* tokens of a block of the K/V cache (quern.h, n_kv_blocks) */

typedef struct qn_snapshots qn_snapshots;

/* tally is borrowed. */
QN_MUST_USE qn_status qn_snapshots_new(qn_snapshots **out, qn_tally *tally, qn_err *err);
void qn_snapshots_free(qn_snapshots *s); /* NULL allowed */
/* As qn_metrics_snapshot and qn_metrics_report. */
void qn_snapshot_write(qn_snapshots *s, qn_str *out, const qn_model_view *models, size_t n);
void qn_snapshot_report(qn_snapshots *s, qn_str *out, const qn_model_view *models, size_t n);

#endif
