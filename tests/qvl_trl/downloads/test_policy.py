"""A policy whose base model is on the hub."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from qvl_run.contract import StageError
from qvl_run.settings import LoraSettings, ModelSettings
from qvl_trl.policy.artifact import save_artifact
from qvl_trl.policy.load import load_policy
from tests.hub_server import Hub
from tests.qvl_trl.conftest import FakeContext, stage_settings
from tests.qvl_trl.downloads.conftest import REPO, WEIGHTS

LORA = ModelSettings(name=REPO, lora=LoraSettings(r=4, alpha=8))


def context(*, earlier: int = 0) -> FakeContext:
    return FakeContext(stage_settings("sft"), Path(), Path(), failures={"download": earlier})


def test_it_is_downloaded_then_loaded_without_the_network(hub: Hub, tmp_path: Path) -> None:
    ctx = context()
    policy = load_policy(LORA, start=None, seed=0, ctx=ctx)
    assert ctx.sections == ["download", "load"]
    listed = [r for r in hub.requests if not r.path.startswith(f"/{REPO}/resolve/")]
    assert [r.path for r in listed] == [f"/api/models/{REPO}"]
    assert len(hub.fetched(WEIGHTS)) == 1
    hub.requests.clear()
    save_artifact(policy, tmp_path / "final")
    again = load_policy(LORA, start=tmp_path / "final", seed=0, ctx=ctx)
    assert hub.requests == []
    assert (tmp_path / "final" / "video_preprocessor_config.json").is_file()
    tiny = load_policy(dataclasses.replace(LORA, name="qvl-tiny"), start=None, seed=0)
    for mine in (policy, again):
        for (name, one), (_, other) in zip(
            mine.model.named_parameters(), tiny.model.named_parameters(), strict=True
        ):
            assert torch.equal(one, other), name


def test_an_adapter_names_its_base_as_others_find_it(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("peft.utils.other.file_exists", lambda *given, **_: asked.append(given))
    save_artifact(load_policy(LORA, start=None, seed=0), tmp_path)
    assert asked == []  # a save does not wait for the hub
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == REPO


def test_weights_that_are_broken_at_their_full_size(hub: Hub) -> None:
    """Told as a download's failure; the third try looks at every byte and fetches them again."""
    load_policy(LORA, start=None, seed=0)
    from huggingface_hub import try_to_load_from_cache

    weights = Path(str(try_to_load_from_cache(REPO, WEIGHTS))).resolve()
    weights.write_bytes(b"\0" * weights.stat().st_size)
    with pytest.raises(StageError, match=r"its weights in .* are broken") as caught:
        load_policy(LORA, start=None, seed=0, ctx=context(earlier=1))
    assert caught.value.failure == "download"
    load_policy(LORA, start=None, seed=0, ctx=context(earlier=2))


def test_a_drive_that_goes_while_it_is_loaded(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise OSError(107, "Transport endpoint is not connected")

    monkeypatch.setattr("qvl_trl.policy.load.AutoConfig.from_pretrained", gone)
    with pytest.raises(StageError, match="mount it again") as caught:
        load_policy(LORA, start=None, seed=0)
    assert caught.value.failure == "download"


def test_a_full_model_names_the_folder_that_its_reference_is_loaded_from(hub: Hub) -> None:
    """TRL loads it by that name: of the same commit, and without the network."""
    model = load_policy(dataclasses.replace(LORA, lora=None), start=None, seed=0).model
    assert (Path(model.config.name_or_path) / WEIGHTS).is_file()
