"""What `plan` says to people: all of it, each thing once."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qvl_run import exit_codes, hardware
from qvl_run.hardware import PROFILES
from qvl_run.plan.make import make_plan
from qvl_run.recovery import ladder, rules
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


BROKEN_INPUT = """
version: 1
name: counting
model: {name: none}
stages:
  first: {uses: count, init_from: not-there, with: {to: 2}}
  second: {uses: count, with: {to: 3}}
"""


def test_the_exit_code_is_the_one_that_run_gives(
    job_file: Callable[..., Path], qvl_run: Command
) -> None:
    job = job_file(BROKEN_INPUT)
    for command in ((job,), (job, "--stage", "second")):
        plan, run = qvl_run("plan", *command), qvl_run(*command)
        assert plan.returncode == run.returncode == exit_codes.USAGE
    right = job_file(BROKEN_INPUT.replace("init_from: not-there, ", ""), "right.yaml")
    assert qvl_run("plan", right).returncode == exit_codes.DONE
    assert qvl_run("plan", right, "--stage", "second").returncode == exit_codes.USAGE
    assert qvl_run(right, "--stage", "second").returncode == exit_codes.USAGE


def test_a_stage_that_cannot_start_still_says_what_recovery_has_changed(
    job_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = load_job(job_file(BROKEN_INPUT))
    monkeypatch.setattr(ladder, "remembered", lambda *_, **__: {"training.optim": "adamw_8bit"})
    first, second = make_plan(job, PROFILES["cpu"]).stages
    assert (first.state, second.state) == ("no_input", "waiting")
    assert first.changes == second.changes == {"training.optim": "adamw_8bit"}


LONG = """
version: 1
name: demo
hardware: {max_session: %s}
model: {name: Qwen/Qwen3-VL-2B-Instruct}
training: {max_seq_length: 1024%s}
stages:
  sft: {uses: sft, data: {format: spatial_scenes}}
"""


def test_a_job_that_is_longer_than_a_session_says_how_many_it_takes(
    job_file: Callable[..., Path], qvl_run: Command
) -> None:
    def told(session: str, training: str, tier: str = "t4") -> tuple[str, Any]:
        job = job_file(LONG % (session, training))
        text = qvl_run("plan", job, "--assume", tier).stdout
        data = json.loads(qvl_run("plan", job, "--assume", tier, "--json").stdout)["time"]
        lines = [line.strip() for line in text.splitlines() if "sessions:" in line]
        return "".join(lines), data

    line, data = told("1h", ", max_steps: 1000")
    assert data["sessions"] == math.ceil(data["seconds"] / 3600) > 1
    assert line.startswith(f"sessions: about {data['sessions']} of 1 h 0 min each (max_session)")
    assert told("12d", ", max_steps: 1000") == ("", {**data, "sessions": 1})
    line, data = told("1h", ", max_steps: 1000", tier="cpu")
    assert (line, data) == ("", {"seconds": None, "whole": False, "sessions": None})


def test_what_is_not_kept_in_storage_is_not_said_to_take_nothing_there(
    job_file: Callable[..., Path], qvl_run: Command
) -> None:
    job = job_file(LONG % ("12h", ""))
    space = json.loads(qvl_run("plan", job, "--assume", "t4", "--json").stdout)["space"]
    assert space["downloads"] is None
    assert space["total"] == space["results"] > 0


def test_memory_that_is_asked_for_and_not_needed_is_said_to_be_so(
    job_file: Callable[..., Path], qvl_run: Command
) -> None:
    text = (LONG % ("12h", "")).replace("max_session: 12h", "min_vram: 24GiB")
    done = qvl_run("plan", job_file(text), "--assume", "l4")
    assert done.returncode == exit_codes.MACHINE
    assert " GiB: lower min_vram or leave it out" in done.stdout
    large = job_file(text.replace("2B", "8B").replace("1024", "1024, optim: adamw_torch"))
    large.write_text(large.read_text().replace("Instruct", "Instruct, lora: null"))
    assert "lower min_vram" not in qvl_run("plan", large, "--assume", "l4").stdout


def test_a_machine_that_is_asked_about_is_told_of_its_ram_and_one_need_is_told_once(
    job_file: Callable[..., Path], qvl_run: Command
) -> None:
    text = (LONG % ("12h", "")).replace("max_session: 12h", "tier: t4, min_ram: 900TiB")
    text = text.replace("2B", "8B")
    assumed = qvl_run("plan", job_file(text), "--assume", "cpu").stdout
    assert "QVL401" in assumed
    assert "QVL433" in assumed
    assert assumed.count("QVL407") == 1
    assert qvl_run("plan", job_file(text)).stdout.count("QVL407") == 1


def test_a_job_of_one_stage_is_said_to_have_one(
    job_file: Callable[..., Path], qvl_run: Command
) -> None:
    assert "right (1 stage: sft)" in qvl_run("validate", job_file(LONG % ("12h", ""))).stdout


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
