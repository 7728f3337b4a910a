// The clips that a model will learn from: listened to, corrected, left out.
import { $, ask, attempt, el, standing } from "./common.js";

const PAGE = 50;
let shown = PAGE;
const told = (await attempt(() => ask("/api/dataset"))) || { rows: [], edits: {} };
await attempt(standing);
const rows = told.rows;
const minutes = rows.reduce((sum, row) => sum + (row.duration || 0), 0) / 60;
const parts = [...new Set(rows.map((row) => row.split))].sort();
const count = (part) => rows.filter((row) => row.split === part).length;
$("#about").textContent = `${rows.length} clips, ${minutes.toFixed(1)} minutes; ${parts.map((part) => `${count(part)} ${part}`).join(", ")}`;
$("#split").append(...parts.map((part) => el("option", { value: part }, part)));
const name = (row) => row.source || row.audio_path;

async function correct(row, change) {
  const answer = await attempt(() => ask("/api/edits", { clip: name(row), ...change }));
  if (answer) told.edits = answer.edits;
  draw();
}

function line(row) {
  const edit = told.edits[name(row)] || {};
  const text = el("input", { value: edit.text ?? row.text, "aria-label": `Text of ${name(row)}`, size: 50, disabled: Boolean(edit.exclude),
    onchange: (event) => correct(row, { text: event.target.value === row.text ? undefined : event.target.value }) });
  const out = el("button", { "aria-pressed": String(Boolean(edit.exclude)), onclick: () => correct(row, edit.exclude ? {} : { exclude: true }) }, edit.exclude ? "Take in again" : "Leave out");
  const sound = el("audio", { controls: true, preload: "none", src: `/api/sound/dataset/${row.audio_path}`, "aria-label": row.text });
  return el("tr", {}, el("td", {}, sound), el("td", {}, text), el("td", {}, row.split), el("td", { class: "number" }, (row.duration || 0).toFixed(1)), el("td", {}, out));
}

function draw() {
  const words = $("#search").value.toLowerCase();
  const part = $("#split").value;
  const found = rows.filter((row) => (!part || row.split === part) && (!words || `${row.text} ${name(row)}`.toLowerCase().includes(words)));
  $("#rows tbody").replaceChildren(...found.slice(0, shown).map(line));
  $("#more").hidden = found.length <= shown;
}
$("#search").addEventListener("input", draw);
$("#split").addEventListener("change", draw);
$("#more").addEventListener("click", () => ((shown += PAGE), draw()));
const list = (title, items) => (items?.length ? [el("h2", {}, title), el("ul", {}, items.map((one) => el("li", {}, `${one.clip || one.file || one.audio_path || ""}: ${one.reason || (one.reasons || []).join("; ")}`)))] : []);
$("#left").replaceChildren(...list("Left out", told.report?.rejected), ...list("Worth listening to", told.report?.odd));
$("#go").addEventListener("click", () => attempt(() => ask("/api/run", {})).then((begun) => begun && (location.href = "/run")));
draw();
