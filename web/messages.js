// SPDX-License-Identifier: Apache-2.0
// messages.js - one message as it is seen: its parts, its buttons, what went wrong with it and what to do then.
//
//   article: name / thinking, answer, tool calls, problem / branches, buttons, numbers
//
// While an answer is written `grow` is called now and then with all of it so far; `draw` makes everything anew. What a button does is
// the page's (`actions`): this file shows.

import { CodeBlock } from './code.js';
import { copyText, el, icon, iconButton } from './dom.js';
import { Markdown } from './markdown.js';
import { fullText } from './talk.js';
import { bytes, plural, t } from './text.js';

const seconds = (ms) => (ms < 1000 ? Math.round(ms) + ' ms' : (ms / 1000).toFixed(ms < 9950 ? 1 : 0) + ' s');

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return null;
  }
}

function codeOf(language, text) {
  const c = new CodeBlock(language);
  c.feed(text, true);
  return c.node;
}

const button = (name, label, onclick, attrs) => el('button', { type: 'button', class: 'text-button', onclick, ...attrs }, icon(name), el('span', {}, label));

// What a failure means and what helps: [text, the buttons' names].
export function advice(p) {
  const said = p.message ? ' ' + t('serverSaid', p.message) : '';
  if (p.code === 'cut') return [t('cut'), ['goOn', 'retry']];
  if (p.status === 0) return [t('unreachable'), ['retry']];
  if (p.status === 401) return [t('needKey'), ['askKey', 'retry']];
  if (p.status === 403) return [t('forbidden') + said, ['retry']];
  if (p.status === 404) return [t('noModel') + said, ['openSettings', 'retry']];
  if (p.code === 'context_length_exceeded') return [t('tooLong') + said, ['newTalk', 'retry']];
  if (p.status === 413) return [t('tooLarge') + said, ['newTalk']];
  if (p.status === 429) return [t('tooMany') + said, ['retry']];
  if (p.code === 'model_loading') return [t('modelLoading'), ['retry']];
  if (p.status === 503) return [t('notNow') + said, ['retry']];
  if (p.status === 400) return [(p.param ? t('badField', p.param) : t('badRequest')) + said, ['openSettings', 'retry']];
  return [t('serverFailed', p.id || '-') + said, ['retry']];
}

export class MessageView {
  constructor(node, actions) {
    this.node = node;
    this.actions = actions;
    this.body = el('div', { class: 'body' });
    this.foot = el('div', { class: 'foot' });
    const who = 'who-' + node.id;
    this.root = el('article', { class: 'message ' + node.role, tabindex: '-1', 'data-id': node.id, 'aria-labelledby': who },
      el('h2', { class: 'who', id: who }, node.role === 'user' ? t('you') : node.role === 'tool' ? t('toolResult', node.name || '') : node.model || t('assistant')), this.body, this.foot);
    this.isDrawn = false;
  }

  draw() {
    this.isDrawn = true;
    this.markdown = this.thinking = this.calls = this.problem = this.json = null;
    this.body.replaceChildren();
    if (this.node.role === 'assistant') {
      this.grow(!this.actions.isRunning(this.node));
    } else if (this.node.role === 'tool') {
      this.body.append(pretty(this.node.content) !== null ? codeOf('json', pretty(this.node.content)) : el('pre', { class: 'plain', tabindex: '0', dir: 'auto' }, this.node.content));
    } else {
      for (const f of this.node.files || [])
        this.body.append(el('details', { class: 'file' }, el('summary', {}, icon('file'), ` ${f.name} · ${bytes(f.size)}${f.tokens ? ' · ' + plural('tokens', f.tokens) : ''}`), el('pre', { tabindex: '0', dir: 'auto' }, f.text)));
      if (this.node.content) this.body.append(el('div', { class: 'said', dir: 'auto' }, this.node.content));
    }
    this.drawFoot();
  }

  // ---- an answer ----

  grow(isWhole) {
    const n = this.node;
    if (n.reasoning) this.growThinking(isWhole);
    if (isWhole && n.format && pretty(n.content) !== null) this.drawJson();
    else if (n.content || this.markdown) {
      if (!this.markdown) {
        const box = el('div', { class: 'md' });
        this.body.append(box);
        this.markdown = new Markdown(box, (node, b) => this.actions.onBlock(this.node, node, b));
      }
      this.markdown.update(n.content, isWhole);
    }
    if (n.calls && n.calls.length) this.drawCalls(isWhole);
    this.root.setAttribute('aria-busy', String(!isWhole));
    if (!isWhole && !this.body.firstChild) this.body.append(el('div', { class: 'pulse', 'aria-hidden': 'true' }));
    else if (this.body.firstChild && this.body.firstChild.className === 'pulse' && (isWhole || n.content || n.reasoning || n.calls)) this.body.firstChild.remove();
    if (isWhole) this.drawEnd();
  }

  growThinking(isWhole) {
    const n = this.node;
    if (!this.thinking) {
      const summary = el('summary', {}), box = el('div', { class: 'md' });
      const details = el('details', { class: 'thinking' }, summary, box);
      this.thinking = { summary, box, details, markdown: null };
      details.addEventListener('toggle', () => this.growThinking(!this.actions.isRunning(n)));
      this.body.prepend(details);
    }
    const th = this.thinking, isOver = isWhole || !!n.content || !!(n.calls && n.calls.length);
    const label = !isOver ? t('thinking') : n.thought ? t('thought', seconds(n.thought)) : t('thoughts');
    if (th.summary.textContent !== label) th.summary.textContent = label;
    th.details.classList.toggle('running', !isOver);
    if (!th.details.open) return;
    if (!th.markdown) th.markdown = new Markdown(th.box);
    th.markdown.update(n.reasoning, isOver);
  }

  drawJson() {
    if (this.json) return;
    if (this.markdown) this.markdown.root.remove();
    const whole = (this.json = el('div', { class: 'json' }));
    let isPretty = true;
    const toggle = button('code', t('asWritten'), () => {
      isPretty = !isPretty;
      show();
    }, { class: 'text-button toggle' });
    const show = () => {
      toggle.lastChild.textContent = t(isPretty ? 'asWritten' : 'asJson');
      whole.replaceChildren(codeOf('json', isPretty ? pretty(this.node.content) : this.node.content), toggle);
    };
    show();
    this.body.append(whole);
  }

  drawCalls(isWhole) {
    const n = this.node;
    if (!this.calls) this.body.append((this.calls = el('div', { class: 'calls' })));
    const isOpen = isWhole && this.actions.wantsResults(n);
    this.calls.replaceChildren(...n.calls.map((c, i) => {
      const id = `result-${n.id}-${i}`;
      return el('section', { class: 'call', 'aria-label': t('callOf', c.name) }, el('h3', {}, icon('tool'), ' ' + c.name),
        codeOf('json', pretty(c.arguments) ?? c.arguments),
        isOpen && el('label', { for: id }, t('resultOf', c.name)),
        isOpen && el('textarea', { id, rows: '3', class: 'mono', dir: 'auto', placeholder: t('resultHint') }));
    }));
    if (isOpen)
      this.calls.append(el('button', { type: 'button', class: 'primary', onclick: () => this.actions.sendResults(n, [...this.calls.querySelectorAll('textarea')].map((a) => a.value)) }, t('sendResults')));
  }

  // After the last piece: what went wrong, or how it ended.
  drawEnd() {
    const n = this.node;
    if (this.problem) this.problem.remove();
    this.problem = null;
    if (n.problem) {
      const [text, names] = advice(n.problem);
      const all = { retry: ['again', 'retry'], goOn: ['play', 'goOn'], askKey: ['key', 'enterKey'], openSettings: ['settings', 'openSettings'], newTalk: ['plus', 'newTalk'] };
      this.wait = el('p', { class: 'wait' });
      this.waitText = el('span');
      this.wait.hidden = true;
      this.wait.append(this.waitText, ' ', button('stop', t('noWait'), () => this.actions.stop()));
      this.problem = el('div', { class: 'problem', role: 'alert' }, el('p', {}, text), this.wait,
        el('div', { class: 'row' }, ...names.map((k) => button(all[k][0], t(all[k][1]), () => this.actions[k](n)))));
    } else if (n.finish === 'length' || n.finish === 'stopped' || n.finish === 'interrupted') {
      this.problem = el('div', { class: 'ended' }, el('span', {}, t('ended_' + n.finish)), button('play', t('goOn'), () => this.actions.goOn(n)));
    }
    if (this.problem) this.body.append(this.problem);
    this.drawFoot();
  }

  // "" ends the waiting.
  showWait(text) {
    if (!this.wait) return;
    this.wait.hidden = !text;
    this.waitText.textContent = text;
  }

  // ---- below it ----

  drawFoot() {
    const n = this.node, a = this.actions, isBusy = a.isRunning(n);
    const [i, all] = a.branch(n);
    const parts = [];
    if (all > 1)
      parts.push(el('span', { class: 'branches', role: 'group', 'aria-label': t('branches') },
        iconButton('left', t('branchBefore'), () => a.pick(n, -1), { disabled: i === 0 }), el('span', { class: 'count' }, `${i + 1} / ${all}`),
        iconButton('right', t('branchAfter'), () => a.pick(n, 1), { disabled: i === all - 1 })));
    if (!isBusy) {
      const copy = iconButton('copy', t('copy'), async () => {
        a.announce(t((await copyText(n.role === 'user' ? fullText(n) : n.content)) ? 'copied' : 'notCopied'));
        copy.classList.add('done');
        setTimeout(() => copy.classList.remove('done'), 1500);
      });
      parts.push(copy);
      if (n.role === 'user') parts.push(iconButton('edit', t('edit'), () => this.edit()));
      if (n.role === 'assistant') parts.push(iconButton('again', t('regenerate'), () => a.regenerate(n)));
      parts.push(iconButton('code', t('showRaw'), () => a.raw(n)));
    }
    const s = n.stats;
    if (s && !isBusy)
      parts.push(el('span', { class: 'numbers' }, [plural('tokens', s.output), s.rate ? t('perSecond', s.rate.toFixed(1)) : '', s.first !== undefined ? t('firstAfter', seconds(s.first)) : '',
        s.prompt ? t('promptTokens', s.prompt) + (s.cached ? ' ' + t('cachedTokens', s.cached) : '') : ''].filter(Boolean).join(' · ')));
    this.foot.replaceChildren(...parts);
  }

  edit() {
    const id = 'edit-' + this.node.id;
    const area = el('textarea', { id, rows: '3', dir: 'auto', value: this.node.content, 'aria-label': t('editMessage') });
    const save = () => this.actions.edit(this.node, area.value);
    const leave = () => {
      this.draw();
      this.foot.querySelector('button[aria-label="' + CSS.escape(t('edit')) + '"]')?.focus();
    };
    area.addEventListener('keydown', (e) => {
      if (e.key === 'Escape') {
        e.stopPropagation();
        leave();
      } else if (e.key === 'Enter' && (e.ctrlKey || e.metaKey) && !e.isComposing) save();
    });
    this.body.replaceChildren(area, el('div', { class: 'row' }, el('button', { type: 'button', class: 'primary', onclick: save }, t('saveAndSend')),
      el('button', { type: 'button', onclick: leave }, t('cancel'))));
    this.foot.replaceChildren();
    area.style.height = Math.min(area.scrollHeight + 4, innerHeight / 2) + 'px';
    area.focus();
  }
}
