"""The verbs around a job: list, copy, write, plan, run by plan, complete."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_run.resources import folder, shipped_jobs
from tests.conftest import Command

JOB = """
version: 1
name: counting
model: {name: none}
training: {save_steps: 3}
stages:
  first: {uses: count, with: {to: 4}}
"""


def test_jobs_lists_a_line_each(qvl_run: Command) -> None:
    lines = qvl_run("jobs").stdout.splitlines()
    for name in shipped_jobs():
        line = next(line for line in lines if line.startswith(f"{name} "))
        assert len(line.split(maxsplit=1)[1]) > 20


def test_jobs_copy_gives_a_file_that_validates_and_replaces_none(
    qvl_run: Command, tmp_path: Path
) -> None:
    assert qvl_run("jobs", "copy", "t4_sft").returncode == 0
    assert qvl_run("validate", "t4_sft.yaml").returncode == 0
    again = qvl_run("jobs", "copy", "t4_sft")
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert qvl_run("jobs", "copy", "t4_sft", "mine.yaml").returncode == 0
    unknown = qvl_run("jobs", "copy", "t4_stf")
    assert unknown.returncode == 2
    assert 'did you mean "t4_sft"?' in unknown.stderr


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--tier", "cpu"],
        ["--stages", "sft,dpo,grpo"],
        ["--model", "qvl-tiny", "--data", "mine/rows.jsonl"],
    ],
)
def test_init_writes_a_job_that_is_right_but_for_its_data(
    qvl_run: Command, tmp_path: Path, options: list[str]
) -> None:
    done = qvl_run("init", *options)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "job.yaml").read_text()
    assert text.count("#") >= 4
    findings = json.loads(qvl_run("validate", "job.yaml", "--format", "json").stdout)["findings"]
    assert {f["code"] for f in findings} == {"QVL302"}
    assert qvl_run("init").returncode == 2
    assert qvl_run("init", "--force").returncode == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tier", "t5"], "no tier"),
        (["--stages", "sft,dop"], 'did you mean "dpo"?'),
        (["nowhere/job.yaml"], "no folder"),
    ],
)
def test_init_refuses_what_would_be_wrong(
    qvl_run: Command, tmp_path: Path, options: list[str], words: str
) -> None:
    done = qvl_run("init", *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(qvl_run: Command, shell: str) -> None:
    assert "_QVL_RUN_COMPLETE" in qvl_run("completion", shell).stdout
    env = {"_QVL_RUN_COMPLETE": f"{shell}_complete", "COMP_WORDS": "qvl-run val", "COMP_CWORD": "1"}
    assert (
        "validate" in qvl_run(env=env | {"COMP_WORDS": "qvl-run val", "COMP_CWORD": "1"}).stdout
        or shell == "fish"
    )


def test_the_plan_as_data_follows_its_schema(
    job_file: Callable[..., Path], qvl_run: Command
) -> None:
    from jsonschema import Draft202012Validator

    schema = json.loads((folder("schemas") / "plan.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    job = job_file(JOB)
    before = json.loads(qvl_run("plan", job, "--json").stdout)
    assert qvl_run(job).returncode == 0
    after = json.loads(qvl_run("plan", job, "--json").stdout)
    changed = json.loads(qvl_run("plan", job, "--json", "--set", "stages.first.with.to=5").stdout)
    assumed = json.loads(qvl_run("plan", "t4_full_pipeline", "--assume", "t4", "--json").stdout)
    for plan in (before, after, changed, assumed):
        Draft202012Validator(schema).validate(plan)
    states = [plan["stages"][0]["state"] for plan in (before, after, changed)]
    assert states == ["run", "done", "rerun"]
    assert changed["stages"][0]["reasons"] == ["with.to: 4 -> 5 (--set stages.first.with.to=5)"]


def test_a_reason_names_the_line(job_file: Callable[..., Path], qvl_run: Command) -> None:
    job = job_file(JOB)
    assert qvl_run(job).returncode == 0
    job_file(JOB.replace("to: 4", "to: 6") + "# more\n")
    assert f"with.to: 4 -> 6 ({job}:7)" in qvl_run("plan", job).stdout


def test_a_saved_plan_is_run_while_it_holds_and_refused_after(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    job, saved = job_file(JOB), tmp_path / "plan.json"
    saved.write_text(qvl_run("plan", job, "--json").stdout)
    stale = qvl_run(job, "--plan", saved, "--set", "training.save_steps=2")
    assert stale.returncode == 2
    assert "QVL012" in stale.stderr
    assert "settings.training.save_steps: 3 -> 2" in stale.stderr
    assert not (tmp_path / "qvl-runs").exists()
    assert qvl_run(job, "--plan", saved).returncode == 0
    done = qvl_run(job, "--plan", saved)
    assert done.returncode == 2
    assert 'state: "run" -> "done"' in done.stderr
    saved.write_text("{}")
    assert "is no saved plan" in qvl_run(job, "--plan", saved).stderr


def test_show_origin(job_file: Callable[..., Path], qvl_run: Command) -> None:
    job = job_file(JOB)
    lines = qvl_run("plan", job, "--show-origin").stdout.splitlines()
    assert f"stages.first.with.to = 4  # {job}:7" in lines
    assert "stages.first.training.seed = 0  # default" in lines


TIER = """
version: 1
name: demo
hardware: {tier: t4}
model: {name: qvl-tiny, precision: bf16, attention: flash_attention_2}
stages:
  sft: {uses: sft, data: {format: jsonl, path: rows.jsonl}}
  dpo: {uses: dpo, data: {format: spatial_scenes}}
"""


def test_validate_judges_a_job_by_the_tier_that_it_names(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    found = json.loads(qvl_run("validate", job_file(TIER), "--format", "json").stdout)["findings"]
    assert sorted(f["code"] for f in found) == ["QVL301", "QVL403", "QVL405"]
    without = TIER.replace("hardware: {tier: t4}", "").replace(
        "jsonl, path: rows.jsonl", "spatial_scenes"
    )
    assert qvl_run("validate", job_file(without)).returncode == 0
    other = without + "hardware: {tier: l4}\n"
    done = qvl_run("validate", job_file(other))
    assert (done.returncode, done.stderr.count("warning[QVL231]")) == (0, 1)
    bound = qvl_run("validate", job_file(other), "--set", "training.max_seq_length=256")
    assert (bound.returncode, bound.stderr) == (0, "")


def test_doctor_judges_a_job_by_its_tier_where_there_is_no_gpu(
    job_file: Callable[..., Path], qvl_run: Command
) -> None:
    text = TIER.replace("jsonl, path: rows.jsonl", "spatial_scenes")
    done = qvl_run("doctor", job_file(text), "--json", env={"CUDA_VISIBLE_DEVICES": ""})
    codes = [f["code"] for f in json.loads(done.stdout)["findings"]]
    assert {"QVL401", "QVL403", "QVL405"} <= set(codes)
    assert codes.count("QVL403") == 1


@pytest.mark.parametrize("verb", ["status", "report", "checkpoints"])
def test_a_row_that_cannot_be_read_is_told_by_what_only_looks(
    qvl_run: Command, tmp_path: Path, verb: str
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"image": "a.png", "question": "?"}\n')
    (tmp_path / "job.yaml").write_text(
        "version: 1\nname: bad\nmodel: {name: qvl-tiny}\n"
        "stages:\n  sft: {uses: sft, data: {format: jsonl, path: rows.jsonl}}\n"
    )
    done = qvl_run(verb, "job.yaml")
    assert done.returncode == 2
    assert "QVL301" in done.stderr + done.stdout
    assert "rows.jsonl:1" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
