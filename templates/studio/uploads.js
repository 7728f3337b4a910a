// Uploading existing recordings: files are sent one by one, and recordings are matched with transcripts.
import { $, attempt, el, refreshState, request } from "./common.js";

let list;

/** Replaces the button with the recording's waveform and a player. */
async function showWaveform(file, button) {
  const bytes = await (await fetch(`/api/uploads/${encodeURIComponent(file.name)}`)).arrayBuffer();
  const context = new AudioContext();
  const audio = await context.decodeAudioData(bytes.slice(0));
  await context.close();
  const canvas = el("canvas", { width: 400, height: 60, role: "img", "aria-label": `Waveform of ${file.name}, ${audio.duration.toFixed(1)} seconds` });
  const [pen, samples] = [canvas.getContext("2d"), audio.getChannelData(0)];
  pen.fillStyle = getComputedStyle(document.body).color;
  for (let x = 0; x < 400; x++) {
    let peak = 0;
    for (let at = Math.floor((x * samples.length) / 400); at < ((x + 1) * samples.length) / 400; at++) peak = Math.max(peak, Math.abs(samples[at]));
    pen.fillRect(x, 30 - 29 * peak, 1, Math.max(1, 58 * peak));
  }
  const player = el("audio", { controls: true, src: URL.createObjectURL(new Blob([bytes])), "aria-label": file.name });
  button.replaceWith(canvas, player);
}

/** Parses a CSV, TSV or JSONL table into objects. Handles quoted cells. */
function parseTable(name, text) {
  if (/\.jsonl$/i.test(name)) return text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
  const separator = /\.tsv$/i.test(name) ? "\t" : ",";
  const cells = (line) => [...line.matchAll(new RegExp(`(?:^|${separator})(?:"((?:[^"]|"")*)"|([^${separator}]*))`, "g"))].map((match) => (match[1] ?? match[2] ?? "").replaceAll('""', '"'));
  const [head, ...rows] = text.replace(/^\ufeff/, "").split(/\r?\n/).filter(Boolean).map(cells);
  return rows.map((row) => Object.fromEntries(head.map((key, at) => [key.trim(), row[at]])));
}

/** Previews how recordings and transcripts match; the run itself decides. */
async function preview() {
  const recordings = list.files.filter((file) => file.sound).map((file) => file.name);
  const table = list.files.find((file) => /\.(csv|tsv|jsonl)$/i.test(file.name));
  const stem = (name) => name.split("/").pop().replace(/\.[^.]*$/, "");
  let transcripts;
  if (table) transcripts = parseTable(table.name, await (await fetch(`/api/uploads/${encodeURIComponent(table.name)}`)).text()).map((row) => String(row.file ?? row.audio_path ?? row.audio ?? row.path ?? ""));
  else transcripts = list.files.filter((file) => /\.txt$/i.test(file.name)).map((file) => file.name);
  const [transcribed, uploaded] = [new Set(transcripts.map(stem)), new Set(recordings.map(stem))];
  const [withoutTranscript, withoutRecording] = [recordings.filter((name) => !transcribed.has(stem(name))), transcripts.filter((name) => !uploaded.has(stem(name)))];
  const items = [...withoutTranscript.map((name) => `${name}: no transcript`), ...withoutRecording.map((name) => `${name}: no recording`)];
  $("#preview").replaceChildren(...(recordings.length ? [el("p", {}, `${recordings.length - withoutTranscript.length} of ${recordings.length} recordings have a transcript${table ? ` in ${table.name}` : ""}.`), el("ul", {}, items.slice(0, 50).map((text) => el("li", { class: "warn" }, text)))] : []));
}

async function refresh() {
  list = await attempt(() => request("/api/uploads"));
  if (!list) return;
  const row = (file) =>
    el("tr", {}, el("td", {}, file.name), el("td", { class: "number" }, `${(file.size / 1024).toFixed(0)} KiB`),
      el("td", {}, file.sound ? el("button", { "aria-label": `Preview ${file.name}`, onclick: (event) => attempt(() => showWaveform(file, event.target)) }, "Preview") : null, " ", el("button", { "aria-label": `Remove ${file.name}`, onclick: () => attempt(() => request(`/api/uploads/${encodeURIComponent(file.name)}/remove`, {})).then(refresh) }, "Remove")));
  $("#list tbody").replaceChildren(...list.files.map(row));
  await attempt(preview);
  const report = list.report;
  // The keys of report.json, which the `uploads` stage writes. A rejection reason starts with the file name.
  const problems = [
    ...(report?.bad_rows || []).map((entry) => `${entry.row}: ${entry.reason}`),
    ...(report?.rejected || []).map((entry) => entry.reason),
    ...(report?.files_without_text || []).map((name) => `${name}: no transcript`),
    ...(report?.texts_without_file || []).map((entry) => `${entry.name}${entry.place === entry.name ? "" : ` (${entry.place})`}: no recording (${entry.reason})`),
  ];
  $("#pairing").replaceChildren(
    ...(report ? [el("h2", {}, "Last run"), el("p", {}, `${report.clips ?? "?"} ${report.clips === 1 ? "recording" : "recordings"} matched with a transcript.`), el("ul", {}, problems.map((text) => el("li", {}, text)))] : []),
  );
  $("#go").disabled = !list.files.some((file) => file.sound);
}

async function upload(files) {
  let sent = 0;
  for (const file of files) {
    $("#sending").textContent = `Uploading ${file.name} (${++sent} of ${files.length})…`;
    await attempt(() => request(`/api/uploads/${encodeURIComponent(file.name)}`, file));
  }
  $("#sending").textContent = `${sent} ${sent === 1 ? "file" : "files"} uploaded.`;
  await refresh();
}

$("#files").addEventListener("change", (event) => upload([...event.target.files]));
const drop = $("#drop");
for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => (event.preventDefault(), drop.classList.add("over")));
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, (event) => (event.preventDefault(), drop.classList.remove("over")));
drop.addEventListener("drop", (event) => upload([...event.dataTransfer.files]));

$("#go").addEventListener("click", () =>
  attempt(async () => {
    const table = list.files.find((file) => /\.(csv|tsv|jsonl)$/i.test(file.name));
    const settings = await request("/api/settings");
    const [name, stage] = Object.entries(settings.stage).find(([, candidate]) => candidate.uses === "uploads");
    const folder = stage.with.audio;
    await request("/api/settings", { set: { [`stage.${name}.with.transcripts`]: table ? `${folder}/${table.name}` : "txt" } });
    await request("/api/run", {});
    location.href = "/run";
  }),
);
await attempt(refreshState);
await refresh();
