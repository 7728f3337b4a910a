// The clips of the dataset: listen, correct transcripts, exclude clips.
import { $, attempt, el, refreshState, request } from "./common.js";

const PAGE = 50;
let visible = PAGE;
const data = (await attempt(() => request("/api/dataset"))) || { rows: [], edits: {} };
await attempt(refreshState);
// Drafts come first: a person has to confirm or correct what the model wrote before they are used.
const drafts = (data.drafts || []).map((row) => ({ ...row, split: "draft", kind: "uploads" }));
const rows = [...drafts, ...data.rows];
const minutes = rows.reduce((sum, row) => sum + (row.duration || 0), 0) / 60;
const splits = [...new Set(rows.map((row) => row.split))].sort();
const count = (split) => rows.filter((row) => row.split === split).length;
$("#about").textContent = `${rows.length} clips, ${minutes.toFixed(1)} minutes; ${splits.map((split) => `${split}: ${count(split)}`).join(", ")}`;
$("#split").append(...splits.map((split) => el("option", { value: split }, split)));
const name = (row) => row.source || row.audio_path;

async function correct(row, change) {
  const response = await attempt(() => request("/api/edits", { clip: name(row), ...change }));
  if (response) data.edits = response.edits;
  draw();
}

function tableRow(row) {
  const edit = data.edits[name(row)] || {};
  const isOpen = row.split === "draft" && !edit.text;
  const text = el("input", { value: edit.text ?? row.text, "aria-label": `Transcript of ${name(row)}`, size: 50, disabled: Boolean(edit.exclude),
    onchange: (event) => correct(row, { text: event.target.value === row.text && row.split !== "draft" ? undefined : event.target.value }) });
  const confirm = el("button", { hidden: !isOpen, onclick: () => correct(row, { text: text.value }) }, "Confirm");
  const exclude = el("button", { "aria-pressed": String(Boolean(edit.exclude)), onclick: () => correct(row, edit.exclude ? {} : { exclude: true }) }, edit.exclude ? "Include" : "Exclude");
  const audio = el("audio", { controls: true, preload: "none", src: `/api/sound/${row.kind || "dataset"}/${row.audio_path}`, "aria-label": row.text });
  return el("tr", {}, el("td", {}, audio), el("td", {}, text), el("td", {}, row.split), el("td", { class: "number" }, (row.duration || 0).toFixed(1)), el("td", {}, confirm, exclude));
}

function draw() {
  const query = $("#search").value.toLowerCase();
  const split = $("#split").value;
  const matches = rows.filter((row) => (!split || row.split === split) && (!query || `${row.text} ${name(row)}`.toLowerCase().includes(query)));
  $("#rows tbody").replaceChildren(...matches.slice(0, visible).map(tableRow));
  $("#more").hidden = matches.length <= visible;
}
$("#search").addEventListener("input", draw);
$("#split").addEventListener("change", draw);
$("#more").addEventListener("click", () => ((visible += PAGE), draw()));
const section = (title, items) => (items?.length ? [el("h2", {}, title), el("ul", {}, items.map((item) => el("li", {}, `${item.clip || item.file || item.audio_path || ""}: ${item.reason || (item.reasons || []).join("; ")}`)))] : []);
$("#left").replaceChildren(...section("Rejected clips", data.report?.rejected), ...section("Clips to review", data.report?.odd));
$("#go").addEventListener("click", () => attempt(() => request("/api/run", {})).then((started) => started && (location.href = "/run")));
draw();
