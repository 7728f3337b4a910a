// The page layout: its fixed parts, built once, and the functions that update them.

import { h, button, fill } from "./dom.js";
import { KEYS } from "./keys.js";
import { progressLabels } from "./progress.js";
import { uploadStatus } from "./queue.js";

export class Stage {
  // act: {record, next, back, skip, retry, play, report, discard, view, size(value)}
  constructor(root, { act, parts, fontSize, speaker }) {
    const tool = (id, text, key) => button("", () => act[id](), { id, class: "vx-tool", "aria-keyshortcuts": key[0] });
    const named = (id, text, ...key) => {
      const node = tool(id, text, key);
      fill(node, h("span", {}, text), h("kbd", { "aria-hidden": "true" }, key[1] || key[0]));
      return node;
    };
    this.record = button("", () => act.record(), { id: "record", class: "vx-record", "aria-pressed": "false", "aria-keyshortcuts": "Space" });
    this.tools = {
      back: named("back", "Back", "ArrowLeft", "←"),
      retry: named("retry", "Retry", "R"),
      play: named("play", "Play", "P"),
      skip: named("skip", "Skip", "S"),
      report: named("report", "Report", "X"),
      discard: named("discard", "Discard", "Escape", "Esc"),
      next: named("next", "Next", "Enter", "Enter"),
    };
    this.progress = h("p", { id: "progress", class: "vx-progress", data: { recorded: "0" } });
    this.bar = h("progress", { max: 1, value: 0, "aria-label": "Sentences recorded" });
    this.queue = h("p", { id: "queue", class: "vx-note", data: { waiting: "0" } });
    this.view = button("", () => act.view(), { id: "view" });
    this.place = h("p", { class: "vx-note" });
    this.phrase = h("p", { id: "phrase", class: "vx-phrase" });
    this.after = h("p", { id: "after", class: "vx-after", "aria-label": "Next sentence" });
    this.size = h("input", { type: "range", id: "font-size", min: 1.2, max: 6, step: 0.2, value: fontSize, oninput: () => act.size(Number(this.size.value)) });
    this.card = h("section", { class: "vx-card vx-stage", "aria-label": "Sentence" },
      h("div", { class: "vx-line vx-spread" }, this.place, h("label", { class: "vx-field" }, "Text size", this.size)),
      this.phrase, this.after);
    // The same message twice: a live region for screen readers and a visible line.
    this.live = h("p", { class: "vx-hidden", role: "status", "aria-live": "polite", id: "announce" });
    this.message = h("p", { class: "vx-words", "aria-hidden": "true" });
    this.node = h("div", { class: "vx-studio" },
      h("header", { class: "vx-head" },
        h("div", {}, speaker ? h("p", { class: "vx-note" }, "Speaker: ", h("bdi", {}, speaker)) : null, this.progress, this.queue),
        this.view, this.bar),
      parts.setup, this.card, parts.rows,
      h("section", { class: "vx-card vx-desk", "aria-label": "Recording" },
        parts.meter, this.message, this.record, h("div", { class: "vx-tools" }, Object.values(this.tools))),
      parts.takes, parts.settings,
      h("section", { class: "vx-keys", "aria-label": "Keyboard shortcuts" },
        KEYS.map(([key, what]) => h("span", {}, h("kbd", {}, key), ` ${what}`))),
      this.live, parts.report);
    // After a mouse click, remove focus, so that shortcut keys do not press the
    // clicked button again. Keyboard activation has detail 0.
    this.node.addEventListener("click", (event) => {
      const clicked = event.target.closest("button");
      if (event.detail > 0 && clicked && this.node.contains(clicked) && !clicked.closest("dialog")) clicked.blur();
    });
    root.classList.add("vx");
    fill(root, this.node);
    this.fontSize(fontSize);
  }

  fontSize(rem) { this.node.style.setProperty("--phrase-size", `${rem}rem`); }

  // Screen readers do not repeat an unchanged message: an appended no-break space
  // makes it differ.
  announce(message) {
    fill(this.message, message);
    fill(this.live, this.live.textContent === message ? `${message}\u00a0` : message);
  }

  showPhrase({ phrase, index, count, next }) {
    fill(this.phrase, phrase.text);
    this.phrase.lang = phrase.language || "";
    this.phrase.dir = phrase.direction || "auto";
    this.phrase.dataset.id = phrase.id;
    fill(this.place, `Sentence ${index + 1} of ${count}`);
    fill(this.after, next ? next.text : "");
    this.after.lang = (next && next.language) || "";
    this.after.dir = (next && next.direction) || "auto";
  }

  showRecord({ phase, hold }) {
    const running = phase === "recording";
    const text = { recording: "Stop", finishing: "Saving…", starting: "Starting…", counting: "Cancel" }[phase] || "Record";
    fill(this.record, h("span", { class: "vx-dot", "aria-hidden": "true" }), h("span", {}, text),
      h("kbd", { "aria-hidden": "true" }, hold ? "hold Space" : "Space"));
    this.record.setAttribute("aria-pressed", running ? "true" : "false");
    this.node.dataset.phase = phase;
    this.tools.discard.disabled = phase === "idle" || phase === "finishing";
    for (const name of ["back", "skip", "report"]) this.tools[name].disabled = phase !== "idle";
  }

  showPlay(can, playing) {
    this.tools.play.disabled = !can;
    this.tools.play.firstChild.textContent = playing ? "Stop" : "Play";
  }

  showProgress(counts, { minimum, wanted, left }) {
    this.progress.dataset.recorded = counts.recorded;
    fill(this.progress, progressLabels(counts, { minimum, wanted, left }).map((part) => h("span", {}, part)));
    this.bar.max = Math.max(1, wanted);
    this.bar.value = Math.min(counts.recorded, wanted);
  }

  showQueue({ waiting, refused, error, fragile }) {
    this.queue.dataset.waiting = waiting;
    this.queue.dataset.refused = refused;
    this.queue.dataset.kind = refused ? "bad" : waiting && error ? "warn" : "";
    const parts = [uploadStatus(waiting)];
    if (waiting && error) parts.push(`(${error}; retrying automatically)`);
    if (refused) parts.push(`· ${refused} failed`);
    if (fragile && waiting) parts.push("· this browser cannot store them: keep this page open");
    fill(this.queue, parts.join(" "));
  }

  showView(view) {
    this.card.hidden = view !== "one";
    this.view.dataset.view = view;
    fill(this.view, view === "one" ? "Show list" : "Show one sentence");
  }
}
