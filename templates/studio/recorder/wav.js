// WAV encoding and decoding (Float32 samples to 16-bit PCM mono and back), and the
// checksum by which browser and server verify an upload.

const HEADER = 44;

function ascii(view, at, text) {
  for (let i = 0; i < text.length; i += 1) view.setUint8(at + i, text.charCodeAt(i));
}

export function join(blocks) {
  const total = blocks.reduce((sum, block) => sum + block.length, 0);
  const samples = new Float32Array(total);
  let at = 0;
  for (const block of blocks) {
    samples.set(block, at);
    at += block.length;
  }
  return samples;
}

// No resampling and no gain: the server gets the microphone's samples.
export function encodeWav(samples, rate) {
  const buffer = new ArrayBuffer(HEADER + samples.length * 2);
  const view = new DataView(buffer);
  ascii(view, 0, "RIFF");
  view.setUint32(4, buffer.byteLength - 8, true);
  ascii(view, 8, "WAVE");
  ascii(view, 12, "fmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // mono
  view.setUint32(24, Math.round(rate), true);
  view.setUint32(28, Math.round(rate) * 2, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  ascii(view, 36, "data");
  view.setUint32(40, samples.length * 2, true);
  for (let i = 0; i < samples.length; i += 1) {
    const value = Number.isFinite(samples[i]) ? Math.max(-1, Math.min(1, samples[i])) : 0;
    const scaled = Math.round(value * 32768);
    view.setInt16(HEADER + i * 2, scaled > 32767 ? 32767 : scaled, true);
  }
  return buffer;
}

// Decodes 16-bit PCM WAV (first channel). Returns null for other formats; the
// caller then draws no waveform.
export function decodeWav(buffer) {
  const view = new DataView(buffer);
  const tag = (at) => String.fromCharCode(...new Uint8Array(buffer, at, 4));
  if (buffer.byteLength < HEADER || tag(0) !== "RIFF" || tag(8) !== "WAVE") return null;
  let at = 12;
  let format = null;
  while (at + 8 <= buffer.byteLength) {
    const name = tag(at);
    const size = view.getUint32(at + 4, true);
    const body = at + 8;
    if (name === "fmt " && size >= 16 && body + 16 <= buffer.byteLength) {
      format = {
        kind: view.getUint16(body, true),
        channels: view.getUint16(body + 2, true),
        rate: view.getUint32(body + 4, true),
        bits: view.getUint16(body + 14, true),
      };
    } else if (name === "data") {
      if (!format || format.kind !== 1 || format.bits !== 16 || !format.channels) return null;
      const frame = format.channels * 2;
      const count = Math.floor(Math.min(size, buffer.byteLength - body) / frame);
      const samples = new Float32Array(count);
      for (let i = 0; i < count; i += 1) samples[i] = view.getInt16(body + i * frame, true) / 32768;
      return { samples, rate: format.rate };
    }
    at = body + size + (size % 2);
  }
  return null;
}

// The waveform as (minimum, maximum) pairs, one per bin.
export function waveform(samples, bins = 400) {
  const pairs = new Float32Array(bins * 2);
  for (let bin = 0; bin < bins; bin += 1) {
    const from = Math.floor((bin * samples.length) / bins);
    const to = Math.floor(((bin + 1) * samples.length) / bins);
    let low = 0;
    let high = 0;
    for (let i = from; i < to; i += 1) {
      if (samples[i] < low) low = samples[i];
      if (samples[i] > high) high = samples[i];
    }
    pairs[bin * 2] = low;
    pairs[bin * 2 + 1] = high;
  }
  return pairs;
}

export async function sha256Hex(buffer) {
  const digest = await crypto.subtle.digest("SHA-256", buffer);
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
