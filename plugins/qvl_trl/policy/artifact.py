"""The folder that a stage leaves: the next stage loads it, and so do plain transformers and peft."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel

from qvl_trl.policy.load import Policy
from qvl_trl.policy.processor import save_processor

_USAGE = """\
from PIL import Image
from transformers import AutoModelForImageTextToText, Qwen3VLProcessor

class Processor(Qwen3VLProcessor):  # for images alone: works without torchvision
    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

model = AutoModelForImageTextToText.from_pretrained("{path}", dtype="DTYPE", device_map="auto")
processor = Processor.from_pretrained("{path}")
image = dict(type="image", image=Image.open("picture.png").convert("RGB"))
question = dict(type="text", text="What is in the picture?")
inputs = processor.apply_chat_template(
    [dict(role="user", content=[image, question])],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
).to(model.device)
output = model.generate(**inputs, max_new_tokens=64)
print(processor.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""
"""Loads an adapter with its base as well as a full model. Has no braces but `{path}`."""

_RANDOM = "# The weights that training began with are random: what this answers means nothing.\n"
_RANDOM_BASE = (
    "# It loads while its base lies where adapter_config.json says: in the run's cache.\n"
)
SHARD = "2GB"
"""Of a full model's file, at most: about so much is in memory once more while it is written."""


def save_artifact(policy: Policy, folder: Path) -> None:
    """Write the trained adapter (never a reference copy), or the full model, and the processor's files."""
    if isinstance(policy.model, PeftModel):
        policy.model.save_pretrained(folder, selected_adapters=["default"])
    else:
        policy.model.save_pretrained(folder, max_shard_size=SHARD)
    save_processor(policy.processor, folder, source=policy.source, revision=policy.revision)


def usage(policy: Policy) -> str:
    """Lines of plain Python that load the artifact at `{path}` and ask it about a picture."""
    lines = _USAGE.replace("DTYPE", str(policy.dtype).removeprefix("torch."))
    if not policy.random:
        return lines
    return _RANDOM + (_RANDOM_BASE if isinstance(policy.model, PeftModel) else "") + lines
