import pytest

from qvl_run.run.recovery import NO_PROGRESS, RESTARTS, Failure, classify, decide


def failure(kind: str) -> Failure:
    return Failure(failure=kind, message="m")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["config", "data", "nan", "oom"])
def test_what_a_restart_cannot_mend_stops(kind: str) -> None:
    assert not decide(failure(kind), policy="default", restarts=0, without_progress=0).retry


@pytest.mark.parametrize("kind", ["download", "exit", "signal", "error"])
def test_the_rest_is_tried_again_within_the_ceilings(kind: str) -> None:
    assert decide(failure(kind), policy="default", restarts=0, without_progress=0).retry
    assert not decide(failure(kind), policy="default", restarts=RESTARTS, without_progress=0).retry
    assert not decide(
        failure(kind), policy="default", restarts=1, without_progress=NO_PROGRESS
    ).retry
    assert not decide(failure(kind), policy="none", restarts=0, without_progress=0).retry


def test_what_the_child_wrote_comes_before_its_exit_code() -> None:
    error = {
        "failure": "data", "type": "DataError", "message": "x:3: no image", "expected": True, "traceback": "t",
    }  # fmt: skip
    assert classify(error, -9) == Failure(
        failure="data", message="x:3: no image", expected=True, traceback="t"
    )


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [(-9, "signal", "SIGKILL"), (-11, "signal", "SIGSEGV"), (3, "exit", "code 3")],
)
def test_a_child_that_said_nothing_is_judged_by_its_end(code: int, kind: str, words: str) -> None:
    found = classify(None, code)
    assert found.failure == kind
    assert words in found.message
