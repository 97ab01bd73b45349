"""The model that a stage trains, with its processor, on the one device that the process uses.

Base weights take the compute dtype; adapters are float32. Weights that are trained themselves (no
adapter) are float32 too: half precision would round most updates away, and a GradScaler refuses
float16 gradients. Autocast does the arithmetic in the compute dtype then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    set_seed,
)

from qvl_run import plugins
from qvl_run.contract import StageError
from qvl_run.settings import ModelSettings
from qvl_trl.policy.lora import add_adapter, is_adapter, load_adapter
from qvl_trl.policy.processor import Qwen3VLProcessor, load_processor

FAMILY = "qwen3_vl"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """`model` is a PeftModel, or a full model where no adapter is trained. `source` is where its base came from."""

    model: Any
    processor: Qwen3VLProcessor
    source: str
    revision: str | None
    dtype: torch.dtype

    @contextmanager
    def inference(self) -> Iterator[None]:
        """No gradient, no dropout, the arithmetic of training. Afterwards the model is as before."""
        device: torch.device = self.model.device
        was_training = self.model.training
        mixed = device.type == "cuda" and self.dtype != torch.float32
        self.model.eval()
        try:
            with torch.no_grad(), torch.autocast(device.type, self.dtype, enabled=mixed):
                yield
        finally:
            self.model.train(was_training)


def load_policy(settings: ModelSettings, *, start: Path | None, seed: int) -> Policy:
    """The model at `start` (an adapter or a full model), else the base model, ready to be trained.

    Raises StageError: "download" where the hub cannot give it, "config" where it is not a Qwen3-VL
    or does not fit the settings.
    """
    source, revision = locate(settings.name), settings.revision
    if start is not None and not is_adapter(start):
        source, revision = str(start), None
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        family = config.model_type
        if not family.startswith(FAMILY):
            raise StageError(f"{source} is a {family}, not a Qwen3-VL", failure="config")
        base = _load_base(source, revision, settings)
        processor = load_processor(source, revision=revision, image_tokens=settings.image_tokens)
    except (OSError, ValueError, ImportError) as error:
        remote = isinstance(error, OSError) and not Path(source).exists()
        raise StageError(
            f"the model {source} cannot be loaded: {error}",
            failure="download" if remote else "config",
        ) from error
    # TRL sets these when it builds a trainer; a model evaluated before that must agree.
    base.config.get_text_config().pad_token_id = processor.tokenizer.pad_token_id
    base.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    set_seed(seed)
    if start is not None and is_adapter(start):
        model = load_adapter(base, start, settings.lora)
    elif settings.lora is not None:
        model = add_adapter(base, settings.lora, revision=revision)
    else:
        model = base
    return Policy(
        model=model,
        processor=processor,
        source=source,
        revision=revision,
        dtype=DTYPES[settings.precision],
    )


def locate(name: str) -> str:
    """The folder of a bundled model or of a local one, else the hub id itself."""
    if name in plugins.installed("qvl.models"):
        return str(plugins.load("qvl.models", name).folder())
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _load_base(source: str, revision: str | None, settings: ModelSettings) -> Any:
    compute = DTYPES[settings.precision]
    # With quantized layers the other weights stay float32, as in TRL's recipe for the T4.
    half = settings.lora is not None and settings.quantization == "none"
    return AutoModelForImageTextToText.from_pretrained(
        source,
        revision=revision,
        dtype=compute if half else torch.float32,
        attn_implementation=settings.attention,
        quantization_config=_quantization(settings, compute),
        device_map={"": 0} if torch.cuda.is_available() else None,
        use_safetensors=True,  # never a pickle, which could run code
        trust_remote_code=False,
    )


def _quantization(settings: ModelSettings, compute: torch.dtype) -> BitsAndBytesConfig | None:
    if settings.quantization == "none":
        return None
    if settings.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
