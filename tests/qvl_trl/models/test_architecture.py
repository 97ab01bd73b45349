"""Sizes are right where the model itself, built without memory, has as many parameters, part by part."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from qvl_run import plugins
from qvl_run.hardware import profile
from qvl_run.plan.make import make_plan
from qvl_run.run.process import environment
from qvl_run.spec.load import load_job
from qvl_trl.models.architecture import (
    KNOWN,
    Architecture,
    architecture,
    from_config,
    of_stage,
)

SIZES = [f"Qwen/Qwen3-VL-{size}-Instruct" for size in ("2B", "4B", "8B", "32B")]
TINY = plugins.load("qvl.models", "qvl-tiny").folder()


def known(name: str) -> Architecture:
    found = architecture(name)
    assert found is not None
    return found


def on_meta(sizes: Architecture) -> Any:
    config = json.loads((TINY / "config.json").read_text())
    config["tie_word_embeddings"] = sizes.text.tie_word_embeddings
    config["text_config"] |= asdict(sizes.text)
    config["vision_config"] |= asdict(sizes.vision)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.for_model(**config))


def count(module: Any, *, linear: bool = False, bias: bool = True) -> int:
    """Parameters of `module`, tied ones once; `linear`: of matrices of its linear layers alone."""
    if linear:
        layers = [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
        return sum(layer.weight.numel() for layer in layers)
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", ["qvl-tiny", *SIZES])
def test_parameters_are_those_of_the_model(name: str) -> None:
    sizes, model = known(name), on_meta(known(name))
    text, vision = sizes.text, sizes.vision
    layer = model.model.language_model.layers[0]
    block = model.model.visual.blocks[0]
    assert text.embedding == count(model.model.language_model.embed_tokens)
    assert text.lm_head == count(model) - count(model.model)
    assert text.layer_linear == count(layer, linear=True)
    assert text.layer_linear + text.layer_other == count(layer)
    assert text.parameters - text.lm_head == count(model.model.language_model)
    assert vision.block_linear == count(block, linear=True)
    assert vision.block_linear + vision.block_other == count(block)
    assert vision.merger_linear == count(model.model.visual.merger, linear=True)
    assert vision.parameters == count(model.model.visual)
    assert sizes.parameters == count(model)


def test_the_8b_has_as_many_parameters_as_it_is_published_with() -> None:
    assert round(known("Qwen/Qwen3-VL-8B-Instruct").parameters / 1e9, 2) == 8.77


def test_thinking_models_and_random_ones_have_the_same_sizes() -> None:
    assert architecture("random:Qwen/Qwen3-VL-2B-Thinking") == KNOWN["Qwen/Qwen3-VL-2B-Instruct"]


def test_a_folder_says_its_sizes_and_so_does_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(tmp_path / "hub")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert architecture(str(TINY)) == architecture("owner/mine") == known("qvl-tiny")
    assert architecture("owner/mine", revision="other") is None
    assert architecture("owner/absent") is None


def cached(hub: Path, *, ref: str = "main") -> None:
    """Have the hub's cache at `hub` hold owner/mine, a model with the sizes of qvl-tiny."""
    commit = "a" * 40
    repo = hub / "models--owner--mine"
    for folder in (repo / "refs", repo / "snapshots" / commit):
        folder.mkdir(parents=True)
    (repo / "refs" / ref).write_text(commit)
    (repo / "snapshots" / commit / "config.json").write_text((TINY / "config.json").read_text())


def test_a_plan_knows_the_model_that_an_attempt_left_on_the_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job_file: Callable[..., Path]
) -> None:
    for name in ("HF_HUB_CACHE", "HF_HOME", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    drive = tmp_path / "drive"
    cached(Path(environment(drive)["HF_HUB_CACHE"]), ref="v2")
    text = f"""
    version: 1
    name: demo
    model: {{name: owner/mine, revision: v2}}
    storage: {{drive: {drive}, scratch: {tmp_path / "scratch"}}}
    training: {{max_seq_length: 256}}
    stages: {{sft: {{uses: sft, data: {{format: spatial_scenes}}}}}}
    """
    (stage,) = make_plan(load_job(job_file(text)), profile("t4")).stages
    assert stage.needs.vram is not None
    assert of_stage(stage.settings) == known("qvl-tiny")
    other = replace(stage.settings, model=replace(stage.settings.model, revision="v1"))
    assert of_stage(other) is None
    monkeypatch.setenv("HF_HOME", str(tmp_path / "mine"))
    assert of_stage(stage.settings) is None, "what the user has set goes before the drive"


def test_what_is_no_dense_qwen3_vl_has_no_sizes(tmp_path: Path) -> None:
    config = json.loads((TINY / "config.json").read_text())
    assert from_config(config) is not None
    assert from_config(config | {"model_type": "qwen3_vl_moe"}) is None
    assert from_config(config | {"vision_config": {}}) is None
    assert architecture(str(tmp_path)) is None
    (tmp_path / "config.json").write_text("{")
    assert architecture(str(tmp_path)) is None
