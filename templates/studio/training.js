// Training settings: a form for the common ones, and an editor for the whole pipeline file.
import { $, attempt, el, refreshState, request } from "./common.js";

const FIELDS = {
  basic: [
    ["params.base", "Base model", "Hugging Face Hub repository or local folder.", "text"],
    ["train.method", "Method", "lora trains a small adapter and keeps the base model frozen; full trains every weight and needs many times more memory.", ["lora", "full"]],
    ["train.epochs", "Epochs", "Number of passes over the training clips.", "number"],
    ["train.learning_rate", "Learning rate", "Optimizer step size; 5e-5 is a cautious value.", "number"],
    ["train.device", "Device", "auto uses a GPU if one is available and logs why it was chosen.", ["auto", "cpu", "cuda"]],
  ],
  advanced: [
    ["train.batch_size", "Batch size", "Clips per batch; auto uses as many as fit in memory.", "text"],
    ["train.gradient_accumulation", "Gradient accumulation", "Batches per optimizer step. Effective batch size = batch size × gradient accumulation.", "number"],
    ["train.lora.r", "LoRA rank", "Rank of the adapter matrices; sets the adapter’s size.", "number"],
    ["train.lora.alpha", "LoRA alpha", "Scaling factor of the adapter.", "number"],
    ["train.lora.dropout", "LoRA dropout", "Dropout probability in the adapter.", "number"],
    ["train.precision", "Precision", "Number format of the frozen base model.", ["f32", "bf16", "q8", "q4"]],
    ["train.gradient_checkpointing", "Gradient checkpointing", "Recomputes activations in the backward pass: slower, but needs less memory.", [true, false]],
    ["pipeline.seed", "Seed", "The same file and seed produce the same model.", "number"],
  ],
  publishing: [
    ["publish.target", "Publish to", "Local folder, or hub for the Hugging Face Hub.", "text"],
    ["publish.repo", "Repository", "owner/name on the Hugging Face Hub.", "text"],
    ["publish.private", "Private", "Whether to create new repositories as private.", [true, false]],
  ],
};

let settings;
// The first stage of each kind, by kind.
const names = {};

function path(key) {
  const [head, ...rest] = key.split(".");
  return names[head] ? ["stage", names[head], "with", ...rest] : key.split(".");
}
const rawValue = (key) => path(key).reduce((at, part) => at?.[part], settings);
/** The setting to change: if the value is `${params.NAME}`, that parameter. */
function target(key) {
  const raw = rawValue(key);
  const param = typeof raw === "string" && /^\$\{params\.([\w-]+)\}$/.exec(raw);
  return param ? `params.${param[1]}` : path(key).join(".");
}
const value = (key) => target(key).split(".").reduce((at, part) => at?.[part], settings);

function field([key, title, hint, kind]) {
  if (key.includes("train.") && !names.train) return null;
  if (key.includes("publish.") && !names.publish) return null;
  const current = value(key);
  let input;
  if (Array.isArray(kind)) {
    input = el("select", { name: key }, el("option", { value: "" }, "(default)"), kind.map((option) => el("option", { value: String(option), selected: String(current) === String(option) }, String(option))));
  } else {
    input = el("input", { name: key, value: current ?? "", inputmode: kind === "number" ? "decimal" : "text", autocomplete: "off" });
  }
  return el("label", {}, title, input, el("small", {}, hint));
}

function read(input) {
  const text = input.value.trim();
  if (text === "") return null;
  if (text === "true" || text === "false") return text === "true";
  return /^-?[\d.]+(e-?\d+)?$/i.test(text) ? Number(text) : text;
}

/** Shows the file and its diagnostics. Returns whether it has no errors. */
function showFile(file) {
  $("#text").value = file.text;
  const diagnostics = file.check.diagnostics || file.check.complaints || [];
  $("#mistakes").replaceChildren(...diagnostics.map((diagnostic) => {
    const at = diagnostic.line ?? diagnostic.place?.line ?? diagnostic.at?.line;
    const jump = () => {
      const lines = $("#text").value.split("\n");
      const start = lines.slice(0, at - 1).join("\n").length + (at > 1 ? 1 : 0);
      $("#text").focus();
      $("#text").setSelectionRange(start, start + (lines[at - 1] || "").length);
    };
    const severity = diagnostic.severity || diagnostic.level;
    const text = `${severity || ""} ${at ? `line ${at}: ` : ""}${diagnostic.message}${diagnostic.hint ? ` (${diagnostic.hint})` : ""}`;
    return el("li", { class: severity === "warning" ? "warn" : "bad" }, at ? el("button", { type: "button", onclick: jump }, text) : text);
  }));
  return !diagnostics.some((diagnostic) => (diagnostic.severity || diagnostic.level) !== "warning");
}

/** Shows whether training will fit in memory. */
async function showEstimate() {
  const estimate = await request("/api/estimate").catch(() => null);
  $("#estimate").textContent = estimate?.words || "";
  $("#estimate").className = estimate?.fits === false ? "bad" : estimate?.fits ? "ok" : "quiet";
}

async function load() {
  settings = await request("/api/settings").catch(() => null);
  showFile(await request("/api/pipeline"));
  if (!settings) return;
  for (const [name, stage] of Object.entries(settings.stage || {})) names[stage.uses] ??= name;
  showEstimate();
  for (const part of Object.keys(FIELDS)) $(`#${part}`).replaceChildren(...FIELDS[part].map(field).filter(Boolean));
}

async function save() {
  const set = {};
  for (const input of $("#form").elements) {
    if (!input.name) continue;
    const current = read(input);
    if (String(current ?? "") !== String(value(input.name) ?? "")) set[target(input.name)] = current;
  }
  const valid = showFile(await request("/api/settings", { set }));
  await load();
  $("#saved").textContent = valid ? "Saved." : "Saved, but the file has errors. They are listed below it.";
  return valid;
}

$("#form").addEventListener("submit", (event) => (event.preventDefault(), attempt(save)));
$("#run").addEventListener("click", () => attempt(async () => {
  if (!(await save())) return;
  await request("/api/run", {});
  location.href = "/run";
}));
$("#keep").addEventListener("click", () => attempt(async () => {
  const valid = showFile(await request("/api/pipeline", $("#text").value, "PUT"));
  $("#kept").textContent = valid ? "Saved." : "Saved, but the file has errors.";
  await load().catch(() => {});
}));

// Completion: the settings of the enclosing stage's kind, from the JSON Schema.
let schema;
async function complete() {
  schema ??= await request("/api/schema");
  const before = $("#text").value.slice(0, $("#text").selectionStart);
  const word = /[\w-]*$/.exec(before)[0];
  const uses = [...before.matchAll(/uses\s*=\s*"([\w-]+)"/g)].pop()?.[1];
  const keys = new Set();
  const walk = (node) => {
    if (!node || typeof node !== "object") return;
    if (node.properties?.uses?.const === uses || node.properties?.uses?.enum?.includes(uses)) {
      const reference = node.properties.with;
      const definition = reference?.$ref ? schema.$defs[reference.$ref.split("/").pop()] : reference;
      for (const [key, property] of Object.entries(definition?.properties || {})) keys.add(`${key}: ${(property.description || "").split("\n")[0]}`);
    }
    Object.values(node).forEach(walk);
  };
  walk(schema);
  const matches = [...keys].filter((key) => key.startsWith(word)).sort();
  const insert = (key) => {
    const at = $("#text").selectionStart;
    $("#text").setRangeText(`${key.slice(word.length)} = `, at, at, "end");
    $("#text").focus();
    $("#completions").replaceChildren();
  };
  $("#completions").replaceChildren(...matches.map((match) => el("li", {}, el("button", { type: "button", onclick: () => insert(match.split(":")[0]) }, match))));
}
$("#text").addEventListener("keydown", (event) => {
  if (event.ctrlKey && event.code === "Space") (event.preventDefault(), attempt(complete));
});

await attempt(refreshState);
await attempt(load);
