// The recording state machine: from pressing Record to adding the audio to the
// upload queue. It knows nothing of the page; it notifies the recorder.

import { SilenceDetector } from "./levels.js";
import { encodeWav } from "./wav.js";

const MIN_SECONDS = 0.5; // anything shorter is an accidental press

export class RecordingSession {
  // phrase(), announce(message), changed(), begin(), saved({phrase, record, reason})
  constructor(parts) {
    Object.assign(this, parts);
    this.phase = "idle"; // idle, starting, counting, recording, finishing
    this.held = false;
    this.attempt = null;
    this.silence = null;
  }

  setPhase(phase) {
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
    // Each start has its own token; a cancelled start finds that it has changed.
    const attempt = {};
    this.attempt = attempt;
    this.setPhase("starting");
    try {
      if (!this.mic.live) await this.setup.open();
      else await this.mic.wake();
    } catch {
      if (this.attempt === attempt) {
        this.held = false;
        this.setPhase("idle"); // the setup card shows why
      }
      return;
    }
    if (this.attempt !== attempt) return;
    if (this.settings.get("countdown") && !this.held && !await this.countdown(attempt)) return;
    this.silence = this.settings.get("autoStop") ? new SilenceDetector(this.setup.floor) : null;
    this.mic.startTake();
    this.setup.node.open = false;
    this.setPhase("recording");
    this.announce("Recording");
  }

  async countdown(attempt) {
    this.setPhase("counting");
    for (const number of ["3", "2", "1"]) {
      this.announce(number);
      await new Promise((done) => { setTimeout(done, 800); });
      if (this.attempt !== attempt) return false;
    }
    return true;
  }

  async stop(reason = "") {
    if (this.phase !== "recording") return;
    this.held = false;
    const phrase = this.phrase();
    if (this.mic.elapsed < MIN_SECONDS) {
      this.mic.discardTake();
      this.setPhase("idle");
      this.announce("Too short, not saved. Press, speak, then press again.");
      return;
    }
    this.setPhase("finishing");
    try {
      const sound = await this.mic.stopTake();
      if (!sound || !sound.samples.length) {
        this.announce("No sound from the microphone. Turn it on again.");
        return;
      }
      const seconds = sound.samples.length / sound.rate;
      const record = await this.queue.add({ phrase: phrase.id, wav: encodeWav(sound.samples, sound.rate), seconds });
      this.saved({ phrase, record, reason });
    } catch (error) {
      this.announce(`Failed to save the recording: ${error.message}`);
    } finally {
      this.setPhase("idle");
    }
  }

  // A recording that is being saved cannot be discarded; it can be removed later.
  discard() {
    if (this.phase === "idle" || this.phase === "finishing") return;
    this.announce(this.phase === "recording" ? "Recording discarded" : "Recording cancelled");
    this.attempt = null;
    this.held = false;
    this.mic.discardTake();
    this.setPhase("idle");
  }

  onLevel(level) {
    if (this.phase === "recording" && this.silence && this.silence.update(level.rms, level.seconds)) this.stop();
  }
}
