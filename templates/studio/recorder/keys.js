// Single-key shortcuts for the whole page. They keep out of the way of
// typing, of dialogs, of browser shortcuts, and of a focused control's own keys.

export const KEYS = [
  ["Space", "record / stop"], ["Enter or →", "accept, next"], ["R", "retry"], ["P", "play"],
  ["←", "back"], ["S", "skip"], ["X", "report"], ["Esc", "discard"],
];

const NAMES = {
  " ": "record", Enter: "next", ArrowRight: "next", r: "retry", p: "play",
  ArrowLeft: "back", s: "skip", x: "report", Escape: "discard",
};

// Letters are also known by their place, for keyboards that type other scripts.
const PLACES = { KeyR: "retry", KeyP: "play", KeyS: "skip", KeyX: "report" };

export function actionOf(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (NAMES[key]) return NAMES[key];
  return /^[a-z]$/.test(key) || key.length > 1 ? null : PLACES[event.code] || null;
}

function isTyping(target) {
  if (!target || !target.closest) return false;
  if (target.closest("textarea, select, [contenteditable]:not([contenteditable=false]), dialog")) return true;
  const input = target.closest("input");
  return Boolean(input) && !["checkbox", "radio", "button", "submit"].includes(input.type);
}

// Space and Enter belong to a focused button, box or link, with one exception:
// on the record button Space means the same either way, so ours is used (it
// also knows about holding).
function ownsKey(target, key) {
  if (!target || !target.closest) return false;
  if (key === " " && target.closest("#record")) return false;
  return (key === " " || key === "Enter") && Boolean(target.closest("button, a[href], summary, input, audio"));
}

export class Keys {
  // actions: one function per name; `release` is called when Space is let go.
  constructor(actions, { enabled, release }) {
    this.down = (event) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
      const action = actionOf(event);
      if (!action || isTyping(event.target) || document.querySelector("dialog[open]")) return;
      if (ownsKey(event.target, event.key)) return;
      // With shortcuts off, Esc still works: discarding must always be at hand.
      if (!enabled() && action !== "discard") return;
      event.preventDefault();
      if (!event.repeat) actions[action]();
    };
    this.up = (event) => {
      if (event.key !== " ") return;
      // Without this the record button would also click when Space comes up.
      if (enabled() && event.target && event.target.closest && event.target.closest("#record")) event.preventDefault();
      release();
    };
    this.left = () => release();
    document.addEventListener("keydown", this.down);
    document.addEventListener("keyup", this.up);
    window.addEventListener("blur", this.left);
  }

  remove() {
    document.removeEventListener("keydown", this.down);
    document.removeEventListener("keyup", this.up);
    window.removeEventListener("blur", this.left);
  }
}
