// Recordings that exist: files go up one after another, and the run says which of them found their text.
import { $, ask, attempt, el, standing } from "./common.js";

let list;

async function show() {
  list = await attempt(() => ask("/api/uploads"));
  if (!list) return;
  const row = (file) =>
    el("tr", {}, el("td", {}, file.name), el("td", { class: "number" }, `${(file.size / 1024).toFixed(0)} KiB`),
      el("td", {}, el("button", { "aria-label": `Put ${file.name} aside`, onclick: () => attempt(() => ask(`/api/uploads/${encodeURIComponent(file.name)}/remove`, {})).then(show) }, "Put aside")));
  $("#list tbody").replaceChildren(...list.files.map(row));
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
