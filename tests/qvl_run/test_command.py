"""The command as people use it, also wrongly: exit codes, messages, nothing touched."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_run.resources import shipped_jobs
from tests.conftest import Command

ROW = '{"image": "images/1.png", "question": "Where?", "answer": "left"}\n'
JOB = """
version: 1
name: demo
model: {name: qvl-tiny}
stages:
  sft: {uses: sft, data: {format: jsonl, path: rows.jsonl}}
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    from PIL import Image

    (tmp_path / "images").mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "images" / "1.png")
    return tmp_path / "images"


@pytest.mark.parametrize("verb", [["validate"], ["plan"], []])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: 1\n  name: demo\n", "job.yaml:2:"),
        (JOB.replace("model:", "modle:"), 'did you mean "model"?'),
        (JOB + "training: {num_epochs: many}\n", "must be a number"),
        (JOB.replace("uses: sft", "uses: stf"), 'did you mean "sft"?'),
        (JOB.replace("uses: sft", "uses: sft, needs: sft"), "circle"),
        (JOB, "there is no data file"),
    ],
)
def test_a_wrong_job_is_told_with_its_place_and_touches_nothing(
    job_file: Callable[..., Path],
    qvl_run: Command,
    tmp_path: Path,
    verb: list[str],
    text: str,
    words: str,
) -> None:
    done = qvl_run(*verb, job_file(text))
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert "job.yaml:" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["job.yaml"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"question": "Where?", "answer": "left"}\n', "image"),
        ('{"image": "images/2.png", "question": "Where?", "answer": "left"}\n', "images/2.png"),
        ('{"image": "images/bad.png", "question": "Where?", "answer": "left"}\n', "images/bad.png"),
        ('{"image": "images/1.png", "question": "Where?"}\n', "answer"),
        ('{"image": "images/1.png", "question": \n', "JSON"),
    ],
)
@pytest.mark.parametrize("verb", [["validate"], []])
def test_a_row_that_cannot_be_used_is_told_with_file_and_line(
    job_file: Callable[..., Path],
    qvl_run: Command,
    tmp_path: Path,
    images: Path,
    verb: list[str],
    row: str,
    words: str,
) -> None:
    (images / "bad.png").write_bytes((images / "1.png").read_bytes()[:40])
    (tmp_path / "rows.jsonl").write_text(ROW + row + ROW)
    done = qvl_run(*verb, job_file(JOB))
    assert done.returncode == 2, done.stdout
    assert "error[QVL301]" in done.stderr
    assert "rows.jsonl:2:1" in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "qvl-runs").exists()


@pytest.mark.parametrize("where", ["reward", "evaluation"])
def test_a_row_without_what_judges_it_is_told(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path, images: Path, where: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(ROW + '{"image": "images/1.png", "question": "Where?"}\n')
    rows = "{format: jsonl, path: rows.jsonl}"
    text = JOB.replace("uses: sft", "uses: grpo")
    if where == "evaluation":
        text = JOB.replace("{format: jsonl, path: rows.jsonl}", "{format: spatial_scenes}")
        text += f"evaluation: {{data: {rows}}}\n"
    done = qvl_run("validate", job_file(text))
    assert done.returncode == 2
    assert "rows.jsonl:2:1" in done.stderr
    assert 'lacks "answer"' in done.stderr


def test_rows_that_are_right_pass(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path, images: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(ROW * 3)
    done = qvl_run("validate", job_file(JOB))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(shipped_jobs()))
def test_every_shipped_job_validates_and_plans_for_its_tier(qvl_run: Command, name: str) -> None:
    assert qvl_run("validate", f"jobs/{name}.yaml").returncode == 0
    tier = "a100-40gb" if name.startswith("a100") else name.partition("_")[0]
    done = qvl_run("plan", name, "--assume", tier, "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["machine"]["assumed"] == tier
    assert plan["findings"] == []
    assert [s["settings"]["model"]["precision"] for s in plan["stages"]] == [
        {"cpu": "fp32", "t4": "fp16", "a100-40gb": "bf16"}[tier]
    ] * len(plan["stages"])


def test_a_job_for_a_gpu_is_refused_where_there_is_none(qvl_run: Command, tmp_path: Path) -> None:
    done = qvl_run("t4_full_pipeline", env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 3
    assert "no GPU was found" in done.stderr
    assert "error[QVL411]: Google Drive is not mounted" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_plan_for_a_gpu_that_is_not_here_is_shown_and_says_that_it_would_be_refused(
    qvl_run: Command,
) -> None:
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    here = qvl_run("plan", "t4_full_pipeline", env=hidden)
    refused = qvl_run("t4_full_pipeline", env=hidden)
    assert (here.returncode, refused.returncode) == (3, 3)
    assert "(assumed: t4)" in here.stdout
    assert "precision: fp16" in here.stdout
    assert here.stdout.strip().endswith(refused.stderr.strip())
    gone = qvl_run("plan", "t4_full_pipeline", "--assume", "v100")
    assert "(assumed: v100; Colab no longer offers it)" in gone.stdout
    assert "warning[QVL424]: a torch for CUDA 12.8 or later has no kernels" in gone.stdout
    assert gone.returncode == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["plan", "JOB", "--assume", "t5"], "known: cpu, t4, v100, l4,"),
        (["plan", "JOB", "--stage", "stf"], "sft"),
        (["JOB", "--stage", "stf"], "error[QVL010]"),
        (["nothing.yaml"], "error[QVL001]: there is no file nothing.yaml"),
        (["JOB", "--from-scratch", "--resume-from", "x"], "contradict"),
        (["JOB", "--resume-from", "nowhere"], "error[QVL011]: --resume-from"),
        (["t4_full_pipeline", "--init-from", "x"], "--init-from needs --stage"),
    ],
)
def test_a_wrong_command_line_is_told(
    job_file: Callable[..., Path],
    qvl_run: Command,
    tmp_path: Path,
    images: Path,
    args: list[str],
    words: str,
) -> None:
    (tmp_path / "rows.jsonl").write_text(ROW)
    job = job_file(JOB)
    done = qvl_run(*[str(job) if arg == "JOB" else arg for arg in args])
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("vaildate", 'did you mean "validate"?'),
        ("t4_ful_pipeline", 'did you mean "t4_full_pipeline"?'),
        ("zzzzzz", "known: a100_full_pipeline, checkpoints"),
    ],
)
def test_a_word_that_is_nothing_is_told_with_what_is_near(
    qvl_run: Command, word: str, hint: str
) -> None:
    done = qvl_run(word)
    assert done.returncode == 2
    assert f'there is no command, no file and no job "{word}": {hint}' in done.stderr
