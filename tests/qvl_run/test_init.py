from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_run import hardware
from qvl_run.hardware import GIB, Gpu, Machine
from qvl_run.plan import misfit
from qvl_run.plan.bench import Bench
from qvl_run.plan.fit import fit, fitted
from qvl_run.spec.load import load_job
from qvl_run.verbs.init import job, main, tier_of


@pytest.mark.parametrize(
    ("gpu", "tier"),
    [
        (Gpu(name="Tesla T4", vram=round(14.74 * GIB), capability=(7, 5)), "t4"),
        (Gpu(name="NVIDIA GeForce RTX 4080", vram=16 * GIB, capability=(8, 9)), "t4"),
        (Gpu(name="NVIDIA GeForce RTX 4090", vram=24 * GIB, capability=(8, 9)), "rtx4090"),
        (Gpu(name="NVIDIA GeForce RTX 3060", vram=12 * GIB, capability=(8, 6)), "rtx3060-12gb"),
        (Gpu(name="NVIDIA L4", vram=23 * GIB, capability=(8, 9)), "l4"),
        (Gpu(name="Tesla V100-SXM2-16GB", vram=16 * GIB, capability=(7, 0)), "v100"),
        (Gpu(name="Tesla V100-PCIE-16GB", vram=16 * GIB, capability=(7, 0)), "t4"),
        (Gpu(name="NVIDIA GeForce RTX 4060", vram=8 * GIB, capability=(8, 9)), "rtx3060-12gb"),
    ],
)
def test_a_new_job_is_for_this_card_or_the_largest_of_today_that_is_no_larger(
    gpu: Gpu, tier: str
) -> None:
    assert tier_of(gpu) == tier


RTX_4090 = hardware.PROFILES["rtx4090"].gpu
RTX_4080 = Gpu(name="NVIDIA GeForce RTX 4080", vram=16 * GIB, capability=(8, 9))


@pytest.mark.parametrize(
    ("tier", "gpu", "colab", "written", "places"),
    [
        ("rtx4090", None, False, "rtx4090", False),
        ("RTX4090", None, False, "rtx4090", False),
        ("t4", RTX_4090, False, "t4", True),
        (None, None, False, "t4", True),
        (None, RTX_4090, False, "rtx4090", False),
        (None, RTX_4080, False, "t4", False),
        (None, hardware.PROFILES["t4"].gpu, True, "t4", True),
    ],
)
def test_only_a_job_for_colab_keeps_its_files_where_colab_has_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tier: str | None,
    gpu: Gpu | None,
    colab: bool,
    written: str,
    places: bool,
) -> None:
    here = Machine(gpu=gpu, ram=GIB, cores=2, colab=colab)
    monkeypatch.setattr(hardware, "probe", lambda: here)
    main(tmp_path / "new.yaml", model=None, tier=tier, stages=None, data=None, force=False)
    text = (tmp_path / "new.yaml").read_text()
    assert f"hardware: {{tier: {written}}}" in text
    assert ("/content" in text) == places


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
    text = job("new", model=model, tier="t4", colab=True, stages=stages, data="rows.jsonl")
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
    text = job("new", model=model, tier="t4", colab=True, stages=["sft"], data="rows.jsonl")
    loaded = load_job(job_file(generated(text)))
    assert [d.code for d in misfit.findings(fitted(loaded, t4), t4)] == ["QVL430"]


@pytest.mark.parametrize("tier", ["cpu", "t4"])
def test_a_new_job_says_what_each_choice_is(job_file: Callable[..., Path], tier: str) -> None:
    text = job("new", model="qvl-tiny", tier=tier, colab=True, stages=["sft"], data="rows.jsonl")
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
