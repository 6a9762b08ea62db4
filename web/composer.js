// SPDX-License-Identifier: Apache-2.0
// composer.js - where a message is written: its text, files dropped on the page, the button that sends or stops.

import { $, el, iconButton, kept } from './dom.js';
import { countTokens } from './server.js';
import { bytes, plural, t } from './text.js';

const MOST = 8 << 20; // bytes of a file

async function readText(file) {
  if (file.size > MOST) throw new Error(t('fileTooLarge', file.name, bytes(MOST)));
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(await file.arrayBuffer());
    if (!text.includes('\0')) return text;
  } catch {
    // told below
  }
  throw new Error(t('fileNoText', file.name));
}

export class Composer {
  constructor(app) {
    this.app = app;
    this.files = [];
    this.input = $('input');
    this.input.value = kept.get('draft', 'sessionStorage') || '';
    this.input.addEventListener('input', () => this.fit());
    this.input.addEventListener('keydown', (e) => this.onKey(e));
    this.input.addEventListener('paste', (e) => {
      if (e.clipboardData.files.length) {
        e.preventDefault();
        this.take(e.clipboardData.files);
      }
    });
    $('composer').addEventListener('submit', (e) => {
      e.preventDefault();
      this.submit();
    });
    $('attach').addEventListener('click', () => $('attach-file').click());
    $('attach-file').addEventListener('change', (e) => {
      this.take(e.target.files);
      e.target.value = '';
    });
    addEventListener('dragover', (e) => {
      if (!e.dataTransfer.types.includes('Files')) return;
      e.preventDefault();
      document.body.classList.add('dropping');
    });
    addEventListener('dragleave', (e) => !e.relatedTarget && document.body.classList.remove('dropping'));
    addEventListener('drop', (e) => {
      document.body.classList.remove('dropping');
      if (!e.dataTransfer.files.length) return;
      e.preventDefault();
      this.take(e.dataTransfer.files);
    });
    this.fit();
    this.setBusy(false);
  }

  focus() {
    this.input.focus();
  }

  fit() {
    kept.set('draft', this.input.value || null, 'sessionStorage');
    this.input.style.height = 'auto';
    this.input.style.height = Math.min(this.input.scrollHeight + 2, innerHeight * 0.4) + 'px';
  }

  onKey(e) {
    // an input method's Enter chooses a word
    if (e.isComposing || e.keyCode === 229) return;
    if (e.key === 'Enter' && !e.shiftKey) {
      e.preventDefault();
      this.submit();
    } else if (e.key === 'ArrowUp' && !this.input.value && !e.altKey) {
      e.preventDefault();
      this.app.editLast();
    }
  }

  submit() {
    if (this.isBusy) {
      this.app.stop();
      return;
    }
    const text = this.input.value;
    if (!text.trim() && !this.files.length) return;
    const { files } = this;
    this.files = [];
    this.input.value = '';
    this.fit();
    this.drawFiles();
    this.app.send(text, files);
  }

  setBusy(isBusy) {
    this.isBusy = isBusy;
    this.drawTexts();
  }

  drawTexts() {
    const b = $('send'), label = t(this.isBusy ? 'stop' : 'send');
    b.setAttribute('aria-label', label);
    b.title = label;
    b.classList.toggle('busy', this.isBusy);
    b.querySelector('use').setAttribute('href', this.isBusy ? '#i-stop' : '#i-send');
    this.drawFiles();
  }

  // ---- files ----

  async take(list) {
    for (const file of list) {
      try {
        const one = { name: file.name, size: file.size, text: await readText(file), tokens: undefined };
        this.files.push(one);
        this.drawFiles();
        one.tokens = await countTokens(this.app.model(), one.text).catch(() => undefined);
      } catch (e) {
        this.app.toast(e.message);
      }
      this.drawFiles();
      this.app.drawContext();
    }
    this.focus();
  }

  tokens() {
    return this.files.reduce((n, f) => n + (f.tokens || 0), 0);
  }

  drawFiles() {
    $('files').replaceChildren(...this.files.map((f) => el('li', {}, el('span', { dir: 'auto' }, f.name), el('small', {}, ` ${bytes(f.size)}${f.tokens === undefined ? '' : ' · ' + plural('tokens', f.tokens)}`),
      iconButton('close', t('removeFile', f.name), () => {
        this.files = this.files.filter((one) => one !== f);
        this.drawFiles();
        this.app.drawContext();
        this.focus();
      }))));
  }
}
