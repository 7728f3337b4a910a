// How far the recording has come. Pure functions over the phrases.

export function newestFirst(takes) {
  return [...takes].sort((a, b) => b.number - a.number);
}

// The take that counts: the one a person chose, else the newest good one,
// else the newest usable one.
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

// The next phrase still to do, going round once; skipped phrases come back at
// the end. When all is done it is simply the next in the list; -1 at its end.
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

// Minutes of work left: the usual pace of this sitting, or a plain guess
// before there is one. Pauses longer than two minutes do not count.
export function timeLeft(missing, paces) {
  if (missing <= 0) return 0;
  const useful = paces.filter((seconds) => seconds > 0 && seconds < 120).sort((a, b) => a - b);
  const pace = useful.length >= 3 ? useful[Math.floor(useful.length / 2)] : 12;
  return (missing * pace) / 60;
}

// The time from one accepted take to the next.
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

export function progressWords({ recorded, minutes }, { minimum, wanted, left }) {
  const parts = [`${recorded} of ${wanted} recorded`, `${minutes.toFixed(1)} minutes of speech`];
  if (minimum) {
    parts.push(recorded >= minimum ? "minimum reached" : `${minimum - recorded} more to the minimum of ${minimum}`);
  }
  if (recorded >= wanted) parts.push("all done, thank you");
  else parts.push(left < 1 ? "less than a minute left" : `about ${Math.round(left)} min left`);
  return parts;
}
