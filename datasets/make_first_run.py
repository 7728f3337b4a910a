#!/usr/bin/env python3
"""Chooses the clips of first-run/, first-run-es/ and words/ from Debian's Asterisk prompts and writes them here.

Needs the Debian packages asterisk-core-sounds-{en,es}, asterisk-core-sounds-{en,es}-wav and flac. Nothing is random: the
same packages give the same choice. Run it as `python3 datasets/make_first_run.py`; it replaces clips/, transcripts.csv,
phrases.txt and LICENSE of the three folders and prints the numbers their README.md quotes.

How a clip is chosen:
1. Its transcript is clean: no bracketed notes, no acronyms, plausible for the clip's length, and no other clip says the same.
2. Sentences first: those whose rarest word is found in the fewest other sentences leave one by one, until the wanted number
   is left. What stays shares its words, so a sentence held out of training is made of words that training heard.
3. Then single words, a fifth of the set, those that the chosen sentences use most.

words/ is simpler: every clip of one word that passes the first step.
"""

import csv
import gzip
import re
import shutil
import subprocess
import sys
import wave
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOUNDS = Path("/usr/share/asterisk/sounds")
DOC = Path("/usr/share/doc")
SHORTEST, LONGEST = 0.5, 3.9  # seconds
SLOWEST, FASTEST = 3.0, 19.0  # letters a second, silence included; outside, text and sound hardly belong together

DIGITS = {
    "en": "zero one two three four five six seven eight nine".split(),
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve".split(),
}

# The Spanish list was typed partly without accents; these are the words of the chosen sentences as they are spelt.
SPELLING = {
    "en": {"i": "I", "rerecord": "re-record", "fourtieth": "fortieth"},
    "es": {
        "numero": "número", "numeros": "números", "extension": "extensión", "contrasena": "contraseña", "contrasenas": "contraseñas",
        "esta": "está", "opcion": "opción", "invalida": "inválida", "invalido": "inválido", "valido": "válido", "valida": "válida",
        "unira": "unirá", "uniran": "unirán", "comenzara": "comenzará", "iniciara": "iniciará", "lider": "líder", "vacias": "vacías",
        "mas": "más", "busqueda": "búsqueda", "duracion": "duración", "telefono": "teléfono", "buzon": "buzón", "menu": "menú",
        "grabacion": "grabación", "reproduccion": "reproducción", "comprendi": "comprendí", "ultimo": "último", "sesion": "sesión",
    },
}
# Words whose accent depends on the sentence, and slips of the list: by key.
CORRECTED = {
    "es": {
        "conf-hasjoin": "Ya está en la conferencia.",
        "demo-echodone": "La prueba del eco ha sido completada.",
        "vm-changeto": "¿Cambiar a qué carpeta?",
        "vm-savefolder": "¿En qué carpeta desea guardar el mensaje?",
        "vm-incorrect-mailbox": "Entrada incorrecta. ¿Buzón?",
        "hello-world": "¡Hola mundo!",
        "tt-somethingwrong": "Algo está terriblemente mal.",
    },
    "en": {},
}

SETS = [
    {"folder": "first-run", "language": "en", "voice": "en_US_f_Allison", "sentences": 122, "words": 30},
    {"folder": "first-run-es", "language": "es", "voice": "es_MX_f_Allison", "sentences": 50, "words": 12},
    {"folder": "words", "language": "en", "voice": "en_US_f_Allison", "sentences": 0, "words": None},
]


def main():
    for chosen_set in SETS:
        clips = choose(candidates(chosen_set), chosen_set["sentences"], chosen_set["words"])
        write(chosen_set, clips)
        describe(chosen_set, clips)


def candidates(chosen_set):
    """Every clip with a clean transcript, by key; of those that say the same, the first."""
    language, found, said = chosen_set["language"], [], set()
    for key, text in sorted(transcripts(language).items()):
        path = SOUNDS / chosen_set["voice"] / f"{key}.wav"
        if not path.exists() or key.startswith("spy-") or key.startswith("silence/"):
            continue
        with wave.open(str(path)) as sound:
            seconds = sound.getnframes() / sound.getframerate()
        text = clean(text, language, key)
        if text is None or not SHORTEST <= seconds <= LONGEST:
            continue
        speed = sum(c.isalpha() for c in text) / seconds
        if not SLOWEST <= speed <= FASTEST or normalised(text) in said:
            continue
        said.add(normalised(text))
        found.append({"key": key, "text": text, "words": normalised(text).split(), "seconds": seconds, "path": path})
    return found


def choose(clips, sentences, words):
    """Sentences that share their words, then the single words they use most; without a number of those, every single word."""
    if words is None:
        return sorted((clip for clip in clips if len(clip["words"]) == 1), key=lambda clip: clip["key"])
    kept = [clip for clip in clips if len(clip["words"]) > 1]
    while len(kept) > sentences:
        count = Counter(word for clip in kept for word in set(clip["words"]))
        kept.remove(min(kept, key=lambda clip: (shared(clip, count), clip["key"])))
    count = Counter(word for clip in kept for word in set(clip["words"]))
    single = [clip for clip in clips if len(clip["words"]) == 1 and count[clip["words"][0]] > 0]
    single.sort(key=lambda clip: (-count[clip["words"][0]], clip["key"]))
    return sorted(kept + single[:words], key=lambda clip: clip["key"])


def shared(clip, count):
    """How well the other sentences cover this one: its rarest word first, then all its words."""
    others = [min(count[word] - 1, 5) for word in set(clip["words"])]
    return min(others), sum(others) / len(others), len(others)


def transcripts(language):
    """The list that came with the recordings: `key: text` lines, `;` begins a comment."""
    path = DOC / f"asterisk-core-sounds-{language}" / f"core-sounds-{language}.txt.gz"
    rows = {}
    with gzip.open(path, "rt", encoding="utf-8-sig") as lines:
        for line in lines:
            match = re.match(r"([^;:\s]+):\s*(.*\S)", line)
            if match:
                rows[match[1]] = match[2]
    return rows


def clean(text, language, key):
    """The text as a sentence, or nothing if it is a note, an acronym or unreadable."""
    text = CORRECTED[language].get(key, text)
    if re.search(r"[\[\](){}<>:;/\"“”]|\w\.\w|\b[A-Z]{2,}\b|\b[A-Z] [A-Z]\b|[0-9][A-Za-z0-9]", text):
        return None
    text = text.replace("...", " ").replace("…", " ")
    text = re.sub(r"\b[0-9]\b", lambda digit: DIGITS[language][int(digit[0])], text)
    text = re.sub(r"\w+", lambda word: spelt(word[0], language), text)
    text = re.sub(r"\s+([.,?!])", r"\1", " ".join(text.split()))
    if not re.fullmatch(r"[^\W\d_¿¡][\w' ,.?!¿¡-]*|[¿¡].*", text):
        return None
    text = re.sub(r"\w", lambda letter: letter[0].upper(), text, count=1)
    return text if text[-1] in ".?!" else text + "."


def spelt(word, language):
    right = SPELLING[language].get(word.lower(), word)
    return right[0].upper() + right[1:] if word[0].isupper() else right


def normalised(text):
    """What was said, without capitals and punctuation."""
    return " ".join(re.sub(r"[^\w' ]", " ", text.lower()).split())


def write(chosen_set, clips):
    folder = HERE / chosen_set["folder"]
    shutil.rmtree(folder / "clips", ignore_errors=True)
    (folder / "clips").mkdir(parents=True)
    with open(folder / "transcripts.csv", "w", encoding="utf-8", newline="") as table:
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(["file", "text", "language", "speaker"])
        for clip in clips:
            name = clip["key"].replace("/", "-").lower() + ".flac"
            target = folder / "clips" / name
            assert not target.exists(), f"two clips would be called {name}"
            subprocess.run(
                ["flac", "--best", "--totally-silent", "--no-padding", "--no-seektable", "-o", target, clip["path"]], check=True
            )
            rows.writerow([name, clip["text"], chosen_set["language"], "allison-smith"])
    (folder / "phrases.txt").write_text("".join(clip["text"] + "\n" for clip in clips), encoding="utf-8")
    (folder / "LICENSE").write_text(licence(chosen_set["language"]), encoding="utf-8")


def licence(language):
    """The licence's name, address and meaning, then its text as it came with the recordings."""
    lines = (DOC / f"asterisk-core-sounds-{language}" / "copyright").read_text(encoding="utf-8").splitlines()
    begin = max(i for i, line in enumerate(lines) if line == "License: CC-BY-SA-3.0") + 1
    end = next(i for i in range(begin, len(lines)) if lines[i].startswith("License:"))
    text = [re.sub(r"^ \.?", "", line).rstrip() for line in lines[begin:end]]
    return (
        "The recordings and transcripts in this folder (not the program around them) are licensed under\n"
        "Creative Commons Attribution-ShareAlike 3.0 (CC-BY-SA-3.0), https://creativecommons.org/licenses/by-sa/3.0/\n\n"
        "Copyright 2003-2010 Allison Smith (http://www.theivrvoice.com). Financial contributions by Digium, Inc.\n\n"
        "In short: you may copy, change and publish them, also commercially, if you name the author, say what you changed and\n"
        "publish your version under the same licence. The text that counts, as it came with the recordings:\n\n"
        + "\n".join(text).strip() + "\n"
    )


def describe(chosen_set, clips):
    count = Counter(word for clip in clips for word in set(clip["words"]))
    once = sorted(word for word, n in count.items() if n == 1)
    unknown = sum(1 for clip in clips for word in clip["words"] if count[word] == 1)
    total = sum(len(clip["words"]) for clip in clips)
    seconds = [clip["seconds"] for clip in clips]
    closed = sum(clip["key"].split("/")[0] in ("digits", "letters", "phonetic") for clip in clips)
    print(f"{chosen_set['folder']}: {len(clips)} clips, {sum(seconds) / 60:.1f} minutes, {min(seconds):.2f} to {max(seconds):.2f} s")
    print(f"  {closed} digits and letters, {sum(len(clip['words']) == 1 for clip in clips)} single words")
    print(f"  {len(count)} different words; {unknown} of {total} words are in no other clip: {' '.join(once)}", file=sys.stdout)


if __name__ == "__main__":
    main()
