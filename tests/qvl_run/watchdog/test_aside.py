import threading

from qvl_run.watchdog.aside import Aside


def test_an_answer_and_a_failure() -> None:
    assert Aside(lambda: 5)() == 5
    assert Aside(lambda: 1 // 0)() is None


def test_what_hangs_is_none_and_is_not_asked_again_until_it_is_over() -> None:
    goes_on, asked = threading.Event(), []

    def ask() -> int:
        asked.append(1)
        goes_on.wait(60)
        return len(asked)

    aside = Aside(ask, patience=0.01)
    assert [aside() for _ in range(20)] == [None] * 20
    assert len(asked) == 1
    goes_on.set()
    assert aside._thread is not None
    aside._thread.join(60)
    aside._patience = 60.0
    assert aside() == 2  # asked anew: the late answer is thrown away
