"""What `plan` says to people: all of it, each thing once."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from qvl_run import hardware
from qvl_run.plan.make import make_plan
from qvl_run.recovery import rules
from qvl_run.spec.load import load_job
from qvl_run.verbs import plan as plan_verb
from tests.conftest import Command

JOB = """
version: 1
name: demo
model: {name: qvl-tiny}
training: {max_seq_length: 256%s}
stages:
  sft: {uses: sft, data: {format: spatial_scenes}}
  dpo: {uses: dpo, data: {format: spatial_scenes}}
"""
BOTH = ", global_batch_size: 8"
ONE = ", global_batch_size: 8, per_device_train_batch_size: 2"


def test_the_rules_of_recovery_stand_below_the_stages(
    job_file: Callable[..., Path], qvl_run: Command
) -> None:
    own = "recovery: {rules: [{on: oom, limit: 2}]}\n"
    for more in ("", own):
        text = qvl_run("plan", job_file(JOB % "" + more), "--assume", "t4").stdout
        head, sft, _, last = text.rstrip().split("\n\n")
        policy = rules.parse({"rules": [{"on": "oom", "limit": 2}]} if more else "default")
        assert last.splitlines() == ["recovery:", *(f"  {line}" for line in policy.lines())]
        assert "preempted" not in head + sft


def test_findings_come_last(job_file: Callable[..., Path], qvl_run: Command) -> None:
    text = qvl_run("plan", job_file(JOB % ", optim: adamw_8bit"), "--assume", "cpu").stdout
    assert text.index("\nrecovery:") < text.index("error[QVL404]")


@pytest.mark.parametrize(("training", "micro", "steps"), [(BOTH, 2, 0), (ONE, 0, 1), ("", 0, 0)])
def test_the_split_is_told_once(
    job_file: Callable[..., Path], qvl_run: Command, training: str, micro: int, steps: int
) -> None:
    job = job_file(JOB % training)
    text = qvl_run("plan", job, "--assume", "t4").stdout
    assert text.count("  per_device_train_batch_size: ") == micro
    assert text.count("  gradient_accumulation_steps: ") == steps
    assert text.count("  global batch 8 (") == 2
    plan = json.loads(qvl_run("plan", job, "--assume", "t4", "--json").stdout)
    told = [d["name"] for d in plan["stages"][0]["decisions"]]
    assert ("gradient_accumulation_steps" in told) == (training != "")


def test_parts_that_come_to_nothing_are_left_out(
    job_file: Callable[..., Path], qvl_run: Command
) -> None:
    text = qvl_run("plan", job_file(JOB % ""), "--assume", "t4").stdout
    assert "a checkpoint " in text
    assert "download" not in text.partition("\nrecovery:")[0]
    assert " 0 B" not in text
    assert ", most in " in text
    assert " 0.0 GiB" not in text


def test_of_a_stage_that_is_done_nothing_more_is_told(
    job_file: Callable[..., Path], qvl_run: Command
) -> None:
    job = job_file("""
    version: 1
    name: counting
    model: {name: none}
    stages: {first: {uses: count, with: {to: 2}}, second: {uses: count, with: {to: 3}}}
    """)
    assert "a checkpoint every" in qvl_run("plan", job).stdout
    assert qvl_run(job, "--stage", "first").returncode == 0
    _, first, second, *_ = qvl_run("plan", job).stdout.split("\n\n")
    assert first == "first (count): done (2 steps)"
    assert "a checkpoint every" in second


def test_what_a_finished_stage_would_need_is_told_of_a_machine_that_is_not_here(
    job_file: Callable[..., Path],
) -> None:
    job, l4 = load_job(job_file(JOB % "")), hardware.profile("l4")
    for machine, told in ((l4, True), (replace(l4, assumed=None), False)):
        plan = make_plan(job, machine)
        done = replace(plan, stages=tuple(replace(s, state="done") for s in plan.stages))
        text = plan_verb.text(done, judged=False)
        assert ("GPU memory: " in text) == told
        assert "a checkpoint every" not in text


@pytest.mark.parametrize(
    ("needs", "told"),
    [
        ("min_disk: 20GiB, min_drive_space: 1GiB", "min_disk and min_drive_space"),
        ("min_disk: 20GiB", "min_disk"),
        ("min_vram: 8GiB", None),
    ],
)
def test_needs_that_no_profile_can_answer_are_said_not_to_be_judged(
    job_file: Callable[..., Path], qvl_run: Command, needs: str, told: str | None
) -> None:
    job = job_file(JOB % "" + f"hardware: {{{needs}}}\n")
    lines = qvl_run("plan", job, "--assume", "t4").stdout.splitlines()
    found = [line for line in lines if "not judged" in line]
    assert found == (
        [f"  not judged: {told} (what is free on a machine that is not here is not known)"]
        if told
        else []
    )
    assert "not judged" not in qvl_run("plan", job).stdout


def test_rows_of_a_file_make_steps(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    Image.new("1", (64, 64)).save(tmp_path / "1.png")
    row = '{"image": "1.png", "question": "?", "answer": "a"}\n'
    (tmp_path / "rows.jsonl").write_text(row * 200)
    data = "{format: jsonl, path: rows.jsonl, max_samples: 1000}"
    text = (JOB % BOTH).replace("{format: spatial_scenes}", data, 1)
    done = qvl_run("plan", job_file(text), "--assume", "t4", "--json", "--stage", "sft")
    (sft,) = json.loads(done.stdout)["stages"]
    assert sft["total"] == 25
    assert (
        "sft has 25 steps, so save_steps 26 saves only"
        in qvl_run("validate", job_file(text), "--set", "training.save_steps=26").stderr
    )
