#!/usr/bin/env python3
"""Generates tokens.jsonl: 300 strings with mistral-common's ids in three vocabularies, and its decoding of random ids.
Generates vectors/: texts with their ids in Voxtral's vocabulary, and the part of that vocabulary that these texts use.

    python tests/voxtral/make_tokens.py            # made with mistral-common 1.13.1, tiktoken 0.14.0

A row has `text`; `tiny` (tests/voxtral/tiny), `nano` (pipelines/models/nano-first-run) and `full` (the 131072 of the package's
tekken_240911.json, which is not in the repository); `noise`, random ids of the nano vocabulary, including special tokens; `decoded`, their text.

vectors/tekken.json contains the single bytes and every entry that occurs in one of the texts. BPE looks up no other entries for these texts,
so the tokens are the same as with the full vocabulary. `full_rank` is the rank in the full vocabulary; Voxtral's id is that plus 1000. Like the
full file, it has version 3 and lists no special tokens.
"""
import base64
import json
import random
from pathlib import Path

import mistral_common
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

HERE = Path(__file__).parent
NANO = HERE.parent.parent / "pipelines" / "models" / "nano-first-run"
FULL = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"

SENTENCES = {
    "ar": ["القطار يصل في الساعة السابعة.", "هل تريد كوبًا من الشاي؟"],
    "bg": ["Влакът пристига в седем часа.", "Искаш ли чаша чай?"],
    "cs": ["Vlak přijíždí v sedm hodin.", "Dáš si šálek čaje?"],
    "da": ["Toget ankommer klokken syv.", "Vil du have en kop te på øen?"],
    "de": ["Der Zug kommt um sieben Uhr an.", "Möchtest du eine Tasse Tee für die Straße?"],
    "el": ["Το τρένο φτάνει στις επτά.", "Θέλεις ένα φλιτζάνι τσάι;"],
    "en": ["The train arrives at seven o'clock.", "Wouldn't you like a cup of tea? I've made 2.5 litres!"],
    "es": ["El tren llega a las siete en punto.", "¿Quieres una taza de té, señor Núñez?"],
    "et": ["Rong saabub kell seitse.", "Kas soovid tassi teed või õlut?"],
    "fi": ["Juna saapuu kello seitsemän.", "Haluaisitko kupin teetä?"],
    "fr": ["Le train arrive à sept heures.", "Veux-tu une tasse de thé ? L'œuf est déjà là…"],
    "hi": ["ट्रेन सात बजे पहुँचती है।", "क्या आप एक कप चाय लेंगे?"],
    "hr": ["Vlak stiže u sedam sati.", "Želiš li šalicu čaja?"],
    "hu": ["A vonat hét órakor érkezik.", "Kérsz egy csésze teát, Győző?"],
    "it": ["Il treno arriva alle sette.", "Vuoi una tazza di tè? Perché no!"],
    "ja": ["電車は七時に着きます。", "お茶を一杯いかがですか？"],
    "ko": ["기차는 일곱 시에 도착합니다.", "차 한 잔 드시겠어요?"],
    "lt": ["Traukinys atvyksta septintą valandą.", "Ar norėtum puodelio arbatos?"],
    "lv": ["Vilciens pienāk septiņos.", "Vai vēlies tasi tējas?"],
    "mt": ["Il-ferrovija tasal fis-sebgħa.", "Trid kikkra tè, ħabib?"],
    "nl": ["De trein komt om zeven uur aan.", "Wil je een kopje thee? 's Avonds wel."],
    "pl": ["Pociąg przyjeżdża o siódmej.", "Czy chcesz filiżankę herbaty, Łukasz?"],
    "pt": ["O trem chega às sete horas.", "Você quer uma xícara de chá, João?"],
    "ro": ["Trenul sosește la ora șapte.", "Vrei o ceașcă de ceai?"],
    "ru": ["Поезд прибывает в семь часов.", "Хочешь чашку чая? Ещё бы!"],
    "sk": ["Vlak prichádza o siedmej hodine.", "Dáš si šálku čaju, ľúbezná?"],
    "sl": ["Vlak prispe ob sedmih.", "Bi rad skodelico čaja?"],
    "sv": ["Tåget anländer klockan sju.", "Vill du ha en kopp te på ön?"],
    "uk": ["Поїзд прибуває о сьомій годині.", "Хочеш чашку чаю? Їжак теж."],
    "zh": ["火车七点到达。", "你想喝一杯茶吗？"],
}
ODDITIES = [
    "", " ", "  ", "\n", "\r\n\r\n", "\t\t x", " leading space", "trailing space ", "tab\tnew\nline\r\n\n  two  spaces  ",
    "don't DON'T e-mail@x.org", "[INST]<s>[AUDIO]</s>", "<|endoftext|>", "Straße über 12345 €", "a" * 300, " " * 300 + "b", "=" * 150,
    "1234567890" * 15, "ab " * 60, "\u00a0non\u2009breaking\u3000spaces", "e\u0301 combining \u0915\u094d\u0937", "👩‍👩‍👧‍👦 family 🇪🇸 flag",
    "\u0000 null", "\ufeffmark", "camelCaseWords and SCREAMING_SNAKE", "x" * 99, "x" * 100, "x" * 101, "ﬁ ligature ﷺ", "lang:en", "lang:nl text",
]
JOINS = [" ", "  ", "\n", "\t", ", ", "...", "", " — ", "'s ", " 42 ", "\r\n", "/", " $3.50 "]


def texts():
    plain = [s for pair in SENTENCES.values() for s in pair]
    rng, mixed = random.Random(11), []
    while len(plain) + len(ODDITIES) + len(mixed) < 300:
        pieces = [rng.choice(plain) for _ in range(rng.randint(1, 3))]
        text = pieces[0]
        for piece in pieces[1:]:
            text += rng.choice(JOINS) + piece
        start = rng.randrange(len(text))
        text = text[start:start + rng.randint(1, 60)]
        mixed.append(rng.choice([str, str.upper, str.title])(text))
    return plain + ODDITIES + mixed


VECTORS = [
    "Hello world, this is a test.", " leading space", "Bonjour à tous, ça va ?", "Straße über 12345 €", "नमस्ते दुनिया", "日本語のテスト",
    "tab\tnew\nline\r\n\n  two  spaces  ", "don't DON'T e-mail@x.org", "[INST]<s>", "Venture Capital ist wichtig.",
]


def write_vectors(full):
    texts = VECTORS + [f"lang:{language}" for language in SENTENCES] + [pair[0] for pair in SENTENCES.values()]
    (HERE / "vectors").mkdir(exist_ok=True)
    with open(HERE / "vectors" / "vectors.jsonl", "w", encoding="utf-8") as out:
        for text in texts:
            out.write(json.dumps({"text": text, "ids": full.encode(text, bos=False, eos=False)}, ensure_ascii=False) + "\n")
    source, everything = json.loads(FULL.read_text(encoding="utf-8")), [text.encode() for text in texts]
    kept = source["vocab"][:256]
    for entry in source["vocab"][256:130072]:
        piece = base64.b64decode(entry["token_bytes"])
        if any(piece in text for text in everything):
            kept.append(entry)
    entries = [{"rank": i, "token_bytes": e["token_bytes"], "full_rank": e["rank"]} for i, e in enumerate(kept)]
    config = {"pattern": source["config"]["pattern"], "num_vocab_tokens": len(kept), "default_vocab_size": len(kept) + 1000,
              "default_num_special_tokens": 1000, "version": "v3"}
    lines = ",\n".join("    " + json.dumps(e) for e in entries)
    (HERE / "vectors" / "tekken.json").write_text(
        f'{{\n  "config": {json.dumps(config, ensure_ascii=False)},\n  "vocab": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


def main():
    tokenizers = {"tiny": Tekkenizer.from_file(HERE / "tiny" / "tekken.json"), "nano": Tekkenizer.from_file(NANO / "tekken.json"),
                  "full": Tekkenizer.from_file(FULL)}
    write_vectors(tokenizers["full"])
    rng = random.Random(12)
    with open(HERE / "tokens.jsonl", "w", encoding="utf-8") as out:
        for text in texts():
            row = {"text": text} | {name: t.encode(text, bos=False, eos=False) for name, t in tokenizers.items()}
            row["noise"] = [rng.randrange(1024) for _ in range(rng.randint(0, 12))]
            row["decoded"] = tokenizers["nano"].decode(row["noise"])
            out.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
