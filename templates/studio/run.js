// A run as it happens, from the log that every run writes: also one that was begun in a shell.
import { $, ask, attempt, el, listen, standing } from "./common.js";

const LINES = 400;
let stages = {};
let order = [];
let metrics = {};
let log = [];
let drawn = 0;
let dirty = true;

function row(name) {
  const stage = stages[name];
  const bar = stage.total ? el("progress", { max: stage.total, value: stage.done, "aria-label": `${name}: ${stage.done} of ${stage.total}` }) : null;
  return el("tr", { "data-stage": name, "data-state": stage.state }, el("td", {}, name), el("td", {}, stage.state), el("td", {}, stage.words || "", bar, stage.left ? el("small", { class: "quiet" }, stage.left) : null));
}

/** When the rest is done, if it goes on like this. */
function left(stage, done, total) {
  const now = Date.now();
  if (!stage.began || done < stage.first) [stage.began, stage.first] = [now, done];
  const rate = (done - stage.first) / (now - stage.began);
  if (!(rate > 0) || now - stage.began < 3000) return "";
  const seconds = Math.round((total - done) / rate / 1000);
  return seconds > 90 ? `about ${Math.round(seconds / 60)} minutes left` : `about ${seconds} s left`;
}

function hear(line) {
  const stage = line.stage ? (stages[line.stage] ||= { state: "waits" }) : null;
  if (stage && !order.includes(line.stage)) order.push(line.stage);
  const say = (words) => {
    log.push(`${(line.time || "").slice(11, 19)}  ${line.stage || "run"}  ${words}`);
    if (log.length > LINES) log = log.slice(-LINES);
  };
  switch (line.event) {
    case "run-started":
      order = line.stages;
      for (const name of order) stages[name] ||= { state: "waits" };
      $("#failure").hidden = true;
      break;
    case "stage-fresh": Object.assign(stage, { state: "fresh", words: line.summary }); break;
    case "stage-started": Object.assign(stage, { state: "runs", words: line.why }); say(`starts: ${line.why}`); break;
    case "progress": Object.assign(stage, { state: "runs", done: line.done, total: line.total, words: `${line.done} of ${line.total || "?"} ${line.unit} ${line.detail}`, left: left(stage, line.done, line.total) }); break;
    case "metrics":
      for (const [name, value] of Object.entries(line.values)) metrics[name] = value;
      $("#last").textContent = `step ${line.step}: ${Object.entries(line.values).map(([name, value]) => `${name} ${Number(value.toPrecision(4))}`).join(", ")}`;
      $("#last").dataset.step = line.step;
      break;
    case "note": say(line.message); break;
    case "warning": say(`warning: ${line.message}`); break;
    case "stage-finished": Object.assign(stage, { state: "done", words: line.summary, total: 0, left: "" }); say(`done: ${line.summary}`); break;
    case "stage-parked": Object.assign(stage, { state: "waits for you", words: line.message, total: 0 }); say(line.message); break;
    case "stage-skipped": Object.assign(stage, { state: "skipped", words: line.because }); break;
    case "stage-interrupted": Object.assign(stage, { state: "stopped", left: "" }); say("stopped; a run goes on from here"); break;
    case "gate-failed":
    case "stage-failed":
      Object.assign(stage, { state: "failed", words: line.message, left: "" });
      say(`failed: ${line.message}`);
      fail(line);
      break;
    case "run-finished": say(`the run ended (${line.exit})`); break;
  }
  dirty = true;
}

/** What failed, and what can be done about it. */
function fail(line) {
  const again = (set) => attempt(() => ask("/api/run", { set })).then(() => ($("#failure").hidden = true));
  const less = [`stage.${line.stage}.with.batch_size=1`, `stage.${line.stage}.with.recompute=true`];
  const memory = /memory/i.test(line.message);
  $("#failure").replaceChildren(
    el("h2", {}, `${line.stage} failed`), el("p", {}, line.message), el("p", {}, line.advice || ""),
    el("p", {}, el("button", { class: "main", onclick: () => again([]) }, "Try again; what is done stays"), " ",
      memory ? el("button", { onclick: () => again(less) }, "Try again with less memory (one clip at once; goes on from the last checkpoint)") : null, " ",
      el("a", { class: "button", href: "/training" }, "Change the settings"), " ", el("button", { onclick: () => ($("#failure").hidden = true) }, "Leave it")),
  );
  $("#failure").hidden = false;
}

async function curves() {
  const answer = await fetch(`/api/curves.svg?metric=${encodeURIComponent($("#metric").value)}`);
  if (!answer.ok) return;
  const url = `data:image/svg+xml,${encodeURIComponent(await answer.text())}`;
  const image = $("#curves img") || $("#curves").appendChild(el("img", { alt: "" }));
  image.src = url;
  image.alt = `${$("#metric").value} by step; ${$("#last").textContent}`;
}

function draw() {
  if (!dirty) return;
  dirty = false;
  $("#stages tbody").replaceChildren(...order.filter((name) => stages[name]).map(row));
  const pre = $("#log");
  const low = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 30;
  pre.textContent = log.join("\n");
  if (low) pre.scrollTop = pre.scrollHeight;
  const known = [...$("#metric").options].map((option) => option.value);
  $("#metric").append(...Object.keys(metrics).filter((name) => !known.includes(name)).map((name) => el("option", {}, name)));
  if (Object.keys(metrics).length && Date.now() - drawn > 1500) {
    drawn = Date.now();
    curves();
  }
}

async function look() {
  const state = await attempt(standing);
  if (!state) return;
  $("#begin").disabled = state.running;
  $("#stop").disabled = !state.running;
  $("#now").textContent = state.running ? "A run is going on." : state.trouble ? "" : "Nothing runs.";
  if (state.trouble && !state.running && !$("#failure").textContent) document.querySelector("#trouble").textContent = state.trouble, (document.querySelector("#trouble").hidden = false);
  $("#machine").textContent = (state.machine || []).join("; ");
  document.body.dataset.running = state.running;
}

listen(hear, () => {
  [stages, order, metrics, log] = [{}, [], {}, []];
  dirty = true;
});
setInterval(draw, 250);
setInterval(look, 1500);
look();
$("#metric").addEventListener("change", curves);
$("#begin").addEventListener("click", () => attempt(() => ask("/api/run", {})).then(look));
$("#stop").addEventListener("click", () => attempt(() => ask("/api/stop", {})).then(look));
$("#graph").src = "/api/graph.svg";
const told = await ask("/api/runs").catch(() => null);
const runs = (told?.runs || []).map((run) => run.run || run.id || run);
for (const id of ["a", "b"]) $(`#${id}`).append(...runs.map((run) => el("option", {}, run)));
if (runs.length > 1) $("#a").value = runs.at(-2);
if (runs.length) $("#b").value = runs.at(-1);
/** A reason of `voxpipe diff` in words. */
const words = (reason) => reason.sentence || reason.words || Object.entries(reason).filter(([key]) => key !== "why").map(([key, value]) => `${key} ${JSON.stringify(value)}`).join(", ");

/** Settings, numbers, curves and transcripts of two runs side by side. */
async function compare() {
  const [a, b] = [$("#a").value, $("#b").value];
  const difference = await ask(`/api/diff?a=${a}&b=${b}`);
  const rows = [];
  for (const stage of difference.stages || []) {
    for (const reason of [...(stage.settings || []), ...(stage.sources || [])]) rows.push(el("tr", {}, el("td", {}, stage.stage), el("td", { colspan: 2 }, words(reason))));
    for (const [name, [before, after]] of Object.entries(stage.metrics || {})) rows.push(el("tr", {}, el("td", {}, `${stage.stage}: ${name}`), el("td", { class: "number" }, String(before ?? "")), el("td", { class: "number" }, String(after ?? ""))));
  }
  const wide = (head, body) => el("div", { class: "wide" }, el("table", {}, el("thead", {}, el("tr", {}, head.map((name) => el("th", {}, name)))), el("tbody", {}, body)));
  const parts = [wide(["What differs", a, b], rows.length ? rows : [el("tr", {}, el("td", { colspan: 3 }, "Nothing differs."))])];
  const [one, two] = await Promise.all([a, b].map((run) => ask(`/api/scores?run=${run}`).catch(() => null)));
  // A run that did not get that far has neither curves nor transcripts.
  if (one?.scores && two?.scores) {
    const picture = await fetch(`/api/curves.svg?metric=loss&run=${a}&other=${b}`);
    if (picture.ok) parts.push(el("div", { class: "picture" }, el("img", { alt: `Loss of ${a} and ${b}`, src: `data:image/svg+xml,${encodeURIComponent(await picture.text())}` })));
    const other = new Map(two.clips.map((clip) => [clip.audio_path, clip]));
    const sound = (clip) => el("audio", { controls: true, preload: "none", src: `/api/sound/dataset/${clip.audio_path}`, "aria-label": clip.reference });
    const both = one.clips.filter((clip) => other.has(clip.audio_path)).slice(0, 50);
    parts.push(wide(["Sound", "Said", `${a} heard`, `${b} heard`], both.map((clip) => el("tr", {}, el("td", {}, sound(clip)), el("td", {}, clip.reference), el("td", {}, clip.tuned), el("td", {}, other.get(clip.audio_path).tuned)))));
  }
  $("#difference").replaceChildren(...parts);
  $("#difference").hidden = false;
}
$("#compare").addEventListener("click", () => attempt(compare));
