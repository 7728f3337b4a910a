// The setup card: turns on the microphone, selects the device and the browser's
// audio processing, and measures background noise.

import { h, button, fill, one } from "./dom.js";
import { explain, unsupportedReason } from "./microphone.js";
import { noiseVerdict } from "./levels.js";

export class Setup {
  constructor({ microphone, settings, announce }) {
    Object.assign(this, { microphone, settings, announce });
    this.floor = NaN;
    this.opening = null;
    this.state = h("p", { class: "vx-note", id: "microphone-state" });
    this.on = button("Turn on microphone", () => this.open().catch(() => {}), { id: "microphone", class: "vx-main" });
    this.device = h("select", { id: "device", onchange: () => this.choose() });
    this.noise = button("Check background noise (3 s)", () => this.check(), { id: "noise", disabled: true });
    this.skip = button("Skip check", () => this.finish(), { id: "noise-skip", disabled: true });
    this.result = h("p", { class: "vx-note", id: "noise-result" });
    this.node = h("details", { class: "vx-card", id: "setup", open: true },
      h("summary", {}, "Microphone setup"),
      h("div", { class: "vx-line" }, this.on, this.state),
      h("label", { class: "vx-field" }, "Microphone", this.device),
      h("div", { class: "vx-checks" },
        settings.toggle("echoCancellation", "Echo cancellation"),
        settings.toggle("noiseSuppression", "Noise suppression"),
        settings.toggle("autoGainControl", "Automatic gain control"),
        h("p", { class: "vx-note" }, "Recommended: off. These filters alter your voice.")),
      h("div", { class: "vx-line" }, this.noise, this.skip),
      this.result);
    settings.addEventListener("change", (event) => {
      const processing = ["echoCancellation", "noiseSuppression", "autoGainControl"];
      if (processing.includes(event.detail.name) && microphone.live) this.open().catch(() => {});
    });
    microphone.addEventListener("devices", () => this.list());
    const reason = unsupportedReason();
    if (reason) {
      this.setState(reason, "bad");
      this.on.disabled = true;
    } else {
      this.setState("The microphone is off. Nothing is recorded until you press Record.", "");
    }
    this.list();
  }

  setState(text, kind) {
    fill(this.state, text);
    this.state.dataset.kind = kind;
  }

  // Called by the button and by the first press of Record. Throws if the microphone
  // cannot be opened; the card then already shows why.
  open() {
    this.opening ||= this.reopen().finally(() => { this.opening = null; });
    return this.opening;
  }

  async reopen() {
    const reason = unsupportedReason();
    if (reason) throw new Error(reason);
    this.setState("Waiting for microphone permission…", "");
    try {
      await this.microphone.open(this.settings.values);
    } catch (error) {
      const message = explain(error);
      this.setState(message, "bad");
      this.node.open = true;
      this.on.disabled = false;
      fill(this.on, "Try again");
      this.ready(false);
      this.announce(message);
      throw error;
    }
    this.setState(`The microphone is on (${this.microphone.rate} Hz).`, "ok");
    this.state.dataset.rate = this.microphone.rate;
    fill(this.on, "Restart microphone");
    this.ready(true);
    await this.list();
  }

  ready(yes) {
    this.noise.disabled = !yes;
    this.skip.disabled = !yes;
  }

  async list() {
    const devices = await this.microphone.devices().catch(() => []);
    const chosen = this.microphone.deviceId || this.settings.get("device");
    fill(this.device,
      h("option", { value: "" }, devices.length ? "Default microphone" : "Available once the microphone is on"),
      devices.map((device) => h("option", { value: device.id }, device.label)));
    this.device.value = devices.some((device) => device.id === chosen) ? chosen : "";
  }

  choose() {
    this.settings.set("device", this.device.value);
    if (this.microphone.live) this.open().catch(() => {});
  }

  lost() {
    this.node.open = true;
    this.ready(false);
    this.setState("Microphone disconnected. Reconnect it or choose another, then turn it on.", "bad");
    this.announce("Microphone disconnected");
  }

  async check() {
    if (this.checking) return;
    this.checking = true;
    this.noise.disabled = true;
    this.result.dataset.kind = "";
    fill(this.result, "Measuring background noise. Stay silent for 3 seconds.");
    this.announce("Measuring background noise. Stay silent.");
    try {
      this.floor = await this.microphone.measureNoise(3000);
    } finally {
      this.checking = false;
      this.noise.disabled = !this.microphone.live;
    }
    const { verdict, text } = noiseVerdict(this.floor);
    const message = `${text} Noise floor: ${Number.isFinite(this.floor) ? `${one(this.floor)} dBFS` : "no signal"}.`;
    this.result.dataset.kind = verdict;
    this.result.dataset.floor = Number.isFinite(this.floor) ? one(this.floor) : "";
    fill(this.result, message);
    this.announce(message);
  }

  // Collapses the card; it can be opened again.
  finish() {
    this.node.open = false;
    this.announce("Ready to record");
  }
}
