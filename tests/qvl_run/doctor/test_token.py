from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_run.doctor.token import has_token, token_missing
from qvl_run.spec.load import load_job

JOB = """
version: 1
name: demo
model: {name: %s}
stages:
  sft: {uses: sft, data: {format: spatial_scenes}}
  dpo: {uses: dpo, data: {format: spatial_scenes}}
"""


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("somebody/some-model", True),
        ("Qwen/Qwen3-VL-2B-Instruct", False),
        ("qvl-tiny", False),
        ("./local/folder", False),
    ],
)
def test_a_token_is_missed_once_where_the_model_may_be_gated(
    job_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    told: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local" / "folder").mkdir(parents=True)
    (tmp_path / "local" / "folder" / "config.json").touch()
    job = load_job(job_file(JOB % model))
    found = list(token_missing(job, {"HF_HOME": str(tmp_path)}))
    assert [d.code for d in found] == ["QVL425"] * told
    if told:
        assert found[0].severity == "warning"
        assert found[0].span is not None
        assert found[0].span.line == 4
    assert list(token_missing(job, {"HF_TOKEN": "x"})) == []


def test_a_token_is_found_where_the_hubs_library_looks(tmp_path: Path) -> None:
    (tmp_path / "huggingface").mkdir()
    for name in ("huggingface/token", "mine"):
        (tmp_path / name).write_text("a secret")
    empty = {"HF_HOME": str(tmp_path / "none")}
    assert not has_token(empty)
    assert not has_token(empty | {"HF_TOKEN": " "})
    assert has_token(empty | {"HF_TOKEN": "x"})
    assert has_token(empty | {"HF_TOKEN_PATH": str(tmp_path / "mine")})
    assert has_token({"HF_HOME": str(tmp_path / "huggingface")})
    assert has_token({"XDG_CACHE_HOME": str(tmp_path)})
