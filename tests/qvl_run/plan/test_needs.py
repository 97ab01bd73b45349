from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qvl_run import resources
from qvl_run.hardware import GIB, PROFILES, Gpu, Machine, Space
from qvl_run.plan import needs, smaller
from qvl_run.plan.decide import check
from qvl_run.spec.diagnostic import Diagnostic
from qvl_run.spec.load import load_job

JOB = """
version: 1
name: demo
model: {name: qvl-tiny}
hardware: {%s}
stages:
  sft: {uses: sft, data: {format: spatial_scenes}}
"""
HERE = Path("/some/where")


def machine(
    capability: tuple[int, int] | None = (7, 5),
    *,
    vram: float = 14.74,
    cap: float | None = None,
    ram: float = 12.67,
    disk: float | None = 100,
    storage: float | None = 10,
) -> Machine:
    """A measured machine, sizes in GiB."""

    def size(number: float | None) -> int | None:
        return None if number is None else round(number * GIB)

    gpu = None
    if capability:
        gpu = Gpu(name="GPU", vram=round(vram * GIB), capability=capability, cap=size(cap))
    return Machine(
        gpu=gpu,
        ram=round(ram * GIB),
        cores=2,
        disk=Space(folder=HERE, free=size(disk)),
        storage=Space(folder=HERE, free=size(storage)),
    )


@pytest.mark.parametrize(
    ("asked", "there", "code", "words"),
    [
        ("min_vram: 14GiB", machine(None), "QVL401", "14.0 GiB; no GPU was found"),
        ("tier: t4, min_vram: 14GiB", machine(None), "QVL401", "written for a GPU (t4)"),
        ("tier: t4", machine(None), "QVL401", "written for a GPU (t4)"),
        ("min_compute_capability: 8", machine(None), "QVL401", "capability 8.0; no GPU was found"),
        ("min_vram: 24GiB", machine(), "QVL402", "needs 24.0 GiB of GPU memory; GPU has 14.7 GiB"),
        ("min_vram: 15GiB", machine(), "QVL402", "14.7 GiB"),
        ("min_vram: 14GiB", machine(cap=7), "QVL402", "told to keep to 7.0 GiB"),
        ("min_compute_capability: 8.0", machine(), "QVL406", "needs compute capability 8.0; GPU has 7.5"),
        ("min_compute_capability: 12.1", machine((12, 0)), "QVL406", "12.1; GPU has 12.0"),
        ("min_ram: 13GiB", machine(), "QVL407", "13.0 GiB of RAM; this machine has 12.7 GiB"),
        ("min_disk: 101GiB", machine(), "QVL412", "100.0 GiB are free on the disk of /some/where"),
        ("min_drive_space: 11GiB", machine(), "QVL413", "10.0 GiB are free at /some/where"),
        ("min_drive_space: 1B", machine(storage=None), "QVL414", "does not say how much is free"),
    ],
)  # fmt: skip
def test_a_need_that_is_not_met_is_told_at_its_line(
    job_file: Callable[..., Path], asked: str, there: Machine, code: str, words: str
) -> None:
    (found,) = needs.unmet(load_job(job_file(JOB % asked)), there)
    assert (found.code, found.severity) == (code, "warning" if code == "QVL414" else "error")
    assert words in found.message
    assert found.hint
    assert found.span is not None
    assert found.span.line == 5


@pytest.mark.parametrize(
    "asked",
    [
        "tier: t4, min_vram: 14GiB, min_compute_capability: 7.5, min_ram: 12.6GiB, min_disk: 100GiB",
        "min_compute_capability: 7.5",
        'min_compute_capability: "7.5"',
        "min_compute_capability: 7",
        "min_drive_space: 10GiB",
    ],
)
def test_a_need_that_is_just_met_is_met(job_file: Callable[..., Path], asked: str) -> None:
    assert list(needs.unmet(load_job(job_file(JOB % asked)), machine())) == []


def test_capabilities_are_compared_as_numbers_not_as_text(job_file: Callable[..., Path]) -> None:
    job = load_job(job_file(JOB % "min_compute_capability: 9.0"))
    assert list(needs.unmet(job, machine((12, 0)))) == []
    assert [d.code for d in needs.unmet(job, machine((8, 9)))] == ["QVL406"]


def test_of_a_profile_disk_and_drive_are_left_out(job_file: Callable[..., Path]) -> None:
    asked = "min_disk: 900TB, min_drive_space: 900TB, min_ram: 13GiB"
    (found,) = needs.unmet(load_job(job_file(JOB % asked)), PROFILES["t4"])
    assert found.code == "QVL407"
    assert "a t4 machine of Colab has 12.7 GiB" in found.message


def shipped(name: str, there: Machine) -> tuple[Diagnostic, ...]:
    job = load_job(resources.shipped_jobs()[name])
    return smaller.advised(check(job, there), job, there)


@pytest.mark.parametrize(
    ("name", "there", "wanted"),
    [
        ("a100_full_pipeline", PROFILES["t4"], "t4_full_pipeline"),
        ("a100_full_pipeline", PROFILES["cpu"], "cpu_quickstart"),
        ("t4_full_pipeline_4b", machine((8, 6), vram=8), "cpu_quickstart"),
        ("t4_full_pipeline", machine(None), "cpu_quickstart"),
    ],
)
def test_the_nearest_shipped_job_that_would_run_is_named(
    name: str, there: Machine, wanted: str
) -> None:
    found = shipped(name, there)
    assert found
    for one in found:
        assert one.hint.endswith(f"qvl-run {wanted}")


def test_a_job_of_ones_own_is_led_to_one_with_the_same_model(job_file: Callable[..., Path]) -> None:
    text = """
    extends: t4_full_pipeline_4b
    name: mine
    hardware: {tier: l4, min_vram: 20GiB}
    """
    job = load_job(job_file(text))
    assert smaller.fitting(job, PROFILES["t4"]) == "t4_full_pipeline_4b"


def test_no_other_job_is_named_where_none_would_run(monkeypatch: pytest.MonkeyPatch) -> None:
    only = {"a100_full_pipeline": resources.shipped_jobs()["a100_full_pipeline"]}
    monkeypatch.setattr(resources, "shipped_jobs", lambda: only)
    found = shipped("a100_full_pipeline", PROFILES["t4"])
    assert [d.code for d in found] == ["QVL402"]
    assert "qvl-run " not in found[0].hint


def test_where_every_need_is_met_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    there = replace(PROFILES["t4"], assumed=None)
    monkeypatch.setattr(smaller, "fitting", lambda *_: pytest.fail("looked for another job"))
    assert shipped("t4_full_pipeline", there) == ()
