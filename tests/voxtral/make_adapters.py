#!/usr/bin/env python3
"""Generates test adapters and PEFT's outputs with them: DoRA and rank-stabilised LoRA on the tiny checkpoint.

    python tests/voxtral/make_adapters.py           # run after make_fixture.py; writes adapters/

Package versions as in make_fixture.py. `adapters/dora`: float32, with a list of targets in the audio tower, the projector and the text
model. `adapters/rslora`: bfloat16, with a regular expression as target and a different rank and alpha for some layers.
"""
import json
import shutil

import peft
import torch
from safetensors.torch import load_file, save_file

import make_fixture as fixture

HERE = fixture.HERE / "adapters"
EVERY = 64                           # this column of the logits in so many is kept
KINDS = {
    "dora": dict(r=2, lora_alpha=6, use_dora=True, target_modules=["q_proj", "fc1", "linear_2"]),
    "rslora": dict(r=2, lora_alpha=6, use_rslora=True, target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)",
                   rank_pattern={r"layers\.1\.mlp\.down_proj": 4, "v_proj": 3}, alpha_pattern={"q_proj": 3}),
}


def write(folder, options):
    """An adapter in which every parameter has an effect: B is not zero, and the magnitudes differ from the base's."""
    torch.manual_seed(11)
    config = peft.LoraConfig(lora_dropout=0.0, task_type="CAUSAL_LM", **options)
    model = peft.get_peft_model(fixture.load(), config)
    model.peft_config["default"].base_model_name_or_path = "tiny"
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.3 * torch.randn(p.shape))
            if "lora_magnitude_vector" in name:
                p.mul_(1 + 0.2 * torch.randn(p.shape))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    if folder.name == "rslora":
        file = folder / "adapter_model.safetensors"
        save_file({k: v.bfloat16() for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    # A set has no order of its own.
    file = folder / "adapter_config.json"
    written = json.loads(file.read_text())
    if isinstance(written["target_modules"], list):
        written["target_modules"].sort()
    file.write_text(json.dumps(written, indent=2) + "\n")


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    rows, tensors, facts = fixture.examples(), {}, {}
    for kind, options in KINDS.items():
        folder = HERE / kind
        write(folder, options)
        model = peft.PeftModel.from_pretrained(fixture.load(), folder).eval()
        for i, row in enumerate(rows):
            with torch.no_grad():
                tensors[f"{kind}.clip{i}.logits"] = model(**fixture.collate([row])).logits[0, :, ::EVERY]
        model = peft.PeftModel.from_pretrained(fixture.load(), folder, is_trainable=True)
        facts[f"{kind}_training"] = fixture.train(model, fixture.collate(rows))
        tensors |= {f"{kind}.final.{k}": v for k, v in peft.get_peft_model_state_dict(model).items()}
        print(kind, [round(s["loss"], 6) for s in facts[f"{kind}_training"]["steps"]], facts[f"{kind}_training"]["loss_after"])
    save_file({k: v.detach().float().contiguous() for k, v in tensors.items()}, HERE / "expected.safetensors")
    (HERE / "expected.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
