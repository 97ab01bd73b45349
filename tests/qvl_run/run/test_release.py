"""How long the next attempt waits for the GPU's memory that the last one held."""

from __future__ import annotations

from collections.abc import Iterator

from qvl_run.run.release import MOST, SETTLED, SLACK, wait_for_release

GIB = 1024**3


class Card:
    """A GPU whose memory in use is told by `readings`, (seconds, bytes): so much from then on."""

    def __init__(self, *readings: tuple[float, int | None]) -> None:
        self.readings = readings
        self.now = 0.0

    def memory_used(self) -> int | None:
        return [used for since, used in self.readings if since <= self.now][-1]

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, before: int | None) -> int:
        return wait_for_release(self.memory_used, before=before, clock=self.clock, sleep=self.sleep)


def test_it_waits_for_as_long_as_the_driver_takes() -> None:
    card = Card((0, 9 * GIB), (2, GIB))
    assert card.wait(before=GIB) == 0
    assert 2 <= card.now < 3


def test_what_the_driver_keeps_for_itself_is_not_waited_for() -> None:
    card = Card((0, GIB + SLACK))
    assert card.wait(before=GIB) == 0
    assert card.now == 0


def test_memory_that_does_not_fall_is_another_programs() -> None:
    card = Card((0, 9 * GIB), (1, 5 * GIB))
    assert card.wait(before=GIB) == 4 * GIB
    assert 1 + SETTLED <= card.now < 1 + SETTLED + 1


def test_it_waits_on_while_memory_comes_back_piece_by_piece() -> None:
    fall = SETTLED - 1
    card = Card((0, 9 * GIB), (fall, 8 * GIB), (2 * fall, 6 * GIB), (3 * fall, GIB))
    assert card.wait(before=GIB) == 0
    assert card.now >= 3 * fall


def test_another_program_that_takes_and_gives_is_not_waited_for_without_end() -> None:
    def falling() -> Iterator[tuple[float, int | None]]:
        for second in range(1000):
            yield second, 80 * GIB - second * GIB // 100

    card = Card(*falling())
    assert card.wait(before=GIB) > 0
    assert MOST <= card.now < MOST + 1


def test_a_gpu_that_cannot_be_asked_is_not_waited_for() -> None:
    card = Card((0, None))
    assert card.wait(before=GIB) == 0
    assert Card((0, GIB)).wait(before=None) == 0
    assert card.now == 0
