// The recorder's controller. It owns the state (current sentence, recording,
// latest verdict) and passes it to the views.
//
//   import { mount } from "./recorder.js";
//   mount(element, { api: "", phrases, minimum, wanted, step: 10, speaker });

import { Microphone } from "./microphone.js";
import { TakeQueue } from "./queue.js";
import { Settings, settingsCard } from "./settings.js";
import { Setup } from "./setup.js";
import { Stage } from "./stage.js";
import { Meter } from "./meter.js";
import { TakesPanel, verdictLabel } from "./takes.js";
import { Rows } from "./rows.js";
import { Player } from "./player.js";
import { Server } from "./server.js";
import { Report } from "./report.js";
import { Keys } from "./keys.js";
import { RecordingSession } from "./taking.js";
import { one } from "./dom.js";
import { tally, following, isRecorded, newestFirst, Pace } from "./progress.js";
import { readOptions } from "./options.js";

const AUTO_ADVANCE_DELAY = 1200; // ms a good verdict is shown before the next sentence

export function mount(root, options) {
  const recorder = new Recorder(root, options);
  window.voxpipeRecorder = { state: () => recorder.state() };
  return { state: () => recorder.state(), unmount: () => recorder.unmount() };
}

class Recorder {
  constructor(root, options) {
    const { api, phrases, minimum, wanted, step, name, scope } = readOptions(options);
    Object.assign(this, { root, phrases, minimum, wanted });
    this.pace = new Pace();
    this.shown = null; // the recording shown in the verdict box
    this.index = Math.max(0, this.phrases.findIndex((phrase) => !isRecorded(phrase)));
    this.settings = new Settings();
    this.mic = new Microphone();
    this.queue = new TakeQueue({ api, scope });
    this.player = new Player(api);
    this.server = new Server(api);
    this.report = new Report();
    this.meter = new Meter();
    this.setup = new Setup({ microphone: this.mic, settings: this.settings, announce: (message) => this.stage && this.announce(message) });
    this.panel = new TakesPanel({
      play: (take) => this.play(take),
      use: (take) => this.change(take, "use"),
      remove: (take) => this.change(take, "remove"),
      retry: (record) => this.queue.retry(record),
      discard: (record) => this.deleteFailed(record),
    }, { pairs: (sha) => this.player.pairs(sha), playing: () => this.player.playing });
    this.rows = new Rows({
      step, limit: this.wanted,
      act: { choose: (i) => this.go(i), record: (i) => this.recordRow(i), play: (take) => this.play(take) },
    });
    this.session = new RecordingSession({
      mic: this.mic, setup: this.setup, settings: this.settings, queue: this.queue,
      phrase: () => this.phrase, announce: (message) => this.announce(message), changed: () => this.draw(),
      begin: () => this.begin(), saved: (recording) => this.saved(recording),
    });
    const actions = {
      record: () => this.session.toggle(), next: () => this.accept(), back: () => this.back(), skip: () => this.skip(),
      retry: () => this.retry(), play: () => this.playNewest(), report: () => this.reportPhrase(), discard: () => this.discard(),
    };
    this.stage = new Stage(root, {
      act: { ...actions, size: (rem) => this.settings.set("fontSize", rem),
        view: () => this.settings.set("view", this.settings.get("view") === "one" ? "list" : "one") },
      parts: {
        setup: this.setup.node, rows: this.rows.node, meter: this.meter.node, takes: this.panel.node,
        settings: settingsCard(this.settings), report: this.report.node,
      },
      fontSize: this.settings.get("fontSize"), speaker: name,
    });
    this.keys = new Keys({ ...actions, record: () => (this.settings.get("hold") ? this.session.hold() : this.session.toggle()) }, {
      enabled: () => this.settings.get("shortcuts"),
      release: () => this.session.release(),
    });
    this.subscribe();
    this.draw();
    this.queue.open().then(() => this.restorePending());
  }

  subscribe() {
    this.mic.addEventListener("level", ({ detail }) => {
      this.meter.update(detail);
      this.session.onLevel(detail);
    });
    this.mic.addEventListener("full", () => this.session.stop("Stopped at the limit of 30 seconds."));
    this.mic.addEventListener("lost", () => this.lost());
    for (const part of [this.queue, this.player]) part.addEventListener("change", () => this.draw());
    this.queue.addEventListener("uploaded", (event) => this.uploaded(event.detail));
    this.queue.addEventListener("refused", ({ detail }) => this.announce(`Upload failed: ${detail.record.refused}`));
    this.settings.addEventListener("change", ({ detail }) => {
      if (detail.name === "fontSize") this.stage.fontSize(detail.value);
      else this.draw();
    });
    // Ask before leaving only if data would be lost.
    this.beforeUnload = (event) => {
      if (this.phase === "recording" || this.phase === "finishing" || (this.queue.fragile && this.queue.waiting)) event.preventDefault();
    };
    window.addEventListener("beforeunload", this.beforeUnload);
  }

  get phrase() { return this.phrases[this.index] || null; }

  get phase() { return this.session.phase; }
  announce(message) { this.stage.announce(message); }

  state() {
    return {
      phrase: this.phrase ? this.phrase.id : null,
      recording: this.phase === "recording",
      waiting: this.queue.waiting,
      recorded: tally(this.phrases).recorded,
    };
  }

  // ---- recording (see taking.js) ----

  begin() {
    this.cancelAutoAdvance();
    this.player.stop();
    this.shown = null;
  }

  async retry() {
    if (this.phase === "recording") this.session.discard();
    if (this.phase !== "idle") return;
    // After an automatic advance, retry means the previous sentence.
    if (this.shown && this.shown.previous) this.go(this.phrases.indexOf(this.shown.phrase), true);
    await this.session.start();
  }

  recordRow(index) {
    if (this.phase === "idle") {
      this.go(index, true);
      this.session.start();
    } else if (index === this.index) this.session.toggle();
    else this.announce("Stop the current recording first");
  }

  // Esc discards the recording; it also cancels an automatic advance.
  discard() {
    this.cancelAutoAdvance();
    this.session.discard();
  }

  async lost() {
    await this.session.stop("Microphone disconnected.");
    this.session.discard();
    await this.mic.close();
    this.meter.off();
    this.setup.lost();
  }

  // The recording is stored in the browser. If the server has already returned a
  // verdict, keep showing that.
  saved({ phrase, record, reason }) {
    this.player.remember(record.sha256, record.wav);
    phrase.skipped = false;
    if (!this.queue.find(record.sha256)) return;
    this.shown = { phrase, record };
    this.announce([reason, `Recorded ${one(record.seconds)} seconds.`].filter(Boolean).join(" "));
  }

  // ---- server responses ----

  uploaded({ record, take }) {
    const phrase = this.phrases.find((candidate) => candidate.id === record.phrase);
    if (!phrase) return;
    phrase.takes = phrase.takes.filter((old) => old.file !== take.file);
    phrase.takes.push(take);
    if (take.verdict === "ok") phrase.chosen = null; // the newest good one is selected again
    const result = `${one(take.seconds)} seconds, ${verdictLabel(take)}.`;
    const busy = this.phase === "recording" || this.phase === "starting" || this.phase === "counting";
    const here = phrase === this.phrase;
    if (here && !busy) this.shown = { phrase, take };
    // A screen reader would be audible in a running recording.
    if (!busy) this.announce([here ? "Recorded" : "Earlier sentence:", result, ...(take.reasons || [])].join(" "));
    if (take.verdict !== "reject") {
      this.pace.step();
      this.root.dispatchEvent(new CustomEvent("voxpipe:progress", { detail: tally(this.phrases), bubbles: true }));
    }
    this.draw();
    if (here && !busy && take.verdict === "ok" && this.settings.get("autoAdvance")) this.autoAdvance(phrase);
  }

  autoAdvance(phrase) {
    this.cancelAutoAdvance();
    this.advanceTimer = setTimeout(() => {
      const next = following(this.phrases, this.index);
      if (this.phase !== "idle" || this.phrase !== phrase || this.player.playing || this.report.open || next < 0) return;
      const shown = this.shown;
      this.go(next, true);
      this.shown = shown ? { ...shown, previous: true } : null;
      this.draw();
    }, AUTO_ADVANCE_DELAY);
  }

  cancelAutoAdvance() { clearTimeout(this.advanceTimer); }

  // After a reload, pending recordings are shown and can be played again.
  restorePending() {
    for (const record of this.queue.list) this.player.remember(record.sha256, record.wav);
    this.draw();
  }

  async change(take, what) {
    const phrase = this.phrase;
    this.cancelAutoAdvance();
    try {
      phrase.takes = await this.server[what](take.file);
      if (what === "use") phrase.chosen = take.file;
      if (what === "remove" && this.shown && this.shown.take && this.shown.take.file === take.file) this.shown = null;
      this.announce(what === "use" ? `Recording ${take.number} selected` : `Recording ${take.number} removed`);
    } catch (error) {
      this.announce(error.message);
    }
    this.draw();
  }

  deleteFailed(record) {
    if (window.confirm("Delete this recording permanently? It exists only in this browser.")) this.queue.discard(record);
  }

  // ---- navigation ----

  go(index, quiet = false) {
    if (index < 0 || index >= this.phrases.length) return false;
    if (this.phase !== "idle") {
      this.announce("Stop the current recording first");
      return false;
    }
    this.cancelAutoAdvance();
    this.player.stop();
    if (index !== this.index) this.shown = null;
    this.index = index;
    const newest = this.newest();
    if (!quiet && newest && !newest.made) this.shown = { phrase: this.phrase, take: newest };
    this.draw();
    if (!quiet) this.announce(`Sentence ${index + 1}: ${this.phrase.text}`);
    return true;
  }

  async accept() {
    if (this.phase === "recording") {
      const before = this.phrase;
      await this.session.stop();
      if (this.phrase !== before || !this.shown) return; // too short, or no sound
    }
    if (this.phase !== "idle") return;
    const next = following(this.phrases, this.index);
    if (next < 0) this.announce("This is the last sentence");
    else this.go(next);
  }

  back() {
    if (this.index > 0) this.go(this.index - 1);
    else this.announce("This is the first sentence");
  }

  skip() {
    if (!this.phrase || this.phase !== "idle") return;
    this.phrase.skipped = true;
    this.accept();
  }

  async reportPhrase() {
    if (!this.phrase || this.phase !== "idle" || this.report.open) return;
    const phrase = this.phrase;
    this.cancelAutoAdvance();
    const reason = await this.report.prompt();
    if (!reason) return;
    try {
      await this.server.report(phrase.id, reason);
      phrase.reported = true;
      if (this.phrase === phrase) await this.accept();
      this.announce("Sentence reported");
    } catch (error) {
      this.announce(error.message);
    }
  }

  // ---- playback ----

  newest() {
    if (!this.phrase) return null;
    const waiting = this.queue.list.filter((record) => record.phrase === this.phrase.id);
    return waiting[waiting.length - 1] || newestFirst(this.phrase.takes)[0] || null;
  }

  playNewest() {
    const take = (this.shown && (this.shown.take || this.shown.record)) || this.newest();
    if (take) this.play(take);
    else this.announce("Nothing to play yet");
  }

  async play(take) {
    if (this.phase !== "idle") return; // playback would be recorded
    this.cancelAutoAdvance();
    try {
      await this.player.toggle(take);
    } catch (error) {
      this.announce(`Playback failed: ${error.message}`);
    }
  }

  // ---- drawing ----

  draw() {
    if (!this.phrase) return this.announce("There are no sentences to record.");
    const { phrases, index, phrase, queue, phase } = this;
    const next = following(phrases, index);
    const counts = tally(phrases);
    const left = this.pace.left(this.wanted - counts.recorded);
    const view = this.settings.get("view");
    const texts = new Map(phrases.map(({ id, text }) => [id, text]));
    this.stage.showPhrase({ phrase, index, count: phrases.length, next: next >= 0 ? phrases[next] : null });
    this.stage.showRecord({ phase, hold: this.settings.get("hold") });
    this.stage.showPlay(phase === "idle" && Boolean(this.shown || this.newest()), Boolean(this.player.playing));
    this.stage.showProgress(counts, { minimum: this.minimum, wanted: this.wanted, left });
    this.stage.showQueue({ waiting: queue.waiting, refused: queue.refused.length, error: queue.error, fragile: queue.fragile });
    this.stage.showView(view);
    this.rows.node.hidden = view !== "list";
    if (view === "list") {
      this.rows.render({
        phrases, index, recording: phase === "recording" ? phrase.id : "", playing: this.player.playing,
        waiting: new Set(queue.list.filter((record) => !record.refused).map((record) => record.phrase)),
      });
    }
    this.panel.render({
      phrase, shown: this.shown,
      records: queue.list.filter((record) => record.phrase === phrase.id),
      refused: queue.refused.map((record) => ({ record, text: texts.get(record.phrase) || record.phrase })),
    });
  }

  unmount() {
    this.cancelAutoAdvance();
    this.keys.remove();
    this.queue.close();
    this.player.stop();
    window.removeEventListener("beforeunload", this.beforeUnload);
    this.root.replaceChildren();
    return this.mic.dispose();
  }
}
