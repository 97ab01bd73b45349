"""A Qwen3-VL of the 2B's sizes with random weights, made where it is needed: nothing is downloaded.

Sizes: Qwen3VLConfig of transformers with those of Qwen3-VL-2B; the vocabulary is the real one's, so that logits take
what they take there. Tokenizer and image processor are those of the bundled model.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from qvl_trl.models.qvl_tiny import model as tiny

TEXT = {
    "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "initializer_range": 0.02,
    "rope_parameters": {
        "mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_theta": 5000000.0, "rope_type": "default",
    },
}  # fmt: skip
VISION = {
    "hidden_size": 1024, "intermediate_size": 4096, "depth": 24, "num_heads": 16, "out_hidden_size": 2048,
    "deepstack_visual_indexes": [5, 11, 17], "num_position_embeddings": 2304, "initializer_range": 0.02,
}  # fmt: skip


def build(folder: Path, *, seed: int = 0) -> Path:
    """Write the model to `folder`, about 4.3 GB in bf16, and return it."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    source = tiny.folder()
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.name != "model.safetensors":
            shutil.copy(path, folder)
    config = json.loads((source / "config.json").read_text())
    config["text_config"] |= TEXT
    config["vision_config"] |= VISION
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    with torch.device("cuda"):
        model = AutoModelForImageTextToText.from_config(
            AutoConfig.from_pretrained(folder), dtype=torch.bfloat16
        )
    model.save_pretrained(folder, max_shard_size="20GB")
    return folder
