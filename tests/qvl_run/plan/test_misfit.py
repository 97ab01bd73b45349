"""What is told of stages that are predicted not to fit: how bad it is, where, and what would be enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_run import exit_codes, hardware
from qvl_run.hardware import Machine
from qvl_run.plan import misfit
from qvl_run.plan.fit import fitted
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.load import load_job
from qvl_run.verbs import plan as plan_verb
from qvl_run.verbs import run as run_verb
from tests.qvl_run.plan.fakes import UNBOUNDED, Formula, gpu_with, needing

JOB = """
version: 1
name: demo
model: {name: qvl-tiny%s}
training:
  max_seq_length: 1024
  %s
stages:
  sft: {uses: sft, data: {format: spatial_scenes}}
%s
"""
GRPO = """
  grpo:
    uses: grpo
    needs: null
    data: {format: spatial_scenes}
    with: {num_generations: 8}
"""
Found = Callable[..., list[Diagnostic]]


@pytest.fixture
def found(job_file: Callable[..., Path]) -> Found:
    def find(
        machine: Machine, model: str = "", training: str = "seed: 0", more: str = ""
    ) -> list[Diagnostic]:
        job = load_job(job_file(JOB % (model, training, more)))
        return list(misfit.findings(fitted(job, machine), machine))

    return find


def test_what_fits_is_not_spoken_of(found: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    needing(monkeypatch, Formula())
    assert found(gpu_with(5)) == []
    assert found(hardware.PROFILES["cpu"]) == []
    needing(monkeypatch, None)
    assert found(gpu_with(0)) == []


def test_a_micro_batch_by_hand_that_recovery_can_halve_is_a_warning_at_its_line(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula())
    (one,) = found(gpu_with(6.5), training="per_device_train_batch_size: 4")
    assert (one.code, one.severity) == ("QVL431", "warning")
    assert one.span is not None
    assert one.span.line == 7
    assert "sft needs 8.0 GiB of GPU memory, 6.5 GiB are there" in one.message
    assert "most in backward: weights 4.0 GiB, activations 4.0 GiB" in one.message
    assert "micro-batch 4 -> 2, accumulation 8 -> 16" in one.hint
    assert one.hint.endswith(
        "to begin with what fits: per_device_train_batch_size: 2, gradient_accumulation_steps: 16"
    )


def test_the_whole_way_down_is_told_what_it_takes_and_where_it_ends(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula())
    by_hand = (
        "per_device_train_batch_size: 8\n  gradient_accumulation_steps: 1\n"
        "  gradient_checkpointing: false"
    )
    (one,) = found(gpu_with(5.5), training=by_hand)
    assert one.code == "QVL431"
    assert one.hint == (
        "recovery gets there by itself after 4 out-of-memories: micro-batch 8 -> 1, accumulation 1 -> 8; gradient "
        "checkpointing on; to begin with what fits: per_device_train_batch_size: 1, gradient_accumulation_steps: 8, "
        "gradient_checkpointing: true"
    )


def test_what_recovery_may_not_lower_is_an_error(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula())
    by_hand = "per_device_train_batch_size: 4\nrecovery: none"
    (one,) = found(gpu_with(6.5), training=by_hand)
    assert (one.code, one.severity) == ("QVL430", "error")
    assert one.span is not None
    assert one.span.line == 7
    assert one.hint == (
        "it would fit with per_device_train_batch_size: 2 and gradient_accumulation_steps: 16 "
        "or quantization: nf4 or max_seq_length: 512"
    )


@pytest.mark.parametrize(
    ("room", "formula", "hint"),
    [
        (2.6, Formula(), "it would fit with quantization: nf4"),
        (4.6, Formula(), "it would fit with quantization: nf4 or max_seq_length: 512"),
        (4.6, Formula(packed=4.5), "it would fit with max_seq_length: 512"),
        (
            2.05, Formula(row=0.5, image=1.0),
            "no single change is enough; it would fit with all of: quantization: nf4, image_tokens: [64, 256], "
            "max_seq_length: 512",
        ),
        (
            2.3, Formula(row=0.5, image=1.0),
            "no single change is enough; it would fit with all of: quantization: nf4, image_tokens: [64, 256]",
        ),
        (1.4, Formula(), "nothing that was tried is enough: take a smaller model, or a GPU with more memory"),
    ],
)  # fmt: skip
def test_what_would_be_enough_is_computed(
    found: Found, monkeypatch: pytest.MonkeyPatch, room: float, formula: Formula, hint: str
) -> None:
    needing(monkeypatch, formula)
    (one,) = found(gpu_with(room), model=", image_tokens: [64, 384]")
    assert one.code == "QVL430"
    assert one.hint == hint


def test_a_smaller_image_budget_is_named_where_it_is_enough(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula(row=0.5, image=1.0, packed=5))
    (one,) = found(gpu_with(4.8), model=", image_tokens: [64, 384]")
    assert one.hint == "it would fit with image_tokens: [64, 256] or max_seq_length: 512"
    assert one.span is not None
    assert (one.span.line, one.span.column) == (4, 39)


@pytest.mark.parametrize("rules", ["", "recovery: none"])
def test_rows_sampled_at_once_that_the_stage_halves_itself_are_a_warning(
    found: Found, monkeypatch: pytest.MonkeyPatch, rules: str
) -> None:
    needing(monkeypatch, Formula(sampled=0.5, more={"sft": -1.0}))
    by_hand = GRPO.replace("8}", "8, generation_micro_batch_size: 16}") + rules
    (one,) = found(gpu_with(6.5), training="gradient_accumulation_steps: 16", more=by_hand)
    assert (one.code, one.severity) == ("QVL431", "warning")
    assert "grpo needs 12.0 GiB of GPU memory, 6.5 GiB are there (most in sampling:" in one.message
    assert one.hint == (
        "the stage gets there by itself by sampling fewer rows at once: 16 -> 4; to begin with what fits: "
        "with.generation_micro_batch_size: 4"
    )
    assert one.span is not None
    assert one.span.line == 15


def test_sampling_and_batches_that_are_too_large_are_both_told(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula(sampled=0.5, more={"sft": -4.0}))
    by_hand = GRPO.replace("8}", "8, generation_micro_batch_size: 16}")
    split = "per_device_train_batch_size: 4\n  gradient_accumulation_steps: 4"
    (one,) = found(gpu_with(6.5), training=split, more=by_hand)
    assert "by sampling fewer rows at once: 16 -> 4, and after one out-of-memory" in one.hint


def test_recovery_is_not_said_to_take_a_smaller_micro_batch_that_needs_more(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula(gradients=5.0))
    split = "per_device_train_batch_size: 8\n  gradient_accumulation_steps: 1"
    (one,) = found(gpu_with(11.5), training=split)
    assert "after one out-of-memory: micro-batch 8 -> 2, accumulation 1 -> 4" in one.hint
    (one,) = found(gpu_with(9.5), training=split)
    assert one.code == "QVL430"


def test_auto_that_cannot_fit_is_an_error_where_the_model_is_named(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula())
    (one,) = found(gpu_with(1), model=", quantization: auto, image_tokens: auto")
    assert one.code == "QVL430"
    assert one.span is not None
    assert one.span.line == 4
    assert one.message.startswith("sft needs 2.5 GiB of GPU memory, 1.0 GiB are there")


def test_own_rules_that_make_it_fit_turn_the_error_into_a_warning(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula())
    lower = "seed: 0\nrecovery: {rules: [{on: oom, adapt: [max_seq_length]}]}"
    (one,) = found(gpu_with(4.6), training=lower)
    assert one.code == "QVL431"
    assert "max_seq_length 1024 -> 512: this changes the result" in one.hint


def test_memory_that_something_else_holds_is_a_warning(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula())
    (one,) = found(gpu_with(13, free=5.0))
    assert (one.code, one.severity) == ("QVL432", "warning")
    assert "sft needs 5.7 GiB" in one.message
    assert "5.0 GiB of 14.1 GiB are free" in one.message
    assert found(gpu_with(13, free=6.0)) == []


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_run_refuses_before_anything_is_touched(
    at: Path,
    job_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needing(monkeypatch, Formula())
    monkeypatch.setattr(hardware, "probe", lambda **_: gpu_with(2))
    path = job_file(JOB % ("", "seed: 0", ""))
    options = {"stage": None, "resume_from": None, "init_from": None, "from_scratch": False}
    code = run_verb.main(
        str(path), saved=None, take_over=False, wait_for_drive=False, **options, profiles=(), settings=()
    )  # fmt: skip
    assert code == exit_codes.MACHINE
    assert "error[QVL430]" in capsys.readouterr().err
    assert [p.name for p in at.iterdir()] == ["job.yaml"]


def plan_of(path: Path, tier: str, *, as_json: bool) -> int:
    options = {"stage": None, "resume_from": None, "init_from": None, "from_scratch": False}
    return plan_verb.main(
        str(path), assume=tier, as_json=as_json, show_origin=False, **options, profiles=(), settings=()
    )  # fmt: skip


@pytest.mark.usefixtures("at")
def test_plan_shows_what_was_chosen_what_it_needs_and_where_stages_differ(
    job_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needing(monkeypatch, Formula(more={"grpo": 3.0}))
    path = job_file(JOB % (", quantization: auto", "global_batch_size: 8", GRPO))
    assert plan_of(path, "t4", as_json=False) == exit_codes.DONE
    head, sft, grpo = capsys.readouterr().out.split("\n\n")[:3]
    assert "  precision: fp16 (compute capability 7.5" in head
    assert "(2.5 GiB in the end)" in head
    assert "per_device_train_batch_size" not in head
    assert "  per_device_train_batch_size: 8 (12.0 of 13.6 GiB; the whole global batch)" in sft
    assert "  per_device_train_batch_size: 4 (11.0 of 13.6 GiB; 8 would need 15.0 GiB)" in grpo
    assert "  generation_micro_batch_size: 8 (11.0 of 13.6 GiB; all of a step)" in grpo
    assert "  GPU memory: 12.0 of 13.6 GiB, most in backward: activations 8.0 GiB, weights" in sft
    assert "RAM 3.0 GiB, download 4.0 GiB, a checkpoint 512.0 MiB, its output 256.0 MiB" in sft
    assert "global batch 8 (4 x 2)" in grpo


@pytest.mark.usefixtures("at")
def test_the_plan_as_data_has_the_same_and_follows_its_schema(
    job_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from jsonschema import Draft202012Validator

    from qvl_run.resources import folder

    needing(monkeypatch, Formula(more={"sft": 30.0}))
    path = job_file(JOB % ("", "global_batch_size: 8", ""))
    assert plan_of(path, "t4", as_json=True) == exit_codes.MACHINE
    plan = json.loads(capsys.readouterr().out)
    schema = json.loads((folder("schemas") / "plan.schema.json").read_text())
    assert list(Draft202012Validator(schema).iter_errors(plan)) == []
    (stage,) = plan["stages"]
    assert stage["needs"]["vram"]["total"] == sum(stage["needs"]["vram"]["parts"].values())
    assert stage["decisions"] == plan["decisions"]
    assert plan["findings"][0]["severity"] == "error"
    assert plan["space"]["total"] == plan["space"]["results"] > 0


@pytest.mark.parametrize(("most", "code"), [("limit: 2", "QVL431"), ("limit: 1", "QVL430")])
def test_recovery_goes_down_no_more_rungs_than_its_rule_allows(
    found: Found, monkeypatch: pytest.MonkeyPatch, most: str, code: str
) -> None:
    needing(monkeypatch, Formula())
    rules = f"recovery: {{rules: [{{on: oom, adapt: [micro_batch], {most}}}]}}"
    (one,) = found(gpu_with(5.5), training=f"per_device_train_batch_size: 4\n{rules}")
    assert one.code == code


@pytest.mark.parametrize(
    ("size", "code", "hint"),
    [
        (8, None, ""),
        (
            32, "QVL431",
            "recovery gets there by itself after 2 out-of-memories: evaluation.batch_size 32 -> 8; "
            "to begin with what fits: evaluation.batch_size: 8",
        ),
    ],
)  # fmt: skip
def test_an_evaluation_that_is_too_large_is_lowered_by_itself(
    found: Found, monkeypatch: pytest.MonkeyPatch, size: int, code: str | None, hint: str
) -> None:
    needing(monkeypatch, Formula(answer=1.0))
    more = f"evaluation: {{batch_size: {size}, data: {{format: spatial_scenes}}}}"
    seen = found(gpu_with(12.5), more=more)
    assert [one.code for one in seen] == ([code] if code else [])
    if code:
        assert seen[0].severity == "warning"
        assert seen[0].hint == hint
        assert seen[0].span is not None
        assert seen[0].span.line == 10
        assert "the evaluation of sft needs 36.0 GiB of GPU memory" in seen[0].message


@pytest.mark.parametrize(
    ("rules", "answer", "hint"),
    [
        (
            "", 9.0,
            "no single change is enough; it would fit with all of: evaluation.batch_size: 1, quantization: nf4",
        ),
        ("recovery: none", 1.0, "it would fit with evaluation.batch_size: 8"),
    ],
)  # fmt: skip
def test_an_evaluation_is_refused_where_one_answer_is_too_large_or_recovery_may_not(
    found: Found, monkeypatch: pytest.MonkeyPatch, rules: str, answer: float, hint: str
) -> None:
    needing(monkeypatch, Formula(answer=answer))
    more = f"evaluation: {{batch_size: 32, data: {{format: spatial_scenes}}}}\n{rules}"
    (one,) = found(gpu_with(12.5), more=more)
    assert (one.code, one.severity, one.hint) == ("QVL430", "error", hint)


def test_held_out_rows_are_lowered_with_the_micro_batch(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula(row=0.1, held_out=3.0))
    more = "evaluation: {batch_size: 2, data: {format: spatial_scenes}}"
    (one,) = found(gpu_with(10.5), training="per_device_train_batch_size: 4", more=more)
    assert "most in held-out rows" in one.message
    assert "after 2 out-of-memories: evaluation.batch_size 2 -> 1; micro-batch 4 -> 2" in one.hint


def test_weights_that_are_too_large_whatever_the_rows_are_an_error(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula(bounded=False))
    (one,) = found(gpu_with(3.0))
    assert (one.code, one.severity) == ("QVL430", "error")
    assert one.message.startswith("sft needs at least 4.0 GiB of GPU memory, 3.0 GiB are there")
    assert one.hint == "it may fit with quantization: nf4"
    assert found(gpu_with(4.5)) == []


def test_sizes_that_round_alike_are_told_apart(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula(weights=3.62))
    (one,) = found(gpu_with(4.58))
    assert "sft needs 4.62 GiB of GPU memory, 4.58 GiB are there" in one.message


@pytest.mark.usefixtures("at")
def test_plan_shows_the_evaluation_where_it_needs_most_and_why_nothing_is_predicted(
    job_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needing(monkeypatch, Formula(answer=1.0))
    more = "evaluation: {batch_size: 8, data: {format: spatial_scenes}}"
    path = job_file(JOB % ("", "seed: 0", more))
    plan_of(path, "t4", as_json=False)
    out = capsys.readouterr().out
    assert "  its evaluation: 12.0 of 13.6 GiB, most in evaluation: cache 8.0 GiB" in out
    plan_of(path, "a100-40gb", as_json=True)
    (stage,) = json.loads(capsys.readouterr().out)["stages"]
    assert stage["needs"]["evaluation"]["total"] == 12 * 1024**3
    needing(monkeypatch, Formula(bounded=False))
    plan_of(path, "t4", as_json=False)
    out = capsys.readouterr().out
    assert f"  GPU memory: not predicted, {UNBOUNDED}; at least 4.0 of 13.6 GiB" in out
