"""Whatever is seen and not seen, in whatever order: a kill only ever comes for a child that is seen to be silent."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from qvl_run.watchdog.snapshot import Around, Child, Report
from tests.qvl_run.watchdog.scene import Scene

SECTIONS = ["setup", "download", "load", "first_step", "step", "eval", "rollout", "save", "other"]
FLOORS = dict.fromkeys(SECTIONS, 5.0)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


REPORTS = st.builds(
    Report,
    section=st.sampled_from(SECTIONS),
    step=maybe(st.integers(0, 3)),
    total=maybe(st.just(3)),
    beat=st.integers(0, 3),
)
CHILDREN = st.builds(
    Child,
    report=maybe(REPORTS),
    process=maybe(st.sampled_from(["running", "running", "running", "stopped", "gone"])),
)
NUMBERS = maybe(st.integers(0, 2**40))
SECONDS = maybe(st.floats(0, 1e6))
SURROUNDINGS = st.builds(
    Around,
    checkpoint_bytes=NUMBERS,
    store_refusing_for=SECONDS,
    upload_waiting=maybe(st.integers(0, 3)),
    upload_lag=SECONDS,
    upload_seconds=SECONDS,
    session_left=SECONDS,
    gpu_use=maybe(st.floats(0, 1)),
    disk_free=NUMBERS,
    ram_available=NUMBERS,
    ram_total=NUMBERS,
    tree_rss=NUMBERS,
)
# What is seen, for how many looks, and how far apart these are.
STRETCH = st.tuples(
    CHILDREN, SURROUNDINGS, st.integers(1, 12), st.sampled_from([0.2, 1.0, 2.0, 3600.0, -5.0])
)


def test_a_kill_comes_only_for_a_child_that_is_seen_to_run_and_be_silent_beyond_its_deadline() -> (
    None
):
    kills: list[str] = []

    @settings(max_examples=200, deadline=None, derandomize=True, database=None)
    @given(st.lists(STRETCH, max_size=8))
    def check(stretches: list[tuple[Child, Around, int, float]]) -> None:
        scene = Scene(floors=FLOORS)
        silence, newest = 0.0, -1
        for child, around, looks, apart in stretches:
            scene.shown, scene.surroundings = child, around
            for _ in range(looks):
                scene.now += apart
                before = len(scene.acts)
                scene.look()
                # Counted anew here: looks that could read the same report of a running child.
                if child.report and child.report.beat > newest:
                    silence, newest = 0.0, child.report.beat
                elif child.report and child.report.beat == newest and child.process == "running":
                    silence += min(max(apart, 0.0), 2.0)
                acts = scene.acts[before:]
                assert len(acts) <= 1
                if acts and acts[0].act == "kill":
                    kills.append(acts[0].text)
                    assert child.process == "running"
                    assert child.report is not None
                    assert child.report.beat == newest
                    assert silence > 5.0

    check()
    assert len(kills) > 20, "the sequences hardly ever come to a kill: this shows nothing"
