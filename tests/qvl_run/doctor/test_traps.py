from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qvl_run.doctor.traps import gpu_traps, kernels_missing
from qvl_run.hardware import PROFILES, Driver, Machine
from qvl_run.plan.needs import wants_gpu
from qvl_run.resources import shipped_jobs
from qvl_run.spec.load import load_job

T4, V100, L4, CPU = (replace(PROFILES[tier], assumed=None) for tier in ("t4", "v100", "l4", "cpu"))
BROKEN = replace(CPU, driver=Driver(problem="Driver/library version mismatch"))
JOB = """
version: 1
name: demo
model: {name: qvl-tiny}
%s
stages:
  sft: {uses: sft, data: {format: spatial_scenes}}
"""


def libraries(machine: Machine, **versions: str) -> Machine:
    return replace(machine, libraries=versions)


@pytest.mark.parametrize(
    ("machine", "codes"),
    [
        (L4, []),
        (libraries(L4, torch="2.11.0+cu128", vllm="0.11.0"), []),
        (T4, ["QVL417"]),
        (libraries(T4, vllm="0.11.0"), ["QVL417", "QVL423"]),
        (libraries(T4, torch="2.11.0+cu128"), ["QVL417"]),
        (replace(L4, gpus=4), ["QVL416"]),
        (libraries(V100, torch="2.11.0+cu128"), ["QVL417", "QVL424"]),
        (libraries(V100, torch="2.11.0"), ["QVL417", "QVL424"]),
        (libraries(V100, torch="2.11.0+cu126"), ["QVL417"]),
        (libraries(V100, torch="2.11.0a0+git1234"), ["QVL417"]),
        (V100, ["QVL417"]),
        (CPU, ["QVL401"]),
        (BROKEN, ["QVL415"]),
    ],
)
def test_the_traps_of_each_machine(machine: Machine, codes: list[str]) -> None:
    found = list(gpu_traps(machine))
    assert [d.code for d in found] == codes
    assert all(d.hint for d in found)
    errors = {d.code for d in found if d.severity == "error"}
    assert errors == set(codes) & {"QVL424", "QVL415"}


def test_of_a_volta_that_is_not_here_it_is_said_that_most_torches_cannot_use_it() -> None:
    (one,) = kernels_missing(PROFILES["v100"])
    assert (one.code, one.severity) == ("QVL424", "warning")
    assert [d for tier in set(PROFILES) - {"v100"} for d in kernels_missing(PROFILES[tier])] == []


def test_without_a_gpu_the_jobs_that_train_there_are_those_that_ask_for_none() -> None:
    (one,) = gpu_traps(CPU)
    asking = {name for name, path in shipped_jobs().items() if wants_gpu(load_job(path))}
    assert asking
    assert set(shipped_jobs()) - asking == {n for n in shipped_jobs() if n in one.message}


def test_a_driver_that_does_not_answer_is_named_with_its_words() -> None:
    (one,) = gpu_traps(BROKEN)
    assert "Driver/library version mismatch" in one.message


@pytest.mark.parametrize(
    ("asked", "severity"),
    [
        ("hardware: {tier: cpu}", "warning"),
        ("", "warning"),
        ("hardware: {tier: t4}", "error"),
        ("hardware: {min_vram: 1GiB}", "error"),
        ("hardware: {min_compute_capability: 7.5}", "error"),
    ],
)
def test_a_gpu_that_does_not_answer_stops_only_a_job_that_needs_one(
    job_file: Callable[..., Path], asked: str, severity: str
) -> None:
    (one,) = gpu_traps(BROKEN, load_job(job_file(JOB % asked)))
    assert (one.code, one.severity) == ("QVL415", severity)


def test_of_a_job_its_own_check_says_that_there_is_no_gpu(job_file: Callable[..., Path]) -> None:
    assert list(gpu_traps(CPU, load_job(job_file(JOB % "")))) == []
