"""What must hold of a run that was disturbed: while it goes on, and once it is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from qvl_run.recovery.rules import MAX_RESTARTS
from tests.soak.plan import Kind
from tests.soak.site import Site

DIED, STOPPED, BROKEN = -9, 75, 4
DEADLY: frozenset[Kind] = frozenset({"machine dies", "machine lost", "upload cut short"})
_EXPLAINS: dict[int, frozenset[Kind]] = {
    DIED: DEADLY | {"crash point"},
    # A run gives up for now after three restarts that came no further, and where storage has not got everything.
    STOPPED: frozenset(
        {
            "runner asked to end",
            "qvl-run stop",
            "child killed",
            "child asked to end",
            "storage refuses",
        }
    ),
}


def explained(code: int, did: Iterable[Kind]) -> bool:
    """Whether a start may end with `code` after the faults `did`."""
    return code == 0 or bool(_EXPLAINS.get(code, frozenset()) & set(did))


def refused_rightly(site: Site, *, known: Collection[str]) -> str:
    """The stage whose checkpoints the newest start has called broken, all of them. Raises AssertionError where one of
    them is whole; of the stages `known` what is whole may have been given up before."""
    stage = site.said.rpartition("--stage ")[2].split()[0]
    assert stage in site.job.stages, f"exit code {BROKEN} names no stage\n{site.said}"
    assert site.broken(stage), f"nothing of {stage} is broken\n{site.said}"
    whole = site.whole(stage)
    assert stage in known or not whole, (
        f"{', '.join(map(str, whole))} is whole, and was not used\n{site.said}"
    )
    return stage


def check_done(site: Site, reference: Mapping[str, set[str]]) -> None:
    """That every stage's output is that of the undisturbed run, and that the story is whole. Raises AssertionError."""
    results = site.results()
    different = [stage for stage, found in results.items() if found != reference[stage]]
    assert not different, f"other results in {different}: {results}, undisturbed {reference}"
    check_story(site)


def check_story(site: Site) -> None:
    """That the story is whole JSON lines, each told once, that storage has what is here, and that no stage was
    restarted more often than the ceiling allows. Raises AssertionError and ValueError."""
    here, stored = site.scratch / "events", site.storage / "runs" / site.job.name
    for folder in (here, stored):
        ids = Counter(str(record["id"]) for record in site.records(folder))
        assert set(ids.values()) == {1}, f"{folder} tells {ids.most_common(3)}"
    for path in here.glob("*.jsonl"):
        there = stored / path.name
        assert there.read_bytes() == path.read_bytes(), f"{there} is not what {path} is"
    last = site.records(here)[-1]
    assert (last["event"], last.get("ending")) == ("run_ended", "done"), last
    for record in site.records(stored):
        if record["event"] == "restart":
            assert int(record["account"]["total"]) <= MAX_RESTARTS, record
