#!/usr/bin/env python3
"""Benchmarks transcription on the CPU: voxpipe against transformers, with the same checkpoint, threads and precision.

    python benches/transcribe.py [--program target/release/voxpipe] [--threads 1] [--precision f32 bf16] [--batch 1] [--rounds 3]

Creates a random Voxtral with 80 million parameters that never generates `</s>`, so that both sides generate exactly the requested number of
tokens, and clips of 25 seconds. In each round, voxpipe and then transformers transcribe one batch of clips, generating 1 token and then 65.
The difference is decoding time. voxpipe's start-up time, measured with an invalid audio file, is subtracted. Prints medians over the rounds:
CPU and wall seconds per clip up to the first token (log-mel, audio tower, prompt), tokens per second after it, and the peak memory of the
whole process. Needs torch, transformers and mistral-common.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/voxtral"))
FEW, MANY = 1, 65


def make(folder, precision, batch):
    import torch
    import random_voxtral as rv
    s = rv.MIDDLE | {"dtype": "bfloat16" if precision == "bf16" else "float32", "shard": "5GB"}
    rv.write(folder / "model", 0, s)
    model = rv.load(folder / "model", torch.bfloat16 if precision == "bf16" else torch.float32)
    with torch.no_grad():
        model.lm_head.weight[rv.EOS] = 0
    model.save_pretrained(folder / "model", save_original_format=True)
    rv.clips(folder / "model", 0, s, [25 / 30] * batch)


def measured(command, env, fails=False):
    """Runs a command. Returns its standard output, (wall, CPU) seconds and peak memory in MiB."""
    start = time.monotonic()
    child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, error = child.stdout.read(), child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if bool(status) != fails:
        sys.exit(f"{' '.join(map(str, command))} ended with status {status}: {error.decode()[-2000:]}")
    return out, (time.monotonic() - start, usage.ru_utime + usage.ru_stime), usage.ru_maxrss / 1024


def ours(program, folder, precision, batch, env):
    """(wall, CPU) seconds per clip up to the first token and per token after it; peak memory."""
    def run(files, tokens, fails=False):
        return measured([program, "transcribe", *files, "--model", folder / "model", "--language", "en", "--precision", precision,
                         "--max-new-tokens", str(tokens), "--device", "cpu", "--json"], env, fails)
    (folder / "silent.wav").write_text("no sound")
    _, start, _ = run([folder / "silent.wav"], FEW, fails=True)
    files = [folder / f"clip{i}.wav" for i in range(batch)]
    (_, few, _), (out, many, peak) = run(files, FEW), run(files, MANY)
    lengths = [len(json.loads(line)["tokens"]) for line in out.decode().splitlines()]
    if lengths != [MANY] * batch:
        sys.exit(f"voxpipe wrote {lengths} tokens instead of {MANY} for each of {batch} clips")
    return [(f - s) / batch for f, s in zip(few, start)], [(m - f) / batch / (MANY - FEW) for m, f in zip(many, few)], peak


def theirs(folder, precision, batch, env):
    command = [sys.executable, __file__, "--child", folder, "--precision", precision, "--batch", str(batch)]
    out, _, peak = measured(command, env)
    few, many = json.loads(out.decode().splitlines()[-1])
    return [f / batch for f in few], [(m - f) / batch / (MANY - FEW) for m, f in zip(many, few)], peak


def child(folder, precision, batch):
    import torch
    import transformers
    import wave
    import numpy as np
    from make_fixture import AUDIO, BEGIN_AUDIO, BOS, END_INST, INST, TRANSCRIBE
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = transformers.VoxtralForConditionalGeneration.from_pretrained(folder / "model", dtype=dtype, attn_implementation="sdpa").eval()
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    # In this vocabulary the Hub's tokenizer encodes `lang:en` as four tokens; their ids do not affect the speed.
    prompt = torch.tensor([[BOS, INST, BEGIN_AUDIO] + [AUDIO] * 375 + [END_INST] + [1100] * 4 + [TRANSCRIBE]])

    @torch.no_grad()
    def transcribe(tokens):
        wall, cpu = time.monotonic(), time.process_time()
        clips = []
        for i in range(batch):
            with wave.open(str(folder / f"clip{i}.wav")) as file:
                clips.append(np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768)
        features = extractor(clips, sampling_rate=16000, return_tensors="pt").input_features.to(dtype)
        prompts = prompt.expand(batch, -1)
        ids = model.generate(input_ids=prompts, attention_mask=torch.ones_like(prompts), input_features=features, do_sample=False,
                             max_new_tokens=tokens, min_new_tokens=tokens)
        assert ids.shape[1] == prompt.shape[1] + tokens
        return time.monotonic() - wall, time.process_time() - cpu

    transcribe(2)
    print(json.dumps([transcribe(FEW), transcribe(MANY)]))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", type=Path, default=Path("target/release/voxpipe"))
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--precision", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    p.add_argument("--batch", type=int, default=1)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.make:
        return make(a.make, a.precision[0], a.batch)
    if a.child:
        return child(a.child, a.precision[0], a.batch)
    threads = str(a.threads)
    env = os.environ | {"RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    for precision in a.precision:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            # In a separate process, because a child inherits its parent's peak memory.
            subprocess.run([sys.executable, __file__, "--make", folder, "--precision", precision, "--batch", str(a.batch)], check=True)
            rounds = [(ours(a.program, folder, precision, a.batch, env), theirs(folder, precision, a.batch, env)) for _ in range(a.rounds)]
        print(f"{precision}, {threads} thread(s), batch {a.batch}:")
        for side, who in enumerate(("voxpipe", "transformers")):
            middle = lambda what, kind: statistics.median(r[side][what][kind] for r in rounds)
            print(f"  {who}: {middle(0, 1):.2f} s of processor time ({middle(0, 0):.2f} s) for the first token of a clip, then "
                  f"{1 / middle(1, 1):.0f} tokens a second of processor time ({1 / middle(1, 0):.0f} a second), "
                  f"peak {max(r[side][2] for r in rounds):.0f} MiB")
        for what, name in enumerate(("the first token", "each token after it")):
            ratios = [statistics.median(r[1][what][kind] / r[0][what][kind] for r in rounds) for kind in (1, 0)]
            print(f"  transformers needs {ratios[0]:.2f} × the processor time and {ratios[1]:.2f} × the time for {name}")


if __name__ == "__main__":
    main()
