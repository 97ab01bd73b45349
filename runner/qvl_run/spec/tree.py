"""A job file's content as a tree of nodes, each with the place it was written at.

Files are laid over one another node by node, so that every value keeps its origin. Trees are never changed: `merge`
makes a new one that shares what it can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qvl_run.spec.diagnostic import Span

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Value:
    """A scalar."""

    value: Scalar
    span: Span


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: Sequence[Tree]
    span: Span


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a map and what it holds."""

    key: Span
    tree: Tree


@dataclass(frozen=True, slots=True)
class Map:
    """A map; `entries` keep the order of the file."""

    entries: Mapping[str, Entry]
    span: Span


@dataclass(frozen=True, slots=True)
class Reset:
    """`!reset`: drops the key that a file below has set."""

    span: Span


Tree = Value | Items | Map | Reset


def merge(under: Tree, over: Tree) -> Tree:
    """`over` laid on `under`: maps merge, key by key; everything else replaces; `!reset` drops."""
    if not (isinstance(under, Map) and isinstance(over, Map)):
        return over
    entries = dict(under.entries)
    for key, entry in over.entries.items():
        if isinstance(entry.tree, Reset):
            entries.pop(key, None)
        elif key in entries:
            entries[key] = Entry(entry.key, merge(entries[key].tree, entry.tree))
        else:
            entries[key] = Entry(entry.key, settled(entry.tree))
    return Map(entries, over.span)


def settled(tree: Tree) -> Tree:
    """`tree` without what its `!reset`s name: nothing lies below it."""
    if isinstance(tree, Map):
        kept = {
            key: Entry(entry.key, settled(entry.tree))
            for key, entry in tree.entries.items()
            if not isinstance(entry.tree, Reset)
        }
        return Map(kept, tree.span)
    return tree
