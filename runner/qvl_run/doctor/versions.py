"""Versions of the training libraries held against what they ask of each other. Reads metadata; imports none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from qvl_run.spec.diagnostic import Diagnostic

OWN = "qvl-run"
EXTRAS = ("train", "gpu")
SLOW_CONV3D = (2, 9)
"""torch that runs the patch embedding, a Conv3d, 10 to 20 times slower (pytorch #174051, ms-swift #6744)."""
VISION_OFFSET = 15
"""torch 2.N and torchvision 0.(N + 15) are built for each other (torchvision README)."""

Asks = Callable[[str], Iterable[str]]


def requirements(name: str) -> list[str]:
    """What the distribution `name` says it needs, with markers; nothing where it is not installed."""
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def version_findings(
    installed: Mapping[str, str], *, asks: Asks = requirements
) -> Iterator[Diagnostic]:
    """What is wrong among `installed`, versions by distribution."""
    yield from _torch(installed)
    for wanted in _wanted(OWN, EXTRAS, asks):
        name = _same(wanted.name, installed)
        if name is not None and not _within(wanted, installed[name]):
            yield Diagnostic(
                code="QVL421",
                message=f"{name} {installed[name]} is outside of {wanted.specifier}, which qvl-run is tested with",
                hint=f'pip install "{name}{wanted.specifier}"',
                severity="warning",
            )
    for owner in installed:
        for wanted in _wanted(owner, ("",), asks):
            name = _same(wanted.name, installed)
            if name is None or (owner, name) == ("torchvision", "torch"):
                continue  # that pair has a finding of its own
            if not _within(wanted, installed[name]):
                yield Diagnostic(
                    code="QVL422",
                    message=f"{owner} {installed[owner]} needs {name}{wanted.specifier}; "
                    f"{installed[name]} is installed",
                    hint=f'pip install "{name}{wanted.specifier}", or another {owner}',
                    severity="warning",
                )


def release(version: str | None) -> tuple[int, int] | None:
    """Major and minor number; None where there is none to tell."""
    try:
        found = Version(version or "")
    except InvalidVersion:
        return None
    return found.major, found.minor


def _torch(installed: Mapping[str, str]) -> Iterator[Diagnostic]:
    torch, vision = release(installed.get("torch")), release(installed.get("torchvision"))
    if torch is None:
        return
    if torch == SLOW_CONV3D:
        yield Diagnostic(
            code="QVL418",
            message=f"torch {installed['torch']} reads images 10 to 20 times slower than others: its Conv3d is slow",
            hint='pip install "torch>=2.10", and the torchvision that belongs to it',
            severity="warning",
        )
    if "torchvision" not in installed:
        yield Diagnostic(
            code="QVL419",
            message="torchvision is not installed",
            hint="nothing is to be done: qvl-run reads images without it; videos would need it",
            severity="warning",
        )
    elif vision is not None and torch[0] == 2 and vision != (0, torch[1] + VISION_OFFSET):
        right = f"0.{torch[1] + VISION_OFFSET}"
        yield Diagnostic(
            code="QVL420",
            message=f"torchvision {installed['torchvision']} was not built for torch {installed['torch']}",
            hint=f"pip install torchvision=={right}.*, or uninstall it: images are read without it",
            severity="warning",
        )


def _wanted(owner: str, extras: Iterable[str], asks: Asks) -> Iterator[Requirement]:
    """What `owner` needs for `extras`; "" stands for none."""
    for text in asks(owner):
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue  # what an old tool has written into its metadata
        always = wanted.marker is None and "" in extras
        marked = wanted.marker is not None and any(
            wanted.marker.evaluate({"extra": extra}) for extra in extras
        )
        if always or marked:
            yield wanted


def _same(name: str, installed: Mapping[str, str]) -> str | None:
    return next((n for n in installed if canonicalize_name(n) == canonicalize_name(name)), None)


def _within(wanted: Requirement, version: str) -> bool:
    try:
        return wanted.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return True  # nothing can be said of it
