// Upload queue. Each recording is written to IndexedDB first and removed only
// when the server's response confirms the same sha256. One upload at a time;
// repeating an upload is harmless, as the server deduplicates by sha256.
//
// Events: "change", "uploaded" {record, take}, "refused" {record}.

import { sha256Hex } from "./wav.js";

const DATABASE = "voxpipe-recorder";
const STORE = "takes";
const UPLOAD_TIMEOUT = 60000; // ms before an upload is retried

// ---- pure functions ----

// Exponential backoff: 1, 2, 4 … 60 seconds, with jitter.
export function backoff(tries, random = Math.random()) {
  return Math.min(60000, 1000 * 2 ** Math.max(0, tries - 1)) * (0.8 + 0.4 * random);
}

// Classifies a response: "done", "retry" or "refused", with a message for the user.
export function classify(status, body, sha256) {
  if (status >= 200 && status < 300) {
    if (body && typeof body.sha256 === "string" && body.sha256.toLowerCase() === sha256) return { outcome: "done", message: "" };
    return { outcome: "retry", message: "the server did not confirm the upload" };
  }
  const message = (body && body.error && String(body.error)) || `server returned status ${status}`;
  const temporary = status === 401 || status === 408 || status === 429;
  return { outcome: status >= 400 && status < 500 && !temporary ? "refused" : "retry", message };
}

// The oldest recording that is due for upload.
export function nextDue(records, now) {
  return records.filter((record) => !record.refused && record.due <= now).sort((a, b) => a.made - b.made)[0] || null;
}

export function uploadStatus(waiting) {
  if (!waiting) return "No pending uploads";
  return waiting === 1 ? "1 pending upload" : `${waiting} pending uploads`;
}

// ---- minimal IndexedDB store ----

export class BrowserStore {
  open() {
    this.ready ||= new Promise((resolve, reject) => {
      const request = indexedDB.open(DATABASE, 1);
      request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "key" });
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    return this.ready;
  }

  async transact(mode, operation) {
    const database = await this.open();
    return new Promise((resolve, reject) => {
      const transaction = database.transaction(STORE, mode);
      const request = operation(transaction.objectStore(STORE));
      // Data is durable only when the transaction completes, not when the request succeeds.
      transaction.oncomplete = () => resolve(request.result);
      transaction.onabort = () => reject(transaction.error);
      transaction.onerror = () => reject(transaction.error);
    });
  }

  all() { return this.transact("readonly", (store) => store.getAll()); }
  put(record) { return this.transact("readwrite", (store) => store.put(record)); }
  delete(key) { return this.transact("readwrite", (store) => store.delete(key)); }
}

// ---- the queue ----

export class TakeQueue extends EventTarget {
  constructor({ api = "", scope = "", store = new BrowserStore(), send = (...args) => fetch(...args) } = {}) {
    super();
    Object.assign(this, { api, scope, store, send });
    this.records = new Map(); // also in memory, so that a full disk loses nothing while the page is open
    this.fragile = false; // true if the browser could not store a recording
    this.busy = false;
    this.closed = false;
    this.timer = 0;
    this.error = "";
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
    await this.persist(record);
    this.pump();
    return record;
  }

  // Stores an ArrayBuffer, not a Blob: some browsers cannot store Blobs in private windows.
  async persist(record) {
    try {
      await this.store.put(record);
    } catch {
      this.fragile = true;
      this.changed();
    }
  }

  find(sha256) { return this.list.find((record) => record.sha256 === sha256) || null; }

  // navigator.onLine is ignored: a local server is reachable offline, too.
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
    const timeout = setTimeout(() => stop.abort(), UPLOAD_TIMEOUT);
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
      clearTimeout(timeout);
    }
    const { outcome, message } = status ? classify(status, body, record.sha256) : { outcome: "retry", message: "the server is not responding" };
    if (outcome === "done") await this.done(record, body);
    else if (outcome === "refused") await this.refuse(record, message);
    else {
      this.error = message;
      record.tries += 1;
      record.due = Date.now() + Math.max(pause, backoff(record.tries));
      this.changed();
    }
  }

  async done(record, take) {
    this.error = "";
    this.records.delete(record.key);
    // If the delete fails, the recording is sent again after a reload, which is harmless.
    await this.store.delete(record.key).catch(() => {});
    this.changed();
    this.dispatchEvent(new CustomEvent("uploaded", { detail: { record, take } }));
  }

  async refuse(record, message) {
    record.refused = message;
    await this.persist(record);
    this.changed();
    this.dispatchEvent(new CustomEvent("refused", { detail: { record } }));
  }

  // The user's options for a failed upload.
  async retry(record) {
    Object.assign(record, { refused: "", tries: 0, due: 0 });
    await this.persist(record);
    this.changed();
    this.pump();
  }

  async discard(record) {
    if (!record.refused) return; // a pending recording is never deleted
    this.records.delete(record.key);
    await this.store.delete(record.key).catch(() => {});
    this.changed();
  }

  changed() { this.dispatchEvent(new Event("change")); }
}
