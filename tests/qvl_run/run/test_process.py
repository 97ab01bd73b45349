from pathlib import Path

import pytest

from qvl_run.run.process import environment


@pytest.mark.parametrize(
    ("set_to", "seen"),
    [(None, "0"), ("1", "1"), ("2,0", "2"), ("", ""), ("-1", "-1"), ("GPU-ab,GPU-cd", "GPU-ab")],
)
def test_a_stage_sees_one_gpu(
    monkeypatch: pytest.MonkeyPatch, set_to: str | None, seen: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if set_to is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", set_to)
    assert environment(None)["CUDA_VISIBLE_DEVICES"] == seen


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    monkeypatch.setenv("HF_HOME", "/mine")
    env = environment(Path("/drive"))
    assert "CUDA_DEVICE_ORDER" not in env
    assert "HF_HUB_CACHE" not in env
    monkeypatch.delenv("HF_HOME")
    assert environment(Path("/drive"))["HF_HUB_CACHE"] == "/drive/hf_cache"
