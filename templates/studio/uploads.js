// Recordings that exist: files go up one after another, and the run says which of them found their text.
import { $, ask, attempt, el, standing } from "./common.js";

let list;

/** The outline of a sound, drawn when somebody asks for it. */
async function outline(file, button) {
  const bytes = await (await fetch(`/api/uploads/${encodeURIComponent(file.name)}`)).arrayBuffer();
  const context = new AudioContext();
  const sound = await context.decodeAudioData(bytes.slice(0));
  await context.close();
  const canvas = el("canvas", { width: 400, height: 60, role: "img", "aria-label": `Outline of ${file.name}, ${sound.duration.toFixed(1)} seconds` });
  const [pen, samples] = [canvas.getContext("2d"), sound.getChannelData(0)];
  pen.fillStyle = getComputedStyle(document.body).color;
  for (let x = 0; x < 400; x++) {
    let peak = 0;
    for (let at = Math.floor((x * samples.length) / 400); at < ((x + 1) * samples.length) / 400; at++) peak = Math.max(peak, Math.abs(samples[at]));
    pen.fillRect(x, 30 - 29 * peak, 1, Math.max(1, 58 * peak));
  }
  const player = el("audio", { controls: true, src: URL.createObjectURL(new Blob([bytes])), "aria-label": file.name });
  button.replaceWith(canvas, player);
}

/** Lines of a table as objects; quoted cells as spreadsheets write them. */
function table(name, text) {
  if (/\.jsonl$/i.test(name)) return text.split("\n").filter(Boolean).map((line) => JSON.parse(line));
  const mark = /\.tsv$/i.test(name) ? "\t" : ",";
  const cells = (line) => [...line.matchAll(new RegExp(`(?:^|${mark})(?:"((?:[^"]|"")*)"|([^${mark}]*))`, "g"))].map((found) => (found[1] ?? found[2] ?? "").replaceAll('""', '"'));
  const [head, ...rows] = text.replace(/^\ufeff/, "").split(/\r?\n/).filter(Boolean).map(cells);
  return rows.map((row) => Object.fromEntries(head.map((key, at) => [key.trim(), row[at]])));
}

/** How sounds and texts would go together; the run has the last word. */
async function preview() {
  const sounds = list.files.filter((file) => file.sound).map((file) => file.name);
  const found = list.files.find((file) => /\.(csv|tsv|jsonl)$/i.test(file.name));
  const stem = (name) => name.split("/").pop().replace(/\.[^.]*$/, "");
  let texts;
  if (found) texts = table(found.name, await (await fetch(`/api/uploads/${encodeURIComponent(found.name)}`)).text()).map((row) => String(row.file ?? row.audio_path ?? row.audio ?? row.path ?? ""));
  else texts = list.files.filter((file) => /\.txt$/i.test(file.name)).map((file) => file.name);
  const [told, there] = [new Set(texts.map(stem)), new Set(sounds.map(stem))];
  const [silent, lost] = [sounds.filter((name) => !told.has(stem(name))), texts.filter((name) => !there.has(stem(name)))];
  const items = [...silent.map((name) => `${name}: no text`), ...lost.map((name) => `${name}: no sound`)];
  $("#preview").replaceChildren(...(sounds.length ? [el("p", {}, `${sounds.length - silent.length} of ${sounds.length} sounds have a text${found ? ` in ${found.name}` : ""}.`), el("ul", {}, items.slice(0, 50).map((words) => el("li", { class: "warn" }, words)))] : []));
}

async function show() {
  list = await attempt(() => ask("/api/uploads"));
  if (!list) return;
  const row = (file) =>
    el("tr", {}, el("td", {}, file.name), el("td", { class: "number" }, `${(file.size / 1024).toFixed(0)} KiB`),
      el("td", {}, file.sound ? el("button", { "aria-label": `Look at ${file.name}`, onclick: (event) => attempt(() => outline(file, event.target)) }, "Look at") : null, " ", el("button", { "aria-label": `Put aside: ${file.name}`, onclick: () => attempt(() => ask(`/api/uploads/${encodeURIComponent(file.name)}/remove`, {})).then(show) }, "Put aside")));
  $("#list tbody").replaceChildren(...list.files.map(row));
  await attempt(preview);
  const report = list.report;
  const left = [...(report?.rejected || [])].map((one) => `${one.file || one.clip || ""}: ${one.reason}`);
  for (const [words, key] of [["sound without a text", "without_text"], ["text without a sound", "without_sound"], ["without a text", "without_transcript"], ["without a sound", "missing_audio"]])
    left.push(...(report?.[key] || []).map((name) => `${typeof name === "string" ? name : JSON.stringify(name)}: ${words}`));
  $("#pairing").replaceChildren(
    ...(report ? [el("h2", {}, "How they went together"), el("p", {}, `${report.clips ?? "?"} clips have sound and text.`), el("ul", {}, left.map((words) => el("li", {}, words)))] : []),
  );
  $("#go").disabled = !list.files.some((file) => file.sound);
}

async function send(files) {
  let sent = 0;
  for (const file of files) {
    $("#sending").textContent = `${file.name} (${++sent} of ${files.length}) …`;
    await attempt(() => ask(`/api/uploads/${encodeURIComponent(file.name)}`, file));
  }
  $("#sending").textContent = `${sent} files went up.`;
  await show();
}

$("#files").addEventListener("change", (event) => send([...event.target.files]));
const drop = $("#drop");
for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => (event.preventDefault(), drop.classList.add("over")));
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, (event) => (event.preventDefault(), drop.classList.remove("over")));
drop.addEventListener("drop", (event) => send([...event.dataTransfer.files]));

$("#go").addEventListener("click", () =>
  attempt(async () => {
    const table = list.files.find((file) => /\.(csv|tsv|jsonl)$/i.test(file.name));
    const settings = await ask("/api/settings");
    const [stage, now] = Object.entries(settings.stage).find(([, one]) => one.uses === "uploads");
    const folder = now.with.audio;
    await ask("/api/settings", { set: { [`stage.${stage}.with.transcripts`]: table ? `${folder}/${table.name}` : "txt" } });
    await ask("/api/run", {});
    location.href = "/run";
  }),
);
await attempt(standing);
await show();
