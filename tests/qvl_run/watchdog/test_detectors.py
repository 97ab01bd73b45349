"""Each detector on both sides of its threshold, and with what it needs not seen."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from qvl_run.watchdog import detectors as find
from qvl_run.watchdog.deadlines import DEFAULTS
from qvl_run.watchdog.detectors import Finding
from qvl_run.watchdog.snapshot import Snapshot

GIB = 1024**3
NOTHING = Snapshot()
STEPPING = Snapshot(section="step", step=7, total=100, beat=9, quiet=0.0, process="running")


def silent(now: Snapshot) -> Finding | None:
    return find.silent(now, {})


BOTH_SIDES: list[tuple[Callable[[Snapshot], Finding | None], str, Snapshot, Snapshot]] = [
    (silent, "kill", replace(STEPPING, quiet=DEFAULTS["step"]), replace(STEPPING, quiet=600.1)),
    (
        silent,
        "kill",
        replace(STEPPING, section="rollout", quiet=601.0),
        replace(STEPPING, section="rollout", quiet=1200.1),
    ),
    (
        find.stopped,
        "wake",
        Snapshot(process="stopped", process_for=60.0),
        Snapshot(process="stopped", process_for=60.2),
    ),
    (
        find.dead,
        "warn",
        Snapshot(process="gone", process_for=30.0),
        Snapshot(process="gone", process_for=30.2),
    ),
    (find.blind, "warn", Snapshot(blind_for=60.0), Snapshot(blind_for=60.2)),
    (
        find.gpu_idle,
        "warn",
        replace(STEPPING, gpu_idle_for=600.0),
        replace(STEPPING, gpu_idle_for=600.2),
    ),
    (
        find.gpu_idle,
        "warn",
        replace(STEPPING, section="eval", gpu_idle_for=9000.0),
        replace(STEPPING, section="rollout", gpu_idle_for=9000.0),
    ),
    (find.disk_nearly_full, "warn", Snapshot(disk_free=GIB), Snapshot(disk_free=GIB - 1)),
    (
        find.disk_nearly_full,
        "warn",
        Snapshot(disk_free=6 * GIB, checkpoint_bytes=3 * GIB),
        Snapshot(disk_free=6 * GIB - 1, checkpoint_bytes=3 * GIB),
    ),
    (
        find.drive_dead,
        "warn",
        Snapshot(store_refusing_for=300.0),
        Snapshot(store_refusing_for=300.2),
    ),
    (
        find.upload_lag,
        "warn",
        Snapshot(upload_waiting=2, upload_lag=1800.0),
        Snapshot(upload_waiting=2, upload_lag=1800.2),
    ),
    (
        find.upload_lag,
        "warn",
        Snapshot(upload_waiting=0, upload_lag=9000.0),
        Snapshot(upload_waiting=1, upload_lag=9000.0),
    ),
    # 2 * (30 + 60) + 120 + 120 where nothing was seen yet
    (find.session_nearly_over, "stop", Snapshot(session_left=420.0), Snapshot(session_left=419.9)),
    # 2 * (1 + 2) + 0 + 120 is less than the least
    (
        find.session_nearly_over,
        "stop",
        Snapshot(session_left=300.0, step_seconds=1.0, save_seconds=2.0, upload_seconds=0.0),
        Snapshot(session_left=299.9, step_seconds=1.0, save_seconds=2.0, upload_seconds=0.0),
    ),
    # 2 * (200 + 50) + 300 + 120
    (
        find.session_nearly_over,
        "stop",
        Snapshot(session_left=920.0, step_seconds=200.0, save_seconds=50.0, upload_seconds=300.0),
        Snapshot(session_left=919.9, step_seconds=200.0, save_seconds=50.0, upload_seconds=300.0),
    ),
]


@pytest.mark.parametrize(("detector", "act", "well", "ill"), BOTH_SIDES)
def test_a_threshold_has_two_sides(
    detector: Callable[[Snapshot], Finding | None], act: str, well: Snapshot, ill: Snapshot
) -> None:
    assert detector(well) is None
    found = detector(ill)
    assert found is not None
    assert (found.name, found.act) == (detector.__name__, act)


@pytest.mark.parametrize("detector", dict.fromkeys(entry[0] for entry in BOTH_SIDES))
def test_what_was_not_seen_finds_nothing(detector: Callable[[Snapshot], Finding | None]) -> None:
    assert detector(NOTHING) is None


@pytest.mark.parametrize(
    "unseen",
    [
        {"process": None},
        {"process": "gone"},
        {"process": "stopped"},
        {"section": None},
        {"quiet": None},
    ],
)
def test_only_a_child_that_is_seen_to_run_is_silent(unseen: dict[str, str | None]) -> None:
    ill = replace(STEPPING, quiet=1e6)
    assert silent(ill)
    assert silent(replace(ill, **unseen)) is None  # type: ignore[arg-type]


def test_the_text_says_section_step_silence_and_deadline() -> None:
    found = silent(replace(STEPPING, quiet=725.0))
    assert found is not None
    assert found.text == (
        'silent for 12 min 5 s in section "step", step 7 of 100; 10 min 0 s are allowed there'
    )
    found = find.silent(Snapshot(section="load", quiet=40.0, process="running"), {}, {"load": 30.0})
    assert found is not None
    assert found.text == 'silent for 40 s in section "load"; 30 s are allowed there'


def test_a_deadline_that_was_learned_holds() -> None:
    assert find.silent(replace(STEPPING, quiet=2999.0), {"step": 300.0}) is None
    assert find.silent(replace(STEPPING, quiet=3001.0), {"step": 300.0})


@pytest.mark.parametrize(
    ("windows", "told"),
    [
        ((), False),
        ((2.0,), False),
        ((2.0, 2.0, 60.0, 60.0), False),  # too little to tell what is usual
        ((2.0, 2.0, 2.0, 6.0, 6.0), False),
        ((2.0, 2.0, 2.0, 6.1, 6.1), True),
        ((2.0, 2.0, 2.0, 60.0, 2.0), False),  # one odd step
        ((2.0, 2.0, 2.0, 2.0, 60.0), False),
        ((0.01, 0.01, 0.01, 0.9, 0.9), False),  # slow for nobody
    ],
)
def test_slow_is_slower_than_before_and_lasts(windows: tuple[float, ...], told: bool) -> None:
    found = find.slow(windows)
    assert bool(found) is told
    assert found is None or found.text == "a step takes 6.1 s now; it took 2.0 s before"


def rising(per_second: float, *, span: int = 400) -> list[tuple[float, int]]:
    return [(float(at), 4 * GIB + round(at * per_second)) for at in range(0, span, 10)]


def test_memory_that_grows_steadily_is_told_before_it_is_full() -> None:
    full_in_ten = GIB / 600
    has_one = Snapshot(ram_available=GIB)
    assert find.ram_rising(has_one, rising(full_in_ten * 0.99)) is None
    found = find.ram_rising(has_one, rising(full_in_ten * 1.25))
    assert found is not None
    assert found.act == "warn"
    assert "128.0 MiB a minute and would be full in 8 min 0 s" in found.text
    assert find.ram_rising(NOTHING, rising(full_in_ten * 2)) is None
    assert find.ram_rising(has_one, rising(full_in_ten * 2, span=300)) is None
    assert find.ram_rising(has_one, rising(full_in_ten * 2, span=320)) is not None


def test_memory_that_jumps_or_stays_is_not_rising() -> None:
    tight = Snapshot(ram_available=GIB // 100)
    still = [(at, 4 * GIB) for at, _ in rising(0)]
    assert find.ram_rising(tight, still) is None
    waves = [(at, 4 * GIB + int(at) // 10 % 4 * GIB) for at, _ in rising(0)]
    assert find.ram_rising(tight, waves) is None
    assert (
        find.ram_rising(
            tight, [(at, size) for (at, _), (_, size) in zip(still, rising(-9e6), strict=True)]
        )
        is None
    )
    # The waves are judged unsteady, not too small.
    steep = [(at, size + int(at) * GIB) for at, size in waves]
    assert find.ram_rising(tight, steep) is not None
