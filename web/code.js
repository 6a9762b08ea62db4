// SPDX-License-Identifier: Apache-2.0
// code.js - code with its words in colours: a table of languages, one scanner, and a block that grows line by line.
//
//   line + state --scan--> [[class, text], ...] + state      state: null, or the text that ends what is open (a comment, a string)
//
// Classes: k keyword, t type or constant, s string, c comment, n number, f called name, a attribute or key. It colours, it does not parse:
// what it takes wrongly is text of another colour.

import { copyText, el, icon } from './dom.js';
import { t } from './text.js';

const LONG = 2000; // characters of a line over which it stays plain
const HIDDEN = /[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/;

const words = (s) => new Set(s.split(' '));
const C_WORDS = 'break case const continue default do else enum extern for goto if inline register return sizeof static struct switch typedef union volatile while ' +
  'class namespace template typename public private protected virtual override using new delete try catch throw operator constexpr noexcept auto';
const JS_WORDS = 'async await break case catch class const continue default delete do else export extends finally for from function get if import in instanceof let new of ' +
  'return set static super switch this throw try typeof var void while with yield interface type enum implements declare readonly as keyof namespace private public protected';

// line, block: comments; quotes: strings of one line; long: [begin, end] of strings over lines; call: names before "(".
const LANGUAGES = {
  c: { words: words(C_WORDS), types: words('int char void long short float double unsigned signed bool size_t ssize_t uint8_t uint16_t uint32_t uint64_t int8_t int16_t int32_t int64_t NULL true false nullptr std'),
    line: '//', block: ['/*', '*/'], quotes: '"\'', pre: '#' },
  python: { words: words('and as assert async await break class continue def del elif else except finally for from global if import in is lambda match case nonlocal not or pass raise return try while with yield'),
    types: words('None True False self int str float bool list dict set tuple bytes object type range len print Exception'), line: '#', quotes: '"\'', long: [['"""', '"""'], ["'''", "'''"]], at: true },
  js: { words: words(JS_WORDS), types: words('null undefined true false NaN Infinity string number boolean any unknown never object Promise Array Map Set Object String Number JSON Math console'),
    line: '//', block: ['/*', '*/'], quotes: '"\'', long: [['`', '`']], dollar: true },
  json: { words: words(''), types: words('true false null'), quotes: '"', keys: true },
  shell: { words: words('if then else elif fi for while until do done case esac in function return break continue local export readonly declare set unset shift exec exit trap source alias'),
    types: words('echo cd ls cat grep sed awk find xargs curl wget git sudo apt pip python3 make docker tar mkdir rm cp mv chmod true false test printf read'), line: '#', quotes: '"\'', variables: true },
  rust: { words: words('as async await break const continue crate dyn else enum extern fn for if impl in let loop match mod move mut pub ref return self static struct super trait type unsafe use where while'),
    types: words('i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 usize isize f32 f64 bool char str String Vec Option Result Some None Ok Err Box Self true false'), line: '//', block: ['/*', '*/'], quotes: '"', at: true },
  go: { words: words('break case chan const continue default defer else fallthrough for func go goto if import interface map package range return select struct switch type var'),
    types: words('int int8 int16 int32 int64 uint uint8 uint16 uint32 uint64 float32 float64 string bool byte rune error any nil true false iota make len cap append panic'), line: '//', block: ['/*', '*/'], quotes: '"\'', long: [['`', '`']] },
  java: { words: words('abstract assert break case catch class const continue default do else enum extends final finally for if implements import instanceof interface native new package private protected public ' +
    'record return static super switch synchronized this throw throws transient try var volatile while yield fun val when object override'),
    types: words('boolean byte char double float int long short void null true false String Integer Object List Map Set'), line: '//', block: ['/*', '*/'], quotes: '"\'', long: [['"""', '"""']], at: true },
  sql: { words: words('add all alter and as asc begin between by case check column commit constraint create cross database default delete desc distinct drop else end exists explain foreign from full group having if in ' +
    'index inner insert into is join key left like limit not null offset on or order outer over partition primary references returning right rollback select set table then transaction truncate union unique update using values view when where window with'),
    types: words('bigint boolean char count date decimal double float int integer max min avg sum numeric real serial smallint text time timestamp varchar true false'), line: '--', block: ['/*', '*/'], quotes: '"\'', anyCase: true },
  css: { words: words('important media supports import keyframes layer'), types: words('auto none inherit initial flex grid block inline solid'), block: ['/*', '*/'], quotes: '"\'' },
  yaml: { words: words('true false null yes no'), types: words(''), line: '#', quotes: '"\'', colons: true },
};
const NAMES = {
  h: 'c', cpp: 'c', 'c++': 'c', cc: 'c', hpp: 'c', cuda: 'c', csharp: 'java', cs: 'java', kotlin: 'java', py: 'python', python3: 'python', javascript: 'js', jsx: 'js', ts: 'js', tsx: 'js', typescript: 'js',
  mjs: 'js', jsonc: 'json', json5: 'json', jsonl: 'json', sh: 'shell', bash: 'shell', zsh: 'shell', console: 'shell', rs: 'rust', golang: 'go', mysql: 'sql', postgresql: 'sql', sqlite: 'sql', yml: 'yaml', toml: 'yaml', ini: 'yaml',
  html: 'html', xml: 'html', svg: 'html', vue: 'html', scss: 'css', less: 'css',
};

export function languageOf(info) {
  const name = (/^[\w+#-]+/.exec(info) || [''])[0].toLowerCase();
  const known = Object.hasOwn(NAMES, name) ? NAMES[name] : name;
  return known === 'html' || Object.hasOwn(LANGUAGES, known) ? known : '';
}

const NUMBER = /(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*\.?[\d_]*(?:[eE][+-]?\d+)?)[a-zA-Z]{0,4}/y;
const WORD = /[\p{L}_][\p{L}\p{N}_]*/uy;

function at(re, s, i) {
  re.lastIndex = i;
  const m = re.exec(s);
  return m && m[0];
}

// The end of a string of one line that begins at i.
function stringEnd(s, i) {
  for (let k = i + 1; k < s.length; k++) {
    if (s[k] === '\\') k++;
    else if (s[k] === s[i]) return k + 1;
  }
  return s.length;
}

// Where `end` ends at or after i, but for one behind a backslash; -1: not in this line.
function closeAt(s, i, end) {
  let k = i - 1;
  do k = s.indexOf(end, k + 1);
  while (k > 0 && end !== '*/' && s[k - 1] === '\\');
  return k < 0 ? -1 : k + end.length;
}

function scanHtml(s, state) {
  const out = [];
  let i = 0;
  while (i < s.length) {
    if (state === '-->') {
      const end = s.indexOf('-->', i);
      out.push(['c', s.slice(i, end < 0 ? s.length : end + 3)]);
      if (end < 0) return [out, state];
      i = end + 3;
      state = null;
    } else if (state === '>') {
      const rest = at(/\s+|[^\s=>"']+|=|"[^"]*"?|'[^']*'?|>/y, s, i);
      out.push([rest === '>' ? 'k' : /^["']/.test(rest) ? 's' : /^[\w@:.-]+$/.test(rest) ? 'a' : '', rest]);
      i += rest.length;
      if (rest === '>') state = null;
    } else if (s.startsWith('<!--', i)) {
      state = '-->';
    } else {
      const tag = at(/<[/!?]?[\w:-]+/y, s, i);
      const end = s.indexOf('<', i + 1);
      const rest = tag || s.slice(i, end < 0 ? s.length : end);
      out.push([tag ? 'k' : '', rest]);
      i += rest.length;
      if (tag) state = '>';
    }
  }
  return [out, state];
}

export function scan(s, language, state) {
  if (language === 'html') return scanHtml(s, state);
  const l = LANGUAGES[language], out = [];
  let i = 0, plain = 0;
  const put = (kind, end) => {
    if (i > plain) out.push(['', s.slice(plain, i)]);
    if (end > i) out.push([kind, s.slice(i, end)]);
    i = plain = end;
  };
  const open = (kind, begin, end) => {
    const close = closeAt(s, i + begin, end);
    put(kind, close < 0 ? s.length : close);
    if (close < 0) state = end;
  };
  if (state) {
    const end = state;
    state = null;
    open(end === '*/' ? 'c' : 's', 0, end);
  }
  if (l.pre && at(/\s*#\s*[a-z]+/y, s, i)) put('k', i + at(/\s*#\s*[a-z]+/y, s, i).length);
  while (i < s.length && !state) {
    const c = s[i], long = l.long && l.long.find(([begin]) => s.startsWith(begin, i));
    if (l.line && s.startsWith(l.line, i) && (l.line !== '#' || i === 0 || /\s/.test(s[i - 1]))) put('c', s.length);
    else if (l.block && s.startsWith(l.block[0], i)) open('c', l.block[0].length, l.block[1]);
    else if (long) open('s', long[0].length, long[1]);
    else if (l.quotes && l.quotes.includes(c)) {
      const end = stringEnd(s, i);
      put(l.keys && /^\s*:/.test(s.slice(end, end + 20)) ? 'a' : 's', end);
    } else if (c >= '0' && c <= '9') put('n', i + at(NUMBER, s, i).length);
    else if (l.variables && c === '$') put('a', i + 1 + (at(/\{[^}]*\}?|[\w@#?!*]+/y, s, i + 1) || '').length);
    else if (l.at && (c === '@' || (c === '#' && s[i + 1] === '['))) put('a', i + 1 + (at(/\[[^\]]*\]?|[\w.]+/y, s, i + 1) || '').length);
    else {
      const word = at(WORD, s, i);
      if (!word) {
        i++;
        continue;
      }
      const end = i + word.length, known = l.anyCase ? word.toLowerCase() : word;
      const kind = l.words.has(known) ? 'k' : l.types.has(known) ? 't' : s[end] === '(' ? 'f' : l.colons && s[end] === ':' ? 'a' : '';
      if (kind) put(kind, end);
      else i = end;
    }
  }
  put('', i);
  return [out, state];
}

// Signs that are not seen are shown, so that code reads as it runs.
function addText(parent, kind, text) {
  if (HIDDEN.test(text)) {
    for (const c of text) {
      if (HIDDEN.test(c)) parent.append(el('span', { class: 'hidden-sign' }, 'U+' + c.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')));
      else parent.append(c);
    }
  } else if (kind) parent.append(el('span', { class: 'c-' + kind }, text));
  else parent.append(text);
}

export class CodeBlock {
  constructor(info) {
    this.info = info;
    this.language = languageOf(info);
    this.state = null;
    this.at = 0;      // of the text, what is shown in whole lines
    this.text = '';
    this.code = el('code', { dir: 'ltr' });
    this.last = null; // the line that may still grow
    const label = info.split(/\s/)[0] || t('code');
    const copy = el('button', { type: 'button', class: 'copy', onclick: () => this.copy(copy) }, icon('copy'), el('span', {}, t('copy')));
    this.node = el('figure', { class: 'code' }, el('figcaption', {}, el('span', { dir: 'auto' }, label), copy),
      el('pre', { tabindex: '0', 'aria-label': label }, this.code));
  }

  async copy(button) {
    const ok = await copyText(this.text.replace(/\n$/, ''));
    button.lastChild.textContent = t(ok ? 'copied' : 'notCopied');
    setTimeout(() => (button.lastChild.textContent = t('copy')), 2000);
  }

  // All the text so far; whole: its last line will not grow.
  feed(text, whole) {
    this.text = text;
    if (this.last) {
      this.last.remove();
      this.last = null;
    }
    for (let end; (end = text.indexOf('\n', this.at)) >= 0; this.at = end + 1) this.state = this.line(this.code, text.slice(this.at, end) + '\n');
    if (this.at < text.length) {
      this.last = el('span');
      this.line(this.last, text.slice(this.at));
      this.code.append(this.last);
    }
    if (whole) this.last = null;
  }

  line(parent, s) {
    if (!this.language || s.length > LONG) {
      addText(parent, '', s);
      return this.state;
    }
    const [parts, state] = scan(s, this.language, this.state);
    for (const [kind, text] of parts) addText(parent, kind, text);
    return state;
  }
}
