"""YAML 1.2 text as a tree with the place of every key and value.

Built on ruamel.yaml's node graph, so that places are exact through anchors, aliases and `<<`. Tags other than the
core schema's and `!reset` are refused; no object is ever constructed from the file. `on`, `yes` and `1e-4` mean what
YAML 1.2 says: two strings and a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qvl_run.spec.diagnostic import Diagnostic, JobError, Span
from qvl_run.spec.tree import Entry, Items, Map, Reset, Scalar, Tree, Value

MAX_BYTES = 128_000
MAX_MARKS = 30_000
"""Line ends, colons, commas and the like: what the parser's time goes by. Both bounds are more than any job has (one of
2,000 lines has about 6,000), and little enough to be read in about a second."""
MAX_NODES = 50_000
MAX_DEPTH = 60
BRACKETS = 200
"""Open brackets at a time, counted roughly before the text is parsed."""
MAX_FINDINGS = 50
RESET = "!reset"
"""The tag of a key that is to be dropped."""

_BRACKET = re.compile(r"[\[\]{}]")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULL = {"", "~", "null", "Null", "NULL"}
_CORE = "tag:yaml.org,2002:"
_NAMES = ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "value", "merge")
_KNOWN = {_CORE + name for name in _NAMES}


def read_file(path: Path, *, shown: str | None = None) -> Map:
    """The tree of the file at `path`. Raises JobError where it is missing, not text, or not one YAML map."""
    name = shown or str(path)
    try:
        size = path.stat().st_size
        raw = path.read_bytes() if size <= MAX_BYTES else b""
    except FileNotFoundError:
        raise JobError([_finding("QVL001", f"there is no file {name}", hint=_near(path))]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise JobError([_finding("QVL001", f"cannot read {name}: {reason}")]) from None
    if size > MAX_BYTES:
        message = f"{name} has {size} bytes; a job file has at most {MAX_BYTES}"
        raise JobError([_finding("QVL002", message)])
    return parse_bytes(raw, file=name)


def parse_bytes(raw: bytes, *, file: str) -> Map:
    """The tree of a file's bytes, with or without a byte order mark. Raises JobError."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise JobError(
            [_finding("QVL002", "the file is not UTF-8 text", Span(file, line, 1))]
        ) from None
    tree = parse(text, file=file)
    if not isinstance(tree, Map):
        message = "a job file is a map of keys at its top"
        raise JobError([_finding("QVL004", message, Span(file, 1, 1))])
    return tree


def parse(text: str, *, file: str) -> Tree:
    """`text` as a tree. Raises JobError with the place of the first syntax error, or with all other findings."""
    from ruamel.yaml.error import MarkedYAMLError

    if sum(map(text.count, "\n:,[{-?&*")) > MAX_MARKS:
        raise JobError([_finding("QVL002", "the file holds more than a job can", Span(file, 1, 1))])
    if place := _too_deep(text):
        message = f"the file is nested deeper than {MAX_DEPTH}"
        raise JobError([_finding("QVL002", message, Span(file, *place))])
    try:
        root = _yaml().compose(text)
    except MarkedYAMLError as error:
        raise JobError([_syntax_error(error, text.splitlines(), file)]) from None
    # ruamel.yaml lets errors of many kinds through on hostile text, also ones of Python's own.
    except Exception as error:
        line, column = _bad_character(text)
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        span = Span(file, line, column)
        raise JobError([_finding("QVL003", f"not valid YAML: {reason}", span)]) from None
    if root is None:
        raise JobError([_finding("QVL004", "the file is empty", Span(file, 1, 1))])
    reader = _Reader(file)
    tree = reader.tree(root, 0)
    if reader.findings:
        raise JobError(reader.findings)
    return tree


def _yaml() -> Any:
    """ruamel.yaml, told that a tag ends where `{a: !reset, b: !reset}` ends it: by itself it takes `,` and `}` for part
    of the tag, or demands a space before them."""
    from ruamel.yaml import YAML
    from ruamel.yaml.scanner import Scanner
    from ruamel.yaml.tokens import TagToken

    class FlowScanner(Scanner):
        def scan_tag(self) -> Any:
            reader, length = self.reader, len(RESET)
            ahead = reader.prefix(length + 1)
            if not (self.flow_level and ahead[:length] == RESET and ahead[length:] in list(",]}")):
                return super().scan_tag()
            start = reader.get_mark()
            reader.forward(length)
            return TagToken(("!", RESET[1:]), start, reader.get_mark())

    yaml = YAML(typ="safe", pure=True)
    yaml.Scanner = FlowScanner
    return yaml


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.findings: list[Diagnostic] = []
        self.nodes = 0

    def span(self, node: Any) -> Span:
        start, end = node.start_mark, node.end_mark
        length = end.column - start.column if end.line == start.line else 1
        return Span(self.file, start.line + 1, start.column + 1, max(1, length))

    def tree(self, node: Any, depth: int) -> Tree:
        from ruamel.yaml.nodes import MappingNode, SequenceNode

        self.nodes += 1
        span = self.span(node)
        if depth > MAX_DEPTH:
            raise JobError(
                [_finding("QVL002", f"the file is nested deeper than {MAX_DEPTH}", span)]
            )
        if self.nodes > MAX_NODES:
            message = "the file is too large once its aliases expand"
            raise JobError([_finding("QVL002", message, span)])
        tag = str(node.tag or _CORE + "str")
        if tag == RESET:
            return Reset(span)
        if tag not in _KNOWN:
            message = f'the tag "{tag.replace(_CORE, "!!")}" is not allowed here'
            self.findings.append(_finding("QVL006", message, span))
            return Value(None, span)
        if isinstance(node, MappingNode):
            return Map(self.entries(node, depth), span)
        if isinstance(node, SequenceNode):
            return Items([self.tree(item, depth + 1) for item in node.value], span)
        return Value(_scalar(node), span)

    def entries(self, node: Any, depth: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        merged: list[Any] = []
        for key_node, value_node in node.value:
            key, span = key_node.value, self.span(key_node)
            if not isinstance(key, str):
                self.findings.append(_finding("QVL005", "a key must be plain text", span))
            elif key == "<<" and key_node.style is None:
                merged.append(value_node)
            elif len(self.findings) >= MAX_FINDINGS:
                break
            elif key in entries:
                hint = f"it stands first at line {entries[key].key.line}; keep one of them"
                message = f'the key "{key[:60]}" stands here twice'
                self.findings.append(_finding("QVL005", message, span, hint))
            else:
                entries[key] = Entry(span, self.tree(value_node, depth + 1))
        for value_node in merged:
            for key, entry in self.merged(value_node, depth).items():
                entries.setdefault(key, entry)
        return entries

    def merged(self, node: Any, depth: int) -> dict[str, Entry]:
        """What `<<` brings: of several maps the first that has a key gives it."""
        from ruamel.yaml.nodes import MappingNode, SequenceNode

        found: dict[str, Entry] = {}
        for source in node.value if isinstance(node, SequenceNode) else [node]:
            tree = self.tree(source, depth + 1) if isinstance(source, MappingNode) else None
            if not isinstance(tree, Map):
                message = '"<<" takes a map, or a list of maps'
                self.findings.append(_finding("QVL005", message, self.span(source)))
                continue
            for key, entry in tree.entries.items():
                found.setdefault(key, entry)
        return found


def _scalar(node: Any) -> Scalar:
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


def _syntax_error(error: Any, lines: Sequence[str], file: str) -> Diagnostic:
    mark = error.problem_mark or error.context_mark
    if error.context_mark and mark.line >= len(lines):
        # Something was left open to the end of the file: where it was opened says more.
        mark = error.context_mark
    span = Span(file, mark.line + 1, mark.column + 1) if mark else Span(file, 1, 1)
    problem = " ".join(str(error.problem or error.context or "cannot be read").split())[:200]
    hint = _syntax_hint(lines, span, problem)
    return _finding("QVL003", f"not valid YAML: {problem}", span, hint)


def _syntax_hint(lines: Sequence[str], span: Span, problem: str) -> str:
    line = lines[span.line - 1] if span.line <= len(lines) else ""
    if "\t" in line[: span.column] or "\\t" in problem:
        return "indent with spaces; YAML does not allow tabs there"
    if any(text.startswith(("<<<<<<<", ">>>>>>>")) for text in lines):
        return "this looks like a merge conflict that was left in the file"
    if "mapping values are not allowed" in problem:
        return 'put a value that contains ": " in quotes, and check the indentation'
    return ""


def _near(path: Path) -> str:
    from difflib import get_close_matches

    folder = path.parent if path.parent.is_dir() else Path()
    names = [p.name for p in folder.glob("*.y*ml")]
    near = get_close_matches(path.name, names, n=1)
    return f"did you mean {folder / near[0]}?" if near else ""


def _too_deep(text: str) -> tuple[int, int] | None:
    """Where brackets pile up so high that the parser would take minutes. Brackets in quotes count too: a job with
    hundreds of these more open than closed is none."""
    depth = 0
    for found in _BRACKET.finditer(text):
        depth = max(0, depth + (1 if found[0] in "[{" else -1))
        if depth > BRACKETS:
            before = text[: found.start()]
            return before.count("\n") + 1, found.start() - before.rfind("\n")
    return None


def _bad_character(text: str) -> tuple[int, int]:
    for number, line in enumerate(text.splitlines(), start=1):
        for column, char in enumerate(line, start=1):
            if not char.isprintable() and char != "\t":
                return number, column
    return 1, 1
