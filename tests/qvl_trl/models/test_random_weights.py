"""Random weights depend on the name alone, are written whole or not at all, and load and train like any others."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText

from qvl_run import plugins
from qvl_run.contract import StageError, StageStopped
from qvl_run.settings import LoraSettings, ModelSettings
from qvl_trl.models.architecture import architecture
from qvl_trl.models.random_weights import random_folder
from tests.conftest import Command
from tests.qvl_trl.conftest import FakeContext, stage_settings

NAME = "random:qvl-tiny"
GIB = 1024**3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(NAME, cache=tmp_path_factory.mktemp("cache"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for path in folder.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def test_they_are_what_transformers_would_draw(made: Path) -> None:
    model, report = AutoModelForImageTextToText.from_pretrained(made, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(made))
    pairs = zip(model.state_dict().items(), theirs.state_dict().values(), strict=True)
    for (name, mine), other in pairs:
        assert mine.shape == other.shape
        few = 5 / math.sqrt(mine.numel())  # five standard errors
        assert abs(float(mine.mean() - other.mean())) <= float(other.std()) * few + 1e-9, name
        assert float(mine.std()) == pytest.approx(float(other.std()), rel=few, abs=1e-9), name


def test_they_are_the_same_wherever_they_are_made(made: Path, tmp_path: Path) -> None:
    """Also in other shards."""
    again = random_folder(NAME, cache=tmp_path, shard=2**20)
    assert len(list(again.glob("*.safetensors"))) > 1
    one, other = weights(made), weights(again)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(*(one[f"model.visual.blocks.{i}.attn.qkv.weight"] for i in (0, 1)))


def test_they_are_made_once(made: Path) -> None:
    before = [path.stat().st_mtime_ns for path in made.iterdir()]
    assert random_folder(NAME, cache=made.parents[1], free=lambda _: 0) == made
    assert [path.stat().st_mtime_ns for path in made.iterdir()] == before


def test_what_was_cut_short_is_never_taken_for_a_model(tmp_path: Path) -> None:
    def stopped() -> None:
        raise StageStopped

    with pytest.raises(StageStopped):
        random_folder(NAME, cache=tmp_path, progress=stopped)
    assert list((tmp_path / "random").iterdir()) == []
    killed = tmp_path / "random" / "qvl-tiny.making"
    killed.mkdir()
    (killed / "model-00009.safetensors").write_bytes(b"half")
    assert not (random_folder(NAME, cache=tmp_path) / "model-00009.safetensors").exists()


@pytest.mark.parametrize(("size", "needs"), [("2B", "4.0 GiB"), ("32B", "62.1 GiB")])
def test_a_model_that_does_not_fit_on_the_disk_is_not_begun(
    size: str, needs: str, tmp_path: Path
) -> None:
    name = f"random:Qwen/Qwen3-VL-{size}-Instruct"
    with pytest.raises(StageError, match=f"{needs} in .* 3.0 GiB left") as error:
        random_folder(name, cache=tmp_path, free=lambda _: 3 * GIB)
    assert error.value.failure == "disk"
    assert list((tmp_path / "random").iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qvl_trl.models.random_weights.save_file", full)
    with pytest.raises(StageError, match="is full") as error:
        random_folder(NAME, cache=tmp_path)
    assert error.value.failure == "disk"


def test_an_unknown_name_is_told(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="Qwen3-VL-2B") as error:
        random_folder("random:mine", cache=tmp_path)
    assert error.value.failure == "config"


def test_a_stage_goes_on_where_the_weights_are_drawn_anew(
    make_context: Callable[..., FakeContext], tmp_path: Path
) -> None:
    """On another machine, say: same adapter at the end, and DPO's reference is SFT's output."""
    model = ModelSettings(name=NAME, lora=LoraSettings(r=4, alpha=8))
    settings = stage_settings("sft", model=model)
    whole, stopped = make_context(settings), make_context(settings, stop_at=2)
    result = plugins.stage("sft").run(whole)
    with pytest.raises(StageStopped):
        plugins.stage("sft").run(stopped)
    resumed = make_context(settings, resume_from=stopped.checkpoints[2])
    resumed.cache = tmp_path
    again = plugins.stage("sft").run(resumed)
    file = "adapter_model.safetensors"
    assert (result.output / file).read_bytes() == (again.output / file).read_bytes()

    config = json.loads((again.output / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "random" / "qvl-tiny")
    assert "are random: what this answers means nothing" in again.usage

    after = make_context(stage_settings("dpo", model=model), input=again.output)
    plugins.stage("dpo").run(after)
    assert after.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_every_table_entry_is_described_with_its_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's own config.json gives the sizes back."""
    monkeypatch.setattr("qvl_trl.models.random_weights._write", lambda *_, **__: None)
    for size in ("2B", "4B", "8B", "32B"):
        name = f"random:Qwen/Qwen3-VL-{size}-Thinking"
        assert architecture(str(random_folder(name, cache=tmp_path))) == architecture(name)


def test_a_run_that_was_killed_goes_on_with_the_same_weights(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job = job_file(f"""
        version: 1
        name: tiny
        model: {{name: "{NAME}", lora: {{r: 4, alpha: 8}}}}
        training: {{max_steps: 2, gradient_accumulation_steps: 1, save_steps: 1}}
        stages:
          sft: {{uses: sft, data: {{format: spatial_scenes, with: {{size: 12}}}}}}
          dpo: {{uses: dpo, data: {{format: spatial_scenes, with: {{size: 12}}}}}}
        """)
    killed = qvl_run(job, env={"QVL_CRASH_AT": "checkpoint.before_manifest@2"})
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    base = tmp_path / "qvl-runs" / "tiny" / "scratch" / "cache" / "random" / "qvl-tiny"
    before = (base / "model-00001.safetensors").stat().st_mtime_ns
    done = qvl_run(job)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (base / "model-00001.safetensors").stat().st_mtime_ns == before
    assert "are random: what this answers means nothing" in done.stdout
