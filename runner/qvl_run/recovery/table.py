"""When a job is recovered, as a table: what happens, what is done about it, what is lost. It is the test matrix too.

Every row is a fault that `tests/faults` injects into a real attempt of a real run; a test holds that none is missing.
`markdown` makes docs/failures.md of it and of the rules as they hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from textwrap import dedent, indent
from typing import Literal, get_args

from qvl_run import exit_codes
from qvl_run.recovery.classify import LOW_RAM
from qvl_run.recovery.failure import MEANING, FailureClass
from qvl_run.recovery.rules import (
    DEFAULT,
    MAX_BACKOFF,
    MAX_RESTARTS,
    MAX_WITHOUT_PROGRESS,
    NEUTRAL,
    Rung,
)
from qvl_run.run.supervise import GRACE, HUNG_GRACE, LAST_WORDS, LONGEST_LOG
from qvl_run.units import show_duration, show_size
from qvl_run.watchdog.deadlines import DEFAULTS, FACTOR
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


OWN_RULES = """
recovery:
  rules:
    - {on: oom, adapt: [micro_batch, gradient_checkpointing, image_tokens]}
    - {on: [download, drive_lost], limit: 10, backoff: 1min}
    - {on: error, do: stop}
  max_restarts: 40
  deadlines: {rollout: 40min}
"""
"""The example of the page."""


def markdown() -> str:
    """docs/failures.md."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield from (
        "# When is my job recovered?",
        "",
        "What qvl-run does when an attempt at a stage dies, hangs or fails, what is lost then, and what it does not "
        "do. Made from `runner/qvl_run/recovery` by `make docs`. Every row of the table is a test: the fault is "
        "injected into a real process of a real run (`tests/faults`).",
        "",
        "Each attempt runs in a process of its own, watched by `qvl-run`. When it ends without its output, the failure "
        "gets a class, the first rule for that class says what to do, and a new attempt goes on from the newest "
        "checkpoint that is whole ([which one that is](checkpoints.md)). `save_steps` bounds what is lost.",
        "",
        "## The table",
        "",
        *(f"- **{action}**: {meaning}" for action, meaning in ACTIONS.items()),
    )
    yield from _table()
    yield from _classes()
    yield from _rules()
    yield from _deadlines()
    yield from _own_rules()
    yield from _exit_codes()
    yield from _not_promised()


def _table() -> Iterator[str]:
    group = ""
    for row in ROWS:
        if row.group != group:
            group = row.group
            yield from (
                "",
                f"### {group}",
                "",
                "| what happens | class | what is done | exit code | lost |",
                "|---|---|---|---|---|",
            )
        failure = f"`{row.failure}`" if row.failure else "-"
        failure += ", a guess" if row.guessed else ""
        yield f"| {row.text} | {failure} | {row.action} | {row.code} | {row.lost} |"


def _classes() -> Iterator[str]:
    yield from (
        "",
        "## The classes",
        "",
        "| class | what it means |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in MEANING.items()),
    )
    yield from _text(
        f"""
        The class comes from what is sure, in this order: what the watchdog ended it for, what the stage said itself,
        the exception's type or error number, the exit code, the signal with the kernel's count of what it killed for
        want of memory. Last come patterns in a text. These are guesses, and the run says so; so is `ram` for a
        SIGKILL while less than {LOW_RAM:.0%} of the memory was free. The first failure counts, not what follows
        from it while the process goes down.
        """
    )


def _rules() -> Iterator[str]:
    *rules, _ = DEFAULT.lines()
    yield from _text(
        """
        ## The rules

        The built-in ones; `qvl-run plan JOB` shows those that hold for a job.
        """
    )
    yield from ("", *(f"- {line}" for line in rules))
    yield from _text(
        f"""
        A wait is longer or shorter by up to a half, by chance. A checkpoint past the step of the failure gives all of
        these limits back. Two ceilings stand above them, whatever the rules say:

        - `max_restarts`: {MAX_RESTARTS} restarts of a stage in all, over every start of the run on any machine.
          Nothing gives them back but other settings.
        - `max_without_progress`: {MAX_WITHOUT_PROGRESS} restarts in a row that came no further. One that changes
          something, such as the micro-batch, does not count.

        What was spent, and what was changed after an out-of-memory, stands in the run's folder beside the
        checkpoints (`*.ledger.jsonl`), so the next start knows it.

        Less memory comes one rung at a time, first what leaves the result as it is: the micro-batch is halved while
        gradient accumulation grows, so that the global batch stays. Rungs of that kind: {_rungs(True)}; what has
        helped is remembered for this kind of GPU until the job file changes, and `qvl-run plan JOB` shows it. What
        changes the result is done only where a rule of yours names it: {_rungs(False)}.
        """
    )


def _rungs(neutral: bool) -> str:
    return ", ".join(f"`{rung}`" for rung in get_args(Rung) if (rung in NEUTRAL) is neutral)


def _deadlines() -> Iterator[str]:
    yield from (
        "",
        "## When is silence a hang?",
        "",
        "| while it is in | it may be silent for |",
        "|---|---|",
        *(f"| `{name}` | {show_duration(seconds)} |" for name, seconds in DEFAULTS.items()),
    )
    yield from _text(
        f"""
        Or {FACTOR:g} times the longest silence of that kind that has ended well, where that is more. Time counts only
        while qvl-run itself runs and sees the process run: a laptop that slept has not hung. Before it is ended, the
        stacks of all its threads and the end of its log are kept in `evidence.json` of the attempt; it then has
        {show_duration(HUNG_GRACE)}, and what it had started is ended with it.
        """
    )


def _own_rules() -> Iterator[str]:
    yield from _text(
        f"""
        ## Rules of your own

        They come before the built-in ones; the first that names the class holds ([every key](job-reference.md)).
        What a rule for one class leaves out stays as it is built in.

        ```yaml
{indent(OWN_RULES.strip(), " " * 8)}
        ```

        `backoff` is the wait before the first restart; each further one waits twice as long,
        {show_duration(MAX_BACKOFF)} at most unless `max_backoff` says otherwise. `recovery: none` stops at the first
        failure.
        """
    )


def _exit_codes() -> Iterator[str]:
    yield from _text(
        f"""
        ## What the exit code says

        | code | what a script may do |
        |---|---|
        | {exit_codes.DONE} | go on: all is done |
        | {exit_codes.FAILED} | tell a person: the rules allow no further try |
        | {exit_codes.USAGE} | tell a person: the job, its settings or its data must change |
        | {exit_codes.MACHINE} | take another machine |
        | {exit_codes.BROKEN} | tell a person: checkpoints exist and none is whole |
        | {exit_codes.OWNED} | nothing: another qvl-run is at work on it |
        | {exit_codes.STOPPED} | give the same command again, at once or when the machine or the drive is back |

        Any other code means that qvl-run itself was killed: give the same command again.
        """
    )


def _not_promised() -> Iterator[str]:
    yield from _text(
        """
        ## What is not promised

        - That a process which leaves the attempt's process group (`setsid`, a daemon, a container) is ended with it.
          The next start of the job on the same machine ends those that still have the attempt's environment.
        - That a failure which the stage hides is seen: an exception that it catches, a thread whose death it does not
          notice and whose work it does not need.
        - That a stage which goes on reporting, but does nothing of use, is ended: only silence is. Slow steps and an
          idle GPU are told.
        - That a process which a person stops (SIGSTOP) again and again is woken more than once in an attempt. One
          under a debugger is left alone.
        - That anything runs once qvl-run itself was killed. On Linux its training process is ended with it; elsewhere
          that may live on until the next start. Start it again by hand, or by a loop that looks at the exit code.
        - That a guess is right. A guessed class is marked so, in the output and in the run's events.
        - That a class tells the cause. A SIGKILL from a person and one from a scheduler look the same, and so does
          the kernel's own for want of memory where its counts cannot be read.
        """
    )


def _text(paragraphs: str) -> Iterator[str]:
    """`paragraphs`, written with an indent, after an empty line."""
    yield ""
    yield dedent(paragraphs).strip()
