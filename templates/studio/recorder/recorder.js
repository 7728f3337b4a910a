// The recorder page's controller. It owns the state (which phrase, what is
// being recorded, what was heard back) and passes it to the parts that draw.
//
//   import { mount } from "./recorder.js";
//   mount(element, { api: "", phrases, minimum, wanted, step: 10, speaker });

import { Microphone } from "./microphone.js";
import { TakeQueue } from "./queue.js";
import { Settings, settingsCard } from "./settings.js";
import { Setup } from "./setup.js";
import { Stage } from "./stage.js";
import { Meter } from "./meter.js";
import { TakesPanel, verdictWord } from "./takes.js";
import { Rows } from "./rows.js";
import { Player } from "./player.js";
import { Server } from "./server.js";
import { Report } from "./report.js";
import { Keys } from "./keys.js";
import { Taking } from "./taking.js";
import { one } from "./dom.js";
import { tally, following, isRecorded, newestFirst, Pace } from "./progress.js";
import { readOptions } from "./options.js";

const READING = 1200; // ms a good verdict stays before the page goes on by itself

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
    this.shown = null; // what the verdict box tells about
    this.index = Math.max(0, this.phrases.findIndex((phrase) => !isRecorded(phrase)));
    this.settings = new Settings();
    this.mic = new Microphone();
    this.queue = new TakeQueue({ api, scope });
    this.player = new Player(api);
    this.server = new Server(api);
    this.report = new Report();
    this.meter = new Meter();
    this.setup = new Setup({ microphone: this.mic, settings: this.settings, say: (words) => this.stage && this.say(words) });
    this.panel = new TakesPanel({
      play: (take) => this.play(take),
      use: (take) => this.change(take, "use"),
      remove: (take) => this.change(take, "remove"),
      again: (record) => this.queue.again(record),
      discard: (record) => this.throwAway(record),
    }, { pairs: (sha) => this.player.pairs(sha), playing: () => this.player.playing });
    this.rows = new Rows({
      step, limit: this.wanted,
      act: { choose: (i) => this.go(i), record: (i) => this.recordRow(i), play: (take) => this.play(take) },
    });
    this.taking = new Taking({
      mic: this.mic, setup: this.setup, settings: this.settings, queue: this.queue,
      phrase: () => this.phrase, say: (words) => this.say(words), changed: () => this.draw(),
      begin: () => this.begin(), kept: (news) => this.kept(news),
    });
    const actions = {
      record: () => this.taking.toggle(), next: () => this.accept(), back: () => this.back(), skip: () => this.skip(),
      retry: () => this.retry(), play: () => this.playNewest(), report: () => this.tell(), discard: () => this.discard(),
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
    this.keys = new Keys({ ...actions, record: () => (this.settings.get("hold") ? this.taking.hold() : this.taking.toggle()) }, {
      enabled: () => this.settings.get("shortcuts"),
      release: () => this.taking.release(),
    });
    this.listen();
    this.draw();
    this.queue.open().then(() => this.recall());
  }

  listen() {
    this.mic.addEventListener("level", ({ detail }) => {
      this.meter.hear(detail);
      this.taking.hear(detail);
    });
    this.mic.addEventListener("full", () => this.taking.stop("30 seconds is the longest take. It stopped by itself."));
    this.mic.addEventListener("lost", () => this.lost());
    for (const part of [this.queue, this.player]) part.addEventListener("change", () => this.draw());
    this.queue.addEventListener("uploaded", (event) => this.uploaded(event.detail));
    this.queue.addEventListener("refused", ({ detail }) => this.say(`The server refuses this take: ${detail.record.refused}`));
    this.settings.addEventListener("change", ({ detail }) => {
      if (detail.name === "fontSize") this.stage.fontSize(detail.value);
      else this.draw();
    });
    // Only ask before leaving when something would really be lost.
    this.leaving = (event) => {
      if (this.phase === "recording" || this.phase === "finishing" || (this.queue.fragile && this.queue.waiting)) event.preventDefault();
    };
    window.addEventListener("beforeunload", this.leaving);
  }

  get phrase() { return this.phrases[this.index] || null; }

  get phase() { return this.taking.phase; }
  say(words) { this.stage.say(words); }

  state() {
    return {
      phrase: this.phrase ? this.phrase.id : null,
      recording: this.phase === "recording",
      waiting: this.queue.waiting,
      recorded: tally(this.phrases).recorded,
    };
  }

  // ---- recording (how a take is made is told in taking.js) ----

  begin() {
    this.stay();
    this.player.stop();
    this.shown = null;
  }

  async retry() {
    if (this.phase === "recording") this.taking.discard();
    if (this.phase !== "idle") return;
    // After the page went on by itself, "again" means the take just heard.
    if (this.shown && this.shown.previous) this.go(this.phrases.indexOf(this.shown.phrase), true);
    await this.taking.start();
  }

  recordRow(index) {
    if (this.phase === "idle") {
      this.go(index, true);
      this.taking.start();
    } else if (index === this.index) this.taking.toggle();
    else this.say("Stop the running recording first");
  }

  // Esc discards; with nothing running it keeps the page from going on by itself.
  discard() {
    this.stay();
    this.taking.discard();
  }

  async lost() {
    await this.taking.stop("The microphone went away.");
    this.taking.discard();
    await this.mic.close();
    this.meter.off();
    this.setup.lost();
  }

  // A take is safe in the browser. On a fast server the verdict can be here
  // already: that is the better news and stays.
  kept({ phrase, record, reason }) {
    this.player.remember(record.sha256, record.wav);
    phrase.skipped = false;
    if (!this.queue.find(record.sha256)) return;
    this.shown = { phrase, record };
    this.say([reason, `recorded, ${one(record.seconds)} seconds`].filter(Boolean).join(" "));
  }

  // ---- the server's answers ----

  uploaded({ record, take }) {
    const phrase = this.phrases.find((candidate) => candidate.id === record.phrase);
    if (!phrase) return;
    phrase.takes = phrase.takes.filter((old) => old.file !== take.file);
    phrase.takes.push(take);
    if (take.verdict === "ok") phrase.chosen = null; // the newest good one counts again
    const words = `recorded, ${one(take.seconds)} seconds, ${verdictWord(take)}`;
    const busy = this.phase === "recording" || this.phase === "starting" || this.phase === "counting";
    const here = phrase === this.phrase;
    if (here && !busy) this.shown = { phrase, take };
    // Talking over a running recording would end up in it.
    if (!busy) this.say([here ? "" : "Earlier phrase:", words, ...(take.reasons || [])].filter(Boolean).join(" "));
    if (take.verdict !== "reject") {
      this.pace.step();
      this.root.dispatchEvent(new CustomEvent("voxpipe:progress", { detail: tally(this.phrases), bubbles: true }));
    }
    this.draw();
    if (here && !busy && take.verdict === "ok" && this.settings.get("autoAdvance")) this.goOn(phrase);
  }

  goOn(phrase) {
    this.stay();
    this.going = setTimeout(() => {
      const next = following(this.phrases, this.index);
      if (this.phase !== "idle" || this.phrase !== phrase || this.player.playing || this.report.open || next < 0) return;
      const shown = this.shown;
      this.go(next, true);
      this.shown = shown ? { ...shown, previous: true } : null;
      this.draw();
    }, READING);
  }

  stay() { clearTimeout(this.going); }

  // Takes found in the browser after a reload are shown and playable again.
  recall() {
    for (const record of this.queue.list) this.player.remember(record.sha256, record.wav);
    this.draw();
  }

  async change(take, what) {
    const phrase = this.phrase;
    this.stay();
    try {
      phrase.takes = await this.server[what](take.file);
      if (what === "use") phrase.chosen = take.file;
      if (what === "remove" && this.shown && this.shown.take && this.shown.take.file === take.file) this.shown = null;
      this.say(what === "use" ? `Take ${take.number} is used` : `Take ${take.number} was put aside`);
    } catch (error) {
      this.say(error.message);
    }
    this.draw();
  }

  throwAway(record) {
    if (window.confirm("Throw this recording away for good? It is only in this browser.")) this.queue.discard(record);
  }

  // ---- moving about ----

  go(index, quiet = false) {
    if (index < 0 || index >= this.phrases.length) return false;
    if (this.phase !== "idle") {
      this.say("Stop the running recording first");
      return false;
    }
    this.stay();
    this.player.stop();
    if (index !== this.index) this.shown = null;
    this.index = index;
    const newest = this.newest();
    if (!quiet && newest && !newest.made) this.shown = { phrase: this.phrase, take: newest };
    this.draw();
    if (!quiet) this.say(`Phrase ${index + 1}: ${this.phrase.text}`);
    return true;
  }

  async accept() {
    if (this.phase === "recording") {
      const before = this.phrase;
      await this.taking.stop();
      if (this.phrase !== before || !this.shown) return; // too short, or no sound
    }
    if (this.phase !== "idle") return;
    const next = following(this.phrases, this.index);
    if (next < 0) this.say("This was the last phrase");
    else this.go(next);
  }

  back() {
    if (this.index > 0) this.go(this.index - 1);
    else this.say("This is the first phrase");
  }

  skip() {
    if (!this.phrase || this.phase !== "idle") return;
    this.phrase.skipped = true;
    this.accept();
  }

  async tell() {
    if (!this.phrase || this.phase !== "idle" || this.report.open) return;
    const phrase = this.phrase;
    this.stay();
    const reason = await this.report.ask();
    if (!reason) return;
    try {
      await this.server.report(phrase.id, reason);
      phrase.reported = true;
      if (this.phrase === phrase) await this.accept();
      this.say("Reported, thank you");
    } catch (error) {
      this.say(error.message);
    }
  }

  // ---- listening back ----

  newest() {
    if (!this.phrase) return null;
    const waiting = this.queue.list.filter((record) => record.phrase === this.phrase.id);
    return waiting[waiting.length - 1] || newestFirst(this.phrase.takes)[0] || null;
  }

  playNewest() {
    const take = (this.shown && (this.shown.take || this.shown.record)) || this.newest();
    if (take) this.play(take);
    else this.say("There is nothing to play yet");
  }

  async play(take) {
    if (this.phase !== "idle") return; // the loudspeaker would be recorded too
    this.stay();
    try {
      await this.player.toggle(take);
    } catch (error) {
      this.say(`It could not be played. ${error.message}`);
    }
  }

  // ---- drawing ----

  draw() {
    if (!this.phrase) return this.say("There are no phrases to record.");
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
    this.stage.showQueue({ waiting: queue.waiting, refused: queue.refused.length, trouble: queue.trouble, fragile: queue.fragile });
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
    this.stay();
    this.keys.remove();
    this.queue.close();
    this.player.stop();
    window.removeEventListener("beforeunload", this.leaving);
    this.root.replaceChildren();
    return this.mic.dispose();
  }
}
