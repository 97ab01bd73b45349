"""What a stage has against its own settings: changes that the plan makes or tells must not add to it. Pure."""

from __future__ import annotations

from qvl_run import plugins
from qvl_run.spec.job import StageSpec
from qvl_run.spec.resolve import provisional_settings


def adds_none(spec: StageSpec, *, before: StageSpec) -> bool:
    """Whether the stage has nothing against `spec` that it had not `before`, warnings included."""
    return _places(spec) <= _places(before)


def _places(spec: StageSpec) -> set[str]:
    return {found.path for found in plugins.stage(spec.uses).check(provisional_settings(spec))}
