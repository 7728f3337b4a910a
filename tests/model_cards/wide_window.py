"""wide_window.py TINY OUT: writes the tiny model with a 30 s window, the only window size that transformers' processor supports."""

import json
import shutil
import sys

import torch
from transformers import VoxtralConfig, VoxtralForConditionalGeneration

tiny, out = sys.argv[1:3]
shutil.copytree(tiny, out)
model = VoxtralForConditionalGeneration.from_pretrained(tiny)
config = VoxtralConfig.from_pretrained(tiny)
config.audio_config.max_source_positions = 1500
wide = VoxtralForConditionalGeneration(config)
weights = {name: weight for name, weight in model.state_dict().items() if "embed_positions" not in name}
missing = wide.load_state_dict(weights, strict=False)
assert all("embed_positions" in name for name in missing.missing_keys) and not missing.unexpected_keys, missing
wide.to(torch.float32).save_pretrained(out)
path = f"{out}/preprocessor_config.json"
settings = json.load(open(path))
settings.update(chunk_length=30, n_samples=480000, nb_max_frames=3000, max_source_positions=3000)
json.dump(settings, open(path, "w"))
