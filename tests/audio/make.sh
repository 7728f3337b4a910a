#!/bin/sh
# Makes the small files of this folder from one clip of the first-run set. Needs sox, flac, lame, vorbis-tools and ffmpeg.
# Lossy encoders differ from version to version: the files are committed, this is how they came to be.
set -eu
cd "$(dirname "$0")"
clip=../../datasets/first-run/clips/calling.flac
# The reference: the clip at 16 kHz, 16 bits, mono. All others are made from it.
sox -D -R "$clip" -r 16000 -b 16 -c 1 speech.wav gain -3
flac --best --totally-silent --no-padding -f -o speech.flac speech.wav
lame --quiet -b 48 -m m -t speech.wav speech-no-count.mp3
lame --quiet -b 48 -m m --add-id3v2 --tt "Calling" --ta "Allison Smith" speech.wav speech.mp3
oggenc -Q -q 6 --serial 1 -o speech.ogg speech.wav
ffmpeg -v error -y -i speech.wav -c:a aac -b:a 48k -movflags +faststart -fflags +bitexact -flags:a +bitexact speech.m4a
ffmpeg -v error -y -i speech.wav -c:a alac -fflags +bitexact -flags:a +bitexact speech-alac.m4a
sox -D -R speech.wav -r 48000 -b 24 -c 2 speech-stereo.wav trim 0.1 0.1
