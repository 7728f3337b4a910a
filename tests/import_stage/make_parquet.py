#!/usr/bin/env python3
"""make_parquet.py FOLDER: writes clips.parquet (Snappy) and clips-zstd.parquet with pyarrow, in the audio layout of Python's tools."""
import io, json, math, struct, sys, wave
import pyarrow as pa
import pyarrow.parquet as pq

TEXTS = ["Alpha one.", "Beta two.", "Gamma three.", "Delta four.", "Epsilon five.", "Zeta six.",
         "Eta seven.", "Theta eight.", "Iota nine.", "Kappa ten.", "Lambda eleven.", "Mu twelve."]


def tone(number):
    """A third of a second at 16 kHz, from integer arithmetic, so that it is the same on every machine."""
    samples = [((index * (number + 3) * 7) % 200 - 100) * 60 for index in range(16000 // 3)]
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1), out.setsampwidth(2), out.setframerate(16000)
        out.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return file.getvalue()


audio = [{"bytes": tone(number), "path": f"clip-{number}.wav"} for number in range(12)]
audio[10] = {"bytes": b"no sound", "path": "broken.wav"}
table = pa.table({
    "audio": pa.array(audio, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    "transcription": pa.array(TEXTS),
    "language": pa.array(["en"] * 9 + ["de", "en", "en"]),
    "speaker_id": pa.array([number % 2 for number in range(12)], pa.int64()),
    "other": pa.array([[1.0, 2.0]] * 12),
})
features = {"info": {"features": {"audio": {"_type": "Audio", "sampling_rate": 16000}}}}
table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
for name, codec in [("clips.parquet", "snappy"), ("clips-zstd.parquet", "zstd")]:
    pq.write_table(table, f"{sys.argv[1]}/{name}", compression=codec, row_group_size=4)
