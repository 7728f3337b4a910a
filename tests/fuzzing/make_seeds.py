#!/usr/bin/env python3
"""Generates seeds/, the seed inputs of the fuzz targets. Each file is one input in the format described in tests/fuzzing/targets.rs.

    python3 tests/fuzzing/make_seeds.py            # needs ffmpeg for the audio; version 5.1 produces the same bytes every time

Files named `found-*` are not generated here: they are inputs found by the fuzzer, kept as regression tests.
"""
import base64
import io
import json
import struct
import subprocess
import zipfile
from pathlib import Path

SEEDS = Path(__file__).parent / "seeds"


def put(target, name, content):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode())


def configs():
    audio = {"num_mel_bins": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128, "max_source_positions": 100}
    text = {"vocab_size": 512, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16,
            "intermediate_size": 128, "rms_norm_eps": 1e-05, "tie_word_embeddings": False}
    whole = {"architectures": ["VoxtralForConditionalGeneration"], "audio_config": audio, "audio_token_id": 24,
             "text_config": text | {"rope_parameters": {"rope_theta": 1e8, "rope_type": "default"}}}
    put("config", "transformers-5.json", whole)
    old = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128, "max_source_positions": 100, "num_mel_bins": 128}
    put("config", "transformers-4.json", {"audio_config": old, "text_config": text | {"rope_theta": 1e8, "rope_scaling": None}})
    put("config", "defaults.json", {"audio_config": {}, "text_config": {}})
    put("config", "huge.json", {"audio_config": audio | {"max_source_positions": 1 << 62}, "text_config": text | {"vocab_size": (1 << 64) - 1}})
    for name, path in {"params.json": "forms/mistral/params.json", "realtime.json": "realtime/tiny/config.json", "realtime-params.json": "realtime/mistral/params.json"}.items():
        put("config", name, (SEEDS.parent.parent / "voxtral" / path).read_bytes())
    put("config", "deep.json", b"[" * 500)
    put("config", "twice.json", b'{"audio_config":{"hidden_size":4,"d_model":8},"text_config":{},"text_config":{}}')


PATTERN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
           r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def tokenizers():
    words = [b"th", b"the", b" the", b"  ", b"\xc3\xa9", b"ab"]

    def file(version, specials=None, pattern=PATTERN, extra=None, config=None, words=words, rest="Thé  the ab\n\t<s>x".encode()):
        entries = [{"rank": 256 + i, "token_bytes": base64.b64encode(word).decode(), "token_str": None} for i, word in enumerate(words)]
        value = {"config": {"pattern": pattern, "num_vocab_tokens": 256 + len(words), "default_vocab_size": 256 + len(words) + 40,
                            "default_num_special_tokens": 40, "version": version} | (config or {}),
                 "vocab": ["@"] + entries} | (extra or {})
        if specials is not None:
            value["special_tokens"] = [{"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(specials)]
        text = json.dumps(value, ensure_ascii=False).encode().replace(b'"@"', b"\x01")
        return text + b"\0" + rest

    voxtral = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"] + [f"[{i}]" for i in range(5, 24)] + ["[AUDIO]", "[BEGIN_AUDIO]"]
    audio = {"sampling_rate": 16000, "frame_rate": 12.5, "chunk_length_s": 30.0,
             "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400}}
    image = {"image_patch_size": 14, "max_image_size": 1540, "spatial_merge_size": 2}
    put("tokenizer", "v3.json", file("v3"))
    put("tokenizer", "v7.json", file("v7", voxtral, extra={"audio": audio}))
    put("tokenizer", "v11.json", file("v11", voxtral, extra={"multimodal": image}))
    put("tokenizer", "v13.json", file("v13", voxtral, extra={"image": image, "audio": audio, "type": "Tekken", "more": [1, {"x": None}]}))
    put("tokenizer", "no-specials.json", file("v13"))
    put("tokenizer", "huge.json", file("v7", voxtral, config={"default_num_special_tokens": 4294967295, "default_vocab_size": 4294967295}))
    put("tokenizer", "many-specials.json", file("v7", voxtral, config={"default_num_special_tokens": 4294966000, "default_vocab_size": 4294966262}))
    put("tokenizer", "empty-matches.json", file("v3", pattern="x*", rest=b"axxb"))
    put("tokenizer", "look-around.json", file("v3", pattern=r"(?<=a)b|(a)\1|.(?!x)|\s+", rest=b"aabxab  x"))
    put("tokenizer", "backtracking.json", file("v3", pattern=r"(?:(a+)+)+(?!a)$", rest=b"a" * 40 + b"b"))
    put("tokenizer", "large-pattern.json", file("v3", pattern=r"(?:\p{L}{1000}){1000}", rest=b"abc"))
    put("tokenizer", "not-base64.json", file("v7", voxtral).replace(b'"dGg="', b'"dGg"'))
    put("tokenizer", "cut.json", file("v7", voxtral)[:600])
    put("tokenizer", "text.json", file("v3", rest="[INST]<s> नमस्ते 日本語 👩‍👩‍👧 e\u0301 \u0000\ufeff \u00a0x\r\n\r\n  a 12345".encode() + bytes(range(256))))


# name → shape, of the model in tests/fuzzing/weights.rs
def shapes():
    tower, layer = "audio_tower.", "audio_tower.layers.0."
    found = {tower + "conv1.weight": [4, 1, 3], tower + "conv1.bias": [4], tower + "conv2.weight": [4, 4, 3], tower + "conv2.bias": [4],
             tower + "embed_positions.weight": [1, 4], tower + "layer_norm.weight": [4], tower + "layer_norm.bias": [4]}
    for norm in ("final_layer_norm", "self_attn_layer_norm"):
        found |= {f"{layer}{norm}.weight": [4], f"{layer}{norm}.bias": [4]}
    for linear in ("fc1", "fc2", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"):
        found[f"{layer}{linear}.weight"] = [4, 4]
        if "k_proj" not in linear:
            found[f"{layer}{linear}.bias"] = [4]
    found |= {"multi_modal_projector.linear_1.weight": [2, 4], "multi_modal_projector.linear_2.weight": [2, 2]}
    text, layer = "language_model.", "language_model.model.layers.0."
    found |= {text + "lm_head.weight": [2, 2], text + "model.embed_tokens.weight": [2, 2], text + "model.norm.weight": [2]}
    found |= {f"{layer}{norm}.weight": [2] for norm in ("input_layernorm", "post_attention_layernorm")}
    found |= {f"{layer}mlp.{linear}_proj.weight": [2, 2] for linear in ("down", "gate", "up")}
    return found | {f"{layer}self_attn.{linear}_proj.weight": [2, 2] for linear in "qkvo"}


def safetensors(tensors, dtype="F32", value=b"\0\0\x80\x3f", metadata=True):
    header, at = ({"__metadata__": {"format": "pt"}} if metadata else {}), 0
    for name, shape in tensors.items():
        size = len(value)
        for length in shape:
            size *= length
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + value * (at // len(value))


def mistral(tensors):
    """The same tensors under the names of consolidated.safetensors, which has no position table."""
    whisper = "mm_whisper_embeddings.whisper_encoder."
    renamed = [("audio_tower.conv1", whisper + "conv_layers.0"), ("audio_tower.conv2", whisper + "conv_layers.1"), ("audio_tower.layer_norm", whisper + "transformer.norm"),
               ("audio_tower.", whisper + "transformer."), ("self_attn_layer_norm", "attention_norm"), ("final_layer_norm", "ffn_norm"), (".fc1.", ".feed_forward.w1."),
               (".fc2.", ".feed_forward.w2."), ("self_attn.out_proj", "attention.wo"), ("self_attn.q_proj", "attention.wq"), ("self_attn.k_proj", "attention.wk"),
               ("self_attn.v_proj", "attention.wv"), ("self_attn.o_proj", "attention.wo"), ("multi_modal_projector.linear_1", "mm_whisper_embeddings.audio_language_projection.0"),
               ("multi_modal_projector.linear_2", "mm_whisper_embeddings.audio_language_projection.2"), ("language_model.lm_head", "output"),
               ("language_model.model.embed_tokens", "mm_whisper_embeddings.tok_embeddings"), ("language_model.model.", ""), ("input_layernorm", "attention_norm"),
               ("post_attention_layernorm", "ffn_norm"), ("mlp.gate_proj", "feed_forward.w1"), ("mlp.down_proj", "feed_forward.w2"), ("mlp.up_proj", "feed_forward.w3")]
    found = {}
    for name, shape in tensors.items():
        for hub, theirs in renamed:
            name = name.replace(hub, theirs)
        if "embed_positions" not in name:
            found[name] = shape
    return found


def weights():
    all_of_them = shapes()
    whole = safetensors(all_of_them)
    put("weights", "f32", whole)
    put("weights", "bf16", safetensors(all_of_them, "BF16", b"\x80\x3f"))
    put("weights", "f16", safetensors(all_of_them, "F16", b"\0\x3c"))
    put("weights", "i32", safetensors(dict(list(all_of_them.items())[:3]), "I32"))
    put("weights", "nan", safetensors(dict(list(all_of_them.items())[:3]), "F32", b"\0\0\xc0\x7f"))
    newer = {"language_model.model.": "model.language_model.", "language_model.lm_head": "lm_head", "audio_tower.": "model.audio_tower.",
             "multi_modal_projector.": "model.multi_modal_projector."}
    renamed = {next(new + name[len(old):] for old, new in newer.items() if name.startswith(old)): shape for name, shape in all_of_them.items()}
    put("weights", "new-names", safetensors(renamed))
    put("weights", "mistral", safetensors(mistral(all_of_them), "BF16", b"\x80\x3f"))
    put("weights", "cut", whole[:-7])
    put("weights", "header-of-exabytes", struct.pack("<Q", (1 << 63) - 1) + whole[8:100])
    put("weights", "header-of-megabytes", struct.pack("<Q", 99_000_000) + whole[8:100])

    def header(value, rest=b""):
        text = json.dumps(value).encode()
        return struct.pack("<Q", len(text)) + text + rest

    put("weights", "overlap", header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)))
    put("weights", "shape-of-exabytes", header({"a": {"dtype": "F32", "shape": [1 << 62, 16], "data_offsets": [0, 0]}}))
    put("weights", "empty-tensor", header({"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "b": {"dtype": "BF16", "shape": [], "data_offsets": [0, 2]}}, bytes(2)))
    put("weights", "offsets-backwards", header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)))
    half = len(all_of_them) // 2
    first, second = dict(list(all_of_them.items())[:half]), dict(list(all_of_them.items())[half:])
    index = {"metadata": {"total_size": 1}, "weight_map": {name: f"{1 if name in first else 2}.safetensors" for name in all_of_them}}
    brk = b"\n--file--\n"
    put("weights", "shards", brk.join([json.dumps(index).encode(), safetensors(first), safetensors(second)]))
    small = dict(list(first.items())[:2])
    for name, place in {"missing-shard": "9.safetensors", "outside": "../1.safetensors", "rooted": "/dev/zero", "hidden": ".", "itself": "model.safetensors.index.json"}.items():
        put("weights", name, brk.join([json.dumps({"weight_map": {"a": place}}).encode(), safetensors(small)]))


SOUNDS = {
    "u8.wav": "-c:a pcm_u8", "s16.wav": "-c:a pcm_s16le", "s24.wav": "-c:a pcm_s24le -ac 2", "s32.wav": "-c:a pcm_s32le", "f32.wav": "-c:a pcm_f32le",
    "f64.wav": "-c:a pcm_f64le", "alaw.wav": "-c:a pcm_alaw", "mulaw.wav": "-c:a pcm_mulaw", "ms.wav": "-c:a adpcm_ms", "ima.wav": "-c:a adpcm_ima_wav",
    "six.wav": "-c:a pcm_s16le -ac 6 -t 0.005", "tags.wav": "-c:a pcm_u8 -metadata title=Title -metadata artist=Artist -t 0.01", "big.aiff": "-c:a pcm_s16be",
    "mono.flac": "-c:a flac -sample_fmt s16 -compression_level 8", "stereo.flac": "-c:a flac -sample_fmt s32 -ac 2 -t 0.01", "fast.flac": "-c:a flac -sample_fmt s16 -compression_level 0 -ar 44100 -t 0.01",
    "xing.mp3": "-c:a libmp3lame -b:a 8k -t 0.2", "bare.mp3": "-c:a libmp3lame -b:a 32k -ac 2 -joint_stereo 1 -ar 44100 -write_xing 0 -id3v2_version 0 -t 0.1", "layer.mp2": "-c:a mp2 -b:a 32k -t 0.1",
    "bare.aac": "-c:a aac -b:a 16k -t 0.2", "aac.m4a": "-c:a aac -b:a 16k -t 0.2 -movflags +faststart", "alac.m4a": "-c:a alac -t 0.02", "parts.mp4": "-c:a aac -b:a 16k -t 0.2 -movflags frag_keyframe+empty_moov",
    "speech.ogg": "-c:a libvorbis -q:a 0 -t 0.1", "flac.ogg": "-c:a flac -sample_fmt s16 -t 0.01", "opus.ogg": "-c:a libopus -b:a 8k -ar 16000 -t 0.05",
    "mulaw.au": "-c:a pcm_mulaw -t 0.02", "s24.au": "-c:a pcm_s24be -t 0.01", "alac.caf": "-c:a alac -t 0.02", "mulaw.caf": "-c:a pcm_mulaw -t 0.02",
    "long.wav": "-c:a pcm_u8 -rf64 always -t 0.02", "list.wav": "-c:a pcm_u8 -metadata title=Odd -f wav -write_bext 1 -t 0.02",
    "opus.webm": "-c:a libopus -b:a 8k -ar 16000 -t 0.1", "opus.mp4": "-c:a libopus -b:a 8k -ar 16000 -t 0.1", "vorbis.mka": "-c:a libvorbis -q:a 0 -t 0.1",
    "s16.mov": "-c:a pcm_s16be -t 0.02", "six.opus": "-c:a libopus -b:a 48k -ar 48000 -ac 6 -mapping_family 1 -t 0.04",
}


def without_padding(flac):
    """The file without the zero padding that the encoder reserves for tags."""
    blocks, at, last = [], 4, False
    while not last:
        last, kind, end = flac[at] & 0x80, flac[at] & 0x7F, at + 4 + int.from_bytes(flac[at + 1:at + 4], "big")
        if kind != 1:
            blocks.append(bytearray(flac[at:end]))
            blocks[-1][0] &= 0x7F
        at = end
    blocks[-1][0] |= 0x80
    return flac[:4] + b"".join(blocks) + flac[at:]


def sounds():
    (SEEDS / "audio").mkdir(parents=True, exist_ok=True)
    source = "sine=frequency=330:beep_factor=4:sample_rate=8000:duration=1[a];anoisesrc=r=8000:d=1:a=0.05:seed=1[b];[a][b]amix"
    for name, options in SOUNDS.items():
        length = [] if " -t " in options else ["-t", "0.03"]
        command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, *options.split(), *length, "-map_metadata", "-1", "-fflags", "+bitexact",
                   "-flags:a", "+bitexact", str(SEEDS / "audio" / name)]
        subprocess.run(command, check=True)
        if name.endswith(".flac"):
            path = SEEDS / "audio" / name
            path.write_bytes(without_padding(path.read_bytes()))
    # Numbers that are no sound: their squares overflow.
    floats = (SEEDS / "audio" / "f32.wav").read_bytes()
    put("audio", "loud.wav", floats[:-400] + b"\xff\xff\x7f\x7f" * 100)
    short = (SEEDS / "audio" / "s16.wav").read_bytes()[:60]
    for name, at, number in [("claims-gigabytes.wav", 40, b"\xff\xff\xff\x7f"), ("claims-rate.wav", 24, b"\xff\xff\xff\xff"), ("claims-channels.wav", 22, b"\xff\xff")]:
        put("audio", name, short[:at] + number + short[at + len(number):])


def tables():
    def table(name, ending, data):
        put("table", name, bytes([ending]) + data)

    def layout(name, *parts):
        put("layout", name, b"\0".join(parts))

    # The first byte chooses the ending: csv, tsv, jsonl, json, xlsx, txt.
    table("comma.csv", 0, b'file,text,start,end,language,split\na.wav,"Hi, ""you""",0:01,2.5,en-GB,dev\nb.wav,"Two\nlines",,,German,test\n')
    table("semicolon.csv", 0, b"sep=;\nfile;text;;\na.wav;Hi, you;;\n")
    table("headerless.csv", 0, b"a|Hi you.|Hi you.\nb|No 5.|No five.\n")
    table("utf16.csv", 0, "file;text\na.wav;H\u00e9\n".encode("utf-16"))
    table("quoted.tsv", 1, b'path\tsentence\na.wav\t"""Good-bye,"" said he."\nb.wav\tHi\n')
    table("lines.jsonl", 2, b'{"audio":"a.wav","text":"Hi","duration":1.5}\n{"audio":\n{"audio":{"path":"b.wav"},"text":["x"]}\n')
    table("conversation.jsonl", 2, b'{"messages":[{"role":"user","content":[{"type":"audio","path":"a.wav"}]},{"role":"assistant","content":"language English<asr_text>Hi"}]}\n')
    table("array.json", 3, b'[{"audio": "a.wav", "text": "x,]"},\n {"audio": },\n {"audio": "b.wav", "text": "y"}]')
    region = {"start": 0.5, "end": 2}
    results = [{"id": "x", "type": "labels", "value": region | {"labels": ["Speaker 1"]}}, {"id": "x", "type": "textarea", "value": region | {"text": ["Hi"]}}]
    table("labels.json", 3, json.dumps([{"data": {"audio": "/data/upload/1/0a1b2c3d-a.wav"}, "annotations": [{"result": results}]}]).encode())
    main, links = "http://schemas.openxmlformats.org/spreadsheetml/2006/main", "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    cell = lambda text: f'<c t="inlineStr"><is><t>{text}</t></is></c>'
    book = io.BytesIO()
    with zipfile.ZipFile(book, "w", zipfile.ZIP_STORED) as archive:
        for name, text in {
            "[Content_Types].xml": f'<Types xmlns="{package}/content-types"/>',
            "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r" Type="{links}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
            "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{links}"><sheets><sheet name="S" sheetId="1" r:id="s"/></sheets></workbook>',
            "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="s" Type="{links}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
            "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData><row>{cell("file")}{cell("text")}</row><row>{cell("a.wav")}{cell("Hi")}</row></sheetData></worksheet>',
        }.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), text)
    table("sheet.xlsx", 4, book.getvalue())

    layout("kaldi", b"u1 HI YOU\nu2 YO\n", b"rec a.wav\n", b"u1 rec 0 1.5\nu2 rec 1.5 -1\n")
    layout("beside", b"", b"", b"", b"Hi you.\n")
    layout("webdataset", b"", b"", b"", b"Hi.", b'{"speaker": "ann", "duration": 2}')


if __name__ == "__main__":
    configs()
    tokenizers()
    weights()
    sounds()
    tables()
