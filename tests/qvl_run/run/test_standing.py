from qvl_run.run.standing import Standing


class Clocked:
    """A standing whose clock the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.standing = Standing(clock=lambda: self.now)

    def after(self, seconds: float) -> Standing:
        self.now += seconds
        return self.standing


def test_chunks_that_move_are_work_and_a_hang_is_none() -> None:
    clocked = Clocked()
    clocked.after(10).moved(1000)
    assert clocked.standing.still() == 0.0
    assert clocked.after(30).still() == 30.0
    clocked.standing.moved(1000)
    assert clocked.standing.still() == 0.0


def test_a_store_that_always_fails_at_one_place_does_not_work() -> None:
    clocked = Clocked()
    for _ in range(5):
        clocked.after(10).moved(1000)
        clocked.standing.refused()
    assert clocked.standing.still() == 40.0
    assert clocked.now - clocked.standing.alive == 0.0, "but it answers"
    clocked.standing.moved(1000)
    clocked.standing.moved(1)
    assert clocked.standing.still() == 0.0, "it came further"


def test_small_calls_are_work_only_where_nothing_is_refused() -> None:
    clocked = Clocked()
    clocked.after(10).answered()
    assert clocked.standing.still() == 0.0
    clocked.standing.refused()
    clocked.after(10).answered()
    assert clocked.standing.still() == 10.0
    clocked.standing.took()
    clocked.after(10).answered()
    assert clocked.standing.still() == 0.0


def test_time_in_which_a_copy_is_held_back_is_not_the_stores() -> None:
    clocked = Clocked()
    clocked.standing.moved(1000)
    clocked.standing.pause(60)
    assert clocked.after(60).still() == 0.0
    assert clocked.after(5).still() == 5.0
    clocked.standing.refused()
    clocked.standing.moved(500)
    clocked.standing.pause(60)
    assert clocked.after(60).still() == 65.0, "held back, and no further than before"


def test_the_longest_upload_is_remembered() -> None:
    standing = Clocked().standing
    assert standing.slowest is None
    for seconds in (3.0, 9.0, 5.0):
        standing.uploaded(seconds)
    assert standing.slowest == 9.0
