import dataclasses
import json
from typing import Any, get_args

import pytest

from qvl_run.recovery import rules
from qvl_run.recovery.failure import CLASSES
from qvl_run.settings import (
    DataSettings,
    EvaluationSettings,
    LoraSettings,
    ModelSettings,
    StageSettings,
    TrainingSettings,
    from_json,
    to_json,
)
from qvl_run.spec.schema import job_schema
from qvl_run.units import duration
from qvl_run.watchdog.deadlines import DEFAULTS


@pytest.mark.parametrize(
    "lora", [None, LoraSettings(), LoraSettings(target_modules=("q_proj", "v_proj"))]
)
def test_settings_survive_json(lora: LoraSettings | None) -> None:
    settings = StageSettings(
        name="sft",
        uses="sft",
        model=ModelSettings(name="m", lora=lora, image_tokens=(16, 320)),
        training=TrainingSettings(max_steps=3),
        data=DataSettings(format="jsonl", path="/x", options={"a": [1, {"b": None}]}),
        evaluation=EvaluationSettings(data=DataSettings(format="hub", path="a/b")),
        options={"beta": 0.1},
    )
    assert from_json(StageSettings, json.loads(json.dumps(to_json(settings)))) == settings


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(TypeError, match="epochs"):
        from_json(TrainingSettings, {"epochs": 1})


@pytest.mark.parametrize(
    ("cls", "name", "decided"),
    [
        (TrainingSettings, "training", set()),
        (ModelSettings, "model", {"precision", "attention"}),
        (DataSettings, "data", set()),
        (EvaluationSettings, "evaluation", set()),
    ],
)
def test_the_schema_publishes_the_defaults_that_hold(
    cls: Any, name: str, decided: set[str]
) -> None:
    properties = dict(job_schema()["$defs"][name]["properties"])
    if "with" in properties:
        properties["options"] = properties.pop("with")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    properties.pop("global_batch_size", None)  # becomes the two that it is the product of
    assert set(fields) == set(properties)
    for key, field in fields.items():
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if key in decided or default is dataclasses.MISSING or dataclasses.is_dataclass(default):
            continue
        assert properties[key].get("default") == default, key


def test_the_schema_publishes_loras_defaults() -> None:
    properties = job_schema()["$defs"]["model"]["properties"]["lora"]["properties"]
    assert {key: sub["default"] for key, sub in properties.items()} == to_json(LoraSettings())


def test_the_schema_publishes_the_limits_of_recovery_that_hold() -> None:
    properties = job_schema()["properties"]["recovery"]["properties"]
    published = properties["deadlines"]["properties"]
    assert {name: duration(sub["default"]) for name, sub in published.items()} == DEFAULTS
    assert properties["max_restarts"]["default"] == rules.MAX_RESTARTS
    assert properties["max_without_progress"]["default"] == rules.MAX_WITHOUT_PROGRESS
    rule = job_schema()["$defs"]["rule"]["properties"]
    assert duration(rule["max_backoff"]["default"]) == rules.MAX_BACKOFF
    assert set(rule["on"]["items"]["enum"]) == {*CLASSES, "any"}
    assert set(rule["adapt"]["items"]["enum"]) == set(get_args(rules.Rung))
