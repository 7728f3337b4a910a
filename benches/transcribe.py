#!/usr/bin/env python3
"""Transcribing on the processor: voxpipe beside transformers, on one checkpoint, with equal threads and precision.

    python benches/transcribe.py [--program target/release/voxpipe] [--threads 1] [--precision f32 bf16] [--rounds 3]

Makes a random Voxtral of 80 million parameters whose `</s>` never wins, so that both sides write as many tokens as they are told, and
clips of 25 seconds. In each round voxpipe and transformers transcribe one clip and then three, writing 1 token and then 65; differences
of these take start-up away. Prints, of the median round, processor and wall seconds for a clip before its first token (log-mel, audio
tower, prompt) and tokens a second after it, and the peak memory of the whole process. Needs torch, transformers and mistral-common.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/voxtral"))
FEW, MANY, CLIPS = 1, 65, 3


def make(folder, precision):
    import torch
    import random_voxtral as rv
    s = rv.MIDDLE | {"dtype": "bfloat16" if precision == "bf16" else "float32", "shard": "5GB"}
    rv.write(folder / "model", 0, s)
    model = rv.load(folder / "model", torch.bfloat16 if precision == "bf16" else torch.float32)
    with torch.no_grad():
        model.lm_head.weight[rv.EOS] = 0
    model.save_pretrained(folder / "model", save_original_format=True)
    rv.clips(folder / "model", 0, s, [25 / 30] * CLIPS)


def measured(command, env):
    start = time.monotonic()
    child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out = child.stdout.read()
    error = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, command))} ended with status {status}: {error.decode()[-2000:]}")
    return out, time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def ours(a, folder, precision, env):
    found, peak = {}, 0
    for clips in (1, CLIPS):
        for tokens in (FEW, MANY):
            files = [folder / f"clip{i}.wav" for i in range(clips)]
            command = [a.program, "transcribe", *files, "--model", folder / "model", "--language", "en", "--precision", precision,
                       "--max-new-tokens", str(tokens), "--device", "cpu", "--json"]
            out, wall, cpu, rss = measured(command, env)
            lengths = [len(json.loads(line)["tokens"]) for line in out.decode().splitlines()]
            if lengths != [tokens] * clips:
                sys.exit(f"voxpipe wrote {lengths} tokens instead of {tokens} for each of {clips} clips")
            found[clips, tokens], peak = (wall, cpu), max(peak, rss)
    return per_clip(found), peak


def per_clip(found):
    """(wall, processor) seconds before the first token of a clip, and for each token after it."""
    first, token = [], []
    for kind in (0, 1):
        few, many = ((found[CLIPS, t][kind] - found[1, t][kind]) / (CLIPS - 1) for t in (FEW, MANY))
        token.append((many - few) / (MANY - FEW))
        first.append(few - FEW * token[-1])
    return {"first": first, "token": token}


def theirs(folder, precision, env):
    out, _, _, rss = measured([sys.executable, __file__, "--child", folder, "--precision", precision], env)
    found = {tuple(map(int, key.split())): value for key, value in json.loads(out.decode().splitlines()[-1]).items()}
    return per_clip(found), rss


def child(folder, precision):
    import torch
    import transformers
    import wave
    import numpy as np
    from make_fixture import AUDIO, BEGIN_AUDIO, BOS, END_INST, INST, TRANSCRIBE
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = transformers.VoxtralForConditionalGeneration.from_pretrained(folder / "model", dtype=dtype, attn_implementation="sdpa").eval()
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    # lang:en, as the tokenizer of the Hub writes it, is four tokens of this vocabulary; their ids change no speed.
    prompt = torch.tensor([[BOS, INST, BEGIN_AUDIO] + [AUDIO] * 375 + [END_INST] + [1100] * 4 + [TRANSCRIBE]])

    @torch.no_grad()
    def transcribe(clips, tokens):
        wall, cpu = time.monotonic(), time.process_time()
        for i in range(clips):
            with wave.open(str(folder / f"clip{i}.wav")) as file:
                pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
            features = extractor(pcm, sampling_rate=16000, return_tensors="pt").input_features.to(dtype)
            ids = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), input_features=features, do_sample=False,
                                 max_new_tokens=tokens, min_new_tokens=tokens)
            assert ids.shape[1] == prompt.shape[1] + tokens
        return time.monotonic() - wall, time.process_time() - cpu

    transcribe(1, 2)
    print(json.dumps({f"{clips} {tokens}": transcribe(clips, tokens) for clips in (1, CLIPS) for tokens in (FEW, MANY)}))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", type=Path, default=Path("target/release/voxpipe"))
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--precision", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child:
        return child(a.child, a.precision[0])
    threads = str(a.threads)
    env = os.environ | {"RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE"}
    for precision in a.precision:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make(folder, precision)
            rounds = [(ours(a, folder, precision, env), theirs(folder, precision, env)) for _ in range(a.rounds)]
        for who, side in (("voxpipe", 0), ("transformers", 1)):
            middle = lambda what, kind: statistics.median(r[side][0][what][kind] for r in rounds)
            print(f"{precision}, {threads} thread(s), {who}: {middle('first', 1):.2f} s of processor time ({middle('first', 0):.2f} s) to the "
                  f"first token of a clip, then {1 / middle('token', 1):.0f} tokens a second of processor time "
                  f"({1 / middle('token', 0):.0f} a second), peak {max(r[side][1] for r in rounds):.0f} MiB")
        for what, kind in (("first", "to the first token"), ("token", "for a token")):
            ratio = statistics.median(r[1][0][what][1] / r[0][0][what][1] for r in rounds)
            print(f"{precision}: transformers needs {ratio:.2f} × voxpipe's processor time {kind}")


if __name__ == "__main__":
    main()
