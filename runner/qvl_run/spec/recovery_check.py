"""Rules of recovery that would never be asked, and keys of a rule that nothing would read."""

from __future__ import annotations

from collections.abc import Iterator

from qvl_run.recovery.failure import FailureClass
from qvl_run.recovery.rules import Rule
from qvl_run.spec.diagnostic import Diagnostic, Span
from qvl_run.spec.document import Key
from qvl_run.spec.job import Job

MEMORY: frozenset[FailureClass] = frozenset({"oom", "ram"})
"""Classes after which less memory helps."""
_OF_RETRIES = ("limit", "backoff", "max_backoff", "adapt")


def recovery_findings(job: Job) -> Iterator[Diagnostic]:
    """What is wrong with `recovery.rules`."""
    given = job.document.data.get("recovery")
    entries = given.get("rules", []) if isinstance(given, dict) else []
    before: set[FailureClass] = set()
    for number, (entry, rule) in enumerate(zip(entries, job.recovery.rules, strict=False)):
        at: tuple[Key, ...] = ("recovery", "rules", number)
        if before.issuperset(rule.on):
            message = f"this rule is never asked: rules before it take {', '.join(rule.on)}"
            yield _finding(message, job.document.span((*at, "on")), "put it first, or leave it out")
        before.update(rule.on)
        yield from _unread(job, at, entry, rule)


def _unread(
    job: Job, at: tuple[Key, ...], entry: dict[str, object], rule: Rule
) -> Iterator[Diagnostic]:
    for key in _OF_RETRIES:
        if key in entry and not rule.retry:
            message = f"a rule that stops reads no {key}"
            yield _finding(message, job.document.key_span((*at, key)))
    if "adapt" in entry and rule.retry and MEMORY.isdisjoint(rule.on):
        message = f"less memory does not help after {', '.join(rule.on)}"
        yield _finding(message, job.document.key_span((*at, "adapt")), "adapt is for oom and ram")
    if rule.retry and rule.backoff > rule.max_backoff:
        message = "the first wait is longer than the longest"
        key = "backoff" if "backoff" in entry else "max_backoff"
        yield _finding(message, job.document.span((*at, key)), "raise max_backoff")


def _finding(message: str, span: Span, hint: str = "") -> Diagnostic:
    return Diagnostic(code="QVL226", message=message, span=span, hint=hint)
