from dataclasses import replace

import pytest

from qvl_run.watchdog.deadlines import DEFAULTS
from qvl_run.watchdog.history import LONGEST_LOOK
from qvl_run.watchdog.judge import FORGET
from qvl_run.watchdog.snapshot import FIRST, Around, Child, Report
from qvl_run.watchdog.watch import CADENCE
from tests.qvl_run.watchdog.scene import POLL, Scene

GIB = 1024**3
HOUR = 3600.0


def test_a_hang_is_killed_once_its_section_allows_no_more() -> None:
    scene = Scene()
    scene.report("step", 3)
    scene.passes(DEFAULTS["step"])
    assert scene.acts == []
    scene.passes(1.0)
    assert scene.asked() == {"kill"}
    assert 'in section "step", step 3 of 100' in scene.acts[0].text


def test_reports_keep_it_alive_whatever_they_say() -> None:
    scene = Scene()
    for _ in range(4):
        scene.report("step", 3)
        scene.passes(DEFAULTS["step"] - 1.0, every=1.0)
    assert scene.acts == []


def test_a_child_that_never_reports_has_the_time_of_setup() -> None:
    scene = Scene(shown=Child(report=FIRST, process="running"), floors={"setup": 30.0})
    scene.passes(30.0)
    assert scene.acts == []
    scene.passes(1.0)
    assert scene.asked() == {"kill"}


def test_an_hour_blind_kills_nothing_and_is_told_once() -> None:
    scene = Scene()
    scene.passes(HOUR)
    assert scene.acts == []
    assert scene.names() == ["blind"]
    assert scene.watch.history.watched == 0.0
    assert scene.surveys == pytest.approx(HOUR / CADENCE, rel=0.05)


def test_looks_in_between_that_see_it_end_the_blindness() -> None:
    scene = Scene()
    for number in range(10):
        scene.report("step", number)
        scene.passes(1.0)
        scene.shown = Child()
        scene.passes(50.0, every=1.0)
    assert scene.told == []


def test_going_blind_in_the_middle_of_a_silence_adds_nothing_to_it() -> None:
    scene = Scene()
    scene.report("step", 3)
    scene.passes(DEFAULTS["step"] - 10.0)
    seen, scene.shown = scene.shown, Child()
    scene.passes(HOUR)
    assert (scene.watch.snapshot.section, scene.watch.snapshot.quiet) == (None, None)
    scene.shown = seen
    scene.passes(9.0)
    assert scene.acts == []
    scene.passes(2.0)
    assert scene.asked() == {"kill"}
    assert scene.names() == ["blind"]


@pytest.mark.parametrize("process", ["running", None, "gone", "stopped"])
def test_a_report_that_cannot_be_read_is_no_silence(process: str | None) -> None:
    scene = Scene()
    scene.report("step", 3)
    scene.passes(1.0)
    scene.shown = Child(process=process)  # type: ignore[arg-type]
    scene.passes(HOUR, every=1.0)
    assert "kill" not in scene.asked()


def test_a_progress_file_that_is_lost_or_older_is_no_silence() -> None:
    scene = Scene()
    scene.report("step", 3)
    scene.report("step", 4)
    scene.passes(1.0)
    for report in (FIRST, Report(section="step", beat=1)):
        scene.shown = Child(report=report, process="running")
        scene.passes(HOUR, every=1.0)
    assert scene.acts == []


def test_a_runner_that_stood_still_for_an_hour_holds_nothing_against_the_child() -> None:
    scene = Scene()
    scene.report("step", 3)
    scene.passes(DEFAULTS["step"] - 10.0)
    for _ in range(4):
        scene.now += HOUR
        scene.look()
    assert scene.acts == []
    assert scene.watch.snapshot.quiet == pytest.approx(
        DEFAULTS["step"] - 10.0 + 4 * LONGEST_LOOK, abs=POLL + 0.01
    )
    scene.report("step", 4)
    scene.look()
    assert scene.watch.learned["step"] < DEFAULTS["step"]


def test_a_clock_that_goes_back_counts_nothing() -> None:
    scene = Scene()
    scene.report("step", 3)
    scene.passes(10.0)
    scene.now -= HOUR
    scene.look()
    assert scene.watch.snapshot.quiet == pytest.approx(9.8, abs=POLL)


def test_what_took_long_once_may_take_long_again_in_the_next_attempt_too() -> None:
    scene = Scene()
    scene.report("step", 3)
    scene.passes(300.0, every=1.0)
    scene.report("step", 4)
    scene.look()
    scene.passes(2900.0, every=1.0)
    assert scene.acts == []
    assert scene.watch.learned == {"step": pytest.approx(300.0, abs=1.0)}
    again = Scene(seen=scene.watch.learned)
    again.report("step", 4)
    again.passes(2900.0, every=1.0)
    assert again.acts == []
    again.passes(200.0, every=1.0)
    assert again.asked() == {"kill"}


def test_the_silence_that_killed_is_not_learned() -> None:
    scene = Scene()
    scene.report("step", 3)
    scene.passes(HOUR, every=1.0)
    assert scene.asked() == {"kill"}
    assert scene.watch.learned == {}


def test_a_stopped_process_is_woken_once_and_its_stop_is_no_silence() -> None:
    scene = Scene()
    scene.report("step", 3)
    scene.passes(DEFAULTS["step"] - 10.0, every=1.0)
    running = scene.shown
    scene.shown = replace(running, process="stopped")
    scene.passes(60.0)
    assert scene.acts == []
    scene.passes(HOUR)
    assert [found.act for found in scene.acts] == ["wake"]
    scene.shown = running
    scene.passes(9.0)
    assert len(scene.acts) == 1
    scene.report("step", 4)
    scene.passes(FORGET + 2.0)
    scene.shown = replace(scene.shown, process="stopped")
    scene.passes(70.0)
    assert [found.act for found in scene.acts] == ["wake", "wake"]


def test_an_end_that_is_collected_at_once_is_not_told() -> None:
    scene = Scene()
    scene.report("save", 100)
    scene.passes(1.0)
    scene.shown = replace(scene.shown, process="gone")
    scene.passes(20.0)
    assert scene.told == []
    scene.passes(20.0)
    assert (scene.names(), scene.acts) == (["dead"], [])


def test_what_is_around_is_looked_at_now_and_then() -> None:
    scene = Scene(surroundings=Around(disk_free=1, session_left=1.0))
    scene.report("step", 3)
    scene.passes(4.0)
    assert (scene.surveys, scene.told, scene.acts) == (0, [], [])
    scene.passes(6.1)
    assert scene.surveys == 2
    assert scene.names() == ["disk_nearly_full"]
    assert scene.asked() == {"stop"}


def play(scene: Scene, times: list[float], *, first: int = 1) -> None:
    """Steps that take so long, each reported at its end."""
    for number, seconds in enumerate(times, first):
        scene.passes(seconds, every=1.0)
        scene.report("step", number)
        scene.look()


def test_steps_that_become_slow_are_told() -> None:
    scene = Scene()
    scene.report("load")
    scene.look()
    scene.report("first_step", 0)
    scene.look()
    play(scene, [500.0] + [2.0] * 32)
    assert scene.watch.history.pace.windows == pytest.approx([2.0] * 4, abs=POLL)
    assert scene.watch.snapshot.step_seconds == pytest.approx(2.0, abs=POLL)
    play(scene, [7.0] * 15, first=34)
    assert scene.told == []
    play(scene, [7.0] * 9, first=49)
    assert scene.names() == ["slow"]


def test_saves_evaluations_and_sampling_for_several_steps_make_no_step_slow() -> None:
    scene = Scene()
    scene.report("first_step", 0)
    number = 0
    for round_ in range(20):
        scene.report("rollout", number)
        scene.passes(100.0, every=2.0)
        for _ in range(4):
            scene.report("step", number)
            scene.passes(2.0, every=1.0)
            number += 1
        if round_ >= 10:  # from here on every round ends with these
            scene.report("save", number)
            scene.passes(800.0, every=2.0)
            for batch in range(50):
                scene.report("eval", batch)
                scene.passes(20.0, every=2.0)
    assert scene.told == []
    assert len(scene.watch.history.pace.windows) >= 8
    assert scene.watch.history.pace.windows[-1] == pytest.approx(27.0, abs=3.0)
    assert scene.watch.snapshot.save_seconds == pytest.approx(800.0, abs=2.0)


def test_steps_faster_than_the_looks_are_shared_out() -> None:
    scene = Scene()
    scene.report("first_step", 0)
    scene.look()
    for number in range(10, 200, 10):
        scene.report("step", number)
        scene.passes(POLL)
    assert scene.watch.snapshot.step_seconds == pytest.approx(POLL / 10)


def test_a_gpu_that_idles_in_training_is_told_and_a_save_between_hides_nothing() -> None:
    scene = Scene(surroundings=Around(gpu_use=0.01))
    for number in range(10):
        scene.report("step", number)
        scene.passes(70.0, every=1.0)
        scene.report("save", number)
        scene.passes(20.0, every=1.0)
        assert (scene.names() == ["gpu_idle"]) is (number >= 8)


@pytest.mark.parametrize("use", [None, 0.05, 0.9])
def test_a_gpu_that_is_used_or_not_seen_does_not_idle(use: float | None) -> None:
    scene = Scene(surroundings=Around(gpu_use=use))
    for number in range(4):
        scene.report("step", number)
        scene.passes(500.0, every=1.0)
    assert scene.told == []


def test_one_moment_of_use_ends_the_idling() -> None:
    scene = Scene(surroundings=Around(gpu_use=0.0))
    for number in range(10):
        scene.report("step", number)
        scene.surroundings = Around(gpu_use=0.5 if number % 5 == 4 else 0.0)
        scene.passes(140.0, every=1.0)
    assert scene.told == []


def grow(scene: Scene, section: str, seconds: float) -> None:
    """Memory grows by 10 MiB a second."""
    for _ in range(round(seconds / 10)):
        size = (scene.surroundings.tree_rss or GIB) + 100 * 1024**2
        scene.surroundings = Around(tree_rss=size, ram_available=4 * GIB)
        scene.report(section, 1)
        scene.passes(10.0, every=1.0)


def test_memory_that_grows_in_training_is_told_and_while_loading_is_not() -> None:
    scene = Scene()
    grow(scene, "load", 900.0)
    assert scene.told == []
    grow(scene, "step", 250.0)
    assert scene.told == []
    grow(scene, "step", 150.0)
    assert scene.names() == ["ram_rising"]
    assert len(scene.watch.history.rss) < 70
    grow(scene, "step", 1500.0)
    assert len(scene.watch.history.rss) < 70


def test_the_session_ends_with_time_for_what_was_seen() -> None:
    scene = Scene(seen={"step": 100.0, "rollout": 200.0, "save": 80.0})
    scene.surroundings = Around(session_left=2 * (300.0 + 80.0) + 120.0 + 121.0)
    scene.report("step", 1)
    scene.passes(10.0)
    assert scene.acts == []
    scene.surroundings = Around(session_left=2 * (300.0 + 80.0) + 120.0 + 119.0)
    scene.passes(10.0)
    assert scene.asked() == {"stop"}
