// The result: evaluation, trying the models, where the model is published, model card.
import { $, attempt, el, percent, refreshState, request } from "./common.js";
import { mount } from "./tryit.js";

const state = await attempt(refreshState);
const { scores, clips } = (await attempt(() => request("/api/scores"))) || {};
if (scores) {
  const line = (name, rates) => rates && el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "number" }, percent(rates.wer)), el("td", { class: "number" }, percent(rates.cer)));
  const worst = clips.filter((clip) => clip.split === scores.split).sort((a, b) => b.wer - a.wer).slice(0, 12);
  const audio = (clip) => el("audio", { controls: true, preload: "none", src: `/api/sound/dataset/${clip.audio_path}`, "aria-label": clip.reference });
  const wide = (table) => el("div", { class: "wide" }, table);
  const { status, trained_on: trained, training_clips: training } = scores.overlap || {};
  const checked = trained ? `Warning: ${trained} of them were trained on.` : `None of them is among the ${training} clips that were trained on.`;
  const seen = status === "checked" ? checked : "Whether they were trained on was not checked.";
  $("#scores").replaceChildren(
    el("h2", {}, "Evaluation"), el("p", {}, `Word error rate (WER) and character error rate (CER) on ${scores.clips} clips of the ${scores.split} split (${scores.words} words). ${seen}`),
    wide(el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, "Model"), el("th", { class: "number" }, "WER"), el("th", { class: "number" }, "CER"))), el("tbody", {}, line("base", scores.base), line("fine-tuned", scores.tuned)))),
    el("h2", {}, "Clips with the highest WER"),
    wide(el("table", {}, el("thead", {}, el("tr", {}, ["Audio", "Reference", "Base model", "Fine-tuned model", "WER"].map((name) => el("th", {}, name)))),
      el("tbody", {}, worst.map((clip) => el("tr", {}, el("td", {}, audio(clip)), el("td", {}, clip.reference), el("td", {}, clip.base ?? ""), el("td", {}, clip.tuned), el("td", { class: "number" }, percent(clip.wer))))))),
  );
}
mount($("#try"), { models: state?.models || [] });
const { published, space } = (await attempt(() => request("/api/published"))) || {};
const link = (url) => (/^https?:/.test(url) ? el("a", { href: url }, url) : el("code", {}, url));
$("#where").replaceChildren(...(published ? ["Model: ", link(published.location)] : ["Not published yet. Set a publishing target on the “Training” page and start a run."]), ...(space?.url ? [" · Demo Space: ", link(space.url)] : []));
$("#card").textContent = (await attempt(() => request("/api/card")))?.text || "No model card yet.";
