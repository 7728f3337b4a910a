// Language and sentences: the answers are written to `pipeline.toml`, then its first stage runs.
import { $, attempt, el, refreshState, request, showError, subscribe } from "./common.js";

const form = $("#begin");
const state = await attempt(refreshState);
const languages = (await attempt(() => request("/api/languages"))) || [];
$("#language").append(...languages.map((language) => el("option", { value: language.code }, `${language.native} · ${language.name}`)));

const selectedLanguage = () => languages.find((language) => language.code === $("#language").value) || {};
const selected = (name) => form.elements[name].value;

function updateForm() {
  const language = selectedLanguage();
  $("#pack").textContent = language.pack ? `${language.pack} original sentences` : "not available in this language";
  form.querySelector('[value="embedded"]').disabled = !language.pack;
  form.querySelector('[value="granary"]').disabled = !language.granary;
  $("#granary").textContent = language.granary ? "requires internet access; downloads a few MiB" : "not available in this language";
  const unavailable = form.querySelector('[name="source"]:checked:disabled');
  if (unavailable) form.querySelector('[value="own"]').checked = true;
  $("#own").hidden = selected("source") !== "own";
  $("#sentences").hidden = selected("way") !== "record";
}

const settings = state?.there ? await attempt(() => request("/api/settings")) : null;
const stage = (kind) => Object.entries(settings?.stage || {}).find(([, candidate]) => candidate.uses === kind);
const browserLanguage = navigator.language.slice(0, 2);
$("#language").value = stage("phrases")?.[1].with?.language || (languages.some((language) => language.code === browserLanguage) ? browserLanguage : "en");
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
  $("#go").textContent = way === "record" ? "Load sentences" : "Save and continue";
}
form.addEventListener("change", updateForm);
updateForm();

$("#file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file) $("#text").value = await file.text();
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const way = selected("way");
  const changes = {};
  const clips = stage(way === "record" ? "recordings" : "uploads")?.[0] || "clips";
  if (way === "record") {
    changes["stage.phrases.with.count"] = Number($("#count").value);
    changes[`stage.${clips}.with.min_clips`] = Number($("#minimum").value);
  }
  if ($("#speaker").value.trim()) changes[`stage.${clips}.with.speaker`] = $("#speaker").value.trim();
  if (settings && $("#base").value.trim()) changes["params.base"] = $("#base").value.trim();
  const own = selected("source") === "own";
  if (own) delete changes["stage.phrases.with.count"];
  const body = {
    language: $("#language").value, way, name: $("#name").value.trim() || null, base: $("#base").value.trim() || null,
    source: own ? null : selected("source"), text: own && way === "record" ? $("#text").value : null, settings: changes,
  };
  $("#go").disabled = true;
  const created = await attempt(() => request("/api/begin", body));
  if (!created) return void ($("#go").disabled = false);
  if (way === "recordings") return void (location.href = "/uploads");
  const showLoading = (text) => ($("#loading").textContent = text);
  showLoading("Loading sentences…");
  $("#cancel").hidden = false;
  const source = subscribe(
    (event) => {
      if (event.event === "progress") showLoading(`${event.stage}: ${event.done} of ${event.total || "?"} ${event.unit} ${event.detail}`);
      if (event.event === "stage-failed") showLoading(`${event.message} ${event.advice || ""}`);
    },
    () => {},
  );
  await attempt(() => request("/api/run", {}));
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 300));
    const latest = await attempt(refreshState);
    if (latest && !latest.running) {
      source.close();
      $("#go").disabled = false;
      $("#cancel").hidden = true;
      if (latest.has.phrases && !latest.trouble) return void (location.href = "/record");
      showLoading("");
      return void showError(latest.trouble || "Failed to load the sentences.");
    }
  }
});
$("#cancel").addEventListener("click", () => attempt(() => request("/api/stop", {})));
