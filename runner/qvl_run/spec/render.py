"""Diagnostics as text for people, as JSON, and as annotations of GitHub's workflows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from qvl_run.spec.diagnostic import Diagnostic

WIDTH = 160
"""Characters of a source line that are shown."""
_SECRET = re.compile(r"(?<=://)[^/\s@]+(?=@)")
"""User and password of a URL: whoever reads a log of findings has not read the file."""


def render(diagnostics: Iterable[Diagnostic], *, colour: bool = False) -> str:
    """All of `diagnostics` for people: message, place, the line with a mark under it, what to do."""
    return "\n\n".join(_one(diagnostic, colour) for diagnostic in diagnostics)


def to_json(diagnostics: Sequence[Diagnostic]) -> list[dict[str, Any]]:
    """All of `diagnostics` as data. `line` and `column` count from 1; null where no file is to blame."""
    return [
        {
            "code": d.code,
            "severity": d.severity,
            "message": d.message,
            "hint": d.hint,
            "file": d.span.file if d.span else None,
            "line": d.span.line if d.span else None,
            "column": d.span.column if d.span else None,
            "length": d.span.length if d.span else None,
        }
        for d in diagnostics
    ]


def as_json(diagnostics: Sequence[Diagnostic]) -> str:
    """`to_json` as text."""
    return json.dumps({"findings": to_json(diagnostics)}, indent=2)


def as_github(diagnostics: Iterable[Diagnostic]) -> str:
    """One workflow command a finding (GitHub Docs, "Workflow commands for GitHub Actions")."""
    lines = []
    for d in diagnostics:
        place = ""
        if d.span is not None and not d.span.is_option:
            end = d.span.column + d.span.length
            place = f" file={_property(d.span.file)},line={d.span.line},col={d.span.column},endColumn={end},"
        text = d.message + (f"\n{d.hint}" if d.hint else "")
        lines.append(f"::{d.severity}{place or ' '}title={d.code}::{_escaped(text)}")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def _one(diagnostic: Diagnostic, colour: bool) -> str:
    red, bold, blue, plain = ("\033[31m", "\033[1m", "\033[34m", "\033[0m") if colour else ("",) * 4
    head = (
        f"{red}{diagnostic.severity}[{diagnostic.code}]{plain}{bold}: {diagnostic.message}{plain}"
    )
    lines = [head]
    span = diagnostic.span
    if span is not None:
        width = len(str(span.line))
        lines.append(f"{' ' * width}{blue}-->{plain} {span.shown()}")
        source = [] if span.is_option else _lines(span.file)
        if span.line <= len(source):
            text = source[span.line - 1]
            mark = " " * (span.column - 1) + "^" * max(
                1, min(span.length, len(text) - span.column + 1)
            )
            lines.append(f"{blue}{span.line} |{plain} {text[:WIDTH]}")
            if span.column <= WIDTH:
                lines.append(f"{' ' * width} {blue}|{plain} {red}{mark[:WIDTH]}{plain}")
    if diagnostic.hint:
        lines.append(f"  = {diagnostic.hint}")
    return "\n".join(lines)


@cache
def _lines(file: str) -> list[str]:
    try:
        text = Path(file).read_text(encoding="utf-8-sig", errors="replace")
    except (OSError, ValueError):
        return []
    text = _SECRET.sub(lambda found: "*" * len(found[0]), text)
    return ["".join(c if c.isprintable() else " " for c in line) for line in text.splitlines()]
