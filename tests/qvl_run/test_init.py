from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_run import hardware
from qvl_run.hardware import GIB, Gpu, Machine
from qvl_run.plan import misfit
from qvl_run.plan.bench import Bench
from qvl_run.plan.fit import fit, fitted
from qvl_run.spec.load import load_job
from qvl_run.verbs.init import _tier_here, job


@pytest.mark.parametrize(
    ("gpu", "tier"),
    [
        (None, "t4"),
        (Gpu(name="Tesla T4", vram=round(14.74 * GIB), capability=(7, 5)), "t4"),
        (Gpu(name="RTX 4080", vram=16 * GIB, capability=(8, 9)), "t4"),
        (Gpu(name="RTX 4090", vram=24 * GIB, capability=(8, 9)), "l4"),
        (Gpu(name="RTX 3060", vram=12 * GIB, capability=(8, 6)), "t4"),
    ],
)
def test_a_new_job_is_for_the_largest_tier_of_today_that_is_no_larger(
    monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None, tier: str
) -> None:
    monkeypatch.setattr(hardware, "probe", lambda: Machine(gpu=gpu, ram=GIB, cores=2))
    assert _tier_here() == tier


@pytest.mark.parametrize(
    ("model", "stages", "held"),
    [
        ("Qwen/Qwen3-VL-2B-Instruct", ["sft", "dpo", "grpo", "merge"], "none"),
        ("Qwen/Qwen3-VL-8B-Instruct", ["sft", "merge"], "nf4"),
    ],
)
def test_a_new_job_is_fitted_to_its_tier(
    job_file: Callable[..., Path], model: str, stages: list[str], held: str
) -> None:
    t4 = hardware.profile("t4")
    text = job("new", model=model, tier="t4", stages=stages, data="rows.jsonl")
    loaded = load_job(job_file(generated(text)))
    fits, bench = fit(loaded, t4), Bench(machine=t4)
    trained = [fits[name].spec for name in stages if name != "merge"]
    assert {spec.model["quantization"] for spec in trained} == {held}
    assert all(bench.peak(spec) is not None and not bench.over(spec) for spec in trained)


def test_a_new_job_of_a_model_that_no_choice_makes_fit_is_refused(
    job_file: Callable[..., Path],
) -> None:
    t4 = hardware.profile("t4")
    model = "Qwen/Qwen3-VL-32B-Instruct"
    text = job("new", model=model, tier="t4", stages=["sft"], data="rows.jsonl")
    loaded = load_job(job_file(generated(text)))
    assert [d.code for d in misfit.findings(fitted(loaded, t4), t4)] == ["QVL430"]


@pytest.mark.parametrize("tier", ["cpu", "t4"])
def test_a_new_job_says_what_each_choice_is(job_file: Callable[..., Path], tier: str) -> None:
    text = job("new", model="qvl-tiny", tier=tier, stages=["sft"], data="rows.jsonl")
    (stage,) = load_job(job_file(generated(text))).stages
    assert stage.training.max_seq_length == 2048
    assert ("model.quantization" in stage.auto) == (tier != "cpu")
    assert ("model.image_tokens" in stage.auto) == (tier != "cpu")
    for key in ("max_seq_length:", "image_tokens:", "quantization:"):
        assert all("#" in line for line in text.splitlines() if key in line)


def generated(text: str) -> str:
    """`text` with rows that need no file."""
    return "\n".join(
        "    data: {format: spatial_scenes}"
        if "rows.jsonl" in line or "format: jsonl" in line
        else line
        for line in text.splitlines()
    )
