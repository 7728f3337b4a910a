// Plays one recording at a time: from memory if cached, otherwise from the server.

import { decodeWav, waveform } from "./wav.js";

const CACHE_SIZE = 24; // recordings kept in memory; older ones are fetched again

export class Player extends EventTarget {
  constructor(api) {
    super();
    this.api = api;
    this.sounds = new Map(); // sha256 → {wav, pairs}
    this.audio = new Audio();
    this.url = "";
    this.playing = ""; // sha256 of the recording that is playing
    this.audio.addEventListener("ended", () => this.stop());
    this.audio.addEventListener("error", () => { if (this.playing) this.stop(); });
  }

  remember(sha256, wav) {
    const sound = decodeWav(wav);
    this.sounds.delete(sha256);
    this.sounds.set(sha256, { wav, pairs: sound ? waveform(sound.samples) : null });
    if (this.sounds.size > CACHE_SIZE) this.sounds.delete(this.sounds.keys().next().value);
  }

  pairs(sha256) {
    const sound = this.sounds.get(sha256);
    return sound ? sound.pairs : null;
  }

  async fetch(take) {
    const response = await fetch(`${this.api}/api/takes/${encodeURIComponent(take.file)}`);
    if (!response.ok) throw new Error("the server did not return the recording");
    this.remember(take.sha256, await response.arrayBuffer());
  }

  // `take` needs sha256, and file when the sound is not in memory.
  async toggle(take) {
    if (this.playing === take.sha256) {
      this.stop();
      return;
    }
    this.stop();
    this.playing = take.sha256;
    this.changed();
    try {
      if (!this.sounds.has(take.sha256)) await this.fetch(take);
      if (this.playing !== take.sha256) return; // stopped while loading
      this.url = URL.createObjectURL(new Blob([this.sounds.get(take.sha256).wav], { type: "audio/wav" }));
      this.audio.src = this.url;
      await this.audio.play();
    } catch (error) {
      if (this.playing !== take.sha256) return; // stopped while starting: not an error
      this.stop();
      throw error;
    }
  }

  stop() {
    this.playing = "";
    this.audio.pause();
    if (this.url) {
      this.audio.removeAttribute("src");
      URL.revokeObjectURL(this.url);
      this.url = "";
    }
    this.changed();
  }

  changed() { this.dispatchEvent(new Event("change")); }
}
