"""Whole runs whose machine is lost, and that another machine goes on with from what was uploaded; and two machines at
once."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.drive.runs import STAGES, Ran, Site, mounted_site, on_sites, wait_for, whole

SEEDS = 24
PASSINGS = {
    "stage.before_train": 2,
    "checkpoint.before_manifest": 15,
    "checkpoint.after_manifest": 15,
    "mirror.first_file": 6,
    "mirror.before_manifest": 6,
    "mirror.after_manifest": 6,
    "stage.after_train": 2,
    "output.before_manifest": 2,
    "output.after_manifest": 2,
    "run.between_stages": 1,
}
"""Where the machine is lost, and at which passing at most."""


def another_boot() -> str:
    """What tells a process of another machine from one of this."""
    return "another machine's"


NEXT: dict[str, object] = {"lease._boot": another_boot, "lease.EXPIRES": -1.0}
"""Another machine, long after the first one's last sign of life."""
LOOKING: dict[str, object] = {"lease.LOOK": 0.05}


def lost(site: Site, seed: int) -> str:
    """One machine dies at a moment and with uploads that `seed` decides; the next goes on. Returns what it did."""
    chance = random.Random(seed)
    if chance.random() < 0.25:
        site.drive.die_at(chance.randrange(20, 120), changing=True)
        first = site.run()
        site.drive.revive()
    else:
        point = chance.choice(list(PASSINGS))
        first = site.run(env={"QVL_CRASH_AT": f"{point}@{chance.randint(1, PASSINGS[point])}"})
        assert first.code in (0, -signal.SIGKILL), first.text
    assert "Traceback" not in first.out + first.err, first.text
    if chance.random() < 0.5:
        site.drive.upload(seed=seed, share=0.9)
    else:
        site.drive.upload(seed=seed, how="whole", share=chance.choice([0.7, 0.95]))
    rest = site.folder / "rest"
    shutil.rmtree(rest, ignore_errors=True)
    shutil.copytree(site.drive.view, rest)
    site.new_machine()
    did = goes_on(site, first)
    if did != "refused":
        return did
    if seed % 2:
        return f"refused, {anew(site)}"
    shutil.copytree(rest, site.drive.view, dirs_exist_ok=True)
    return f"refused, after the rest was uploaded {goes_on(site, first)}"


def goes_on(site: Site, first: Ran) -> str:
    """The command on a machine that has nothing but the drive: it does what the whole folders there allow."""
    expected = site.expected()
    broken = {
        start.stage: {folder.name for folder in site.folders(start.stage) if not whole(folder)}
        for start in expected
    }
    ran = site.run(changed=NEXT)
    told = (
        f"{first.text}\n--- on the next machine (expected {expected}, broken {broken}):\n{ran.text}"
    )
    assert "Traceback" not in ran.out + ran.err, told
    starts = site.starts()
    refused = next((s for s in expected if s.step == 0 and broken[s.stage]), None)
    if refused:
        assert ran.code == 4, told
        assert starts == expected[: expected.index(refused)], told
        assert all(f"passed over {name}: " in ran.out for name in broken[refused.stage]), told
        return "refused"
    assert ran.code == 0, told
    assert starts == expected, told
    assert site.right(), told
    if not expected:
        return "all done"
    return "resumed" if any(start.step for start in expected) else "began a stage"


def anew(site: Site) -> str:
    """Give up what is not whole, as the text says."""
    for _ in STAGES:
        ran = site.run(changed=NEXT)
        if ran.code == 0:
            break
        assert ran.code == 4, ran.text
        stage = ran.out.rpartition("--stage ")[2].split()[0]
        ran = site.run("--stage", stage, "--from-scratch", changed=NEXT)
        assert ran.code == 0, ran.text
    ran = site.run(changed=NEXT)
    assert ran.code == 0, ran.text
    assert site.right(), ran.text
    return "begun anew"


def test_the_next_machine_goes_on_from_the_newest_that_was_wholly_uploaded(tmp_path: Path) -> None:
    did = Counter(on_sites(tmp_path, lost, range(SEEDS), counts=(30, 15)))
    print(f"{SEEDS} seeds: {dict(did)}")
    assert did["resumed"] >= 3
    assert any(name.startswith("refused, begun anew") for name in did)
    assert any(name.startswith("refused, after") for name in did)


@pytest.mark.parametrize("after", [3000, 6000])
def test_what_a_drive_loses_unseen_is_made_again_and_no_more(tmp_path: Path, after: int) -> None:
    with mounted_site(tmp_path) as site:
        site.clear()
        site.drive.lose(after=after)
        first = site.run()
        assert first.code == 0, first.text
        assert site.right()
        site.drive.upload()
        site.new_machine()
        site.drive.room()
        assert not site.right()
        if goes_on(site, first) == "refused":
            anew(site)


def owner(site: Site) -> Path:
    return site.storage / "runs" / "counting" / "owner.json"


def sign(site: Site, *, beat: int = 1, age: float = 0, token: str = "abcdef") -> None:
    """A sign of life of a runner on another machine."""
    owner(site).parent.mkdir(parents=True, exist_ok=True)
    text = {"token": token, "host": "elsewhere", "boot": "1", "pid": 7, "started": 1.0}
    owner(site).write_text(json.dumps({**text, "beat": beat, "time": time.time() - age}))


def test_a_second_machine_waits_and_gives_way_to_a_sign_of_life(tmp_path: Path) -> None:
    with mounted_site(tmp_path, changed=LOOKING) as site:
        site.clear()
        sign(site)
        process = site.start()
        wait_for(lambda: "waiting up to" in site.out)
        assert "another qvl-run (process 7 on elsewhere) was at work on this job" in site.out
        assert "--take-over does not wait" in site.out
        sign(site, beat=2)
        ran = site.end(process)
        assert ran.code == 5, ran.text
        assert "--take-over" in ran.err
        assert site.starts() == []
        assert json.loads(owner(site).read_text())["beat"] == 2


def test_ctrl_c_ends_the_waiting_for_another_machine(tmp_path: Path) -> None:
    with mounted_site(tmp_path, changed=LOOKING) as site:
        site.clear()
        sign(site)
        process = site.start()
        wait_for(lambda: "waiting up to" in site.out)
        os.kill(process.pid or 0, signal.SIGINT)
        ran = site.end(process)
        assert ran.code == 75, ran.text
        assert site.starts() == []


@pytest.mark.parametrize("age", [301, -1000])
def test_a_machine_that_gives_no_sign_of_life_is_succeeded(tmp_path: Path, age: float) -> None:
    """At once where its last one is old; where it is fresh, or its clock ahead, after having waited for another."""
    changed = LOOKING if age > 0 else {**LOOKING, "lease.EXPIRES": 0.3}
    with mounted_site(tmp_path, changed=changed) as site:
        site.clear()
        sign(site, age=age)
        ran = site.run()
        assert ran.code == 0, ran.text
        assert ("another qvl-run" in ran.out) == (age < 0), ran.text
        assert site.right()
        assert not any("." in folder.name for stage in STAGES for folder in site.folders(stage))


def test_take_over_goes_on_at_once_and_shares_no_folder(tmp_path: Path) -> None:
    with mounted_site(tmp_path) as site:
        site.clear()
        assert site.run(env={"QVL_CRASH_AT": "mirror.before_manifest@2"}).code == -9
        shutil.rmtree(site.scratch)
        site.seen = 0
        sign(site)
        before = {folder: contents(folder) for stage in STAGES for folder in site.folders(stage)}
        assert any(whole(folder) for folder in before)
        assert not all(whole(folder) for folder in before)
        expected = site.expected()
        ran = site.run("--take-over")
        assert ran.code == 0, ran.text
        assert "waiting" not in ran.out, ran.text
        assert site.starts() == expected, ran.text
        assert site.right(), ran.text
        after = {folder: contents(folder) for stage in STAGES for folder in site.folders(stage)}
        new = [folder.name for folder in after if folder not in before]
        marks = {name.partition(".")[2] for name in new}
        assert len(new) >= 3
        assert len(marks) == 1
        assert marks != {""}
        assert {folder: after.get(folder, found) for folder, found in before.items()} == before


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("ended", [False, True])
def test_a_machine_that_slept_while_another_took_over_shares_nothing_with_it(
    tmp_path: Path, ended: bool
) -> None:
    """It saves and ends, whether the other is still at work or not.

    One that fell asleep between the look at its lease and the renewal of it would write over the other's; signs of life
    are seldom here, so that it sleeps elsewhere."""
    fields: dict[str, Any] = {"counts": (3000, 8), "every": 1000}
    elsewhere = {"lease._boot": another_boot}
    with mounted_site(tmp_path, **fields, changed={"lease.RENEW": 1.0}) as one:
        one.clear()
        process = one.start()
        wait_for(lambda: any(whole(folder) for folder in one.folders("first")))
        runner = psutil.Process(process.pid)
        stages = runner.children()
        try:
            for each in (runner, *stages):
                each.suspend()
            assert not one.finished(), "it was too fast for this test"
            other = Site(one.drive, tmp_path / "other", **fields, changed=elsewhere)
            expected = other.expected()
            second = other.run("--take-over")
            assert second.code == 0, second.text
            assert other.starts() == expected, second.text
            assert other.right(), second.text
            if not ended:
                lease = {**json.loads(owner(one).read_text()), "ended": False}
                owner(one).write_text(json.dumps(lease))
            runner.resume()
            wait_for(lambda: "another qvl-run has taken this job over: " in one.out)
            for each in stages:
                each.resume()
            first = one.end(process)
        finally:
            for each in (runner, *stages):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        assert first.code == 5, first.text
        assert "Traceback" not in first.out + first.err, first.text
        assert one.right(), first.text
        writers: dict[str, set[str]] = {}
        for folder in (folder for stage in STAGES for folder in one.folders(stage)):
            found = whole(folder)
            assert found, folder
            mark, attempt = folder.name.partition(".")[2], str(found["attempt"])
            writers.setdefault(mark, set()).add(attempt.partition("-")[0])
        assert len(writers) > 1
        assert all(len(tokens) == 1 for tokens in writers.values()), writers
