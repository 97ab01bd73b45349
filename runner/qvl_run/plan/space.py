"""What a run will put on the storage that outlives the machine, as far as its stages can tell. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qvl_run.contract import Estimate
from qvl_run.settings import ModelSettings

KEPT = 2
"""Checkpoints that are kept of a stage, beside its output."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """Bytes. `results` are the newest checkpoints and the output of every stage, `downloads` the base models where they
    are kept there too. `whole` is False where a stage cannot tell: then it is at least so much."""

    results: int
    downloads: int
    whole: bool

    @property
    def total(self) -> int:
        """Both."""
        return self.results + self.downloads


def space(stages: Iterable[tuple[ModelSettings, Estimate]], *, downloads: bool) -> Space:
    """What `stages` come to, in all; `downloads`: whether those go to the storage."""
    results, whole = 0, True
    models: dict[tuple[str, str | None], int] = {}
    for model, needs in stages:
        sizes = [needs.checkpoint, needs.output] + [needs.download] * downloads
        whole = whole and None not in sizes
        results += KEPT * (needs.checkpoint or 0) + (needs.output or 0)
        name = (model.name, model.revision)
        models[name] = max(models.get(name, 0), needs.download or 0)
    return Space(results=results, downloads=sum(models.values()) if downloads else 0, whole=whole)
