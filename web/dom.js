// SPDX-License-Identifier: Apache-2.0
// dom.js - elements made in one call. Text stays text: nothing here parses HTML.

// el('a', {href, class, onclick: f, disabled: true}, child or text, ...)
export function el(tag, attrs = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attrs)) {
    if (v === undefined || v === null || v === false) continue;
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
    else if (k === 'checked' || k === 'value') e[k] = v;
    else e.setAttribute(k, v === true ? '' : v);
  }
  e.append(...children.filter((c) => c !== null && c !== undefined && c !== false));
  return e;
}

export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  use.setAttribute('href', '#i-' + name);
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  svg.append(use);
  return svg;
}

// A button that is only an icon; its name is also its tip.
export function iconButton(name, label, onclick, attrs = {}) {
  return el('button', { type: 'button', class: 'icon-button', 'aria-label': label, title: label, onclick, ...attrs }, icon(name));
}

export const $ = (id) => document.getElementById(id);

export function download(name, type, text) {
  const a = el('a', { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 1000);
}

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // no clipboard without TLS but on localhost
    const area = el('textarea', { class: 'unseen', value: text });
    document.body.append(area);
    area.select();
    const ok = document.execCommand('copy');
    area.remove();
    return ok;
  }
}

// What the browser keeps; where it keeps nothing, for the time of the page.
const fallback = new Map();
export const kept = {
  get(key, area = 'localStorage') {
    try {
      return window[area].getItem('quern.' + key);
    } catch {
      return fallback.get(area + key) ?? null;
    }
  },
  set(key, value, area = 'localStorage') {
    try {
      if (value === null) window[area].removeItem('quern.' + key);
      else window[area].setItem('quern.' + key, value);
    } catch {
      fallback.set(area + key, value);
    }
  },
};
