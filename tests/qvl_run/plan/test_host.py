"""RAM that a machine has not, and space that its disks have not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from qvl_run.contract import Estimate, Peak
from qvl_run.hardware import GIB, PROFILES, Machine, Space
from qvl_run.plan import disks, host
from qvl_run.plan.fit import fitted
from qvl_run.spec.load import load_job
from tests.qvl_run.plan.fakes import Formula, gpu_with, needing

JOB = """
version: 1
name: demo
model: {name: qvl-tiny}
training: {max_seq_length: 1024%s}
stages:
  sft: {uses: sft, data: {format: spatial_scenes}}
"""
MERGED = """
  merged: {uses: merge}
"""
CPU = replace(PROFILES["cpu"], ram=8 * GIB + host.SYSTEM, assumed=None)
PROCESS = 3
"""GiB of RAM of the faked stages."""


def holding(total: float, *, movable: bool = False) -> Estimate:
    peak = Peak(phase="merging", parts={"weights": round(total * GIB)})
    return Estimate(optimizer_steps=None, vram=peak, ram=PROCESS * GIB, movable=movable)


@pytest.mark.parametrize(
    ("needs", "room", "ram"),
    [
        (holding(6), None, 9),
        (holding(6), 8, PROCESS),
        (holding(9), 8, PROCESS),
        (holding(6, movable=True), 8, PROCESS),
        (holding(9, movable=True), 8, 12),
        (replace(holding(6), evaluation=Peak(phase="e", parts={"x": 7 * GIB})), None, 10),
        (Estimate(optimizer_steps=1, ram=PROCESS * GIB, at_least=2 * GIB), None, 5),
        (Estimate(optimizer_steps=1), None, None),
    ],
)
def test_what_lies_in_ram(needs: Estimate, room: int | None, ram: int | None) -> None:
    found = host.need(needs, None if room is None else room * GIB)
    assert found == (None if ram is None else ram * GIB)


@pytest.mark.parametrize(
    ("weights", "severity"), [(3.0, None), (4.5, "error"), (20.0, "error"), (1.9, "none")]
)
def test_without_a_gpu_all_lies_in_ram(
    job_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    weights: float,
    severity: str | None,
) -> None:
    needing(monkeypatch, Formula(weights=weights))
    job = load_job(job_file(JOB % ""))
    machine = CPU if severity != "none" else replace(CPU, ram=5 * GIB + host.SYSTEM)
    found = list(host.findings(fitted(job, machine), machine))
    if severity is None:
        assert found == []
        return
    (one,) = found
    # What is the process's for the most part is counted with a round figure.
    assert (one.code, one.severity) == ("QVL433", "warning" if severity == "none" else severity)
    assert one.message.startswith(f"sft needs {PROCESS + weights + 1:.1f} GiB of RAM, ")
    fits = "it would fit with max_seq_length: 512"
    assert one.hint.startswith(fits if weights == 4.5 else "take a machine with more RAM")


def test_a_gpu_holds_what_is_trained(
    job_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula(weights=20.0))
    machine = replace(gpu_with(40), ram=CPU.ram)
    assert list(host.findings(fitted(load_job(job_file(JOB % "")), machine), machine)) == []


def test_a_job_that_asks_for_a_gpu_is_not_told_of_ram_too(
    job_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula(weights=20.0))
    job = load_job(job_file(JOB % "" + "hardware: {tier: t4}\n"))
    assert list(host.findings(fitted(job, CPU), CPU)) == []
    assumed = replace(CPU, assumed="cpu")
    (one,) = host.findings(fitted(job, assumed), assumed)
    assert one.message.startswith(
        "sft needs 24.0 GiB of RAM, 9.5 GiB are there, of which the system holds"
    )
    assert one.hint == "with a GPU, 21.0 GiB of it would lie there"


def test_what_the_system_holds_is_not_there(
    job_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    needing(monkeypatch, Formula(weights=3.0))
    job, machine = load_job(job_file(JOB % "")), replace(CPU, ram=8 * GIB)
    (one,) = host.findings(fitted(job, machine), machine)
    assert one.message == (
        "sft needs 7.0 GiB of RAM, 8.0 GiB are there, of which the system holds about 1.5 GiB"
    )


@pytest.mark.parametrize(
    ("model", "machine", "code"),
    [
        ("8B", PROFILES["t4"], "QVL433"),
        ("4B", PROFILES["t4"], None),
        ("8B", PROFILES["l4"], None),
        ("8B", replace(PROFILES["t4"], ram=32 * GIB), None),
        ("4B", PROFILES["cpu"], "QVL433"),
        ("2B", PROFILES["cpu"], None),
    ],
)
def test_a_merge_that_fits_neither_the_gpu_nor_ram_is_refused_before_the_training(
    job_file: Callable[..., Path], model: str, machine: Machine, code: str | None
) -> None:
    text = (JOB % "" + MERGED).replace("qvl-tiny", f"Qwen/Qwen3-VL-{model}-Instruct")
    job = load_job(job_file(text))
    merge = replace(job, stages=tuple(s for s in fitted(job, machine).stages if s.uses == "merge"))
    found = list(host.findings(merge, machine))
    assert [one.code for one in found] == ([code] if code else [])
    for one in found:
        assert one.severity == "error"
        size = {"8B": "19.3", "4B": "11.3"}[model]
        assert f"merged needs {size} GiB of RAM, 12.7 GiB are there" in one.message
        assert "--stage runs the others here" in one.hint


@pytest.mark.parametrize(
    ("storage", "disk", "downloads_last", "told"),
    [
        (None, None, True, []),
        (6.0, 6.0, True, []),
        (5.0, 6.0, True, ["the run will put 5.2 GiB at results (in the end, base models 4.0 GiB of it); 5.0 GiB"]),
        (
            1.0, 2.0, False,
            [
                "the run will put 1.2 GiB at results (in the end); 1.0 GiB",
                "the run will put 5.2 GiB at scratch (at once: downloads 4.0 GiB, checkpoints 1.2 GiB); 2.0 GiB",
            ],
        ),
        (2.0, 1.0, True, [
            "the run will put 5.2 GiB at results",
            "the run will put 1.2 GiB at scratch (at once: checkpoints 1.2 GiB); 1.0 GiB",
        ]),
    ],
)  # fmt: skip
def test_space_that_is_not_there_is_a_warning(
    job_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    storage: float | None,
    disk: float | None,
    downloads_last: bool,
    told: list[str],
) -> None:
    needing(monkeypatch, Formula())
    job, machine = load_job(job_file(JOB % "")), gpu_with(20)
    machine = replace(
        machine,
        storage=None
        if storage is None
        else Space(folder=Path("results"), free=round(storage * GIB)),
        disk=None if disk is None else Space(folder=Path("scratch"), free=round(disk * GIB)),
    )
    found = list(disks.findings(fitted(job, machine), machine, downloads_last=downloads_last))
    assert [(one.code, one.severity) for one in found] == [("QVL434", "warning")] * len(told)
    for one, text in zip(found, told, strict=True):
        assert one.message.startswith(text)


def test_random_weights_take_space_on_the_machines_own_disk(job_file: Callable[..., Path]) -> None:
    text = (JOB % "").replace("qvl-tiny", "random:Qwen/Qwen3-VL-2B-Instruct")
    job = load_job(job_file(text))
    machine = replace(gpu_with(20), disk=Space(folder=Path("scratch"), free=4 * GIB))
    (one,) = disks.findings(fitted(job, machine), machine, downloads_last=True)
    assert "random weights 4.0 GiB" in one.message
