#!/usr/bin/env python3
"""Generates one very small Voxtral in all checkpoint formats, and transformers' outputs with it.

    python tests/voxtral/make_forms.py            # writes forms/

forms/hub/      config.json in the format of transformers 4, model.safetensors in bf16 with the position table in f32
forms/mistral/  params.json and consolidated.safetensors, in Mistral's format: other names, interleaved rotary rows, no position table
forms/expected.safetensors   input features, token ids and transformers' logits in f32

Made with Python 3.11.7, torch 2.15.0 (CPU), transformers 5.23.0, safetensors 0.8. Downloads nothing; all randomness is seeded.
"""
import json
import math
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

FORMS = Path(__file__).parent / "forms"
SEED, POSITIONS, WIDTH, GROUP, HEADS, KEY_HEADS, HEAD = 5, 20, 16, 4, 4, 2, 8
AUDIO = 24


def model():
    config = transformers.VoxtralConfig(
        audio_config=dict(hidden_size=WIDTH, intermediate_size=GROUP * WIDTH, num_hidden_layers=1, num_attention_heads=2, num_mel_bins=8,
                          max_source_positions=POSITIONS),
        text_config=dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=HEADS,
                         num_key_value_heads=KEY_HEADS, head_dim=HEAD, vocab_size=64, rope_theta=1e6, tie_word_embeddings=False,
                         max_position_embeddings=131072, rms_norm_eps=1e-5),
        audio_token_id=AUDIO, projector_hidden_act="gelu")
    model = transformers.VoxtralForConditionalGeneration(config).eval()
    g = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            r = torch.randn(p.shape, generator=g)
            if name.endswith("embed_positions.weight"):
                step = math.log(10000) / (WIDTH // 2 - 1)
                t = torch.arange(POSITIONS).view(-1, 1) * torch.exp(-step * torch.arange(WIDTH // 2)).view(1, -1)
                p.copy_(torch.cat([t.sin(), t.cos()], dim=1))
                continue
            if "norm" in name.split(".")[-2]:
                r = 0.1 * r + (1 if name.endswith("weight") else 0)
            elif name.endswith("bias"):
                r = 0.1 * r
            elif not name.endswith("embed_tokens.weight"):
                r = r / math.sqrt(p[0].numel())
            p.copy_(r.bfloat16())        # values that bf16 holds exactly
    return model


def hub_name(name):
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    return name.replace("language_model.", "language_model.model.", 1) if name.startswith("language_model.") else name


def interleaved(w, heads):
    rows, columns = w.shape
    return w.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns).contiguous()


def mistral(name, w):
    """Converts a tensor to the format of consolidated.safetensors: the inverse of transformers' convert_voxtral_weights_to_hf.py."""
    if name == "audio_tower.embed_positions.weight":
        return None
    if name == "language_model.lm_head.weight":
        return "output.weight", w
    if name == "language_model.model.embed_tokens.weight":
        return "mm_whisper_embeddings.tok_embeddings.weight", w
    if name.startswith("language_model.model."):
        for ours, theirs in [("language_model.model.", ""), ("input_layernorm", "attention_norm"), ("post_attention_layernorm", "ffn_norm"),
                             ("self_attn.q_proj", "attention.wq"), ("self_attn.k_proj", "attention.wk"), ("self_attn.v_proj", "attention.wv"),
                             ("self_attn.o_proj", "attention.wo"), ("mlp.gate_proj", "feed_forward.w1"), ("mlp.down_proj", "feed_forward.w2"),
                             ("mlp.up_proj", "feed_forward.w3")]:
            name = name.replace(ours, theirs)
        heads = HEADS if ".wq." in name else KEY_HEADS if ".wk." in name else 0
        return name, interleaved(w, heads) if heads else w
    if name.startswith("multi_modal_projector."):
        return f"mm_whisper_embeddings.audio_language_projection.{2 * (int(name.split('.')[1][-1]) - 1)}.weight", w
    name = name.removeprefix("audio_tower.")
    prefix = "mm_whisper_embeddings.whisper_encoder."
    if name.startswith("conv"):
        return f"{prefix}conv_layers.{int(name[4]) - 1}.{name.split('.')[1]}", w
    if name.startswith("layer_norm."):
        return f"{prefix}transformer.norm.{name.split('.')[1]}", w
    for ours, theirs in [("self_attn_layer_norm", "attention_norm"), ("final_layer_norm", "ffn_norm"), ("self_attn.q_proj", "attention.wq"),
                         ("self_attn.k_proj", "attention.wk"), ("self_attn.v_proj", "attention.wv"), ("self_attn.out_proj", "attention.wo"),
                         ("fc1", "feed_forward.w1"), ("fc2", "feed_forward.w2")]:
        name = name.replace(ours, theirs)
    return f"{prefix}transformer.{name}", w


def main():
    torch.set_num_threads(1)
    m = model()
    a, t = m.config.audio_config, m.config.text_config
    tensors = {hub_name(n): p.detach().clone() for n, p in m.named_parameters()}
    half = lambda n, p: p.contiguous() if n == "audio_tower.embed_positions.weight" else p.bfloat16().contiguous()
    for form in ("hub", "mistral"):
        (FORMS / form).mkdir(parents=True, exist_ok=True)
    save_file({n: half(n, p) for n, p in tensors.items()}, FORMS / "hub" / "model.safetensors", metadata={"format": "pt"})
    renamed = dict(filter(None, (mistral(n, p.bfloat16()) for n, p in tensors.items())))
    save_file({n: p.contiguous() for n, p in renamed.items()}, FORMS / "mistral" / "consolidated.safetensors")
    config = {"architectures": ["VoxtralForConditionalGeneration"], "model_type": "voxtral", "torch_dtype": "bfloat16",
              "audio_token_id": AUDIO, "projector_hidden_act": "gelu",
              "audio_config": {k: getattr(a, k) for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                                          "num_mel_bins", "max_source_positions")} | {"model_type": "voxtral_encoder"},
              "text_config": {k: getattr(t, k) for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                                                         "num_key_value_heads", "head_dim", "vocab_size", "rms_norm_eps")}
              | {"model_type": "llama", "rope_theta": 1e6, "rope_scaling": None, "tie_word_embeddings": False}}
    (FORMS / "hub" / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    params = {"dim": t.hidden_size, "n_layers": t.num_hidden_layers, "head_dim": t.head_dim, "hidden_dim": t.intermediate_size,
              "n_heads": HEADS, "n_kv_heads": KEY_HEADS, "rope_theta": 1e6, "norm_eps": 1e-5, "vocab_size": t.vocab_size,
              "max_position_embeddings": 131072,
              "multimodal": {"whisper_model_args": {
                  "encoder_args": {"dim": WIDTH, "n_layers": 1, "head_dim": WIDTH // 2, "hidden_dim": GROUP * WIDTH, "n_heads": 2,
                                   "vocab_size": 51866, "max_source_positions": POSITIONS,
                                   "audio_encoding_args": {"sampling_rate": 16000, "num_mel_bins": 8, "hop_length": 160, "window_size": 400}},
                  "downsample_args": {"downsample_factor": GROUP}}}}
    (FORMS / "mistral" / "params.json").write_text(json.dumps(params, indent=1) + "\n")
    features = torch.randn(1, 8, 2 * POSITIONS, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[1, 3, 25] + [AUDIO] * (POSITIONS // GROUP) + [4, 40, 41, 34, 50, 51, 52, 2]])
    with torch.no_grad():
        logits = m(input_ids=ids, input_features=features, attention_mask=torch.ones_like(ids)).logits[0]
    save_file({"features": features, "ids": ids[0].float(), "logits": logits.contiguous()}, FORMS / "expected.safetensors")
    print({"parameters": sum(p.numel() for p in m.parameters()), "largest logit": logits.abs().max().item()})


if __name__ == "__main__":
    main()
