"""One type for every finding: what is wrong, where exactly, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

Severity = Literal["error", "warning"]
_ECHOING = {"QVL101", "QVL103", "QVL104", "QVL105", "QVL204", "QVL222", "QVL302"}


@dataclass(frozen=True, order=True)
class Span:
    """A place in a file, or an option of the command line, `file` being its text then. `line` and `column` count
    from 1; `length` is in characters of that line, at least 1."""

    file: str
    line: int
    column: int
    length: int = 1

    @property
    def is_option(self) -> bool:
        """Whether it is an option of the command line: its line and column say nothing."""
        return self.file.startswith("--")

    def shown(self, *, column: bool = True) -> str:
        """For people: `job.yaml:4:12`, without its column `job.yaml:4`; an option as it was given."""
        if self.is_option:
            return self.file
        return f"{self.file}:{self.line}" + (f":{self.column}" if column else "")


@dataclass(frozen=True, kw_only=True)
class Diagnostic:
    """One finding. `code` is stable across releases; `hint` says what to do; `span` is None where no file is to
    blame (the machine, the command line)."""

    code: str
    message: str
    span: Span | None = None
    hint: str = ""
    severity: Severity = "error"


class JobError(Exception):
    """The command line or the job file is wrong. Carries every finding, sorted by place."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(sorted(_without_echoes(diagnostics), key=_place))
        super().__init__("; ".join(d.message for d in self.diagnostics))


def _place(diagnostic: Diagnostic) -> tuple[str, int, int, str]:
    span = diagnostic.span or Span("", 0, 0)
    return span.file, span.line, span.column, diagnostic.code


def _without_echoes(diagnostics: Iterable[Diagnostic]) -> Iterator[Diagnostic]:
    """Each finding once: a map that several places inherit would have its mistakes told at each of them."""
    seen = set()
    for diagnostic in diagnostics:
        mark = (diagnostic.code, diagnostic.span)
        if diagnostic.code in _ECHOING and mark in seen:
            continue
        seen.add(mark)
        yield diagnostic


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint with the nearest of `known`, or with all of them where none is near."""
    names = sorted(known)
    near = get_close_matches(word, names, n=1, cutoff=0.6 if len(word) > 3 else 0.5)
    if near:
        return f'did you mean "{near[0]}"?'
    return f"known: {', '.join(names)}" if names else ""
