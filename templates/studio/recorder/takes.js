// The recordings of a sentence: the verdict, waveform and measurements of the
// newest, and the list of all to choose from.

import { h, button, fill, refill, one } from "./dom.js";
import { drawWaveform } from "./meter.js";
import { bestTake, newestFirst } from "./progress.js";

const VERDICTS = { ok: "Good", warn: "Usable, with warnings", reject: "Rejected: please record again" };

export function verdictLabel(take) {
  return { ok: "good", warn: "usable", reject: "please record again" }[take.verdict] || take.verdict;
}

function measurements(take) {
  const parts = [`${one(take.seconds)} s`];
  const add = (value, text) => { if (Number.isFinite(value)) parts.push(text); };
  add(take.peak_dbfs, `peak ${one(take.peak_dbfs)} dBFS`);
  add(take.rms_dbfs, `level ${one(take.rms_dbfs)} dBFS`);
  add(take.snr_db, `SNR ${one(take.snr_db, 0)} dB`);
  add(take.chars_per_second, `${one(take.chars_per_second)} characters per second`);
  // A count of clipped samples, or just true.
  if (take.clipped) parts.push("clipped");
  return parts.join(" · ");
}

export class TakesPanel {
  // act: {play, use, remove, retry, discard}; look: {pairs(sha), playing(), wav(sha)}
  constructor(act, look) {
    Object.assign(this, { act, look, links: [] });
    this.verdict = h("div", { id: "verdict", class: "vx-verdict", data: { verdict: "" } });
    this.canvas = h("canvas", { class: "vx-wave", role: "img", "aria-label": "Waveform of the recording", height: 72 });
    this.list = h("ul", { class: "vx-takes", "aria-label": "Recordings of this sentence" });
    this.failed = h("div", { id: "refused", class: "vx-refused", hidden: true });
    this.node = h("section", { class: "vx-card", "aria-label": "Recordings" }, this.verdict, this.canvas, this.list, this.failed);
  }

  // shown = {phrase, take|null, record|null, previous: bool} or null
  render({ phrase, shown, records, refused }) {
    this.revokeLinks();
    this.showVerdict(shown);
    const sha = shown && (shown.take || shown.record || {}).sha256;
    const pairs = sha ? this.look.pairs(sha) : null;
    this.canvas.hidden = !pairs;
    if (shown) this.node.hidden = false; // a hidden canvas has no width
    if (pairs) drawWaveform(this.canvas, pairs);
    const best = bestTake(phrase);
    refill(this.list,
      records.filter((record) => !record.refused).map((record) => this.waitingRow(record)),
      newestFirst(phrase.takes).map((take) => this.takeRow(take, take === best)));
    this.showRefused(refused);
    this.node.hidden = !shown && !this.list.children.length && !refused.length;
  }

  showVerdict(shown) {
    const set = (kind, ...content) => {
      this.verdict.dataset.verdict = kind;
      this.verdict.hidden = !kind;
      fill(this.verdict, ...content);
    };
    if (!shown) return set("");
    const { take, record, previous, phrase } = shown;
    const heading = previous ? h("p", { class: "vx-note" }, "Previous sentence: ", h("bdi", { lang: phrase.language }, phrase.text)) : null;
    if (take) {
      const reasons = (take.reasons || []).map((reason) => h("li", {}, reason));
      return set(take.verdict, heading, h("strong", {}, VERDICTS[take.verdict] || take.verdict),
        reasons.length ? h("ul", {}, reasons) : null, h("p", { class: "vx-numbers" }, measurements(take)));
    }
    if (record && record.refused) {
      return set("refused", heading, h("strong", {}, `Upload failed: ${record.refused}`));
    }
    if (record) return set("waiting", heading, h("strong", {}, "Saved in this browser"), h("p", { class: "vx-numbers" }, `${one(record.seconds)} s · waiting for the quality check`));
    return set("");
  }

  playButton(take, name) {
    const playing = this.look.playing() === take.sha256;
    return button(playing ? "Stop" : "Play", () => this.act.play(take), {
      "data-focus": `play ${take.sha256}`, "aria-label": `${playing ? "Stop" : "Play"} ${name}`,
    });
  }

  takeRow(take, best) {
    // A recording that fails the quality check is stored separately, without a number.
    const kept = take.number > 0;
    const name = kept ? `recording ${take.number}` : "the rejected recording";
    return h("li", { data: { take: take.file, verdict: take.verdict, best: best ? "true" : "false" } },
      h("span", { class: "vx-take-name" }, kept ? `Recording ${take.number}` : "Rejected", best ? h("b", { class: "vx-best" }, "★ selected") : null),
      h("span", { class: "vx-numbers" }, `${verdictLabel(take)} · ${one(take.seconds)} s`),
      kept ? h("span", { class: "vx-line" },
        this.playButton(take, name),
        button("Use", () => this.act.use(take), { disabled: best, "data-focus": `use ${take.file}`, "aria-label": `Use ${name}` }),
        button("Remove", () => this.act.remove(take), { "data-focus": `remove ${take.file}`, "aria-label": `Remove ${name}` })) : null);
  }

  waitingRow(record) {
    return h("li", { data: { waiting: record.sha256 } },
      h("span", { class: "vx-take-name" }, "New recording"),
      h("span", { class: "vx-numbers" }, `waiting to upload · ${one(record.seconds)} s`),
      h("span", { class: "vx-line" }, this.playButton(record, "the new recording")));
  }

  // Failed uploads of all sentences: they stay visible whichever sentence is current.
  showRefused(refused) {
    this.failed.hidden = !refused.length;
    refill(this.failed, refused.map(({ record, text }) => h("div", { class: "vx-refusal", data: { refused: record.sha256 } },
      h("p", {}, h("strong", {}, `Upload failed: ${record.refused}`)),
      h("p", { class: "vx-note" }, h("bdi", {}, text), ` · ${one(record.seconds)} s`),
      h("div", { class: "vx-line" },
        this.playButton(record, "the recording that failed to upload"),
        h("a", { href: this.link(record), download: `${record.phrase}-${record.sha256.slice(0, 8)}.wav`, class: "vx-button" }, "Download"),
        button("Retry upload", () => this.act.retry(record), { "data-focus": `again ${record.sha256}` }),
        button("Delete", () => this.act.discard(record), { "data-focus": `discard ${record.sha256}` })))));
  }

  link(record) {
    const url = URL.createObjectURL(new Blob([record.wav], { type: "audio/wav" }));
    this.links.push(url);
    return url;
  }

  revokeLinks() {
    this.links.forEach((url) => URL.revokeObjectURL(url));
    this.links = [];
  }
}
