"""docs/failures.md: the table of what is recovered, and the classes, rules and limits as they hold, from the code."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import dedent, indent
from typing import get_args

from qvl_run import exit_codes
from qvl_run.recovery.classify import LOW_RAM
from qvl_run.recovery.failure import MEANING
from qvl_run.recovery.rules import (
    DEFAULT,
    MAX_BACKOFF,
    MAX_RESTARTS,
    MAX_WITHOUT_PROGRESS,
    NEUTRAL,
    Rung,
)
from qvl_run.recovery.table import ACTIONS, ROWS
from qvl_run.run.supervise import HUNG_GRACE
from qvl_run.units import show_duration
from qvl_run.watchdog.deadlines import DEFAULTS, FACTOR

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
        gradient accumulation grows, so that the global batch stays; where the job leaves the split open, it begins at
        the one that was fitted to the GPU. A split that is predicted to need more is passed over: between the batches
        of a step gradients stay, which a step of one batch has no need of. Rungs of that kind: {_rungs(True)}; what has
        helped is remembered for this kind of GPU until the job file changes, and `qvl-run plan JOB` shows it. What
        changes the result is done only where a rule of yours names it: {_rungs(False)}. How many completions `grpo`
        samples at once (`generation_micro_batch_size`) the attempt itself halves, without ending.
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
