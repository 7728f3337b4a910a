// Shared by all pages: requests to the server, error display, and the state of the step navigation.

export const $ = (selector, root = document) => root.querySelector(selector);

/** Creates an element with attributes and children. Strings become text nodes, never HTML. */
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

/** Shows an error message at the top of the page; an empty message hides it. */
export function showError(message) {
  const box = $("#trouble");
  box.textContent = message || "";
  box.hidden = !message;
}

/** Sends a request and returns the parsed JSON response. An error status throws an Error with the server's message. */
export async function request(path, body, method) {
  const options = { method: method || (body === undefined ? "GET" : "POST"), headers: { "X-Voxpipe": "1" } };
  if (body !== undefined) {
    const raw = body instanceof Blob || typeof body === "string";
    options.body = raw ? body : JSON.stringify(body);
    if (!raw) options.headers["Content-Type"] = "application/json";
    else if (typeof body === "string") options.headers["Content-Type"] = "text/plain; charset=utf-8";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("Cannot reach the server. Restart `voxpipe studio`; no data is lost.");
  }
  const text = await response.text();
  const data = text ? JSON.parse(text) : null;
  if (!response.ok) throw new Error(data?.error || `The server returned status ${response.status}.`);
  return data;
}

/** Runs an action and shows its error, if any. */
export async function attempt(action) {
  try {
    showError("");
    return await action();
  } catch (error) {
    showError(error.message);
    return undefined;
  }
}

/** Updates the navigation: which steps are complete and which are available. */
export function updateSteps(state) {
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
  if (standing) standing.textContent = `${state.folder}${state.running ? ": run in progress" : ""}`;
}

/** Fetches the project state and updates the navigation. */
export async function refreshState() {
  const state = await request("/api/state");
  updateSteps(state);
  return state;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[aria-disabled]");
  if (link) {
    event.preventDefault();
    showError(`Complete the previous steps to open “${link.textContent}”.`);
  }
});

/** Subscribes to run events: `onEvent(event)` for each event, `onRun(id)` when a new run starts. */
export function subscribe(onEvent, onRun) {
  const source = new EventSource("/api/events");
  source.addEventListener("run", (event) => onRun(event.data));
  source.onmessage = (event) => onEvent(JSON.parse(event.data));
  return source;
}

export const percent = (fraction) => (fraction == null ? "" : `${(100 * fraction).toFixed(1)} %`);
