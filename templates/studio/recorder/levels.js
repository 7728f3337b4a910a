// Level measurement: conversions, labels and silence detection. Independent of
// the microphone, so that it can be tested alone.

export const TARGET_LOW = -26;
export const TARGET_HIGH = -10;
export const SCALE_LOW = -60;
export const CLIP = 0.985; // slightly below full scale: many converters never reach 1.0

export function dbfs(amplitude) {
  return amplitude > 0 ? 20 * Math.log10(amplitude) : -Infinity;
}

// Position of a level on the meter, 0…1.
export function position(db) {
  if (!(db > SCALE_LOW)) return 0;
  return Math.min(1, (db - SCALE_LOW) / -SCALE_LOW);
}

export function levelLabel(db) {
  if (!(db > -70)) return "no sound";
  if (db < TARGET_LOW) return "quiet";
  if (db > TARGET_HIGH) return "too loud";
  return "good level";
}

export function noiseVerdict(db) {
  if (!Number.isFinite(db) || db < -95) {
    return { verdict: "warn", text: "No sound at all. Check that the microphone is not muted or switched off." };
  }
  if (db <= -60) return { verdict: "ok", text: "Very quiet room. Ready to record." };
  if (db <= -50) return { verdict: "ok", text: "Quiet enough. Ready to record." };
  if (db <= -40) {
    return { verdict: "warn", text: "Some background noise. Close windows and doors, turn off fans, or move closer to the microphone." };
  }
  return { verdict: "bad", text: "Too noisy for good recordings. Find a quieter room or record at another time." };
}

// Detects the end of speech. It waits for speech first, so a slow start is never
// cut off; the threshold follows the measured noise floor.
export class SilenceDetector {
  constructor(floorDb, seconds = 1.2) {
    const floor = Number.isFinite(floorDb) ? floorDb : -60;
    this.threshold = Math.min(-34, Math.max(-52, floor + 10));
    this.seconds = seconds;
    this.spoken = 0;
    this.silent = 0;
  }

  // Returns true after speech followed by `seconds` of silence.
  update(rms, blockSeconds) {
    if (dbfs(rms) > this.threshold) {
      this.spoken += blockSeconds;
      this.silent = 0;
    } else {
      this.silent += blockSeconds;
    }
    return this.spoken >= 0.2 && this.silent >= this.seconds;
  }
}
