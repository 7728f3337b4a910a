#!/usr/bin/env python3
"""Generates pairs.jsonl: 200 sentence pairs with the error counts of jiwer 4.0.0, a widely used scorer.

    python tests/scoring/make_pairs.py

`words` and `characters` are [substitutions + insertions + deletions, reference length]. Only the sum is compared, because its three parts
depend on which of several minimal alignments a scorer chooses.
"""
import json
import random
from pathlib import Path

import jiwer

WORDS = ("the a train tea cup seven o'clock señor straße été ünder naïve 日本 語 один два три mi tu no si yes please press one two three "
         "for to extension number is not available").split()


def corrupt(rng, words, rate):
    out = []
    for word in words:
        r = rng.random()
        if r < rate / 3:
            continue
        if r < 2 * rate / 3:
            out.append(rng.choice(WORDS))
        elif r < rate:
            out += [word, rng.choice(WORDS)]
        elif rng.random() < rate / 4:
            i = rng.randrange(len(word))
            out.append(word[:i] + rng.choice("abcéя") + word[i + 1:])
        else:
            out.append(word)
    return out


def main():
    rng = random.Random(21)
    with open(Path(__file__).parent / "pairs.jsonl", "w", encoding="utf-8") as out:
        for _ in range(200):
            reference = [rng.choice(WORDS) for _ in range(rng.randint(1, 20))]
            hypothesis = corrupt(rng, reference, rng.choice([0.0, 0.2, 0.5, 0.9]))
            if rng.random() < 0.1:
                hypothesis = [rng.choice(WORDS) for _ in range(rng.randint(0, 25))]
            a, b = " ".join(reference), " ".join(hypothesis)
            w, c = jiwer.process_words(a, b), jiwer.process_characters(a, b)
            count = lambda o: [o.substitutions + o.insertions + o.deletions, o.substitutions + o.deletions + o.hits]
            row = {"reference": a, "hypothesis": b, "words": count(w), "wer": w.wer, "characters": count(c), "cer": c.cer}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
