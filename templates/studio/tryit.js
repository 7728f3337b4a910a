// Records or uploads a clip and shows each model's transcript.
import { attempt, el, request } from "./common.js";
import { wav } from "./sound.js";

export function mount(root, { models }) {
  if (!models.length) return void (root.textContent = "No model available yet.");
  const transcripts = el("div", { "aria-live": "polite" });
  const player = el("audio", { controls: true, hidden: true, "aria-label": "Your recording" });
  const language = el("input", { id: "said-language", size: 4, maxlength: 2, autocomplete: "off" });
  const button = el("button", { class: "main", id: "speak", "aria-pressed": "false" }, "Record");
  const file = el("input", { type: "file", id: "sound", accept: "audio/*" });
  root.append(el("p", {}, button, " ", el("label", { for: "sound" }, "or choose a file: "), file, " ", el("label", { for: "said-language" }, "Language "), language), player, transcripts);

  async function transcribe(audio) {
    player.src = URL.createObjectURL(audio);
    player.hidden = false;
    const lines = models.map((model) => el("p", { "data-model": model }, `${model}: transcribing…`));
    transcripts.replaceChildren(...lines);
    for (const [at, model] of models.entries()) {
      const query = language.value ? `?language=${language.value}` : "";
      const response = await attempt(() => request(`/api/transcribe/${encodeURIComponent(model)}${query}`, audio));
      lines[at].textContent = `${model}: ${response ? (response.text || "(empty transcript)") + (response.finished ? "" : " (unfinished)") : "transcription failed"}`;
      lines[at].dataset.done = "true";
    }
  }

  let recording = null;
  button.addEventListener("click", () => attempt(async () => {
    if (recording) {
      const { stream, context, blocks } = recording;
      recording = null;
      stream.getTracks().forEach((track) => track.stop());
      button.textContent = "Record";
      button.setAttribute("aria-pressed", "false");
      const rate = context.sampleRate;
      await context.close();
      return transcribe(wav(blocks, rate));
    }
    if (!navigator.mediaDevices) throw new Error("The browser only allows microphone access on secure pages. Open this page at http://localhost or over HTTPS.");
    const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
    const context = new AudioContext();
    await context.audioWorklet.addModule("/assets/sound-worklet.js");
    const blocks = [];
    const node = new AudioWorkletNode(context, "voxpipe-sound");
    node.port.onmessage = (event) => blocks.push(event.data);
    context.createMediaStreamSource(stream).connect(node);
    recording = { stream, context, blocks };
    button.textContent = "Stop and transcribe";
    button.setAttribute("aria-pressed", "true");
  }));
  file.addEventListener("change", () => file.files[0] && transcribe(file.files[0]));
}
