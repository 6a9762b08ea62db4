// SPDX-License-Identifier: Apache-2.0
// store.js - conversations in the browser's own database (IndexedDB), and nowhere else.
//
//   talks   id -> head (title, times, settings, picks); `gone`: thrown away, and away for good after a day
//   nodes   [talk, id] -> message, one row each: an answer that grows writes only its own
//
// Without a database (a private window) all is kept in memory, and `isLasting` says so. What fails is told to `onFail`: "full" or "broken".

import { Talk } from './talk.js';

const DAY = 86400000;

const done = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

export class Store {
  constructor(onFail, onOther) {
    this.onFail = onFail;
    this.isLasting = true;
    this.memory = { talks: new Map(), nodes: new Map() };
    // other windows of the same browser
    this.channel = 'BroadcastChannel' in window ? new BroadcastChannel('quern') : null;
    if (this.channel) this.channel.onmessage = (e) => onOther(e.data);
  }

  async open() {
    try {
      const request = indexedDB.open('quern', 1);
      request.onupgradeneeded = () => {
        request.result.createObjectStore('talks', { keyPath: 'id' });
        request.result.createObjectStore('nodes', { keyPath: ['talk', 'id'] });
      };
      this.db = await done(request);
      this.db.onversionchange = () => this.db.close();
    } catch {
      this.isLasting = false;
    }
    for (const h of await this.all('talks')) if (h.gone && h.gone < Date.now() - DAY) await this.remove(h.id);
  }

  async all(name, range) {
    if (this.db) return done(this.db.transaction(name).objectStore(name).getAll(range));
    return [...this.memory[name].values()].filter((v) => !range || v.talk === range.lower[0]);
  }

  // All of them, or none.
  async put(name, ...values) {
    if (!this.db) {
      for (const v of values) this.memory[name].set(name === 'talks' ? v.id : v.talk + '/' + v.id, v);
      return;
    }
    try {
      const tx = this.db.transaction(name, 'readwrite');
      for (const v of values) tx.objectStore(name).put(v);
      await new Promise((resolve, reject) => {
        tx.oncomplete = resolve;
        tx.onabort = () => reject(tx.error);
      });
    } catch (e) {
      this.onFail(e && e.name === 'QuotaExceededError' ? 'full' : 'broken');
    }
  }

  // Heads, the last used first.
  async list() {
    return (await this.all('talks')).filter((h) => !h.gone).sort((a, b) => b.updated - a.updated);
  }

  async load(id) {
    const head = (await this.all('talks')).find((h) => h.id === id);
    if (!head) return null;
    const nodes = await this.all('nodes', this.rangeOf(id));
    return new Talk(head, nodes.sort((a, b) => a.id - b.id));
  }

  rangeOf(id) {
    return this.db ? IDBKeyRange.bound([id, 0], [id, Infinity]) : { lower: [id] };
  }

  async saveHead(head) {
    await this.put('talks', head);
    if (this.channel) this.channel.postMessage(head.id);
  }

  saveNode(node) {
    return this.put('nodes', node);
  }

  async saveTalk(talk) {
    await this.put('nodes', ...talk.nodes.values());
    await this.saveHead(talk.head);
  }

  async remove(id) {
    if (!this.db) {
      this.memory.talks.delete(id);
      return;
    }
    const tx = this.db.transaction(['talks', 'nodes'], 'readwrite');
    tx.objectStore('talks').delete(id);
    tx.objectStore('nodes').delete(this.rangeOf(id));
  }

  // The ids of conversations with a message that has the words.
  async search(words) {
    const want = words.toLowerCase(), found = new Set();
    const look = (n) => {
      if (!found.has(n.talk) && n.content.toLowerCase().includes(want)) found.add(n.talk);
    };
    if (!this.db) {
      this.memory.nodes.forEach(look);
      return found;
    }
    await new Promise((resolve, reject) => {
      const request = this.db.transaction('nodes').objectStore('nodes').openCursor();
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (!cursor) {
          resolve();
          return;
        }
        look(cursor.value);
        cursor.continue();
      };
    });
    return found;
  }
}
