"""Rows of local files: what is wrong with many alike is told once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from qvl_run.spec.data_check import check_data
from qvl_run.spec.diagnostic import Diagnostic, JobError
from qvl_run.spec.load import load_job
from tests.conftest import Command

Write = Callable[..., Path]
JOB = """
version: 1
name: demo
model: {name: qvl-tiny, image_tokens: [1, 64]}
training: {max_seq_length: 100, save_steps: 1}
stages:
  sft: {uses: sft, data: {format: jsonl, path: rows.jsonl}}
"""
ROW = {"image": "1.png", "question": "Where?", "answer": "left"}


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., None]:
    """Writes rows beside a picture of 256 x 256 pixels, 64 tokens."""
    Image.new("1", (256, 256)).save(tmp_path / "1.png")

    def write(*rows: dict[str, Any] | str) -> None:
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        (tmp_path / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))

    return write


def found(path: Path) -> list[Diagnostic]:
    try:
        check_data(load_job(path))
    except JobError as error:
        return list(error.diagnostics)
    return []


def test_rows_that_are_wrong_alike_are_one_finding(
    job_file: Write, rows: Callable[..., None], tmp_path: Path
) -> None:
    rows(ROW, *[{"image": "1.png", "prompt": "Where?", "response": "left"}] * 50)
    (one,) = found(job_file(JOB))
    assert one.message == (
        'the row lacks "question", "answer"; it has image, prompt, response (49 more rows are like it)'
    )
    place = f"named at {tmp_path / 'job.yaml'}:7"
    assert one.hint == f"set with: {{question: prompt, answer: response}}; {place}"
    assert one.span is not None
    assert (one.span.file, one.span.line) == (str(tmp_path / "rows.jsonl"), 2)


def test_what_is_wrong_in_different_ways_is_told_one_by_one_to_a_bound(
    job_file: Write, rows: Callable[..., None]
) -> None:
    rows(*[{**ROW, "image": f"no-{i}.png"} for i in range(25)], *["{"] * 2)
    *told, last = sorted(found(job_file(JOB)), key=lambda d: "not told" in d.message)
    assert len(told) == 20
    assert last.message == "7 more problems are not told one by one"


def test_pictures_that_fill_the_sequence_are_told_at_the_row(
    job_file: Write, rows: Callable[..., None]
) -> None:
    rows(ROW, *[{**ROW, "image": ["1.png", "1.png"]}] * 2)
    (one,) = found(job_file(JOB))
    assert "its 2 pictures leave no room for its text in a max_seq_length of 100" in one.message
    assert "for the 128 tokens of this row's pictures" in one.hint
    assert one.span is not None
    assert one.span.line == 2
    assert found(job_file(JOB.replace("100", "300"))) == []


def test_a_picture_is_opened_once_however_many_stages_read_it(
    job_file: Write, rows: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    really = Image.open
    monkeypatch.setattr(Image, "open", lambda file: opened.append(file) or really(file))
    rows(ROW, {**ROW, "image": ["1.png", "1.png"]})
    text = JOB + "  grpo:\n    uses: grpo\n    data: {format: jsonl, path: rows.jsonl}\n"
    text += "    with: {num_generations: 4, max_completion_length: 8}\n"
    text = text.replace("100", "300")
    assert found(job_file(text)) == []
    assert opened == [tmp_path / "1.png"]
    Image.new("1", (512, 512)).save(tmp_path / "1.png")
    assert found(job_file(text.replace("64]", "256]").replace("300", "400"))) != []
    assert opened == [tmp_path / "1.png"] * 2


def test_a_file_that_stages_and_their_evaluation_share_is_told_of_once(
    job_file: Write, rows: Callable[..., None], tmp_path: Path
) -> None:
    rows({"image": "1.png", "question": "Where?"})
    text = JOB + "evaluation: {data: {format: jsonl, path: rows.jsonl}}\n"
    (one, other) = found(job_file(text.replace("sft:", "one:") + ""))
    assert {one.message, other.message} == {
        'the row lacks "answer"; it has image, question',
        'the row lacks "answer", which its answer is judged by',
    }
    assert f"{tmp_path / 'job.yaml'}:8" in one.hint + other.hint


def test_pictures_that_auto_chooses_are_judged_by_what_it_may_choose(
    job_file: Write, rows: Callable[..., None], qvl_run: Command, tmp_path: Path
) -> None:
    Image.new("1", (1024, 1024)).save(tmp_path / "1.png")
    rows({**ROW, "image": ["1.png", "1.png"]})
    text = JOB.replace("100", "2048").replace("[1, 64]", "auto")
    for tier in ("", "hardware: {tier: l4}\n"):
        done = qvl_run("validate", job_file(text + tier))
        assert done.returncode == 2
        assert "its 2 pictures leave no room for its text in a max_seq_length" in done.stderr
        assert "for the 2048 tokens of this row's pictures" in done.stderr
        assert "1 error; nothing was run" in done.stderr
    done = qvl_run("plan", job_file(text), "--assume", "l4")
    assert "its 2 pictures leave no room" in done.stderr
    assert qvl_run("validate", job_file(text.replace("2048", "4096"))).returncode == 0
