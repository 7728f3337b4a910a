// The microphone: opens it, lists devices, measures levels, and cuts a recording
// out of the stream with a short pre-roll and post-roll.
//
// Events: "level" {peak, rms, seconds}, "full" (the maximum length is reached),
// "lost" (the device was disconnected), "devices" (the list may have changed).

import { join } from "./wav.js";
import { dbfs } from "./levels.js";

const PRE_ROLL = 0.3; // seconds; people often start speaking as they press
const POST_ROLL = 0.3; // seconds; and release before the last sound has ended
const MAX_SECONDS = 30;

// Why recording is impossible on this page; null when it is possible.
export function unsupportedReason() {
  if (!globalThis.isSecureContext) {
    return "The browser only allows microphone access on secure pages. "
      + "Open this page at http://localhost or over HTTPS.";
  }
  if (!navigator.mediaDevices || !navigator.mediaDevices.getUserMedia || !globalThis.AudioWorkletNode) {
    return "This browser does not support audio recording. Use a current version of Chromium, Firefox or Safari.";
  }
  return null;
}

export function explain(error) {
  switch (error && error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return "Microphone access is blocked for this page. Click the lock or microphone icon next to the address, "
        + "choose “Allow” and try again. You may also have to allow it in the system’s privacy settings.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "No microphone found. Connect one or switch it on, then try again.";
    case "NotReadableError":
    case "AbortError":
      return "The microphone is in use by another program or is not responding. Close other programs that record, then try again.";
    default:
      return `Failed to start the microphone: ${(error && error.message) || error}`;
  }
}

export class Microphone extends EventTarget {
  constructor() {
    super();
    this.context = null;
    this.stream = null;
    this.node = null;
    this.ring = []; // the newest blocks, enough for the pre-roll
    this.take = null;
    this.noise = null;
    this.onDevices = () => this.dispatchEvent(new Event("devices"));
    if (navigator.mediaDevices && navigator.mediaDevices.addEventListener) {
      navigator.mediaDevices.addEventListener("devicechange", this.onDevices);
    }
  }

  get live() { return Boolean(this.stream && this.stream.active && this.context && this.context.state !== "closed"); }
  get rate() { return this.context ? this.context.sampleRate : 0; }

  // The device in use, which may differ from the requested one.
  get deviceId() {
    const track = this.stream && this.stream.getAudioTracks()[0];
    return (track && track.getSettings().deviceId) || "";
  }

  async devices() {
    if (!navigator.mediaDevices || !navigator.mediaDevices.enumerateDevices) return [];
    const all = await navigator.mediaDevices.enumerateDevices();
    return all
      .filter((device) => device.kind === "audioinput" && device.deviceId)
      .map((device, i) => ({ id: device.deviceId, label: device.label || `Microphone ${i + 1}` }));
  }

  async open({ device = "", echoCancellation = false, noiseSuppression = false, autoGainControl = false } = {}) {
    await this.close();
    const constraints = { channelCount: { ideal: 1 }, echoCancellation, noiseSuppression, autoGainControl };
    // Create the context before any await, while the click still counts as a user
    // gesture (Safari requires this).
    const context = new AudioContext({ latencyHint: "interactive" });
    let stream = null;
    try {
      try {
        const audio = device ? { ...constraints, deviceId: { exact: device } } : constraints;
        stream = await navigator.mediaDevices.getUserMedia({ audio });
      } catch (error) {
        // The saved device may be unplugged: fall back to the default.
        if (!device || !["OverconstrainedError", "NotFoundError"].includes(error.name)) throw error;
        stream = await navigator.mediaDevices.getUserMedia({ audio: constraints });
      }
      await context.audioWorklet.addModule(new URL("./worklet.js", import.meta.url));
      if (context.state !== "running") await Promise.race([context.resume(), wait(1000)]);
      this.wire(context, stream);
    } catch (error) {
      if (stream) stream.getTracks().forEach((track) => track.stop());
      context.close().catch(() => {});
      throw error;
    }
  }

  wire(context, stream) {
    const source = context.createMediaStreamSource(stream);
    const node = new AudioWorkletNode(context, "studio-capture", {
      numberOfInputs: 1, numberOfOutputs: 1, channelCount: 1, channelCountMode: "explicit",
    });
    // A node without a destination may never be processed, so connect it to a muted output.
    const mute = context.createGain();
    mute.gain.value = 0;
    source.connect(node).connect(mute).connect(context.destination);
    node.port.onmessage = (event) => this.onBlock(event.data);
    stream.getAudioTracks()[0].addEventListener("ended", () => {
      if (this.stream === stream) this.dispatchEvent(new Event("lost"));
    });
    // Keep `source`: an unreferenced source can be garbage-collected while recording.
    Object.assign(this, { context, stream, source, node, ring: [] });
  }

  async close() {
    const { context, stream, node } = this;
    Object.assign(this, { context: null, stream: null, source: null, node: null, ring: [], take: null });
    if (node) node.port.postMessage("close");
    if (stream) stream.getTracks().forEach((track) => track.stop());
    if (context && context.state !== "closed") await context.close().catch(() => {});
  }

  onBlock(block) {
    const seconds = block.samples.length / this.rate;
    if (this.noise) this.noise.push(block.rms);
    if (this.take) {
      this.take.blocks.push(block.samples);
      this.take.length += block.samples.length;
      if (this.take.until !== null) {
        if (this.take.length >= this.take.until) this.take.finish();
      } else if (this.take.length / this.rate >= MAX_SECONDS - POST_ROLL - 0.05) this.limitReached(this.take);
    }
    this.ring.push(block.samples);
    const keep = Math.ceil((PRE_ROLL * this.rate) / block.samples.length);
    if (this.ring.length > keep) this.ring.splice(0, this.ring.length - keep);
    this.dispatchEvent(new CustomEvent("level", { detail: { peak: block.peak, rms: block.rms, seconds } }));
  }

  limitReached(take) {
    if (take.full || take !== this.take || take.until !== null) return;
    take.full = true;
    this.dispatchEvent(new Event("full"));
  }

  // The browser may suspend the context of a background tab.
  async wake() {
    if (this.context && this.context.state !== "running") {
      await Promise.race([this.context.resume().catch(() => {}), wait(1000)]);
      this.ring = []; // audio from before the suspension is no pre-roll
    }
  }

  startTake() {
    const blocks = [...this.ring];
    const length = blocks.reduce((sum, block) => sum + block.length, 0);
    this.take = { blocks, length, until: null, full: false, finish: null, begun: performance.now() };
    // Also limit by wall-clock time: a device may deliver slowly, or stop.
    const take = this.take;
    setTimeout(() => this.limitReached(take), (MAX_SECONDS - PRE_ROLL - POST_ROLL) * 1000);
  }

  // Seconds since recording started, without the pre-roll.
  get elapsed() { return this.take ? (performance.now() - this.take.begun) / 1000 : 0; }

  async stopTake() {
    const take = this.take;
    const rate = this.rate;
    if (!take) return null;
    const track = this.stream && this.stream.getAudioTracks()[0];
    if (track && track.readyState === "live") {
      take.until = take.length + POST_ROLL * rate;
      await new Promise((done) => {
        take.finish = done;
        setTimeout(done, POST_ROLL * 1000 + 700); // do not hang on a device that stopped delivering
      });
    }
    if (this.take !== take) return null; // discarded in the meantime
    this.take = null;
    return { samples: join(take.blocks), rate };
  }

  discardTake() {
    const take = this.take;
    this.take = null;
    if (take && take.finish) take.finish();
  }

  // Background noise as mean power over the given time, in dBFS.
  async measureNoise(ms = 3000) {
    await this.wake();
    await wait(250); // let the sound of the click fade
    const levels = [];
    this.noise = levels;
    await wait(ms);
    if (this.noise === levels) this.noise = null;
    if (!levels.length) return -Infinity;
    return dbfs(Math.sqrt(levels.reduce((sum, rms) => sum + rms * rms, 0) / levels.length));
  }

  async dispose() {
    if (navigator.mediaDevices && navigator.mediaDevices.removeEventListener) {
      navigator.mediaDevices.removeEventListener("devicechange", this.onDevices);
    }
    await this.close();
  }
}

function wait(ms) {
  return new Promise((done) => { setTimeout(done, ms); });
}
