"""Random Voxtral checkpoints for comparisons with transformers: sizes, weights and clips are derived from a seed.

Used by generate_many.py, parity.py and train_parity.py in this folder, and by the benchmarks. Downloads nothing; the vocabulary comes from the
mistral-common package.
"""
import json
import math
import random
import wave

import numpy as np
import torch
import transformers
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from make_fixture import AUDIO, BEGIN_AUDIO, BOS, END_INST, EOS, INST, PAD, TRANSCRIBE, collate, hub_name, write_tekken  # noqa: F401

transformers.utils.logging.disable_progress_bar()

TEXTS = ["Hello world, this is a test.", "Buenos días, señora.", "12 345 ok", "Straße"]


def sizes(seed):
    """The dimensions for a seed: odd head counts, head widths that do not divide the model width, all frame group sizes."""
    r = random.Random(seed)
    positions, group = r.choice([(50, 2), (100, 4), (100, 2), (150, 3), (50, 5)])
    audio_heads, key_heads = r.choice([1, 2, 3, 5]), r.choice([1, 2, 3])
    heads = key_heads * r.choice([1, 2, 3, 5])
    return {
        "mels": r.choice([80, 128]), "positions": positions, "group": group, "audio_heads": audio_heads,
        "audio_width": audio_heads * r.choice([8, 12, 16]), "audio_layers": r.choice([1, 2, 3]),
        # transformers wants a width that its heads divide, though a head need not be as wide as that.
        "width": heads * r.choice([4, 7, 12]), "layers": r.choice([1, 2, 3]), "key_heads": key_heads, "heads": heads,
        "head_width": r.choice([6, 8, 10, 16]), "inner": r.choice([32, 56, 96]), "vocabulary": 512, "specials": 100,
        "theta": r.choice([1e4, 1e6, 1e8]),
        # How it is stored.
        "dtype": "bfloat16" if seed % 4 == 3 else "float32", "shard": "60KB" if seed % 3 == 0 else "5GB", "newer_names": seed % 2 == 1,
    }


# 80 million parameters, with the real length of a chunk.
MIDDLE = {"mels": 128, "positions": 1500, "group": 4, "audio_heads": 8, "audio_width": 512, "audio_layers": 6, "width": 512, "layers": 8,
          "key_heads": 2, "heads": 8, "head_width": 64, "inner": 1536, "vocabulary": 32768, "specials": 1000, "theta": 1e8,
          "dtype": "float32", "shard": "100MB", "newer_names": False}


def summary(s):
    files = ", ".join(["bf16" if s["dtype"] == "bfloat16" else "f32"] + ["shards"] * (s["shard"] != "5GB") + ["newer names"] * s["newer_names"])
    return (f"audio {s['audio_layers']}x{s['audio_width']} ({s['audio_heads']} heads, {s['mels']} mels, {s['positions']}/{s['group']}), "
            f"text {s['layers']}x{s['width']} ({s['heads']}/{s['key_heads']} heads of {s['head_width']}); {files}")


@torch.no_grad()
def initialise(model, seed, s):
    """Initialises weights so that activations stay near one and norms and biases are not trivial, which makes errors visible."""
    g = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        r = torch.randn(p.shape, generator=g)
        if name.endswith("embed_positions.weight"):
            half = s["audio_width"] // 2
            t = torch.arange(s["positions"]).view(-1, 1) * torch.exp(-math.log(10000) / (half - 1) * torch.arange(half)).view(1, -1)
            p.copy_(torch.cat([t.sin(), t.cos()], dim=1))
        elif name.endswith("embed_tokens.weight"):
            p.copy_(r)
        elif "norm" in name.split(".")[-2]:
            p.copy_(0.1 * r + (1 if name.endswith("weight") else 0))
        elif name.endswith("bias"):
            p.copy_(0.1 * r)
        else:
            p.copy_(r / math.sqrt(p[0].numel()))


def write(folder, seed, s):
    """Writes the checkpoint of a seed in the Hub's format."""
    config = transformers.VoxtralConfig(
        audio_config=dict(hidden_size=s["audio_width"], intermediate_size=s["group"] * s["audio_width"], num_hidden_layers=s["audio_layers"],
                          num_attention_heads=s["audio_heads"], num_mel_bins=s["mels"], max_source_positions=s["positions"]),
        text_config=dict(hidden_size=s["width"], intermediate_size=s["inner"], num_hidden_layers=s["layers"], num_attention_heads=s["heads"],
                         num_key_value_heads=s["key_heads"], head_dim=s["head_width"], vocab_size=s["vocabulary"], rope_theta=s["theta"],
                         tie_word_embeddings=False, max_position_embeddings=131072, rms_norm_eps=1e-5),
        audio_token_id=AUDIO, projector_hidden_act="gelu")
    model = transformers.VoxtralForConditionalGeneration(config).eval()
    initialise(model, seed, s)
    if s["dtype"] == "bfloat16":
        positions = model.model.audio_tower.embed_positions.weight.detach().clone()
        model.to(torch.bfloat16)
        model.model.audio_tower.embed_positions.weight.data = positions      # transformers keeps this table in 32 bits
        model.config.dtype = torch.bfloat16
    for name, value in [("bos", BOS), ("eos", EOS), ("pad", PAD)]:
        setattr(model.generation_config, f"{name}_token_id", value)
    model.save_pretrained(folder, max_shard_size=s["shard"], save_original_format=not s["newer_names"])
    chunk = s["positions"] * 320
    extractor = {"chunk_length": chunk // 16000, "dither": 0.0, "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": s["mels"],
                 "hop_length": 160, "n_fft": 400, "n_samples": chunk, "nb_max_frames": 2 * s["positions"], "padding_side": "right",
                 "padding_value": 0.0, "processor_class": "VoxtralProcessor", "return_attention_mask": False, "sampling_rate": 16000}
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor, indent=2) + "\n")
    write_tekken(folder / "tekken.json", s["vocabulary"] - s["specials"], s["specials"])


def load(folder, dtype=torch.float32):
    return transformers.VoxtralForConditionalGeneration.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def sound(path, place, samples, noise):
    """Writes the clip at a list position as a WAV file and returns its samples, which differ between positions."""
    t = np.arange(samples) / 16000
    x = 0.3 * np.sin(2 * np.pi * (150 + 90 * place + 300 * t) * t) + 0.1 * np.sin(2 * np.pi * 1900 * t) * (np.sin(9 * t) > 0)
    pcm = np.rint((x + 0.03 * noise.standard_normal(len(t))) * 32767).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(pcm.tobytes())
    return pcm


def example(tekken, extractor, s, pcm, language, text):
    """Inputs and target of the model (log-mel, prompt and target ids), in the format of `collate`."""
    mel = extractor(pcm.astype(np.float32) / 32768, sampling_rate=16000, padding=True, truncation=False, pad_to_multiple_of=s["positions"] * 320,
                    return_tensors="pt")["input_features"]
    mel = mel.reshape(s["mels"], -1, 2 * s["positions"]).transpose(0, 1).contiguous()
    encode = lambda text: tekken.encode(text, bos=False, eos=False)
    prompt = [BOS, INST, BEGIN_AUDIO] + [AUDIO] * (mel.shape[0] * s["positions"] // s["group"]) + [END_INST]
    prompt += encode(f"lang:{language}") if language else []
    return {"mel": mel, "prompt": prompt + [TRANSCRIBE], "target": encode(text) + [EOS]}


def clips(folder, seed, s, lengths=None):
    """Writes clips of several lengths as WAV files and returns their examples; `lengths` are in chunks."""
    r, noise = random.Random(1000 + seed), np.random.Generator(np.random.PCG64(seed))
    chunk = s["positions"] * 320
    lengths = lengths or [r.choice([0.2, 0.9]), r.uniform(1.1, 2.9), 1.0, r.uniform(0.3, 3.5)][:r.choice([3, 4])]
    tekken = Tekkenizer.from_file(folder / "tekken.json")
    extractor = transformers.WhisperFeatureExtractor(feature_size=s["mels"])
    rows = []
    for i, length in enumerate(lengths):
        pcm = sound(folder.parent / f"clip{i}.wav", i, max(1000, int(length * chunk)), noise)
        language = r.choice(["en", "fr", None])
        rows.append({"wav": f"clip{i}.wav", "language": language, **example(tekken, extractor, s, pcm, language, TEXTS[i % len(TEXTS)])})
    return rows


def read_dataset(folder, split, model, s):
    """The rows of a split of a voxpipe dataset as examples, in the same order."""
    tekken = Tekkenizer.from_file(model / "tekken.json")
    extractor = transformers.WhisperFeatureExtractor(feature_size=s["mels"])
    rows = []
    for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        with wave.open(str(folder / record["audio_path"])) as file:
            pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        rows.append(example(tekken, extractor, s, pcm, record.get("language"), record["text"]))
    return rows


@torch.no_grad()
def generate(model, rows, new_tokens):
    """Greedy ids of the rows as one batch, up to `</s>`, and for each step the margin between the best and the second score."""
    batch = collate([{**r, "target": []} for r in rows])
    batch.pop("labels")
    batch["input_features"] = batch["input_features"].to(model.dtype)
    out = model.generate(**batch, do_sample=False, max_new_tokens=new_tokens, output_logits=True, return_dict_in_generate=True)
    ids = out.sequences[:, batch["input_ids"].shape[1]:].tolist()
    best = torch.stack([scores.float().topk(2).values for scores in out.logits], dim=1)
    leads = (best[..., 0] - best[..., 1]).tolist()
    cut = [row.index(EOS) + 1 if EOS in row else len(row) for row in ids]
    return [row[:n] for row, n in zip(ids, cut)], [row[:n] for row, n in zip(leads, cut)]


def seeds(text):
    """Parses `0..9` (inclusive), `4` or `0,3,7`."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition("..")
        found += range(int(first), int(last or first) + 1)
    return found
