// SPDX-License-Identifier: Apache-2.0
// settings.js - what a conversation asks for besides its messages: one table of fields, the form made of it, the request made of it.
// An empty field is not sent: then it is as the model's own generation_config says.

import { $, el } from './dom.js';
import { t } from './text.js';

const FIELDS = [
  { name: 'system', kind: 'text', rows: 3 },
  { name: 'temperature', kind: 'number', min: 0, max: 2, step: 0.05 },
  { name: 'top_p', kind: 'number', min: 0, max: 1, step: 0.01 },
  { name: 'top_k', kind: 'number', min: -1, max: 1000000, step: 1 },
  { name: 'min_p', kind: 'number', min: 0, max: 1, step: 0.01 },
  { name: 'max_tokens', kind: 'number', min: 1, max: 10000000, step: 1 },
  { name: 'seed', kind: 'number', min: 0, max: 9007199254740991, step: 1 },
  { name: 'presence_penalty', kind: 'number', min: -2, max: 2, step: 0.1 },
  { name: 'frequency_penalty', kind: 'number', min: -2, max: 2, step: 0.1 },
  { name: 'repetition_penalty', kind: 'number', min: 0.01, max: 10, step: 0.01 },
  { name: 'stop', kind: 'text', rows: 2 },
  { name: 'thinking', kind: 'choice', of: ['', 'on', 'off'] },
  { name: 'format', kind: 'choice', of: ['', 'json_object', 'json_schema'] },
  { name: 'schema', kind: 'json', rows: 6, code: true },
  { name: 'tools', kind: 'json', rows: 6, code: true },
  { name: 'tool_choice', kind: 'choice', of: ['', 'auto', 'required', 'none'] },
  { name: 'extra', kind: 'json', rows: 2, code: true },
];
const GROUPS = [['system'], ['temperature', 'top_p', 'top_k', 'min_p', 'max_tokens', 'seed', 'presence_penalty', 'frequency_penalty', 'repetition_penalty'],
  ['stop', 'thinking'], ['format', 'schema'], ['tools', 'tool_choice'], ['extra']];

// Only what is known, and as it may be.
export function cleanSettings(o) {
  const out = {};
  for (const f of FIELDS) {
    const v = o[f.name];
    if (f.kind === 'number' ? typeof v === 'number' && v >= f.min && v <= f.max : f.kind === 'choice' ? v && f.of.includes(v) : typeof v === 'string' && v) out[f.name] = v;
  }
  return out;
}

function problemOf(f, value) {
  if (f.kind === 'number' && value !== '' && !(Number(value) >= f.min && Number(value) <= f.max)) return t('wantNumber', f.min, f.max);
  if (f.kind !== 'json' || !value.trim()) return '';
  try {
    const o = JSON.parse(value);
    if (f.name === 'tools' ? !Array.isArray(o) : !o || typeof o !== 'object' || Array.isArray(o)) return t(f.name === 'tools' ? 'wantArray' : 'wantObject');
  } catch (e) {
    return t('badJson', e.message);
  }
  return '';
}

function control(f, value, onchange) {
  const id = 'set-' + f.name, note = el('small', { id: id + '-note', class: 'note' }, t('about_' + f.name));
  const attrs = { id, name: f.name, 'aria-describedby': note.id };
  let input;
  if (f.kind === 'choice') {
    input = el('select', attrs, ...f.of.map((v) => el('option', { value: v }, t('choice_' + f.name + '_' + v))));
  } else if (f.kind === 'number') {
    input = el('input', { ...attrs, type: 'number', min: f.min, max: f.max, step: 'any', placeholder: t('default') });
  } else {
    input = el('textarea', { ...attrs, rows: f.rows, spellcheck: f.code ? 'false' : 'true', class: f.code ? 'mono' : '', dir: f.code ? 'ltr' : 'auto' });
  }
  input.value = value ?? '';
  input.addEventListener('input', () => {
    const problem = problemOf(f, input.value);
    input.setAttribute('aria-invalid', String(!!problem));
    note.textContent = problem || t('about_' + f.name);
    note.classList.toggle('bad', !!problem);
    if (!problem) onchange(f.name, f.kind === 'number' && input.value !== '' ? Number(input.value) : input.value);
  });
  return el('div', { class: 'field ' + f.kind }, el('label', { for: id }, t('set_' + f.name)), input, note);
}

// Fills the dialog; onchange gets the settings whenever a valid field has changed.
export function showSettings(settings, onchange) {
  const body = $('settings-body');
  const change = (name, value) => {
    if (value === '') delete settings[name];
    else settings[name] = value;
    onchange(settings);
  };
  body.replaceChildren(...GROUPS.map((names) => el('div', { class: 'group' }, ...names.map((name) => {
    const f = FIELDS.find((one) => one.name === name);
    return control(f, settings[name], change);
  }))));
}

// The request's fields besides model and messages.
export function toRequest(s) {
  const r = {};
  for (const f of FIELDS) if (f.kind === 'number' && s[f.name] !== undefined) r[f.name] = s[f.name];
  const stop = (s.stop || '').split('\n').filter((line) => line);
  if (stop.length) r.stop = stop;
  if (s.thinking) r.chat_template_kwargs = { enable_thinking: s.thinking === 'on' };
  if (s.format === 'json_object') r.response_format = { type: 'json_object' };
  if (s.format === 'json_schema' && s.schema) r.response_format = { type: 'json_schema', json_schema: { name: 'answer', strict: true, schema: JSON.parse(s.schema) } };
  if (s.tools) {
    r.tools = JSON.parse(s.tools);
    if (s.tool_choice) r.tool_choice = s.tool_choice;
  }
  return Object.assign(r, s.extra ? JSON.parse(s.extra) : {});
}
