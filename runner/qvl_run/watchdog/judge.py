"""What is done about what was found. Pure: findings and what was told before in, one action at most out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qvl_run.watchdog.detectors import Finding

FORGET = 300.0
"""Watched seconds that something must have been absent for before it is told again."""

Told = Mapping[str, float]
"""When each thing that was told was last found, in watched seconds."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`action` is what to do now: "kill" and "stop" stand as long as they are found, "wake" is given once. `warnings`
    are what was not told before. `told` goes into the next decision."""

    action: Finding | None = None
    warnings: tuple[Finding, ...] = ()
    told: Told = field(default_factory=dict)


def decide(findings: Sequence[Finding], told: Told, *, watched: float) -> Verdict:
    """`watched` is the time of this look. Of several actions the strongest: kill, stop, wake. Nobody can act on a
    process that has gone."""
    if any(found.name == "dead" for found in findings):
        findings = [found for found in findings if found.act == "warn"]
    known = {name: at for name, at in told.items() if watched - at <= FORGET}
    standing = {act: [found for found in findings if found.act == act] for act in ("kill", "stop")}
    waking = [found for found in findings if found.act == "wake"]
    chosen = [*standing["kill"], *standing["stop"], *(f for f in waking if f.name not in known)][:1]
    warnings = tuple(f for f in findings if f.act == "warn" and f.name not in known)
    lasting = [found for found in findings if found.name in known]
    now = {found.name: watched for found in (*lasting, *chosen, *warnings)}
    return Verdict(action=chosen[0] if chosen else None, warnings=warnings, told={**known, **now})
