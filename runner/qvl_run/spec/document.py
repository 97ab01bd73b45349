"""A YAML 1.2 file as plain data with the place of every key and value.

Built on ruamel.yaml's node graph, so that places are exact through anchors, aliases and `<<`. Tags other than the
core schema's are refused; no object is ever constructed from the file. `on`, `yes` and `1e-4` mean what YAML 1.2
says: two strings and a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qvl_run.spec.diagnostic import Diagnostic, JobError, Span

MAX_BYTES = 4_000_000
MAX_NODES = 100_000
MAX_DEPTH = 60

Key = str | int
KeyPath = tuple[Key, ...]

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULL = {"", "~", "null", "Null", "NULL"}
_CORE = "tag:yaml.org,2002:"
_KNOWN = {
    _CORE + name
    for name in ["map", "seq", "str", "int", "float", "bool", "null", "timestamp", "value", "merge"]
}


@dataclass(frozen=True, kw_only=True)
class Document:
    """`data` is the file's content; `lines` its text. Ask for places with `span`."""

    file: str
    data: Any
    lines: Sequence[str]
    _keys: dict[KeyPath, Span] = field(repr=False)
    _values: dict[KeyPath, Span] = field(repr=False)

    def span(self, path: Sequence[Key], *, key: bool = False) -> Span:
        """The place of the value at `path` (of its key with `key=True`), else of the nearest parent there is."""
        at = tuple(path)
        if key and at in self._keys:
            return self._keys[at]
        while at and at not in self._values:
            at = at[:-1]
        return self._values.get(at, Span(self.file, 1, 1))

    def key_span(self, path: Sequence[Key]) -> Span:
        """The place of the last key of `path`; of the value where it is an element of a list."""
        return self.span(path, key=True)


def read(path: Path, *, shown: str | None = None) -> Document:
    """Read `path`. Raises JobError for a file that is missing, not text or not one YAML mapping."""
    name = shown or str(path)
    try:
        size = path.stat().st_size
        raw = path.read_bytes() if size <= MAX_BYTES else b""
    except FileNotFoundError:
        raise JobError([_finding("QVL001", f"there is no file {name}", hint=_near(path))]) from None
    except OSError as error:
        raise JobError(
            [_finding("QVL001", f"cannot read {name}: {error.strerror or error}")]
        ) from None
    if size > MAX_BYTES:
        raise JobError(
            [_finding("QVL002", f"{name} has {size} bytes; a job file has at most {MAX_BYTES}")]
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise JobError(
            [_finding("QVL002", "the file is not UTF-8 text", Span(name, line, 1))]
        ) from None
    return parse(text, file=name)


def parse(text: str, *, file: str) -> Document:
    """`text` as a document. Raises JobError with the place of the first syntax error."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    lines = text.splitlines()
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if error.context_mark and mark.line >= len(lines):
            # Something was left open to the end of the file: where it was opened says more.
            mark = error.context_mark
        span = Span(file, mark.line + 1, mark.column + 1) if mark else Span(file, 1, 1)
        problem = " ".join(str(error.problem or error.context or "cannot be read").split())
        raise JobError(
            [
                _finding(
                    "QVL003", f"not valid YAML: {problem}", span, _syntax_hint(lines, span, problem)
                )
            ]
        ) from None
    except (YAMLError, ValueError, RecursionError) as error:
        line, column = _bad_character(text)
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise JobError(
            [_finding("QVL003", f"not valid YAML: {reason}", Span(file, line, column))]
        ) from None
    if root is None:
        raise JobError([_finding("QVL004", "the file is empty", Span(file, 1, 1))])
    reader = _Reader(file)
    data = reader.value(root, (), 0)
    if reader.findings:
        raise JobError(reader.findings)
    if not isinstance(data, dict):
        raise JobError(
            [_finding("QVL004", "a job file is a map of keys at its top", Span(file, 1, 1))]
        )
    return Document(file=file, data=data, lines=lines, _keys=reader.keys, _values=reader.values)


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.keys: dict[KeyPath, Span] = {}
        self.values: dict[KeyPath, Span] = {}
        self.findings: list[Diagnostic] = []
        self.nodes = 0

    def span(self, node: Any) -> Span:
        start, end = node.start_mark, node.end_mark
        length = end.column - start.column if end.line == start.line else 1
        return Span(self.file, start.line + 1, start.column + 1, max(1, length))

    def value(self, node: Any, path: KeyPath, depth: int) -> Any:
        from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            what = (
                f"nested deeper than {MAX_DEPTH}"
                if depth > MAX_DEPTH
                else "too large once its aliases expand"
            )
            raise JobError([_finding("QVL002", f"the file is {what}", self.span(node))])
        self.values.setdefault(path, self.span(node))
        if str(node.tag or _CORE + "str") not in _KNOWN:
            message = f'the tag "{_shown_tag(str(node.tag))}" is not allowed here'
            self.findings.append(_finding("QVL006", message, self.span(node)))
            return None
        if isinstance(node, MappingNode):
            return self.mapping(node, path, depth)
        if isinstance(node, SequenceNode):
            return [self.value(item, (*path, i), depth + 1) for i, item in enumerate(node.value)]
        assert isinstance(node, ScalarNode)
        return self.scalar(node)

    def mapping(self, node: Any, path: KeyPath, depth: int) -> dict[str, Any]:
        data: dict[str, Any] = {}
        merged: list[Any] = []
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key, str):
                self.findings.append(
                    _finding("QVL005", "a key must be plain text", self.span(key_node))
                )
                continue
            if key == "<<" and key_node.style is None:
                merged.append(value_node)
                continue
            if key in data:
                first = self.keys[(*path, key)]
                self.findings.append(
                    _finding(
                        "QVL005",
                        f'the key "{key}" stands here twice',
                        self.span(key_node),
                        f"it stands first at line {first.line}; keep one of them",
                    )
                )
                continue
            self.keys[(*path, key)] = self.span(key_node)
            data[key] = self.value(value_node, (*path, key), depth + 1)
        for value_node in merged:
            self.merge(value_node, data, path, depth)
        return data

    def merge(self, node: Any, data: dict[str, Any], path: KeyPath, depth: int) -> None:
        from ruamel.yaml.nodes import MappingNode, SequenceNode

        sources = node.value if isinstance(node, SequenceNode) else [node]
        for source in sources:
            if not isinstance(source, MappingNode):
                self.findings.append(
                    _finding("QVL005", '"<<" takes a map, or a list of maps', self.span(source))
                )
                continue
            inner = _Reader(self.file)
            inner.nodes = self.nodes
            values = inner.mapping(source, path, depth + 1)
            self.nodes = inner.nodes
            self.findings += inner.findings
            for key, value in values.items():
                if key in data:
                    continue
                data[key] = value
                at = (*path, key)
                self.keys.update({p: s for p, s in inner.keys.items() if p[: len(at)] == at})
                self.values.update({p: s for p, s in inner.values.items() if p[: len(at)] == at})

    def scalar(self, node: Any) -> Any:
        text: str = node.value
        if node.style is not None or str(node.tag) == _CORE + "str":
            return text
        if text in _BOOL:
            return _BOOL[text]
        if text in _NULL:
            return None
        if _INT.fullmatch(text) and len(text) < 400:
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
            return number
        return text


def _finding(code: str, message: str, span: Span | None = None, hint: str = "") -> Diagnostic:
    return Diagnostic(code=code, message=message, span=span, hint=hint)


def _shown_tag(tag: str) -> str:
    return tag.replace(_CORE, "!!")


def _near(path: Path) -> str:
    from difflib import get_close_matches

    folder = path.parent if path.parent.is_dir() else Path()
    names = [p.name for p in folder.glob("*.y*ml")]
    near = get_close_matches(path.name, names, n=1)
    return f"did you mean {folder / near[0]}?" if near else ""


def _syntax_hint(lines: Sequence[str], span: Span, problem: str) -> str:
    line = lines[span.line - 1] if span.line <= len(lines) else ""
    if "\t" in line[: span.column] or "\\t" in problem:
        return "indent with spaces; YAML does not allow tabs there"
    if any(text.startswith(("<<<<<<<", ">>>>>>>")) for text in lines):
        return "this looks like a merge conflict that was left in the file"
    if "mapping values are not allowed" in problem:
        return 'put a value that contains ": " in quotes, and check the indentation'
    return ""


def _bad_character(text: str) -> tuple[int, int]:
    for number, line in enumerate(text.splitlines(), start=1):
        for column, char in enumerate(line, start=1):
            if not char.isprintable() and char != "\t":
                return number, column
    return 1, 1
