#!/usr/bin/env python3
"""Generates reference outputs of transformers for tiny random Voxtral Realtime checkpoints.

    python tests/voxtral/realtime/reference.py fixture          # writes tiny/, mistral/, expected.safetensors, expected.json
    python tests/voxtral/realtime/reference.py many OUT 0..9    # writes OUT/SEED/ with a checkpoint, clips and expected.json for each seed

Made with Python 3.11.7, torch 2.15.0 (CPU), transformers 5.23.0, mistral-common 1.13.1, numpy 2.3.5, safetensors 0.8. Needs only
those packages; downloads nothing, and all randomness is seeded. Features, padding and prompt are computed by those packages.
"""
import json
import math
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from mistral_common.tokens.tokenizers.audio import (AudioConfig, AudioEncoder, AudioSpectrogramConfig, SpecialAudioIDs,
                                                    TranscriptionFormat)
from safetensors.torch import save_file
from transformers import VoxtralRealtimeConfig, VoxtralRealtimeFeatureExtractor, VoxtralRealtimeForConditionalGeneration

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import make_fixture  # noqa: E402

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

BOS, EOS, PAD, STREAMING_PAD = 1, 2, 11, 32
FIXTURE_SEED = 8
SPECIALS = 40


def sizes(seed):
    """The dimensions for a seed: odd head counts, head widths that do not divide the model width, windows smaller and larger than the clip."""
    r = random.Random(seed)
    key_heads = r.choice([1, 2, 3])
    return {"mels": r.choice([16, 80, 128]), "audio_width": r.choice([16, 24, 40]), "audio_layers": r.choice([1, 2, 3]),
            "audio_heads": r.choice([1, 2, 3, 5]), "audio_head": r.choice([4, 8, 10]), "audio_inner": r.choice([24, 40]),
            "audio_window": r.choice([3, 9, 50, 750]), "width": r.choice([24, 32, 40]), "layers": r.choice([1, 2, 3]),
            "key_heads": key_heads, "heads": key_heads * r.choice([1, 2, 4]), "head": r.choice([6, 8, 16]),
            "inner": r.choice([32, 56]), "window": r.choice([5, 17, 40, 8192]), "vocabulary": 340,
            "audio_theta": r.choice([1e4, 1e6]), "theta": r.choice([1e4, 1e6]), "delay": r.choice([1, 3, 6, 30]),
            "left": r.choice([0, 2, 8, 32])}


FIXTURE = {"mels": 16, "audio_width": 16, "audio_layers": 2, "audio_heads": 3, "audio_head": 6, "audio_inner": 20, "audio_window": 9,
           "width": 24, "layers": 2, "key_heads": 2, "heads": 4, "head": 6, "inner": 24, "window": 17, "vocabulary": 300,
           "audio_theta": 1e6, "theta": 1e6, "delay": 3, "left": 4}


@torch.no_grad()
def initialise(model, seed):
    """Initialises weights so that activations stay near one and norms and biases are not trivial; all values are exact in bf16."""
    g = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        r = torch.randn(p.shape, generator=g)
        if "norm" in name.split(".")[-2] and "ada" not in name.split(".")[-2]:
            r = 0.1 * r + 1
        elif name.endswith("bias"):
            r = 0.1 * r
        elif name.endswith("embed_tokens.weight"):
            r = 0.3 * r             # the head is the same table: larger rows would only ever repeat themselves
        elif name.endswith("linear_2.weight"):
            r = 3 * r / math.sqrt(p[0].numel())
        else:
            r = r / math.sqrt(p[0].numel())
        p.copy_(r.to(torch.bfloat16).float())


def make(s, seed):
    rope = lambda theta: {"rope_theta": theta, "rope_type": "default"}
    config = VoxtralRealtimeConfig(
        audio_config=dict(hidden_size=s["audio_width"], intermediate_size=s["audio_inner"], num_hidden_layers=s["audio_layers"],
                          num_attention_heads=s["audio_heads"], head_dim=s["audio_head"], num_mel_bins=s["mels"],
                          sliding_window=s["audio_window"], rope_parameters=rope(s["audio_theta"]), rms_norm_eps=1e-5),
        text_config=dict(model_type="voxtral_realtime_text", hidden_size=s["width"], intermediate_size=s["inner"],
                         num_hidden_layers=s["layers"], num_attention_heads=s["heads"], num_key_value_heads=s["key_heads"],
                         head_dim=s["head"], vocab_size=s["vocabulary"], sliding_window=s["window"],
                         rope_parameters=rope(s["theta"]), tie_word_embeddings=True, rms_norm_eps=1e-5),
        attn_implementation="eager")
    model = VoxtralRealtimeForConditionalGeneration(config).eval()
    initialise(model, seed)
    for name, value in [("bos", BOS), ("eos", EOS), ("pad", PAD)]:
        setattr(model.generation_config, f"{name}_token_id", value)
    return model


def audio_encoder(s):
    config = AudioConfig(sampling_rate=16000, frame_rate=12.5, encoding_config=AudioSpectrogramConfig(s["mels"], 160, 400),
                         transcription_format=TranscriptionFormat.STREAMING, transcription_delay_ms=80.0 * s["delay"],
                         streaming_look_ahead_ms=2.5, streaming_look_back_ms=52.5, streaming_n_left_pad_tokens=s["left"])
    return AudioEncoder(config, SpecialAudioIDs(audio=24, begin_audio=25, streaming_pad=STREAMING_PAD, text_to_audio=None, audio_to_text=None))


def write_tokenizer(path, s):
    make_fixture.SPECIALS[STREAMING_PAD] = "[STREAMING_PAD]"
    make_fixture.write_tekken(path, s["vocabulary"] - SPECIALS, SPECIALS)
    tekken = path.read_text(encoding="utf-8")
    begin, end = tekken.index('  "audio": '), tekken.index('  "special_tokens"')
    audio = {"sampling_rate": 16000, "frame_rate": 12.5, "transcription_format": "streaming", "transcription_delay_ms": 80.0 * s["delay"],
             "streaming_look_ahead_ms": 2.5, "streaming_look_back_ms": 52.5, "streaming_n_left_pad_tokens": s["left"],
             "audio_encoding_config": {"num_mel_bins": s["mels"], "hop_length": 160, "window_size": 400}}
    path.write_text(f'{tekken[:begin]}  "audio": {json.dumps(audio)},\n{tekken[end:]}', encoding="utf-8")


@torch.no_grad()
def transcribe(model, s, samples):
    """Features, encoder and projector outputs, ids, the margin of each id, and the logits of one forward pass over them."""
    encoder = audio_encoder(s)
    padded = encoder.pad(samples, 16000)
    prompt = [BOS] + encoder.encode_streaming_tokens()
    mel = VoxtralRealtimeFeatureExtractor(feature_size=s["mels"])([padded], sampling_rate=16000)["input_features"]
    mel = torch.as_tensor(np.stack(mel)) if not torch.is_tensor(mel) else mel
    out = model.generate(input_ids=torch.tensor([prompt]), input_features=mel, num_delay_tokens=s["delay"], do_sample=False,
                         output_logits=True, return_dict_in_generate=True)
    ids = out.sequences[0, len(prompt):].tolist()
    best = torch.stack([x[0].float().topk(2).values for x in out.logits])
    lead = (best[:, 0] - best[:, 1]).tolist()
    chosen = [x[0].float().log_softmax(-1)[i].item() for x, i in zip(out.logits, ids)]
    hidden = model.model.audio_tower(input_features=mel).last_hidden_state[0]
    rows = model.get_audio_features(input_features=mel).pooler_output[0]
    # Generation has stopped before the last id, or with `</s>`, was read.
    steps = len(prompt) + len(ids) - 1
    logits = model(input_ids=torch.tensor([(prompt + ids)[:steps]]), input_features=mel[:, :, :8 * steps], num_delay_tokens=s["delay"]).logits[0]
    assert logits.argmax(-1)[len(prompt) - 1:].tolist() == ids or min(lead) < 1e-4, "generate differs from one forward pass"
    return {"mel": mel[0], "encoder": hidden, "projector": rows, "logits": logits}, {"prompt": prompt, "tokens": ids, "lead": lead,
                                                                                   "log_probabilities": chosen}


def write(folder, s, seed, clips):
    """Writes a checkpoint, raw 16-bit clips and the expected outputs."""
    shutil.rmtree(folder, ignore_errors=True)
    model = make(s, seed)
    model.to(torch.bfloat16).save_pretrained(folder)
    # Read again: `to` has rounded the frequencies of positions and delays, which are no weights.
    model = VoxtralRealtimeForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    write_tokenizer(folder / "tekken.json", s)
    expected = []
    for i, (clip_seed, samples) in enumerate(clips):
        pcm = make_fixture.waveform(clip_seed, samples)
        (folder / f"clip{i}.pcm").write_bytes(pcm.astype("<i2").tobytes())
        expected.append(transcribe(model, s, pcm.astype(np.float32) / 32768))
    (folder / "expected.json").write_text(json.dumps([e for _, e in expected]))
    return model, expected


def interleave(w, head):
    """Reorders rows from transformers' order to Mistral's: pair i of a head is rows 2i and 2i + 1."""
    return w.view(w.shape[0] // head, 2, head // 2, -1).transpose(1, 2).reshape(w.shape).contiguous()


def write_mistral(folder, model, s):
    """Writes the same checkpoint in Mistral's format."""
    folder.mkdir(exist_ok=True)
    e, tensors = "mm_streams_embeddings.embedding_module", {}
    parts = {"self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
             "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
             "mlp.up_proj": "feed_forward.w3", "self_attn_layer_norm": "attention_norm", "final_layer_norm": "ffn_norm",
             "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
             "ada_rms_norm.linear1": "ada_rms_norm_t_cond.0", "ada_rms_norm.linear2": "ada_rms_norm_t_cond.2"}
    fixed = {"audio_tower.embedder.conv1": f"{e}.whisper_encoder.conv_layers.0.conv", "language_model.norm": "norm",
             "audio_tower.embedder.conv2": f"{e}.whisper_encoder.conv_layers.1.conv", "audio_tower.norm": f"{e}.whisper_encoder.transformer.norm",
             "multi_modal_projector.linear_1": f"{e}.audio_language_projection.0",
             "multi_modal_projector.linear_2": f"{e}.audio_language_projection.2", "language_model.embed_tokens": f"{e}.tok_embeddings"}
    for name, p in model.model.named_parameters():
        part, kind = name.rsplit(".", 1)
        w = p.detach()
        if ".layers." in part:
            side, rest = part.split(".layers.")
            number, rest = rest.split(".", 1)
            if rest in ("self_attn.q_proj", "self_attn.k_proj"):
                w = interleave(w, s["audio_head"] if side == "audio_tower" else s["head"])
            stem = f"{e}.whisper_encoder.transformer.layers" if side == "audio_tower" else "layers"
            part = f"{stem}.{number}.{parts[rest]}"
        else:
            part = fixed[part]
        tensors[f"{part}.{kind}"] = w.to(torch.bfloat16).contiguous().clone()
    save_file(tensors, folder / "consolidated.safetensors")
    audio = {"dim": s["audio_width"], "n_layers": s["audio_layers"], "head_dim": s["audio_head"], "hidden_dim": s["audio_inner"],
             "n_heads": s["audio_heads"], "n_kv_heads": s["audio_heads"], "use_biases": True, "rope_theta": s["audio_theta"], "causal": True,
             "norm_eps": 1e-5, "pos_embed": "rope", "max_source_positions": None, "ffn_type": "swiglu", "norm_type": "rms_norm",
             "sliding_window": s["audio_window"], "audio_encoding_args": {"sampling_rate": 16000, "num_mel_bins": s["mels"],
             "hop_length": 160, "window_size": 400, "frame_rate": 12.5, "global_log_mel_max": 1.5, "transcription_format": "streaming"}}
    params = {"dim": s["width"], "n_layers": s["layers"], "head_dim": s["head"], "hidden_dim": s["inner"], "n_heads": s["heads"],
              "n_kv_heads": s["key_heads"], "use_biases": False, "causal": True, "rope_theta": s["theta"], "norm_eps": 1e-5,
              "vocab_size": s["vocabulary"], "tied_embeddings": True, "sliding_window": s["window"], "ada_rms_norm_t_cond": True,
              "ada_rms_norm_t_cond_dim": 32,
              "multimodal": {"whisper_model_args": {"encoder_args": audio, "downsample_args": {"downsample_factor": 4}}}}
    (folder / "params.json").write_text(json.dumps(params, indent=1) + "\n")


def fixture():
    folder = HERE / "tiny"
    model, [(tensors, _)] = write(folder, FIXTURE, FIXTURE_SEED, [(3, 20_007)])
    (folder / "clip0.pcm").unlink()         # integer arithmetic: the test makes it anew
    # Enough to see every part: the last rows have come through every window.
    kept = {"mel": tensors["mel"][:, 20:44], "encoder": tensors["encoder"][-12:], "projector": tensors["projector"],
            "logits": tensors["logits"][-6:]}
    save_file({k: v.contiguous() for k, v in kept.items()}, HERE / "expected.safetensors")
    write_mistral(HERE / "mistral", model, FIXTURE)
    print(len(set(json.loads((folder / "expected.json").read_text())[0]["tokens"])), "different ids")
    total = sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file() and f.suffix not in (".py", ".pyc"))
    print((folder / "expected.json").read_text(), f"{total} bytes", sep="\n")


def many(out, seeds):
    for seed in seeds:
        r = random.Random(500 + seed)
        write(out / str(seed), sizes(seed), seed, [(seed + 1, r.randrange(1, 3000)), (seed + 2, r.randrange(9000, 40_000))])


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["fixture"]:
        fixture()
    elif sys.argv[1:2] == ["many"] and len(sys.argv) == 4:
        first, _, last = sys.argv[3].partition("..")
        many(Path(sys.argv[2]), range(int(first), int(last or first) + 1))
    else:
        sys.exit(__doc__)
