// What the training is told: a form for what most people set, and the whole file for the rest.
import { $, ask, attempt, el, standing } from "./common.js";

const FIELDS = {
  basic: [
    ["params.base", "Base model", "A repository of the Hub, or a folder.", "text"],
    ["train.method", "Method", "LoRA trains a small adapter beside the frozen model; full trains every weight and needs many times the memory.", ["lora", "full"]],
    ["train.epochs", "Epochs", "How often every clip is seen.", "number"],
    ["train.learning_rate", "Learning rate", "How far a step goes; 5e-5 is gentle.", "number"],
    ["train.device", "Device", "auto takes a card where there is one and says why.", ["auto", "cpu", "cuda"]],
  ],
  advanced: [
    ["train.batch_size", "Clips at once", "auto takes as many as fit in memory.", "text"],
    ["train.gradient_accumulation", "Batches before a step", "The effective batch is both multiplied.", "number"],
    ["train.lora.r", "LoRA rank", "Size of the adapter.", "number"],
    ["train.lora.alpha", "LoRA alpha", "Weight of the adapter.", "number"],
    ["train.lora.dropout", "LoRA dropout", "", "number"],
    ["train.precision", "Precision", "How the frozen model is kept.", ["f32", "bf16", "q8", "q4"]],
    ["train.recompute", "Compute layers twice", "Slower, and needs less memory.", [true, false]],
    ["pipeline.seed", "Seed", "The same file and seed give the same model.", "number"],
  ],
  publishing: [
    ["publish.target", "Where to", "A folder, or hub.", "text"],
    ["publish.repo", "Repository", "owner/name on the Hub.", "text"],
    ["publish.private", "Private", "Whether a new repository is private.", [true, false]],
  ],
};

let settings;
const names = {};

function place(key) {
  const [head, ...rest] = key.split(".");
  return names[head] ? ["stage", names[head], "with", ...rest] : key.split(".");
}
const look = (key) => place(key).reduce((at, part) => at?.[part], settings);
/** A value of the file that stands for a parameter: that one is set. */
function target(key) {
  const found = look(key);
  const param = typeof found === "string" && /^\$\{params\.([\w-]+)\}$/.exec(found);
  return param ? `params.${param[1]}` : place(key).join(".");
}
const value = (key) => target(key).split(".").reduce((at, part) => at?.[part], settings);

function field([key, title, about, kind]) {
  if (key.includes("train.") && !names.train) return null;
  if (key.includes("publish.") && !names.publish) return null;
  const now = value(key);
  let input;
  if (Array.isArray(kind)) {
    input = el("select", { name: key }, el("option", { value: "" }, "(as it is by itself)"), kind.map((one) => el("option", { value: String(one), selected: String(now) === String(one) }, String(one))));
  } else {
    input = el("input", { name: key, value: now ?? "", inputmode: kind === "number" ? "decimal" : "text", autocomplete: "off" });
  }
  return el("label", {}, title, input, el("small", {}, about));
}

function read(input) {
  const text = input.value.trim();
  if (text === "") return null;
  if (text === "true" || text === "false") return text === "true";
  return /^-?[\d.]+(e-?\d+)?$/i.test(text) ? Number(text) : text;
}

function fill(told) {
  $("#text").value = told.text;
  const wrong = told.check.diagnostics || told.check.complaints || [];
  $("#mistakes").replaceChildren(...wrong.map((one) => {
    const at = one.line ?? one.place?.line ?? one.at?.line;
    const jump = () => {
      const lines = $("#text").value.split("\n");
      const from = lines.slice(0, at - 1).join("\n").length + (at > 1 ? 1 : 0);
      $("#text").focus();
      $("#text").setSelectionRange(from, from + (lines[at - 1] || "").length);
    };
    const words = `${one.severity || one.level || ""} ${at ? `line ${at}: ` : ""}${one.message}${one.hint ? ` (${one.hint})` : ""}`;
    return el("li", { class: (one.severity || one.level) === "warning" ? "warn" : "bad" }, at ? el("button", { type: "button", onclick: jump }, words) : words);
  }));
  return !wrong.some((one) => (one.severity || one.level) !== "warning");
}

/** Whether it will fit, before it begins. */
async function estimate() {
  const told = await ask("/api/estimate").catch(() => null);
  $("#estimate").textContent = told?.words || "";
  $("#estimate").className = told?.fits === false ? "bad" : told?.fits ? "ok" : "quiet";
}

async function load() {
  settings = await ask("/api/settings").catch(() => null);
  const told = await ask("/api/pipeline");
  fill(told);
  if (!settings) return;
  for (const [name, stage] of Object.entries(settings.stage || {})) names[stage.uses] ??= name;
  estimate();
  for (const part of Object.keys(FIELDS)) $(`#${part}`).replaceChildren(...FIELDS[part].map(field).filter(Boolean));
}

async function save() {
  const set = {};
  for (const input of $("#form").elements) {
    if (!input.name) continue;
    const now = read(input);
    if (String(now ?? "") !== String(value(input.name) ?? "")) set[target(input.name)] = now;
  }
  const fine = fill(await ask("/api/settings", { set }));
  await load();
  $("#saved").textContent = fine ? "Saved." : "Saved, with mistakes: see below the file.";
  return fine;
}

$("#form").addEventListener("submit", (event) => (event.preventDefault(), attempt(save)));
$("#run").addEventListener("click", () => attempt(async () => {
  if (!(await save())) return;
  await ask("/api/run", {});
  location.href = "/run";
}));
$("#keep").addEventListener("click", () => attempt(async () => {
  const fine = fill(await ask("/api/pipeline", $("#text").value, "PUT"));
  $("#kept").textContent = fine ? "Saved." : "Saved, with mistakes.";
  await load().catch(() => {});
}));

// Completions come from the schema: the settings of the kind of stage that the line is in.
let schema;
async function complete() {
  schema ??= await ask("/api/schema");
  const before = $("#text").value.slice(0, $("#text").selectionStart);
  const word = /[\w-]*$/.exec(before)[0];
  const uses = [...before.matchAll(/uses\s*=\s*"([\w-]+)"/g)].pop()?.[1];
  const found = new Set();
  const walk = (node) => {
    if (!node || typeof node !== "object") return;
    if (node.properties?.uses?.const === uses || node.properties?.uses?.enum?.includes(uses)) {
      const settingsOf = node.properties.with;
      const described = settingsOf?.$ref ? schema.$defs[settingsOf.$ref.split("/").pop()] : settingsOf;
      for (const [key, one] of Object.entries(described?.properties || {})) found.add(`${key}: ${(one.description || "").split("\n")[0]}`);
    }
    Object.values(node).forEach(walk);
  };
  walk(schema);
  const fits = [...found].filter((one) => one.startsWith(word)).sort();
  const insert = (key) => {
    const at = $("#text").selectionStart;
    $("#text").setRangeText(`${key.slice(word.length)} = `, at, at, "end");
    $("#text").focus();
    $("#completions").replaceChildren();
  };
  $("#completions").replaceChildren(...fits.map((one) => el("li", {}, el("button", { type: "button", onclick: () => insert(one.split(":")[0]) }, one))));
}
$("#text").addEventListener("keydown", (event) => {
  if (event.ctrlKey && event.code === "Space") (event.preventDefault(), attempt(complete));
});

await attempt(standing);
await attempt(load);
