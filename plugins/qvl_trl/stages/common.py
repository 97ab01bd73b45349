"""What the three stages can say from settings alone: how many steps, and what cannot work."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from qvl_run import plugins
from qvl_run.settings import DataSettings, ModelSettings, StageSettings
from qvl_trl.models.architecture import RANDOM, is_folder, is_known, known_names

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
Finding = tuple[str, str]
"""A key path below the stage, and what is wrong with it."""


def optimizer_steps(settings: StageSettings, *, rows_per_step: int, partial: bool) -> int | None:
    """Optimizer steps of the whole stage; None where the number of rows is not known before they are read.

    `partial`: whether an epoch's last step may have fewer rows, as in TRL's SFT and DPO.
    """
    training = settings.training
    if training.max_steps is not None:
        return training.max_steps
    rows = _rows(settings.data)
    if rows is None:
        return None
    per_epoch = math.ceil(rows / rows_per_step) if partial else rows // rows_per_step
    return math.ceil(training.num_epochs * per_epoch)


def _rows(data: DataSettings | None) -> int | None:
    """At most so many rows: `max_samples`, or the size that a generated data set is given."""
    if data is None:
        return None
    known = [n for n in (data.max_samples, data.options.get("size")) if n is not None]
    return min(known, default=None)


def check_model(model: ModelSettings) -> Iterator[Finding]:
    """What `random:` cannot make, and a folder that holds no model. What the hub has is not asked."""
    if not model.name.startswith(RANDOM):
        yield from _check_folder(model.name)
        return
    if not is_known(model.name):
        yield (
            "model.name",
            f"the sizes of {model.name.removeprefix(RANDOM)} are not known; those of these are: {known_names()}",
        )
    if model.revision is not None:
        yield "model.revision", "random weights have no revision: it would do nothing"


def _check_folder(name: str) -> Iterator[Finding]:
    if name in plugins.installed("qvl.models"):
        return
    if is_folder(name):
        if not (Path(name) / "config.json").is_file():
            yield "model.name", f"the folder {name} has no config.json: there is no model in it"
    elif name.startswith((".", "/", "~")):
        where = ", seen from where the command is run" if name.startswith(".") else ""
        yield "model.name", f"there is no folder {name}{where}"
    elif not _HUB_ID.fullmatch(name):
        bundled = ", ".join(plugins.installed("qvl.models"))
        yield (
            "model.name",
            f"{name} is no hub id (owner/name), no folder here and no bundled model ({bundled})",
        )


def check_common(settings: StageSettings) -> Iterator[Finding]:
    """What no stage on TRL's trainers can do."""
    model = settings.model
    yield from check_model(model)
    targets = model.lora.target_modules if model.lora else ()
    if isinstance(targets, tuple) and any(t.split(".")[-1] == "lm_head" for t in targets):
        yield (
            "model.lora.target_modules",
            "an adapter on lm_head would never be trained: TRL reads that layer's weights directly",
        )
