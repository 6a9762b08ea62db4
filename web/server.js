// SPDX-License-Identifier: Apache-2.0
// server.js - what the pages ask of the server that sent them: answers, streams, and errors as one kind of object.

import { kept } from './dom.js';

export class ServerError extends Error {
  // status 0: no answer at all; "cut": a stream that ended too early
  constructor(status, code, message, more = {}) {
    super(message);
    Object.assign(this, { status, code, param: null, retryAfter: 0, id: '' }, more);
  }
}

export const key = {
  get: () => kept.get('key', 'sessionStorage') || kept.get('key') || '',
  isKept: () => !!kept.get('key'),
  set(value, isKept) {
    kept.set('key', value || null, 'sessionStorage');
    kept.set('key', isKept && value ? value : null);
  },
};

async function failure(r) {
  const text = await r.text().catch(() => '');
  let e = {};
  try {
    e = JSON.parse(text).error || {};
  } catch {
    // a proxy's page, perhaps
  }
  const after = r.headers.get('retry-after') || '';
  return new ServerError(r.status, e.code || null, e.message || text.slice(0, 300) || r.statusText, {
    param: e.param || null,
    retryAfter: /^\d+$/.test(after) ? Number(after) : 0,
    id: r.headers.get('x-request-id') || '',
  });
}

// Addresses are relative to the page, so that it also works below a path of a proxy.
export async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (key.get()) headers.Authorization = 'Bearer ' + key.get();
  if (body) headers['Content-Type'] = 'application/json';
  let r;
  try {
    r = await fetch(path, { method: body ? 'POST' : 'GET', headers, body: body && JSON.stringify(body), signal, cache: 'no-store', credentials: 'same-origin', redirect: 'error' });
  } catch (e) {
    if (signal && signal.aborted) throw e;
    throw new ServerError(0, 'unreachable', String(e.message || e));
  }
  if (!r.ok) throw await failure(r);
  return r;
}

export const askJson = async (path, options) => (await ask(path, options)).json();

// {state: ready loading draining sick offline, progress, models}
export async function state() {
  try {
    const r = await fetch('ready', { cache: 'no-store' });
    const o = await r.json();
    return { state: r.ok ? 'ready' : o.status || 'offline', progress: o.progress || 0, models: o.models || [] };
  } catch {
    return { state: 'offline', progress: 0, models: [] };
  }
}

export const countTokens = async (model, text) => (await askJson('tokenize', { body: { model, prompt: text } })).count;

// The events of a stream, as objects, up to [DONE].
export async function* stream(path, body, signal) {
  const r = await ask(path, { body, signal });
  const reader = r.body.pipeThrough(new TextDecoderStream()).getReader();
  const id = r.headers.get('x-request-id') || '';
  let rest = '';
  try {
    for (;;) {
      let piece;
      try {
        piece = await reader.read();
      } catch (e) {
        if (signal && signal.aborted) throw e;
        break;
      }
      if (piece.done) break;
      const lines = (rest + piece.value).split('\n');
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith('data:')) continue;
        const data = line.slice(5).trim();
        if (data === '[DONE]') return;
        const o = JSON.parse(data);
        if (o.error) throw new ServerError(o.error.type === 'rate_limit_error' ? 429 : 500, o.error.code || null, o.error.message || '', { id });
        yield o;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  throw new ServerError(0, 'cut', '', { id });
}
