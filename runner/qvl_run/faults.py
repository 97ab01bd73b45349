"""Named crash points: places where a test can have the whole run die as if the machine had gone.

Off unless `QVL_CRASH_AT` names a point, `name` or `name@N` for its N-th passing. The names stand in `POINTS`; a
test kills a run at each of them.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

POINTS = (
    "stage.before_train",
    "checkpoint.before_manifest",
    "checkpoint.after_manifest",
    "mirror.first_file",
    "mirror.before_manifest",
    "mirror.after_manifest",
    "stage.after_train",
    "output.before_manifest",
    "output.after_manifest",
    "run.between_stages",
    "disk.effect",
)
RUNNER_PID = "QVL_RUNNER_PID"

_passed: Counter[str] = Counter()


def crash_point(name: str) -> None:
    """Die here, with the runner, if `QVL_CRASH_AT` says so: SIGKILL, so nothing is cleaned up or flushed."""
    wanted = os.environ.get("QVL_CRASH_AT")
    if not wanted:
        return
    assert name in POINTS, name
    _passed[name] += 1
    point, _, count = wanted.partition("@")
    if point == name and _passed[name] == int(count or 1):
        runner = os.environ.get(RUNNER_PID)
        if runner and int(runner) != os.getpid():
            os.kill(int(runner), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
