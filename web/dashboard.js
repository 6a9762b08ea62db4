// SPDX-License-Identifier: Apache-2.0
// dashboard.js - the page of whoever runs the server: what it does now and did lately, from /metrics, /ready and /debug/timeline.
//
//   every 2 s: /metrics -> a reading; the last hour of them is kept here -> tiles, plots, classes
//   every 4 s: /debug/timeline -> the last requests
//
// Everything is computed of counters' differences within the chosen window: a restart of the server loses nothing but the step across it.

import { $, el, kept } from './dom.js';
import { grown, percentile, rate, reading, view } from './metrics.js';
import { Plot, svg } from './plot.js';
import { ask, askJson, key, state } from './server.js';
import { applyTexts, bytes, language, nextTheme, setLanguage, t } from './text.js';

const EVERY = 2000, KEPT = 3600000;
const SMOOTH = 5;     // readings over which a rate in a plot is taken
const LATELY = 15;    // and a percentile
const REQUESTS = 40;

const number = (v) => (v >= 1e6 ? (v / 1e6).toFixed(1) + ' M' : v >= 1e4 ? (v / 1e3).toFixed(0) + ' k' : v >= 100 || Number.isInteger(v) ? v.toFixed(0) : v >= 1 ? v.toFixed(1) : v === 0 ? '0' : v.toPrecision(2));
const time = (s) => (s >= 10 ? s.toFixed(0) + ' s' : s >= 1 ? s.toFixed(1) + ' s' : s === 0 ? '0' : s >= 0.01 ? (s * 1000).toFixed(0) + ' ms' : (s * 1000).toPrecision(2) + ' ms');
const percent = (v) => (v * 100).toFixed(v >= 0.9995 || v === 0 ? 0 : 1) + ' %';
const money = (v) => (v === 0 ? '0' : v >= 100 ? v.toFixed(0) : v >= 1 ? v.toFixed(2) : v.toPrecision(2));
const orDash = (v, f) => (v === null || v === undefined || !isFinite(v) ? '–' : f(v));

class Dashboard {
  constructor() {
    this.readings = [];
    this.isPaused = false;
    this.server = { state: 'unknown' };
    this.plots = {
      throughput: new Plot('throughput', number, { least: 1 }),
      batch: new Plot('batch', number, { least: 1 }),
      queue: new Plot('queue', number, { least: 2 }),
      kv: new Plot('kvUse', percent, { least: 1, most: 1 }),
      latency: new Plot('latency', time, { least: 0.01 }),
      attainment: new Plot('attainment', percent, { least: 1, most: 1 }),
      steps: new Plot('steps', time, { least: 0.0001 }),
      cost: new Plot('costPerMillion', money, { least: 0.01 }),
    };
    this.classes = el('tbody');
    this.requests = el('tbody');
    this.classHead = el('tr');
    this.requestHead = el('tr');
    this.classTitle = el('h2');
    this.requestTitle = el('h2');
    this.phases = el('div', { class: 'legend' });
    $('panels').append(el('section', { class: 'panel wide', tabindex: '0', 'aria-labelledby': 'classes-title' }, this.classTitle, el('table', {}, el('thead', {}, this.classHead), this.classes)),
      ...Object.values(this.plots).map((p) => p.node),
      el('section', { class: 'panel wide', tabindex: '0', 'aria-labelledby': 'requests-title' }, el('header', {}, this.requestTitle, this.phases), el('table', {}, el('thead', {}, this.requestHead), this.requests)));
    this.classTitle.id = 'classes-title';
    this.requestTitle.id = 'requests-title';
  }

  start() {
    const on = (id, f, type = 'click') => $(id).addEventListener(type, f);
    this.texts();
    $('price').value = kept.get('price') || '';
    on('window', () => {
      kept.set('window', $('window').value);
      this.draw();
    }, 'change');
    on('model', () => this.draw(), 'change');
    on('price', () => {
      kept.set('price', $('price').value || null);
      this.draw();
    }, 'input');
    on('pause', () => {
      this.isPaused = !this.isPaused;
      $('pause').textContent = t(this.isPaused ? 'resume' : 'pause');
      $('pause').setAttribute('aria-pressed', String(this.isPaused));
      this.draw();
    });
    on('theme', () => nextTheme());
    on('language', () => {
      setLanguage(language() === 'zh' ? 'en' : 'zh');
      this.texts();
      this.draw(true);
      this.drawRequests();
    });
    on('open-key', () => this.askKey());
    on('key-form', () => key.set($('key-value').value.trim(), $('key-keep').checked), 'submit');
    for (const b of document.querySelectorAll('[data-close]')) b.addEventListener('click', () => b.closest('dialog').close());
    addEventListener('resize', () => this.draw());
    document.body.dataset.ready = 'yes';
    this.watch();
  }

  texts() {
    applyTexts();
    const minutes = kept.get('window') || '5';
    $('window').replaceChildren(...[1, 5, 15, 60].map((n) => el('option', { value: String(n) }, t('minutes', n))));
    $('window').value = minutes;
    $('pause').textContent = t(this.isPaused ? 'resume' : 'pause');
    this.classTitle.textContent = t('classes');
    this.requestTitle.textContent = t('timeline');
    const head = (row, names) => row.replaceChildren(...names.map(([name, isNumber]) => el('th', { scope: 'col', class: isNumber ? 'num' : '' }, name)));
    head(this.classHead, [[t('class')], [t('target'), 1], [t('attained'), 1], [t('answers'), 1], [t('answer') + ' p50', 1], ['p95', 1], ['p99', 1], [t('first') + ' p50', 1], ['p95', 1], [t('gap') + ' p95', 1],
      [t('running'), 1], [t('waiting'), 1], [t('refused'), 1], [t('preempted'), 1], [t('share'), 1]]);
    head(this.requestHead, [[t('request')], [t('class')], [t('status')], [t('tokensInOut')], [t('first'), 1], [t('answer'), 1], [t('course')]]);
    this.phases.replaceChildren(...['queue', 'prefill', 'decode'].map((p) => el('span', {}, svg('svg', { viewBox: '0 0 26 8', 'aria-hidden': 'true', class: 'course-key' }, svg('rect', { class: 'p-' + p, x: 1, y: 0, width: 24, height: 8 })), ' ' + t('phase_' + p))));
    this.drawModels();
  }

  askKey() {
    if ($('key-dialog').open) return;
    $('key-value').value = key.get();
    $('key-keep').checked = key.isKept();
    $('key-dialog').showModal();
  }

  async watch() {
    for (let n = 0; ; n++) {
      if (!document.hidden) {
        this.server = await state();
        await this.read(n % 2 === 0);
      }
      await new Promise((resolve) => setTimeout(resolve, EVERY));
    }
  }

  async read(withRequests) {
    try {
      const r = reading(await (await ask('metrics')).text(), Date.now());
      this.readings.push(r);
      while (this.readings[0].at < r.at - KEPT) this.readings.shift();
      if (withRequests) this.trace = (await askJson('debug/timeline?last=' + REQUESTS)).traceEvents;
    } catch (e) {
      if (e.status === 401) this.askKey();
    }
    if (this.isPaused) return;
    this.draw();
    if (withRequests) this.drawRequests();
  }

  drawModels() {
    const last = this.readings.at(-1), names = last ? Object.keys(last.models) : [], was = $('model').value;
    if ($('model').childElementCount === names.length + 1 && $('model').firstChild.textContent === t('allModels')) return;
    $('model').replaceChildren(el('option', { value: '' }, t('allModels')), ...names.map((n) => el('option', { value: n }, n)));
    $('model').value = names.includes(was) ? was : '';
  }

  draw(isForced) {
    $('state').className = 'pill ' + this.server.state;
    $('state-text').textContent = t('state_' + this.server.state) + (this.isPaused ? ' · ' + t('paused') : '');
    if (this.isPaused && !isForced && this.shown) this.drawShown();
    else {
      this.shown = this.readings.slice();
      this.drawModels();
      this.drawShown();
    }
  }

  drawShown() {
    if (!this.shown.length) return;
    const to = this.shown.at(-1).at, from = to - Number($('window').value) * 60000, model = $('model').value;
    const views = this.shown.filter((r) => r.at >= from).map((r) => view(r, model));
    const a = views[0], b = views.at(-1), first = this.shown.find((r) => r.at >= from), last = this.shown.at(-1);
    this.tiles(a, b, first, last);
    this.drawPlots(views, from, to);
    this.drawClasses(a, b);
    $('up').textContent = last.started ? t('up', time2(to / 1000 - last.started)) : '';
  }

  tiles(a, b, first, last) {
    const written = grown(a, b, 'written'), price = Number($('price').value) || 0, hours = (b.at - a.at) / 3600000;
    const targets = Object.keys(b.classes).filter((c) => b.classes[c].target), sum = (k) => targets.reduce((n, c) => n + grown(a.classes[c] || {}, b.classes[c], k), 0);
    const done = sum('done'), queries = grown(a, b, 'queries');
    const tile = (name, value, unit) => el('div', { class: 'tile' }, el('dt', {}, t(name)), el('dd', { class: 'value' }, value), el('dd', { class: 'unit' }, unit));
    $('tiles').replaceChildren(
      tile('outputRate', number(rate(a, b, 'written')), t('tokensPerSecond')),
      tile('inputRate', number(rate(a, b, 'read')), t('tokensPerSecond')),
      tile('running', number(b.running || 0), t('queueWaiting', number((b.waiting || 0) + (b.opening || 0)))),
      tile('kvUse', orDash(b.used / b.blocks, percent), t('kvHeld')),
      tile('attained', done ? percent(sum('met') / done) : '–', done ? t('inWindow') : t('noTarget')),
      tile('hitRate', queries ? percent(grown(a, b, 'hits') / queries) : '–', t('ofPrompts')),
      tile('costPerMillion', price && written ? money((price * hours * 1e6) / written) : '–', price ? t('costWritten') : t('costHint')),
      tile('failures', number(Math.max(0, last.errors - first.errors)), t('inWindow')),
      tile('memory', bytes(last.memory || 0), ''));
  }

  drawPlots(views, from, to) {
    const per = (f, n = SMOOTH) => views.map((v, i) => [v.at, i ? f(views[Math.max(0, i - n)], v) : null]);
    const now = (f) => views.map((v) => [v.at, f(v)]);
    const names = Object.keys(views.at(-1).classes), of = (v, c) => v.classes[c] || {};
    const ratio = (k) => (x, y) => (grown(x, y, 'steps') ? grown(x, y, k) / grown(x, y, 'steps') : null);
    const p = this.plots;
    p.throughput.draw([{ name: t('outputRate'), points: per((x, y) => rate(x, y, 'written')) }, { name: t('inputRate'), points: per((x, y) => rate(x, y, 'read')) }], from, to);
    p.batch.draw([{ name: t('rows'), points: per(ratio('rows')) }, { name: t('sequences'), points: per(ratio('sequences')) }], from, to);
    p.queue.draw(names.flatMap((c) => [{ name: `${c}: ${t('waiting')}`, points: now((v) => of(v, c).waiting || 0) }, { name: `${c}: ${t('running')}`, points: now((v) => of(v, c).running || 0) }]), from, to);
    p.kv.draw([{ name: t('kvHeld'), points: now((v) => (v.blocks ? v.used / v.blocks : null)) }, { name: t('kvCached'), points: now((v) => (v.blocks ? v.cached / v.blocks : null)) }], from, to);
    p.latency.draw(names.map((c) => ({ name: c, points: per((x, y) => percentile(of(x, c).answer, of(y, c).answer, 0.95), LATELY), goal: of(views.at(-1), c).target })), from, to);
    p.attainment.draw(names.filter((c) => of(views.at(-1), c).target).map((c) => ({ name: c, points: per((x, y) => {
      const done = grown(of(x, c), of(y, c), 'done');
      return done ? grown(of(x, c), of(y, c), 'met') / done : null;
    }, LATELY) })), from, to);
    p.steps.draw(['model', 'schedule', 'sample'].map((part) => ({ name: t('part_' + part), points: per((x, y) => (grown(x, y, 'steps') ? grown(x.parts, y.parts, part) / grown(x, y, 'steps') : null)) })), from, to);
    const price = Number($('price').value) || 0;
    p.cost.draw([{ name: t('outputRate'), points: per((x, y) => (price && grown(x, y, 'written') ? (price * (y.at - x.at)) / 3.6 / grown(x, y, 'written') : null), LATELY) }], from, to);
  }

  drawClasses(a, b) {
    const all = Object.keys(b.classes).reduce((n, c) => n + grown(a.classes[c] || {}, b.classes[c], 'seconds'), 0);
    this.classes.replaceChildren(...Object.entries(b.classes).map(([name, y]) => {
      const x = a.classes[name] || {}, done = grown(x, y, 'done'), met = done ? grown(x, y, 'met') / done : null;
      const at = (of, q) => percentile(x[of], y[of], q), p95 = at('answer', 0.95);
      const num = (text, cls = '') => el('td', { class: 'num ' + cls }, text);
      // a word and a colour
      const verdict = y.target && p95 !== null ? (p95 <= y.target ? [' ✓', 'ok'] : [' ✗', 'no']) : ['', ''];
      return el('tr', {}, el('th', { scope: 'row' }, name), num(y.target ? time(y.target) : t('noTarget')), num(y.target ? orDash(met, percent) : '–'), num(number(done)), num(orDash(at('answer', 0.5), time)),
        num(orDash(p95, time) + verdict[0], verdict[1]), num(orDash(at('answer', 0.99), time)), num(orDash(at('first', 0.5), time)), num(orDash(at('first', 0.95), time)), num(orDash(at('gap', 0.95), time)),
        num(number(y.running || 0)), num(number(y.waiting || 0)), num(number(grown(x, y, 'refused'))), num(number(grown(x, y, 'preempted'))), num(all ? percent(grown(x, y, 'seconds') / all) : '–'));
    }));
  }

  drawRequests() {
    const rows = new Map();
    for (const e of this.trace || []) {
      const id = e.pid + '/' + e.tid;
      if (e.ph === 'M' && e.name === 'thread_name') rows.set(id, { id: e.args.name, phases: [] });
      else if (e.ph === 'X' && rows.has(id)) Object.assign(rows.get(id), { args: e.args }).phases.push(e);
    }
    const all = [...rows.values()].filter((r) => r.phases.length).reverse();
    const from = Math.min(...all.map((r) => r.phases[0].ts)), to = Math.max(...all.map((r) => r.phases.at(-1).ts + r.phases.at(-1).dur));
    const x = (ts) => ((ts - from) / Math.max(1, to - from)) * 600;
    if (!all.length) {
      this.requests.replaceChildren(el('tr', {}, el('td', { colspan: '7' }, t('noRequests'))));
      return;
    }
    this.requests.replaceChildren(...all.map((r) => {
      const begin = r.phases[0].ts, end = r.phases.at(-1).ts + r.phases.at(-1).dur, decode = r.phases.find((e) => e.name === 'decode');
      const says = r.phases.map((e) => `${t('phase_' + e.name)} ${time(e.dur / 1e6)}`).join(', ');
      return el('tr', {}, el('td', { class: 'mono' }, r.id.length > 24 ? '…' + r.id.slice(-16) : r.id), el('td', {}, r.args.class), el('td', { class: r.args.status < 400 ? '' : 'no' }, `${r.args.status} ${r.args.reason || r.args.finish}`),
        el('td', {}, `${r.args.prompt_tokens} → ${r.args.output_tokens}${r.args.cached_tokens ? ' · ' + t('cachedShort', r.args.cached_tokens) : ''}`), el('td', { class: 'num' }, decode ? time((decode.ts - begin) / 1e6) : '–'),
        el('td', { class: 'num' }, time((end - begin) / 1e6)),
        el('td', {}, svg('svg', { class: 'course', viewBox: '0 0 600 14', preserveAspectRatio: 'none', role: 'img', 'aria-label': says }, svg('title', {}, says),
          ...r.phases.map((e) => svg('rect', { class: 'p-' + e.name, x: x(e.ts), y: 1, width: Math.max(1.5, x(e.ts + e.dur) - x(e.ts)), height: 12 })))));
    }));
  }
}

function time2(s) {
  const d = Math.floor(s / 86400), h = Math.floor((s % 86400) / 3600), m = Math.floor((s % 3600) / 60);
  return d ? `${d} d ${h} h` : h ? `${h} h ${m} min` : m ? `${m} min` : `${Math.max(0, Math.floor(s))} s`;
}

new Dashboard().start();
