"""Watching a folder grow while another library downloads."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_trl.downloads import watch
from qvl_trl.downloads.watch import Watch, growing
from tests.qvl_trl.conftest import FakeContext, stage_settings


def test_a_look_that_takes_long_tells_nothing_once_the_download_is_over(
    make_context: Callable[..., FakeContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = make_context(stage_settings("sft"))
    looking, over = threading.Event(), threading.Event()
    sizes = iter([0, 100])

    def size(folders: object) -> int:
        found = next(sizes)
        if found:
            looking.set()
            assert over.wait(30)
        return found

    monkeypatch.setattr(watch, "_size", size)
    monkeypatch.setattr(watch, "INTERVAL", 0.05)
    with growing(Watch(ctx), [tmp_path], wait=lambda event: event.is_set()):
        assert looking.wait(30)
    ctx.progress("load")
    over.set()
    for thread in threading.enumerate():
        if thread.name == "download-watch":
            thread.join(30)
    assert ctx.sections == ["load"]
