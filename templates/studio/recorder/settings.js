// What a person has set up for themselves. Remembered in this browser only.

import { h, check } from "./dom.js";

const KEY = "voxpipe-recorder-settings";

const DEFAULTS = {
  device: "",
  // Off by default: these change the voice, and the set should hold the voice.
  echoCancellation: false,
  noiseSuppression: false,
  autoGainControl: false,
  hold: false,
  autoStop: false,
  autoAdvance: true,
  countdown: false,
  shortcuts: true,
  fontSize: 2.4,
  view: "one",
};

export class Settings extends EventTarget {
  constructor() {
    super();
    this.values = { ...DEFAULTS };
    try {
      const kept = JSON.parse(localStorage.getItem(KEY) || "{}");
      for (const name of Object.keys(DEFAULTS)) {
        if (typeof kept[name] === typeof DEFAULTS[name]) this.values[name] = kept[name];
      }
    } catch { /* storage may be blocked: then the defaults hold for this visit */ }
  }

  get(name) { return this.values[name]; }

  set(name, value) {
    if (this.values[name] === value) return;
    this.values[name] = value;
    try {
      localStorage.setItem(KEY, JSON.stringify(this.values));
    } catch { /* as above */ }
    this.dispatchEvent(new CustomEvent("change", { detail: { name, value } }));
  }

  toggle(name, text, note) {
    return check(text, this.get(name), (on) => this.set(name, on), note);
  }
}

export function settingsCard(settings) {
  return h("details", { class: "vx-card", id: "settings" },
    h("summary", {}, "Settings"),
    h("div", { class: "vx-checks" },
      settings.toggle("hold", "Hold Space while speaking", "instead of pressing once to start and once to stop"),
      settings.toggle("autoStop", "Stop by itself after 1.2 s of silence"),
      settings.toggle("autoAdvance", "Go on by itself when a take is good"),
      settings.toggle("countdown", "Count 3 – 2 – 1 before recording"),
      settings.toggle("shortcuts", "Single-key shortcuts", "switch off if you use voice control or a switch device")));
}
