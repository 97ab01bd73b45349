"""The table at the end: one row a stage, from the manifests of the outputs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qvl_run.checkpoints.manifest import Manifest
from qvl_run.plan.identity import measured_on
from qvl_run.plan.plan import StagePlan
from qvl_run.units import show_duration


@dataclass(frozen=True, kw_only=True)
class Row:
    """One stage of the report. `accuracy` in 0..1; `measures` are (name, before, after). What is `marked` cannot be
    compared with the rest."""

    stage: str
    steps: int | None
    seconds: float | None
    accuracy: float | None
    measures: tuple[tuple[str, float | None, float | None], ...] = ()
    marked: bool = False


def rows(manifests: Sequence[Manifest], elsewhere: Collection[str] = ()) -> list[Row]:
    """A row for each output, and one for the base model before the first stage that measured it. `elsewhere` names
    stages that were measured on other held-out rows than the rest."""
    found: list[Row] = []
    for manifest in manifests:
        measures: Mapping[str, Any] = manifest.facts.get("measures", {})
        before, after = measures.get("accuracy", (None, None))
        if before is not None:
            base = Row(stage="base model", steps=None, seconds=None, accuracy=before)
            found.append(replace(base, marked=manifest.stage in elsewhere))
        own = tuple((name, *pair) for name, pair in measures.items() if name != "accuracy")
        found.append(
            Row(
                stage=manifest.stage,
                steps=manifest.step,
                seconds=manifest.facts.get("seconds"),
                accuracy=after,
                measures=own,
                marked=manifest.stage in elsewhere,
            )
        )
    return found


def measured_elsewhere(outputs: Iterable[tuple[StagePlan, Manifest]]) -> frozenset[str]:
    """The stages whose output was measured on other held-out rows than the job now names."""
    return frozenset(
        plan.spec.name
        for plan, manifest in outputs
        if manifest.facts.get("measured_on") != measured_on(plan.settings)
    )


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """`row` as text: stage, steps, time, accuracy, the stage's own measure."""
    return (
        f"{row.stage} *" if row.marked else row.stage,
        "" if row.steps is None else str(row.steps),
        "" if row.seconds is None else show_duration(row.seconds),
        "" if row.accuracy is None else f"{row.accuracy:.1%}",
        ", ".join(_measure(*measure) for measure in row.measures),
    )


def _measure(name: str, before: float | None, after: float | None) -> str:
    label = name.replace("_", " ")
    if after is None:
        return f"{label} {before:.3f} before" if before is not None else ""
    return f"{label} {after:.3f}" if before is None else f"{label} {before:.3f} -> {after:.3f}"
