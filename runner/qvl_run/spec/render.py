"""Diagnostics as text: the message, the place, the line with a mark under it, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from qvl_run.spec.diagnostic import Diagnostic


def render(diagnostics: Iterable[Diagnostic], *, colour: bool = False) -> str:
    """All of `diagnostics`, a blank line between two."""
    return "\n\n".join(_one(diagnostic, colour) for diagnostic in diagnostics)


def _one(diagnostic: Diagnostic, colour: bool) -> str:
    red, bold, blue, plain = ("\033[31m", "\033[1m", "\033[34m", "\033[0m") if colour else ("",) * 4
    head = (
        f"{red}{diagnostic.severity}[{diagnostic.code}]{plain}{bold}: {diagnostic.message}{plain}"
    )
    lines = [head]
    span = diagnostic.span
    if span is not None:
        width = len(str(span.line))
        lines.append(f"{' ' * width}{blue}-->{plain} {span.file}:{span.line}:{span.column}")
        source = _lines(span.file)
        if span.line <= len(source):
            text = source[span.line - 1]
            mark = " " * (span.column - 1) + "^" * max(
                1, min(span.length, len(text) - span.column + 1)
            )
            lines.append(f"{blue}{span.line} |{plain} {text[:160]}")
            if span.column <= 160:
                lines.append(f"{' ' * width} {blue}|{plain} {red}{mark[:160]}{plain}")
    if diagnostic.hint:
        lines.append(f"  = {diagnostic.hint}")
    return "\n".join(lines)


@cache
def _lines(file: str) -> list[str]:
    try:
        text = Path(file).read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return []
    return ["".join(c if c.isprintable() else " " for c in line) for line in text.splitlines()]
