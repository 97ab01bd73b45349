"""What a run will put on the storage that outlives the machine, as far as its stages can tell. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qvl_run import plugins
from qvl_run.contract import Estimate
from qvl_run.settings import StageSettings

KEPT = 2
"""Checkpoints that are kept of a stage, beside its output."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """Bytes. `results` are the newest checkpoints and the output of every stage, `downloads` the base models, None
    where they are not kept there too. `whole` is False where a stage cannot tell, and where data sets of the hub go
    there, whose sizes only the hub knows: then it is at least so much."""

    results: int
    downloads: int | None
    whole: bool

    @property
    def total(self) -> int:
        """Both."""
        return self.results + (self.downloads or 0)


def space(stages: Iterable[tuple[StageSettings, Estimate]], *, downloads: bool) -> Space:
    """What `stages` come to, in all; `downloads`: whether those go to the storage."""
    results, whole = 0, True
    models: dict[tuple[str, str | None], int] = {}
    for settings, needs in stages:
        sizes = [needs.checkpoint, needs.output] + [needs.download] * downloads
        whole = whole and None not in sizes and not (downloads and _reads_hub(settings))
        results += KEPT * (needs.checkpoint or 0) + (needs.output or 0)
        name = (settings.model.name, settings.model.revision)
        models[name] = max(models.get(name, 0), needs.download or 0)
    kept = sum(models.values()) if downloads else None
    return Space(results=results, downloads=kept, whole=whole)


def _reads_hub(settings: StageSettings) -> bool:
    """Whether any of the stage's data is downloaded. What lies on this machine has its whole path in the settings."""
    asked = settings.evaluation.data if settings.evaluation else None
    return any(
        plugins.data_format(data.format).location == "hub"
        and not Path(data.path or "").is_absolute()
        for data in (settings.data, settings.eval_data, asked)
        if data is not None
    )
