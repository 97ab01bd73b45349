"""A hub on loopback with qvl-tiny in it, an empty cache, and a context that remembers what it is told."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from qvl_run import plugins
from qvl_run.contract import StageContext
from qvl_trl.downloads.fetch import Fetch, make_fetch
from qvl_trl.downloads.model import model_folder
from qvl_trl.downloads.transfer import Transfer
from qvl_trl.downloads.watch import Watch
from tests.hub_server import Hub
from tests.qvl_trl.conftest import FakeContext, stage_settings

REPO = "owner/tiny"
WEIGHTS = "model.safetensors"
NOT_LOADED = ("pytorch_model.bin", "training_args.pt", "README.md")


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """qvl-tiny as people publish models: with files that nobody may or must load."""
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    shutil.copytree(plugins.load("qvl.models", "qvl-tiny").folder(), folder)
    for name in NOT_LOADED:
        (folder / name).write_bytes(b"x" * 10)
    return folder


@pytest.fixture
def hub(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The libraries, in this process, ask this hub and cache below `tmp_path`."""
    from huggingface_hub import constants

    with Hub({f"models/{REPO}": repository, "models/owner/other": repository}) as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 10)
        yield hub


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What sends nothing has stalled after 0.2 s."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)


@dataclass
class Attempt:
    """One try at the model, after `earlier` ones that failed; every piece is reported, no wait is waited."""

    earlier: int = 0
    repo: str = REPO
    revision: str | None = None
    free: Callable[[Path], int] = lambda _: 10**12
    slept: list[float] = field(default_factory=list)
    ctx: FakeContext = field(init=False)

    def __post_init__(self) -> None:
        here = Path()
        self.ctx = FakeContext(
            stage_settings("sft"), here, here, failures={"download": self.earlier}
        )

    def run(self) -> Path:
        watch = every_piece(self.ctx)
        real = make_fetch(self.repo, kind="model", watch=watch)
        transfer = Transfer(watch=watch, sleep=self.slept.append, headers=real.transfer.headers)
        fetch = Fetch(cache=real.cache, watch=watch, transfer=transfer, free=self.free)
        return model_folder(self.repo, revision=self.revision, watch=watch, fetch=fetch)

    @property
    def reports(self) -> list[Mapping[str, float]]:
        return self.ctx.metrics


def every_piece(ctx: StageContext) -> Watch:
    """A watch whose clock runs so fast that nothing goes unreported."""
    ticks = itertools.count(0, 10)
    return Watch(ctx, clock=lambda: float(next(ticks)))


def stamps(folder: Path) -> dict[str, Any]:
    """When each file below `folder` was written, links not followed."""
    return {
        str(path.relative_to(folder)): path.lstat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }
