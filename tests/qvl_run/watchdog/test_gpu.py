from types import SimpleNamespace

import pytest

from qvl_run.watchdog.gpu import Gpu


class Nvml:
    """A driver with two GPUs, the second of which computes."""

    def __init__(self) -> None:
        self.opened = 0
        self.broken = False

    def nvmlInit(self) -> None:  # noqa: N802
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.opened -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        return {"GPU-b": 1}[uuid]

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:  # noqa: N802
        if self.broken:
            raise RuntimeError("GPU is lost")
        return SimpleNamespace(gpu=40 * handle)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=1000 * handle)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=17)] * handle


@pytest.mark.parametrize(
    ("visible", "use", "memory", "pids"),
    [
        (None, 0.0, 0, []),
        ("0,1", 0.0, 0, []),
        ("1,0", 0.4, 1000, [17]),
        ("GPU-b", 0.4, 1000, [17]),
        ("GPU-none", None, None, None),
        ("", None, None, None),
        ("-1", None, None, None),
    ],
)
def test_the_first_that_is_visible_is_asked(
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    use: float | None,
    memory: int | None,
    pids: list[int] | None,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvml = Nvml()
    gpu = Gpu(nvml)
    assert (gpu.use(), gpu.memory_used(), gpu.processes()) == (use, memory, pids)
    assert nvml.opened == (0 if use is None else 1)


def test_a_gpu_that_is_lost_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    nvml = Nvml()
    gpu = Gpu(nvml)
    assert gpu.use() == 0.4
    nvml.broken = True
    assert gpu.use() is None
    assert nvml.opened == 0
    nvml.broken = False
    assert (gpu.use(), nvml.opened) == (0.4, 1)


def test_without_a_driver_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    import pynvml

    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu = Gpu()
    assert (gpu.use(), gpu.memory_used(), gpu.processes()) == (None, None, None)
