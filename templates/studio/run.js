// Live view of a run, fed by the event log that every run writes; also shows runs started on the command line.
import { $, attempt, el, refreshState, request, showError, subscribe } from "./common.js";

const MAX_LOG_LINES = 400;
let stages = {};
let order = [];
let metrics = {};
let log = [];
let drawnAt = 0;
let dirty = true;

function row(name) {
  const stage = stages[name];
  const bar = stage.total ? el("progress", { max: stage.total, value: stage.done, "aria-label": `${name}: ${stage.done} of ${stage.total}` }) : null;
  return el("tr", { "data-stage": name, "data-state": stage.state }, el("td", {}, name), el("td", {}, stage.state), el("td", {}, stage.details || "", bar, stage.left ? el("small", { class: "quiet" }, stage.left) : null));
}

/** Estimated time left, from the average rate since the first progress event. */
function timeLeft(stage, done, total) {
  const now = Date.now();
  if (!stage.began || done < stage.first) [stage.began, stage.first] = [now, done];
  const rate = (done - stage.first) / (now - stage.began);
  if (!(rate > 0) || now - stage.began < 3000) return "";
  const seconds = Math.round((total - done) / rate / 1000);
  return seconds > 90 ? `about ${Math.round(seconds / 60)} min left` : `about ${seconds} s left`;
}

function onEvent(event) {
  const stage = event.stage ? (stages[event.stage] ||= { state: "pending" }) : null;
  if (stage && !order.includes(event.stage)) order.push(event.stage);
  const addLog = (message) => {
    log.push(`${(event.time || "").slice(11, 19)}  ${event.stage || "run"}  ${message}`);
    if (log.length > MAX_LOG_LINES) log = log.slice(-MAX_LOG_LINES);
  };
  switch (event.event) {
    case "run-started":
      order = event.stages;
      for (const name of order) stages[name] ||= { state: "pending" };
      $("#failure").hidden = true;
      break;
    case "stage-fresh": Object.assign(stage, { state: "up to date", details: event.summary }); break;
    case "stage-started": Object.assign(stage, { state: "running", details: event.why }); addLog(`started: ${event.why}`); break;
    case "progress": Object.assign(stage, { state: "running", done: event.done, total: event.total, details: `${event.done} of ${event.total || "?"} ${event.unit} ${event.detail}`, left: timeLeft(stage, event.done, event.total) }); break;
    case "metrics":
      for (const [name, value] of Object.entries(event.values)) metrics[name] = value;
      $("#last").textContent = `step ${event.step}: ${Object.entries(event.values).map(([name, value]) => `${name} ${typeof value === "number" ? Number(value.toPrecision(4)) : value}`).join(", ")}`;
      $("#last").dataset.step = event.step;
      break;
    case "note": addLog(event.message); break;
    case "warning": addLog(`warning: ${event.message}`); break;
    case "stage-finished": Object.assign(stage, { state: "done", details: event.summary, total: 0, left: "" }); addLog(`done: ${event.summary}`); break;
    case "stage-parked": Object.assign(stage, { state: "waiting for you", details: event.message, total: 0 }); addLog(event.message); break;
    case "stage-skipped": Object.assign(stage, { state: "skipped", details: event.because }); break;
    case "stage-interrupted": Object.assign(stage, { state: "stopped", left: "" }); addLog("stopped; the next run resumes from here"); break;
    case "gate-failed":
    case "stage-failed":
      Object.assign(stage, { state: "failed", details: event.message, left: "" });
      addLog(`failed: ${event.message}`);
      showFailure(event);
      break;
    case "run-finished": addLog(`run finished (exit code ${event.exit})`); break;
  }
  dirty = true;
}

/** Shows the failed stage and what can be done about it. */
function showFailure(event) {
  const retry = (set) => attempt(() => request("/api/run", { set })).then(() => ($("#failure").hidden = true));
  const lowMemory = [`stage.${event.stage}.with.batch_size=1`, `stage.${event.stage}.with.gradient_checkpointing=true`];
  const memory = /memory/i.test(event.message);
  $("#failure").replaceChildren(
    el("h2", {}, `${event.stage} failed`), el("p", {}, event.message), el("p", {}, event.advice || ""),
    el("p", {}, el("button", { class: "main", onclick: () => retry([]) }, "Retry (keeps completed stages)"), " ",
      memory ? el("button", { onclick: () => retry(lowMemory) }, "Retry with less memory (batch size 1; resumes from the last checkpoint)") : null, " ",
      el("a", { class: "button", href: "/training" }, "Change settings"), " ", el("button", { onclick: () => ($("#failure").hidden = true) }, "Dismiss")),
  );
  $("#failure").hidden = false;
}

async function drawCurves() {
  const response = await fetch(`/api/curves.svg?metric=${encodeURIComponent($("#metric").value)}`);
  if (!response.ok) return;
  const url = `data:image/svg+xml,${encodeURIComponent(await response.text())}`;
  const image = $("#curves img") || $("#curves").appendChild(el("img", { alt: "" }));
  image.src = url;
  image.alt = `${$("#metric").value} by step; ${$("#last").textContent}`;
}

function draw() {
  if (!dirty) return;
  dirty = false;
  $("#stages tbody").replaceChildren(...order.filter((name) => stages[name]).map(row));
  const pre = $("#log");
  const atBottom = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 30;
  pre.textContent = log.join("\n");
  if (atBottom) pre.scrollTop = pre.scrollHeight;
  const known = [...$("#metric").options].map((option) => option.value);
  $("#metric").append(...Object.keys(metrics).filter((name) => !known.includes(name)).map((name) => el("option", {}, name)));
  if (Object.keys(metrics).length && Date.now() - drawnAt > 1500) {
    drawnAt = Date.now();
    drawCurves();
  }
}

async function refresh() {
  const state = await attempt(refreshState);
  if (!state) return;
  $("#begin").disabled = state.running;
  $("#stop").disabled = !state.running;
  $("#now").textContent = state.running ? "Run in progress." : state.trouble ? "" : "No run in progress.";
  if (state.trouble && !state.running && !$("#failure").textContent) showError(state.trouble);
  $("#machine").textContent = (state.machine || []).join("; ");
  document.body.dataset.running = state.running;
}

subscribe(onEvent, () => {
  [stages, order, metrics, log] = [{}, [], {}, []];
  dirty = true;
});
setInterval(draw, 250);
setInterval(refresh, 1500);
refresh();
$("#metric").addEventListener("change", drawCurves);
$("#begin").addEventListener("click", () => attempt(() => request("/api/run", {})).then(refresh));
$("#stop").addEventListener("click", () => attempt(() => request("/api/stop", {})).then(refresh));
$("#graph").src = "/api/graph.svg";
const history = await request("/api/runs").catch(() => null);
const runs = (history?.runs || []).map((run) => run.run || run.id || run);
for (const id of ["a", "b"]) $(`#${id}`).append(...runs.map((run) => el("option", {}, run)));
if (runs.length > 1) $("#a").value = runs.at(-2);
if (runs.length) $("#b").value = runs.at(-1);
/** The text of one difference reported by `voxpipe diff`. */
const describe = (reason) => reason.sentence || reason.words || Object.entries(reason).filter(([key]) => key !== "why").map(([key, value]) => `${key} ${JSON.stringify(value)}`).join(", ");

/** Compares settings, metrics, curves and transcripts of two runs side by side. */
async function compare() {
  const [a, b] = [$("#a").value, $("#b").value];
  const difference = await request(`/api/diff?a=${a}&b=${b}`);
  const rows = [];
  for (const stage of difference.stages || []) {
    for (const reason of [...(stage.settings || []), ...(stage.sources || [])]) rows.push(el("tr", {}, el("td", {}, stage.stage), el("td", { colspan: 2 }, describe(reason))));
    for (const [name, [before, after]] of Object.entries(stage.metrics || {})) rows.push(el("tr", {}, el("td", {}, `${stage.stage}: ${name}`), el("td", { class: "number" }, String(before ?? "")), el("td", { class: "number" }, String(after ?? ""))));
  }
  const table = (head, body) => el("div", { class: "wide" }, el("table", {}, el("thead", {}, el("tr", {}, head.map((name) => el("th", {}, name)))), el("tbody", {}, body)));
  const parts = [table(["Difference", a, b], rows.length ? rows : [el("tr", {}, el("td", { colspan: 3 }, "No differences."))])];
  const [one, two] = await Promise.all([a, b].map((run) => request(`/api/scores?run=${run}`).catch(() => null)));
  // A run that stopped before evaluation has neither curves nor transcripts to compare.
  if (one?.scores && two?.scores) {
    const plot = await fetch(`/api/curves.svg?metric=loss&run=${a}&other=${b}`);
    if (plot.ok) parts.push(el("div", { class: "picture" }, el("img", { alt: `Loss of ${a} and ${b}`, src: `data:image/svg+xml,${encodeURIComponent(await plot.text())}` })));
    const other = new Map(two.clips.map((clip) => [clip.audio_path, clip]));
    const audio = (clip) => el("audio", { controls: true, preload: "none", src: `/api/sound/dataset/${clip.audio_path}`, "aria-label": clip.reference });
    const both = one.clips.filter((clip) => other.has(clip.audio_path)).slice(0, 50);
    parts.push(table(["Audio", "Reference", `Output of ${a}`, `Output of ${b}`], both.map((clip) => el("tr", {}, el("td", {}, audio(clip)), el("td", {}, clip.reference), el("td", {}, clip.tuned), el("td", {}, other.get(clip.audio_path).tuned)))));
  }
  $("#difference").replaceChildren(...parts);
  $("#difference").hidden = false;
}
$("#compare").addEventListener("click", () => attempt(compare));
