// SPDX-License-Identifier: Apache-2.0
// metrics.js - /metrics read into numbers, and what two readings say together.
//
//   text --parse--> [{name, labels, value}] --reading--> {at, models: {name: {n..., parts, classes: {name: {n..., hist}}}}, ...}
//   readings --Series--> rates, means, shares, percentiles over a window
//
// A histogram is the counts up to each edge; its percentile in a window is that of the difference of two readings.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)",?/g;

export function* parse(text) {
  for (const line of text.split('\n')) {
    const m = line[0] === '#' ? null : LINE.exec(line);
    if (!m) continue;
    const labels = {};
    for (const [, k, v] of (m[2] || '').matchAll(LABEL)) labels[k] = v.replace(/\\(.)/g, (_, c) => (c === 'n' ? '\n' : c));
    yield { name: m[1], labels, value: m[3] === '+Inf' ? Infinity : Number(m[3]) };
  }
}

const OF_MODEL = {
  'vllm:num_requests_running': 'running', 'vllm:num_requests_waiting': 'waiting', 'quern:model_waiting': 'opening', 'vllm:prefix_cache_queries_total': 'queries', 'vllm:prefix_cache_hits_total': 'hits',
  'quern:kv_blocks': 'blocks', 'quern:kv_blocks_used': 'used', 'quern:kv_blocks_cached': 'cached', 'quern:engine_prompt_tokens_total': 'read', 'quern:engine_output_tokens_total': 'written',
  'quern:steps_total': 'steps', 'quern:step_rows_total': 'rows', 'quern:step_sequences_total': 'sequences',
};
const OF_CLASS = {
  'quern:class_requests_running': 'running', 'quern:class_requests_waiting': 'waiting', 'quern:class_requests_done_total': 'done', 'quern:class_requests_met_total': 'met',
  'quern:class_requests_refused_total': 'refused', 'quern:class_preemptions_total': 'preempted', 'quern:class_step_seconds_total': 'seconds', 'quern:class_target_seconds': 'target',
};
const OF_TIMES = { 'quern:e2e_request_latency_seconds': 'answer', 'quern:time_to_first_token_seconds': 'first', 'quern:inter_token_latency_seconds': 'gap' };
const OF_SERVER = { process_resident_memory_bytes: 'memory', process_start_time_seconds: 'started' };
const KEPT_LARGEST = new Set(['target']);

export function reading(text, at) {
  const r = { at, models: {}, errors: 0 };
  const modelOf = (l) => (r.models[l.model_name] ||= { parts: {}, classes: {} });
  const classOf = (l) => (modelOf(l).classes[l.class] ||= { answer: null, first: null, gap: null });
  for (const { name, labels, value } of parse(text)) {
    const bucket = name.endsWith('_bucket') && OF_TIMES[name.slice(0, -7)];
    if (OF_MODEL[name]) modelOf(labels)[OF_MODEL[name]] = value;
    else if (OF_CLASS[name]) classOf(labels)[OF_CLASS[name]] = value;
    else if (name === 'quern:step_seconds_total') modelOf(labels).parts[labels.part] = value;
    else if (name === 'quern:request_errors_total') r.errors += value;
    else if (OF_SERVER[name]) r[OF_SERVER[name]] = value;
    else if (bucket && labels.class !== undefined) {
      const c = classOf(labels), h = (c[bucket] ||= { edges: [], counts: [] });
      h.edges.push(labels.le === '+Inf' ? Infinity : Number(labels.le));
      h.counts.push(value);
    }
  }
  return r;
}

function addHistogram(a, b) {
  if (!a || !b) return a || b;
  return { edges: a.edges, counts: a.counts.map((n, i) => n + (b.counts[i] || 0)) };
}

function addNumbers(to, from) {
  for (const [k, v] of Object.entries(from)) if (typeof v === 'number') to[k] = KEPT_LARGEST.has(k) ? Math.max(to[k] || 0, v) : (to[k] || 0) + v;
}

// One model's part of a reading, or all of them added up.
export function view(r, model) {
  const out = { at: r.at, parts: {}, classes: {} };
  for (const [name, m] of Object.entries(r.models)) {
    if (model && name !== model) continue;
    addNumbers(out, m);
    addNumbers(out.parts, m.parts);
    for (const [c, v] of Object.entries(m.classes)) {
      const sum = (out.classes[c] ||= {});
      addNumbers(sum, v);
      for (const k of ['answer', 'first', 'gap']) sum[k] = addHistogram(sum[k], v[k]);
    }
  }
  out.at = r.at;
  return out;
}

// What was counted between two readings; 0 where the server was started anew between them.
export const grown = (a, b, k) => Math.max(0, (b[k] || 0) - (a[k] || 0));
export const rate = (a, b, k) => (b.at > a.at ? (grown(a, b, k) * 1000) / (b.at - a.at) : 0);

// Percentile q of what came between two readings of a histogram, in its unit; null: nothing came.
export function percentile(a, b, q) {
  if (!b) return null;
  const n = b.counts.map((v, i) => v - ((a && a.counts[i]) || 0)), all = n[n.length - 1];
  if (!(all > 0) || n.some((v) => v < 0)) return null;
  const want = q * all;
  let i = 0;
  while (n[i] < want) i++;
  const low = i ? b.edges[i - 1] : 0, high = b.edges[i], before = i ? n[i - 1] : 0;
  return isFinite(high) ? low + ((high - low) * (want - before)) / Math.max(1, n[i] - before) : low;
}
