// A recording, and what models hear in it, side by side.
import { ask, attempt, el } from "./common.js";
import { wav } from "./sound.js";

export function mount(root, { models }) {
  if (!models.length) return void (root.textContent = "There is no model to try yet.");
  const heard = el("div", { "aria-live": "polite" });
  const player = el("audio", { controls: true, hidden: true, "aria-label": "What was recorded" });
  const language = el("input", { id: "said-language", size: 4, maxlength: 2, autocomplete: "off" });
  const button = el("button", { class: "main", id: "speak", "aria-pressed": "false" }, "Record");
  const file = el("input", { type: "file", id: "sound", accept: "audio/*" });
  root.append(el("p", {}, button, " ", el("label", { for: "sound" }, "or a file: "), file, " ", el("label", { for: "said-language" }, "Language "), language), player, heard);

  async function hear(sound) {
    player.src = URL.createObjectURL(sound);
    player.hidden = false;
    const places = models.map((model) => el("p", { "data-model": model }, `${model}: …`));
    heard.replaceChildren(...places);
    for (const [at, model] of models.entries()) {
      const query = language.value ? `?language=${language.value}` : "";
      const answer = await attempt(() => ask(`/api/transcribe/${encodeURIComponent(model)}${query}`, sound));
      places[at].textContent = `${model}: ${answer ? answer.text || "(nothing)" : "no answer"}`;
      places[at].dataset.done = "true";
    }
  }

  let running = null;
  button.addEventListener("click", () => attempt(async () => {
    if (running) {
      const { stream, context, blocks } = running;
      running = null;
      stream.getTracks().forEach((track) => track.stop());
      button.textContent = "Record";
      button.setAttribute("aria-pressed", "false");
      const rate = context.sampleRate;
      await context.close();
      return hear(wav(blocks, rate));
    }
    if (!navigator.mediaDevices) throw new Error("This browser gives no microphone to this address: open it as http://localhost.");
    const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
    const context = new AudioContext();
    await context.audioWorklet.addModule("/assets/sound-worklet.js");
    const blocks = [];
    const node = new AudioWorkletNode(context, "voxpipe-sound");
    node.port.onmessage = (event) => blocks.push(event.data);
    context.createMediaStreamSource(stream).connect(node);
    running = { stream, context, blocks };
    button.textContent = "Stop, and write it down";
    button.setAttribute("aria-pressed", "true");
  }));
  file.addEventListener("change", () => file.files[0] && hear(file.files[0]));
}
