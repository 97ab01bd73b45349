"""Which stage starts from which: `needs`, else the one before it in the file. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qvl_run.spec.diagnostic import Diagnostic, did_you_mean
from qvl_run.spec.document import Document


def order_findings(document: Document) -> Iterator[Diagnostic]:
    """Stages that need what is not there, or each other in a circle."""
    stages = document.data["stages"]
    for name, stage in stages.items():
        needs = stage.get("needs")
        at = ("stages", name, "needs")
        if needs is not None and needs not in stages:
            yield Diagnostic(
                code="QVL206",
                message=f'stages.{name} needs "{needs}", which is no stage of this job',
                span=document.span(at),
                hint=did_you_mean(needs, [n for n in stages if n != name]),
            )
        if needs is not None and "init_from" in stage:
            yield Diagnostic(
                code="QVL207",
                message=f"stages.{name} has both needs and init_from: it can start from one of them only",
                span=document.key_span(("stages", name, "init_from")),
            )
    yield from _cycles(document)


def upstreams(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, str | None]:
    """The stage that each starts from: `needs`, else the one before it in the file, unless it has `init_from`."""
    found: dict[str, str | None] = {}
    before: str | None = None
    for name, stage in stages.items():
        if "needs" in stage:
            found[name] = stage["needs"]
        else:
            found[name] = None if "init_from" in stage else before
        before = name
    return found


def _cycles(document: Document) -> Iterator[Diagnostic]:
    upstream = upstreams(document.data["stages"])
    reported: set[str] = set()
    for name in upstream:
        walk = [name]
        while (following := upstream.get(walk[-1])) and following not in walk:
            walk.append(following)
        if following == name and name not in reported:
            reported |= set(walk)
            yield Diagnostic(
                code="QVL208",
                message=f"stages need each other in a circle: {' -> '.join([*walk, name])}",
                span=document.span(("stages", name, "needs")),
                hint="one of them must start from the base model (needs: null) or from init_from",
            )
