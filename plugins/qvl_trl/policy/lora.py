"""Low-rank adapters on the base model: a fresh one, or the one that an earlier stage left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model

from qvl_run.contract import StageError
from qvl_run.settings import LoraSettings

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
LANGUAGE = r".*\blanguage_model\..*\.(q|k|v|o|gate|up|down)_proj"
"""All linear layers of the language model; the vision tower calls its own by other names."""


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds an adapter rather than a full model."""
    return (folder / CONFIG).is_file()


def base_of(folder: Path, *, else_: str) -> str:
    """What the adapter in `folder` was trained on: the full model that it names, where an earlier stage left one, else
    `else_`, the job's model (a folder, or a hub id).

    Raises StageError where it names a folder that is not here, and the job's model is the hub's: which of the two
    nobody can tell, and on the wrong one the adapter means nothing.
    """
    named = json.loads((folder / CONFIG).read_text()).get("base_model_name_or_path") or ""
    path = Path(named)
    # The job's own model, from another place: a moved environment or another run's cache.
    if not path.is_absolute() or path.parts[-2:] == Path(else_).parts[-2:]:
        return else_
    if (path / "config.json").is_file():
        return named
    if Path(else_).is_dir():
        return else_
    raise StageError(
        f"the adapter {folder} was trained on the model in {path}, which is not here: put it there, or, if it was "
        f'{else_}, write that as "base_model_name_or_path" in its {CONFIG}',
        failure="config",
    )


def add_adapter(base: Any, lora: LoraSettings, *, revision: str | None) -> Any:
    """`base` with a fresh adapter (its B is zero: it changes nothing yet). Float32, whatever the base is.

    Draws from torch's global generator. Raises StageError where no layer has a name that `lora` wants.
    """
    targets: Any = lora.target_modules
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=LANGUAGE if targets == "language" else targets,
        task_type="CAUSAL_LM",
        revision=revision,
    )
    try:
        return get_peft_model(base, config)
    except ValueError as error:  # "Target modules ... not found in the base model"
        raise StageError(f"lora.target_modules: {error}", failure="config") from error


def load_adapter(base: Any, folder: Path, lora: LoraSettings | None) -> Any:
    """`base` with the adapter in `folder`, to be trained further. Float32, whatever the base is.

    Raises StageError where the adapter is not the one that the settings describe: training would go
    on with the adapter's own rank and scale, against what the job says.
    """
    saved = json.loads((folder / CONFIG).read_text())
    if not (folder / WEIGHTS).is_file():  # peft would look for a pickle, then on the hub
        raise StageError(f"the adapter {folder} has no {WEIGHTS}", failure="config")
    if lora is None:
        raise StageError(
            "this stage trains all weights (lora: null), but starts from an adapter: "
            f"merge {folder} into its base model first, or train an adapter here too",
            failure="config",
        )
    if (saved["r"], saved["lora_alpha"]) != (lora.r, lora.alpha):
        raise StageError(
            f"this stage starts from an adapter of rank {saved['r']} and alpha {saved['lora_alpha']}, "
            f"but its settings say {lora.r} and {lora.alpha}: "
            f"write lora: {{r: {saved['r']}, alpha: {saved['lora_alpha']}}}",
            failure="config",
        )
    return PeftModel.from_pretrained(base, folder, is_trainable=True)


@contextmanager
def unrounded(model: Any) -> Iterator[None]:
    """Undo what TRL's constructors do to the adapter of a quantized model: they round it to bfloat16.

    That would change the upstream stage's output before the first step (so that DPO would not start
    at ln 2), and a T4 has no bfloat16.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    values = {name: p.data for name, p in trained.items()}
    yield
    for name, parameter in trained.items():
        parameter.data = values[name]
