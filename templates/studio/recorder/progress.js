// Recording progress. Pure functions over the sentences, except for Pace.

export function newestFirst(takes) {
  return [...takes].sort((a, b) => b.number - a.number);
}

// The recording that goes into the dataset: the selected one, else the newest
// good one, else the newest usable one.
export function bestTake(phrase) {
  const takes = newestFirst(phrase.takes || []);
  return takes.find((take) => take.used)
    || takes.find((take) => take.file === phrase.chosen)
    || takes.find((take) => take.verdict === "ok")
    || takes.find((take) => take.verdict === "warn")
    || null;
}

export function isRecorded(phrase) { return bestTake(phrase) !== null; }

export function tally(phrases) {
  const best = phrases.map(bestTake).filter(Boolean);
  return { recorded: best.length, minutes: best.reduce((sum, take) => sum + (take.seconds || 0), 0) / 60 };
}

// The next sentence without a recording, wrapping around once; skipped sentences
// come last. When all are recorded, the next in the list; -1 at its end.
export function following(phrases, index) {
  const count = phrases.length;
  const open = (i) => !isRecorded(phrases[i]) && !phrases[i].reported;
  for (const again of [false, true]) {
    for (let step = 1; step < count; step += 1) {
      const i = (index + step) % count;
      if (open(i) && (again || !phrases[i].skipped)) return i;
    }
  }
  return index + 1 < count ? index + 1 : -1;
}

// Estimated minutes left: the median pace of this session, or a fixed guess at
// the start. Breaks longer than two minutes are ignored.
export function timeLeft(missing, paces) {
  if (missing <= 0) return 0;
  const useful = paces.filter((seconds) => seconds > 0 && seconds < 120).sort((a, b) => a - b);
  const pace = useful.length >= 3 ? useful[Math.floor(useful.length / 2)] : 12;
  return (missing * pace) / 60;
}

// Measures the time from one accepted recording to the next.
export class Pace {
  constructor() {
    this.times = [];
    this.from = 0;
  }

  step(now = performance.now()) {
    if (this.from) this.times.push((now - this.from) / 1000);
    this.from = now;
  }

  left(missing) { return timeLeft(missing, this.times); }
}

export function progressLabels({ recorded, minutes }, { minimum, wanted, left }) {
  const parts = [`${recorded} of ${wanted} recorded`, `${minutes.toFixed(1)} minutes of speech`];
  if (minimum) {
    parts.push(recorded >= minimum ? "minimum reached" : `${minimum - recorded} more to reach the minimum of ${minimum}`);
  }
  if (recorded >= wanted) parts.push("all recorded");
  else parts.push(left < 1 ? "less than a minute left" : `about ${Math.round(left)} min left`);
  return parts;
}
