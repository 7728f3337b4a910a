// The live level meter and the drawing of a take's outline.

import { h, fill } from "./dom.js";
import { dbfs, position, levelWords, CLIP, TARGET_LOW, TARGET_HIGH } from "./levels.js";

const HOLD = 1500; // ms a peak stays marked
const LAMP = 2000; // ms the clip lamp stays lit

export class Meter {
  constructor() {
    this.bar = h("div", { class: "vx-meter-bar" });
    this.mark = h("div", { class: "vx-meter-peak" });
    this.lamp = h("span", { class: "vx-lamp", id: "clip" }, "clip");
    this.words = h("span", { class: "vx-meter-words" }, "microphone off");
    const zone = h("div", { class: "vx-meter-zone", title: `aim here: ${TARGET_LOW} to ${TARGET_HIGH} dBFS` });
    zone.style.left = `${position(TARGET_LOW) * 100}%`;
    zone.style.width = `${(position(TARGET_HIGH) - position(TARGET_LOW)) * 100}%`;
    this.scale = h("div", {
      class: "vx-meter-scale", id: "meter", role: "meter", "aria-label": "Level",
      "aria-valuemin": -60, "aria-valuemax": 0, "aria-valuenow": -60,
    }, zone, this.bar, this.mark);
    this.node = h("div", { class: "vx-meter" }, this.scale, this.words, this.lamp);
    this.rms = 0;
    this.peak = { db: -Infinity, at: 0 };
    this.clippedAt = -Infinity;
    this.drawn = 0;
    this.told = 0;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
  }

  // Called for each block (47 times a second); drawn less often.
  hear({ peak, rms }) {
    const now = performance.now();
    // Falls slowly, so that the eye can follow; rises at once.
    this.rms = Math.max(rms, this.rms * 0.88);
    const db = dbfs(peak);
    if (db >= this.peak.db || now - this.peak.at > HOLD) this.peak = { db, at: now };
    if (peak >= CLIP) this.clippedAt = now;
    if (now - this.drawn < (this.calm.matches ? 250 : 30)) return;
    this.drawn = now;
    this.draw(now);
  }

  draw(now) {
    const db = dbfs(this.rms);
    this.bar.style.transform = `scaleX(${position(db)})`;
    this.bar.dataset.zone = db > TARGET_HIGH ? "high" : db >= TARGET_LOW ? "good" : "low";
    this.mark.style.left = `${position(this.peak.db) * 100}%`;
    this.lamp.toggleAttribute("data-lit", now - this.clippedAt < LAMP);
    if (now - this.told < 500) return; // words and numbers need time to be read
    this.told = now;
    this.scale.setAttribute("aria-valuenow", Math.round(Math.max(-60, db)));
    this.scale.setAttribute("aria-valuetext", levelWords(db));
    fill(this.words, Number.isFinite(db) ? `${Math.round(db)} dBFS, ${levelWords(db)}` : "no sound");
  }

  off() {
    this.rms = 0;
    this.peak = { db: -Infinity, at: 0 };
    this.bar.style.transform = "scaleX(0)";
    this.mark.style.left = "0";
    this.lamp.removeAttribute("data-lit");
    fill(this.words, "microphone off");
  }
}

export function drawOutline(canvas, pairs) {
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
