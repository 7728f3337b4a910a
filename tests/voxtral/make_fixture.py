#!/usr/bin/env python3
"""Generates the reference fixtures of the Voxtral tests: a tiny random checkpoint and transformers' outputs with it.

    python tests/voxtral/make_fixture.py            # writes tiny/, peft-adapter/, expected.safetensors, expected.json

Made with Python 3.11.7, torch 2.15.0 (CPU, one thread), transformers 5.23.0, peft 0.21.2, mistral-common 1.13.1,
safetensors 0.8, numpy 2.3.5. Needs only those packages; downloads nothing, and all randomness is seeded.
The tensors of expected.safetensors are described in README.md in this folder.
"""
import json
import math
import shutil
from pathlib import Path

import mistral_common
import numpy as np
import peft
import torch
import transformers
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
TINY = HERE / "tiny"
ADAPTER = HERE / "peft-adapter"

BOS, EOS, INST, END_INST, PAD, AUDIO, BEGIN_AUDIO, TRANSCRIBE = 1, 2, 3, 4, 11, 24, 25, 34
POSITIONS = 100                      # encoder frames of a chunk: 2 seconds
CHUNK_SAMPLES = POSITIONS * 320
AUDIO_DIM, GROUP = 32, 4
SEED = 19                            # of seeds 3..24 the one whose greedy ids vary most and are furthest from a tie
NEW_TOKENS = 24
STEPS, RATE, CLIP = 5, 1e-3, 1.0
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)"
CLIPS = [
    {"seed": 1, "samples": 24_000, "language": "en", "text": "Hello world, this is a test."},
    {"seed": 2, "samples": 48_000, "language": None, "text": "Buenos días, señora."},
]

SPECIALS = {
    0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 5: "[AVAILABLE_TOOLS]", 6: "[/AVAILABLE_TOOLS]",
    7: "[TOOL_RESULTS]", 8: "[/TOOL_RESULTS]", 9: "[TOOL_CALLS]", 10: "[IMG]", 11: "<pad>", 12: "[IMG_BREAK]",
    13: "[IMG_END]", 14: "[PREFIX]", 15: "[MIDDLE]", 16: "[SUFFIX]", 17: "[SYSTEM_PROMPT]", 18: "[/SYSTEM_PROMPT]",
    19: "[TOOL_CONTENT]", 24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]",
}


def waveform(seed, samples):
    """16-bit samples computed with integer arithmetic, so that Python and Rust produce the same ones.

    Three triangle waves, the third rising in pitch, switched by a slow on/off pattern, plus noise from a linear congruential generator.
    """
    def triangle(phase):             # 16-bit phase -> -16384..16384
        return abs((phase + 16384) % 65536 - 32768) - 16384

    out, state = [], seed
    for n in range(samples):
        state = (state * 1664525 + 1013904223) % 2**32
        rising = n * 900 + (n * n) // 16
        x = triangle(n * (800 + 211 * seed) % 65536) // 3 + triangle(n * 7001 % 65536) // 5 + triangle(rising % 65536) // 4
        if (n // 4000) % 4 == 3:
            x = x // 16
        out.append(x + (state >> 16) // 64 - 512)
    return np.array(out, dtype=np.int16)


# -- the checkpoint

def write_tekken(path, keep, specials):
    """Writes the first `keep` entries of Mistral's published vocabulary; a merge only depends on earlier entries."""
    full = json.loads((Path(mistral_common.__file__).parent / "data" / "tekken_240911.json").read_text(encoding="utf-8"))
    line = lambda rows: ",\n".join("    " + json.dumps(r, ensure_ascii=False) for r in rows)
    config = {"pattern": full["config"]["pattern"], "num_vocab_tokens": keep, "default_vocab_size": keep + specials,
              "default_num_special_tokens": specials, "version": "v7"}
    audio = {"sampling_rate": 16000, "frame_rate": 12.5, "chunk_length_s": 30.0,
             "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400}}
    special = [{"rank": i, "token_str": SPECIALS.get(i, f"<SPECIAL_{i}>"), "is_control": True} for i in range(specials)]
    path.write_text(f'{{\n  "config": {json.dumps(config, ensure_ascii=False)},\n  "audio": {json.dumps(audio)},\n'
                    f'  "special_tokens": [\n{line(special)}\n  ],\n  "vocab": [\n{line(full["vocab"][:keep])}\n  ]\n}}\n', encoding="utf-8")


@torch.no_grad()
def initialise(model, seed):
    """Initialises weights so that activations stay near one and norms and biases are not trivial, which makes errors visible."""
    g = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        r = torch.randn(p.shape, generator=g)
        if name.endswith("embed_positions.weight"):
            step = math.log(10000) / (AUDIO_DIM // 2 - 1)
            t = torch.arange(POSITIONS).view(-1, 1) * torch.exp(-step * torch.arange(AUDIO_DIM // 2)).view(1, -1)
            p.copy_(torch.cat([t.sin(), t.cos()], dim=1))
        elif name.endswith("embed_tokens.weight"):
            p.copy_(r)
        elif "norm" in name.split(".")[-2]:
            p.copy_(0.1 * r + (1 if name.endswith("weight") else 0))
        elif name.endswith("bias"):
            p.copy_(0.1 * r)
        else:
            p.copy_(r / math.sqrt(p[0].numel()))


def write_tiny():
    config = transformers.VoxtralConfig(
        audio_config=dict(hidden_size=AUDIO_DIM, intermediate_size=GROUP * AUDIO_DIM, num_hidden_layers=2, num_attention_heads=4,
                          num_mel_bins=128, max_source_positions=POSITIONS),
        text_config=dict(hidden_size=48, intermediate_size=128, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
                         head_dim=16, vocab_size=512, rope_theta=1e8, tie_word_embeddings=False, max_position_embeddings=131072,
                         rms_norm_eps=1e-5),
        audio_token_id=AUDIO, projector_hidden_act="gelu")
    torch.manual_seed(SEED)
    model = transformers.VoxtralForConditionalGeneration(config).eval()
    initialise(model, SEED)
    for name, value in [("bos", BOS), ("eos", EOS), ("pad", PAD)]:
        setattr(model.generation_config, f"{name}_token_id", value)
    shutil.rmtree(TINY, ignore_errors=True)
    model.save_pretrained(TINY)
    extractor = {"chunk_length": CHUNK_SAMPLES // 16000, "dither": 0.0, "feature_extractor_type": "WhisperFeatureExtractor",
                 "feature_size": 128, "hop_length": 160, "n_fft": 400, "n_samples": CHUNK_SAMPLES, "nb_max_frames": 2 * POSITIONS,
                 "padding_side": "right", "padding_value": 0.0, "processor_class": "VoxtralProcessor",
                 "return_attention_mask": False, "sampling_rate": 16000}
    (TINY / "preprocessor_config.json").write_text(json.dumps(extractor, indent=2) + "\n")
    write_tekken(TINY / "tekken.json", 412, 100)


def load():
    return transformers.VoxtralForConditionalGeneration.from_pretrained(TINY, dtype=torch.float32, attn_implementation="eager").eval()


def hub_name(name):
    """In-memory names of transformers 5 -> the names in the Hub's files."""
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    return name.replace("language_model.", "language_model.model.", 1) if name.startswith("language_model.") else name


# -- examples and batches

def examples():
    tekken = Tekkenizer.from_file(TINY / "tekken.json")
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    rows = []
    for clip in CLIPS:
        pcm = waveform(clip["seed"], clip["samples"])
        mel = extractor(pcm.astype(np.float32) / 32768, sampling_rate=16000, padding=True, truncation=False,
                        pad_to_multiple_of=CHUNK_SAMPLES, return_tensors="pt")["input_features"]
        mel = mel.reshape(128, -1, 2 * POSITIONS).transpose(0, 1).contiguous()
        encode = lambda text: tekken.encode(text, bos=False, eos=False)
        prompt = [BOS, INST, BEGIN_AUDIO] + [AUDIO] * (mel.shape[0] * POSITIONS // GROUP) + [END_INST]
        prompt += encode(f"lang:{clip['language']}") if clip["language"] else []
        rows.append({**clip, "pcm": pcm, "mel": mel, "prompt": prompt + [TRANSCRIBE], "target": encode(clip["text"]) + [EOS]})
    return rows


def collate(rows):
    """Pads prompts on the left and whole rows on the right; labels cover only the text and its </s>."""
    left = max(len(r["prompt"]) for r in rows)
    width = left + max(len(r["target"]) for r in rows)
    ids = torch.full((len(rows), width), PAD)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, r in enumerate(rows):
        start, end = left - len(r["prompt"]), left + len(r["target"])
        ids[i, start:end] = torch.tensor(r["prompt"] + r["target"])
        mask[i, start:end] = 1
        labels[i, left:end] = torch.tensor(r["target"], dtype=torch.long)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "input_features": torch.cat([r["mel"] for r in rows])}


# -- what the reference computes

def forward(model, row):
    """Encoder output, projector output, logits and loss of one clip, without padding."""
    kept = {}
    keep = lambda name: lambda _m, _i, o: kept.__setitem__(name, o.detach().clone())
    hooks = [model.model.audio_tower.layer_norm.register_forward_hook(keep("encoder")),
             model.model.multi_modal_projector.register_forward_hook(keep("projector"))]
    out = model(**collate([row]))
    for h in hooks:
        h.remove()
    return kept | {"logits": out.logits.detach()[0]}, out.loss


@torch.no_grad()
def generate(model, rows):
    """Greedy ids of each row, and the smallest margin of a chosen token (with a tie, the test would be flaky)."""
    batch = collate([{**r, "target": []} for r in rows])
    batch.pop("labels")
    out = model.generate(**batch, do_sample=False, max_new_tokens=NEW_TOKENS, output_scores=True, return_dict_in_generate=True)
    lead = min((s.topk(2).values[:, 0] - s.topk(2).values[:, 1]).min().item() for s in out.scores)
    return out.sequences[:, batch["input_ids"].shape[1]:].tolist(), lead


def train(model, batch):
    """AdamW, linear decay to zero, gradient clipping: the same as transformers' Trainer with one micro-batch per step."""
    model.train()
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    log = []
    for step in range(STEPS):
        rate = RATE * (STEPS - step) / STEPS
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        items = (batch["labels"][:, 1:] != -100).sum()
        loss = model(**batch, num_items_in_batch=items).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(params, CLIP)
        optimizer.step()
        log.append({"step": step + 1, "loss": loss.item(), "grad_norm": norm.item(), "learning_rate": rate, "targets": int(items)})
    with torch.no_grad():
        after = model.eval()(**batch, num_items_in_batch=items).loss.item()
    return {"steps": log, "loss_after": after}


def write_adapter():
    torch.manual_seed(5)
    config = peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, bias="none", target_modules=TARGETS, task_type="CAUSAL_LM",
                             base_model_name_or_path="tiny")
    model = peft.get_peft_model(load(), config)
    model.peft_config["default"].base_model_name_or_path = "tiny"
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.3 * torch.randn(p.shape))
    shutil.rmtree(ADAPTER, ignore_errors=True)
    model.save_pretrained(ADAPTER)
    (ADAPTER / "README.md").unlink()


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    write_tiny()
    write_adapter()
    rows, tensors, facts = examples(), {}, {}
    facts["versions"] = {m.__name__: m.__version__.split("+")[0] for m in (torch, transformers, peft, mistral_common, np)}
    facts["clips"] = []
    model = load()
    adapted = peft.PeftModel.from_pretrained(load(), ADAPTER).eval()
    for i, row in enumerate(rows):
        got, loss = forward(model, row)
        if i == 0:
            loss.backward()
            tensors |= {f"gradient.{hub_name(n)}": p.grad.clone() for n, p in model.named_parameters()
                        if p.grad is not None and "embed_positions" not in n}
            model.zero_grad(set_to_none=True)
        tensors |= {f"clip{i}.{k}": v for k, v in got.items()} | {f"clip{i}.features": row["mel"]}
        with torch.no_grad():
            lora = adapted(**collate([row]))
        tensors[f"clip{i}.lora_logits"] = lora.logits[0]
        (ids,), lead = generate(model, [row])
        (lora_ids,), lora_lead = generate(adapted, [row])
        facts["clips"].append({
            "seed": row["seed"], "samples": row["samples"], "language": row["language"], "text": row["text"],
            "pcm_sum": int(row["pcm"].astype(np.int64).sum()), "pcm_absolute_sum": int(np.abs(row["pcm"].astype(np.int64)).sum()),
            "pcm_first": row["pcm"][1000:1008].tolist(), "chunks": row["mel"].shape[0], "prompt": row["prompt"], "target": row["target"],
            "loss": loss.item(), "lora_loss": lora.loss.item(), "generated": ids, "generated_lead": lead, "lora_generated": lora_ids,
            "lora_generated_lead": lora_lead})
    batch = collate(rows)
    facts["batch"] = {k: batch[k].tolist() for k in ("input_ids", "attention_mask", "labels")}
    facts["batch"]["generated"], facts["batch"]["generated_lead"] = generate(model, rows)
    facts["batch"]["loss"] = model(**batch).loss.item()

    model = peft.PeftModel.from_pretrained(load(), ADAPTER, is_trainable=True)
    facts["lora_training"] = train(model, batch)
    tensors |= {f"lora_final.{k}": v for k, v in peft.get_peft_model_state_dict(model).items()}

    model = load().requires_grad_(True)
    model.model.audio_tower.embed_positions.weight.requires_grad_(False)
    facts["full_training"] = train(model, batch)
    before = load_file(TINY / "model.safetensors")
    facts["full_training"]["change_norms"] = {
        hub_name(n): (p.detach() - before[hub_name(n)]).double().norm().item() for n, p in sorted(model.named_parameters())}

    save_file({k: v.detach().float().contiguous() for k, v in tensors.items()}, HERE / "expected.safetensors")
    text = json.dumps(facts, indent=1, ensure_ascii=False)
    (HERE / "expected.json").write_text(compact(text) + "\n", encoding="utf-8")
    for key in ("lora_training", "full_training"):
        print(key, [round(s["loss"], 6) for s in facts[key]["steps"]], round(facts[key]["loss_after"], 6))
    for clip in facts["clips"]:
        print({k: clip[k] for k in ("loss", "lora_loss", "generated", "generated_lead", "lora_generated_lead", "pcm_first")})


def compact(text):
    """Puts lists of numbers on one line."""
    import re
    return re.sub(r"\[[\s\d,.e+-]*\]", lambda m: re.sub(r"\s+", " ", m[0]).replace("[ ", "[").replace(" ]", "]"), text)


if __name__ == "__main__":
    main()
