// Language and sentences: the answers become `pipeline.toml`, and its first stage runs.
import { $, ask, attempt, el, listen, standing, trouble } from "./common.js";

const form = $("#begin");
const state = await attempt(standing);
const languages = (await attempt(() => ask("/api/languages"))) || [];
$("#language").append(...languages.map((one) => el("option", { value: one.code }, `${one.native} · ${one.name}`)));

const language = () => languages.find((one) => one.code === $("#language").value) || {};
const chosen = (name) => form.elements[name].value;

function adapt() {
  const known = language();
  $("#pack").textContent = known.pack ? `${known.pack} original sentences` : "none in this language";
  form.querySelector('[value="embedded"]').disabled = !known.pack;
  form.querySelector('[value="granary"]').disabled = !known.granary;
  $("#granary").textContent = known.granary ? "needs the network; a few MiB are read" : "has nothing in this language";
  const open = form.querySelector('[name="source"]:checked:disabled');
  if (open) form.querySelector('[value="own"]').checked = true;
  $("#own").hidden = chosen("source") !== "own";
  $("#sentences").hidden = chosen("way") !== "record";
}

const settings = state?.there ? await attempt(() => ask("/api/settings")) : null;
const stage = (kind) => Object.entries(settings?.stage || {}).find(([, one]) => one.uses === kind);
const before = navigator.language.slice(0, 2);
$("#language").value = stage("phrases")?.[1].with?.language || (languages.some((one) => one.code === before) ? before : "en");
if (settings) {
  $("#name").value = settings.pipeline?.name || "";
  $("#name").readOnly = true;
  $("#base").value = settings.params?.base || "";
  $("#count").value = stage("phrases")?.[1].with?.count ?? 100;
  $("#minimum").value = stage("recordings")?.[1].with?.min_clips ?? 40;
  $("#speaker").value = (stage("recordings") || stage("uploads"))?.[1].with?.speaker || "";
  const way = stage("recordings") ? "record" : "recordings";
  form.querySelector(`[name="way"][value="${way}"]`).checked = true;
  for (const radio of form.querySelectorAll('[name="way"]')) radio.disabled = !radio.checked;
  $("#go").textContent = "Load the sentences";
}
form.addEventListener("change", adapt);
adapt();

$("#file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file) $("#text").value = await file.text();
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const way = chosen("way");
  const changes = {};
  const clips = stage(way === "record" ? "recordings" : "uploads")?.[0] || "clips";
  if (way === "record") {
    changes["stage.phrases.with.count"] = Number($("#count").value);
    changes[`stage.${clips}.with.min_clips`] = Number($("#minimum").value);
  }
  if ($("#speaker").value.trim()) changes[`stage.${clips}.with.speaker`] = $("#speaker").value.trim();
  if (settings && $("#base").value.trim()) changes["params.base"] = $("#base").value.trim();
  const own = chosen("source") === "own";
  if (own) delete changes["stage.phrases.with.count"];
  const said = {
    language: $("#language").value, way, name: $("#name").value.trim() || null, base: $("#base").value.trim() || null,
    source: own ? null : chosen("source"), text: own && way === "record" ? $("#text").value : null, settings: changes,
  };
  $("#go").disabled = true;
  const begun = await attempt(() => ask("/api/begin", said));
  if (!begun) return void ($("#go").disabled = false);
  if (way === "recordings") return void (location.href = "/uploads");
  const loading = (words) => ($("#loading").textContent = words);
  loading("Loading sentences …");
  $("#cancel").hidden = false;
  const source = listen(
    (line) => {
      if (line.event === "progress") loading(`${line.stage}: ${line.done} of ${line.total || "?"} ${line.unit} ${line.detail}`);
      if (line.event === "stage-failed") loading(`${line.message} ${line.advice || ""}`);
    },
    () => {},
  );
  await attempt(() => ask("/api/run", {}));
  for (;;) {
    await new Promise((done) => setTimeout(done, 300));
    const now = await attempt(standing);
    if (now && !now.running) {
      source.close();
      $("#go").disabled = false;
      $("#cancel").hidden = true;
      if (now.has.phrases && !now.trouble) return void (location.href = "/record");
      loading("");
      return void trouble(now.trouble || "The sentences could not be loaded.");
    }
  }
});
$("#cancel").addEventListener("click", () => attempt(() => ask("/api/stop", {})));
