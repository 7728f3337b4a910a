#!/usr/bin/env python3
"""Generates more than 10,000 strings and tokenizes them with mistral-common; tests/tokenizer_corpus.rs compares voxpipe's tokenizer with the result.

    python tests/voxtral/make_strings.py               # rewrites strings.jsonl and versions.jsonl, made with mistral-common 1.13.1
    python tests/voxtral/make_strings.py --all         # prints all strings with their ids in the package's full vocabulary

A row has `text` and `ids` (its ids in the nano vocabulary; with `--all`, in the package's tekken_240911.json), or `ids` and `decoded` (ids that
no text encodes to, and their text). versions.jsonl has modifications of tests/voxtral/tiny/tekken.json, each with the ids that mistral-common
assigns to some special tokens, or null if it rejects the file.
"""
import base64
import json
import random
import sys
import tempfile
import unicodedata
from pathlib import Path

from make_tokens import FULL, JOINS, NANO, ODDITIES, SENTENCES, HERE
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

COMMITTED = 550
# Blocks of scripts beyond those of the sentences, symbols, private use, and what is not a character at all.
RANGES = [(0x00, 0x20), (0x20, 0x7F), (0x80, 0x100), (0x100, 0x250), (0x2B0, 0x370), (0x370, 0x400), (0x400, 0x530), (0x530, 0x600), (0x600, 0x700),
          (0x900, 0x980), (0x980, 0xA00), (0xB80, 0xC00), (0xE00, 0xE80), (0xF00, 0x1000), (0x10A0, 0x1100), (0x1100, 0x1200), (0x1200, 0x1380),
          (0x13A0, 0x1400), (0x1780, 0x1800), (0x1E00, 0x2000), (0x2000, 0x2070), (0x2070, 0x20D0), (0x20D0, 0x2100), (0x2100, 0x2400), (0x2500, 0x2800),
          (0x3000, 0x3100), (0x4E00, 0x4F00), (0xA640, 0xA700), (0xA720, 0xA800), (0xAC00, 0xAD00), (0xE000, 0xE010), (0xFB00, 0xFB50), (0xFE00, 0xFE70), (0xFF00, 0x10000),
          (0x10400, 0x10450), (0x1D400, 0x1D500), (0x1F1E6, 0x1F200), (0x1F300, 0x1F650), (0x20000, 0x20100), (0xE0000, 0xE0080), (0x10FFF0, 0x110000)]
CODE = ["def f(x: int) -> str:\n    return f'{x!r}'  # why", "for (let i = 0; i < n; ++i) {\n\ta[i] = b[i] ?? null;\n}", "SELECT * FROM t WHERE a='b' AND c>=1.5e-3;",
        "<p class=\"x\">&amp;&nbsp;</p>\r\n", "impl<'a, T: Fn(&'a str) -> u8> Foo<T> {}", "#include <stdio.h>\nint main(void){return 0x1F;}", "{\"k\": [1, -2.5e10, null, \"\\u00e9\\n\"]}",
        "$ ls -la | grep '^d' && echo $?", "\\frac{1}{2}\\sum_{i=0}^{n} x_i^2", "https://example.org/a/b?c=d&e=%20#f", "me@example.org", "C:\\Users\\x\\file.txt", "```rust\nlet x = 1;\n```"]
EMOJI = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇪🇸🇺🇦", "❤️", "1️⃣", "☎️", "🧑🏿‍🚀", "(╯°□°)╯︵ ┻━┻", "✓", "…", "—", "「」"]


def strings():
    rng = random.Random(29)
    specials = [f"[{name}]" for name in ("INST", "/INST", "AUDIO", "BEGIN_AUDIO", "TRANSCRIBE", "IMG", "TOOL_CALLS")] + ["<s>", "</s>", "<unk>", "<pad>", "<SPECIAL_24>", "<|endoftext|>"]
    entries = json.loads(FULL.read_text(encoding="utf-8"))["vocab"]
    pieces = [base64.b64decode(entry["token_bytes"]) for entry in entries[:130072]]

    def character(ranges):
        while True:
            code = rng.randrange(*rng.choice(ranges))
            if not 0xD800 <= code < 0xE000:
                return chr(code)

    def speech(language):
        words = " ".join(rng.choices(SENTENCES[language], k=2)).split(" ")
        text = rng.choice(SENTENCES[language])
        for _ in range(rng.randint(0, 4)):
            text += rng.choice(JOINS) + rng.choice([rng.choice(SENTENCES[language]), rng.choice(words), str(rng.randrange(10 ** rng.randint(1, 12))),
                                                    f"{rng.random() * 1000:.{rng.randint(0, 4)}f}", f"{rng.randint(0, 23)}:{rng.randint(0, 59):02}"])
        text = rng.choice([str, str, str, str.upper, str.title, str.swapcase, str.casefold])(text)
        text = unicodedata.normalize(rng.choice(["NFC", "NFC", "NFD", "NFKC", "NFKD"]), text)
        start = rng.randrange(len(text)) if rng.random() < 0.5 else 0
        return text[start:start + rng.randint(1, 200)]

    def walk():
        return b"".join(rng.choice(pieces) for _ in range(rng.randint(1, 20))).decode("utf-8", errors="replace")

    def confetti():
        some = rng.choices(RANGES, k=rng.randint(1, 4))
        return "".join(character(some) for _ in range(rng.randint(1, 40)))

    def spaces():
        alphabet = rng.choice([" \n", " \t\r\n", " a", " \u00a0\u2003\u3000x", " \n/.", "\r\n\u0085\u000b\u001c a1", "  \u200b\ufeffé"])
        return "".join(rng.choice(alphabet) for _ in range(rng.randint(1, 30)))

    def mixture():
        parts = [rng.choice([walk, confetti, spaces, lambda: rng.choice(CODE), lambda: rng.choice(EMOJI), lambda: rng.choice(specials), lambda: rng.choice(ODDITIES),
                             lambda: speech(rng.choice(list(SENTENCES)))])() for _ in range(rng.randint(2, 5))]
        return rng.choice(["", "", " ", "\n"]).join(parts)

    for language in SENTENCES:
        yield from (speech(language) for _ in range(200))
    for make, count in ((walk, 2000), (confetti, 1500), (spaces, 700), (mixture, 1500)):
        yield from (make() for _ in range(count))
    yield from (start + rng.choice(specials) + end for start in ("", " ", "a", "\n") for end in ("", "x", " x") for _ in range(5))
    for unit in ("a", " ", "\n", "=", "5", "é", "語", "ab ", " \n", "👍", "e\u0301", "\u0000", "ـ", "A", "aA", "\t ", "क्"):
        yield from (unit * rng.choice([n, n + 1]) + end for n in (30, 98, 400, 5000) for end in ("", "x"))


def noise(size, specials):
    """Ids that no text encodes to: invalid UTF-8 bytes mixed with special tokens."""
    rng = random.Random(30)
    for _ in range(1500):
        kinds = [lambda: rng.randrange(specials), lambda: specials + rng.randrange(256), lambda: specials + rng.choice([0xC3, 0xE2, 0xF0, 0x9F, 0x80, 0xBF, 0xED, 0xA0, 0xFF]),
                 lambda: rng.randrange(specials, size)]
        yield [rng.choice(kinds)() for _ in range(rng.randint(1, 16))]


def rows(tokenizer):
    for text in strings():
        yield {"text": text, "ids": tokenizer.encode(text, bos=False, eos=False)}
    for ids in noise(tokenizer.n_words, tokenizer.num_special_tokens):
        decoded = tokenizer.decode(ids)
        # A leading language is part of the prompt here, and left out.
        if not decoded.startswith("lang:"):
            yield {"ids": ids, "decoded": decoded}


ASKED = ["<unk>", "</s>", "<pad>", "[TOOL_CONTENT]", "[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]", "[MODEL_SETTINGS]", "<SPECIAL_19>", "<SPECIAL_20>", "<SPECIAL_39>", "<SPECIAL_40>",
         "<SPECIAL_99>", "<SPECIAL_100>", "<SPECIAL_040>"]


def versions():
    tiny = json.loads((HERE / "tiny" / "tekken.json").read_text(encoding="utf-8"))
    listed, audio = tiny["special_tokens"], tiny["audio"]
    image = {"image_patch_size": 14, "max_image_size": 1540, "spatial_merge_size": 2}
    first = [special | {"rank": rank} for rank, special in enumerate(listed[:40])]
    for version in ("v1", "v2", "v3", "v7", "v11", "v13", "v15"):
        for name, change in {"unlisted": {"special_tokens": None}, "listed": {}, "few": {"special_tokens": first}, "no audio": {"audio": None}, "image": {"image": image},
                             "other keys": {"type": "Tekken", "version": 3, "extra": {"a": [1, None]}}}.items():
            change = {"config": tiny["config"] | {"version": version}} | change
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "tekken.json"
                path.write_text(json.dumps({key: value for key, value in (tiny | change).items() if value is not None}), encoding="utf-8")
                try:
                    tokenizer = Tekkenizer.from_file(path)
                    specials = {token["token_str"]: token["rank"] for token in tokenizer._all_special_tokens}
                except (ValueError, AssertionError, KeyError):
                    specials = None
            if specials is not None:
                specials = {name: specials.get(name) for name in ASKED}
            # `special_tokens` says how many of the file's are left, `config` only what is different.
            if "special_tokens" in change:
                change["special_tokens"] = len(change["special_tokens"] or [])
            yield {"name": f"{version} {name}", "change": change | {"config": {"version": version}}, "specials": specials}


def write(path, rows):
    with open(path, "w", encoding="utf-8", newline="\n") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


def main():
    if "--all" in sys.argv:
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        for row in rows(Tekkenizer.from_file(FULL)):
            print(json.dumps(row, separators=(",", ":")))
        return
    every = [row for row in rows(Tekkenizer.from_file(NANO / "tekken.json")) if len(row.get("text", "")) <= 80]
    kept = sorted(random.Random(31).sample(range(len(every)), COMMITTED))
    write(HERE / "strings.jsonl", (every[index] for index in kept))
    write(HERE / "versions.jsonl", versions())


if __name__ == "__main__":
    main()
