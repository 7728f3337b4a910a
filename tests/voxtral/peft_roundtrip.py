#!/usr/bin/env python3
"""Tests adapter compatibility with PEFT and transformers: whether they load voxpipe's adapters, and the outputs of adapters written by PEFT.

    python tests/voxtral/peft_roundtrip.py FOLDER

FOLDER/ours/NAME contains adapters for tests/voxtral/tiny written by voxpipe. For each adapter and each of three ways to load it, prints
`NAME WAY DIFFERENCE`: the difference between the logits of clip 0 and those with the same tensors inserted into their layers one by one.
`NAME ours DIFFERENCE` is the same for voxpipe's `logits.safetensors` in that folder. Adapters by PEFT are written to FOLDER/theirs/NAME, each
with a `logits.safetensors`.
"""
import json
import sys
import warnings
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

import make_fixture as fixture

TEXT = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)"
THEIRS = {
    "text regex": dict(target_modules=TEXT),
    "list": dict(target_modules=["q_proj", "v_proj", "down_proj"], lora_dropout=0.1),
    "list dora": dict(target_modules=["q_proj", "fc2", "out_proj"], use_dora=True),
    "rslora": dict(target_modules=["o_proj", "fc1"], use_rslora=True),
    "projector": dict(target_modules=r".*multi_modal_projector\.linear_\d"),
    "all linear": dict(target_modules="all-linear", use_dora=True, use_rslora=True),
    "patterns": dict(target_modules=["q_proj", "v_proj", "fc1"], rank_pattern={r"layers\.0\..*q_proj": 3, "q_proj": 2},
                     alpha_pattern={"audio_tower.*": 5, "v_proj": 2}, use_rslora=True),
    "some layers": dict(target_modules=["q_proj", "v_proj"], layers_to_transform=[1], layers_pattern="layers"),
    "excluded": dict(target_modules=["q_proj", "v_proj"], exclude_modules=r".*audio_tower.*", init_lora_weights="gaussian"),
    "bf16": dict(target_modules=TEXT, use_dora=True),
    "older names": dict(target_modules=TEXT),
}


def main():
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    batch = fixture.collate([fixture.examples()[0]])

    @torch.no_grad()
    def logits(model):
        return model.eval()(**batch).logits[0]

    for ours in sorted((folder / "ours").iterdir()):
        expected = logits(one_by_one(ours))
        ways = {
            "PeftModel.from_pretrained": lambda: peft.PeftModel.from_pretrained(fixture.load(), ours),
            "load_adapter": lambda: with_adapter(ours),
            "Voxtral.from_pretrained": lambda: transformers.VoxtralForConditionalGeneration.from_pretrained(
                ours, dtype=torch.float32, attn_implementation="eager"),
        }
        for way, load in ways.items():
            print(f"{ours.name}\t{way}\t{(logits(load()) - expected).abs().max().item()}")
        print(f"{ours.name}\tours\t{(load_file(ours / 'logits.safetensors')['logits'] - expected).abs().max().item()}")
        print(f"{ours.name}\tmoved\t{(logits(fixture.load()) - expected).abs().max().item()}")

    for name, options in THEIRS.items():
        torch.manual_seed(3)
        config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM", **options})
        model = peft.get_peft_model(fixture.load(), config)
        with torch.no_grad():
            for key, p in model.named_parameters():
                if "lora_B" in key:
                    p.copy_(0.3 * torch.randn(p.shape))
                if "lora_magnitude_vector" in key:
                    p.mul_(1 + 0.2 * torch.randn(p.shape))
                if "lora_" in key and name == "bf16":
                    p.copy_(p.bfloat16().float())
        theirs = folder / "theirs" / name
        model.save_pretrained(theirs)
        file = theirs / "adapter_model.safetensors"
        if name == "bf16":
            save_file({k: v.bfloat16() for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
        if name == "older names":
            older = lambda k: k.replace("model.model.language_model.", "model.language_model.model.")
            save_file({older(k): v for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
        save_file({"logits": logits(model)}, theirs / "logits.safetensors")


def with_adapter(folder):
    model = fixture.load()
    model.load_adapter(folder)
    return model


def one_by_one(folder):
    """Loads the adapter without PEFT: inserts each tensor of the file into the layer given by its name."""
    config = json.loads((folder / "adapter_config.json").read_text())
    stored = {}
    for key, value in load_file(folder / "adapter_model.safetensors").items():
        key = key.removeprefix("base_model.model.").removesuffix(".weight")
        key = key.replace("language_model.model.", "model.language_model.") if key.startswith("language_model") else key
        stored[key] = value
    layers = sorted({key.rsplit(".", 1)[0] for key in stored})
    made = peft.LoraConfig(r=config["r"], lora_alpha=config["lora_alpha"], use_rslora=config["use_rslora"], use_dora=config["use_dora"],
                           target_modules=layers)
    model = peft.get_peft_model(fixture.load(), made)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for key, value in stored.items():
            layer, role = key.rsplit(".", 1)
            getattr(modules[f"base_model.model.{layer}"], role)["default"].weight.copy_(value)
    return model


if __name__ == "__main__":
    main()
