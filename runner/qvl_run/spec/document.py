"""A job as plain data, with the place of every key and value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from qvl_run.spec.diagnostic import Span
from qvl_run.spec.tree import Items, Map, Reset, Tree

Key = str | int
KeyPath = tuple[Key, ...]


@dataclass(frozen=True, kw_only=True)
class Document:
    """`data` is the content, `file` the job file that was asked for. Ask for places with `span`."""

    file: str
    data: Any
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

    def stage_span(self, stage: str, *path: Key) -> Span:
        """The place of the value at `path` of a stage: in the stage, else in the job's defaults, else the stage."""
        for at in (("stages", stage, *path), path):
            if self.has(at):
                return self.span(at)
        return self.key_span(("stages", stage))

    def has(self, path: Sequence[Key]) -> bool:
        """Whether something stands at `path`."""
        return tuple(path) in self._values

    def leaves(self) -> Iterator[tuple[KeyPath, Any, Span]]:
        """Each scalar, list and empty map: its path, its value, its place, in the order of the file."""
        yield from _leaves(self.data, (), self._values)


def from_tree(tree: Map, *, file: str) -> Document:
    """`tree` as data with places."""
    keys: dict[KeyPath, Span] = {}
    values: dict[KeyPath, Span] = {}
    return Document(file=file, data=_plain(tree, (), keys, values), _keys=keys, _values=values)


def _plain(
    tree: Tree, path: KeyPath, keys: dict[KeyPath, Span], values: dict[KeyPath, Span]
) -> Any:
    values[path] = tree.span
    if isinstance(tree, Map):
        data = {}
        for key, entry in tree.entries.items():
            keys[(*path, key)] = entry.key
            data[key] = _plain(entry.tree, (*path, key), keys, values)
        return data
    if isinstance(tree, Items):
        return [_plain(item, (*path, i), keys, values) for i, item in enumerate(tree.items)]
    return None if isinstance(tree, Reset) else tree.value


def _leaves(
    data: Any, path: KeyPath, values: dict[KeyPath, Span]
) -> Iterator[tuple[KeyPath, Any, Span]]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _leaves(value, (*path, key), values)
    else:
        yield path, data, values[path]
