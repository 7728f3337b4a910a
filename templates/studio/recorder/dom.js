// Minimal element builder. Strings become text nodes, never HTML, because
// sentences and server messages are untrusted input.

export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "value" || name === "checked" || name === "disabled") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// type="button", so that it never submits a form by accident.
export function button(text, onclick, props = {}) {
  return h("button", { type: "button", onclick, ...props }, text);
}

// A labelled checkbox. The label wraps the box, so its text is clickable too.
export function check(text, checked, onchange, note) {
  const box = h("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
  return h("label", { class: "vx-check" }, box, h("span", {}, text, note ? h("small", {}, note) : null));
}

export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
}

// Like fill, but keeps keyboard focus: the button that had focus (identified by
// data-focus) gets it back after the redraw.
export function refill(node, ...children) {
  const active = document.activeElement;
  const key = node.contains(active) ? active.dataset.focus : null;
  fill(node, ...children);
  if (!key) return;
  const same = [...node.querySelectorAll("[data-focus]")].find((item) => item.dataset.focus === key);
  if (same) same.focus();
}

export function one(number, digits = 1) {
  return Number.isFinite(number) ? number.toFixed(digits) : "–";
}
