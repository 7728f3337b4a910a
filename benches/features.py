#!/usr/bin/env python3
"""Compares voxpipe's log-mel features with transformers' WhisperFeatureExtractor: largest difference and CPU time.

    cargo build --release -p voxtral --example features
    python benches/features.py [target/release/examples/features]      # needs torch, transformers, soundfile

Everything runs on one thread. Times are CPU seconds (user and system) per recording: the minimum of several alternating rounds. For voxpipe,
process start and file loading are subtracted by running it once more with fewer repetitions; allocating the result is not subtracted.
"""
import os
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from transformers import WhisperFeatureExtractor

torch.set_num_threads(1)
ROOT = Path(__file__).parent.parent
PROGRAM = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "target/release/examples/features")
RATE, CHUNK = 16000, 480000


def speech(seconds):
    """The clips of datasets/first-run, concatenated and naively upsampled to 16 kHz."""
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted((ROOT / "datasets/first-run/clips").glob("*.flac"))]
    samples = np.repeat(np.concatenate(clips), 2)
    samples = np.convolve(samples, [0.25, 0.5, 0.25], "same").astype(np.float32)
    return np.resize(samples, int(seconds * RATE))


def recordings():
    rng, talk = np.random.default_rng(7), speech(30)
    sparse = np.zeros(5 * RATE, np.float32)
    sparse[40000] = 1.0
    yield "speech, 30 s", talk
    yield "speech, 5 min", speech(300)
    yield "speech, 61.3 s (three chunks)", speech(61.3)
    yield "speech, 2.5 s", speech(2.5)
    yield "near silence: ±1 of 32768", rng.integers(-1, 2, 10 * RATE).astype(np.float32) / 32768
    yield "speech, then 1/1000 of it", np.concatenate([talk[:5 * RATE], talk[5 * RATE:20 * RATE] / 1000])
    yield "clipped", np.clip(talk[:10 * RATE] * 20, -1, 32767 / 32768)
    yield "white noise", (rng.random(10 * RATE, np.float32) - 0.5)
    yield "one click", sparse
    yield "440 Hz, full scale", np.sin(2 * np.pi * 440 / RATE * np.arange(3 * RATE)).astype(np.float32) * np.float32(32767 / 32768)
    yield "all zero", np.zeros(RATE, np.float32)
    yield "1 sample", np.float32([0.5])
    yield "199 samples", talk[20000:20199]
    for length in (CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK):
        yield f"{length} samples", speech(length / RATE + 1)[:length]


def least(rounds, measure):
    return min(measure() for _ in range(rounds))


def main():
    extractor = WhisperFeatureExtractor(feature_size=128)
    window = torch.hann_window(400)
    filters = torch.from_numpy(extractor.mel_filters).to(torch.float32)

    def double(padded):
        """Reference implementation in double precision."""
        stft = torch.stft(torch.from_numpy(padded).double(), 400, 160, window=torch.hann_window(400, dtype=torch.float64), return_complex=True)
        mel = torch.from_numpy(extractor.mel_filters).double().T @ (stft[..., :-1].abs() ** 2)
        log = mel.clamp(min=1e-10).log10()
        return ((torch.maximum(log, log.max() - 8) + 4) / 4).numpy()

    folder = tempfile.TemporaryDirectory()
    wav, out = f"{folder.name}/clip.wav", f"{folder.name}/features.bin"

    def ours(times=1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([PROGRAM, wav, out, str(times)], check=True, env=os.environ | {"RAYON_NUM_THREADS": "1"})
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    worst = 0.0
    print(f"{'largest difference':32} {'ours-torch':>11} {'ours-f64':>11} {'torch-f64':>11}")
    for name, samples in recordings():
        soundfile.write(wav, np.round(samples * 32768).clip(-32768, 32767).astype(np.int16), RATE, subtype="PCM_16")
        samples = soundfile.read(wav, dtype="float32")[0]
        padded = np.pad(samples, (0, -len(samples) % CHUNK))
        torch_values = extractor._torch_extract_fbank_features(padded[None])[0]
        exact = double(padded)
        ours()
        mine = np.fromfile(out, "<f4").reshape(-1, 128, 3000).transpose(1, 0, 2).reshape(128, -1)
        assert mine.shape == torch_values.shape == exact.shape, (mine.shape, torch_values.shape)
        differences = [np.abs(a - b).max() for a, b in ((mine, torch_values), (mine, exact), (torch_values, exact))]
        worst = max(worst, differences[0])
        print(f"{name:32} {differences[0]:11.2e} {differences[1]:11.2e} {differences[2]:11.2e}")

    print(f"\n{'processor ms a recording':32} {'ours':>9} {'torch':>9} {'numpy':>9} {'torch/ours':>11} {'numpy/ours':>11}")
    for name, seconds, repeat in (("30 s", 30, 100), ("5 min", 300, 10)):
        samples = speech(seconds)
        soundfile.write(wav, (samples * 32767).astype(np.int16), RATE, subtype="PCM_16")
        padded = np.pad(samples, (0, -len(samples) % CHUNK))

        def theirs(method, times):
            method(padded[None])
            before = time.process_time()
            for _ in range(times):
                method(padded[None])
            return (time.process_time() - before) / times

        def numpy_path(batch):
            return extractor._np_extract_fbank_features(batch, "cpu")

        rounds = [((ours(5 * repeat + 1) - ours(1)) / (5 * repeat), theirs(extractor._torch_extract_fbank_features, repeat), theirs(numpy_path, 1))
                  for _ in range(5)]
        mine, pytorch, numpy = (min(column) for column in zip(*rounds))
        print(f"{name:32} {mine * 1e3:9.3f} {pytorch * 1e3:9.3f} {numpy * 1e3:9.3f} {pytorch / mine:11.1f} {numpy / mine:11.1f}")
    assert worst < 1e-4, worst


if __name__ == "__main__":
    main()
