// Loudness in numbers and words. Pure functions and one small watcher, so
// they can be tested without a microphone.

export const TARGET_LOW = -26;
export const TARGET_HIGH = -10;
export const SCALE_LOW = -60;
export const CLIP = 0.985; // a touch under full scale: converters often stop short of 1.0

export function dbfs(amplitude) {
  return amplitude > 0 ? 20 * Math.log10(amplitude) : -Infinity;
}

// Where a level sits on the meter, 0…1.
export function position(db) {
  if (!(db > SCALE_LOW)) return 0;
  return Math.min(1, (db - SCALE_LOW) / -SCALE_LOW);
}

export function levelWords(db) {
  if (!(db > -70)) return "no sound";
  if (db < TARGET_LOW) return "quiet";
  if (db > TARGET_HIGH) return "too loud";
  return "good level";
}

export function noiseWords(db) {
  if (!Number.isFinite(db) || db < -95) {
    return { verdict: "warn", text: "No sound at all. Is the microphone muted or switched off?" };
  }
  if (db <= -60) return { verdict: "ok", text: "Very quiet room. Ready to record." };
  if (db <= -50) return { verdict: "ok", text: "Quiet enough. Ready to record." };
  if (db <= -40) {
    return { verdict: "warn", text: "Some noise. Close windows and doors, switch off fans, or move nearer to the microphone." };
  }
  return { verdict: "bad", text: "Too noisy for good recordings. Find a quieter room, or record at another time." };
}

// Says when a speaker has stopped. It waits for speech first, so slow starts
// are never cut off; the threshold follows the measured room noise.
export class SilenceWatch {
  constructor(floorDb, seconds = 1.2) {
    const floor = Number.isFinite(floorDb) ? floorDb : -60;
    this.threshold = Math.min(-34, Math.max(-52, floor + 10));
    this.seconds = seconds;
    this.spoken = 0;
    this.silent = 0;
  }

  // Returns true once speech was heard and then `seconds` of silence.
  hear(rms, blockSeconds) {
    if (dbfs(rms) > this.threshold) {
      this.spoken += blockSeconds;
      this.silent = 0;
    } else {
      this.silent += blockSeconds;
    }
    return this.spoken >= 0.2 && this.silent >= this.seconds;
  }
}
