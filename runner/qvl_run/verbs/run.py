"""`qvl-run run`."""

from __future__ import annotations

import errno
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from qvl_run import exit_codes
from qvl_run.hardware import Machine
from qvl_run.plan import decide
from qvl_run.plan.fit import fitted
from qvl_run.plan.make import make_plan
from qvl_run.plan.places import Places, places
from qvl_run.plan.saved import refuse_stale
from qvl_run.run import tables
from qvl_run.run.lease import Interrupted, Owned
from qvl_run.run.machinery import Machinery
from qvl_run.run.outcome import Outcome
from qvl_run.run.preflight import judged, machine_here
from qvl_run.run.runner import Run
from qvl_run.run.show import Show
from qvl_run.spec.data_check import check_data
from qvl_run.spec.job import Job
from qvl_run.spec.render import render
from qvl_run.units import show_size
from qvl_run.verbs.job import Options, chosen, warn
from qvl_run.verbs.plan import machine_for

LOCK_PATIENCE = 1.0
"""Seconds to wait for the lock: `qvl-run status` holds it for a moment, to see whether it is held."""


def main(
    job: str, *, saved: str | None, take_over: bool, wait_for_drive: bool, **options: Any
) -> int:
    """Run the job; the exit code is one of `qvl_run.exit_codes`. Raises JobError before anything is touched."""
    loaded, choices = chosen(job, Options(**options))
    warn(loaded)
    where = places(loaded)
    machine = machine_here(loaded, where)
    check_data(fitted(loaded, machine_for(loaded, None, machine)))
    if found := judged(loaded, machine, where, choices=choices):
        print(loaded.shown(render(found)), file=sys.stderr)
        if any(finding.severity == "error" for finding in found):
            return exit_codes.MACHINE
    if saved is not None:
        refuse_stale(Path(saved), make_plan(loaded, machine, choices=choices))
    show = Show(sys.stdout, shown=loaded.shown)
    try:
        where.scratch.mkdir(parents=True, exist_ok=True)
        with FileLock(where.scratch / "runner.lock", timeout=LOCK_PATIENCE):
            stops = _count_interrupts()
            _greet(show, loaded, machine, where)
            machinery = Machinery(show=show, stop=lambda: len(stops))
            outcome = Run(
                job=loaded,
                machine=machine,
                where=where,
                choices=choices,
                machinery=machinery,
                take_over=take_over,
                wait_for_store=wait_for_drive,
            ).run()
    except Owned as error:
        print(
            f"{loaded.shown(str(error))}\n"
            "nothing was started; wait for it, or stop it. If it is surely gone: "
            f"{_again()} --take-over",
            file=sys.stderr,
        )
        return exit_codes.OWNED
    except (Interrupted, KeyboardInterrupt):
        show.line(f"\nstopped early; to go on: {_again()}")
        return exit_codes.STOPPED
    except Timeout:
        print(
            f"another qvl-run is at work on this job ({where.scratch}); wait for it, or stop it",
            file=sys.stderr,
        )
        return exit_codes.OWNED
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            print(
                f"a disk is full: {loaded.shown(str(error))}\n"
                "free some space there, or set storage.scratch to another disk; then run the same command again",
                file=sys.stderr,
            )
            return exit_codes.FAILED
        print(
            f"a file or folder cannot be used: {loaded.shown(str(error))}\n"
            "nothing was decided; run the same command again once it "
            f"can be reached",
            file=sys.stderr,
        )
        return exit_codes.STOPPED
    return _finish(show, outcome, _again())


def _count_interrupts() -> list[int]:
    """Collects SIGINT, SIGTERM and SIGHUP (a closed terminal): the first asks to save and stop, the second to end
    at once. The third raises KeyboardInterrupt: whatever is waited for, it does not answer."""
    seen: list[int] = []

    def note(number: int, _: object) -> None:
        if number == signal.SIGHUP and number in seen:
            return  # a terminal that is closed says so more than once
        seen.append(number)
        if len(seen) > 2:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, note)
    return seen


def _greet(show: Show, job: Job, machine: Machine, where: Places) -> None:
    gpu = machine.gpu
    what = "no GPU" if gpu is None else f"{gpu.name}, {show_size(gpu.vram)}"
    auto = decide.precision(gpu)
    chosen = {spec.model.get("precision", "auto") for spec in job.stages}
    precision = f"{auto.value} ({auto.rule})" if chosen == {"auto"} else ", ".join(sorted(chosen))
    show.line(f"{job.name}: {what}; {precision}")
    show.line(f"results in {where.place}")


def _again() -> str:
    """This command once more, but for what must not be repeated."""
    words, given = ["qvl-run"], iter(sys.argv[1:])
    for word in given:
        if word == "--resume-from":
            next(given, None)  # where it has come to is further on
        elif word not in ("--from-scratch", "--take-over") and not word.startswith(
            "--resume-from="
        ):
            words.append(word)
    return shlex.join(words)


def _finish(show: Show, outcome: Outcome, command: str) -> int:
    if outcome.outputs:
        show.line()
        tables.print_stages(outcome.outputs, outcome.elsewhere)
    stored = _tell_of_storage(show, outcome, command)
    if outcome.ending == "done":
        last = outcome.outputs[-1] if outcome.outputs else None
        if last and outcome.result:
            place = str(outcome.result)
            first = "download that folder, then:" if "://" in place else ""
            path = outcome.result.last if first else place
            usage = str(last.facts.get("usage", "")).replace("{path}", path)
            show.line(
                f"\nThe result is in {place}. To load it{', ' + first if first else ':'}\n\n{usage}"
            )
        return exit_codes.DONE if stored else exit_codes.STOPPED
    if outcome.ending == "owned":
        show.line("\nanother qvl-run has taken this job over; this one has saved and ended")
        return exit_codes.OWNED
    if outcome.ending == "stopped":
        why = f" ({outcome.why})" if outcome.why else ""
        show.line(f"\nstopped early{why}; to go on: {command}")
        return exit_codes.STOPPED
    if outcome.ending == "broken" and outcome.stage:
        show.line(
            f"\nnone of the checkpoints of {outcome.stage.spec.name} is whole, so nothing was started.\n"
            "If uploads may still arrive, wait and run the same command again. To give them up:\n"
            f"  {command} --stage {outcome.stage.spec.name} --from-scratch"
        )
        return exit_codes.BROKEN
    if outcome.ending == "no_input" and outcome.stage:
        show.line("\nnothing was started; " + "; ".join(outcome.stage.reasons))
        return exit_codes.USAGE
    show.line(
        f"\n{outcome.stage.spec.name if outcome.stage else 'the run'} failed; what is finished is kept."
    )
    bad_input = outcome.failure is not None and outcome.failure.failure in ("config", "data")
    return exit_codes.USAGE if bad_input else exit_codes.FAILED


def _tell_of_storage(show: Show, outcome: Outcome, command: str) -> bool:
    """Say what has not reached storage, and what is still on its way; whether all has reached it."""
    store = outcome.store
    if outcome.left and store is not None:
        names = ", ".join(f"{one.name} ({show_size(one.manifest.size)})" for one in outcome.left)
        show.line(
            f"\nnot in {store.place} yet: {names}.\nIt is on this machine's disk alone. To take it there: {command}"
            + ("" if "--wait-for-drive" in command else " --wait-for-drive")
        )
    elif store is not None and store.finished == "mirrored" and outcome.outputs:
        show.line(
            f"\nall of it is in {store.place} and read back equal. A mounted drive goes on uploading after that; on "
            "Colab, run drive.flush_and_unmount() in a cell before you give the machine back"
        )
    return not outcome.left
