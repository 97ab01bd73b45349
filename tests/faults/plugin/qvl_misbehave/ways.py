"""The ways to misbehave. One that returns lets the stage go on."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from qvl_run.contract import DataError, StageContext, StageError

LONGEST = 120.0
"""Seconds until a way gives up that waits for something from outside."""
HELPER = "import time; time.sleep(600)"
"""What a process does that is left behind."""


class OutOfMemoryError(RuntimeError):
    """Called as torch's is."""


class NoText(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Unpicklable(Exception):
    """Cannot be pickled."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("not to be pickled")


def _raise(error: Callable[[], BaseException]) -> Callable[[StageContext], None]:
    def way(_: StageContext) -> NoReturn:
        raise error()

    return way


def _told(text: str, failure: Any) -> Callable[[StageContext], None]:
    return _raise(lambda: StageError(text, failure=failure))


def _await_go(ctx: StageContext) -> None:
    """Say that it waits; go on when told to, or when asked to stop."""
    (ctx.cache / "waiting").write_text(str(os.getpid()))
    for _ in _ticking(ctx):
        if (ctx.cache / "go").exists() or ctx.stop_requested():
            return


def _deaf(ctx: StageContext) -> None:
    """Say that it waits, and do not listen."""
    (ctx.cache / "waiting").write_text(str(os.getpid()))
    for _ in _ticking(ctx):
        pass


def _ticking(ctx: StageContext) -> Iterator[None]:
    """Looks while something from outside is waited for, told as progress."""
    until = time.monotonic() + LONGEST
    while time.monotonic() < until:
        ctx.progress("step", step=ctx.settings.options["at_step"] - 1)
        yield
        time.sleep(0.02)
    os._exit(99)


def _forever() -> None:
    threading.Event().wait()


def _hold_the_interpreter(_: StageContext) -> None:
    """Wait in native code for a lock that nobody gives back; no signal ends that wait, as one would end a sleep."""
    libc, lock = ctypes.PyDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_init(lock, None)
    libc.pthread_mutex_lock(lock)
    libc.pthread_mutex_lock(lock)


def _loop(_: StageContext) -> None:
    while True:
        pass


def _leave_a_process(ctx: StageContext, *, escaping: bool = False) -> None:
    helper = subprocess.Popen([sys.executable, "-S", "-c", HELPER], start_new_session=escaping)
    with (ctx.cache / "helpers").open("a") as file:
        file.write(f"{helper.pid}\n")


def _die_and_leave_a_process(ctx: StageContext) -> None:
    _leave_a_process(ctx)
    os._exit(7)


def _torn(_: StageContext) -> None:
    (Path(os.environ["QVL_ATTEMPT"]) / "error.json").write_text('{"failure": "config", "mess')
    os._exit(1)


def _in_a_thread(_: StageContext) -> None:
    def work() -> None:
        raise RuntimeError("asked to fail in a thread")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def _wait_for_the_thread(ctx: StageContext) -> None:
    """The thread dies before it says that it is done."""
    _in_a_thread(ctx)
    _forever()


def _fail_and_hang(_: StageContext) -> None:
    threading.Thread(target=_forever).start()
    raise RuntimeError("asked to fail, and then to hang")


def _hang_at_the_end(_: StageContext) -> None:
    threading.Thread(target=_forever).start()


def _flood(ctx: StageContext) -> None:
    """Print until the log has been cut."""
    text, most = ("x" * 63 + "\n") * 16384, 0
    for _ in _ticking(ctx):
        sys.stdout.write(text * 8)
        size = os.fstat(1).st_size
        if size < most:
            return
        most = max(most, size)


def _too_large(ctx: StageContext) -> None:
    """Memory is not enough for more than two rows at once."""
    if ctx.settings.training.per_device_train_batch_size > 2:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def _eat_memory(_: StageContext) -> None:
    if os.environ.get("QVL_TEST_MEMORY") == "fake":
        os.kill(os.getpid(), signal.SIGKILL)
    eaten = []
    while len(eaten) < 2048:
        eaten.append(bytearray(b"x" * 2**20))


def _fill_the_disk(_: StageContext) -> None:
    """The kernel's own refusal: /dev/full is always full."""
    with open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")


def _fill_scratch(ctx: StageContext) -> None:
    with (ctx.cache / "large").open("wb") as file:
        file.write(b"x" * 30 * 2**20)


def _fill_scratch_whole(ctx: StageContext) -> None:
    with (ctx.cache / "large").open("wb") as file:
        while True:
            file.write(b"x" * 2**20)


def _die_of_a_full_disk(_: StageContext) -> None:
    print("zstd: error 70 : write error : No space left on device", flush=True)
    os._exit(1)


def _stall(ctx: StageContext) -> None:
    ctx.progress("download", metrics={"bytes": 1e6, "total_bytes": 4e9})
    _forever()


def _import_what_is_missing(_: StageContext) -> None:
    import there_is_no_such_package  # noqa: F401


WAYS: Mapping[str, Callable[[StageContext], None]] = {
    "wait": _await_go,
    "deaf": _deaf,
    "exit_code": lambda _: sys.exit(3),
    "exit_zero": lambda _: sys.exit(0),
    "os_exit": lambda _: os._exit(7),
    "os_exit_zero": lambda _: os._exit(0),
    "abort": lambda _: os.abort(),
    "segfault": lambda _: ctypes.string_at(0) and None,
    "kill_itself": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "torn_error": _torn,
    "orphan": _die_and_leave_a_process,
    "orphan_done": _leave_a_process,
    "escaped": lambda ctx: _leave_a_process(ctx, escaping=True),
    "exception": _raise(lambda: RuntimeError("asked to fail")),
    "no_text": _raise(NoText),
    "unpicklable": _raise(lambda: Unpicklable("with a lock inside")),
    "thread_error": _in_a_thread,
    "flood": _flood,
    "nan": _told("the loss is nan at step 5: try a smaller learning_rate", "nan"),
    "loop": _loop,
    "gil": _hold_the_interpreter,
    "thread_wait": _wait_for_the_thread,
    "teardown": _fail_and_hang,
    "teardown_done": _hang_at_the_end,
    "oom": _too_large,
    "oom_always": _raise(lambda: OutOfMemoryError("CUDA out of memory.")),
    "oom_text": _raise(lambda: RuntimeError("ncclError\nCUDA error: out of memory")),
    "host_oom": _eat_memory,
    "memory_error": _raise(MemoryError),
    "disk_full": _fill_the_disk,
    "disk_room": _fill_scratch,
    "disk_whole": _fill_scratch_whole,
    "disk_text": _die_of_a_full_disk,
    "drive_lost": _raise(
        lambda: OSError(errno.ENOTCONN, "Transport endpoint is not connected", "/content/drive")
    ),
    "download_failed": _raise(lambda: ConnectionError("the connection was reset")),
    "download_stall": _stall,
    "config": _told("lora.target_modules names no layer of this model", "config"),
    "import_inside": _import_what_is_missing,
    "data": _raise(lambda: DataError("no image called a.png", source="rows.jsonl:17")),
}
