import threading

import pynvml
import pytest

from qvl_run.hardware import Driver
from qvl_run.hardware.driver import look
from tests.qvl_run.hardware.nvml import GIB, Card, Nvml

MIB = 1024**2
HALF = {"PYTORCH_ALLOC_CONF": "per_process_memory_fraction:0.5"}
T4, L4 = Card(), Card(name="NVIDIA L4", uuid="GPU-2", total=22 * GIB, capability=(8, 9))


def test_the_gpu_its_memory_and_its_driver_are_told() -> None:
    nvml = Nvml([T4])
    seen = look(nvml, environ={})
    assert seen.gpu is not None
    assert (seen.gpu.name, seen.gpu.dotted, seen.gpus) == ("Tesla T4", "7.5", 1)
    assert (seen.gpu.vram, seen.gpu.free, seen.gpu.cap) == (15 * GIB, 14 * GIB, None)
    assert seen.driver == Driver(version="550.54.15", cuda=(12, 4))
    assert nvml.shut == 1


def test_what_the_driver_holds_for_itself_is_no_memory_of_a_process() -> None:
    mine = Card(total=15360 * MIB, reserved=266 * MIB, used=0)
    for old, vram in ((False, 15360 - 266), (True, 15360)):
        seen = look(Nvml([mine], old=old), environ=HALF)
        assert seen.gpu is not None
        assert (seen.gpu.vram, seen.gpu.free) == (vram * MIB, (15360 - 266) * MIB)
        assert seen.gpu.cap == vram * MIB // 2, "a share of what PyTorch takes for the whole"


@pytest.mark.parametrize(
    ("visible", "name", "count"),
    [
        (None, "Tesla T4", 2),
        ("1", "NVIDIA L4", 1),
        ("1,0", "NVIDIA L4", 2),
        ("0,-1,1", "Tesla T4", 1),
        ("GPU-2", "NVIDIA L4", 1),
        ("", None, 0),
        ("-1", None, 0),
        ("7", None, 0),
        ("GPU-9", None, 0),
    ],
)
def test_what_cuda_shows_is_what_is_found(
    visible: str | None, name: str | None, count: int
) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    seen = look(Nvml([T4, L4]), environ=environ)
    assert (seen.gpu.name if seen.gpu else None, seen.gpus) == (name, count)
    assert seen.driver is not None
    assert seen.driver.problem == ""


@pytest.mark.parametrize("visible", [None, "MIG-2"])
def test_of_a_gpu_that_is_cut_up_the_slice_counts(visible: str | None) -> None:
    parts = (
        Card(name="A100 MIG 1g.5gb", uuid="MIG-1", total=5 * GIB, used=0),
        Card(name="A100 MIG 2g.10gb", uuid="MIG-2", total=10 * GIB, used=0),
    )
    whole = Card(name="A100", total=40 * GIB, capability=(8, 0), slices=parts)
    seen = look(Nvml([whole]), environ={"CUDA_VISIBLE_DEVICES": visible} if visible else {})
    assert seen.gpu is not None
    assert (seen.gpu.name, seen.gpu.vram) == (
        ("A100 MIG 2g.10gb", 10 * GIB) if visible else ("A100 MIG 1g.5gb", 5 * GIB)
    )
    assert seen.gpu.capability == (8, 0)


@pytest.mark.parametrize(
    ("environ", "share"),
    [
        ({"PYTORCH_ALLOC_CONF": "per_process_memory_fraction:0.5"}, 0.5),
        ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True, per_process_memory_fraction:0.5"}, 0.5),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, None),
        ({"PYTORCH_ALLOC_CONF": "per_process_memory_fraction:1.0"}, None),
        ({"PYTORCH_ALLOC_CONF": "per_process_memory_fraction:0.5.1"}, None),
    ],
)  # fmt: skip
def test_what_pytorch_is_told_to_keep_to_is_a_cap(
    environ: dict[str, str], share: float | None
) -> None:
    gpu = look(Nvml([T4]), environ=environ).gpu
    assert gpu is not None
    assert gpu.cap == (None if share is None else int(15 * GIB * share))
    assert gpu.usable == int(15 * GIB * (share or 1))


def test_where_no_driver_was_installed_nothing_is_wrong() -> None:
    seen = look(Nvml(init_error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND), environ={})
    assert (seen.gpu, seen.gpus, seen.driver) == (None, 0, None)


def test_a_driver_that_reports_an_error_is_no_missing_gpu() -> None:
    for nvml in (
        Nvml([T4], init_error=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH),
        Nvml([Card(lost=True)]),
    ):
        seen = look(nvml, environ={})
        assert seen.gpu is None
        assert seen.driver is not None
        assert seen.driver.problem


def test_a_driver_that_hangs_does_not_hold_up_who_asks() -> None:
    answer = threading.Event()
    try:
        seen = look(Nvml([T4], hang=answer), environ={}, patience=0.01)
    finally:
        answer.set()
    assert seen.driver is not None
    assert "has not answered" in seen.driver.problem
