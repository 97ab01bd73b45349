"""Events as lines for people. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qvl_run.units import show_duration, show_size

Record = Mapping[str, Any]


def line(record: Record) -> str:
    """One event: when, and what."""
    clock = str(record.get("time", "")).replace("T", " ").partition(".")[0]
    return f"{clock}  {text(record)}"


def text(record: Record) -> str:
    """What happened. An event of another version is shown as it is."""
    say = _TEXTS.get(str(record.get("event")))
    try:
        return say(record) if say else _plain(record)
    except (KeyError, TypeError, ValueError):
        return _plain(record)


def _plain(record: Record) -> str:
    rest = {k: v for k, v in record.items() if k not in ("id", "time", "event")}
    return f"{record.get('event')} {rest}"


def _attempt(record: Record) -> str:
    number = str(record["attempt"]).removeprefix("attempt-").lstrip("0")
    return f"{record['stage']}, attempt {number}"


def _ended(record: Record) -> str:
    codes = {0: "to its end", 75: "saved and stopped", 1: "failed"}
    how = codes.get(record["code"], f"code {record['code']}")
    left = record.get("left_behind")
    more = f"; {left} processes that it left behind were ended" if left else ""
    return f"{_attempt(record)}: {how}, at step {record['step']}{more}"


def _failed(record: Record) -> str:
    guess = ", a guess" if record.get("guessed") else ""
    head = f"{_attempt(record)} failed at step {record['step']} ({record['failure']}{guess})"
    return f"{head}: {str(record['message']).splitlines()[0][:300]}"


def _restart(record: Record) -> str:
    account = record["account"]
    if record["by_hand"]:
        return (
            f"{record['stage']}: the next start counts as restart {account['total']} of this stage"
        )
    wait = f" after {show_duration(record['wait'])}" if record["wait"] >= 1 else ""
    again = f"{record['stage']}: tried again{wait} by the rule {record['rule']}"
    return f"{again}; restart {account['total']} of this stage"


def _run_ended(record: Record) -> str:
    why = f": {record['why']}" if record.get("why") else ""
    stage = f" in {record['stage']}" if record.get("stage") else ""
    left = record.get("not_stored")
    more = f"; on this machine alone: {', '.join(left)}" if left else ""
    return f"the run ended{stage} ({record['ending']}){why}{more}"


def _mirrored(record: Record) -> str:
    size = show_size(record["bytes"])
    return (
        f"{record['stage']}/{record['folder']}: {record['level']}, {size} in {record['seconds']} s"
    )


_TEXTS: dict[str, Callable[[Record], str]] = {
    "run_started": lambda r: f"the run started on {r['machine']}",
    "run_ended": _run_ended,
    "stage_planned": lambda r: (
        f"{r['stage']}: {r['state']}" + (f" at step {r['step']}" if r["state"] == "resume" else "")
    ),
    "attempt_started": lambda r: f"{_attempt(r)} started at step {r['step']}",
    "attempt_ended": _ended,
    "attempt_failed": _failed,
    "restart": _restart,
    "adapted": lambda r: f"{r['stage']}: {r['text']}",
    "gave_up": lambda r: f"{r['stage']}: not tried again: {r['why']}",
    "mirrored": _mirrored,
    "finding": lambda r: f"watchdog: {r['text']}",
    "killed": lambda r: f"watchdog: {r['why']}: ended",
    "stop_asked": lambda r: f"asked to save and stop: {r['why']}",
    "asked": lambda r: f"a file asked: {r['request']}",
}
EVENTS = tuple(_TEXTS)
"""Every event that there is."""
