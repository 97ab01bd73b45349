"""The process of one attempt: `python -m qvl_run.run.child FOLDER`.

Runs the stage and leaves `result.json` or `error.json`; the first failure is what is written, whatever happens
while the process goes down. Dies when the runner dies (Linux), so that two attempts never train side by side.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from qvl_run import plugins
from qvl_run.contract import StageResult, StageStopped
from qvl_run.faults import RUNNER_PID, crash_point
from qvl_run.recovery.account import described
from qvl_run.recovery.classify import STOPPED
from qvl_run.run.attempt import AttemptFolder
from qvl_run.run.context import ChildContext

FAILED = 1
_PR_SET_PDEATHSIG = 1


def main(folder: AttemptFolder) -> int:
    """Run the attempt in `folder`; the exit code says done (0), stopped early (75) or failed (1)."""
    orders = folder.orders()
    context = ChildContext(folder, orders)

    def stop(*_: object) -> None:
        context.stop = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        context.progress("setup")
        result = plugins.stage(orders.settings.uses).run(context)
        crash_point("stage.after_train")
        facts = {
            "measures": {name: list(pair) for name, pair in result.measures.items()},
            "usage": result.usage,
            "memory": dict(result.memory),
        }
        _write_usage(result)
        context.commit_output(result.output, step=result.steps, facts=facts)
        folder.write("result", {"output": str(result.output)})
    except StageStopped:
        return STOPPED
    except BaseException as error:
        folder.write("error", described(error))
        with suppress(Exception):
            traceback.print_exc()
        return FAILED
    return 0


def _write_usage(result: StageResult) -> None:
    """Leave the lines that load the output beside it."""
    if result.usage:
        text = "# Run this in the folder that it lies in.\n" + result.usage.replace("{path}", ".")
        (result.output / "usage.py").write_text(text, encoding="utf-8")


def _die_with_parent() -> None:
    """Have the kernel end this process with the runner (prctl(2)); elsewhere than on Linux nothing is done."""
    runner = os.environ.get(RUNNER_PID)
    if sys.platform != "linux" or not runner:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(runner):
        # The runner went between the fork and the call above.
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _die_with_parent()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    sys.exit(main(AttemptFolder(Path(sys.argv[1]))))
