"""One round: a run of a job under the faults that a seed draws, from its first start to its exit code 0."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.check import BROKEN, DEADLY, DIED, check_done, explained, refused_rightly
from tests.soak.inject import inject
from tests.soak.jobs import SoakJob
from tests.soak.plan import ENDING, Kind, Start, draw
from tests.soak.site import Site

MOST = 8
"""Starts that a run may take after its last fault."""


class Different(Exception):
    """A round went wrong; the message says how, and how to repeat it."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where rounds are run: `disk` is this machine's, `drive` outlives it."""

    disk: Path
    drive: Path

    def site(self, job: SoakJob, name: str) -> Site:
        """Fresh folders."""
        return Site(job=job, folder=self.disk / name, drive=self.drive / name)


@dataclass
class Round:
    """`survived` counts the faults by kind that were really done, `starts` those of the command, `given_up` the stages
    of which nothing was whole, so that they had to be begun anew."""

    seed: int
    survived: Counter[Kind] = field(default_factory=Counter)
    starts: int = 0
    given_up: set[str] = field(default_factory=set)
    seconds: float = 0.0

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.survived.items()))
        anew = f", begun anew: {', '.join(self.given_up)}" if self.given_up else ""
        return (
            f"seed {self.seed}: {self.survived.total()} faults ({kinds}), {self.starts} starts{anew}, "
            f"{self.seconds:.0f} s: equal"
        )


def undisturbed(job: SoakJob, places: Places) -> dict[str, set[str]]:
    """What each stage of `job` comes to where nothing happens to it."""
    site = places.site(job, f"{job.name}-undisturbed")
    site.start()
    site.until(lambda: False)
    assert site.code() == 0, site.said
    results = site.results()
    assert all(len(found) == 1 for found in results.values()), results
    clear(site)
    return results


def soak(
    job: SoakJob, places: Places, seed: int, reference: Callable[[], Mapping[str, set[str]]]
) -> Round:
    """The round of `seed`; `reference` is asked at its end. Raises Different, and leaves the folders then."""
    site = places.site(job, f"{job.name}-{seed}")
    done, began = Round(seed), time.monotonic()
    try:
        _run(site, draw(seed, starts=job.starts, beats=job.beats), done)
        check_done(site, reference())
        _nothing_left(site)
    except (AssertionError, ValueError) as error:
        site.stop()
        raise Different(
            f"seed {seed} of {job.name}, after {dict(done.survived)} in {done.starts} starts: {error}\n"
            f"left in {site.folder} and {site.drive}; "
            f"again: python -m tests.soak.soak --job {job.name} --seed {seed} --rounds 1"
        ) from error
    done.seconds = time.monotonic() - began
    clear(site)
    return done


def clear(site: Site) -> None:
    """Remove its folders."""
    shutil.rmtree(site.folder)
    shutil.rmtree(site.drive)


def _run(site: Site, plan: tuple[Start, ...], done: Round) -> None:
    """Start the command until it is done, the first starts as `plan` says. Raises AssertionError."""
    options: tuple[str, ...] = ()
    for start in (*plan, *(Start(faults=()) for _ in range(MOST))):
        code = _start(site, start, options, done)
        if code == 0 and not options:
            return
        options = ()
        if code == BROKEN:
            stage = refused_rightly(site, known=done.given_up)
            options = ("--stage", stage, "--from-scratch")
            done.given_up.add(stage)
    raise AssertionError(f"it does not come to its end\n{site.said}")


def _start(site: Site, start: Start, options: tuple[str, ...], done: Round) -> int:
    """One start with its faults; its exit code. Raises AssertionError where nothing explains that."""
    site.start(*options, env={"QVL_CRASH_AT": start.crash_at} if start.crash_at else {})
    done.starts += 1
    did = [kind for fault in start.faults if (kind := inject(site, fault))]
    site.until(lambda: False)
    code = site.code()
    assert code is not None
    if code == 0:
        did = [kind for kind in did if kind not in ENDING]  # it was done before that was seen
    elif code == DIED and start.crash_at and not set(did) & DEADLY:
        did.append("crash point")
        if start.lost:
            site.bury()
            site.lose()
    assert "Traceback" not in site.said, site.said
    told = f"exit code {code} after {did or 'nothing'}\n{site.said}"
    assert explained(code, did) or (code == BROKEN and done.starts > 1), told
    done.survived.update(did)
    return code


def _nothing_left(site: Site) -> None:
    """That the same command has nothing to do any more. Raises AssertionError."""
    site.start()
    site.until(lambda: False)
    assert site.code() == 0, site.said
    story = site.records(site.scratch / "events")
    mine = next(n for n in range(len(story) - 1, -1, -1) if story[n]["event"] == "run_started")
    again = [record for record in story[mine:] if record["event"] == "attempt_started"]
    assert not again, f"it was done, and went on: {again}"
