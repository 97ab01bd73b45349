"""What the three stages can say from settings alone: how many steps, and what cannot work."""

from __future__ import annotations

import math
from collections.abc import Iterator

from qvl_run import plugins
from qvl_run.contract import Finding
from qvl_run.settings import DataSettings, StageSettings
from qvl_trl.stages.model import check_model
from qvl_trl.stages.targets import check_targets


def optimizer_steps(settings: StageSettings, *, rows_per_step: int, partial: bool) -> int | None:
    """Optimizer steps of the whole stage; None where the number of rows is not known before they are read.

    `partial`: whether an epoch's last step may have fewer rows, as in TRL's SFT and DPO.
    """
    training = settings.training
    if training.max_steps is not None:
        return training.max_steps
    rows = known_rows(settings.data)
    if rows is None:
        return None
    per_epoch = math.ceil(rows / rows_per_step) if partial else rows // rows_per_step
    return math.ceil(training.num_epochs * per_epoch)


def known_rows(data: DataSettings | None) -> int | None:
    """As many rows as can be counted here, else at most `max_samples`; None where neither says it."""
    if data is None:
        return None
    counted = plugins.data_format(data.format).count(data)
    return data.max_samples if counted is None else counted


def check_common(settings: StageSettings) -> Iterator[Finding]:
    """What no stage on TRL's trainers can do."""
    yield from check_model(settings)
    yield from check_targets(settings)
