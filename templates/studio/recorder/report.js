// The dialog for reporting a sentence.

import { h, button } from "./dom.js";

const REASONS = ["too hard", "offensive", "wrong language", "mistake in the text"];

export class Report {
  constructor() {
    const option = (value, text) => h("label", { class: "vx-check" },
      h("input", { type: "radio", name: "report-reason", value }), h("span", {}, text));
    this.other = h("input", {
      type: "text", id: "report-other", maxlength: 300, "aria-label": "Other reason",
      oninput: () => { this.form.elements["report-reason"].value = "other"; },
    });
    this.send = h("button", { type: "submit", class: "vx-main", id: "report-send" }, "Report and continue");
    this.form = h("form", { method: "dialog", onsubmit: (event) => this.submit(event) },
      h("h2", {}, "What is wrong with this sentence?"),
      REASONS.map((reason) => option(reason, reason[0].toUpperCase() + reason.slice(1))),
      option("other", "Other:"), this.other,
      h("div", { class: "vx-line" }, this.send, button("Cancel", () => this.node.close())));
    this.node = h("dialog", { class: "vx-dialog", id: "report-dialog", "aria-label": "Report this sentence" }, this.form);
    this.node.addEventListener("close", () => this.resolve && this.resolve(this.reason));
  }

  get open() { return this.node.open; }

  submit(event) {
    const chosen = this.form.elements["report-reason"].value;
    this.reason = chosen === "other" ? this.other.value.trim() : chosen;
    if (this.reason) return; // the form closes the dialog
    event.preventDefault();
    (chosen === "other" ? this.other : this.form.querySelector("input")).focus();
  }

  // Resolves with the reason, or "" if the user cancels.
  prompt() {
    this.reason = "";
    this.form.reset();
    this.node.showModal();
    this.form.querySelector("input").focus();
    return new Promise((resolve) => {
      this.resolve = (reason) => {
        this.resolve = null;
        resolve(reason || "");
      };
    });
  }
}
