// User preferences, stored in this browser only.

import { h, check } from "./dom.js";

const KEY = "voxpipe-recorder-settings";

const DEFAULTS = {
  device: "",
  // Off by default: these filters alter the voice, and the dataset needs it unaltered.
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
    } catch { /* storage may be blocked: use the defaults for this visit */ }
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
      settings.toggle("hold", "Hold Space to record", "instead of pressing it once to start and again to stop"),
      settings.toggle("autoStop", "Stop automatically after 1.2 s of silence"),
      settings.toggle("autoAdvance", "Go to the next sentence automatically after a good recording"),
      settings.toggle("countdown", "Countdown (3, 2, 1) before recording"),
      settings.toggle("shortcuts", "Single-key shortcuts", "turn off if you use voice control or a switch device")));
}
