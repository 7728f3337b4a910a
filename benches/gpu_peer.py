#!/usr/bin/env python3
"""Runs the measurements of `voxpipe bench` with torch, transformers and peft, and prints a table of both. Called by `benches/gpu.sh`.

    gpu_peer.py measure --device cuda:0 --model FOLDER --ours OURS.jsonl [--precision bf16] [--batches 1,2,4] [--patience 0.3]
    gpu_peer.py table FOLDER        # reads ours.jsonl and, if present, theirs.jsonl

Prints JSON Lines with the same names as voxpipe. The operations and their shapes are read from OURS. A step is a forward pass, a backward
pass, gradient clipping and AdamW on the same random batches, with sdpa attention. The base model has the measured precision; trained weights
are f32, with autocast for bf16. Each case runs with and without gradient checkpointing, and the faster one counts.
"""
import argparse
import json
import re
import statistics
import sys
import time
from pathlib import Path

TARGETS = 64
STEPS = 6


def median_of(once, settle, patience):
    once()
    settle()
    medians = []
    for _ in range(2):
        start, times = time.monotonic(), []
        while len(times) < 3 or (time.monotonic() - start < patience and len(times) < 200):
            begun = time.perf_counter()
            once()
            settle()
            times.append(time.perf_counter() - begun)
        medians.append(statistics.median(times))
    return medians


def tell(part, what, seconds, **facts):
    print(json.dumps({"part": part, "what": what, "seconds": seconds, **facts}), flush=True)


def measure(a):
    import torch
    device = torch.device(a.device)
    on_card = device.type != "cpu"
    settle = torch.cuda.synchronize if on_card else lambda: None
    torch.manual_seed(0)
    operations(a, torch, device, settle)
    steps(a, torch, device, settle, on_card)


def operations(a, torch, device, settle):
    from torch.nn import functional as F
    number = {"f32": torch.float32, "bf16": torch.bfloat16}
    draw = lambda *shape: torch.rand(shape, device=device) * 2 - 1
    done = set()
    for line in Path(a.ours).read_text().splitlines():
        row = json.loads(line)
        what = row["what"]
        if row["part"] not in ("ceilings", "operations") or what in done:
            continue
        done.add(what)
        name, _, way = what.partition(": ")
        both = way == "both ways"
        dims = list(map(int, re.findall(r"\d+", name.rpartition(",")[0] or name)))
        kind = number["bf16" if name.endswith("bf16") else "f32"]
        if name.startswith("copy"):
            x = draw(dims[0] * 250_000)
            once = lambda: x + 1.0
        elif name.startswith("product"):
            dims = list(map(int, re.findall(r"\d+", name)))
            x, w = draw(dims[0], dims[1]).to(kind), draw(dims[0], dims[1]).to(kind)
            once = lambda: x @ w
        elif name.startswith("linear"):
            x, w = draw(dims[0], dims[1]).to(kind).requires_grad_(both), draw(dims[2], dims[1]).to(kind)
            once = there_and_back([x], lambda: F.linear(x, w), both)
        elif "attention" in name:
            batch, heads, shared, width, rows = dims[:5]
            q, k, v = (draw(batch, h, rows, width).to(kind).requires_grad_(both) for h in (heads, shared, shared))
            causal = name.startswith("causal")
            once = there_and_back([q, k, v], lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True), both)
        elif name.startswith("cross-entropy"):
            width = int(a.width)
            x, w = draw(dims[0], width).to(kind).requires_grad_(both), draw(dims[1], width).to(kind)
            labels = torch.arange(dims[0], device=device) * 7919 % dims[1]
            once = there_and_back([x], lambda: F.cross_entropy(F.linear(x, w).float(), labels, reduction="sum"), both)
        else:
            dims = list(map(int, re.findall(r"\d+", name)))
            x = draw(dims[0], dims[1]).requires_grad_(both)
            up, ones = draw(dims[0], dims[1]).requires_grad_(both), torch.ones(dims[1], device=device)
            if name.startswith("layer norm"):
                once = there_and_back([x], lambda: F.layer_norm(x, (dims[1],), ones, ones), both)
            elif name.startswith("RMS norm"):
                once = there_and_back([x], lambda: F.rms_norm(x, (dims[1],), ones), both)
            elif name.startswith("gelu"):
                once = there_and_back([x], lambda: F.gelu(x), both)
            else:
                once = there_and_back([x, up], lambda: F.silu(x) * up, both)
        tell(row["part"], what, median_of(once, settle, a.patience))


def there_and_back(leaves, forward, both):
    def once():
        y = forward()
        if both:
            y.sum().backward()
            for leaf in leaves:
                leaf.grad = None
    return once


def steps(a, torch, device, settle, on_card):
    import peft
    import transformers
    narrow = a.precision == "bf16"
    dtype = torch.bfloat16 if narrow else torch.float32
    load = lambda kind: transformers.VoxtralForConditionalGeneration.from_pretrained(a.model, dtype=kind, attn_implementation="sdpa").to(device)
    start = time.monotonic()
    model = load(dtype)
    settle()
    tell("steps", f"loading the model in {a.precision}", [time.monotonic() - start])
    config = model.config
    positions, mels = config.audio_config.max_source_positions, config.audio_config.num_mel_bins
    prompt = [1, 3, 25] + [config.audio_token_id] * (positions // 4) + [4, 9, 10, 12, 34]

    def rows(batch):
        ids = torch.tensor([prompt + torch.randint(100, config.text_config.vocab_size, (TARGETS,)).tolist() for _ in range(batch)], device=device)
        labels = ids.clone()
        labels[:, :len(prompt)] = -100
        features = torch.rand(batch, mels, 2 * positions, device=device, dtype=dtype) * 2.5 - 1
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "input_features": features}

    def adapter(model, everywhere):
        names = "q_proj|k_proj|v_proj|o_proj" + ("|out_proj" if everywhere else "")
        where = "" if everywhere else "language_model.*"
        return peft.get_peft_model(model, peft.LoraConfig(r=8, lora_alpha=32, lora_dropout=0.0, task_type="CAUSAL_LM",
                                                          target_modules=rf".*{where}\.({names})"))

    for case in ["LoRA on the text model, audio heard", "LoRA everywhere", "full"]:
        del model
        model = load(torch.float32 if case == "full" else dtype)
        if case != "full":
            model = adapter(model, case == "LoRA everywhere")
            for p in model.parameters():
                if p.requires_grad:
                    p.data = p.data.float()
        else:
            model.requires_grad_(True)
            model.model.audio_tower.embed_positions.weight.requires_grad_(False)
        model.train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        for batch in map(int, a.batches.split(",")):
            best = None
            for saving in (False, True):
                try:
                    if on_card:
                        torch.cuda.empty_cache()
                        torch.cuda.reset_peak_memory_stats()
                    if saving:
                        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
                    else:
                        model.gradient_checkpointing_disable()
                    adamw = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.0)
                    given, times = rows(batch), []
                    for _ in range(1 + STEPS):
                        begun = time.perf_counter()
                        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=narrow):
                            loss = model(**given, use_cache=False).loss
                        loss.backward()
                        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                        adamw.step()
                        adamw.zero_grad()
                        float(loss.detach())
                        settle()
                        times.append(time.perf_counter() - begun)
                    half = 1 + STEPS // 2
                    found = [statistics.median(times[1:half]), statistics.median(times[half:])]
                    memory = torch.cuda.max_memory_allocated() if on_card else None
                    if best is None or min(found) < min(best[0]):
                        best = found, memory, "gradient checkpointing" if saving else ""
                except torch.OutOfMemoryError:
                    for p in parameters:
                        p.grad = None
                    adamw = None
            what = f"{case}, batch {batch}"
            if best is None:
                tell("steps", what, [], note="out of memory")
            else:
                tell("steps", what, best[0], memory=best[1], note=best[2])
    del model
    model = load(dtype).eval()
    for batch in map(int, a.batches.split(",")):
        given = rows(batch)
        ids, features = given["input_ids"][:, :len(prompt)], given["input_features"]
        write = lambda: model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), input_features=features, max_new_tokens=TARGETS,
                                       min_new_tokens=TARGETS, do_sample=False, pad_token_id=11)
        with torch.inference_mode():
            tell("transcription", f"transcription, batch {batch}", median_of(write, settle, a.patience))


def table(folder):
    read = lambda name: [json.loads(line) for line in (Path(folder) / name).read_text().splitlines()] if (Path(folder) / name).is_file() else []
    theirs = {}
    for row in read("theirs.jsonl"):
        theirs[row["what"]] = row
    said = lambda row: " / ".join(f"{1e3 * s:.3f}" for s in row["seconds"]) if row and row["seconds"] else "-"
    size = lambda row: f"{row['memory'] / 2**20:.0f}" if row and row.get("memory") else ""
    print("| what | voxpipe, ms | peer, ms | peer / voxpipe | TFLOP/s | of the ceiling | MiB | peer's MiB | notes |")
    print("|---|---|---|---|---|---|---|---|---|")
    done = set()
    for row in read("ours.jsonl"):
        # Ceilings are also measured before the steps; use only the first measurement.
        if row["what"] in done:
            continue
        done.add(row["what"])
        peer = theirs.get(row["what"])
        if peer is None and "remembered" in row["what"]:
            peer = theirs.get(row["what"].replace("remembered", "heard"))
        ratio = f"{min(peer['seconds']) / min(row['seconds']):.2f}" if peer and peer["seconds"] and row["seconds"] else ""
        rate = f"{row['teraflops']:.3f}" if "teraflops" in row else f"{row['gigabytes']:.1f} GB/s" if "gigabytes" in row else ""
        share = f"{100 * row['of_ceiling']:.0f} %" if "of_ceiling" in row else ""
        notes = "; ".join(filter(None, [row.get("note", ""), f"peer: {peer['note']}" if peer and peer.get("note") else ""]))
        print(f"| {row['what']} | {said(row)} | {said(peer)} | {ratio} | {rate} | {share} | {size(row)} | {size(peer)} | {notes} |")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(dest="command", required=True)
    m = commands.add_parser("measure")
    m.add_argument("--device", default="cuda:0")
    m.add_argument("--model", required=True)
    m.add_argument("--ours", required=True)
    m.add_argument("--precision", choices=["f32", "bf16"], default="bf16")
    m.add_argument("--batches", default="1,2,4")
    m.add_argument("--patience", type=float, default=0.3)
    t = commands.add_parser("table")
    t.add_argument("folder")
    a = p.parse_args()
    if a.command == "table":
        return table(a.folder)
    a.width = json.loads((Path(a.model) / "config.json").read_text())["text_config"]["hidden_size"]
    return measure(a)


if __name__ == "__main__":
    sys.exit(main())
