// SPDX-License-Identifier: Apache-2.0
// talk.js - a conversation: a tree of messages, of which one path is shown.
//
//   0 -- 1 user -- 2 assistant -- 4 user -- 5 assistant        children of one message are branches: an edit is a new child of the same
//               \- 3 assistant (again)                          parent, and so is an answer made again. picks: which child is shown
//
// Ids rise in the order of making, a child's is greater than its parent's: so there is no circle.

const ROLES = new Set(['user', 'assistant', 'tool']);

export const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(16).padStart(2, '0')).join('');

export class Talk {
  constructor(head, nodes = []) {
    this.head = head;
    this.nodes = new Map();
    this.children = new Map([[0, []]]);
    for (const n of nodes) this.take(n);
  }

  static create(settings, model) {
    const now = Date.now();
    return new Talk({ id: newId(), title: '', created: now, updated: now, model, settings: { ...settings }, picks: {} });
  }

  take(node) {
    this.nodes.set(node.id, node);
    this.children.set(node.id, []);
    this.children.get(node.parent).push(node.id);
  }

  add(parent, role, fields) {
    const node = { talk: this.head.id, id: this.nodes.size + 1, parent, role, content: '', time: Date.now(), ...fields };
    this.take(node);
    this.head.picks[parent] = node.id;
    return node;
  }

  child(id) {
    const all = this.children.get(id), pick = this.head.picks[id];
    return all.length ? this.nodes.get(all.includes(pick) ? pick : all[all.length - 1]) : null;
  }

  // The messages shown, from the first on.
  path() {
    const out = [];
    for (let n = this.child(0); n; n = this.child(n.id)) out.push(n);
    return out;
  }

  siblings(node) {
    return this.children.get(node.parent);
  }

  pick(node, step) {
    const all = this.siblings(node), i = all.indexOf(node.id) + step;
    if (i < 0 || i >= all.length) return null;
    this.head.picks[node.parent] = all[i];
    return this.nodes.get(all[i]);
  }

  // From the first message to this one.
  upTo(node) {
    const out = [];
    for (let n = node; n; n = this.nodes.get(n.parent)) out.push(n);
    return out.reverse();
  }
}

export function fenceOf(text) {
  let n = 3;
  for (const run of text.match(/`{3,}/g) || []) n = Math.max(n, run.length + 1);
  return '`'.repeat(n);
}

// A user's message as the model reads it: the files first.
export function fullText(node) {
  const files = (node.files || []).map((f) => `${f.name}\n${fenceOf(f.text)}\n${f.text}${f.text.endsWith('\n') ? '' : '\n'}${fenceOf(f.text)}\n`);
  return [...files, node.content].join('\n').trim();
}

// As /v1/chat/completions wants them.
export function toMessages(nodes, system) {
  const out = system && system.trim() ? [{ role: 'system', content: system }] : [];
  const lastUser = nodes.findLastIndex((n) => n.role === 'user');
  nodes.forEach((n, i) => {
    if (n.role === 'user') out.push({ role: 'user', content: fullText(n) });
    else if (n.role === 'tool') out.push({ role: 'tool', tool_call_id: n.call, content: n.content });
    else {
      const m = { role: 'assistant', content: n.content };
      // what it thought before a tool's result belongs to the same turn
      if (n.reasoning && i > lastUser) m.reasoning_content = n.reasoning;
      if (n.calls && n.calls.length)
        m.tool_calls = n.calls.map((c) => ({ id: c.id, type: 'function', function: { name: c.name, arguments: c.arguments } }));
      out.push(m);
    }
  });
  return out;
}

// ---- files of conversations ----

export const FORMAT = 'quern-conversations';

export function toFile(talks) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations: talks.map((t) => ({ ...t.head, messages: [...t.nodes.values()] })) }, null, 1);
}

const text = (v, most = 1e7) => (typeof v === 'string' ? v.slice(0, most) : '');
const number = (v) => (typeof v === 'number' && isFinite(v) ? v : undefined);

function cleanNode(m, id, parent, talk) {
  const n = { talk, id, parent, role: m.role, content: text(m.content), time: number(m.time) || Date.now() };
  for (const k of ['reasoning', 'model', 'finish', 'format', 'call', 'name']) if (typeof m[k] === 'string') n[k] = text(m[k]);
  if (number(m.thought) !== undefined) n.thought = m.thought;
  if (Array.isArray(m.calls)) n.calls = m.calls.filter((c) => c && typeof c === 'object').map((c) => ({ id: text(c.id), name: text(c.name), arguments: text(c.arguments) }));
  if (Array.isArray(m.files)) n.files = m.files.filter((f) => f && typeof f === 'object').map((f) => ({ name: text(f.name, 300), size: number(f.size) || 0, text: text(f.text), tokens: number(f.tokens) }));
  if (m.stats && typeof m.stats === 'object') {
    n.stats = {};
    for (const [k, v] of Object.entries(m.stats)) if (number(v) !== undefined) n.stats[k] = v;
  }
  return n;
}

// The conversations of a file, under new ids. Throws if it is none; what is not known in them is left out.
export function fromFile(s, cleanSettings) {
  const o = JSON.parse(s);
  if (!o || o.format !== FORMAT || !Array.isArray(o.conversations)) throw new Error('format');
  return o.conversations.filter((c) => c && Array.isArray(c.messages)).map((c) => {
    const now = Date.now(), id = newId(), ids = new Map([[0, 0]]);
    const talk = new Talk({ id, title: text(c.title, 200), created: number(c.created) || now, updated: number(c.updated) || now,
      model: text(c.model, 200), settings: cleanSettings(c.settings || {}), picks: {} });
    for (const m of c.messages) {
      if (!m || !ROLES.has(m.role) || !ids.has(m.parent)) continue;
      const next = ids.size;
      ids.set(m.id, next);
      talk.take(cleanNode(m, next, ids.get(m.parent), id));
    }
    for (const [parent, child] of Object.entries(c.picks || {}))
      if (ids.has(Number(parent)) && ids.has(child)) talk.head.picks[ids.get(Number(parent))] = ids.get(child);
    return talk;
  }).filter((talk) => talk.nodes.size);
}
