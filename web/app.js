// SPDX-License-Identifier: Apache-2.0
// app.js - the chat page: which conversation is shown, what runs, and what each button and key does.
//
//   composer -> Talk.add -> run: stream of /v1/chat/completions -> node grows -> MessageView.grow, at most once a frame -> store
//
// One answer runs at a time. Every change goes to the store at once, a growing answer every two seconds: a reload finds it.

import { Composer } from './composer.js';
import { $, copyText, download, el, kept } from './dom.js';
import { TalkList } from './list.js';
import { MessageView } from './messages.js';
import { askJson, key, ServerError, state, stream } from './server.js';
import { cleanSettings, showSettings, toRequest } from './settings.js';
import { Store } from './store.js';
import { fromFile, Talk, toFile, toMessages } from './talk.js';
import { applyTexts, language, nextTheme, setLanguage, t } from './text.js';

const SAVE_MS = 2000;
const EAGER = 60; // messages that are drawn at once; those before them when there is time
const sleep = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener('abort', () => {
    clearTimeout(timer);
    resolve();
  });
});

class App {
  constructor() {
    this.talk = null;
    this.views = new Map(); // of the messages shown, by id
    this.models = [];
    this.job = null;        // {node, talk, stop: AbortController}
    this.isStuck = true;    // at the end of the log, and stays there
    this.server = { state: 'unknown' };
    this.store = new Store((why) => this.banner(t('store_' + why)), (id) => this.changedElsewhere(id));
    this.list = new TalkList(this);
    this.composer = new Composer(this);
    this.log = $('log');
  }

  async start() {
    applyTexts();
    this.wire();
    await this.store.open();
    if (!this.store.isLasting) this.banner(t('store_none'));
    await this.list.refresh();
    const id = location.hash.slice(1);
    await this.show(id ? await this.store.load(id) : null);
    document.body.dataset.ready = 'yes';
    this.watch();
  }

  // ---- the server's state and models ----

  async watch() {
    for (;;) {
      await this.look();
      const wait = this.server.state === 'ready' ? 15000 : 1500;
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, document.hidden ? 60000 : wait);
        this.lookNow = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  async look() {
    const was = this.server.state;
    this.server = await state();
    const now = this.server.state;
    if (now !== was && was !== 'unknown') this.announce(t('state_' + now));
    if (now === 'ready' && (was !== 'ready' || !this.models.length)) await this.loadModels();
    this.drawState();
  }

  drawState() {
    const { state: now, progress } = this.server, pill = $('state');
    pill.className = 'pill ' + now;
    $('state-text').textContent = t('state_' + now) + (now === 'loading' ? ` ${Math.round(progress * 100)} %` : '');
  }

  async loadModels() {
    try {
      this.models = (await askJson('v1/models')).data;
      this.drawModels();
    } catch (e) {
      if (e.status === 401) this.askKey();
    }
  }

  drawModels() {
    const select = $('model'), want = (this.talk && this.talk.head.model) || kept.get('model');
    select.replaceChildren(...this.models.map((m) => el('option', { value: m.id }, m.id + (m.status && m.status.value === 'unloaded' ? ' · ' + t('unloaded') : ''))));
    if (this.models.some((m) => m.id === want)) select.value = want;
    this.drawContext();
  }

  model() {
    return $('model').value || (this.talk && this.talk.head.model) || '';
  }

  drawContext() {
    const m = this.models.find((one) => one.id === this.model()), bar = $('context');
    const last = this.talk && this.talk.path().findLast((n) => n.stats && n.stats.total);
    const used = (last ? last.stats.total : 0) + this.composer.tokens(), most = m ? m.max_model_len : 0;
    bar.hidden = !most;
    if (!most) return;
    const text = t('contextUse', used.toLocaleString(language()), most.toLocaleString(language()));
    bar.setAttribute('aria-valuenow', Math.min(used, most));
    bar.setAttribute('aria-valuemax', most);
    bar.setAttribute('aria-valuetext', text);
    bar.title = text;
    bar.classList.toggle('high', used > most * 0.85);
    bar.firstElementChild.style.width = Math.min(100, (100 * used) / most) + '%';
    $('context-text').textContent = text;
  }

  // ---- conversations ----

  settings() {
    return this.talk ? this.talk.head.settings : this.draft;
  }

  async show(talk) {
    this.talk = talk;
    if (!talk) this.draft = cleanSettings(JSON.parse(kept.get('settings') || '{}'));
    const hash = talk ? '#' + talk.head.id : '';
    if (location.hash !== hash) history.pushState(null, '', hash || location.pathname);
    $('title').textContent = talk ? talk.head.title : t('newTalk');
    document.title = (talk && talk.head.title ? talk.head.title + ' · ' : '') + 'Quern';
    $('export').disabled = !talk;
    document.body.classList.remove('side-open');
    if (this.models.length) this.drawModels();
    this.list.mark(talk && talk.head.id);
    this.drawAll();
  }

  drawAll(focusId) {
    const path = this.talk ? this.talk.path() : [];
    for (const n of path) if (n.role === 'assistant' && !n.finish && !n.problem && !this.isRunning(n)) n.finish = 'interrupted';
    const old = this.views, views = path.map((n) => {
      const had = old.get(n.id);
      return had && had.node === n ? had : new MessageView(n, this);
    });
    this.views = new Map(views.map((v) => [v.node.id, v]));
    this.log.replaceChildren(...views.map((v) => v.root), this.log.lastElementChild);
    $('empty').hidden = path.length > 0;
    for (const v of views.slice(-EAGER)) v.draw();
    this.drawEarlier(views.slice(0, -EAGER));
    this.stick(true);
    this.drawContext();
    if (focusId) this.views.get(focusId)?.root.focus();
  }

  // What is far above the end, some at a time, from the end on.
  drawEarlier(views) {
    const go = () => {
      const until = performance.now() + 12;
      while (views.length && performance.now() < until) {
        const v = views.pop();
        if (this.views.get(v.node.id) !== v) return;
        if (!v.isDrawn) v.draw();
      }
      if (this.isStuck) this.stick(true);
      if (views.length) setTimeout(go, 30);
    };
    if (views.length) setTimeout(go, 30);
  }

  // An answer goes on while another conversation is looked at: then it is that object, and not the store's.
  load(id) {
    return this.job && this.job.talk.head.id === id ? this.job.talk : this.store.load(id);
  }

  async open(id) {
    if (this.talk && this.talk.head.id === id) document.body.classList.remove('side-open');
    else await this.show(await this.load(id));
    this.composer.focus();
  }

  async changedElsewhere(id) {
    await this.list.refresh();
    if (this.talk && this.talk.head.id === id && !this.job) await this.show(await this.store.load(id));
  }

  async newTalk() {
    await this.show(null);
    this.composer.focus();
  }

  async rename(id, title) {
    const { head } = this.talk && this.talk.head.id === id ? this.talk : await this.load(id);
    head.title = title.trim().slice(0, 200) || head.title;
    await this.store.saveHead(head);
    if (this.talk && this.talk.head.id === id) $('title').textContent = head.title;
    await this.list.refresh();
  }

  async remove(id) {
    const talk = await this.load(id);
    if (this.job && this.job.talk === talk) this.stop();
    talk.head.gone = Date.now();
    await this.store.saveHead(talk.head);
    if (this.talk && this.talk.head.id === id) await this.show(null);
    await this.list.refresh();
    this.toast(t('deleted', talk.head.title), t('undo'), async () => {
      delete talk.head.gone;
      await this.store.saveHead(talk.head);
      await this.list.refresh();
      await this.open(id);
    });
  }

  async exportAll() {
    const talks = [];
    for (const h of await this.store.list()) talks.push(await this.store.load(h.id));
    this.exportTalks(talks);
  }

  exportTalks(talks) {
    download(`quern-${new Date().toISOString().slice(0, 10)}.json`, 'application/json', toFile(talks));
    this.announce(t('exported', talks.length));
  }

  async importFile(file) {
    try {
      const talks = fromFile(await file.text(), cleanSettings);
      for (const talk of talks) await this.store.saveTalk(talk);
      await this.list.refresh();
      if (talks.length) await this.open(talks[0].head.id);
      this.toast(t('imported', talks.length));
    } catch {
      this.toast(t('notImported', file.name));
    }
  }

  // ---- sending ----

  async send(content, files) {
    if (this.job) return;
    if (!this.talk) {
      const talk = Talk.create(this.draft, this.model());
      talk.head.title = (content.trim().split('\n')[0] || files[0].name).slice(0, 60);
      this.talk = talk;
      history.replaceState(null, '', '#' + talk.head.id);
      $('title').textContent = talk.head.title;
      $('export').disabled = false;
    }
    const last = this.talk.path().at(-1);
    const node = this.talk.add(last ? last.id : 0, 'user', { content, ...(files.length ? { files } : {}) });
    this.append(node);
    await this.store.saveNode(node);
    await this.answer(node);
  }

  append(node) {
    const v = new MessageView(node, this);
    this.views.set(node.id, v);
    this.log.lastElementChild.before(v.root);
    $('empty').hidden = true;
    v.draw();
    this.stick(true);
    return v;
  }

  // A new answer to a message.
  answer(parent) {
    const node = this.talk.add(parent.id, 'assistant', { model: this.model() });
    if (this.settings().format) node.format = this.settings().format;
    this.append(node);
    return this.run(node);
  }

  request(talk, node, goesOn) {
    const nodes = talk.upTo(node), { settings } = talk.head;
    const body = { model: talk.head.model, messages: toMessages(goesOn ? nodes : nodes.slice(0, -1), settings.system), stream: true, stream_options: { include_usage: true }, ...toRequest(settings) };
    return goesOn ? { ...body, continue_final_message: true, add_generation_prompt: false } : body;
  }

  // Until it has ended, well or not. Waiting for the server belongs to it, so that one button stops either.
  async run(node, goesOn = false) {
    const { talk } = this, job = { node, talk, stop: new AbortController() };
    const { signal } = job.stop;
    this.stop();
    this.job = job;
    this.composer.setBusy(true);
    talk.head.updated = Date.now();
    talk.head.model = this.model();
    await this.store.saveHead(talk.head);
    await this.list.refresh();
    for (let tries = 0; !signal.aborted; tries++) {
      delete node.problem;
      delete node.finish;
      this.viewOf(node)?.draw();
      try {
        await this.read(node, this.request(talk, node, goesOn), signal);
      } catch (e) {
        if (signal.aborted) break;
        if (!(e instanceof ServerError)) console.error(e);
        node.problem = { status: e.status ?? -1, code: e.code, message: e.message, param: e.param, id: e.id };
        if (e.status === 401) this.askKey();
      }
      if (!node.problem || tries > 20 || !(await this.waits(node, signal))) break;
    }
    if (signal.aborted && !node.finish && !node.problem) node.finish = 'stopped';
    if (this.job === job) this.job = null;
    this.viewOf(node)?.grow(true);
    await this.store.saveNode(node);
    this.composer.setBusy(!!this.job);
    this.drawContext();
    if (this.talk === talk) this.stick();
    if (!node.problem) this.announce(t('answerEnded'));
  }

  // Whether it is to be tried again: after the time that the server named, or when it is there again.
  async waits(node, signal) {
    const p = node.problem, isBegun = node.content || node.reasoning || node.calls;
    if (isBegun || !(p.status === 0 || p.status === 429 || p.status === 503)) return false;
    const view = this.viewOf(node);
    view?.grow(true);
    for (let left = p.retryAfter || (p.status === 0 ? 0 : 1); left > 0 && !signal.aborted; left--) {
      view?.showWait(t('retryIn', left));
      await sleep(1000, signal);
    }
    for (let n = 0; !signal.aborted; n++) {
      await this.look();
      if (this.server.state === 'ready') break;
      view?.showWait(this.server.state === 'loading' ? t('loadingNow', Math.round(this.server.progress * 100)) : t('waitingForServer'));
      await sleep(Math.min(1000 + n * 200, 4000), signal);
    }
    view?.showWait('');
    return !signal.aborted;
  }

  async read(node, body, signal) {
    const begun = performance.now(), before = node.content;
    let first = 0, thinkingSince = 0, savedAt = begun;
    for await (const o of stream('v1/chat/completions', body, signal)) {
      const now = performance.now(), choice = o.choices && o.choices[0], delta = (choice && choice.delta) || {};
      const thought = delta.reasoning_content ?? delta.reasoning;
      if (!first && (delta.content || thought || delta.tool_calls)) first = now;
      if (thought) {
        thinkingSince ||= now;
        node.reasoning = (node.reasoning || '') + thought;
        node.thought = now - thinkingSince;
      }
      if (delta.content) {
        if (thinkingSince && node.content === before) node.thought = now - thinkingSince;
        node.content += delta.content;
      }
      for (const c of delta.tool_calls || []) this.readCall(node, c);
      if (choice && choice.finish_reason) node.finish = choice.finish_reason;
      if (o.usage || o.timings) this.count(node, o, first ? first - begun : 0, now - first);
      if (now - savedAt > SAVE_MS) {
        savedAt = now;
        this.store.saveNode(node);
      }
      this.redraw(node);
    }
    node.finish ||= 'stop';
  }

  readCall(node, c) {
    node.calls ||= [];
    const call = (node.calls[c.index ?? node.calls.length] ||= { id: '', name: '', arguments: '' });
    if (c.id) call.id = c.id;
    if (c.function) {
      call.name += c.function.name || '';
      call.arguments += c.function.arguments || '';
    }
  }

  count(node, { usage, timings }, first, ms) {
    const s = (node.stats ||= {});
    s.first = first;
    if (usage) {
      s.prompt = usage.prompt_tokens;
      s.output = usage.completion_tokens;
      s.total = usage.total_tokens;
      s.cached = (usage.prompt_tokens_details || {}).cached_tokens || 0;
    }
    if (timings && timings.predicted_n > 1 && timings.predicted_ms > 0) s.rate = ((timings.predicted_n - 1) * 1000) / timings.predicted_ms;
    else if (usage && ms > 0 && s.output > 1 && !s.rate) s.rate = ((s.output - 1) * 1000) / ms;
  }

  // At most once a frame, and so that drawing takes no more than a tenth of the time.
  redraw(node) {
    if (this.drawing) return;
    this.drawing = true;
    const later = Math.max(0, (this.drawnAt || 0) + 10 * (this.drawCost || 0) - performance.now());
    const go = () => {
      this.drawing = false;
      const view = this.viewOf(node), at = performance.now();
      if (!view || !this.isRunning(node)) return;
      view.grow(false);
      this.stick();
      this.drawnAt = performance.now();
      this.drawCost = this.drawnAt - at;
    };
    setTimeout(() => (document.hidden ? go() : requestAnimationFrame(go)), later);
  }

  // ---- what messages ask for ----

  isRunning(node) {
    return !!this.job && this.job.node === node && !node.finish && !node.problem;
  }

  // Ids are a conversation's own: another one that is shown has the same.
  viewOf(node) {
    const v = this.views.get(node.id);
    return v && v.node === node ? v : null;
  }

  branch(node) {
    const all = this.talk.siblings(node);
    return [all.indexOf(node.id), all.length];
  }

  wantsResults(node) {
    return !this.talk.child(node.id) && node.finish !== 'interrupted';
  }

  async pick(node, step) {
    const next = this.talk.pick(node, step);
    if (!next) return;
    this.drawAll(next.id);
    this.viewOf(next)?.root.scrollIntoView({ block: 'nearest' });
    await this.store.saveHead(this.talk.head);
  }

  async regenerate(node) {
    this.stop();
    const parent = this.talk.nodes.get(node.parent);
    this.drawTo(parent);
    await this.answer(parent);
  }

  async edit(node, content) {
    this.stop();
    const files = node.files ? { files: node.files } : {};
    const again = this.talk.add(node.parent, 'user', { content, ...files });
    this.drawTo(this.talk.nodes.get(node.parent));
    this.append(again);
    await this.store.saveNode(again);
    await this.answer(again);
  }

  // Takes what stands below a message off the page; it stays in the tree.
  drawTo(node) {
    const keep = new Set(node ? this.talk.upTo(node).map((n) => n.id) : []);
    for (const [id, v] of this.views)
      if (!keep.has(id)) {
        v.root.remove();
        this.views.delete(id);
      }
  }

  async sendResults(node, results) {
    let last = node;
    for (const [i, c] of node.calls.entries()) {
      last = this.talk.add(last.id, 'tool', { content: results[i], call: c.id, name: c.name });
      this.append(last);
      await this.store.saveNode(last);
    }
    this.viewOf(node).draw();
    await this.answer(last);
  }

  goOn(node) {
    return this.run(node, !!node.content);
  }

  retry(node) {
    if (node.content || node.reasoning || node.calls) return this.regenerate(node);
    return this.run(node);
  }

  raw(node) {
    const { talk, ...rest } = node;
    $('raw-text').textContent = JSON.stringify(node.role === 'assistant' ? { request: this.request(this.talk, node, false), answer: rest } : rest, null, 2);
    $('raw').showModal();
  }

  stop() {
    if (this.job) this.job.stop.abort();
  }

  onBlock(node, element, b) {
    if (!this.job || this.job.node !== node) return;
    this.announce(b.kind === 'code' ? t('codeBlock', b.info || t('code'), b.text.split('\n').length - 1) : element.textContent.slice(0, 2000));
  }

  // ---- around it ----

  stick(isForced) {
    if (isForced) this.isStuck = true;
    if (this.isStuck) this.log.scrollTop = this.log.scrollHeight;
    $('to-end').hidden = this.isStuck;
  }

  // For screen readers: whole blocks, not tokens.
  announce(text) {
    const live = $('live');
    live.append(el('p', {}, text));
    while (live.childElementCount > 6) live.firstElementChild.remove();
  }

  banner(text) {
    $('banner-text').textContent = text;
    $('banner').hidden = false;
  }

  toast(text, label, action) {
    const box = $('toast');
    clearTimeout(this.toastTimer);
    box.replaceChildren(el('span', {}, text));
    const close = () => (box.hidden = true);
    if (action)
      box.append(el('button', { type: 'button', onclick: () => {
        close();
        action();
      } }, label));
    box.hidden = false;
    this.toastTimer = setTimeout(close, action ? 20000 : 6000);
  }

  askKey() {
    if ($('key-dialog').open) return;
    $('key-value').value = key.get();
    $('key-keep').checked = key.isKept();
    $('key-dialog').showModal();
  }

  openSettings() {
    const open = () => showSettings(this.settings(), () => {
      if (this.talk) this.store.saveHead(this.talk.head);
    });
    open();
    $('settings-reset').onclick = () => {
      const s = this.settings();
      for (const k of Object.keys(s)) delete s[k];
      if (this.talk) this.store.saveHead(this.talk.head);
      open();
      this.announce(t('settingsReset'));
    };
    $('settings-keep').onclick = () => {
      kept.set('settings', JSON.stringify(this.settings()));
      this.toast(t('settingsKept'));
    };
    $('settings').showModal();
  }

  redrawTexts() {
    applyTexts();
    this.drawState();
    this.list.refresh();
    this.composer.drawTexts();
    if (!this.talk) $('title').textContent = t('newTalk');
    for (const v of this.views.values()) v.root.remove();
    this.views.clear();
    this.drawAll();
  }

  wire() {
    const on = (id, f, type = 'click') => $(id).addEventListener(type, f);
    on('new', () => this.newTalk());
    on('export', () => this.exportTalks([this.talk]));
    on('export-all', () => this.exportAll());
    on('import', () => $('import-file').click());
    on('import-file', (e) => {
      if (e.target.files[0]) this.importFile(e.target.files[0]);
      e.target.value = '';
    }, 'change');
    on('open-settings', () => this.openSettings());
    on('open-key', () => this.askKey());
    on('open-help', () => $('help').showModal());
    on('menu', () => this.toggleSide());
    on('shade', () => this.toggleSide());
    on('banner-close', () => ($('banner').hidden = true));
    on('to-end', () => this.stick(true));
    on('raw-copy', () => copyText($('raw-text').textContent));
    on('theme', () => this.announce(nextTheme()));
    on('language', () => {
      setLanguage(language() === 'zh' ? 'en' : 'zh');
      this.redrawTexts();
    });
    on('model', () => {
      kept.set('model', this.model());
      if (this.talk) {
        this.talk.head.model = this.model();
        this.store.saveHead(this.talk.head);
      }
      this.drawContext();
    }, 'change');
    on('key-form', () => {
      key.set($('key-value').value.trim(), $('key-keep').checked);
      this.loadModels();
    }, 'submit');
    for (const b of document.querySelectorAll('[data-close]')) b.addEventListener('click', () => b.closest('dialog').close());
    this.log.addEventListener('scroll', () => {
      this.isStuck = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 48;
      $('to-end').hidden = this.isStuck;
    }, { passive: true });
    addEventListener('keydown', (e) => this.onKey(e));
    addEventListener('popstate', async () => {
      const id = location.hash.slice(1);
      if ((this.talk ? this.talk.head.id : '') !== id) this.show(id ? await this.load(id) : null);
    });
    addEventListener('pagehide', () => {
      if (this.job) this.store.saveNode(this.job.node);
    });
    document.addEventListener('visibilitychange', () => !document.hidden && this.lookNow && this.lookNow());
  }

  toggleSide() {
    const isOpen = document.body.classList.toggle('side-open');
    $('menu').setAttribute('aria-expanded', String(isOpen));
    if (isOpen) $('new').focus();
    else $('menu').focus();
  }

  onKey(e) {
    const ctrl = e.ctrlKey || e.metaKey, inText = /^(INPUT|TEXTAREA|SELECT)$/.test(e.target.tagName);
    if (e.isComposing || document.querySelector('dialog[open]')) return;
    const take = (f) => {
      e.preventDefault();
      f();
    };
    if (ctrl && e.shiftKey && e.code === 'KeyO') take(() => this.newTalk());
    else if (ctrl && !e.shiftKey && e.code === 'KeyK') take(() => {
      document.body.classList.add('side-open');
      $('search').focus();
    });
    else if (ctrl && e.code === 'Comma') take(() => this.openSettings());
    else if ((ctrl && e.code === 'Slash') || (e.key === '?' && !inText)) take(() => $('help').showModal());
    else if (e.key === 'Escape' && this.job) take(() => this.stop());
    else if (e.key === 'Escape' && document.body.classList.contains('side-open')) take(() => this.toggleSide());
    else if (e.altKey && (e.key === 'ArrowUp' || e.key === 'ArrowDown')) take(() => this.step(e.key === 'ArrowUp' ? -1 : 1));
    else if (e.key === '/' && !inText) take(() => this.composer.focus());
  }

  // From message to message.
  step(by) {
    const all = [...this.views.values()].map((v) => v.root), at = all.findIndex((m) => m.contains(document.activeElement));
    const next = all[at < 0 ? (by < 0 ? all.length - 1 : 0) : at + by];
    if (next) next.focus();
    else if (by > 0) this.composer.focus();
  }

  // The last message of the user, to be written anew.
  editLast() {
    const last = [...this.views.values()].findLast((v) => v.node.role === 'user');
    if (last && !this.job) last.edit();
  }
}

new App().start();
