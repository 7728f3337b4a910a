#!/usr/bin/env python3
"""Compares voxpipe's training with transformers and peft: losses, gradient norms, learning rates, held-out losses, trained weights.

    python tests/voxtral/train_parity.py                                   # seeds 0..2, all methods, 50 steps
    python tests/voxtral/train_parity.py --seeds 7 --method dora full --steps 20 --accumulation 4

Each seed generates a tiny random checkpoint with sizes derived from it, clips of mixed lengths (some longer than a chunk) with random texts in
several languages, and for each method except `full` an adapter with peft's initialisation (A random, B zero). voxpipe runs a pipeline of
uploads, dataset and one training per method. Then Python trains on the same rows, in the order of the dataset's train.jsonl, twice: with the
explicit loop below and with transformers' Trainer. All compute in f32. Schedule, warm-up, weight decay, clipping and shuffling vary between
cases. The exit code is 1 if a value exceeds its tolerance.

    lora    text model              rslora  the same, scaled by alpha / sqrt(r)       dora  text model, with separate magnitudes
    tower   all parts of the model  full    every weight except embed_positions, which transformers would train unless it is frozen

Needs torch, transformers, peft, mistral-common and, for the Trainer, accelerate; nothing is downloaded.
"""
import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

sys.dont_write_bytecode = True      # tests/tidy.rs wants no file here that is no fixture
import peft  # noqa: E402
import random_voxtral as rv  # noqa: E402

warnings.simplefilter("ignore")
ROOT = Path(__file__).resolve().parents[2]
TEXT, ALL = ["q_proj", "k_proj", "v_proj", "o_proj"], ["q_proj", "v_proj", "o_proj", "out_proj", "fc1", "fc2", "up_proj", "down_proj"]
METHODS = {
    "lora": {"r": 4, "alpha": 8.0, "targets": TEXT},
    "tower": {"r": 3, "alpha": 12.0, "targets": ALL, "freeze_audio_tower": False, "projector": True},
    "rslora": {"r": 8, "alpha": 8.0, "targets": ["q_proj", "v_proj", "gate_proj"], "rslora": True},
    "dora": {"r": 4, "alpha": 8.0, "targets": ["q_proj", "v_proj", "o_proj", "down_proj"], "dora": True},
    "full": None,
}
WORDS = "a un the señor élan Straße no. 12 345 where wo où dónde maybe vielleicht quizás tea, thé; ¿qué? yes – ok! «oui» naïve".split()
# Gradient norms are off by so much of theirs; `weights` is the length of what separates the trained weights over that of the way they went.
TOLERANCES = {"loss": 1e-5, "eval": 1e-5, "norm": 1e-5, "rate": 1e-9, "weights": 1e-4}


def settings(seed, method, a):
    """The settings of a case, as in `[stage.NAME.with]`."""
    r, place = random.Random(f"{seed} {method}"), seed + list(METHODS).index(method)
    found = {
        "base": "model", "method": "full" if method == "full" else "lora", "precision": "f32", "device": "cpu", "max_steps": a.steps,
        "batch_size": a.batch, "gradient_accumulation": a.accumulation, "learning_rate": r.choice([2e-4, 5e-4]) * (1 if method == "full" else 4),
        "lr_scheduler": ["linear", "cosine", "constant"][place % 3], "warmup_steps": r.choice([0, 2, 5]), "weight_decay": [0.1, 0.0][place % 2],
        "max_grad_norm": r.choice([0.5, 1.0, 5.0]), "shuffle": "none" if place % 4 == 3 else "torch", "save_steps": 1000,
        "eval": {"split": "validation", "steps": max(1, a.steps // 5), "keep": "last"},
    }
    if found["shuffle"] == "torch":
        found["shuffle_seed"] = 42 + seed
    if lora := METHODS[method]:
        found |= {"lora": lora, "adapter": f"start-{method}"}
    return found


def toml(value):
    """Formats a value as TOML; strings, numbers and lists of them are written as in JSON."""
    return "{ " + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + " }" if isinstance(value, dict) else json.dumps(value)


def adapted(model, method, seed):
    """The model with peft's initial adapter for a method."""
    lora = METHODS[method]
    if lora.get("freeze_audio_tower", True):
        targets = r".*language_model.*\.(" + "|".join(lora["targets"]) + ")"
    else:
        targets = lora["targets"] + ["linear_1", "linear_2"]
    torch.manual_seed(seed)
    return peft.get_peft_model(model, peft.LoraConfig(r=lora["r"], lora_alpha=lora["alpha"], lora_dropout=0.0, bias="none", target_modules=targets,
                                                      use_rslora=lora.get("rslora", False), use_dora=lora.get("dora", False), task_type="CAUSAL_LM"))


def make(folder, seed, s, a):
    """Writes the checkpoint, clips, adapters and pipeline file."""
    r, noise = random.Random(2000 + seed), np.random.Generator(np.random.PCG64(seed))
    rv.write(folder / "model", seed, s)
    (folder / "clips").mkdir()
    rows = []
    for i in range(a.clips):
        length = [0.4, 1.3, 1.0, r.uniform(0.2, 3.2)][i % 4] * s["positions"] * 320
        rv.sound(folder / "clips" / f"{i:02}.wav", i, int(length), noise)
        text = " ".join(r.choice(WORDS) for _ in range(r.choice([1, 3, 8]))) + f" {i}"
        row = {"file": f"{i:02}.wav", "text": text}
        rows.append(row | ({"language": language} if (language := r.choice(["en", "fr", "es", None])) else {}))
    (folder / "clips.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    text = f"""schema = 1
[pipeline]
name = "parity"
seed = {seed}
[stage.clips]
uses = "uploads"
with = {{ audio = "clips", transcripts = "clips.jsonl", strict = true }}
[stage.data]
uses = "dataset"
from = {{ clips = "clips" }}
with = {{ split = {{ train = 0.75, test = 0.0, validation = 0.25 }} }}
"""
    for method in a.method:
        if METHODS[method]:
            adapted(rv.load(folder / "model"), method, seed).save_pretrained(folder / f"start-{method}")
        text += f"[stage.{method}]\nuses = \"train\"\nfrom = {{ data = \"data\" }}\n[stage.{method}.with]\n"
        text += "".join(f"{key} = {toml(value)}\n" for key, value in settings(seed, method, a).items())
    (folder / "pipeline.toml").write_text(text, encoding="utf-8")


def begin(folder, method):
    """The model before the first step, ready for training."""
    model = rv.load(folder / "model")
    if METHODS[method]:
        return peft.PeftModel.from_pretrained(model, folder / f"start-{method}", is_trainable=True)
    model.requires_grad_(True)
    model.model.audio_tower.embed_positions.weight.requires_grad_(False)
    return model


def plain(tensors):
    """Normalises tensor names: layer names in memory or in the Hub's files, magnitudes with or without `.weight`."""
    name = lambda key: key.removeprefix("base_model.model.").replace("magnitude_vector.weight", "magnitude_vector")
    return {rv.hub_name(name(key)) if name(key).startswith("model.") else name(key): p.detach().clone() for key, p in tensors.items()}


def trained(model):
    """The trained weights."""
    if isinstance(model, peft.PeftModel):
        return plain(peft.get_peft_model_state_dict(model))
    return {rv.hub_name(name): p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def targets(rows):
    return sum(len(row["target"]) for row in rows)


def loop(model, rows, held_out, w):
    """An explicit training loop: returns one row of metrics per step, and the held-out losses."""
    size, steps = w["batch_size"] * w["gradient_accumulation"], w["max_steps"]
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    exempt = [p for name, p in parameters.items() if "bias" in name or "norm" in name]
    decayed = [p for name, p in parameters.items() if not ("bias" in name or "norm" in name)]
    adamw = torch.optim.AdamW([{"params": decayed, "weight_decay": w["weight_decay"]}, {"params": exempt, "weight_decay": 0.0}], lr=0.0)
    found, looks, order, epoch = [], {}, [], 0
    for step in range(steps):
        if not order:
            seed = torch.Generator().manual_seed(w.get("shuffle_seed", 0) + epoch)
            order = list(range(len(rows))) if w["shuffle"] == "none" else torch.randperm(len(rows), generator=seed).tolist()
            epoch += 1
        group, order = [rows[i] for i in order[:size]], order[size:]
        model.train()
        loss = 0.0
        for first in range(0, len(group), w["batch_size"]):
            part = model(**rv.collate(group[first:first + w["batch_size"]]), num_items_in_batch=targets(group)).loss
            part.backward()
            loss += part.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), w["max_grad_norm"]).item()
        if step < w["warmup_steps"]:
            share = step / w["warmup_steps"]
        else:
            left = (steps - step) / (steps - w["warmup_steps"])
            share = {"linear": left, "cosine": 0.5 * (1 + math.cos(math.pi * (1 - left))), "constant": 1.0}[w["lr_scheduler"]]
        for part in adamw.param_groups:
            part["lr"] = share * w["learning_rate"]
        adamw.step()
        adamw.zero_grad()
        found.append({"loss": loss, "norm": norm, "rate": share * w["learning_rate"]})
        if (step + 1) % w["eval"]["steps"] == 0 or step + 1 == steps:
            model.eval()
            with torch.no_grad():
                sums = [model(**rv.collate([row]), num_items_in_batch=1).loss.item() for row in held_out]
            looks[step + 1] = sum(sums) / targets(held_out)
    return found, looks


def trainer(model, rows, held_out, w, folder):
    """The same with transformers' Trainer and the same settings."""
    schedule = "constant_with_warmup" if w["lr_scheduler"] == "constant" else w["lr_scheduler"]
    steps = {"max_steps": w["max_steps"], "warmup_steps": w["warmup_steps"], "logging_steps": 1, "eval_strategy": "steps",
             "eval_steps": w["eval"]["steps"], "save_strategy": "no"}
    args = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"), use_cpu=True, seed=w.get("shuffle_seed", 0), learning_rate=w["learning_rate"],
        per_device_train_batch_size=w["batch_size"], per_device_eval_batch_size=len(held_out), weight_decay=w["weight_decay"],
        gradient_accumulation_steps=w["gradient_accumulation"], lr_scheduler_type=schedule, max_grad_norm=w["max_grad_norm"],
        train_sampling_strategy="sequential" if w["shuffle"] == "none" else "random", report_to=[], remove_unused_columns=False,
        label_names=["labels"], prediction_loss_only=True, disable_tqdm=True, **steps)
    teacher = transformers.Trainer(model=model, args=args, train_dataset=rows, eval_dataset=held_out, data_collator=rv.collate)
    teacher.remove_callback(transformers.PrinterCallback)
    teacher.train()
    log = teacher.state.log_history
    found = [{"loss": row["loss"], "norm": float(row["grad_norm"]), "rate": row["learning_rate"]} for row in log if "loss" in row]
    return found, {row["step"]: row["eval_loss"] for row in log if "eval_loss" in row}


def ours(folder, method):
    """voxpipe's metrics and trained weights."""
    result = folder / ".voxpipe" / "latest" / "parity" / method
    read = lambda name: [json.loads(line) for line in (result / name).read_text().splitlines()]
    rows = [{"loss": row["loss"], "norm": row["grad_norm"], "rate": row["learning_rate"]} for row in read("loss.jsonl")]
    weights = plain(load_file(result / "adapter_model.safetensors")) if METHODS[method] else load_file(result / "model.safetensors")
    return rows, {row["step"]: row["eval_loss"] for row in read("eval.jsonl")}, weights


def compare(mine, theirs, before):
    """The largest difference of each kind."""
    (rows, looks, weights), (their_rows, their_looks, their_weights) = mine, theirs
    if len(rows) != len(their_rows) or not set(their_looks) <= set(looks) or not their_looks:
        sys.exit(f"voxpipe made {len(rows)} steps and looked at {sorted(looks)}, not {len(their_rows)} and {sorted(their_looks)}")
    if lacking := sorted(set(before) - set(weights)):
        sys.exit(f"voxpipe's result lacks {len(lacking)} trained weights, such as {lacking[0]}")
    pairs = list(zip(rows, their_rows))
    length = lambda differences: math.sqrt(sum(d.double().square().sum().item() for d in differences))
    worst = {"loss": max(abs(a["loss"] - b["loss"]) for a, b in pairs), "eval": max(abs(looks[step] - loss) for step, loss in their_looks.items()),
             "norm": max(abs(a["norm"] - b["norm"]) / b["norm"] for a, b in pairs),
             "rate": max(abs(a["rate"] - b["rate"]) / max(b["rate"], 1e-12) for a, b in pairs),
             "weights": length(weights[k] - their_weights[k] for k in before) / length(before[k] - their_weights[k] for k in before)}
    return worst | {k: float("inf") for k, v in worst.items() if v != v}


def curve(rows, key, digits):
    """Nine values of a column, evenly spaced from first to last."""
    return " ".join(f"{rows[round(i * (len(rows) - 1) / 8)][key]:{digits}}" for i in range(9))


def case(folder, seed, method, rows, held_out, a):
    """Compares one training with both peers; returns the values that exceed their tolerance."""
    w, mine = settings(seed, method, a), ours(folder, method)
    peers = {"loop": loop} if a.no_trainer else {"loop": loop, "Trainer": lambda *args: trainer(*args, folder)}
    before = trained(begin(folder, method))
    per_epoch = math.ceil(len(rows) / (a.batch * a.accumulation))
    print(f"  {method}: {w['lr_scheduler']} from {w['learning_rate']:g} after {w['warmup_steps']} steps, decay {w['weight_decay']}, "
          f"clipped to {w['max_grad_norm']}, order {w['shuffle']}, {a.batch} x {a.accumulation} of {len(rows)} clips, "
          f"{per_epoch} steps an epoch")
    print(f"    {'rate':8}{curve(mine[0], 'rate', '8.1e')}\n    {'norm':8}{curve(mine[0], 'norm', '8.4f')}\n    {'loss':8}{curve(mine[0], 'loss', '8.5f')}")
    wrong = []
    for name, peer in peers.items():
        model = begin(folder, method)
        theirs = (*peer(model, rows, held_out, w), trained(model))
        worst = compare(mine, theirs, before)
        off = [k for k, t in TOLERANCES.items() if not worst[k] <= t]
        wrong += [f"{method}, {name}: {k} is off by {worst[k]:.1e}, allowed are {TOLERANCES[k]:.0e}" for k in off]
        print(f"    {name:8}{curve(theirs[0], 'loss', '8.5f')}\n    {'':8}off by at most: "
              + ", ".join(f"{k} {v:.1e}" for k, v in worst.items()) + ("  FAILED" if off else "  ok"), flush=True)
    return wrong


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", type=Path, default=ROOT / "target/debug/voxpipe")
    p.add_argument("--seeds", type=rv.seeds, default=rv.seeds("0..2"), help="such as 0..9 or 0,3,7")
    p.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--clips", type=int, default=12, help="three quarters are learned, the others looked at")
    p.add_argument("--batch", type=int, default=2)
    p.add_argument("--accumulation", type=int, default=3)
    p.add_argument("--no-trainer", action="store_true", help="compare with the loop only")
    p.add_argument("--keep", type=Path, help="leave the projects in this folder")
    a = p.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    print("allowed: " + ", ".join(f"{k} {t:.0e}" for k, t in TOLERANCES.items()))
    wrong = []
    for seed in a.seeds:
        s = rv.sizes(seed)
        with tempfile.TemporaryDirectory() as name:
            folder = (a.keep or Path(name)) / f"seed-{seed}"
            folder.mkdir(parents=True)
            make(folder, seed, s, a)
            ran = subprocess.run([a.program.resolve(), "run"], cwd=folder, capture_output=True, text=True)
            if ran.returncode:
                sys.exit(f"voxpipe ended with {ran.returncode}:\n{ran.stdout[-3000:]}{ran.stderr[-3000:]}")
            data = folder / ".voxpipe" / "latest" / "parity" / "data"
            rows, held_out = (rv.read_dataset(data, split, folder / "model", s) for split in ("train", "validation"))
            print(f"seed {seed}: {rv.summary(s)}")
            for method in a.method:
                wrong += [f"seed {seed}, {line}" for line in case(folder, seed, method, rows, held_out, a)]
    print("\n".join(wrong) if wrong else f"all {len(a.seeds) * len(a.method)} trainings are those of transformers and peft")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
