#!/usr/bin/env python3
"""Benchmarks training on the CPU: voxpipe against transformers and peft, with the same checkpoint, clips, threads and precision.

    python benches/train.py [--program target/release/voxpipe] [--threads 2] [--precision f32 bf16] [--method lora full] [--rounds 3]

Creates a random Voxtral with 80 million parameters and clips of 30 seconds with 64 target tokens. In each round, both sides train with batch
size 2 and gradient accumulation 4. voxpipe is measured as a whole process: the first epoch (the frozen audio tower encodes every clip), a
later epoch (encoder features are cached) and the overhead (start, loading, saving) are computed as differences between a run of one epoch and
a run of three epochs with an empty cache, and a run of one epoch with a full cache. Full fine-tuning cannot use the cache, so all epochs take
the same time. The peer is measured per epoch within its process, after a warm-up and with precomputed features. In f32 it uses its defaults
with sdpa; in bf16 it uses autocast, with the frozen base weights of an adapter in bf16 and trained weights in f32, like voxpipe.

Prints medians over the rounds: wall and CPU seconds per epoch and per step, peak memory of the whole process, and the ratios. Pass several
programs to compare them. Needs torch, transformers, peft and mistral-common; nothing is downloaded.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/voxtral"))
sys.dont_write_bytecode = True
BATCH, ACCUMULATION, RATE = 2, 4, 1e-4
TARGETS, R, ALPHA = ["q_proj", "k_proj", "v_proj", "o_proj"], 8, 32
WORDS = "the people of this town have never heard what music can do when it is played outside at night near water".split()


def size(precision, method):
    """Sizes of the checkpoint. Frozen weights are stored in the precision in which they are used, trained weights in f32."""
    import random_voxtral as rv
    return rv.MIDDLE | {"dtype": "bfloat16" if precision == "bf16" and method == "lora" else "float32", "shard": "5GB"}


def text_of(tekken, count, r):
    """A random text of exactly `count` tokens."""
    while True:
        text = r.choice(WORDS)
        while len(tekken.encode(text, bos=False, eos=False)) < count:
            text += " " + r.choice(WORDS)
        if len(tekken.encode(text, bos=False, eos=False)) == count:
            return text


def make(folder, a):
    """Writes the checkpoint, clips and pipeline file."""
    import random
    import numpy as np
    import random_voxtral as rv
    (precision,), (method,) = a.precision, a.method
    s = size(precision, method)
    rv.write(folder / "model", 0, s)
    tekken, r, noise = rv.Tekkenizer.from_file(folder / "model/tekken.json"), random.Random(1), np.random.Generator(np.random.PCG64(1))
    (folder / "clips").mkdir()
    rows = []
    for i in range(a.clips):
        rv.sound(folder / "clips" / f"{i:03}.wav", i, int(a.seconds * 16000), noise)
        rows.append({"file": f"{i:03}.wav", "text": text_of(tekken, a.tokens - 1, r), "language": "en"})
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lora = f"lora = {{ r = {R}, alpha = {ALPHA}, targets = {json.dumps(TARGETS)} }}\n" if method == "lora" else ""
    (folder / "pipeline.toml").write_text(f"""schema = 1
[pipeline]
name = "bench"
seed = 1
[stage.clips]
uses = "uploads"
with = {{ audio = "clips", transcripts = "clips.jsonl", max_seconds = 3600, strict = true }}
[stage.data]
uses = "dataset"
from = {{ clips = "clips" }}
with = {{ split = {{ train = 1.0, test = 0.0 }}, max_seconds = 3600 }}
[stage.tuned]
uses = "train"
from = {{ data = "data" }}
[stage.tuned.with]
base = "model"
method = "{method}"
precision = "{precision}"
device = "cpu"
batch_size = {BATCH}
gradient_accumulation = {ACCUMULATION}
learning_rate = {RATE}
lr_scheduler = "constant"
save_steps = 100000
max_text_tokens = 4096
{lora}""")


def measured(command, env, **where):
    """Runs a command. Returns its standard output, (wall, CPU) seconds and peak memory in MiB."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as error:
        child = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=error, **where)
        out = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - start
        if status:
            error.seek(0)
            sys.exit(f"{' '.join(map(str, command))} ended with status {status}: {out.decode()[-2000:]}{error.read().decode()[-2000:]}")
    return out, (wall, usage.ru_utime + usage.ru_stime), usage.ru_maxrss / 1024


def ours(program, folder, remembers, env):
    """(wall, CPU) seconds of the overhead, the first epoch and a later epoch; peak memory."""
    memory = folder / ".voxpipe/cache/audio"

    def run(epochs):
        command = [program, "run", "--force", "tuned", "--set", f"stage.tuned.with.epochs={epochs}"]
        _, spent, peak = measured(command, env, cwd=folder)
        rows = (folder / ".voxpipe/latest/bench/tuned/loss.jsonl").read_text().splitlines()
        if json.loads(rows[-1])["epoch"] != epochs:
            sys.exit(f"voxpipe did not train {epochs} epochs: {rows[-1]}")
        return spent, peak

    shutil.rmtree(memory, ignore_errors=True)
    one, _ = run(1)
    if memory.is_dir() != remembers:
        sys.exit(f"voxpipe {'did not remember' if remembers else 'remembered'} what it heard in {memory}")
    again = run(1)[0] if remembers else one
    shutil.rmtree(memory, ignore_errors=True)
    three, peak = run(3)
    later = [(t - o) / 2 for t, o in zip(three, one)]
    beside = [r - l for r, l in zip(again, later)]
    return beside, [o - b for o, b in zip(one, beside)], later, peak


def theirs(folder, precision, method, epochs, env):
    """(wall, CPU) seconds per epoch; peak memory."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", folder, "--precision", precision, "--method", method, "--epochs", str(epochs)]
    out, _, peak = measured(command, env)
    return [statistics.median(column) for column in zip(*json.loads(out.decode().splitlines()[-1]))], peak


def child(folder, precision, method, epochs):
    import torch
    import transformers
    import random_voxtral as rv
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    s, narrow = size(precision, method), precision == "bf16"
    dtype = torch.bfloat16 if narrow and method == "lora" else torch.float32
    model = transformers.VoxtralForConditionalGeneration.from_pretrained(folder / "model", dtype=dtype, attn_implementation="sdpa")
    if method == "lora":
        import peft
        targets = r".*language_model.*\.(" + "|".join(TARGETS) + ")"
        model = peft.get_peft_model(model, peft.LoraConfig(r=R, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", target_modules=targets,
                                                           task_type="CAUSAL_LM"))
    else:
        model.requires_grad_(True)
        model.model.audio_tower.embed_positions.weight.requires_grad_(False)
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 for p in parameters)
    adamw = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    rows = rv.read_dataset(folder / ".voxpipe/latest/bench/data", "train", folder / "model", s)

    def epoch(rows):
        wall, cpu = time.monotonic(), time.process_time()
        for first in range(0, len(rows), BATCH * ACCUMULATION):
            group = rows[first:first + BATCH * ACCUMULATION]
            count = sum(len(row["target"]) for row in group)
            for part in range(0, len(group), BATCH):
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
                    loss = model(**rv.collate(group[part:part + BATCH]), num_items_in_batch=count, use_cache=False).loss
                loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            adamw.step()
            adamw.zero_grad()
        return time.monotonic() - wall, time.process_time() - cpu

    epoch(rows[:BATCH])
    print(json.dumps([epoch(rows) for _ in range(epochs)]))


def report(name, rounds, steps, remembers):
    """Prints the medians of a program and of the peer, and their ratios; a round is (ours, theirs)."""
    middle = lambda take: statistics.median(take(mine, peer) for mine, peer in rounds)
    seconds = lambda take: f"{middle(lambda m, p: take(m, p)[0]):.2f} s ({middle(lambda m, p: take(m, p)[1]):.2f} s of processor time)"
    times = lambda part: f"{middle(lambda m, p: p[0][0] / m[part][0]):.2f} x the time ({middle(lambda m, p: p[0][1] / m[part][1]):.2f} x of the processor)"
    step = lambda take: f"{middle(lambda m, p: take(m, p)[0]) / steps:.2f} s a step"
    mine, peer = middle(lambda m, p: m[3]), middle(lambda m, p: p[1])
    epochs = [(1, "the first epoch"), (2, "a later one")] if remembers else [(2, "an epoch")]
    said = [f"{which} {seconds(lambda m, p, part=part: m[part])}, {step(lambda m, p, part=part: m[part])}" for part, which in epochs]
    print(f"  {name}: {'; '.join(said)}; beside them {seconds(lambda m, p: m[0])}; peak {mine:.0f} MiB")
    print(f"  transformers: an epoch {seconds(lambda m, p: p[0])}, {step(lambda m, p: p[0])}; peak {peer:.0f} MiB")
    print("  transformers needs " + ", ".join(f"for {which} {times(part)}" for part, which in epochs)
          + f"; voxpipe needs {mine / peer:.2f} x the memory", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", type=Path, nargs="+", default=[Path("target/release/voxpipe")])
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--precision", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    p.add_argument("--method", nargs="+", choices=["lora", "full"], default=["lora", "full"])
    p.add_argument("--clips", type=int, default=8)
    p.add_argument("--seconds", type=float, default=30.0, help="of each clip")
    p.add_argument("--tokens", type=int, default=64, help="targets of each clip, </s> among them")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--epochs", type=int, default=2, help="of the peer in each round, of which the median counts")
    p.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.make:
        return make(a.make, a)
    if a.child:
        return child(a.child, a.precision[0], a.method[0], a.epochs)
    threads = str(a.threads)
    env = os.environ | {"RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE",
                        "HF_HUB_OFFLINE": "1"}
    steps = -(-a.clips // (BATCH * ACCUMULATION))
    for method in a.method:
        for precision in a.precision:
            with tempfile.TemporaryDirectory() as name:
                folder, remembers = Path(name), method == "lora"
                # In a separate process, because a child inherits its parent's peak memory.
                kind = ["--precision", precision, "--method", method]
                sizes = ["--clips", str(a.clips), "--seconds", str(a.seconds), "--tokens", str(a.tokens)]
                measured([sys.executable, __file__, "--make", folder, *kind, *sizes], env)
                programs = [program.resolve() for program in a.program]
                measured([programs[0], "run", "--set", "stage.tuned.with.max_steps=1"], env, cwd=folder)
                rounds = []
                for _ in range(a.rounds):
                    mine = [ours(program, folder, remembers, env) for program in programs]
                    rounds.append((mine, theirs(folder, precision, method, a.epochs, env)))
            print(f"{method}, {precision}, {threads} thread(s), {a.clips} clips of {a.seconds:g} s with {a.tokens} tokens, "
                  f"{steps} step(s) an epoch of {BATCH} x {ACCUMULATION}, {a.rounds} round(s):")
            for place, program in enumerate(a.program):
                report(program, [(mine[place], peer) for mine, peer in rounds], steps, remembers)


if __name__ == "__main__":
    main()
