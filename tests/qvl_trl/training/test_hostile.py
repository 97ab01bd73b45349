"""A checkpoint or a model that somebody prepared runs no code when a stage reads it, and is refused by name."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from qvl_run import plugins
from qvl_run.contract import StageError
from qvl_run.settings import ModelSettings
from qvl_trl.policy.artifact import save_artifact
from qvl_trl.policy.load import load_policy
from qvl_trl.training import checkpoint as checkpoints
from qvl_trl.training import course
from tests.qvl_trl.conftest import FakeContext, Ran, stage_settings

Make = Callable[..., FakeContext]
READ = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pt")
"""What the trainer reads when it goes on."""
REFUSED = ("adapter_model.bin", "pytorch_model.bin")
UNREAD = "training_args.bin"
FULL = ModelSettings(name="qvl-tiny", lora=None)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def as_pickle(bomb: Bomb) -> bytes:
    return pickle.dumps(bomb)


def as_archive(bomb: Bomb) -> bytes:
    file = io.BytesIO()
    torch.save({"state": {}, "param_groups": [bomb]}, file)
    return file.getvalue()


@pytest.fixture
def crater(tmp_path: Path) -> Path:
    return tmp_path / "crater"


@pytest.fixture(params=[as_pickle, as_archive], ids=["pickle", "archive"])
def bomb(request: pytest.FixtureRequest, crater: Path) -> bytes:
    made: bytes = request.param(Bomb(crater))
    return made


def planted(source: Path, name: str, content: bytes, folder: Path) -> Path:
    """A copy of `source` below `folder` with that file in it."""
    copy = folder / source.name
    shutil.copytree(source, copy)
    (copy / name).write_bytes(content)
    return copy


def resume(make: Make, whole: Ran, folder: Path) -> None:
    ctx = make(whole.ctx.settings, resume_from=folder, records=dict(whole.ctx.records))
    plugins.stage("sft").run(ctx)


def test_the_bomb_goes_off(bomb: bytes, crater: Path) -> None:
    with suppress(RuntimeError):  # that it is no file of torch's own is found afterwards
        torch.load(io.BytesIO(bomb), weights_only=False)
    assert crater.exists()


@pytest.mark.parametrize("name", [*READ, *REFUSED])
def test_a_checkpoint_with_code_in_it_is_refused(
    name: str, bomb: bytes, crater: Path, sft: Ran, make_context: Make, tmp_path: Path
) -> None:
    folder = planted(sft.ctx.checkpoints[4], name, bomb, tmp_path)
    with pytest.raises(StageError) as caught:
        resume(make_context, sft, folder)
    assert caught.value.failure == "data"
    assert f"{folder}: {name}" in str(caught.value)
    assert not crater.exists()


@pytest.mark.parametrize("name", [*READ, *REFUSED])
def test_the_trainer_itself_would_run_none(
    name: str,
    bomb: bytes,
    crater: Path,
    sft: Ran,
    make_context: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever the environment asks for, and also where the check before it finds nothing."""
    folder = planted(sft.ctx.checkpoints[4], name, bomb, tmp_path)
    saved = checkpoints.read_checkpoint(sft.ctx.checkpoints[4])
    monkeypatch.setattr(course, "read_checkpoint", lambda folder: saved)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    if name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"):
        with pytest.raises(pickle.UnpicklingError):
            resume(make_context, sft, folder)
    else:
        resume(make_context, sft, folder)
    assert not crater.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, None) for name in ("trainer_state.json", *checkpoints.NEEDED)),
        ("trainer_state.json", b"{"),
        ("trainer_state.json", b"[]"),
        ("optimizer.pt", b""),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(
    name: str, content: bytes | None, sft: Ran, make_context: Make, tmp_path: Path
) -> None:
    """The trainer would go on without the state that is missing."""
    folder = planted(sft.ctx.checkpoints[4], name, content or b"", tmp_path)
    if content is None:
        (folder / name).unlink()
    with pytest.raises(StageError, match=rf"go on from the checkpoint .*{name} is (missing|dam)"):
        resume(make_context, sft, folder)


def test_a_file_that_nothing_reads_does_no_harm(
    bomb: bytes, crater: Path, sft: Ran, make_context: Make, tmp_path: Path
) -> None:
    resume(make_context, sft, planted(sft.ctx.checkpoints[4], UNREAD, bomb, tmp_path))
    assert not crater.exists()


def test_an_adapter_to_start_from_runs_none(
    bomb: bytes, crater: Path, sft: Ran, make_context: Make, tmp_path: Path
) -> None:
    folder = planted(sft.result.output, UNREAD, bomb, tmp_path)
    for name in (*READ, *REFUSED):
        (folder / name).write_bytes(bomb)
    settings = stage_settings("dpo", training={"max_steps": 1})
    plugins.stage("dpo").run(make_context(settings, input=folder))
    assert not crater.exists()


def test_an_adapter_as_a_pickle_alone_is_refused(
    bomb: bytes, crater: Path, sft: Ran, make_context: Make, tmp_path: Path
) -> None:
    folder = planted(sft.result.output, "adapter_model.bin", bomb, tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    ctx = make_context(stage_settings("dpo"), input=folder)
    with pytest.raises(StageError, match=r"has no adapter_model\.safetensors") as caught:
        plugins.stage("dpo").run(ctx)
    assert caught.value.failure == "config"
    assert not crater.exists()


@pytest.fixture
def full_model(bomb: bytes, crater: Path, tmp_path: Path) -> Path:
    """A full model with a pickle beside its weights, whose settings name code beside them."""
    folder = tmp_path / "model"
    save_artifact(load_policy(FULL, start=None, seed=0), folder)
    (folder / "pytorch_model.bin").write_bytes(bomb)
    (folder / "theirs.py").write_text(f"open({str(crater)!r}, 'w')\n")
    for path in folder.glob("*config.json"):
        kinds = ("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor", "AutoImageProcessor")
        code = dict.fromkeys(kinds, "theirs.Theirs")
        code["AutoTokenizer"] = ["theirs.Theirs", None]
        path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": code}))
    return folder


def test_a_full_model_to_start_from_runs_none(full_model: Path, crater: Path) -> None:
    load_policy(FULL, start=full_model, seed=0)
    assert not crater.exists()


def test_a_full_model_as_a_pickle_alone_is_refused(full_model: Path, crater: Path) -> None:
    (full_model / "model.safetensors").unlink()
    with pytest.raises(StageError, match="cannot be loaded") as caught:
        load_policy(FULL, start=full_model, seed=0)
    assert caught.value.failure == "config"
    assert not crater.exists()


def test_a_model_of_an_unknown_kind_runs_none(full_model: Path, crater: Path) -> None:
    """transformers would ask on the terminal whether its code may run."""
    path = full_model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "theirs"}))
    with pytest.raises(StageError, match="cannot be loaded") as caught:
        load_policy(FULL, start=full_model, seed=0)
    assert caught.value.failure == "config"
    assert not crater.exists()
