// What is known about a phrase's takes: the verdict on the newest, its
// outline and numbers, and the list of all takes to choose from.

import { h, button, fill, refill, one } from "./dom.js";
import { drawOutline } from "./meter.js";
import { bestTake, newestFirst } from "./progress.js";

const VERDICTS = { ok: "Good", warn: "Usable, with a remark", reject: "Please record again" };

export function verdictWord(take) {
  return { ok: "good", warn: "usable", reject: "please record again" }[take.verdict] || take.verdict;
}

function numbers(take) {
  const parts = [`${one(take.seconds)} s`];
  const add = (value, text) => { if (Number.isFinite(value)) parts.push(text); };
  add(take.peak_dbfs, `peak ${one(take.peak_dbfs)} dBFS`);
  add(take.rms_dbfs, `level ${one(take.rms_dbfs)} dBFS`);
  add(take.snr_db, `${one(take.snr_db, 0)} dB above the noise`);
  add(take.chars_per_second, `${one(take.chars_per_second)} characters per second`);
  // The server may count clipped samples or just say yes.
  if (take.clipped) parts.push("clipped");
  return parts.join(" · ");
}

export class TakesPanel {
  // act: {play, use, remove, again, discard}; look: {pairs(sha), playing(), wav(sha)}
  constructor(act, look) {
    Object.assign(this, { act, look, links: [] });
    this.verdict = h("div", { id: "verdict", class: "vx-verdict", data: { verdict: "" } });
    this.canvas = h("canvas", { class: "vx-wave", role: "img", "aria-label": "Outline of the take", height: 72 });
    this.list = h("ul", { class: "vx-takes", "aria-label": "Takes of this phrase" });
    this.failed = h("div", { id: "refused", class: "vx-refused", hidden: true });
    this.node = h("section", { class: "vx-card", "aria-label": "Takes" }, this.verdict, this.canvas, this.list, this.failed);
  }

  // shown = {phrase, take|null, record|null, previous: bool} or null
  render({ phrase, shown, records, refused }) {
    this.forget();
    this.showVerdict(shown);
    const sha = shown && (shown.take || shown.record || {}).sha256;
    const pairs = sha ? this.look.pairs(sha) : null;
    this.canvas.hidden = !pairs;
    if (shown) this.node.hidden = false; // a hidden canvas has no width to draw to
    if (pairs) drawOutline(this.canvas, pairs);
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
    const whose = previous ? h("p", { class: "vx-note" }, "Previous phrase: ", h("bdi", { lang: phrase.language }, phrase.text)) : null;
    if (take) {
      const reasons = (take.reasons || []).map((reason) => h("li", {}, reason));
      return set(take.verdict, whose, h("strong", {}, VERDICTS[take.verdict] || take.verdict),
        reasons.length ? h("ul", {}, reasons) : null, h("p", { class: "vx-numbers" }, numbers(take)));
    }
    if (record && record.refused) {
      return set("refused", whose, h("strong", {}, `The server refuses this take: ${record.refused}`));
    }
    if (record) return set("waiting", whose, h("strong", {}, "Saved here"), h("p", { class: "vx-numbers" }, `${one(record.seconds)} s · waits for the server’s verdict`));
    return set("");
  }

  playButton(take, name) {
    const playing = this.look.playing() === take.sha256;
    return button(playing ? "Stop" : "Play", () => this.act.play(take), {
      "data-focus": `play ${take.sha256}`, "aria-label": `${playing ? "Stop" : "Play"} ${name}`,
    });
  }

  takeRow(take, best) {
    // A take that the server rejects lies beside the others there, without a number.
    const kept = take.number > 0;
    const name = kept ? `take ${take.number}` : "the rejected take";
    return h("li", { data: { take: take.file, verdict: take.verdict, best: best ? "true" : "false" } },
      h("span", { class: "vx-take-name" }, kept ? `Take ${take.number}` : "Rejected", best ? h("b", { class: "vx-best" }, "★ in use") : null),
      h("span", { class: "vx-numbers" }, `${verdictWord(take)} · ${one(take.seconds)} s`),
      kept ? h("span", { class: "vx-line" },
        this.playButton(take, name),
        button("Use this one", () => this.act.use(take), { disabled: best, "data-focus": `use ${take.file}`, "aria-label": `Use this one: ${name}` }),
        button("Remove", () => this.act.remove(take), { "data-focus": `remove ${take.file}`, "aria-label": `Remove ${name}` })) : null);
  }

  waitingRow(record) {
    return h("li", { data: { waiting: record.sha256 } },
      h("span", { class: "vx-take-name" }, "New take"),
      h("span", { class: "vx-numbers" }, `waits for the server · ${one(record.seconds)} s`),
      h("span", { class: "vx-line" }, this.playButton(record, "the new take")));
  }

  // Refused takes of every phrase: they must not be forgotten behind another phrase.
  showRefused(refused) {
    this.failed.hidden = !refused.length;
    refill(this.failed, refused.map(({ record, text }) => h("div", { class: "vx-refusal", data: { refused: record.sha256 } },
      h("p", {}, h("strong", {}, `The server refuses this take: ${record.refused}`)),
      h("p", { class: "vx-note" }, h("bdi", {}, text), ` · ${one(record.seconds)} s`),
      h("div", { class: "vx-line" },
        this.playButton(record, "the refused take"),
        h("a", { href: this.link(record), download: `${record.phrase}-${record.sha256.slice(0, 8)}.wav`, class: "vx-button" }, "Download"),
        button("Send again", () => this.act.again(record), { "data-focus": `again ${record.sha256}` }),
        button("Throw away", () => this.act.discard(record), { "data-focus": `discard ${record.sha256}` })))));
  }

  link(record) {
    const url = URL.createObjectURL(new Blob([record.wav], { type: "audio/wav" }));
    this.links.push(url);
    return url;
  }

  forget() {
    this.links.forEach((url) => URL.revokeObjectURL(url));
    this.links = [];
  }
}
