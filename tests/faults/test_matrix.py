"""Every row of docs/failures.md: a real fault in a real attempt of a real run, and what its row says about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from qvl_run.recovery.table import ROWS, UNSAVED, Row
from tests.faults.cases import CASES
from tests.faults.runs import AT, TO, Ran, Site, wait_for

BY_FAULT = {row.fault: row for row in ROWS}
AT_ONCE = 6
"""Runs at the same time. Most of them wait, most of the time."""
SUM = TO * (TO + 1) // 2
SAVED = 3
"""The last save before the fault: every third step is."""


@pytest.fixture(scope="module")
def checks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """All rows that are asked for, checked side by side, those that wait longest first."""
    wanted = [
        item.callspec.params["fault"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and "fault" in item.fixturenames
    ]
    wanted.sort(key=lambda fault: not CASES[fault].slow)
    folder = tmp_path_factory.mktemp("faults")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {fault: pool.submit(check, BY_FAULT[fault], folder / fault) for fault in wanted}


@pytest.mark.parametrize("fault", BY_FAULT)
def test_the_row_holds(fault: str, checks: dict[str, Future[None]]) -> None:
    checks[fault].result()


def test_every_row_is_tested_once() -> None:
    assert sorted(row.fault for row in ROWS) == sorted(CASES)


def check(row: Row, folder: Path) -> None:
    """Bring the fault about; hold what happens against the row."""
    case = CASES[row.fault]
    with case.within(folder) as fields:
        site = Site(folder / "site", way=case.way, **{**case.fields, **fields})
        site.start()
        try:
            case.act(site)
        finally:
            ran = site.end()
        _ended_as(row, site, ran)
        case.check(site, ran)
        assert case.traceback or "Traceback" not in ran.out + ran.err
        assert case.traceback or "  | " not in ran.out
        wait_for(lambda: not site.alive(), f"{site.alive()} live on", seconds=5)
        if row.action in ("again", "saved"):
            case.mend(site)
            _goes_on(row, site)


def _ended_as(row: Row, site: Site, ran: Ran) -> None:
    told = f"{ran.out}\n{ran.err}\n{site.log}"
    assert (ran.code if ran.code >= 0 else 128 - ran.code) == row.code, told
    failed, restarts = site.events("attempt_failed"), site.events("restart")
    if row.fault == "drive_gone":
        restarts = restarts[:-1]  # the last is for the start that follows
    if "attempt_failed" in CASES[row.fault].untold:
        assert not failed, "it could be written: hold the row against it"
        return
    assert {event["failure"] for event in failed} == ({row.failure} if row.failure else set()), told
    assert {event["guessed"] for event in failed} == ({row.guessed} if failed else set()), told
    attempts = site.events("attempt_started")
    assert len(attempts) == (0 if row.action == "refused" else len(restarts) + 1), told
    assert len(failed) - len(restarts) == (1 if row.failure and row.action != "resumed" else 0)
    assert bool(restarts) >= (row.action == "resumed")
    if row.action == "goes on":
        assert not failed, told
    for event in failed:
        reached = (AT - 1, SAVED) if row.lost == UNSAVED else (event["saved"], event["saved"])
        assert (event["step"], event["saved"]) == reached, told
    saved = failed[0]["saved"] if failed else SAVED
    assert {event["step"] for event in attempts[1:]} <= {saved}, told
    lost = range(SAVED + 1, AT) if row.lost == UNSAVED and restarts else ()
    assert twice(site.numbers("steps")) == list(lost), told
    assert site.sum == (SUM if row.code == 0 else None), told


def _goes_on(row: Row, site: Site) -> None:
    """The same command, once more."""
    before = site.numbers("steps")
    again = site.run()
    assert again.code == 0, f"{again.out}\n{again.err}\n{site.log}"
    assert site.sum == SUM
    new = site.numbers("steps")[len(before) :]
    first = SAVED + 1 if row.lost == UNSAVED else max(before) + 1
    assert new == list(range(first, TO + 1))


def twice(steps: list[int]) -> list[int]:
    """The steps that were done more than once."""
    return sorted(step for step, count in Counter(steps).items() if count > 1)
