"""The names are those of the model itself, and a target means what PEFT takes it for."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import check_target_module_exists

from qvl_trl.models.modules import HEAD, LINEAR, NAMES, OTHER, meant
from tests.qvl_trl.models.test_architecture import known, on_meta


@pytest.fixture(scope="module")
def modules() -> dict[str, Any]:
    """Of the tiny model, by name."""
    return dict(on_meta(known("qvl-tiny")).named_modules())


def test_names_that_are_advised_mean_linear_layers_and_all_of_them() -> None:
    found = [set(meant(name, None)) for name in NAMES]
    assert set().union(*found) == set(LINEAR)


def general(name: str) -> str:
    return re.sub(r"\.[0-9]+\.", ".N.", name)


def test_every_module_that_an_adapter_may_be_on_is_known(modules: dict[str, Any]) -> None:
    linear = {general(n) for n, module in modules.items() if isinstance(module, torch.nn.Linear)}
    assert linear == {*LINEAR, HEAD}
    others = (torch.nn.Embedding, torch.nn.Conv3d)
    assert {general(n) for n, m in modules.items() if isinstance(m, others)} == {*OTHER} - {HEAD}


@pytest.mark.parametrize(
    "target",
    [
        "q_proj", "proj", "attn.proj", "self_attn.q_proj", "layers.1.mlp.up_proj", "blocks.0.attn.qkv", "linear_fc1",
        "merger.linear_fc2", "deepstack_merger_list.0.linear_fc1", "lm_head", "embed_tokens", "q_prj", "_proj",
        "layers.900.mlp.up_proj", "model.language_model.layers.0.self_attn.k_proj", "x.model.visual.pos_embed",
    ],
)  # fmt: skip
def test_a_target_means_what_peft_takes_it_for(target: str, modules: dict[str, Any]) -> None:
    config = SimpleNamespace(
        target_modules=(target,),
        exclude_modules=None,
        layers_to_transform=None,
        layers_pattern=None,
        target_parameters=None,
    )
    candidates = [n for n in modules if general(n) in {*LINEAR, *OTHER}]
    taken = {general(n) for n in candidates if check_target_module_exists(config, n)}
    assert set(meant(target, known("qvl-tiny"))) == taken
