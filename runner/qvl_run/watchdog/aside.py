"""Asking what may hang (a driver, a network disk) without hanging with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

PATIENCE = 0.5
"""Seconds that an answer is waited for."""

_T = TypeVar("_T")


class Aside(Generic[_T]):
    """Calls `ask` in a thread of its own. While one call hangs no other is begun, and the answer is None at once; its
    late answer is thrown away."""

    def __init__(self, ask: Callable[[], _T | None], *, patience: float = PATIENCE) -> None:
        self._ask = ask
        self._patience = patience
        self._thread: threading.Thread | None = None

    def __call__(self) -> _T | None:
        """The answer; None where it fails or takes too long."""
        if self._thread is not None and self._thread.is_alive():
            return None
        answers: list[_T | None] = []
        self._thread = threading.Thread(target=self._call, args=(answers,), daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads: as blind as any other failure
            self._thread = None
            return None
        self._thread.join(self._patience)
        return answers[0] if answers else None

    def _call(self, answers: list[_T | None]) -> None:
        try:
            answers.append(self._ask())
        except Exception:
            answers.append(None)
