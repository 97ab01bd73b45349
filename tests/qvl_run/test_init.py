import pytest

from qvl_run import hardware
from qvl_run.hardware import GIB, Gpu, Machine
from qvl_run.verbs.init import _tier_here


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
