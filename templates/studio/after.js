// After the training: how well it hears, trying it, where it is.
import { $, ask, attempt, el, percent, standing } from "./common.js";
import { mount } from "./tryit.js";

const state = await attempt(standing);
const { scores, clips } = (await attempt(() => ask("/api/scores"))) || {};
if (scores) {
  const line = (name, one) => one && el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "number" }, percent(one.wer)), el("td", { class: "number" }, percent(one.cer)));
  const held = clips.filter((clip) => clip.split === scores.split).sort((a, b) => b.wer - a.wer).slice(0, 12);
  const sound = (clip) => el("audio", { controls: true, preload: "none", src: `/api/sound/dataset/${clip.audio_path}`, "aria-label": clip.reference });
  const wide = (table) => el("div", { class: "wide" }, table);
  $("#scores").replaceChildren(
    el("h2", {}, "Scores"), el("p", {}, `Errors on ${scores.clips} clips it has not learned from (${scores.words} words).`),
    wide(el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, "Model"), el("th", { class: "number" }, "words"), el("th", { class: "number" }, "characters"))), el("tbody", {}, line("base", scores.base), line("yours", scores.tuned)))),
    el("h2", {}, "What was heard"),
    wide(el("table", {}, el("thead", {}, el("tr", {}, ["Sound", "Said", "Base heard", "Yours heard", "Wrong"].map((name) => el("th", {}, name)))),
      el("tbody", {}, held.map((clip) => el("tr", {}, el("td", {}, sound(clip)), el("td", {}, clip.reference), el("td", {}, clip.base ?? ""), el("td", {}, clip.tuned), el("td", { class: "number" }, percent(clip.wer))))))),
  );
}
mount($("#try"), { models: state?.models || [] });
const { published, space } = (await attempt(() => ask("/api/published"))) || {};
const link = (url) => (/^https?:/.test(url) ? el("a", { href: url }, url) : el("code", {}, url));
$("#where").replaceChildren(...(published ? ["The model is at ", link(published.location), "."] : ["Not published yet: name a place under “Training”, and run."]), ...(space?.url ? [" Its Space is at ", link(space.url), "."] : []));
$("#card").textContent = (await attempt(() => ask("/api/card")))?.text || "There is no card yet.";
