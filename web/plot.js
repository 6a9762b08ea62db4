// SPDX-License-Identifier: Apache-2.0
// plot.js - lines over time as SVG: told apart by their dashes as well as by colour, named with their latest value, and there as a table.

import { el } from './dom.js';
import { language, t } from './text.js';

const NS = 'http://www.w3.org/2000/svg';

export function svg(tag, attrs, ...children) {
  const e = document.createElementNS(NS, tag);
  for (const [k, v] of Object.entries(attrs)) e.setAttribute(k, v);
  e.append(...children);
  return e;
}

// The least round number that is not below x, of 1, 2, 5 times a power of ten.
function nice(x) {
  const p = 10 ** Math.floor(Math.log10(x));
  return [1, 2, 5, 10].map((k) => k * p).find((k) => k >= x * 0.999);
}

export class Plot {
  // format: a value to its text
  constructor(name, format, { least = 0, most = Infinity, isWide = false } = {}) {
    this.name = name;
    this.format = format;
    this.least = least;
    this.most = most;
    this.legend = el('div', { class: 'legend' });
    this.svg = svg('svg', { class: 'plot', role: 'img' });
    this.table = el('div', { tabindex: '0' });
    this.details = el('details', { ontoggle: () => this.drawTable() }, el('summary', {}, t('asTable')), this.table);
    this.title = el('h2', {}, t(name));
    this.node = el('section', { class: isWide ? 'panel wide' : 'panel' }, el('header', {}, this.title, this.legend), this.svg, this.details);
  }

  // series: [{name, points: [[ms, value or null]...], goal}]; from, to: ms
  draw(series, from, to) {
    this.series = series;
    this.title.textContent = t(this.name);
    this.details.firstChild.textContent = t('asTable');
    const w = this.svg.clientWidth || 400, h = this.svg.clientHeight || 150, left = 46, bottom = 18, top = 4;
    const values = series.flatMap((s) => s.points.map((p) => p[1]).concat(s.goal || [])).filter((v) => v !== null && isFinite(v));
    const high = Math.min(this.most, nice(Math.max(this.least, ...values, 1e-9)));
    const x = (at) => left + ((at - from) / (to - from)) * (w - left - 4), y = (v) => top + (1 - Math.min(v, high) / high) * (h - bottom - top);
    const parts = [];
    for (const k of [0, 0.5, 1]) {
      parts.push(svg('line', { class: 'grid', x1: left, x2: w, y1: y(high * k), y2: y(high * k) }), svg('text', { x: left - 6, y: y(high * k) + 4, 'text-anchor': 'end' }, this.format(high * k)));
    }
    for (const k of [0, 0.5, 1]) {
      const at = new Date(from + (to - from) * k).toLocaleTimeString(language(), { hour: '2-digit', minute: '2-digit', second: '2-digit' });
      parts.push(svg('text', { x: left + (w - left - 4) * k, y: h - 3, 'text-anchor': k === 0 ? 'start' : k === 1 ? 'end' : 'middle' }, at));
    }
    series.forEach((s, i) => {
      let d = '', isOpen = false;
      for (const [at, v] of s.points) {
        if (v === null || !isFinite(v)) {
          isOpen = false;
          continue;
        }
        d += (isOpen ? 'L' : 'M') + x(at).toFixed(1) + ' ' + y(v).toFixed(1);
        isOpen = true;
      }
      if (d) parts.push(svg('path', { class: 'series s' + (i % 6), d }));
      if (s.goal && s.goal <= high) parts.push(svg('line', { class: 'goal s' + (i % 6), x1: left, x2: w, y1: y(s.goal), y2: y(s.goal) }));
    });
    if (!values.length) parts.push(svg('text', { class: 'none', x: (w + left) / 2, y: h / 2 }, t('noData')));
    this.svg.setAttribute('viewBox', `0 0 ${w} ${h}`);
    this.svg.replaceChildren(...parts);
    this.drawLegend();
    this.drawTable();
  }

  latest(s) {
    const v = s.points.length ? s.points[s.points.length - 1][1] : null;
    return v === null ? '–' : this.format(v);
  }

  drawLegend() {
    this.svg.setAttribute('aria-label', t(this.name) + '. ' + this.series.map((s) => t('latest', s.name, this.latest(s))).join(', '));
    this.legend.replaceChildren(...this.series.map((s, i) => el('span', {},
      svg('svg', { viewBox: '0 0 26 8', 'aria-hidden': 'true' }, svg('path', { class: 'series s' + (i % 6), d: 'M0 4H26' })), ` ${s.name} ${this.latest(s)}`)));
  }

  drawTable() {
    if (!this.details.open || !this.series) return;
    const times = this.series.length ? this.series[0].points.slice(-30).reverse() : [];
    this.table.replaceChildren(el('table', {}, el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, t('time')), ...this.series.map((s) => el('th', { scope: 'col', class: 'num' }, s.name)))),
      el('tbody', {}, ...times.map(([at], k) => el('tr', {}, el('td', {}, new Date(at).toLocaleTimeString(language())),
        ...this.series.map((s) => {
          const p = s.points[s.points.length - 1 - k];
          return el('td', { class: 'num' }, p && p[1] !== null ? this.format(p[1]) : '–');
        }))))));
  }
}
