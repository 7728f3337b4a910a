// Runs on the audio thread. Collects the 128-sample quanta into blocks of 1024
// and posts each with its peak and RMS, so that the page handles about 47
// messages a second instead of 375.

const BLOCK = 1024;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(BLOCK);
    this.filled = 0;
    this.live = true;
    this.port.onmessage = (event) => {
      if (event.data === "close") this.live = false;
    };
  }

  process(inputs) {
    const input = inputs[0] && inputs[0][0];
    // An input without channels means that the source is not running (yet). Do not
    // substitute silence: a recording must contain only captured audio.
    if (!input) return this.live;
    let read = 0;
    while (read < input.length) {
      const count = Math.min(BLOCK - this.filled, input.length - read);
      this.block.set(input.subarray(read, read + count), this.filled);
      this.filled += count;
      read += count;
      if (this.filled === BLOCK) this.post();
    }
    return this.live;
  }

  post() {
    const samples = this.block;
    let peak = 0;
    let energy = 0;
    for (let i = 0; i < BLOCK; i += 1) {
      const value = samples[i];
      const size = value < 0 ? -value : value;
      if (size > peak) peak = size;
      energy += value * value;
    }
    const message = { samples, peak, rms: Math.sqrt(energy / BLOCK) };
    // The buffer is transferred, not copied; the next block gets a new one.
    this.port.postMessage(message, [samples.buffer]);
    this.block = new Float32Array(BLOCK);
    this.filled = 0;
  }
}

registerProcessor("studio-capture", Capture);
