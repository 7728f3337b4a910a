#!/usr/bin/env python3
"""Makes `nano-first-run/`: the folder of a small Voxtral to be trained from scratch (no weights).

    python pipelines/models/make_nano.py            # needs the mistral-common package (made with 1.13.1); downloads nothing

The vocabulary is a cut of Mistral's: the 256 bytes, then in their order the merges that English and Spanish words are made of. A merge is
kept only if the kept ones before it lead to it, so no entry of the file is dead. The accented letters of Spanish always have a place.
"""
import base64
import json
import re
from pathlib import Path

import mistral_common

OUT = Path(__file__).parent / "nano-first-run"
SPECIALS, MERGES = 100, 668
VOCABULARY = SPECIALS + 256 + MERGES
POSITIONS = 200                      # encoder frames of a chunk: 4 seconds
WORDS = re.compile(r"^(?: ?[A-Z]?[a-záéíóúüñ]+| ?[A-ZÁÉÍÓÚÑ]| ?[¿¡])$")

LETTERS = set("áéíóúüñ¿¡")

NAMES = {
    0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 5: "[AVAILABLE_TOOLS]", 6: "[/AVAILABLE_TOOLS]",
    7: "[TOOL_RESULTS]", 8: "[/TOOL_RESULTS]", 9: "[TOOL_CALLS]", 10: "[IMG]", 11: "<pad>", 12: "[IMG_BREAK]",
    13: "[IMG_END]", 14: "[PREFIX]", 15: "[MIDDLE]", 16: "[SUFFIX]", 17: "[SYSTEM_PROMPT]", 18: "[/SYSTEM_PROMPT]",
    19: "[TOOL_CONTENT]", 24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]",
}

AUDIO = {"model_type": "voxtral_encoder", "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_mel_bins": 128, "max_source_positions": POSITIONS, "activation_function": "gelu", "activation_dropout": 0.0,
         "attention_dropout": 0.0, "dropout": 0.0, "layerdrop": 0.0, "initializer_range": 0.02, "scale_embedding": False,
         "vocab_size": 51866}
TEXT = {"model_type": "llama", "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": VOCABULARY, "max_position_embeddings": 2048, "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0, "rope_scaling": None, "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0,
        "mlp_bias": False, "tie_word_embeddings": False, "initializer_range": 0.02, "bos_token_id": 1, "eos_token_id": 2,
        "use_cache": True}
CONFIG = {"architectures": ["VoxtralForConditionalGeneration"], "model_type": "voxtral", "audio_config": AUDIO, "audio_token_id": 24,
          "hidden_size": 128, "projector_hidden_act": "gelu", "text_config": TEXT, "torch_dtype": "float32", "vocab_size": VOCABULARY}
GENERATION = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 11}
EXTRACTOR = {"chunk_length": POSITIONS * 320 // 16000, "dither": 0.0, "feature_extractor_type": "WhisperFeatureExtractor",
             "feature_size": 128, "hop_length": 160, "n_fft": 400, "n_samples": POSITIONS * 320, "nb_max_frames": 2 * POSITIONS,
             "padding_side": "right", "padding_value": 0.0, "processor_class": "VoxtralProcessor",
             "return_attention_mask": False, "sampling_rate": 16000}


def parts(piece, ranks):
    """Byte pair encoding: merge the neighbours of lowest rank until none is left."""
    out = [piece[i:i + 1] for i in range(len(piece))]
    while True:
        rank, i = min(((ranks[a + b], i) for i, (a, b) in enumerate(zip(out, out[1:])) if a + b in ranks), default=(None, 0))
        if rank is None:
            return out
        out[i:i + 2] = [out[i] + out[i + 1]]


def cut(vocabulary):
    """The bytes, and the first `MERGES` entries that are words or parts of words and can be reached by merging kept ones."""
    kept = vocabulary[:256]
    ranks = {base64.b64decode(e["token_bytes"]): e["rank"] for e in kept}
    assert len(ranks) == 256 and all(len(b) == 1 for b in ranks)
    reserved = set(LETTERS)
    for entry in vocabulary[256:]:
        text, piece = entry["token_str"], base64.b64decode(entry["token_bytes"])
        room = 256 + MERGES - len(kept) - len(reserved)
        if text and (text in reserved or room > 0 and WORDS.match(text)) and len(parts(piece, ranks)) == 2:
            reserved.discard(text)
            ranks[piece] = entry["rank"]
            kept.append(entry)
    assert len(kept) == 256 + MERGES
    return [{**entry, "rank": i} for i, entry in enumerate(kept)]


def write_tekken(path):
    full = json.loads((Path(mistral_common.__file__).parent / "data" / "tekken_240911.json").read_text(encoding="utf-8"))
    line = lambda rows: ",\n".join("    " + json.dumps(r, ensure_ascii=False) for r in rows)
    config = {"pattern": full["config"]["pattern"], "num_vocab_tokens": 256 + MERGES, "default_vocab_size": VOCABULARY,
              "default_num_special_tokens": SPECIALS, "version": "v7"}
    audio = {"sampling_rate": 16000, "frame_rate": 12.5, "chunk_length_s": POSITIONS * 320 / 16000,
             "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400}}
    special = [{"rank": i, "token_str": NAMES.get(i, f"<SPECIAL_{i}>"), "is_control": True} for i in range(SPECIALS)]
    path.write_text(f'{{\n  "config": {json.dumps(config, ensure_ascii=False)},\n  "audio": {json.dumps(audio)},\n'
                    f'  "special_tokens": [\n{line(special)}\n  ],\n  "vocab": [\n{line(cut(full["vocab"]))}\n  ]\n}}\n', encoding="utf-8")


def main():
    OUT.mkdir(exist_ok=True)
    for name, value in [("config", CONFIG), ("generation_config", GENERATION), ("preprocessor_config", EXTRACTOR)]:
        (OUT / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n")
    write_tekken(OUT / "tekken.json")


if __name__ == "__main__":
    main()
