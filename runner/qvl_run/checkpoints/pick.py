"""Which folder to go on from: the highest step whose manifest verifies and whose key fits.

Not the newest by clock, not the highest by name. Every folder passed over is named with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from qvl_run.checkpoints import manifest as manifests
from qvl_run.checkpoints.manifest import Broken, Manifest
from qvl_run.checkpoints.store import Held, Wait


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A folder with its manifest, or with the reason why it has none that can be used."""

    held: Held
    manifest: Manifest | None = None
    broken: str = ""


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A folder that was passed over. `broken` tells damage from settings that differ; `manifest` is there where it
    could be read."""

    held: Held
    reason: str
    broken: bool
    manifest: Manifest | None = None


@dataclass(frozen=True, kw_only=True)
class Pick:
    """The folder to use, None where none fits, and what was passed over on the way."""

    held: Held | None = None
    manifest: Manifest | None = None
    rejected: tuple[Rejected, ...] = field(default=())


def pick(
    candidates: Iterable[Entry],
    *,
    key: str,
    kind: Literal["checkpoint", "output"],
    wait: Wait = lambda _: None,
) -> Pick:
    """The best of `candidates`; of equal steps the first. Hashes from the highest step down and stops at the first
    that verifies. `wait` is told of each chunk that was hashed.

    Raises OSError where a store cannot be read: that says nothing about what it holds.
    """
    rejected: list[Rejected] = []
    fitting: list[tuple[Held, Manifest]] = []
    for entry in candidates:
        held, manifest = entry.held, entry.manifest
        if held.last.startswith("final") != (kind == "output"):
            continue
        if manifest is None:
            rejected.append(Rejected(held=held, reason=entry.broken, broken=True))
        elif manifest.key != key:
            reason = "was made with other settings"
            rejected.append(Rejected(held=held, reason=reason, broken=False, manifest=manifest))
        else:
            fitting.append((held, manifest))
    for held, manifest in sorted(fitting, key=lambda entry: entry[1].step, reverse=True):
        try:
            manifests.verify(held, manifest, wait=wait)
        except Broken as error:
            rejected.append(Rejected(held=held, reason=str(error), broken=True, manifest=manifest))
            continue
        return Pick(held=held, manifest=manifest, rejected=tuple(rejected))
    return Pick(rejected=tuple(rejected))


def entry_of(held: Held, *, stage: str) -> Entry:
    """`held` with its manifest, which must be of this stage and of what the folder's name says. Raises OSError."""
    try:
        manifest = manifests.read(held)
    except Broken as error:
        return Entry(held=held, broken=str(error))
    kind = "output" if held.last.startswith("final") else "checkpoint"
    if manifest.kind != kind or manifest.stage != stage:
        reason = f"its manifest is of the {manifest.kind} of stage {manifest.stage}"
        return Entry(held=held, broken=reason)
    if kind == "checkpoint" and step_of(held.last) != manifest.step:
        return Entry(held=held, broken=f"its manifest is of step {manifest.step}")
    return Entry(held=held, manifest=manifest)


def step_of(name: str) -> int:
    """The step that the folder's name says, -1 where it says none."""
    number = name.removeprefix("checkpoint-").partition(".")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 19 else -1
