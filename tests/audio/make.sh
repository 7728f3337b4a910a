#!/bin/bash
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
# Opus as messengers and browsers write it: SILK in long packets, hybrid, CELT in two channels, six channels.
opus() { ffmpeg -v error -y -i "$1" -c:a libopus -fflags +bitexact -flags:a +bitexact "${@:3}" "$2"; }
opus speech.wav speech.opus -b:a 12k -application voip -frame_duration 60
opus speech.wav speech-hybrid.opus -b:a 28k -application voip -frame_duration 10
sox -D -R speech-stereo.wav -b 16 stereo.wav
opus stereo.wav speech-stereo.opus -b:a 64k -ac 2
opus stereo.wav speech-six.opus -b:a 96k -filter:a 'pan=5.1|FL=c0|FR=c1|FC=c0|BL=c1' -mapping_family 1
opus speech.wav speech-live.webm -b:a 20k -live 1
opus speech.wav speech.webm -b:a 20k
opus speech.wav speech-opus.mp4 -b:a 20k -movflags +frag_keyframe+empty_moov
ffmpeg -v error -y -i speech.wav -c:a libvorbis -fflags +bitexact -flags:a +bitexact speech-vorbis.mkv
ffmpeg -v error -y -i speech.wav -c:a flac -fflags +bitexact -flags:a +bitexact speech-flac.mka
ffmpeg -v error -y -i stereo.wav -c:a pcm_s24le -fflags +bitexact -flags:a +bitexact speech-pcm.mka
ffmpeg -v error -y -i speech.wav -c:a alac -fflags +bitexact -flags:a +bitexact speech-alac.caf
sox -D -R speech.wav -b 16 speech.aiff trim 0 0.2
ffmpeg -v error -y -i speech.wav -t 0.2 -c:a pcm_s16le -fflags +bitexact -flags:a +bitexact speech-little.aifc
# Videos: the picture comes first, and a QuickTime movie has a track of time codes.
video() { ffmpeg -v error -y -f lavfi -i testsrc=d=0.75:r=4:s=32x32 -i speech.wav -fflags +bitexact -flags +bitexact "${@:2}" "$1"; }
video speech-video.mov -c:v mjpeg -c:a pcm_s16be -timecode 01:00:00:00
video speech-video.mp4 -c:v mpeg4 -c:a aac -b:a 48k
ffmpeg -v error -y -i speech.wav -c:a aac -b:a 32k -f adts -fflags +bitexact -flags:a +bitexact speech.aac
rm stereo.wav
