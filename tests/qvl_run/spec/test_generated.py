"""Jobs made from the bundled schema, right by construction: none is refused, and each value's origin is told."""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from qvl_run.plan import origin
from qvl_run.spec.bundle import bundled_schema
from qvl_run.spec.compose import Overlays
from qvl_run.spec.document import Document
from qvl_run.spec.load import load_job

SCHEMA = bundled_schema()
# Keys whose right values hang on others, or on files: they are set by `made_right`.
APART = {
    "extends", "profiles", "needs", "init_from", "path", "split", "revision", "format", "uses", "data", "eval_data",
    "evaluation", "global_batch_size",
    "stages", "model", "hardware", "storage", "with", "num_generations", "rewards", "label_smoothing",
    "loss_type", "image_tokens", "max_seq_length", "max_steps", "warmup_ratio", "lr_scheduler_type", "name", "lora",
    "target_modules", "fail_at", "version",
}  # fmt: skip


def value(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Any value that `schema`, of a scalar, accepts."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("pattern") == "^(auto)$":
        rest = {key: sub for key, sub in schema.items() if key != "pattern"}
        return st.one_of(
            st.just("auto"), value(rest | {"type": [k for k in schema["type"] if k != "string"]})
        )
    if "pattern" in schema:
        return st.sampled_from(schema["examples"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    made = []
    for kind in kinds:
        if kind == "null":
            made.append(st.none())
        elif kind == "boolean":
            made.append(st.booleans())
        elif kind == "integer":
            made.append(
                st.integers(schema.get("minimum", 0), min(schema.get("maximum", 5000), 5000))
            )
        elif kind == "number":
            low = schema.get("minimum", schema.get("exclusiveMinimum", 0))
            high = schema.get("maximum", schema.get("exclusiveMaximum", 50))
            made.append(
                st.floats(
                    low,
                    high,
                    exclude_min="exclusiveMinimum" in schema,
                    exclude_max="exclusiveMaximum" in schema,
                )
            )
        elif kind == "string":
            made.append(st.sampled_from(schema["examples"]))
    return st.one_of(*made)


def some_of(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Any choice of the keys that stand alone."""
    alone = {key: value(sub) for key, sub in schema["properties"].items() if key not in APART}
    return st.fixed_dictionaries({}, optional=alone)


DEFINITIONS = SCHEMA["$defs"]
TRAINING = some_of(DEFINITIONS["training"])
ROWS = st.fixed_dictionaries(
    {"format": st.just("spatial_scenes")},
    optional={
        "with": some_of(DEFINITIONS["format.spatial_scenes"]),
        "max_samples": st.integers(64, 500),
    },
)
SPLIT = ["per_device_train_batch_size", "gradient_accumulation_steps"]
NAMES = st.lists(
    st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True), min_size=1, max_size=3, unique=True
)


@st.composite
def jobs(draw: st.DrawFn) -> dict[str, Any]:
    model = {"name": draw(st.sampled_from(["qvl-tiny", "Qwen/Qwen3-VL-2B-Instruct"]))} | draw(
        some_of(DEFINITIONS["model"])
    )
    lora = DEFINITIONS["model"]["properties"]["lora"]
    if model.get("quantization", "none") != "none" or draw(st.booleans()):
        model["lora"] = draw(some_of(lora))
    stages: dict[str, Any] = {}
    for name in draw(NAMES):
        uses = draw(st.sampled_from(["sft", "dpo", "grpo"]))
        stage: dict[str, Any] = {"uses": uses, "data": draw(ROWS)}
        if draw(st.booleans()):
            stage["training"] = draw(TRAINING)
        if draw(st.booleans()):
            stage["eval_data"] = draw(ROWS)
        if uses == "grpo":
            batch = stage.setdefault("training", {})
            batch |= {"per_device_train_batch_size": draw(st.sampled_from([4, 8]))}
            batch |= {"gradient_accumulation_steps": draw(st.sampled_from([1, 2]))}
            stage["with"] = {"num_generations": 4, "rewards": ["exact_answer"]}
        if uses == "dpo" and draw(st.booleans()):
            stage["with"] = {"beta": draw(st.floats(0.01, 2))}
        stages[name] = stage
    job = {"version": 1, "name": "made", "model": model, "stages": stages}
    if draw(st.booleans()):
        job["training"] = draw(TRAINING)
    if draw(st.booleans()):
        for part in (job, *stages.values()):
            for key in SPLIT:
                part.get("training", {}).pop(key, None)
        job.setdefault("training", {})["global_batch_size"] = draw(st.sampled_from([8, 16]))
        for stage in stages.values():
            half = {draw(st.sampled_from(SPLIT)): draw(st.sampled_from(["auto", 1, 4, 8]))}
            stage.setdefault("training", {}).update(half)
    if draw(st.booleans()):
        job["tracking"] = draw(some_of(SCHEMA["properties"]["tracking"]))
    return job


def written(job: dict[str, Any], *, flow: bool) -> str:
    if flow:
        return json.dumps(job, indent=1)
    yaml, out = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style = False
    yaml.dump(job, out)
    return out.getvalue()


def leaves(document: Document) -> dict[str, Any]:
    return {origin.show_path(path): value for path, value, _ in document.leaves()}


@settings(max_examples=120, deadline=None, database=None, derandomize=True)
@given(jobs(), st.booleans())
def test_a_job_that_is_right_by_construction_is_never_refused(
    job: dict[str, Any], flow: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_text(written(job, flow=flow), encoding="utf-8")
        loaded = load_job(path)
        assert loaded.document.data == job
        told = {}
        for line in origin.lines(loaded):
            key, _, rest = line.partition(" = ")
            shown, _, place = rest.rpartition("  # ")
            told[key] = json.loads(shown)
            assert place == origin.DEFAULT or place.startswith(f"{path}:")
        for key, value in leaves(loaded.document).items():
            if key.startswith("stages.") and value not in ({}, []):
                assert told[key] == value, key
        # What is told, given back as options, makes the same job again.
        options = [f"{key}={json.dumps(value)}" for key, value in leaves(loaded.document).items()]
        path.write_text("version: 1\n", encoding="utf-8")
        again = load_job(path, overlays=Overlays(settings=options))
        assert again.document.data == job
        assert again.stages == loaded.stages
