"""What the machine is, without importing torch: `probe` looks at this one and is impure; `profile` gives the facts of a
machine that is not here, for `plan --assume`."""

from qvl_run.hardware.facts import GIB, Driver, Gpu, Machine, Space
from qvl_run.hardware.host import on_colab, probe
from qvl_run.hardware.profiles import GONE, PROFILES, meant, named, profile

__all__ = [
    "GIB",
    "GONE",
    "PROFILES",
    "Driver",
    "Gpu",
    "Machine",
    "Space",
    "meant",
    "named",
    "on_colab",
    "probe",
    "profile",
]
