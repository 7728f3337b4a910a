// The microphone: opening it, listing devices, hearing levels, and cutting a
// take out of the stream with a little sound before and after.
//
// Events: "level" {peak, rms, seconds}, "full" (the longest take is reached),
// "lost" (the device went away), "devices" (the list may have changed).

import { join } from "./wav.js";
import { dbfs } from "./levels.js";

const PRE_ROLL = 0.3; // people often begin to speak as they press
const POST_ROLL = 0.3; // and release before the last sound has died away
const LONGEST = 30;

// Why recording cannot work here at all; null when nothing stands in the way.
export function obstacle() {
  if (!globalThis.isSecureContext) {
    return "This page was not opened over a safe address, so the browser does not allow the microphone. "
      + "Open it as http://localhost or over https.";
  }
  if (!navigator.mediaDevices || !navigator.mediaDevices.getUserMedia || !globalThis.AudioWorkletNode) {
    return "This browser cannot record sound. Please use a current Chromium, Firefox or Safari.";
  }
  return null;
}

export function explain(error) {
  switch (error && error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return "The microphone is not allowed for this page. Click the lock or microphone sign next to the address, "
        + "choose “Allow”, then press the button again. On some computers it must also be allowed in the system’s privacy settings.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "No microphone was found. Plug one in, or switch it on, and press the button again.";
    case "NotReadableError":
    case "AbortError":
      return "The microphone is in use by another program, or it does not answer. Close other programs that record, then try again.";
    default:
      return `The microphone could not be started: ${(error && error.message) || error}`;
  }
}

export class Microphone extends EventTarget {
  constructor() {
    super();
    this.context = null;
    this.stream = null;
    this.node = null;
    this.ring = []; // the newest blocks, just enough for the pre-roll
    this.take = null;
    this.noise = null;
    this.onDevices = () => this.dispatchEvent(new Event("devices"));
    if (navigator.mediaDevices && navigator.mediaDevices.addEventListener) {
      navigator.mediaDevices.addEventListener("devicechange", this.onDevices);
    }
  }

  get live() { return Boolean(this.stream && this.stream.active && this.context && this.context.state !== "closed"); }
  get rate() { return this.context ? this.context.sampleRate : 0; }

  // The device really in use, which may not be the one asked for.
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
    const wish = { channelCount: { ideal: 1 }, echoCancellation, noiseSuppression, autoGainControl };
    // The context is made before any waiting, while the user's press still
    // counts as permission to run it (Safari is strict about this).
    const context = new AudioContext({ latencyHint: "interactive" });
    let stream = null;
    try {
      try {
        const audio = device ? { ...wish, deviceId: { exact: device } } : wish;
        stream = await navigator.mediaDevices.getUserMedia({ audio });
      } catch (error) {
        // The remembered device may be unplugged today: take any other.
        if (!device || !["OverconstrainedError", "NotFoundError"].includes(error.name)) throw error;
        stream = await navigator.mediaDevices.getUserMedia({ audio: wish });
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
    // A node that leads nowhere may never be run, so it leads into silence.
    const mute = context.createGain();
    mute.gain.value = 0;
    source.connect(node).connect(mute).connect(context.destination);
    node.port.onmessage = (event) => this.hear(event.data);
    stream.getAudioTracks()[0].addEventListener("ended", () => {
      if (this.stream === stream) this.dispatchEvent(new Event("lost"));
    });
    // `source` is kept: an unreferenced source can be collected mid-recording.
    Object.assign(this, { context, stream, source, node, ring: [] });
  }

  async close() {
    const { context, stream, node } = this;
    Object.assign(this, { context: null, stream: null, source: null, node: null, ring: [], take: null });
    if (node) node.port.postMessage("close");
    if (stream) stream.getTracks().forEach((track) => track.stop());
    if (context && context.state !== "closed") await context.close().catch(() => {});
  }

  hear(block) {
    const seconds = block.samples.length / this.rate;
    if (this.noise) this.noise.push(block.rms);
    if (this.take) {
      this.take.blocks.push(block.samples);
      this.take.length += block.samples.length;
      if (this.take.until !== null) {
        if (this.take.length >= this.take.until) this.take.finish();
      } else if (this.take.length / this.rate >= LONGEST - POST_ROLL - 0.05) this.fill(this.take);
    }
    this.ring.push(block.samples);
    const keep = Math.ceil((PRE_ROLL * this.rate) / block.samples.length);
    if (this.ring.length > keep) this.ring.splice(0, this.ring.length - keep);
    this.dispatchEvent(new CustomEvent("level", { detail: { peak: block.peak, rms: block.rms, seconds } }));
  }

  fill(take) {
    if (take.full || take !== this.take || take.until !== null) return;
    take.full = true;
    this.dispatchEvent(new Event("full"));
  }

  // A tab that was in the background may have its context put to sleep.
  async wake() {
    if (this.context && this.context.state !== "running") {
      await Promise.race([this.context.resume().catch(() => {}), wait(1000)]);
      this.ring = []; // what was heard before the sleep is not "just before"
    }
  }

  startTake() {
    const blocks = [...this.ring];
    const length = blocks.reduce((sum, block) => sum + block.length, 0);
    this.take = { blocks, length, until: null, full: false, finish: null, begun: performance.now() };
    // The clock on the wall counts too: a device may deliver slowly, or stop.
    const take = this.take;
    setTimeout(() => this.fill(take), (LONGEST - PRE_ROLL - POST_ROLL) * 1000);
  }

  // Seconds since the press, without the pre-roll.
  get pressed() { return this.take ? (performance.now() - this.take.begun) / 1000 : 0; }

  async stopTake() {
    const take = this.take;
    const rate = this.rate;
    if (!take) return null;
    const track = this.stream && this.stream.getAudioTracks()[0];
    if (track && track.readyState === "live") {
      take.until = take.length + POST_ROLL * rate;
      await new Promise((done) => {
        take.finish = done;
        setTimeout(done, POST_ROLL * 1000 + 700); // a device that fell silent must not hang the page
      });
    }
    if (this.take !== take) return null; // discarded meanwhile
    this.take = null;
    return { samples: join(take.blocks), rate };
  }

  discardTake() {
    const take = this.take;
    this.take = null;
    if (take && take.finish) take.finish();
  }

  // The room's noise as mean power over the given time, in dBFS.
  async measureNoise(ms = 3000) {
    await this.wake();
    await wait(250); // let the press of the button itself fade
    const heard = [];
    this.noise = heard;
    await wait(ms);
    if (this.noise === heard) this.noise = null;
    if (!heard.length) return -Infinity;
    return dbfs(Math.sqrt(heard.reduce((sum, rms) => sum + rms * rms, 0) / heard.length));
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
