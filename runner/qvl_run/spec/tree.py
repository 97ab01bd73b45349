"""A job file's content as a tree of nodes, each with the place it was written at.

Files are laid over one another node by node, so that every value keeps its origin. Trees are never changed: `merge`
makes a new one that shares what it can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
    """A map; `entries` keep the order of the file. With `whole`, it replaces what it is laid on: what stood there was
    dropped, or is another source."""

    entries: Mapping[str, Entry]
    span: Span
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Reset:
    """`!reset`: drops the key that a file below has set."""

    span: Span


Tree = Value | Items | Map | Reset
PROFILES = "profiles"
"""The key under which a job keeps overlays of itself."""


At = tuple[str, ...]
"""The keys that lead to a tree."""


def merge(under: Tree, over: Tree) -> Tree:
    """`over` laid on `under`: maps merge, key by key; everything else replaces; `!reset` drops.

    Data that names another `format` than `under` replaces it whole, and a stage that names another `uses` does not
    inherit `with`: the options of one plugin mean nothing to another.
    """
    return _laid(under, over, (), keep=False)


def together(first: Tree, second: Tree) -> Tree:
    """Two overlays as one: what `second` says wins, and what either drops is still to be dropped."""
    return _laid(first, second, (), keep=True)


def _laid(under: Tree, over: Tree, at: At, *, keep: bool) -> Tree:
    """Both stand at `at`. With `keep` they are overlays, and so is what comes out."""
    if not isinstance(over, Map):
        return over
    if not isinstance(under, Map):
        return replace(over, whole=True) if keep else over
    if over.whole or (_is_data(at) and _differ(under, over, "format")):
        return replace(over, whole=True) if keep else settled(over)
    entries = dict(under.entries)
    if _is_stage(at) and _differ(under, over, "uses"):
        entries.pop("with", None)
    inner = keep or at == (PROFILES,)  # profiles are overlays too
    for key, entry in over.entries.items():
        below = (*at, key)
        if isinstance(entry.tree, Reset) and not keep:
            entries.pop(key, None)
        elif key in entries:
            tree = _laid(entries[key].tree, entry.tree, below, keep=inner)
            entries[key] = Entry(entry.key, tree)
        elif inner or below == (PROFILES,):
            entries[key] = entry
        else:
            entries[key] = Entry(entry.key, settled(entry.tree))
    return Map(entries, over.span, whole=keep and under.whole)


def _is_stage(at: At) -> bool:
    return len(_in_job(at)) == 2 and _in_job(at)[0] == "stages"


def _is_data(at: At) -> bool:
    """Whether a block that names a source of rows stands there."""
    at = _in_job(at)
    own = at[2:] if at[:1] == ("stages",) else at
    return own == ("evaluation", "data") or (own != at and own in (("data",), ("eval_data",)))


def _in_job(at: At) -> At:
    """`at` without the profile that it stands in."""
    return at[2:] if at[:1] == (PROFILES,) else at


def _differ(under: Map, over: Map, key: str) -> bool:
    """Whether both say `key`, and not the same."""
    one, other = under.entries.get(key), over.entries.get(key)
    if one is None or other is None:
        return False
    return _value(one.tree) != _value(other.tree)


def _value(tree: Tree) -> Scalar:
    return tree.value if isinstance(tree, Value) else None


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
