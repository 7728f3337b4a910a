#!/usr/bin/env python3
"""Generates the training speech of voxtral-nano: the words of telephone prompts, spoken by speech synthesizers.

    python3 datasets/make_nano_base.py OUT [--clips N] [--seed S] [--jobs J]

Requires espeak-ng and sox; also uses flite and festival (voices kal_diphone and cmu_us_slt_arctic_hts) if installed. Prints
the synthesizers it found, as the clips depend on them. Writes `clips.jsonl` and `audio/*.wav` (16 kHz, mono) to OUT, in the
clip format of pipelines. A thousand clips take about a minute on two cores.

Text: 175 words, those of the one-word prompts in words/, alone (two thirds of the clips) or in groups of two or three.
Contains no human speech.

Audio: about sixty voices with varying speed, pitch, level and surrounding silence; three quarters are band-limited to
telephone bandwidth, and some have noise or reverberation.
"""

import argparse
import array
import json
import random
import re
import shutil
import subprocess
import sys
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RATE = 16000
LONGEST = 2.0                    # seconds: the model's audio window

DIGITS = "one two three four five six seven eight nine".split()
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth "
    "seventeenth eighteenth nineteenth twentieth thirtieth fortieth fiftieth sixtieth seventieth eightieth ninetieth hundredth "
    "thousandth millionth billionth"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
SPELLING = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa quebec romeo sierra tango "
    "uniform victor whiskey xray yankee zulu zed niner"
).split()
SIGNS = (
    "star pound comma colon semicolon asterisk ampersand caret pipe tilde quote underscore backslash backtick minus percent tick "
    "uppercase lowercase"
).split()
OTHERS = (
    "activated added and billion calling cancelled disabled dollars enabled extension family for friends from goodbye hello hours "
    "hundred is last location message messages million minute minutes new number o'clock oh old password pause paused playback press "
    "received record removed saved seconds thousand time today tomorrow transfer urgent with work yesterday your zero"
).split()
WORDS = sorted({word for group in (DIGITS, TEENS, TENS, ORDINALS, DAYS, MONTHS, SPELLING, SIGNS, OTHERS) for word in group}, key=str.lower)

# Templates of short phrases; other multi-word clips combine words at random.
PHRASES = [
    "{digit} {digit}", "{digit} {digit} {digit}", "{tens} {digit}", "{tens} {ordinal}", "{month} {ordinal}", "{day} {ordinal}", "{number} {unit}",
    "{letter} {letter}", "{letter} {letter} {letter}", "{letter} {digit}", "{letter} {sign}", "{digit} hundred", "{digit} thousand", "{number} percent",
    "press {digit}", "press {sign}", "extension {digit}", "message {number}", "new messages from {day}", "last {day}", "{unit} {done}",
]
SLOTS = {
    "digit": DIGITS + ["zero", "oh", "niner"], "tens": TENS, "number": DIGITS + TEENS + TENS, "ordinal": ORDINALS, "month": MONTHS, "day": DAYS,
    "letter": SPELLING, "sign": SIGNS, "unit": "minutes seconds hours dollars messages".split(),
    "done": "saved removed received cancelled added".split(),
}

# espeak-ng voices that sound human, and their accents. Female voices get about half of the espeak-ng clips.
WOMEN = "f1 f2 f3 f4 f5 Alicia Andrea Annie anika aunty belinda linda steph steph2 steph3".split()
MEN = (
    "m1 m2 m3 m4 m5 m6 m7 adam Alex Andy antonio benjamin caleb david Denis ed edward Gene Hugo Jacky john Lee Marco Mario max "
    "Michael pablo paul quincy rob robert sandro shelby travis victor"
).split()
TONGUES = ["en-us"] * 7 + ["en-us-nyc", "en-gb", "en-gb-x-rp"]
FLITE = ["slt"] * 5 + ["rms"] * 2 + ["kal16", "awb"]
FESTIVAL = ["voice_cmu_us_slt_arctic_hts"] * 3 + ["voice_kal_diphone"]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--clips", type=int, default=12000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--jobs", type=int, default=2)
    options = arguments.parse_args()
    for program in ("espeak-ng", "sox"):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed; on Debian: apt-get install espeak-ng sox")
    engines = ["espeak"] * 11
    if shutil.which("flite"):
        engines += ["flite"] * 5
    if shutil.which("festival") and Path("/usr/share/festival/voices/us/cmu_us_slt_arctic_hts").exists():
        engines += ["festival"] * 4
    print(f"synthesizers: {', '.join(sorted(set(engines)))}", flush=True)

    dice = random.Random(options.seed)
    plan = [plan_clip(dice, engines, index) for index in range(options.clips)]
    (options.out / "audio").mkdir(parents=True, exist_ok=True)
    scratch = options.out / "scratch"
    scratch.mkdir(exist_ok=True)
    hiss = random.Random(options.seed)
    noise = [hiss.gauss(0, 1) for _ in range(1 << 17)]
    rows, done = [], 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for part in pool.map(lambda part: speak(part, options.out, scratch, noise), groups(plan, 50)):
            done += 50
            rows += part
            print(json.dumps({"progress": {"done": min(done, options.clips), "total": options.clips, "unit": "clips"}}), flush=True)
    shutil.rmtree(scratch)
    with open(options.out / "clips.jsonl", "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    seconds = sum(row["duration"] for row in rows)
    print(f"{len(rows)} clips, {seconds / 3600:.1f} hours; {options.clips - len(rows)} were too long for a model of short prompts")


def groups(plan, size):
    return [plan[start:start + size] for start in range(0, len(plan), size)]


def sentence(dice):
    """A random text of one to four words."""
    kind = dice.random()
    if kind < 0.66:
        text = dice.choice(WORDS)
    elif kind < 0.82:
        text = " ".join(dice.choice(WORDS) for _ in range(dice.choice([2, 2, 3])))
    else:
        text = re.sub(r"\{(\w+)\}", lambda slot: dice.choice(SLOTS[slot[1]]), dice.choice(PHRASES))
    return text[0].upper() + text[1:] + "."


def plan_clip(dice, engines, index):
    """All random choices of a clip, drawn in a fixed order."""
    engine = dice.choice(engines)
    clip = {
        "name": f"{index:05}", "text": sentence(dice), "engine": engine, "speed": dice.uniform(0.92, 1.1),
        "before": dice.uniform(0.02, 0.35), "after": dice.uniform(0.05, 0.35), "peak": dice.uniform(0.15, 0.9),
        "telephone": dice.random() < 0.75, "bass": dice.uniform(-8, 8), "treble": dice.uniform(-8, 8), "from": dice.uniform(60, 280),
        "noise": 10 ** dice.uniform(-3.6, -2.0) if dice.random() < 0.35 else 0, "offset": dice.randrange(1 << 16),
        "room": dice.uniform(3, 25) if dice.random() < 0.15 else 0,
    }
    if engine == "espeak":
        voice = dice.choice(WOMEN) if dice.random() < 0.55 else dice.choice(MEN)
        clip["voice"] = f"{dice.choice(TONGUES)}+{voice}"
        clip["rate"], clip["pitch"] = dice.randint(125, 215), dice.randint(25, 75)
    elif engine == "flite":
        clip["voice"] = dice.choice(FLITE)
        clip["stretch"], clip["pitch"] = dice.uniform(0.75, 1.15), dice.uniform(-25, 30)
    else:
        clip["voice"] = dice.choice(FESTIVAL)
    return clip


def speak(part, out, scratch, noise):
    festival([clip for clip in part if clip["engine"] == "festival"], scratch)
    return [row for clip in part if (row := finish(clip, out, scratch, noise))]


def festival(clips, scratch):
    """Synthesizes many clips in one process, because festival starts slowly."""
    if not clips:
        return
    script = scratch / f"{clips[0]['name']}.scm"
    lines = []
    for clip in clips:
        lines.append(f"({clip['voice']})")
        lines.append(f'(utt.save.wave (utt.synth (Utterance Text "{clip["text"]}")) "{scratch / clip["name"]}.wav" \'riff)')
    script.write_text("\n".join(lines) + "\n")
    subprocess.run(["festival", "-b", script], check=True, stdout=subprocess.DEVNULL)


def finish(clip, out, scratch, noise):
    """Synthesizes, resamples, filters, pads and writes a clip. Returns None if it is too long."""
    said = scratch / f"{clip['name']}.wav"
    if clip["engine"] == "espeak":
        command = ["espeak-ng", "-v", clip["voice"], "-s", str(clip["rate"]), "-p", str(clip["pitch"]), "-w", said, clip["text"]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    elif clip["engine"] == "flite":
        pitch = {"slt": 172, "rms": 96, "awb": 120, "kal16": 105}[clip["voice"]] + clip["pitch"]
        settings = ["--setf", f"duration_stretch={clip['stretch']:.3f}", "--setf", f"int_f0_target_mean={pitch:.0f}"]
        subprocess.run(["flite", "-voice", clip["voice"], *settings, "-t", clip["text"], "-o", said], check=True)
    effects = ["speed", f"{clip['speed']:.4f}"]
    effects += ["rate", "8000", "rate", str(RATE)] if clip["telephone"] else ["rate", str(RATE)]
    effects += ["gain", "-12", "highpass", f"{clip['from']:.0f}", "bass", f"{clip['bass']:.1f}", "treble", f"{clip['treble']:.1f}"]
    if clip["room"]:
        effects += ["reverb", f"{clip['room']:.0f}"]
    raw = subprocess.run(
        ["sox", "-V1", "-D", said, "-t", "raw", "-e", "signed", "-b", "16", "-c", "1", "-", *effects], check=True, stdout=subprocess.PIPE
    ).stdout
    said.unlink()
    samples = array.array("h", raw)
    loudest = max(map(abs, samples), default=0)
    if not loudest:
        sys.exit(f"{clip['engine']} ({clip['voice']}) said nothing for {clip['text']!r}")
    heard = [index for index in range(0, len(samples), 80) if max(map(abs, samples[index:index + 80])) > loudest * 0.015]
    samples = samples[heard[0]:heard[-1] + 80]
    room = LONGEST - len(samples) / RATE
    if room < 0.1:
        return None
    if clip["before"] + clip["after"] > room:       # shorten the silence to fit
        clip["before"], clip["after"] = room * 0.45, room * 0.45
    gain = clip["peak"] * 32767 / loudest
    length = int(clip["before"] * RATE), int(clip["after"] * RATE)
    voiced = [0.0] * length[0] + [sample * gain for sample in samples] + [0.0] * length[1]
    if clip["noise"]:
        level, start = clip["noise"] * clip["peak"] * 32767, clip["offset"]
        voiced = [sample + level * grain for sample, grain in zip(voiced, noise[start:start + len(voiced)])]
    samples = array.array("h", [max(-32768, min(32767, round(sample))) for sample in voiced])
    if sys.byteorder == "big":
        samples.byteswap()
    name = f"audio/{clip['name']}.wav"
    with wave.open(str(out / name), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    duration = round(len(samples) / RATE, 3)
    return {"audio_path": name, "text": clip["text"], "language": "en", "duration": duration, "speaker": f"{clip['engine']}-{clip['voice']}"}


if __name__ == "__main__":
    main()
