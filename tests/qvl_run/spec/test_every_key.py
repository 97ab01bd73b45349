"""No key is validated and then read by nothing: changing any one changes the plan, or what a stage receives.

The job below sets every key that the bundled schema has; each is changed in turn. A key that is added to a schema
must be added here, or the first test fails.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qvl_run import hardware
from qvl_run.hardware import driver
from qvl_run.plan.make import Choices, make_plan
from qvl_run.plan.places import places
from qvl_run.plan.plan import to_json
from qvl_run.run.preflight import findings, machine_here
from qvl_run.run.runner import Machinery, Run
from qvl_run.run.show import Show
from qvl_run.spec.bundle import bundled_schema
from qvl_run.spec.load import load_job
from qvl_run.verbs.plan import machine_for

TRAINING = {
    "num_epochs": 1.5, "global_batch_size": 16, "per_device_train_batch_size": 2, "gradient_accumulation_steps": "auto",
    "learning_rate": 2e-4,
    "lr_scheduler_type": "cosine", "warmup_ratio": 0.1, "weight_decay": 0.01, "adam_beta1": 0.8, "adam_beta2": 0.9,
    "max_grad_norm": 0.5, "max_seq_length": 512, "gradient_checkpointing": False, "optim": "adamw_torch",
    "save_steps": 5, "logging_steps": 2, "dataloader_num_workers": 1, "seed": 7,
}  # fmt: skip
SCENES = {
    "format": "spatial_scenes",
    "with": {"task": "auto", "split": "test", "size": 90, "seed": 1, "image_size": 64},
}
COLUMNS = {"image": "i", "question": "q", "answer": "a", "chosen": "c", "rejected": "r"}
HUB = {
    "format": "hub", "path": "some/set", "split": "val", "revision": "main", "max_samples": 80, "shuffle_seed": 1,
    "with": {**COLUMNS, "messages": None, "instruction": "Be brief."},
}  # fmt: skip
JSONL = {"format": "jsonl", "path": "rows.jsonl", "with": COLUMNS}
EVALUATION = {"data": SCENES, "max_new_tokens": 8, "batch_size": 4, "before_first": False}
LORA = {"r": 8, "alpha": 16, "dropout": 0.05, "target_modules": ["q_proj"]}
RULE = {
    "on": "oom", "do": "retry", "limit": 4, "backoff": "10s", "max_backoff": "2min", "adapt": ["micro_batch"],
}  # fmt: skip
SECTIONS = ["setup", "download", "load", "first_step", "step", "eval", "rollout", "save"]
RECOVERY = {
    "rules": [RULE], "max_restarts": 9, "max_without_progress": 2, "deadlines": dict.fromkeys(SECTIONS, "20min"),
}  # fmt: skip
JOB: dict[str, Any] = {
    "version": 1,
    "name": "every-key",
    "hardware": {
        "tier": "t4", "min_vram": "8GiB", "min_compute_capability": 7.0, "min_ram": "1GiB", "min_disk": "1KB",
        "min_drive_space": "1KB", "max_session": "3h",
    },
    "storage": {
        "drive": "/tmp/qvl-drive", "scratch": "/tmp/qvl-scratch", "mirror_rate": "1MiB", "patience": "2s",
    },
    "model": {
        "name": "qvl-tiny", "revision": "main", "precision": "fp16", "attention": "eager", "quantization": "none",
        "lora": LORA, "image_tokens": [4, 64],
    },
    "training": TRAINING,
    "evaluation": EVALUATION,
    "stages": {
        "sft": {
            "uses": "sft", "data": JSONL, "eval_data": HUB, "evaluation": EVALUATION, "needs": None,
            "model": {"attention": "sdpa"}, "training": {"max_steps": 50, "save_steps": 9}, "with": {},
        },
        "dpo": {
            "uses": "dpo", "data": {"format": "rlhf_v", "path": "openbmb/RLHF-V-Dataset", "with": {}},
            "with": {"beta": 0.2, "loss_type": "sigmoid", "label_smoothing": 0.0, "sft_weight": 0.0},
        },
        "grpo": {
            "uses": "grpo", "init_from": "/some/where", "data": SCENES,
            "with": {
                "num_generations": 4, "max_completion_length": 20, "generation_micro_batch_size": 8,
                "temperature": 0.9, "beta": 0.02, "loss_type": "grpo",
                "rewards": [{"name": "brevity", "weight": 0.5, "with": {"max_words": 4}}],
            },
        },
        "merged": {"uses": "merge", "with": {"dtype": "bf16"}},
        "count": {"uses": "count", "with": {"to": 90, "fail_at": 80}},
    },
    "recovery": RECOVERY,
    "tracking": {"wandb": True},
}  # fmt: skip

# Values that the rule below would not find, because other keys bound them.
OTHER: dict[str, Any] = {
    "version": None,  # one value only: nothing to change
    "hardware.tier": "l4",
    "hardware.min_vram": "12GiB",
    "hardware.min_compute_capability": "7.5",
    "hardware.min_ram": "900GiB",
    "hardware.min_disk": "900TB",
    "hardware.min_drive_space": "900TB",
    "hardware.max_session": "4h",
    "model.name": "owner/other",
    "model.lora.target_modules": "all-linear",
    "model.image_tokens": [8, 64],
    "model.quantization": "nf4",
    "training.lr_scheduler_type": "linear",
    "training.gradient_accumulation_steps": 8,
    "stages.dpo.with.loss_type": "ipo",
    "stages.grpo.with.loss_type": "dapo",
    "stages.sft.needs": "count",
    "stages.sft.data.path": "other.jsonl",
    "stages.grpo.with.rewards": ["exact_answer"],
    "stages.merged.with.dtype": "fp16",
    "stages.count.with.fail_at": 70,
    "recovery.rules": [{"on": "hang"}],
}
OTHER_RULE: dict[str, Any] = {
    "on": ["oom", "ram"], "do": "stop", "limit": 5, "backoff": "11s", "max_backoff": "3min",
    "adapt": ["micro_batch", "image_tokens"],
}  # fmt: skip


def leaves(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from leaves(value, f"{path}.{key}".lstrip("."))
    else:
        yield path, data


def schema_keys() -> set[str]:
    """Every key of the bundle as `definition.key`."""
    schema, found = bundled_schema(), set[str]()

    def walk(name: str, definition: dict[str, Any]) -> None:
        for key, sub in definition.get("properties", {}).items():
            found.add(f"{name}.{key}")
            walk(key, sub)

    for name, definition in {"job": schema, **schema["$defs"]}.items():
        walk(name, definition)
    return found


def named_keys() -> set[str]:
    """The same for the job above."""
    found = set()

    def walk(data: Any, definition: str) -> None:
        if not isinstance(data, dict):
            return
        for key, value in data.items():
            found.add(f"{definition}.{key}")
            if key == "stages":
                for stage in value.values():
                    walk(stage, "stage")
            elif key == "rules":
                for rule in value:
                    walk(rule, "rule")
            elif key == "with":
                prefix = "stage" if "uses" in data else "format"
                walk(value, f"{prefix}.{data.get('uses') or data['format']}")
            elif isinstance(value, dict):
                walk(value, "data" if key == "eval_data" else key)

    walk(JOB, "job")
    return found


def test_the_job_sets_every_key_of_the_schema() -> None:
    # `extends` and `profiles` are consumed by composition (test_compose); lora, evaluation stand in two places.
    # `bucket` stands in place of `drive`, below.
    assert schema_keys() - named_keys() == {"job.extends", "job.profiles", "storage.bucket"}


def other(path: str, value: Any) -> Any:
    if path in OTHER:
        return OTHER[path]
    if path.endswith(".format"):
        return "hub" if value != "hub" else "spatial_scenes"
    if path in ("storage.mirror_rate", "storage.patience") or ".deadlines." in path:
        return f"2{value}"
    choices: dict[str, list[Any]] = {
        "precision": ["fp32"], "attention": ["eager", "sdpa"], "optim": ["adamw_8bit"], "task": ["describe"],
        "split": ["train"], "wandb": [False],
        "uses": ["sft", "dpo"],
    }  # fmt: skip
    for key, candidates in choices.items():
        if path.rpartition(".")[2] == key:
            return next(c for c in candidates if c != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value * 2 or 1
    if isinstance(value, float):
        return value / 2 or 0.1
    return f"{value}x" if isinstance(value, str) else "messages"


PATHS = [path for path, value in leaves(JOB) if value != {} and OTHER.get(path, "") is not None]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "look", driver.Seen)
    for name in ("rows.jsonl", "other.jsonl"):
        (tmp_path / name).write_text("")
    return tmp_path


def seen(job: dict[str, Any], folder: Path) -> Any:
    """All that a run would do with `job`, as data."""
    path = folder / "job.yaml"
    path.write_text(json.dumps(job))
    loaded = load_job(path)
    where = places(loaded)
    here = machine_here(loaded, where)
    machine = machine_for(loaded, None, here)
    assert machine.gpu is not None
    gpu = replace(machine.gpu, vram=10 * hardware.GIB, capability=(7, 2))
    machine, here = replace(machine, gpu=gpu), replace(here, gpu=gpu)
    plan = to_json(make_plan(loaded, machine))
    machinery = Machinery(show=Show(io.StringIO()), clock=lambda: 0.0)
    run = Run(job=loaded, machine=machine, where=where, choices=Choices(), machinery=machinery)
    return plan, [d.code for d in findings(loaded, here, where)], run.ends


@pytest.mark.parametrize("path", PATHS)
def test_changing_the_key_changes_something(world: Path, path: str) -> None:
    changed = json.loads(json.dumps(JOB))
    at = changed
    *parents, last = path.split(".")
    for key in parents:
        at = at[key]
    at[last] = other(path, at[last])
    if last in ("uses", "format"):
        at["with"] = {}  # the options of another plugin would not fit
    if last == "format":
        for key in ("path", "split", "revision"):
            at.pop(key, None)
        at |= {"path": "some/set"} if at["format"] == "hub" else {}
    if last == "uses":
        at["data"] = {"format": "spatial_scenes"}
        at.pop("eval_data", None)
    assert seen(changed, world) != seen(JOB, world)


def test_every_key_of_a_rule_has_another_value_here() -> None:
    assert set(RULE) == set(OTHER_RULE) == set(bundled_schema()["$defs"]["rule"]["properties"])


@pytest.mark.parametrize("key", RULE)
def test_changing_a_key_of_a_rule_changes_something(world: Path, key: str) -> None:
    rule = RULE | {key: OTHER_RULE[key]}
    if key == "do":  # a rule that stops reads nothing else
        rule = {"on": RULE["on"], "do": rule["do"]}
    changed = JOB | {"recovery": RECOVERY | {"rules": [rule]}}
    left_out = {name: value for name, value in RULE.items() if name != key}
    assert seen(changed, world) != seen(JOB, world)
    if key not in ("on", "do"):  # one is required, the other given is the default
        without = JOB | {"recovery": RECOVERY | {"rules": [left_out]}}
        assert seen(without, world) != seen(JOB, world)


def test_each_word_for_recovery_is_another_plan(world: Path) -> None:
    plans = [
        seen(JOB | {"recovery": recovery}, world) for recovery in ("default", "none", RECOVERY)
    ]
    assert plans[0] not in plans[1:]
    assert plans[1] != plans[2]


def test_changing_the_bucket_changes_something(world: Path) -> None:
    jobs = []
    for name in ("one", "two"):
        job = json.loads(json.dumps(JOB))
        del job["storage"]["drive"]
        job["storage"]["bucket"] = f"file://{world}/{name}"
        jobs.append(seen(job, world))
    assert jobs[0] != jobs[1]
