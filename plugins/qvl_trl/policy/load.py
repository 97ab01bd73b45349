"""The model that a stage trains, with its processor, on the one device that the process uses.

Base weights take the compute dtype; adapters are float32. Weights that are trained themselves (no
adapter) are float32 too: half precision would round most updates away, and a GradScaler refuses
float16 gradients. Autocast does the arithmetic in the compute dtype then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils import save_and_load
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    set_seed,
)

from qvl_run import plugins
from qvl_run.contract import StageContext, StageError
from qvl_run.settings import ModelSettings
from qvl_trl.downloads.explain import explained
from qvl_trl.downloads.model import model_folder
from qvl_trl.downloads.watch import Watch, current
from qvl_trl.models.architecture import FAMILY, RANDOM
from qvl_trl.policy import attention
from qvl_trl.policy.lora import add_adapter, base_of, is_adapter, load_adapter
from qvl_trl.policy.processor import Qwen3VLProcessor, load_processor

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """`model` is a PeftModel, or a full model where no adapter is trained. `source` is the folder that its base was
    loaded from, `random` whether the weights there were drawn at random."""

    model: Any
    processor: Qwen3VLProcessor
    source: str
    revision: None
    dtype: torch.dtype
    random: bool = False

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


def load_policy(
    settings: ModelSettings,
    *,
    start: Path | None,
    seed: int,
    ctx: StageContext | None = None,
    place: Callable[[Path], str] | None = None,
) -> Policy:
    """The model at `start` (an adapter or a full model), else the base model, ready to be trained.

    Downloads it first where it is not here, or draws its weights, and tells `ctx` of that (None:
    `downloads.watch.current()`). Raises StageStopped, and StageError: "download" where the hub cannot give it, "disk"
    where there is no room for it, "config" where it is not a Qwen3-VL, does not fit the settings, or may not be had.
    `place` names the device for the base whose folder it is given; without it that is the GPU, where there is one.
    """
    watch = Watch(ctx) if ctx is not None else current()
    random, revision = settings.name.startswith(RANDOM), settings.revision
    if start is not None and not is_adapter(start):
        source, revision = str(start), None
    elif random:
        source = str(_drawn(settings.name, watch.ctx))
    else:
        source = locate(settings.name)
    if start is not None and is_adapter(start):
        source = base_of(start, else_=source)
    remote = not Path(source).exists()
    folder = source
    if remote:
        folder = str(model_folder(source, revision=revision, watch=watch))
        watch.over()
        save_and_load.check_file_exists_on_hf_hub = _not_asked
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        family = config.model_type
        if family != FAMILY:
            raise StageError(f"{source} is a {family}, not a dense Qwen3-VL", failure="config")
        device = place(Path(folder)) if place else "cuda:0" if torch.cuda.is_available() else "cpu"
        base = _load_base(folder, settings, device)
        processor = load_processor(folder, revision=None, image_tokens=settings.image_tokens)
    except SafetensorError as error:
        # Of the right size, or it had been fetched again: the next tries look at every byte.
        raise StageError(
            f"the model {source} cannot be loaded: its weights in {folder} are broken ({error})",
            failure="download" if remote else "config",
        ) from error
    except (OSError, ValueError, ImportError) as error:
        told = explained(error, source, kind="model", revision=revision, folder=Path(folder))
        if remote and told is not None and told.failure == "download":
            raise told from error  # the drive that the cache lies on has gone
        raise StageError(
            f"the model {source} cannot be loaded: {error}", failure="config"
        ) from error
    if settings.lora is not None:
        # An adapter names its base model: by what others find it by. A full model's reference is loaded from here.
        base.config.name_or_path = base.name_or_path = source
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
        source=folder,
        revision=None,
        dtype=DTYPES[settings.precision],
        random=random,
    )


def locate(name: str) -> str:
    """The folder of a bundled model or of a local one, else the hub id itself."""
    if name in plugins.installed("qvl.models"):
        return str(plugins.load("qvl.models", name).folder())
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _drawn(name: str, ctx: StageContext | None) -> Path:
    """The folder of a model with random weights, in the run's cache."""
    from qvl_trl.models.random_weights import random_folder

    assert ctx is not None, "random weights lie in a run's cache"
    return random_folder(name, cache=ctx.cache, progress=lambda: ctx.progress("load"))


def _not_asked(*_: Any, **__: Any) -> bool:
    """In place of PEFT's question to the hub, at every save, whether the base model's vocabulary was changed: it never
    is here, and a hub that hangs would hold up the save."""
    return False


def _load_base(folder: str, settings: ModelSettings, device: str) -> Any:
    compute = DTYPES[settings.precision]
    # With quantized layers the other weights stay float32, as in TRL's recipe for the T4.
    half = settings.lora is not None and settings.quantization == "none"
    return AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype=compute if half else torch.float32,
        attn_implementation=attention.implementation(settings.attention, settings.precision),
        quantization_config=_quantization(settings, compute),
        device_map=None if device == "cpu" else {"": device},
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
