// Takes on their way to the server. Each is written to IndexedDB first and
// leaves it only when the server's answer names the same sha256. One upload
// at a time; a repeated upload does no harm, as the server knows the sha256.
//
// Events: "change", "uploaded" {record, take}, "refused" {record}.

import { sha256Hex } from "./wav.js";

const DATABASE = "voxpipe-recorder";
const STORE = "takes";
const PATIENCE = 60000; // one upload may take this long before it is tried again

// ---- pure parts ----

// 1, 2, 4 … 60 seconds, spread a little so that many pages do not knock together.
export function backoff(tries, random = Math.random()) {
  return Math.min(60000, 1000 * 2 ** Math.max(0, tries - 1)) * (0.8 + 0.4 * random);
}

// What an answer means: "done", "retry" or "refused", with words for people.
export function judge(status, body, sha256) {
  if (status >= 200 && status < 300) {
    if (body && typeof body.sha256 === "string" && body.sha256.toLowerCase() === sha256) return { outcome: "done", words: "" };
    return { outcome: "retry", words: "the server did not confirm the same recording" };
  }
  const words = (body && body.error && String(body.error)) || `answer ${status}`;
  const passing = status === 401 || status === 408 || status === 429;
  return { outcome: status >= 400 && status < 500 && !passing ? "refused" : "retry", words };
}

// The oldest take that may be sent now.
export function nextDue(records, now) {
  return records.filter((record) => !record.refused && record.due <= now).sort((a, b) => a.made - b.made)[0] || null;
}

export function waitWords(waiting) {
  if (!waiting) return "Nothing waits for the server";
  return waiting === 1 ? "1 take waits for the server" : `${waiting} takes wait for the server`;
}

// ---- IndexedDB, as little as is needed ----

export class BrowserStore {
  open() {
    this.ready ||= new Promise((done, fail) => {
      const request = indexedDB.open(DATABASE, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "key" });
      request.onsuccess = () => done(request.result);
      request.onerror = () => fail(request.error);
    });
    return this.ready;
  }

  async act(mode, work) {
    const database = await this.open();
    return new Promise((done, fail) => {
      const change = database.transaction(STORE, mode);
      const request = work(change.objectStore(STORE));
      // Only a completed transaction is on disk; a successful request is not yet.
      change.oncomplete = () => done(request.result);
      change.onabort = () => fail(change.error);
      change.onerror = () => fail(change.error);
    });
  }

  all() { return this.act("readonly", (store) => store.getAll()); }
  put(record) { return this.act("readwrite", (store) => store.put(record)); }
  delete(key) { return this.act("readwrite", (store) => store.delete(key)); }
}

// ---- the queue ----

export class TakeQueue extends EventTarget {
  constructor({ api = "", scope = "", store = new BrowserStore(), send = (...args) => fetch(...args) } = {}) {
    super();
    Object.assign(this, { api, scope, store, send });
    this.records = new Map(); // also held in memory, so a full disk loses nothing while the page is open
    this.fragile = false; // true when the browser could not store a take
    this.busy = false;
    this.closed = false;
    this.timer = 0;
    this.trouble = "";
    this.wake = this.wake.bind(this);
  }

  get list() { return [...this.records.values()].sort((a, b) => a.made - b.made); }
  get waiting() { return this.list.filter((record) => !record.refused).length; }
  get refused() { return this.list.filter((record) => record.refused); }

  async open() {
    try {
      for (const record of await this.store.all()) {
        if (record.scope === this.scope && !this.records.has(record.key)) this.records.set(record.key, { ...record, due: 0 });
      }
    } catch {
      this.fragile = true;
    }
    globalThis.addEventListener?.("online", this.wake);
    this.changed();
    this.pump();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    globalThis.removeEventListener?.("online", this.wake);
  }

  async add({ phrase, wav, seconds }) {
    const sha256 = await sha256Hex(wav);
    const record = {
      key: `${this.scope}/${phrase}/${sha256}`, scope: this.scope,
      phrase, sha256, wav, seconds, made: Date.now(), tries: 0, due: 0, refused: "",
    };
    this.records.set(record.key, record);
    this.changed();
    await this.keep(record);
    this.pump();
    return record;
  }

  // Plain bytes are stored, not a Blob: some browsers cannot store Blobs in private windows.
  async keep(record) {
    try {
      await this.store.put(record);
    } catch {
      this.fragile = true;
      this.changed();
    }
  }

  find(sha256) { return this.list.find((record) => record.sha256 === sha256) || null; }

  // navigator.onLine is not asked: a studio on this computer answers offline too.
  wake() {
    for (const record of this.records.values()) record.due = 0;
    this.pump();
  }

  async pump() {
    if (this.busy || this.closed) return;
    this.busy = true;
    clearTimeout(this.timer);
    try {
      for (let record = nextDue(this.list, Date.now()); record && !this.closed; record = nextDue(this.list, Date.now())) {
        await this.upload(record);
      }
    } finally {
      this.busy = false;
    }
    const dues = this.list.filter((record) => !record.refused).map((record) => record.due);
    if (dues.length && !this.closed) {
      this.timer = setTimeout(() => this.pump(), Math.max(50, Math.min(...dues) - Date.now()));
    }
  }

  async upload(record) {
    let status = 0;
    let body = null;
    let pause = 0;
    const stop = new AbortController();
    const alarm = setTimeout(() => stop.abort(), PATIENCE);
    try {
      const response = await this.send(`${this.api}/api/takes/${encodeURIComponent(record.phrase)}`, {
        method: "POST",
        headers: { "Content-Type": "audio/wav", "X-Voxpipe": "1", "X-Sha256": record.sha256 },
        body: record.wav,
        signal: stop.signal,
      });
      status = response.status;
      pause = Number(response.headers?.get("Retry-After")) * 1000 || 0;
      body = await response.json().catch(() => null);
    } catch {
      status = 0;
    } finally {
      clearTimeout(alarm);
    }
    const { outcome, words } = status ? judge(status, body, record.sha256) : { outcome: "retry", words: "the server does not answer" };
    if (outcome === "done") await this.done(record, body);
    else if (outcome === "refused") await this.refuse(record, words);
    else {
      this.trouble = words;
      record.tries += 1;
      record.due = Date.now() + Math.max(pause, backoff(record.tries));
      this.changed();
    }
  }

  async done(record, take) {
    this.trouble = "";
    this.records.delete(record.key);
    // Should the delete fail, the take is sent once more after a reload: harmless.
    await this.store.delete(record.key).catch(() => {});
    this.changed();
    this.dispatchEvent(new CustomEvent("uploaded", { detail: { record, take } }));
  }

  async refuse(record, words) {
    record.refused = words;
    await this.keep(record);
    this.changed();
    this.dispatchEvent(new CustomEvent("refused", { detail: { record } }));
  }

  // The two things a person may do with a refused take.
  async again(record) {
    Object.assign(record, { refused: "", tries: 0, due: 0 });
    await this.keep(record);
    this.changed();
    this.pump();
  }

  async discard(record) {
    if (!record.refused) return; // a waiting take is never thrown away
    this.records.delete(record.key);
    await this.store.delete(record.key).catch(() => {});
    this.changed();
  }

  changed() { this.dispatchEvent(new Event("change")); }
}
