#!/usr/bin/env python3
"""Writes random checkpoints, clips of mixed length, and the output of transformers' `generate` for them as one batch.

    python tests/voxtral/generate_many.py --seeds 0..19 --out FOLDER

Writes FOLDER/seed-N/model (the checkpoint), clipI.wav and expected.json; tests/decoding.rs transcribes them and compares.
Needs torch, transformers, peft and mistral-common. Every second seed has a head biased towards `</s>`, so that rows end at different steps.
"""
import argparse
import json
import sys
from pathlib import Path

import torch

sys.dont_write_bytecode = True      # tests/tidy.rs wants no file here that is no fixture
import random_voxtral as rv  # noqa: E402

NEW_TOKENS = 24


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seeds", type=rv.seeds, required=True)
    p.add_argument("--out", type=Path, required=True)
    a = p.parse_args()
    torch.set_num_threads(1)
    for seed in a.seeds:
        s, folder = rv.sizes(seed), a.out / f"seed-{seed}"
        # Weights are stored in whole: parity.py is there to try all forms of files.
        s |= {"dtype": "float32", "shard": "5GB", "newer_names": False}
        rv.write(folder / "model", seed, s)
        model = rv.load(folder / "model")
        if seed % 2:
            with torch.no_grad():
                model.lm_head.weight[rv.EOS] *= 2.0
            model.save_pretrained(folder / "model")
        rows = rv.clips(folder / "model", seed, s)
        ids, leads = rv.generate(model, rows, NEW_TOKENS)
        facts = {"config": rv.summary(s), "max_new_tokens": NEW_TOKENS,
                 "clips": [{"wav": r["wav"], "language": r["language"], "generated": i, "leads": l} for r, i, l in zip(rows, ids, leads)]}
        (folder / "expected.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
