// The set-up card: microphone on, which device, what the browser may do to
// the sound, and a short check of the room's noise.

import { h, button, fill, one } from "./dom.js";
import { obstacle, explain } from "./microphone.js";
import { noiseWords } from "./levels.js";

export class Setup {
  constructor({ microphone, settings, say }) {
    Object.assign(this, { microphone, settings, say });
    this.floor = NaN;
    this.opening = null;
    this.state = h("p", { class: "vx-note", id: "microphone-state" });
    this.on = button("Turn on the microphone", () => this.open().catch(() => {}), { id: "microphone", class: "vx-main" });
    this.device = h("select", { id: "device", onchange: () => this.choose() });
    this.noise = button("Check the room (3 seconds of silence)", () => this.check(), { id: "noise", disabled: true });
    this.skip = button("Skip the check", () => this.finish(), { id: "noise-skip", disabled: true });
    this.result = h("p", { class: "vx-note", id: "noise-result" });
    this.node = h("details", { class: "vx-card", id: "setup", open: true },
      h("summary", {}, "Microphone and room"),
      h("div", { class: "vx-line" }, this.on, this.state),
      h("label", { class: "vx-field" }, "Microphone", this.device),
      h("div", { class: "vx-checks" },
        settings.toggle("echoCancellation", "Echo cancellation"),
        settings.toggle("noiseSuppression", "Noise suppression"),
        settings.toggle("autoGainControl", "Automatic gain"),
        h("p", { class: "vx-note" }, "Best left off: they change the voice.")),
      h("div", { class: "vx-line" }, this.noise, this.skip),
      this.result);
    settings.addEventListener("change", (event) => {
      const processing = ["echoCancellation", "noiseSuppression", "autoGainControl"];
      if (processing.includes(event.detail.name) && microphone.live) this.open().catch(() => {});
    });
    microphone.addEventListener("devices", () => this.list());
    const hindrance = obstacle();
    if (hindrance) {
      this.tell(hindrance, "bad");
      this.on.disabled = true;
    } else {
      this.tell("The microphone is off. Nothing is recorded until you press Record.", "");
    }
    this.list();
  }

  tell(text, kind) {
    fill(this.state, text);
    this.state.dataset.kind = kind;
  }

  // Shared by the button and by the first press of Record. Throws when the
  // microphone cannot be had; the words are then already on the card.
  open() {
    this.opening ||= this.reopen().finally(() => { this.opening = null; });
    return this.opening;
  }

  async reopen() {
    const hindrance = obstacle();
    if (hindrance) throw new Error(hindrance);
    this.tell("Waiting for the browser’s permission …", "");
    try {
      await this.microphone.open(this.settings.values);
    } catch (error) {
      const words = explain(error);
      this.tell(words, "bad");
      this.node.open = true;
      this.on.disabled = false;
      fill(this.on, "Try again");
      this.ready(false);
      this.say(words);
      throw error;
    }
    this.tell(`The microphone is on, ${this.microphone.rate} samples per second.`, "ok");
    this.state.dataset.rate = this.microphone.rate;
    fill(this.on, "Restart the microphone");
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
      h("option", { value: "" }, devices.length ? "The computer’s usual microphone" : "Shown once the microphone is on"),
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
    this.tell("The microphone went away. Plug it in again, or choose another, and turn it on.", "bad");
    this.say("The microphone went away");
  }

  async check() {
    if (this.checking) return;
    this.checking = true;
    this.noise.disabled = true;
    this.result.dataset.kind = "";
    fill(this.result, "Listening to the room. Please keep still for 3 seconds.");
    this.say("Listening to the room. Please keep still.");
    try {
      this.floor = await this.microphone.measureNoise(3000);
    } finally {
      this.checking = false;
      this.noise.disabled = !this.microphone.live;
    }
    const { verdict, text } = noiseWords(this.floor);
    const words = `${text} Noise floor: ${Number.isFinite(this.floor) ? `${one(this.floor)} dBFS` : "nothing heard"}.`;
    this.result.dataset.kind = verdict;
    this.result.dataset.floor = Number.isFinite(this.floor) ? one(this.floor) : "";
    fill(this.result, words);
    this.say(words);
  }

  // The card folds away but stays at hand.
  finish() {
    this.node.open = false;
    this.say("Ready to record");
  }
}
