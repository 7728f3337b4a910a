#!/usr/bin/env python3
"""Measures time and memory for loading a checkpoint of about 2 GB, compared with safetensors' PyTorch loader.

    cargo build --release -p voxtral --example load
    benches/load.py [PROGRAM]            # target/release/examples/load; needs Python with torch and safetensors

Each of five rounds runs every loader once in its own process; medians are printed. The files are in the page cache.
Lazy: until the tensors exist; neither side has read the data by then. Whole: until every page was touched (PyTorch) or every value was
checked (voxpipe). f32: every matrix is converted to 32-bit floats. Peak: maximum resident memory of the process in MiB, including pages of
the mapped file. PyTorch's peak includes the interpreter and its libraries; their share is printed, too.
"""
import json
import os
import statistics
import subprocess
import sys
import tempfile

PEER = """
import resource, sys, time, json
import torch
from safetensors.torch import load_file
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
begun = time.perf_counter()
tensors = load_file(sys.argv[1])
lazy = time.perf_counter() - begun
if sys.argv[2] == "f32":
    tensors = {name: t.float() for name, t in tensors.items()}
else:
    for t in tensors.values():
        t.view(torch.uint8).flatten()[::4096].sum()
whole = time.perf_counter() - begun
print(json.dumps({"loaded": lazy, "checked": whole, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "base": base}))
"""
AUDIO = dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=4, num_mel_bins=128, max_source_positions=1500)
TEXT = dict(hidden_size=2048, intermediate_size=6144, num_hidden_layers=14, num_attention_heads=16, num_key_value_heads=8, head_dim=128,
            vocab_size=65536, rms_norm_eps=1e-5, rope_theta=1e8)


def write(folder):
    """Writes a checkpoint with random values and the Hub's tensor names, as a single file."""
    import torch
    from safetensors.torch import save_file
    a, h, f = AUDIO["hidden_size"], TEXT["hidden_size"], TEXT["intermediate_size"]
    q, k = TEXT["num_attention_heads"] * TEXT["head_dim"], TEXT["num_key_value_heads"] * TEXT["head_dim"]
    shapes = {"audio_tower.conv1.weight": (a, 128, 3), "audio_tower.conv1.bias": (a,), "audio_tower.conv2.weight": (a, a, 3),
              "audio_tower.conv2.bias": (a,), "audio_tower.embed_positions.weight": (1500, a), "audio_tower.layer_norm.weight": (a,),
              "audio_tower.layer_norm.bias": (a,), "multi_modal_projector.linear_1.weight": (h, 4 * a),
              "multi_modal_projector.linear_2.weight": (h, h), "language_model.model.embed_tokens.weight": (TEXT["vocab_size"], h),
              "language_model.lm_head.weight": (TEXT["vocab_size"], h), "language_model.model.norm.weight": (h,)}
    for i in range(AUDIO["num_hidden_layers"]):
        n = f"audio_tower.layers.{i}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{n}self_attn.{part}.weight"] = (a, a)
            if part != "k_proj":
                shapes[f"{n}self_attn.{part}.bias"] = (a,)
        shapes |= {f"{n}fc1.weight": (4 * a, a), f"{n}fc1.bias": (4 * a,), f"{n}fc2.weight": (a, 4 * a), f"{n}fc2.bias": (a,)}
        shapes |= {f"{n}{norm}.{part}": (a,) for norm in ("self_attn_layer_norm", "final_layer_norm") for part in ("weight", "bias")}
    for i in range(TEXT["num_hidden_layers"]):
        n = f"language_model.model.layers.{i}."
        shapes |= {f"{n}self_attn.q_proj.weight": (q, h), f"{n}self_attn.k_proj.weight": (k, h), f"{n}self_attn.v_proj.weight": (k, h),
                   f"{n}self_attn.o_proj.weight": (h, q), f"{n}mlp.gate_proj.weight": (f, h), f"{n}mlp.up_proj.weight": (f, h),
                   f"{n}mlp.down_proj.weight": (h, f), f"{n}input_layernorm.weight": (h,), f"{n}post_attention_layernorm.weight": (h,)}
    noise = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)).bfloat16()
    tensors = {}
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        tensors[name] = noise.repeat(-(-count // noise.numel()))[:count].view(shape).contiguous()
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    config = {"model_type": "voxtral", "audio_token_id": 24, "audio_config": AUDIO, "text_config": TEXT}
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file)
    return sum(t.numel() for t in tensors.values())


def main():
    program = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else "target/release/examples/load")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.safetensors")
        parameters = int(subprocess.run([sys.executable, __file__, "--write", folder], check=True, capture_output=True, text=True).stdout)
        size = os.path.getsize(path)
        print(f"{parameters / 1e6:.0f} M parameters, {size / 1e9:.2f} GB in bf16; five rounds, medians")
        cases = {"voxpipe, as stored": [program, folder, "auto"], "PyTorch, as stored": [sys.executable, "-c", PEER, path, "auto"],
                 "voxpipe, to f32": [program, folder, "f32"], "PyTorch, to f32": [sys.executable, "-c", PEER, path, "f32"]}
        rows = {name: [] for name in cases}
        for _ in range(5):
            for name, command in cases.items():
                rows[name].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        for name, row in rows.items():
            lazy, whole, peak = (statistics.median(run[key] for run in row) for key in ("loaded", "checked", "peak"))
            base = f" (interpreter {row[0]['base']})" if "base" in row[0] else ""
            print(f"{name:20} lazy {lazy:7.3f} s   whole {whole:7.3f} s   peak {peak:6.0f} MiB{base}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        print(write(sys.argv[2]))
    else:
        main()
