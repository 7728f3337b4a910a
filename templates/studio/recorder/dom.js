// A very small way to build elements. Text always goes in as text, never as
// HTML, because phrase texts and server messages come from outside.

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

// A button never submits a form by accident.
export function button(text, onclick, props = {}) {
  return h("button", { type: "button", onclick, ...props }, text);
}

// A labelled switch. The label wraps the box, so the words are clickable too.
export function check(text, checked, onchange, note) {
  const box = h("input", { type: "checkbox", checked, onchange: () => onchange(box.checked) });
  return h("label", { class: "vx-check" }, box, h("span", {}, text, note ? h("small", {}, note) : null));
}

export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
}

// Like fill, but a person who works by keyboard keeps their place: the button
// that had focus (known by data-focus) has it again after the redraw.
export function refill(node, ...children) {
  const active = document.activeElement;
  const place = node.contains(active) ? active.dataset.focus : null;
  fill(node, ...children);
  if (!place) return;
  const same = [...node.querySelectorAll("[data-focus]")].find((item) => item.dataset.focus === place);
  if (same) same.focus();
}

export function one(number, digits = 1) {
  return Number.isFinite(number) ? number.toFixed(digits) : "–";
}
