from qvl_run.watchdog.detectors import Finding
from qvl_run.watchdog.judge import FORGET, Verdict, decide

KILL = Finding("silent", "kill", "k")
STOP = Finding("session_nearly_over", "stop", "s")
WAKE = Finding("stopped", "wake", "w")
SLOW = Finding("slow", "warn", "slow")
DISK = Finding("disk_nearly_full", "warn", "disk")


def test_nothing_found_is_nothing_done() -> None:
    assert decide([], {}, watched=5.0) == Verdict()


def test_one_action_the_strongest() -> None:
    assert decide([WAKE, STOP, KILL], {}, watched=0.0).action == KILL
    assert decide([WAKE, STOP], {}, watched=0.0).action == STOP
    assert decide([SLOW, WAKE], {}, watched=0.0).action == WAKE
    assert decide([SLOW], {}, watched=0.0).action is None


def test_kill_and_stop_stand_while_wake_is_given_once() -> None:
    for found, again in ((KILL, KILL), (STOP, STOP), (WAKE, None)):
        first = decide([found], {}, watched=0.0)
        assert first.action == found
        assert decide([found], first.told, watched=0.2).action == again


def test_a_wake_that_had_to_wait_is_given_then() -> None:
    first = decide([WAKE, STOP], {}, watched=0.0)
    assert decide([WAKE], first.told, watched=0.2).action == WAKE


def test_a_warning_is_told_once_however_long_it_lasts_and_again_after_a_while() -> None:
    told, at = decide([SLOW], {}, watched=0.0).told, 0.0
    while at < 3 * FORGET:
        at += 2.0
        again = decide([SLOW, DISK], told, watched=at)
        assert SLOW not in again.warnings
        assert (DISK in again.warnings) is (at == 2.0)
        told = again.told
    flickered = decide([SLOW], decide([], told, watched=at + 100.0).told, watched=at + 200.0)
    assert flickered.warnings == ()
    gone = decide([], flickered.told, watched=at + 201.0 + FORGET)
    assert decide([SLOW], gone.told, watched=at + 202.0 + FORGET).warnings == (SLOW,)


def test_nothing_is_done_to_a_process_that_has_gone() -> None:
    dead = Finding("dead", "warn", "d")
    verdict = decide([dead, KILL, STOP, WAKE], {}, watched=0.0)
    assert (verdict.action, verdict.warnings) == (None, (dead,))
