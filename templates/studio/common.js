// What every page needs: asking the server, saying what went wrong, and which steps are open.

export const $ = (selector, root = document) => root.querySelector(selector);

/** An element with attributes and children; texts are texts, never markup. */
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

export function trouble(words) {
  const place = $("#trouble");
  place.textContent = words || "";
  place.hidden = !words;
}

/** Asks the server; a refusal is an error with its words. */
export async function ask(path, body, method) {
  const options = { method: method || (body === undefined ? "GET" : "POST"), headers: { "X-Voxpipe": "1" } };
  if (body !== undefined) {
    const raw = body instanceof Blob || typeof body === "string";
    options.body = raw ? body : JSON.stringify(body);
    if (!raw) options.headers["Content-Type"] = "application/json";
    else if (typeof body === "string") options.headers["Content-Type"] = "text/plain; charset=utf-8";
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server cannot be reached. Start `voxpipe studio` again; nothing is lost.");
  }
  const text = await answer.text();
  const told = text ? JSON.parse(text) : null;
  if (!answer.ok) throw new Error(told?.error || `The server answers ${answer.status}.`);
  return told;
}

/** Does something and shows what goes wrong. */
export async function attempt(work) {
  try {
    trouble("");
    return await work();
  } catch (error) {
    trouble(error.message);
    return undefined;
  }
}

/** Which steps are done and which are open. */
export function steps(state) {
  const { has, records } = state;
  const done = { phrases: state.there, record: has.clips, uploads: has.clips, dataset: has.dataset, training: state.there, run: has.model, after: has.published };
  const open = { phrases: true, record: has.phrases, uploads: state.there && !records, dataset: has.dataset, training: state.there, run: state.there, after: has.model };
  for (const link of document.querySelectorAll("[data-step]")) {
    const step = link.dataset.step;
    link.dataset.done = Boolean(done[step]);
    link.hidden = (step === "record" && state.there && !records) || (step === "uploads" && (!state.there || records));
    link.parentElement.hidden = link.hidden;
    if (open[step]) link.removeAttribute("aria-disabled");
    else link.setAttribute("aria-disabled", "true");
  }
  const standing = $("#standing");
  if (standing) standing.textContent = `${state.folder}${state.running ? ": a run is going on" : ""}`;
}

export async function standing() {
  const state = await ask("/api/state");
  steps(state);
  return state;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[aria-disabled]");
  if (link) {
    event.preventDefault();
    trouble(`“${link.textContent}” opens when the steps before it are done.`);
  }
});

/** Hears what happens in runs: `hear(event)` for each, `begin(run)` when another begins. */
export function listen(hear, begin) {
  const source = new EventSource("/api/events");
  source.addEventListener("run", (event) => begin(event.data));
  source.onmessage = (event) => hear(JSON.parse(event.data));
  return source;
}

export const percent = (share) => (share == null ? "" : `${(100 * share).toFixed(1)} %`);
