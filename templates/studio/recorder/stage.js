// The page itself: its fixed parts, built once, and how they are filled in.

import { h, button, fill } from "./dom.js";
import { KEYS } from "./keys.js";
import { progressWords } from "./progress.js";
import { waitWords } from "./queue.js";

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
    this.bar = h("progress", { max: 1, value: 0, "aria-label": "Phrases recorded" });
    this.queue = h("p", { id: "queue", class: "vx-note", data: { waiting: "0" } });
    this.view = button("", () => act.view(), { id: "view" });
    this.place = h("p", { class: "vx-note" });
    this.phrase = h("p", { id: "phrase", class: "vx-phrase" });
    this.after = h("p", { id: "after", class: "vx-after", "aria-label": "Next phrase" });
    this.size = h("input", { type: "range", id: "font-size", min: 1.2, max: 6, step: 0.2, value: fontSize, oninput: () => act.size(Number(this.size.value)) });
    this.card = h("section", { class: "vx-card vx-stage", "aria-label": "Phrase" },
      h("div", { class: "vx-line vx-spread" }, this.place, h("label", { class: "vx-field" }, "Text size", this.size)),
      this.phrase, this.after);
    // Two regions: one is read aloud, the other is the same words for the eye.
    this.live = h("p", { class: "vx-hidden", role: "status", "aria-live": "polite", id: "announce" });
    this.words = h("p", { class: "vx-words", "aria-hidden": "true" });
    this.node = h("div", { class: "vx-studio" },
      h("header", { class: "vx-head" },
        h("div", {}, speaker ? h("p", { class: "vx-note" }, "Speaker: ", h("bdi", {}, speaker)) : null, this.progress, this.queue),
        this.view, this.bar),
      parts.setup, this.card, parts.rows,
      h("section", { class: "vx-card vx-desk", "aria-label": "Recording" },
        parts.meter, this.words, this.record, h("div", { class: "vx-tools" }, Object.values(this.tools))),
      parts.takes, parts.settings,
      h("section", { class: "vx-keys", "aria-label": "Keys" },
        KEYS.map(([key, what]) => h("span", {}, h("kbd", {}, key), ` ${what}`))),
      this.live, parts.report);
    // After a click with the mouse the keys should go to the page again, not
    // press the clicked button a second time. Keyboard presses have detail 0.
    this.node.addEventListener("click", (event) => {
      const clicked = event.target.closest("button");
      if (event.detail > 0 && clicked && this.node.contains(clicked) && !clicked.closest("dialog")) clicked.blur();
    });
    root.classList.add("vx");
    fill(root, this.node);
    this.fontSize(fontSize);
  }

  fontSize(rem) { this.node.style.setProperty("--phrase-size", `${rem}rem`); }

  // The same words twice in a row would not be read again: an invisible
  // no-break space makes them differ.
  say(words) {
    fill(this.words, words);
    fill(this.live, this.live.textContent === words ? `${words}\u00a0` : words);
  }

  showPhrase({ phrase, index, count, next }) {
    fill(this.phrase, phrase.text);
    this.phrase.lang = phrase.language || "";
    this.phrase.dir = phrase.direction || "auto";
    this.phrase.dataset.id = phrase.id;
    fill(this.place, `Phrase ${index + 1} of ${count}`);
    fill(this.after, next ? next.text : "");
    this.after.lang = (next && next.language) || "";
    this.after.dir = (next && next.direction) || "auto";
  }

  showRecord({ phase, hold }) {
    const running = phase === "recording";
    const text = { recording: "Stop", finishing: "Saving …", starting: "Starting …", counting: "Cancel" }[phase] || "Record";
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
    fill(this.progress, progressWords(counts, { minimum, wanted, left }).map((part) => h("span", {}, part)));
    this.bar.max = Math.max(1, wanted);
    this.bar.value = Math.min(counts.recorded, wanted);
  }

  showQueue({ waiting, refused, trouble, fragile }) {
    this.queue.dataset.waiting = waiting;
    this.queue.dataset.refused = refused;
    this.queue.dataset.kind = refused ? "bad" : waiting && trouble ? "warn" : "";
    const parts = [waitWords(waiting)];
    if (waiting && trouble) parts.push(`(${trouble}; it is tried again by itself)`);
    if (refused) parts.push(`· ${refused} refused`);
    if (fragile && waiting) parts.push("· this browser cannot keep them over a reload: please leave the page open");
    fill(this.queue, parts.join(" "));
  }

  showView(view) {
    this.card.hidden = view !== "one";
    this.view.dataset.view = view;
    fill(this.view, view === "one" ? "Show the list" : "Show one phrase");
  }
}
