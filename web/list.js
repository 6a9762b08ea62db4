// SPDX-License-Identifier: Apache-2.0
// list.js - the conversations at the side: search, open, rename, delete.

import { $, el, iconButton } from './dom.js';
import { ago, t } from './text.js';

export class TalkList {
  constructor(app) {
    this.app = app;
    this.heads = [];
    this.found = null; // ids that a search of the messages gave; null: no search
    $('search').addEventListener('input', () => this.search());
    $('search').addEventListener('keydown', (e) => {
      if (e.key === 'ArrowDown') $('talks').querySelector('button')?.focus();
      else if (e.key === 'Escape' && $('search').value) {
        e.stopPropagation();
        $('search').value = '';
        this.search();
      }
    });
    $('talks').addEventListener('keydown', (e) => {
      if (e.key !== 'ArrowDown' && e.key !== 'ArrowUp') return;
      const all = [...$('talks').querySelectorAll('.open')], at = all.findIndex((b) => b.closest('li').contains(e.target));
      const next = all[at + (e.key === 'ArrowDown' ? 1 : -1)];
      if (e.target.tagName === 'INPUT') return;
      e.preventDefault();
      (next || $('search')).focus();
    });
  }

  async refresh() {
    this.heads = await this.app.store.list();
    this.draw();
  }

  async search() {
    const words = $('search').value.trim();
    this.words = words.toLowerCase();
    this.found = null;
    this.draw();
    if (!words) return;
    const found = await this.app.store.search(words);
    if ($('search').value.trim() !== words) return;
    this.found = found;
    this.draw();
    this.app.announce(t('found', $('talks').childElementCount));
  }

  shown() {
    if (!this.words) return this.heads;
    return this.heads.filter((h) => h.title.toLowerCase().includes(this.words) || (this.found && this.found.has(h.id)));
  }

  draw() {
    const focused = document.activeElement?.closest?.('#talks li')?.dataset.id;
    $('talks').replaceChildren(...this.shown().map((h) => this.row(h)));
    $('no-talks').hidden = this.shown().length > 0;
    $('no-talks').textContent = t(this.words ? 'noneFound' : 'noTalks');
    this.mark(this.app.talk && this.app.talk.head.id);
    if (focused) $('talks').querySelector(`li[data-id="${CSS.escape(focused)}"] .open`)?.focus();
  }

  row(h) {
    return el('li', { 'data-id': h.id }, el('button', { type: 'button', class: 'open', dir: 'auto', title: h.title, onclick: () => this.app.open(h.id) }, el('span', { class: 'name' }, h.title || t('untitled')), el('small', {}, ago(h.updated))),
      iconButton('edit', t('rename', h.title), () => this.rename(h)), iconButton('trash', t('delete', h.title), () => this.app.remove(h.id)));
  }

  mark(id) {
    for (const li of $('talks').children) li.querySelector('.open')?.[li.dataset.id === id ? 'setAttribute' : 'removeAttribute']('aria-current', 'true');
  }

  rename(h) {
    const li = $('talks').querySelector(`li[data-id="${CSS.escape(h.id)}"]`);
    const input = el('input', { value: h.title, 'aria-label': t('newTitle'), dir: 'auto', maxlength: '200' });
    let isOver = false;
    const end = async (keeps) => {
      if (isOver) return;
      isOver = true;
      if (keeps) await this.app.rename(h.id, input.value);
      await this.refresh();
      $('talks').querySelector(`li[data-id="${CSS.escape(h.id)}"] .open`)?.focus();
    };
    input.addEventListener('keydown', (e) => {
      if (e.isComposing) return;
      if (e.key === 'Enter') end(true);
      else if (e.key === 'Escape') {
        e.stopPropagation();
        end(false);
      }
    });
    input.addEventListener('blur', () => end(true));
    li.replaceChildren(input);
    input.select();
  }
}
