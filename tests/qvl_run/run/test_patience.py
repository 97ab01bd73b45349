import errno
import os

import pytest

from qvl_run.run.patience import STEP, Patience


class Waiting:
    """A patience that passes no time, and how it was used."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.slept = 0.0
        self.told = self.asked = 0
        self.now = 1000.0
        self.stopped = False
        self.patience = Patience(
            seconds=seconds,
            stop=lambda: self.stopped,
            sleep=self.sleep,
            tell=self.tell,
            clock=lambda: self.now,
        )

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.now += seconds

    def tell(self) -> None:
        self.told += 1

    def failing(self, *numbers: int) -> str:
        """Fails with each of `numbers` in turn, then works."""

        def read() -> str:
            self.asked += 1
            if self.asked <= len(numbers):
                number = numbers[self.asked - 1]
                raise OSError(number, os.strerror(number))
            return "content"

        return self.patience.ask(read)


def test_a_drive_that_comes_back_is_asked_until_then_and_told_of_once() -> None:
    waiting = Waiting()
    assert waiting.failing(errno.ENOTCONN, errno.EIO, errno.ENOENT) == "content"
    assert (waiting.asked, waiting.told) == (4, 1)
    assert waiting.slept > 0


def test_what_answers_at_once_is_not_told_of() -> None:
    waiting = Waiting()
    assert waiting.failing() == "content"
    assert (waiting.told, waiting.slept) == (0, 0.0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_what_waiting_does_not_mend_is_raised_at_once(number: int) -> None:
    waiting = Waiting()
    with pytest.raises(OSError, match=os.strerror(number)):
        waiting.failing(number)
    assert (waiting.asked, waiting.slept) == (1, 0.0)


def test_patience_ends() -> None:
    waiting = Waiting(seconds=0.0)
    with pytest.raises(OSError, match="not connected"):
        waiting.failing(*[errno.ENOTCONN] * 1000)
    assert waiting.asked < 1000


def test_the_user_may_have_had_enough() -> None:
    waiting = Waiting()
    waiting.stopped = True
    with pytest.raises(OSError, match="not connected"):
        waiting.failing(errno.ENOTCONN, errno.ENOTCONN)
    assert waiting.asked == 1
    assert not waiting.patience.pause(100.0)
    assert waiting.slept == 0.0


def test_a_pause_lasts_as_long_as_it_says() -> None:
    waiting = Waiting()
    assert waiting.patience.pause(1.0)
    assert waiting.slept == pytest.approx(1.0, abs=STEP)


def refuse() -> None:
    raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")


def test_a_long_read_does_not_use_patience_up() -> None:
    waiting = Waiting(seconds=60.0)

    def read() -> str:
        waiting.asked += 1
        waiting.now += 600.0
        if waiting.asked == 1:
            refuse()
        return "content"

    assert waiting.patience.ask(read) == "content"
    assert waiting.asked == 2


def test_the_time_begins_anew_where_more_has_come() -> None:
    waiting = Waiting(seconds=60.0)

    def read() -> str:
        """Each try takes ten minutes and comes one file further."""
        waiting.asked += 1
        for _ in range(waiting.asked):
            waiting.now += 600.0 / waiting.asked
            waiting.patience.moved(1000)
        if waiting.asked < 5:
            refuse()
        return "content"

    assert waiting.patience.ask(read) == "content"
    assert waiting.asked == 5


def test_a_read_that_always_fails_at_one_place_comes_to_an_end() -> None:
    waiting = Waiting(seconds=60.0)

    def read() -> None:
        waiting.asked += 1
        assert waiting.asked < 1000
        waiting.patience.moved(4_000_000)
        refuse()

    with pytest.raises(OSError, match="not connected"):
        waiting.patience.ask(read)
    assert 60.0 < waiting.slept < 120.0
    assert waiting.asked > 2


def test_each_question_has_its_own_patience() -> None:
    waiting = Waiting(seconds=60.0)
    for _ in range(3):
        waiting.asked = 0
        waiting.patience.moved(1000)
        assert waiting.failing(errno.ENOTCONN, errno.ENOTCONN) == "content"
        waiting.now += 600.0
