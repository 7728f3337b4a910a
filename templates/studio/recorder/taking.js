// How one take is made: from the press to the sound in the queue. It knows
// nothing of pages and verdicts; it tells the recorder what happened.

import { SilenceWatch } from "./levels.js";
import { encodeWav } from "./wav.js";

const SHORTEST = 0.5; // seconds; anything less is a slip of the finger

export class Taking {
  // phrase(), say(words), changed(), begin(), kept({phrase, record, reason})
  constructor(parts) {
    Object.assign(this, parts);
    this.phase = "idle"; // idle, starting, counting, recording, finishing
    this.held = false;
    this.attempt = null;
    this.watch = null;
  }

  to(phase) {
    this.phase = phase;
    this.changed();
  }

  toggle() {
    if (this.phase === "recording") this.stop();
    else if (this.phase === "starting" || this.phase === "counting") this.discard();
    else if (this.phase === "idle") this.start();
  }

  hold() {
    if (this.phase !== "idle") return;
    this.held = true;
    this.start();
  }

  release() {
    if (!this.held) return;
    this.held = false;
    if (this.phase === "recording") this.stop();
    else if (this.phase === "starting") this.discard();
  }

  async start() {
    if (this.phase !== "idle" || !this.phrase()) return;
    this.begin();
    // Each start has its own mark; one given up while waiting finds it changed.
    const attempt = {};
    this.attempt = attempt;
    this.to("starting");
    try {
      if (!this.mic.live) await this.setup.open();
      else await this.mic.wake();
    } catch {
      if (this.attempt === attempt) {
        this.held = false;
        this.to("idle"); // the set-up card tells why
      }
      return;
    }
    if (this.attempt !== attempt) return;
    if (this.settings.get("countdown") && !this.held && !await this.countdown(attempt)) return;
    this.watch = this.settings.get("autoStop") ? new SilenceWatch(this.setup.floor) : null;
    this.mic.startTake();
    this.setup.node.open = false;
    this.to("recording");
    this.say("Recording");
  }

  async countdown(attempt) {
    this.to("counting");
    for (const number of ["3", "2", "1"]) {
      this.say(number);
      await new Promise((done) => { setTimeout(done, 800); });
      if (this.attempt !== attempt) return false;
    }
    return true;
  }

  async stop(reason = "") {
    if (this.phase !== "recording") return;
    this.held = false;
    const phrase = this.phrase();
    if (this.mic.pressed < SHORTEST) {
      this.mic.discardTake();
      this.to("idle");
      this.say("Too short, not kept. Press, speak, then press again.");
      return;
    }
    this.to("finishing");
    try {
      const sound = await this.mic.stopTake();
      if (!sound || !sound.samples.length) {
        this.say("No sound came from the microphone. Please turn it on again.");
        return;
      }
      const seconds = sound.samples.length / sound.rate;
      const record = await this.queue.add({ phrase: phrase.id, wav: encodeWav(sound.samples, sound.rate), seconds });
      this.kept({ phrase, record, reason });
    } catch (error) {
      this.say(`The take could not be kept: ${error.message}`);
    } finally {
      this.to("idle");
    }
  }

  // A take already being saved is past discarding; it can be removed later.
  discard() {
    if (this.phase === "idle" || this.phase === "finishing") return;
    this.say(this.phase === "recording" ? "Discarded" : "Not started");
    this.attempt = null;
    this.held = false;
    this.mic.discardTake();
    this.to("idle");
  }

  hear(level) {
    if (this.phase === "recording" && this.watch && this.watch.hear(level.rms, level.seconds)) this.stop();
  }
}
