"""Whole runs whose drive dies, fills up, loses what it was given, is slow or is mounted again: training is never
stopped by it, and the same command goes on from what is there."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.drive.mount import How
from tests.drive.runs import STAGES, Ran, Site, mounted_site, on_sites, wait_for, whole

SHORT: dict[str, Any] = {"counts": (5, 2), "every": 2}
"""As few steps as leave each kind of folder, and an old checkpoint to be deleted."""
EACH = 130
"""How many of all the calls of a run lie between two at which the drive dies."""

Death = tuple[int, How, bool]
"""The call, how, and whether only calls that change something count."""


def count_calls(folder: Path) -> tuple[int, int]:
    """Calls of an undisturbed run: all, and those that change something. What the mirror does beside the training
    varies a little from run to run."""
    with mounted_site(folder, **SHORT) as site:
        site.clear()
        assert site.run().code == 0
        assert site.right()
        found = site.drive.calls()
        return found.all, found.changing


def dies(site: Site, death: Death) -> str:
    """Run, with the drive dying; then again with it back. Returns the call at which it died, empty if it did not."""
    call, how, changing = death
    site.drive.die_at(call, how, changing=changing)
    first = site.run()
    died = site.drive.calls().died
    assert first.code in ((0, 75) if died else (0,)), first.text
    assert "Traceback" not in first.err + first.out, first.text
    if site.starts():
        assert site.finished(), first.text
    if call % 2:
        site.drive.revive()
    else:
        site.drive.unmount()
        site.drive.mount()
    goes_on(site, first)
    return died or ""


def goes_on(site: Site, first: Ran) -> None:
    """The same command again comes to its end, from the newest that there is."""
    expected = site.expected()
    second = site.run()
    text = f"{first.text}\n--- again:\n{second.text}"
    assert second.code == 0, text
    assert "Traceback" not in second.err + second.out, text
    assert site.starts() == expected, text
    assert site.right(), text


def test_a_drive_that_dies_at_any_changing_call_costs_nothing(tmp_path: Path) -> None:
    _, changing = count_calls(tmp_path / "count")
    deaths: list[Death] = [(call, errno.ENOTCONN, True) for call in range(1, changing + 1)]
    died = on_sites(tmp_path, dies, deaths, **SHORT)
    covered = len([call for call in died if call])
    print(
        f"died at {covered} of {changing} changing calls: {sorted({d.split()[0] for d in died if d})}"
    )
    assert covered > 0.8 * changing > 40


@pytest.mark.parametrize("how", [errno.ENOTCONN, "ENOENT", "EMPTY"])
def test_a_drive_that_dies_at_some_call_of_all_costs_nothing(tmp_path: Path, how: How) -> None:
    calls, _ = count_calls(tmp_path / "count")
    deaths: list[Death] = [(call, how, False) for call in range(1, calls + 1, EACH)]
    died = on_sites(tmp_path, dies, deaths, **SHORT)
    covered = len([call for call in died if call])
    print(f"died at {covered} of {calls} calls ({how})")
    assert covered > 0.8 * len(deaths) > 4


@pytest.mark.parametrize("limit", ["full", "quota"])
@pytest.mark.parametrize("after", [3000, 9000])
def test_a_full_drive_ends_no_training_and_what_is_missing_is_told(
    tmp_path: Path, limit: Literal["full", "quota"], after: int
) -> None:
    with mounted_site(tmp_path) as site:
        site.clear()
        getattr(site.drive, limit)(after=after)
        first = site.run()
        assert first.code == 75, first.text
        assert site.finished(), first.text
        assert first.out.count("it stays on this machine's disk, training goes on") == 1, first.text
        assert told(first) == not_stored(site) != set(), first.text
        site.starts()
        again = site.run()
        assert (again.code, site.starts()) == (75, []), again.text
        assert "Traceback" not in again.err + again.out, again.text
        site.drive.room()
        last = site.run()
        assert (last.code, site.starts()) == (0, []), last.text
        assert site.right(), last.text
        assert not not_stored(site)


def test_a_full_drive_is_told_of_once(tmp_path: Path) -> None:
    with mounted_site(tmp_path) as site:
        site.clear()
        site.drive.full(after=3000)
        ran = site.run()
        assert ran.code == 75, ran.text
        assert ran.out.count("it stays on this machine's disk, training goes on") == 1, ran.text
        assert ran.out.count("the log of events could not be taken") <= 1, ran.text


def test_a_drive_that_is_full_from_the_start_ends_no_training(tmp_path: Path) -> None:
    with mounted_site(tmp_path) as site:
        site.clear()
        site.drive.full()
        ran = site.run()
        assert ran.code == 75, ran.text
        assert "Traceback" not in ran.err + ran.out, ran.text
        assert site.finished(), ran.text


def told(ran: Ran) -> set[str]:
    """What the run says is not on the drive."""
    line = ran.out.partition("\nnot in ")[2].partition("\n")[0]
    return set(re.findall(r"(\w+/[\w-]+) \(", line.partition(" yet: ")[2]))


def not_stored(site: Site) -> set[str]:
    """Outputs, and the newest two checkpoints, that the machine has and the drive has not, by stage and name."""
    missing = set()
    for stage in STAGES:
        stored = {f.name.partition(".")[0] for f in site.folders(stage) if whole(f)}
        works = list((site.scratch / "attempts" / stage).glob("*/work"))
        mine = [folder for work in works for folder in work.iterdir() if whole(folder)]
        mine.sort(key=lambda folder: int(folder.name.partition("-")[2] or 10**9))
        missing |= {f"{stage}/{folder.name}" for folder in mine[-3:] if folder.name not in stored}
    return missing


def test_a_drive_that_reports_no_room_is_not_written_to(tmp_path: Path) -> None:
    with mounted_site(tmp_path) as site:
        site.clear()
        site.drive.free(1024**2)
        first = site.run()
        assert first.code == 75, first.text
        assert site.finished()
        assert "1.0 MiB are free there" in first.out
        assert not any(site.folders(stage) for stage in STAGES)
        site.drive.free(None)
        site.starts()
        goes_on(site, first)


def test_a_slow_drive_is_only_slow(tmp_path: Path) -> None:
    with mounted_site(tmp_path) as site:
        site.clear()
        site.drive.slow(100)
        first = site.run()
        assert first.code == 0, first.text
        assert "could not be taken" not in first.out
        assert site.right()


def test_a_drive_that_is_mounted_again_gets_the_checkpoints(tmp_path: Path) -> None:
    with mounted_site(
        tmp_path, counts=(2000, 8), every=200, changed={"runner.PATIENCE": 30}
    ) as site:
        site.clear()
        process = site.start()
        wait_for(lambda: any(site.scratch.glob("attempts/first/*/work/checkpoint-*")))
        site.drive.unmount()
        wait_for(lambda: "could not be taken to" in site.out)
        assert os.listdir(site.drive.path) == []
        site.drive.mount()
        ran = site.end(process)
        assert ran.code == 0, ran.text
        # Each thing that waits for the drive is told once; whether a segment of the story falls due then is chance.
        assert ran.out.count("it stays on this machine's disk") == 1, ran.text
        assert ran.out.count("the log of events could not be taken") <= 1, ran.text
        assert ran.out.count("checkpoints reach") == 1, ran.text
        assert [start.step for start in site.starts()] == [0, 0]
        assert site.right(), ran.text


def test_a_drive_that_hangs_keeps_neither_training_nor_the_end_waiting(tmp_path: Path) -> None:
    changed = {"runner.PATIENCE": 0.5, "mirror.NOTICE": 1, "mirror.TIDY": 0.02, "lease.LAST": 0.2}
    with mounted_site(tmp_path, counts=(1000, 8), every=100, changed=changed) as site:
        site.clear()
        process = site.start()
        wait_for(lambda: any(site.scratch.glob("attempts/first/*/work/checkpoint-*")))
        site.drive.hang()
        try:
            # It is through with all it had to do; whether the kernel lets go of a process that has asked a drive
            # and got no answer is the kernel's affair.
            wait_for(lambda: "To load it:" in site.out)
            assert site.finished(), site.out
            assert "first/final (" in site.out.partition("\nnot in ")[2], site.out
            # The newest two, and at most one that a copy hangs in.
            assert len(list(site.scratch.glob("attempts/first/*/work/checkpoint-*"))) <= 3
        finally:
            site.drive.answer()
        first = site.end(process)
        assert first.code == 75, first.text
        assert "Traceback" not in first.err + first.out, first.text
        site.starts()
        goes_on(site, first)


def waiting(site: Site, *options: str) -> BaseProcess:
    """A run that is done but for its drive, which has died while it was written to."""
    site.clear()
    site.drive.die_at(30, changing=True)
    process = site.start(*options)
    wait_for(lambda: "taking" in site.out)
    assert process.is_alive()
    assert site.finished()
    return process


def test_waiting_for_the_drive_ends_when_it_is_back(tmp_path: Path) -> None:
    with mounted_site(tmp_path) as site:
        process = waiting(site, "--wait-for-drive")
        site.drive.revive()
        ran = site.end(process)
        assert ran.code == 0, ran.text
        assert site.right(), ran.text


def test_ctrl_c_ends_the_waiting_for_the_drive(tmp_path: Path) -> None:
    with mounted_site(tmp_path) as site:
        process = waiting(site, "--wait-for-drive")
        os.kill(process.pid or 0, signal.SIGINT)
        ran = site.end(process)
        assert ran.code == 75, ran.text
        assert "second/final (" in ran.out.partition("\nnot in ")[2], ran.text
        site.drive.revive()
        site.starts()
        goes_on(site, ran)


def test_ctrl_c_ends_the_last_transfer_as_the_text_says(tmp_path: Path) -> None:
    with mounted_site(tmp_path, changed={"runner.PATIENCE": 1000}) as site:
        process = waiting(site)
        assert "(Ctrl-C ends that)" in site.out
        os.kill(process.pid or 0, signal.SIGINT)
        ran = site.end(process, 5)
        assert ran.code == 75, ran.text


def test_the_command_itself_waits_and_is_ended_by_ctrl_c(tmp_path: Path) -> None:
    """Not a forked process: what the interpreter does at its end counts too."""
    with mounted_site(tmp_path) as site:
        site.clear()
        site.drive.die_at(20, changing=True)
        with subprocess.Popen(
            [sys.executable, "-m", "qvl_run", site.job, "--wait-for-drive"],
            cwd=site.folder,
            stdin=subprocess.DEVNULL,
            stdout=(site.folder / "out").open("w"),
            stderr=(site.folder / "err").open("w"),
        ) as process:
            try:
                wait_for(lambda: "taking" in site.out)
                assert process.poll() is None
                assert site.finished()
                process.send_signal(signal.SIGINT)
                code = process.wait(20)
            finally:
                site.drive.revive()
                process.kill()
        ran = Ran(code, site.out, site.err)
        assert (ran.code, ran.err) == (75, ""), ran.text
        assert "not in " in ran.out
        site.starts()
        goes_on(site, ran)
