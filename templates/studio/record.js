// The recording page: mounts the recorder and offers to continue once enough sentences are recorded.
import { $, attempt, refreshState, request } from "./common.js";
import { mount } from "./recorder/recorder.js";

// `voxpipe record` serves this page alone, without the step navigation.
const inStudio = document.querySelector("[data-step]");
if (inStudio) attempt(refreshState);
const data = await attempt(() => request("/api/phrases"));
if (data) {
  const root = $("#recorder");
  // Pairs of adjacent letters approximate sounds: how many pairs of all sentences have been recorded.
  const bigrams = (phrases) => new Set(phrases.flatMap(({ text }) => [...text.toLowerCase().matchAll(/(?=(\p{L}{2}))/gu)].map((match) => match[1])));
  const all = bigrams(data.phrases);
  const showCoverage = async () => {
    const latest = await request("/api/phrases").catch(() => data);
    const recorded = bigrams(latest.phrases.filter((phrase) => phrase.takes.length));
    $("#coverage").textContent = `Letter-pair coverage: ${recorded.size} of ${all.size}.`;
  };
  const onProgress = ({ recorded }) => {
    $("#enough").hidden = recorded < data.minimum;
    showCoverage();
  };
  root.addEventListener("voxpipe:progress", (event) => onProgress(event.detail));
  onProgress({ recorded: data.phrases.filter((phrase) => phrase.takes.length).length });
  if (data.phrases.length) mount(root, { api: "", phrases: data.phrases, minimum: data.minimum, wanted: data.phrases.length, step: 10, speaker: { id: `${data.project} ${data.speaker || ""}`, name: data.speaker } });
  else root.textContent = "No sentences loaded yet.";
}
$("#finish").addEventListener("click", () =>
  attempt(async () => {
    await request("/api/run", {});
    if (inStudio) location.href = "/run";
    else $("#finish").textContent = "Run started";
  }),
);
