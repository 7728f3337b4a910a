// Fills in defaults for mount()'s options and copies them, so that the recorder
// never changes the page's own data.

export function readOptions({ api = "", phrases = [], minimum = 0, wanted = 0, step = 10, speaker = "" } = {}) {
  const person = speaker && typeof speaker === "object" ? speaker : { id: speaker };
  const id = String(person.id ?? "");
  return {
    api,
    minimum,
    step,
    phrases: phrases.map((phrase) => ({ ...phrase, takes: [...(phrase.takes || [])] })),
    wanted: Math.min(wanted || phrases.length, phrases.length),
    name: String(person.name || id),
    // Pending recordings in this browser belong to one server path and one speaker.
    scope: `${api}|${id || person.name || ""}`,
  };
}
