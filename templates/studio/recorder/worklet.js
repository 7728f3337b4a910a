// Runs on the audio thread. It gathers the 128-sample quanta into blocks of
// 1024 and posts each with its peak and rms, so the page is woken about 47
// times a second instead of 375.

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
    // An input with no channels means the source is not running (yet). We do
    // not invent silence for it: a recording must hold only what was heard.
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
    // The buffer is handed over, not copied; the next block gets a new one.
    this.port.postMessage(message, [samples.buffer]);
    this.block = new Float32Array(BLOCK);
    this.filled = 0;
  }
}

registerProcessor("studio-capture", Capture);
