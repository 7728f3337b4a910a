// Single-key shortcuts for the whole page. They are ignored while typing, in
// dialogs, with modifier keys, and when the focused control uses the key itself.

export const KEYS = [
  ["Space", "record / stop"], ["Enter or →", "next"], ["R", "retry"], ["P", "play"],
  ["←", "back"], ["S", "skip"], ["X", "report"], ["Esc", "discard"],
];

const NAMES = {
  " ": "record", Enter: "next", ArrowRight: "next", r: "retry", p: "play",
  ArrowLeft: "back", s: "skip", x: "report", Escape: "discard",
};

// Letters are also matched by physical key, for non-Latin keyboard layouts.
const CODES = { KeyR: "retry", KeyP: "play", KeyS: "skip", KeyX: "report" };

export function actionOf(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (NAMES[key]) return NAMES[key];
  return /^[a-z]$/.test(key) || key.length > 1 ? null : CODES[event.code] || null;
}

function isTyping(target) {
  if (!target || !target.closest) return false;
  if (target.closest("textarea, select, [contenteditable]:not([contenteditable=false]), dialog")) return true;
  const input = target.closest("input");
  return Boolean(input) && !["checkbox", "radio", "button", "submit"].includes(input.type);
}

// Space and Enter belong to a focused button, checkbox or link. Exception: on the
// record button, Space is handled here because it also supports holding.
function ownsKey(target, key) {
  if (!target || !target.closest) return false;
  if (key === " " && target.closest("#record")) return false;
  return (key === " " || key === "Enter") && Boolean(target.closest("button, a[href], summary, input, audio"));
}

export class Keys {
  // actions: one function per name; `release` is called when Space is released.
  constructor(actions, { enabled, release }) {
    this.down = (event) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
      const action = actionOf(event);
      if (!action || isTyping(event.target) || document.querySelector("dialog[open]")) return;
      if (ownsKey(event.target, event.key)) return;
      // Esc works even with shortcuts off: discarding must always be possible.
      if (!enabled() && action !== "discard") return;
      event.preventDefault();
      if (!event.repeat) actions[action]();
    };
    this.up = (event) => {
      if (event.key !== " ") return;
      // Without this, releasing Space would also click the record button.
      if (enabled() && event.target && event.target.closest && event.target.closest("#record")) event.preventDefault();
      release();
    };
    this.blur = () => release();
    document.addEventListener("keydown", this.down);
    document.addEventListener("keyup", this.up);
    window.addEventListener("blur", this.blur);
  }

  remove() {
    document.removeEventListener("keydown", this.down);
    document.removeEventListener("keyup", this.up);
    window.removeEventListener("blur", this.blur);
  }
}
