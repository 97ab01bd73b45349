"""One job out of several sources: what it extends, the file itself, a profile of it, and `--set` options, in that
order, each laid over those before it (all `--set` as one). `extends` and `profiles` are gone from the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

from qvl_run import resources
from qvl_run.spec import yaml_text
from qvl_run.spec.diagnostic import Diagnostic, JobError, Span, did_you_mean
from qvl_run.spec.document import Document, from_tree
from qvl_run.spec.paths import expanded, is_file
from qvl_run.spec.tree import PROFILES, Entry, Items, Map, Tree, Value, merge, settled, together

OPTION = "--set"
"""Names the command line as the file of a place."""
MAX_SOURCES = 20


@dataclass(frozen=True, kw_only=True)
class Overlays:
    """What the command line lays over a job file: the names of profiles, and `KEY=VALUE` texts, in their order."""

    profiles: Sequence[str] = field(default=())
    settings: Sequence[str] = field(default=())


def compose(path: Path, *, overlays: Overlays | None = None) -> Document:
    """The job at `path` with all that it extends and all that is laid over it. Raises JobError."""
    overlays = overlays or Overlays()
    tree = _with_bases(yaml_text.read_file(path), path, [path.resolve()])
    _check_profiles(tree)
    for name in overlays.profiles:
        tree = _with_profile(tree, name)
    tree = _without(tree, PROFILES)
    if overlays.settings:
        # As one: which of them names another source of rows does not depend on their order.
        settings: Iterator[Tree] = map(_setting, overlays.settings)
        laid = merge(tree, reduce(together, settings))
        assert isinstance(laid, Map)
        tree = laid
    whole = settled(tree)
    assert isinstance(whole, Map)
    return from_tree(whole, file=str(path))


def _with_bases(tree: Map, path: Path, above: list[Path]) -> Map:
    """`tree` over the jobs that its `extends` names. `above` are the files that led here."""
    entry = tree.entries.get("extends")
    if entry is None:
        return tree
    result: Tree | None = None
    for name, span in _names(entry):
        base = _base(name, span, path)
        if base.resolve() in above or len(above) > MAX_SOURCES:
            chain = " -> ".join(p.name for p in [*above, base])
            raise _error("QVL021", f"jobs extend each other in a circle: {chain}", span)
        found = _with_bases(yaml_text.read_file(base), base, [*above, base.resolve()])
        result = found if result is None else merge(result, found)
    own = _without(tree, "extends")
    whole = own if result is None else merge(result, own)
    assert isinstance(whole, Map)
    return whole


def _names(entry: Entry) -> Iterator[tuple[str, Span]]:
    items = entry.tree.items if isinstance(entry.tree, Items) else [entry.tree]
    for item in items:
        if not isinstance(item, Value) or not isinstance(item.value, str) or not item.value:
            message = (
                "extends takes the path of a job file, the name of a shipped job, or a list of them"
            )
            raise _error("QVL022", message, item.span)
        yield item.value, item.span


def _base(name: str, span: Span, path: Path) -> Path:
    if "://" in name:
        raise _error("QVL023", f"extends takes a file, not a URL: {name}", span)
    candidate = path.parent / expanded(name)
    if is_file(candidate):
        return candidate
    shipped = resources.shipped_jobs()
    if name.removesuffix(".yaml") in shipped:
        return shipped[name.removesuffix(".yaml")]
    here = [p.name for p in path.parent.glob("*.yaml") if p != path]
    hint = did_you_mean(name, [*shipped, *here])
    raise _error("QVL022", f"there is no job {name[:80]}", span, hint)


def _check_profiles(tree: Map) -> None:
    """Profiles are gone before the schema is asked, so their form is checked here."""
    entry = tree.entries.get(PROFILES)
    if entry is None:
        return
    if not isinstance(entry.tree, Map):
        raise _error("QVL103", "profiles must be a map", entry.tree.span)
    for name, profile in entry.tree.entries.items():
        if not isinstance(profile.tree, Map):
            raise _error("QVL103", f"profiles.{name} must be a map", profile.tree.span)


def _with_profile(tree: Map, name: str) -> Map:
    entry = tree.entries.get(PROFILES)
    profiles = entry.tree if entry else None
    known = profiles.entries if isinstance(profiles, Map) else {}
    if name not in known:
        hint = did_you_mean(name, known) or "the job has no profiles"
        raise _error("QVL010", f'--profile: the job has no profile "{name}"', None, hint)
    laid = merge(tree, known[name].tree)
    assert isinstance(laid, Map)
    return laid


def _setting(text: str) -> Map:
    """`KEY=VALUE` as a tree; the value is read as it would be in the file."""
    dotted, equals, value = text.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        hint = "for example: --set stages.sft.training.num_epochs=2"
        raise _error("QVL024", f"--set takes KEY=VALUE, not {text[:60]!r}", None, hint)
    file = f"{OPTION} {text[:80]}"
    tree = yaml_text.parse(value, file=file) if value.strip() else Value(None, Span(file, 1, 1))
    # Places within an option count from the option's own start.
    for key in reversed(keys):
        span = Span(file, 1, 1, len(dotted))
        tree = Map({key: Entry(span, tree)}, tree.span)
    assert isinstance(tree, Map)
    return tree


def _without(tree: Map, key: str) -> Map:
    return Map({k: e for k, e in tree.entries.items() if k != key}, tree.span)


def _error(code: str, message: str, span: Span | None, hint: str = "") -> JobError:
    return JobError([Diagnostic(code=code, message=message, span=span, hint=hint)])
