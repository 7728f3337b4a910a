// The list view: all sentences, a few at a time.

import { h, button, refill } from "./dom.js";
import { bestTake } from "./progress.js";
import { verdictLabel } from "./takes.js";

export class Rows {
  // act: {choose(index), record(index), play(take)}
  constructor({ step, limit, act }) {
    Object.assign(this, { step, limit, act });
    this.count = Math.min(step, limit);
    this.list = h("ol", { class: "vx-rows" });
    this.more = button("", () => this.grow(), { id: "more" });
    this.node = h("section", { class: "vx-card", id: "list", "aria-label": "Sentences" }, this.list, this.more);
  }

  grow() {
    this.count = Math.min(this.count + this.step, this.limit);
    this.redraw();
  }

  redraw() { if (this.latest) this.render(this.latest); }

  // The list always includes the current sentence.
  render(latest) {
    this.latest = latest;
    const { phrases, index, recording, waiting, playing } = latest;
    while (this.count <= index && this.count < phrases.length) this.count += this.step;
    this.count = Math.min(this.count, phrases.length);
    refill(this.list, phrases.slice(0, this.count).map((phrase, i) => this.row(phrase, i, {
      current: i === index, recording: recording === phrase.id, pending: waiting.has(phrase.id), playing,
    })));
    const left = Math.min(this.step, this.limit - this.count);
    this.more.hidden = left <= 0;
    this.more.textContent = `Show ${left} more`;
  }

  row(phrase, i, { current, recording, pending, playing }) {
    const best = bestTake(phrase);
    const newest = phrase.takes.length ? phrase.takes.reduce((a, b) => (b.number > a.number ? b : a)) : null;
    const state = recording ? "recording" : best ? best.verdict : pending ? "waiting"
      : newest ? newest.verdict : phrase.reported ? "reported" : phrase.skipped ? "skipped" : "open";
    const label = { waiting: "waiting to upload", reported: "reported", skipped: "skipped", open: "not recorded", recording: "recording" }[state]
      || verdictLabel(best || newest);
    return h("li", { data: { phrase: phrase.id, state }, "aria-current": current ? "true" : null },
      h("button", {
        type: "button", class: "vx-row-text", lang: phrase.language, dir: phrase.direction,
        onclick: () => this.act.choose(i), "data-focus": `choose ${phrase.id}`,
      }, phrase.text),
      h("span", { class: "vx-row-state" }, label),
      h("span", { class: "vx-line" },
        button(recording ? "Stop" : best ? "Record again" : "Record", () => this.act.record(i), {
          "data-focus": `record ${phrase.id}`, "aria-pressed": recording ? "true" : "false", "aria-label": `${recording ? "Stop" : "Record"} sentence ${i + 1}`,
        }),
        newest ? button(playing === (best || newest).sha256 ? "Stop" : "Play", () => this.act.play(best || newest), {
          "data-focus": `play ${phrase.id}`, "aria-label": `Play sentence ${i + 1}`,
        }) : null));
  }
}
