import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from qvl_run.hardware import GIB, PROFILES, Gpu, Machine
from qvl_run.plan import decide
from qvl_run.resources import shipped_jobs
from qvl_run.spec.load import load_job

JOB = """
version: 1
name: demo
model: {name: qvl-tiny%s}
%s
stages:
  sft: {uses: sft, data: {format: spatial_scenes}%s}
"""
BOUND = ", training: {max_seq_length: 512}"


def machine(capability: tuple[int, int] | None, vram: float = 16) -> Machine:
    gpu = Gpu(name="GPU", vram=round(vram * GIB), capability=capability) if capability else None
    return Machine(gpu=gpu, ram=GIB, cores=2)


@pytest.mark.parametrize(
    ("tier", "wanted"),
    [
        ("cpu", "fp32"),
        ("t4", "fp16"),
        ("v100", "fp16"),
        ("l4", "bf16"),
        ("a100-40gb", "bf16"),
        ("h100", "bf16"),
    ],
)
def test_precision_follows_the_compute_capability(tier: str, wanted: str) -> None:
    assert decide.precision(PROFILES[tier].gpu).value == wanted


@pytest.mark.parametrize("capability", [(6, 1), (7, 0), (7, 5)])
def test_bf16_is_never_chosen_where_it_would_be_emulated(capability: tuple[int, int]) -> None:
    assert decide.precision(machine(capability).gpu).value == "fp16"


def test_a_t4_gets_no_bf16_though_torch_says_that_it_has_it(
    job_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = SimpleNamespace(cuda=SimpleNamespace(is_bf16_supported=lambda *_, **__: True))
    monkeypatch.setitem(sys.modules, "torch", torch)
    t4 = PROFILES["t4"]
    auto = load_job(job_file(JOB % ("", "", "")))
    (spec,) = auto.stages
    assert decide.resolve(spec, t4, wandb=False).model.precision == "fp16"
    explicit = load_job(job_file(JOB % (", precision: bf16", "", BOUND)))
    (refused,) = decide.check(explicit, t4)
    assert (refused.code, refused.severity) == ("QVL403", "error")


@pytest.mark.parametrize(
    ("model", "more", "capability", "code"),
    [
        (", precision: bf16", "", (7, 5), "QVL403"),
        (", precision: fp16", "", None, "QVL403"),
        (", quantization: nf4", "", None, "QVL404"),
        ("", "training: {optim: adamw_8bit}", None, "QVL404"),
        (", attention: flash_attention_2", "", (7, 5), "QVL405"),
        (", attention: flash_attention_2", "", None, "QVL405"),
        (", attention: flash_attention_2, precision: fp32", "", (8, 0), "QVL405"),
    ],
)
def test_what_the_machine_cannot_do_is_told_once_with_its_place(
    job_file: Callable[..., Path],
    model: str,
    more: str,
    capability: tuple[int, int] | None,
    code: str,
) -> None:
    job = load_job(job_file(JOB % (model, more, "" if "training" in more else BOUND)))
    found = list(decide.check(job, machine(capability)))
    assert [d.code for d in found] == [code]
    assert found[0].span is not None
    assert found[0].span.line > 3
    assert found[0].hint


@pytest.mark.parametrize("at", ["job", "stage"])
def test_an_optimizer_that_needs_a_gpu_is_told_at_its_own_line(
    job_file: Callable[..., Path], at: str
) -> None:
    optim = "training: {optim: adamw_8bit}"
    text = JOB % ("", optim if at == "job" else "", f",\n    {optim}" if at == "stage" else "")
    job = load_job(job_file(text))
    (found,) = decide.check(job, machine(None))
    assert found.span is not None
    line = job.path.read_text().splitlines()[found.span.line - 1]
    assert line[found.span.column - 1 :].startswith("adamw_8bit")


@pytest.mark.parametrize("tier", ["t4", "l4", "a100-40gb"])
def test_a_job_that_asks_for_what_is_there_is_let_through(
    job_file: Callable[..., Path], tier: str
) -> None:
    job = load_job(
        job_file(JOB % (", quantization: nf4", "hardware: {tier: t4, min_vram: 14GiB}", BOUND))
    )
    assert list(decide.check(job, PROFILES[tier])) == []


@pytest.mark.parametrize("training", ["", "training: {save_steps: 5}"])
def test_rows_that_nothing_bounds_are_told_where_there_is_a_gpu(
    job_file: Callable[..., Path], training: str
) -> None:
    job = load_job(job_file(JOB % ("", training, "")))
    (found,) = decide.check(job, PROFILES["t4"])
    assert (found.code, found.severity) == ("QVL231", "warning")
    assert "rows of sft" in found.message
    assert found.span is not None
    line = job.path.read_text().splitlines()[found.span.line - 1]
    assert line[found.span.column - 1 :].startswith("training" if training else "sft")
    assert list(decide.check(job, PROFILES["cpu"])) == []
    bound = load_job(job_file(JOB % ("", "training: {max_seq_length: 512}", "")))
    assert list(decide.check(bound, PROFILES["t4"])) == []


def test_shipped_jobs_bound_their_rows() -> None:
    for path in shipped_jobs().values():
        job = load_job(path)
        machine = PROFILES[job.hardware.tier or "cpu"]
        assert list(decide.unable(job, machine)) == []
