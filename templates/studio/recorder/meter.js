// The live level meter and the waveform of a recording.

import { h, fill } from "./dom.js";
import { dbfs, position, levelLabel, CLIP, TARGET_LOW, TARGET_HIGH } from "./levels.js";

const PEAK_HOLD = 1500; // ms a peak stays marked
const CLIP_HOLD = 2000; // ms the clipping indicator stays lit

export class Meter {
  constructor() {
    this.bar = h("div", { class: "vx-meter-bar" });
    this.mark = h("div", { class: "vx-meter-peak" });
    this.lamp = h("span", { class: "vx-lamp", id: "clip" }, "clipping");
    this.label = h("span", { class: "vx-meter-words" }, "microphone off");
    const zone = h("div", { class: "vx-meter-zone", title: `target level: ${TARGET_LOW} to ${TARGET_HIGH} dBFS` });
    zone.style.left = `${position(TARGET_LOW) * 100}%`;
    zone.style.width = `${(position(TARGET_HIGH) - position(TARGET_LOW)) * 100}%`;
    this.scale = h("div", {
      class: "vx-meter-scale", id: "meter", role: "meter", "aria-label": "Level",
      "aria-valuemin": -60, "aria-valuemax": 0, "aria-valuenow": -60,
    }, zone, this.bar, this.mark);
    this.node = h("div", { class: "vx-meter" }, this.scale, this.label, this.lamp);
    this.rms = 0;
    this.peak = { db: -Infinity, at: 0 };
    this.clippedAt = -Infinity;
    this.drawnAt = 0;
    this.labelledAt = 0;
    this.reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
  }

  // Called for each block (47 times a second); redraws less often.
  update({ peak, rms }) {
    const now = performance.now();
    // Fast attack, slow release, so that the bar is easy to read.
    this.rms = Math.max(rms, this.rms * 0.88);
    const db = dbfs(peak);
    if (db >= this.peak.db || now - this.peak.at > PEAK_HOLD) this.peak = { db, at: now };
    if (peak >= CLIP) this.clippedAt = now;
    if (now - this.drawnAt < (this.reducedMotion.matches ? 250 : 30)) return;
    this.drawnAt = now;
    this.draw(now);
  }

  draw(now) {
    const db = dbfs(this.rms);
    this.bar.style.transform = `scaleX(${position(db)})`;
    this.bar.dataset.zone = db > TARGET_HIGH ? "high" : db >= TARGET_LOW ? "good" : "low";
    this.mark.style.left = `${position(this.peak.db) * 100}%`;
    this.lamp.toggleAttribute("data-lit", now - this.clippedAt < CLIP_HOLD);
    if (now - this.labelledAt < 500) return; // text must stay long enough to be read
    this.labelledAt = now;
    this.scale.setAttribute("aria-valuenow", Math.round(Math.max(-60, db)));
    this.scale.setAttribute("aria-valuetext", levelLabel(db));
    fill(this.label, Number.isFinite(db) ? `${Math.round(db)} dBFS, ${levelLabel(db)}` : "no sound");
  }

  off() {
    this.rms = 0;
    this.peak = { db: -Infinity, at: 0 };
    this.bar.style.transform = "scaleX(0)";
    this.mark.style.left = "0";
    this.lamp.removeAttribute("data-lit");
    fill(this.label, "microphone off");
  }
}

export function drawWaveform(canvas, pairs) {
  const ratio = globalThis.devicePixelRatio || 1;
  const width = Math.max(200, canvas.clientWidth || 600);
  const height = canvas.clientHeight || 72;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.clearRect(0, 0, width, height);
  const style = getComputedStyle(canvas);
  const middle = height / 2;
  pen.fillStyle = style.getPropertyValue("--line").trim() || "#888";
  pen.fillRect(0, middle - 0.5, width, 1);
  if (!pairs) return;
  pen.fillStyle = style.getPropertyValue("--accent").trim() || "#25c";
  const bins = pairs.length / 2;
  for (let bin = 0; bin < bins; bin += 1) {
    const low = pairs[bin * 2];
    const high = pairs[bin * 2 + 1];
    pen.fillRect((bin * width) / bins, middle - high * middle, Math.max(1, width / bins - 0.4), Math.max(1, (high - low) * middle));
  }
}
