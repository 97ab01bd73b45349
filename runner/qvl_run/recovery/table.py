"""When a job is recovered, as a table: what happens, what is done about it, what is lost. It is the test matrix too.

Every row is a fault that `tests/faults` injects into a real attempt of a real run; a test holds that none is missing.
`recovery.page` makes docs/failures.md of it and of the rules as they hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from qvl_run import exit_codes
from qvl_run.recovery.failure import FailureClass
from qvl_run.recovery.rules import (
    MAX_WITHOUT_PROGRESS,
)
from qvl_run.run.supervise import GRACE, LAST_WORDS, LONGEST_LOG
from qvl_run.units import show_duration, show_size
from qvl_run.watchdog.deadlines import DEFAULTS
from qvl_run.watchdog.detectors import STOPPED

Action = Literal["resumed", "goes on", "saved", "stopped", "again", "refused"]
ACTIONS: Mapping[Action, str] = {
    "resumed": "a new attempt goes on from the newest whole checkpoint, by itself",
    "goes on": "the attempt is not ended",
    "saved": "it saves and the run ends; the same command goes on",
    "again": "the run ends; the same command goes on",
    "stopped": "the run ends and says why: trying again would not help, or has not helped",
    "refused": "nothing is started",
}

Lost = Literal["nothing", "the steps since the last save"]
NOTHING: Lost = "nothing"
UNSAVED: Lost = "the steps since the last save"

Group = Literal[
    "The process dies", "The stage fails", "It hangs", "Memory", "Disk, drive and network",
    "Settings and data", "What you do",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault. `failure` is None where no attempt failed; `code` is the exit code of the run in the end, as a shell
    shows it; `guessed` tells that only a pattern in a text speaks for the class."""

    fault: str
    group: Group
    text: str
    failure: FailureClass | None = None
    action: Action
    code: int = exit_codes.DONE
    lost: Lost = NOTHING
    guessed: bool = False


def _resumed(
    fault: str, group: Group, text: str, failure: FailureClass, *, guessed: bool = False
) -> Row:
    return Row(
        fault=fault,
        group=group,
        text=text,
        failure=failure,
        action="resumed",
        lost=UNSAVED,
        guessed=guessed,
    )


def _stopped(
    fault: str,
    group: Group,
    text: str,
    failure: FailureClass,
    *,
    code: int = exit_codes.FAILED,
    guessed: bool = False,
) -> Row:
    return Row(
        fault=fault,
        group=group,
        text=text,
        failure=failure,
        action="stopped",
        code=code,
        lost=UNSAVED,
        guessed=guessed,
    )


_DIES: tuple[tuple[str, str, FailureClass], ...] = (
    ("sigkill", "SIGKILL from outside", "preempted"),
    ("exit_code", "`sys.exit(3)` somewhere in a library", "exit"),
    ("exit_zero", "`sys.exit(0)` before the stage is done", "exit"),
    ("os_exit", "`os._exit(7)`: no word of why", "exit"),
    ("os_exit_zero", "`os._exit(0)`: it looks like success, but there is no output", "error"),
    ("abort", "an abort (SIGABRT)", "exit"),
    ("segfault", "a segmentation fault", "exit"),
    ("torn_error", "it dies while it writes its account of an error", "exit"),
    ("orphan", "it dies, and processes that it started live on: they are ended too", "exit"),
)

ROWS: tuple[Row, ...] = (
    *(_resumed(fault, "The process dies", text, failure) for fault, text, failure in _DIES),
    Row(
        fault="sigterm",
        group="The process dies",
        text="SIGTERM from outside: it saves first",
        failure="preempted",
        action="resumed",
    ),
    _stopped(
        "sigkill_again",
        "The process dies",
        f"SIGKILL from outside, after {MAX_WITHOUT_PROGRESS} restarts that came no further",
        "preempted",
    ),
    Row(
        fault="sigstop",
        group="The process dies",
        text=f"SIGSTOP from outside: it is woken after {show_duration(STOPPED)}",
        action="goes on",
    ),
    Row(
        fault="orphan_done",
        group="The process dies",
        text="it is done, and processes that it started live on: they are ended",
        action="goes on",
    ),
    Row(
        fault="escaped",
        group="The process dies",
        text="a process that it started in a session of its own lives on: the next start of the job ends it",
        action="goes on",
    ),
    _resumed("exception", "The stage fails", "an exception", "error"),
    _stopped("exception_again", "The stage fails", "an exception, and once more", "error"),
    _resumed("no_text", "The stage fails", "an exception that cannot be shown as text", "error"),
    _resumed("unpicklable", "The stage fails", "an exception that cannot be pickled", "error"),
    Row(
        fault="thread_error",
        group="The stage fails",
        text="an exception in a thread that nobody waits for: it is in the log",
        action="goes on",
    ),
    Row(
        fault="flood",
        group="The stage fails",
        text=f"it prints without end: of more than {show_size(LONGEST_LOG)} the ends are kept",
        action="goes on",
    ),
    _stopped(
        "nan", "The stage fails", "the loss is no number: the message says what to try", "nan"
    ),
    _resumed("loop", "It hangs", "an endless loop in Python", "hang"),
    _resumed("gil", "It hangs", "native code that never gives the interpreter back", "hang"),
    _resumed("thread_wait", "It hangs", "it waits for a thread that has died of an error", "hang"),
    _resumed(
        "teardown",
        "It hangs",
        f"it hangs while it ends after an error: it has {show_duration(LAST_WORDS)}",
        "error",
    ),
    Row(
        fault="teardown_done",
        group="It hangs",
        text=f"it hangs while it ends, done: it has {show_duration(LAST_WORDS)}",
        action="goes on",
    ),
    _resumed(
        "oom",
        "Memory",
        "CUDA out of memory: the next attempt has a smaller micro-batch, the global batch stays",
        "oom",
    ),
    _resumed(
        "oom_text", "Memory", "another error whose text says CUDA out of memory", "oom", guessed=True
    ),
    _stopped("oom_smallest", "Memory", "CUDA out of memory, and nothing can be smaller", "oom"),
    _resumed("host_oom", "Memory", "the kernel kills it for want of memory", "ram"),
    _resumed("memory_error", "Memory", "`MemoryError` in Python", "ram"),
    _stopped(
        "disk_full", "Disk, drive and network", "this machine's disk is full", "disk"
    ),
    Row(
        fault="disk_room",
        group="Disk, drive and network",
        text="this machine's disk has no room for the next checkpoint: told once this one is whole",
        failure="disk",
        action="stopped",
        code=exit_codes.FAILED,
    ),
    _stopped(
        "disk_whole",
        "Disk, drive and network",
        "this machine's disk is full to the last byte: what was saved is still taken to the drive",
        "disk",
        guessed=True,
    ),
    _stopped(
        "disk_text",
        "Disk, drive and network",
        'it dies without a word, and its log ends in "No space left on device"',
        "disk",
        guessed=True,
    ),
    _resumed(
        "drive_lost",
        "Disk, drive and network",
        "the drive that it reads from is gone for a while",
        "drive_lost",
    ),
    Row(
        fault="drive_gone",
        group="Disk, drive and network",
        text="the drive that it reads from is gone for good",
        failure="drive_lost",
        action="again",
        code=exit_codes.STOPPED,
        lost=UNSAVED,
    ),
    _resumed("download_failed", "Disk, drive and network", "a download fails", "download"),
    _resumed(
        "download_stall",
        "Disk, drive and network",
        f"a download stalls: no byte for {show_duration(DEFAULTS['download'])}",
        "download",
    ),
    _stopped(
        "config",
        "Settings and data",
        "a setting turns out not to work",
        "config",
        code=exit_codes.USAGE,
    ),
    _stopped(
        "import_inside",
        "Settings and data",
        "a package is missing that the stage needs once it runs",
        "config",
        code=exit_codes.USAGE,
    ),
    Row(
        fault="import_at_load",
        group="Settings and data",
        text="a plugin cannot be imported",
        action="refused",
        code=exit_codes.USAGE,
    ),
    _stopped(
        "data",
        "Settings and data",
        "a row of the data cannot be used",
        "data",
        code=exit_codes.USAGE,
    ),
    _stopped(
        "max_restarts",
        "What you do",
        "the job allows so many restarts in all, and it dies once more",
        "preempted",
    ),
    _stopped("recovery_none", "What you do", "the job says `recovery: none`", "error"),
    Row(
        fault="interrupt",
        group="What you do",
        text="Ctrl-C, SIGTERM to qvl-run, or a closed terminal",
        action="saved",
        code=exit_codes.STOPPED,
    ),
    Row(
        fault="interrupt_stopped",
        group="What you do",
        text="Ctrl-C while the training process is stopped (SIGSTOP): it is woken, and saves",
        action="saved",
        code=exit_codes.STOPPED,
    ),
    Row(
        fault="interrupt_twice",
        group="What you do",
        text="Ctrl-C twice: the stage does not listen, and is ended at once",
        action="again",
        code=exit_codes.STOPPED,
        lost=UNSAVED,
    ),
    Row(
        fault="interrupt_ignored",
        group="What you do",
        text=f"Ctrl-C once, and the stage does not listen: it has {show_duration(GRACE)}",
        action="again",
        code=exit_codes.STOPPED,
        lost=UNSAVED,
    ),
    Row(
        fault="runner_killed",
        group="What you do",
        text="qvl-run itself is killed, or the machine dies: the training process dies with it",
        action="again",
        code=128 + 9,
        lost=UNSAVED,
    ),
)  # fmt: skip
