// Posts every block of samples to the page.
registerProcessor("voxpipe-sound", class extends AudioWorkletProcessor {
  process([input]) {
    if (input[0]) this.port.postMessage(input[0].slice());
    return true;
  }
});
