#!/usr/bin/env python3
"""Compares voxpipe with transformers on random checkpoints: features, activations, loss, every gradient, generated ids.

    python tests/voxtral/parity.py --seeds 0..9            # tiny models with sizes derived from the seed
    python tests/voxtral/parity.py --seeds 0 --middle      # 80 million parameters, chunks of 30 seconds

Each seed generates a checkpoint (including odd head counts, shards, bf16 and both naming schemes), clips of mixed length with and without a
language, and one batch of them with prompts padded left and rows padded right. transformers computes in f32. The exit code is 1 if a value
exceeds its tolerance. Needs cargo, torch, transformers, peft and mistral-common; nothing is downloaded.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.dont_write_bytecode = True      # tests/tidy.rs wants no file here that is no fixture
import random_voxtral as rv  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
NEW_TOKENS = 24
TIE = 1e-4                                      # of a lead smaller than this rounding may make a loss
# Activations and logits are off by so much of the largest value, or of one if all are smaller; gradients of each tensor's largest.
TOLERANCES = {"features": 1e-4, "encoder": 1e-4, "projector": 1e-4, "logits": 1e-4, "log p": 1e-4, "loss": 1e-5, "gradient": 5e-5}


def reference(model, rows):
    """The outputs of transformers."""
    kept = {}
    keep = lambda name: lambda _m, _i, o: kept.__setitem__(name, o.detach().float().clone())
    hooks = [model.model.audio_tower.layer_norm.register_forward_hook(keep("encoder")),
             model.model.multi_modal_projector.register_forward_hook(keep("projector"))]
    model.requires_grad_(True)
    model.model.audio_tower.embed_positions.weight.requires_grad_(False)
    batch = rv.collate(rows)
    batch["input_features"] = batch["input_features"].to(model.dtype)
    out = model(**batch)
    for hook in hooks:
        hook.remove()
    out.loss.backward()
    kept["loss"] = out.loss.detach().float().reshape(1)
    for i in range(len(rows)):
        kept[f"logits.{i}"] = out.logits[i][batch["attention_mask"][i].bool()].detach().float()
    kept |= {f"gradient.{rv.hub_name(n)}": p.grad.float().clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return kept


def off(ours, theirs, least=1.0):
    """The largest difference relative to the largest value, or to `least` if that is larger."""
    if ours.numel() != theirs.numel():
        return float("inf")
    if not theirs.numel():
        return 0.0
    ours, theirs = ours.double().flatten(), theirs.double().flatten()
    difference = (ours - theirs).abs().max().item() / max(least, theirs.abs().max().item())
    return difference if difference == difference else float("inf")


def compare(ours, theirs, rows, learned=True):
    """The largest difference of each kind, and the name of the gradient with the largest difference."""
    n = range(len(rows))
    worst = {"features": max(off(ours[f"features.{i}"], rows[i]["mel"]) for i in n) if "features.0" in ours else 0.0,
             "encoder": off(ours["encoder"], theirs["encoder"]), "projector": off(ours["projector"], theirs["projector"]),
             "logits": max(off(ours[f"logits.{i}"], theirs[f"logits.{i}"]) for i in n),
             "loss": (ours["loss"] - theirs["loss"]).abs().item()}
    names = {k for k in theirs if k.startswith("gradient.")}
    if not learned:
        return worst, None
    assert names == {k for k in ours if k.startswith("gradient.")}, names ^ {k for k in ours if k.startswith("gradient.")}
    # A gradient that is zero but for rounding (a key's bias would be one) is held against those of order one.
    share = {k: off(ours[k], theirs[k], 1e-8) for k in names}
    name = max(share, key=share.get)
    return worst | {"gradient": share[name]}, name.removeprefix("gradient.")


def compare_ids(ours, model, rows):
    """The number of matching ids, the number of steps from the first near tie on, and the mismatches."""
    ids, leads = rv.generate(model, rows, NEW_TOKENS)
    same, ties, wrong = 0, 0, []
    for i, (row, lead) in enumerate(zip(ids, leads)):
        sure = next((n for n, l in enumerate(lead) if l < TIE), len(row))
        found = [int(x) for x in ours[f"generated.{i}"].tolist()]
        ties += len(row) - sure
        same += sure
        if found[:sure] != row[:sure] or (sure == len(row) and len(found) != len(row)):
            wrong.append(f"clip {i}: {found} instead of {row}")
        if ours[f"prompt.{i}"].tolist() != rows[i]["prompt"]:
            wrong.append(f"clip {i}: another prompt")
    return same, ties, wrong


@torch.no_grad()
def log_probabilities(ours, model, rows):
    """The largest difference between voxpipe's log-probabilities and those of one forward pass over prompt and generated ids."""
    worst = 0.0
    for i, row in enumerate(rows):
        found = [int(x) for x in ours[f"generated.{i}"].tolist()]
        count = len(ours[f"log_probabilities.{i}"])
        logits = model(**{k: v for k, v in rv.collate([{**row, "target": found}]).items() if k != "labels"}).logits[0].float()
        at = len(row["prompt"]) - 1
        expected = logits.log_softmax(-1)[at:at + count].gather(1, torch.tensor(found[:count], dtype=torch.long).unsqueeze(1))
        worst = max(worst, off(ours[f"log_probabilities.{i}"], expected))
    return worst


def one(program, seed, s, lengths, folder):
    """Generates and compares the case of a seed; returns the differences, notes and failures."""
    model_folder, case, out = folder / "model", folder / "case.json", folder / "ours.safetensors"
    rv.write(model_folder, seed, s)
    rows = rv.clips(model_folder, seed, s, lengths)
    case.write_text(json.dumps({"max_new_tokens": NEW_TOKENS, "clips": [{k: r[k] for k in ("wav", "language", "target")} for r in rows]}))
    run = lambda precision: subprocess.run([*program, model_folder, case, out, precision], cwd=ROOT, check=True) and load_file(out)
    ours, model = run("f32"), rv.load(model_folder)
    theirs = reference(model, rows)
    worst, gradient = compare(ours, theirs, rows)
    same, ties, wrong = compare_ids(ours, model, rows)
    worst["log p"] = log_probabilities(ours, model, rows)
    notes = [f"ids: {same} agree, {ties} were ties", f"worst gradient: {gradient}"]
    if s["dtype"] == "bfloat16":
        # With matrices kept in 16 bits ours may not be further from the truth than transformers, whose activations have 16 bits, too.
        as_stored, _ = compare(run("auto"), theirs, rows, learned=False)
        narrow, _ = compare(reference(rv.load(model_folder, torch.bfloat16), rows), theirs, rows, learned=False)
        kinds = [k for k in as_stored if k != "features"]
        notes.append("in bf16, ours and transformers: " + ", ".join(f"{k} {as_stored[k]:.0e} {narrow[k]:.0e}" for k in kinds))
        # A loss is one number, in which errors cancel by luck: it may be off as far as the logits it is made of.
        allowed = {k: max(narrow[k], TOLERANCES[k], narrow["logits"] if k == "loss" else 0) for k in kinds}
        wrong += [f"{k} is off by {as_stored[k]:.1e} in bf16, in transformers' only by {narrow[k]:.1e}" for k in kinds
                  if as_stored[k] > allowed[k]]
    wrong += [f"{k} is off by {worst[k]:.1e}, allowed are {t:.0e}" for k, t in TOLERANCES.items() if not worst[k] <= t]
    return worst, notes, wrong


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seeds", type=rv.seeds, default=rv.seeds("0..9"), help="such as 0..9 or 0,3,7")
    p.add_argument("--middle", action="store_true", help="80 million parameters instead of sizes from the seed")
    p.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another size, such as width=40 or dtype=bfloat16")
    p.add_argument("--program", type=Path, help="a built examples/activations, instead of what cargo builds")
    a = p.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    program = [a.program.resolve()] if a.program else ["cargo", "run", "-q", "-p", "voxtral", "--example", "activations", "--"]
    print("seed  " + "".join(f"{k:>10}" for k in TOLERANCES) + "\nallowed" + f"{TOLERANCES['features']:9.0e}"
          + "".join(f"{t:10.0e}" for t in list(TOLERANCES.values())[1:]))
    failed = 0
    for seed in a.seeds:
        s, lengths = (dict(rv.MIDDLE), [1.0, 0.3]) if a.middle else (rv.sizes(seed), None)
        for name, _, value in (pair.partition("=") for pair in a.set):
            if name not in s:
                p.error(f"there is no size `{name}`; sizes: {', '.join(s)}")
            s[name] = value.lower() == "true" if isinstance(s[name], bool) else type(s[name])(value)
        with tempfile.TemporaryDirectory() as folder:
            worst, notes, wrong = one(program, seed, s, lengths, Path(folder))
        failed += bool(wrong)
        print(f"{seed:<6}" + "".join(f"{worst[k]:10.1e}" for k in TOLERANCES) + ("  FAILED" if wrong else "  ok"))
        print("".join(f"      {line}\n" for line in [rv.summary(s), *notes, *wrong]), end="", flush=True)
    print(f"{len(a.seeds) - failed} of {len(a.seeds)} seeds are as transformers computes them")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
