"""Transcribes what is spoken or uploaded. It runs exactly the weights it names, or it does not start."""

import json
import os
from pathlib import Path

try:
    import spaces  # on ZeroGPU, and before torch: a card is there only while a function asks for it
except ImportError:
    spaces = None

import gradio as gr
import torch
from transformers import AutoProcessor, VoxtralForConditionalGeneration

FACTS = json.loads((Path(__file__).parent / "model.json").read_text(encoding="utf-8"))
MODEL_ID = os.environ.get("HF_MODEL_ID") or FACTS["model_id"]
BASE_ID = os.environ.get("BASE_MODEL_ID") or FACTS["base_model"]
REVISION = os.environ.get("MODEL_REVISION") or None
LANGUAGE = os.environ.get("LANGUAGE") or (FACTS["languages"] or [None])[0]
TOKEN = os.environ.get("HF_TOKEN") or None
ADAPTER = FACTS["method"] == "lora"


def load():
    """Loads the weights and says which; every doubt is an error, so that no other model answers in their place."""
    if not MODEL_ID or (not os.path.isdir(MODEL_ID) and MODEL_ID.count("/") != 1):
        raise RuntimeError(f"HF_MODEL_ID must be `owner/name` of the published model, not {MODEL_ID!r}")
    if ADAPTER and not BASE_ID:
        raise RuntimeError("BASE_MODEL_ID must be the `owner/name` of the base the adapter belongs to")
    cuda = torch.cuda.is_available()
    dtype = (torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16) if cuda else torch.float32
    source = BASE_ID if ADAPTER else MODEL_ID
    revision = None if ADAPTER else REVISION
    processor = AutoProcessor.from_pretrained(source, revision=revision, token=TOKEN)
    model, report = VoxtralForConditionalGeneration.from_pretrained(
        source, revision=revision, token=TOKEN, dtype=dtype, output_loading_info=True
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise RuntimeError(f"{source} lacks {len(missing)} weights, the first is {missing[0]}")
    name = source if not REVISION or ADAPTER else f"{source} at {REVISION}"
    if ADAPTER:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, MODEL_ID, revision=REVISION, token=TOKEN)
        moved = [weight for key, weight in model.named_parameters() if "lora_B" in key and weight.detach().abs().max() > 0]
        if not moved:
            raise RuntimeError(f"the adapter {MODEL_ID} changed nothing in {BASE_ID}: its weights did not load")
        name = f"{BASE_ID} with the adapter {MODEL_ID}" + (f" at {REVISION}" if REVISION else "")
        name += f" ({len(moved)} adapted layers)"
    model.to("cuda" if cuda else "cpu").eval()
    return processor, model, source, f"{name}, on {'a GPU' if cuda else 'the CPU'}"


PROCESSOR, MODEL, SOURCE, WEIGHTS = load()


# Tokens of a transcript at most: a minute of speech in scripts that take three tokens per character.
LONGEST = 2000


def on_a_card(function):
    """Has ZeroGPU lend a card for each call; elsewhere the function as it is."""
    return spaces.GPU(duration=120)(function) if spaces else function


@on_a_card
def transcribe(path, language):
    """What is said in a sound file."""
    if not path:
        raise gr.Error("Record or upload something first.")
    request = {"audio": path, "model_id": SOURCE}
    if language:
        request["language"] = language.strip()
    inputs = PROCESSOR.apply_transcription_request(**request).to(MODEL.device, dtype=next(MODEL.parameters()).dtype)
    with torch.inference_mode():
        outputs = MODEL.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
    tokens = outputs[:, inputs["input_ids"].shape[1] :]
    if tokens.shape[1] >= LONGEST:
        gr.Warning(f"The transcript is unfinished: it reached the limit of {LONGEST} tokens.")
    return PROCESSOR.batch_decode(tokens, skip_special_tokens=True)[0].strip()


with gr.Blocks(title=FACTS["title"]) as demo:
    gr.Markdown(f"# {FACTS['title']}")
    gr.Textbox(WEIGHTS, label="Weights", interactive=False)
    with gr.Row():
        audio = gr.Audio(sources=["microphone", "upload"], type="filepath", label="Recording")
        text = gr.Textbox(label="Transcript", lines=6)
    language = gr.Textbox(LANGUAGE or "", label="Language (two letters; empty: the model finds out)")
    gr.Button("Transcribe", variant="primary").click(transcribe, [audio, language], text, api_name="transcribe")

if __name__ == "__main__":
    demo.launch()
