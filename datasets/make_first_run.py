#!/usr/bin/env python3
"""Selects the clips of first-run/, first-run-es/ and words/ from Debian's Asterisk prompts and writes these folders.

Needs the Debian packages asterisk-core-sounds-{en,es}, asterisk-core-sounds-{en,es}-wav and flac. The
selection is deterministic: the same packages give the same clips. Run it as `python3 datasets/make_first_run.py`; it replaces
clips/, transcripts.csv, phrases.txt and LICENSE in the three folders and prints the numbers quoted in their README.md.

Selection:
1. Keep clips with a clean transcript: no bracketed notes, no acronyms, a plausible length for the clip, no duplicate text.
2. Sentences: repeatedly remove the sentence whose rarest word occurs in the fewest other sentences, until the target number
   is left. The remaining sentences share their words, so the words of a held-out sentence also occur in the training set.
3. Single words: a fifth of the set, the words that the selected sentences use most.

words/ is simpler: every one-word clip that passes step 1.
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
SLOWEST, FASTEST = 3.0, 19.0  # letters per second, including silence; outside this range, text and audio probably do not match

DIGITS = {
    "en": "zero one two three four five six seven eight nine".split(),
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve".split(),
}

# The Spanish list partly lacks accents; these are the correct spellings of words in the selected sentences.
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
# Corrected transcripts by key: words whose accent depends on the sentence, and errors in the list.
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
    """All clips with a clean transcript, sorted by key; of clips with the same text, the first."""
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
    """Selects sentences that share their words, and the single words they use most; if `words` is None, all one-word clips."""
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
    """How well the other sentences cover the words of this one: by its rarest word, then by all its words."""
    others = [min(count[word] - 1, 5) for word in set(clip["words"])]
    return min(others), sum(others) / len(others), len(others)


def transcripts(language):
    """Reads the list that comes with the recordings: `key: text` lines; `;` starts a comment."""
    path = DOC / f"asterisk-core-sounds-{language}" / f"core-sounds-{language}.txt.gz"
    rows = {}
    with gzip.open(path, "rt", encoding="utf-8-sig") as lines:
        for line in lines:
            match = re.match(r"([^;:\s]+):\s*(.*\S)", line)
            if match:
                rows[match[1]] = match[2]
    return rows


def clean(text, language, key):
    """Returns the text as a sentence, or None if it is a note, an acronym or unreadable."""
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
    """The text in lower case, without punctuation."""
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
    """Name, URL and summary of the licence, followed by its full text from the package."""
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
