// Reading aloud: the recorder, and going on when there is enough.
import { $, ask, attempt, standing } from "./common.js";
import { mount } from "./recorder/recorder.js";

const whole = document.querySelector("[data-step]");
if (whole) attempt(standing);
const told = await attempt(() => ask("/api/phrases"));
if (told) {
  const root = $("#recorder");
  // Neighbouring letters stand for sounds: how many of those in all sentences have been read.
  const pairs = (phrases) => new Set(phrases.flatMap(({ text }) => [...text.toLowerCase().matchAll(/(?=(\p{L}{2}))/gu)].map((found) => found[1])));
  const all = pairs(told.phrases);
  const cover = async () => {
    const now = await ask("/api/phrases").catch(() => told);
    const read = pairs(now.phrases.filter((phrase) => phrase.takes.length));
    $("#coverage").textContent = `Sounds covered, by pairs of letters: ${read.size} of ${all.size}.`;
  };
  const enough = ({ recorded }) => {
    $("#enough").hidden = recorded < told.minimum;
    cover();
  };
  root.addEventListener("voxpipe:progress", (event) => enough(event.detail));
  enough({ recorded: told.phrases.filter((phrase) => phrase.takes.length).length });
  if (told.phrases.length) mount(root, { api: "", phrases: told.phrases, minimum: told.minimum, wanted: told.phrases.length, step: 10, speaker: { id: `${told.project} ${told.speaker || ""}`, name: told.speaker } });
  else root.textContent = "There are no sentences yet.";
}
$("#finish").addEventListener("click", () =>
  attempt(async () => {
    await ask("/api/run", {});
    if (whole) location.href = "/run";
    else $("#finish").textContent = "The run goes on.";
  }),
);
