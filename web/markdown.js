// SPDX-License-Identifier: Apache-2.0
// markdown.js - Markdown as models write it, to elements.
//
//   text --nextBlock--> p h hr code math quote item table row --> elements; items and rows join the list or table before them
//
// The text grows at its end while it is written. All blocks but the last are final: they are made once. The last is made again, and
// of code only its last line. Nothing of the text becomes HTML: there are elements made here, and text nodes.
// Left out of CommonMark on purpose: HTML, images (a link instead), reference links, indented code, underlined headings. Formulas stay text.
// Time is linear in the text; what nests is bounded (DEPTH, OPEN), so that no text makes a deep tree.

import { CodeBlock } from './code.js';
import { el } from './dom.js';

const DEPTH = 12;  // quotes and lists within each other
const WIDE = 32;   // columns
const OPEN = 32;   // emphases and brackets that wait for their ends
const REACH = 2000; // characters in which a link's address or a formula must end

const FENCE = /^ {0,3}(`{3,}(?=[^`]*$)|~{3,})/;
const HEADING = /^ {0,3}(#{1,6})(?=\s|$)/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}>/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:([ \t]+)(?=\S)|[ \t]*$)/;
const ALIGN = /^:?-+:?$/; // a cell below a table's head
const MATH = /^ {0,3}(\$\$|\\\[)/;

function lineAt(text, at) {
  let end = text.indexOf('\n', at);
  const next = end < 0 ? text.length : end + 1;
  if (end < 0) end = text.length;
  if (end > at && text[end - 1] === '\r') end--;
  return { s: text.slice(at, end), next, whole: text[next - 1] === '\n' };
}

const isBlank = (s) => s.trim() === '';
const indentOf = (s) => s.length - s.trimStart().length;

function isTable(text, line) {
  if (!line.s.includes('|') || line.next >= text.length) return false;
  const below = lineAt(text, line.next).s;
  if (!/^[ \t]*[|:-]/.test(below)) return false;
  const marks = cells(below);
  return marks.every((c) => ALIGN.test(c)) && marks.length === cells(line.s).length;
}

// Whether a line begins a block of its own within a paragraph.
function interrupts(text, line) {
  const item = ITEM.exec(line.s);
  return FENCE.test(line.s) || HEADING.test(line.s) || RULE.test(line.s) || QUOTE.test(line.s) || MATH.test(line.s) ||
    (item && item[3] && (item[2].length === 1 || item[2].startsWith('1'))) || isTable(text, line);
}

// The block that begins at or after `at`; null: there is none. prev: the one before it, or null.
export function nextBlock(text, at, prev) {
  let line, gap = false;
  for (;; at = line.next, gap = true) {
    if (at >= text.length) return null;
    line = lineAt(text, at);
    if (!isBlank(line.s)) break;
  }
  const b = { kind: 'p', start: at, end: line.next, joins: false };
  const { s } = line;
  let m;
  if (prev && !gap && (prev.kind === 'table' || prev.kind === 'row') && s.includes('|'))
    return Object.assign(b, { kind: 'row', joins: true, columns: prev.columns, text: s });
  if ((m = FENCE.exec(s))) return fence(text, line, m, b);
  if ((m = HEADING.exec(s))) return Object.assign(b, { kind: 'h', level: m[1].length, text: title(s.slice(m[0].length).trim()) });
  if (RULE.test(s)) return Object.assign(b, { kind: 'hr' });
  if ((m = MATH.exec(s))) return math(text, at, m, b);
  if (QUOTE.test(s)) return quote(text, line, b);
  if ((m = ITEM.exec(s))) return item(text, line, m, b, prev);
  if (isTable(text, line)) {
    const below = lineAt(text, line.next);
    const columns = cells(below.s).map((c) => (c.endsWith(':') ? (c.startsWith(':') ? 'center' : 'end') : 'start'));
    return Object.assign(b, { kind: 'table', end: below.next, text: s, columns });
  }
  while (b.end < text.length) {
    line = lineAt(text, b.end);
    if (isBlank(line.s) || interrupts(text, line)) break;
    b.end = line.next;
  }
  b.text = text.slice(at, b.end).trim();
  return b;
}

// Without the marks that may also stand at the end.
function title(s) {
  let n = s.length;
  while (n && s[n - 1] === '#') n--;
  return n < s.length && (!n || /\s/.test(s[n - 1])) ? s.slice(0, n).trim() : s;
}

// Whether a line ends the code that a mark began.
function closes(s, mark) {
  const rest = s.trim();
  return rest.length >= mark.length && indentOf(s) < 4 && rest === mark[0].repeat(rest.length);
}

function fence(text, line, m, b) {
  const indent = indentOf(line.s);
  const from = line.next, lines = [];
  let end = from;
  Object.assign(b, { kind: 'code', info: line.s.slice(m[0].length).trim(), closed: false });
  for (b.end = from; b.end < text.length && !b.closed; b.end = line.next) {
    line = lineAt(text, b.end);
    b.closed = closes(line.s, m[1]);
    if (b.closed) continue;
    end = line.next;
    if (indent) lines.push(line.s.slice(Math.min(indent, indentOf(line.s))) + (line.whole ? '\n' : ''));
  }
  // as it stands, where nothing is cut off: this is called for every piece that arrives
  b.text = indent ? lines.join('') : text.slice(from, end);
  return b;
}

function math(text, at, m, b) {
  const close = m[1] === '$$' ? '$$' : '\\]';
  let line = lineAt(text, at), from = m[0].length;
  b.kind = 'math';
  // to the line that closes it, or a blank one; not looked for behind those: this is called for each of many
  for (;;) {
    b.end = line.next;
    if (line.s.indexOf(close, from) >= 0 || b.end >= text.length) break;
    line = lineAt(text, b.end);
    from = 0;
    if (isBlank(line.s)) break;
  }
  b.text = text.slice(at, b.end).trim();
  return b;
}

function quote(text, line, b) {
  const lines = [line.s.replace(/^ {0,3}> ?/, '')];
  while (b.end < text.length) {
    line = lineAt(text, b.end);
    if (!QUOTE.test(line.s)) break;
    lines.push(line.s.replace(/^ {0,3}> ?/, ''));
    b.end = line.next;
  }
  return Object.assign(b, { kind: 'quote', text: lines.join('\n') });
}

function item(text, line, m, b, prev) {
  const ordered = m[2].length > 1, mark = m[2][m[2].length - 1];
  const indent = m[0].length - (m[3] && m[3].length > 4 ? m[3].length - 1 : 0);
  const lines = [line.s.slice(m[0].length)];
  let was = line.s;
  while (b.end < text.length) {
    line = lineAt(text, b.end);
    const deep = indentOf(line.s);
    if (isBlank(line.s)) {
      // belongs to the item only if what follows does
      let next = b.end, far = line, n = 0;
      for (; next < text.length && isBlank((far = lineAt(text, next)).s); next = far.next) n++;
      if (next >= text.length || indentOf(far.s) < Math.min(indent, 2)) break;
      if (indentOf(far.s) < indent && ITEM.test(far.s)) break;
      lines.push('\n'.repeat(n - 1));
      was = '';
      b.end = next;
      continue;
    } else if (deep < indent && (deep < 2 || ITEM.test(line.s))) {
      if (isBlank(was) || ITEM.test(line.s) || interrupts(text, line)) break;
    }
    lines.push(line.s.slice(Math.min(deep, indent)));
    was = line.s;
    b.end = line.next;
  }
  const joins = !!prev && prev.kind === 'item' && prev.mark === mark && prev.ordered === ordered;
  return Object.assign(b, { kind: 'item', joins, ordered, mark, from: ordered ? parseInt(m[2], 10) : 0, text: lines.join('\n') });
}

// The cells of a table's row; a bar in code or behind a backslash parts none.
function cells(s) {
  const out = [];
  let cell = '', code = false;
  s = s.trim();
  for (let i = s[0] === '|' ? 1 : 0; i < s.length; i++) {
    if (s[i] === '\\' && s[i + 1] === '|') cell += s[++i];
    else if (s[i] === '|' && !code) {
      out.push(cell.trim());
      cell = '';
    } else {
      if (s[i] === '`') code = !code && s.indexOf('`', i + 1) > 0;
      cell += s[i];
    }
  }
  if (cell.trim()) out.push(cell.trim());
  return out;
}

// ---- blocks to elements ----

// By its first letter, as dir="auto" does; but that looks at all children again whenever one is added.
function dirOf(text) {
  const letter = /\p{L}/u.exec(text);
  return letter && /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/.test(letter[0]) ? 'rtl' : 'ltr';
}

function tableRow(tag, b) {
  // rows are filled up only in tables of a sane width: there are never more cells than text
  const all = cells(b.text), columns = b.columns.length > WIDE ? b.columns.slice(0, all.length) : b.columns;
  return el('tr', {}, ...columns.map((align, i) => {
    const c = el(tag, { dir: dirOf(all[i] || ''), class: 'to-' + align });
    if (tag === 'th') c.scope = 'col';
    inline(c, all[i] || '');
    return c;
  }));
}

function makeItem(b, depth) {
  const li = el('li', { dir: dirOf(b.text) });
  const task = /^\[([ xX])\][ \t]+/.exec(b.text);
  if (task) {
    li.className = 'task';
    li.append(el('input', { type: 'checkbox', disabled: true, checked: task[1] !== ' ', 'aria-label': task[1] === ' ' ? '☐' : '☑' }));
  }
  within(li, task ? b.text.slice(task[0].length) : b.text, depth + 1, true);
  return li;
}

function make(b, depth) {
  switch (b.kind) {
    case 'h': {
      const h = el('h' + Math.min(6, b.level + 2), { dir: dirOf(b.text), class: 'h' + b.level });
      inline(h, b.text);
      return h;
    }
    case 'hr': return el('hr');
    case 'code': {
      const c = new CodeBlock(b.info);
      c.feed(b.text, true);
      return c.node;
    }
    case 'math': return el('div', { class: 'math', dir: 'ltr', tabindex: '0' }, b.text.replace(HIDDEN, ''));
    case 'quote': {
      const q = el('blockquote', { dir: dirOf(b.text) });
      within(q, b.text, depth + 1, false);
      return q;
    }
    case 'item': {
      const list = el(b.ordered ? 'ol' : 'ul', { dir: dirOf(b.text) }, makeItem(b, depth));
      if (b.ordered && b.from !== 1) list.start = b.from;
      return list;
    }
    case 'table':
      return el('div', { class: 'table', tabindex: '0', role: 'group' }, el('table', {}, el('thead', {}, tableRow('th', b)), el('tbody')));
    default: {
      const p = el('p', { dir: dirOf(b.text) });
      inline(p, b.text);
      return p;
    }
  }
}

// Puts a block at the end of a parent; the node that it added.
function put(parent, b, depth) {
  const last = parent.lastElementChild;
  if (b.joins && last) {
    const row = b.kind === 'row';
    const node = row ? tableRow('td', b) : makeItem(b, depth);
    (row ? last.querySelector('tbody') : last).append(node);
    return node;
  }
  const node = make(b, depth);
  parent.append(node);
  return node;
}

function within(parent, text, depth, tight) {
  if (depth > DEPTH) {
    parent.append(text);
    return;
  }
  let prev = null, at = 0, b;
  while ((b = nextBlock(text, at, prev))) {
    if (tight && b.kind === 'p' && !prev) {
      // an item's first line stands without a paragraph around it
      const span = el('span', { dir: dirOf(b.text) });
      inline(span, b.text);
      parent.append(span);
    } else put(parent, b, depth);
    prev = b;
    at = b.end;
  }
}

// A text that grows, shown in an element. onBlock: called with each node that is final.
export class Markdown {
  constructor(root, onBlock) {
    this.root = root;
    this.onBlock = onBlock;
    this.at = 0;      // where the block begins that is not final
    this.prev = null; // the one before it
    this.tail = null; // its node
    this.code = null; // its CodeBlock, while it is code that is not closed
  }

  update(text, isWhole) {
    let b = nextBlock(text, this.at, this.prev);
    while (b) {
      const next = nextBlock(text, b.end, b);
      const isFinal = isWhole || !!next;
      this.show(b, isFinal);
      if (!isFinal) return;
      this.at = b.end;
      this.prev = b;
      this.tail = this.code = null;
      b = next;
    }
  }

  show(b, isFinal) {
    const isCode = b.kind === 'code';
    if (!isCode || !this.code || this.code.info !== b.info) {
      if (this.tail) this.tail.remove();
      this.code = isCode ? new CodeBlock(b.info) : null;
      this.tail = isCode ? this.code.node : put(this.root, b, 0);
      if (isCode) this.root.append(this.tail);
    }
    if (isCode) this.code.feed(b.text, isFinal || b.closed);
    if (isFinal && this.onBlock) this.onBlock(this.tail, b);
  }
}

// ---- within a line ----

const SCHEMES = new Set(['http:', 'https:', 'mailto:']);
const URL_AT = /(?:https?:\/\/|mailto:)[^\s<>"'`\u3000-\u303f\uff00-\uff65\u2018-\u201f]{1,2000}/y;
const ENTITIES = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'", nbsp: '\u00a0' };
const HIDDEN = /[\u202a-\u202e\u2066-\u2069]/g; // turns the direction of what follows
const WORD = /[\p{L}\p{N}_]/u;

// The address if a link may go there, else null.
export function safeUrl(s) {
  try {
    const u = new URL(s);
    return SCHEMES.has(u.protocol) && !u.username && !u.password ? u : null;
  } catch {
    return null;
  }
}

function linkTo(url) {
  return el('a', { href: url.href, target: '_blank', rel: 'noopener noreferrer nofollow', title: url.href });
}

// A link whose text looks like another address says where it goes.
function unmask(a, url) {
  const named = /(?:https?:\/\/|www\.)([^\s/:?#]+)/i.exec(a.textContent);
  if (named && url.protocol !== 'mailto:' && named[1].toLowerCase().replace(/^www\./, '') !== url.hostname.replace(/^www\./, ''))
    a.append(' (' + url.hostname + ')');
}

class Inline {
  constructor(parent, text) {
    this.parent = parent;
    this.text = text;
    this.at = 0;
    this.from = 0;      // of text that is not put yet
    this.open = [];     // emphasis marks: {node, ch, n}
    this.brackets = []; // {node, at, marks}: "[" and how many emphases were open there
    this.noTicks = new Map();
    this.ends = new Map(); // of formulas, by what closes them: {from, at}
  }

  flush(end) {
    if (end > this.from) this.parent.append(this.text.slice(this.from, end).replace(HIDDEN, ''));
  }

  // What stood so far, then a node, going on at `next`.
  add(node, next) {
    this.flush(this.at);
    this.parent.append(node);
    this.at = this.from = next;
    return node;
  }

  run() {
    const t = this.text, special = /[\\`*_~[\]<&$\n]|https?:\/\/|mailto:/g;
    let m;
    special.lastIndex = 0;
    while ((m = special.exec(t))) {
      this.at = m.index;
      const before = this.at;
      this.one(t[this.at]);
      special.lastIndex = this.at > before ? this.at : before + 1;
    }
    this.flush(t.length);
  }

  one(c) {
    const t = this.text, i = this.at;
    switch (c) {
      case '\\': return this.escape();
      case '`': return this.ticks();
      case '*': case '_': case '~': return this.mark(c);
      case '[': {
        const node = this.add(document.createTextNode('['), i + 1);
        if (this.brackets.push({ node, at: i, marks: this.open.length }) > OPEN) this.brackets.shift();
        return undefined;
      }
      case ']': return this.link();
      case '<': return this.angle();
      case '&': {
        const m = /&(?:(amp|lt|gt|quot|apos|nbsp)|#(\d{1,6})|#[xX]([0-9a-fA-F]{1,5}));/y;
        m.lastIndex = i;
        const found = m.exec(t);
        if (!found) return undefined;
        const code = parseInt(found[2] || found[3] || '0', found[2] ? 10 : 16);
        const s = found[1] ? ENTITIES[found[1]] : code > 31 && code < 0x110000 && (code < 0xd800 || code > 0xdfff) ? String.fromCodePoint(code) : '\ufffd';
        return this.add(document.createTextNode(s.replace(HIDDEN, '')), i + found[0].length);
      }
      case '$': return this.formula(t[i + 1] === '$' ? '$$' : '$', t[i + 1] === '$' ? '$$' : '$');
      case '\n': return /(?: {2,}|\\)$/.test(t.slice(Math.max(0, i - 3), i)) ? this.newline() : undefined;
      default: return this.bare();
    }
  }

  newline() {
    this.add(el('br'), this.at + 1);
  }

  escape() {
    const next = this.text[this.at + 1];
    if (next === '(' || next === '[') {
      if (this.formula('\\' + next, next === '(' ? '\\)' : '\\]')) return;
    }
    if (next && /[!-/:-@[-`{-~]/.test(next)) {
      this.flush(this.at);
      this.from = this.at + 1; // the sign itself, as text
      this.at += 2;
    } else if (next === '\n') {
      this.add(el('br'), this.at + 2);
    }
  }

  // A formula is shown as it is written, and no sign in it means anything else.
  formula(open, close) {
    const t = this.text, from = this.at + open.length, isDollar = open === '$';
    if (isDollar && /\s|^$/.test(t[from] || '')) return false;
    const end = this.endOf(close, from, isDollar);
    if (end <= from || end > from + REACH) return false;
    this.add(el('span', { class: 'math', dir: 'ltr' }, t.slice(this.at, end + close.length).replace(HIDDEN, '')), end + close.length);
    return true;
  }

  // Where the next formula would end; what was found once is not looked for again.
  endOf(close, from, isDollar) {
    const t = this.text, known = this.ends.get(close);
    if (known && known.from <= from && (known.at < 0 || known.at >= from)) return known.at;
    let at = t.indexOf(close, from);
    while (isDollar && at >= 0 && (/\s/.test(t[at - 1]) || /\d/.test(t[at + 1] || ''))) at = t.indexOf(close, at + 1);
    this.ends.set(close, { from, at });
    return at;
  }

  ticks() {
    const t = this.text, run = /`+/g;
    run.lastIndex = this.at;
    const n = run.exec(t)[0].length, from = this.at + n;
    let m;
    if (!this.noTicks.has(n))
      while ((m = run.exec(t)))
        if (m[0].length === n) {
          let s = t.slice(from, m.index).replace(/\n/g, ' ');
          if (/^ .* $/.test(s) && s.trim()) s = s.slice(1, -1);
          return this.add(el('code', { dir: 'ltr' }, s.replace(HIDDEN, showHidden)), m.index + n);
        }
    this.noTicks.set(n, true);
    this.at = from;
    return undefined;
  }

  mark(c) {
    const t = this.text, i = this.at;
    let n = 1;
    while (t[i + n] === c) n++;
    const before = t[i - 1] || ' ', after = t[i + n] || ' ';
    if (n > 3 || (c === '~' && n !== 2)) {
      this.at = i + n;
      return;
    }
    let opens = !/\s/.test(after), closes = !/\s/.test(before);
    if (c === '_') {
      opens = opens && !WORD.test(before);
      closes = closes && !WORD.test(after);
    }
    const node = this.add(document.createTextNode(t.slice(i, i + n)), i + n);
    let left = n;
    while (closes && left) {
      const k = this.opener(c);
      if (k < 0) break;
      const o = this.open[k], take = c === '~' ? 2 : Math.min(o.n, left) >= 2 ? 2 : 1;
      this.open.length = k + 1;
      this.wrap(el(c === '~' ? 'del' : take === 2 ? 'strong' : 'em'), o.node, node);
      o.n -= take;
      left -= take;
      o.node.data = o.node.data.slice(take);
      node.data = node.data.slice(take);
      if (!o.n) {
        o.node.remove();
        this.open.pop();
      }
    }
    if (!left) node.remove();
    else if (opens && this.open.push({ node, ch: c, n: left }) > OPEN) {
      this.open.shift();
      for (const b of this.brackets) b.marks = Math.max(0, b.marks - 1);
    }
  }

  // The last that such a mark closes.
  opener(c) {
    let k = this.open.length - 1;
    while (k >= 0 && this.open[k].ch !== c) k--;
    return k;
  }

  // What stands between two nodes goes into an element.
  wrap(e, from, to) {
    while (from.nextSibling !== to) e.append(from.nextSibling);
    from.after(e);
    return e;
  }

  link() {
    const b = this.brackets.pop(), t = this.text, i = this.at;
    if (!b) return;
    // closed within an emphasis that has been closed since: its "[" has moved
    if (t[i + 1] !== '(' || b.node.parentNode !== this.parent) return;
    const end = destination(t, i + 2);
    const url = end && safeUrl(end.url);
    if (!url) return;
    this.flush(i);
    this.from = i;
    const a = linkTo(url), mark = document.createTextNode('');
    this.parent.append(mark);
    this.wrap(a, b.node, mark);
    mark.remove();
    // an image is only a link: nothing is fetched
    const prev = a.previousSibling && a.previousSibling.previousSibling;
    b.node.remove();
    if (t[b.at - 1] === '!' && prev && prev.nodeType === 3 && prev.data.endsWith('!')) prev.data = prev.data.slice(0, -1);
    if (!a.textContent.trim()) a.textContent = url.href;
    unmask(a, url);
    this.open.length = Math.min(this.open.length, b.marks);
    this.brackets.length = 0; // no link within a link
    this.at = this.from = end.next;
  }

  angle() {
    const m = /<(?:br ?\/?|((?:https?:\/\/|mailto:)[^\s<>]+))>/iy;
    m.lastIndex = this.at;
    const found = m.exec(this.text);
    if (!found) return;
    const url = found[1] && safeUrl(found[1]);
    if (found[1] && !url) return;
    const node = url ? linkTo(url) : el('br');
    if (url) node.append(found[1]);
    this.add(node, m.lastIndex);
  }

  bare() {
    const t = this.text;
    URL_AT.lastIndex = this.at;
    const m = URL_AT.exec(t);
    if (!m || WORD.test(t[this.at - 1] || ' ')) return;
    // what ends a sentence, and a bracket that was not opened in it, stand behind it
    let s = m[0], extra = s.split(')').length - s.split('(').length;
    while (s && (/[.,;:!?*_~\]]/.test(s[s.length - 1]) || (s.endsWith(')') && extra > 0))) {
      extra -= s.endsWith(')');
      s = s.slice(0, -1);
    }
    const url = safeUrl(s);
    if (!url) return;
    const a = linkTo(url);
    a.append(s.replace(HIDDEN, ''));
    this.add(a, this.at + s.length);
  }
}

// (URL "title"), from behind its "(": {url, next}, or null.
function destination(t, i) {
  const limit = Math.min(t.length, i + REACH);
  let url = '', depth = 0;
  while (t[i] === ' ' || t[i] === '\n') i++;
  if (t[i] === '<') {
    const end = t.indexOf('>', i);
    if (end < 0 || end > limit) return null;
    url = t.slice(i + 1, end);
    i = end + 1;
  } else {
    const from = i;
    for (; i < limit && !/[\s<>]/.test(t[i]); i++) {
      if (t[i] === '\\') i++;
      else if (t[i] === '(' && ++depth > 8) return null;
      else if (t[i] === ')' && --depth < 0) break;
    }
    url = t.slice(from, i).replace(/\\([!-/:-@[-`{-~])/g, '$1');
  }
  const rest = /[ \n]{0,99}(?:"[^"]{0,500}"|'[^']{0,500}')?[ \n]{0,99}\)/y;
  rest.lastIndex = i;
  return rest.test(t) ? { url, next: rest.lastIndex } : null;
}

// A sign that is not seen but acts, for code: where it stands matters.
export function showHidden(c) {
  return '⟨U+' + c.codePointAt(0).toString(16).toUpperCase() + '⟩';
}

export function inline(parent, text) {
  new Inline(parent, text).run();
}
