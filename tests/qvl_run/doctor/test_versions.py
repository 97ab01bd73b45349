from collections.abc import Mapping

import pytest

from qvl_run.doctor.versions import requirements, version_findings
from qvl_run.spec.diagnostic import Diagnostic

# What Colab's GPU machines have preinstalled, and what a T4 job adds.
COLAB = {
    "torch": "2.11.0+cu128", "torchvision": "0.26.0+cu128", "transformers": "5.15.0", "trl": "1.16.0", "peft": "0.20.0",
    "accelerate": "1.14.0", "datasets": "4.8.0", "bitsandbytes": "0.48.1", "huggingface_hub": "1.27.0",
}  # fmt: skip
ASKS = {
    "qvl-run": [
        "click>=8.1", 'torch>=2.10; extra == "train"', 'trl<1.17,>=1.16; extra == "train"',
        'bitsandbytes>=0.48; extra == "gpu"', 'datasets>=99; extra == "test"', "not a requirement ((",
    ],
    "torchvision": ["torch==2.11.0"],
    "transformers": ["huggingface-hub<2.0,>=1.5.0", 'torch>=2.4; extra == "torch"', 'peft>99; python_version < "3"'],
}  # fmt: skip


def found(changes: Mapping[str, str | None] = {}) -> list[Diagnostic]:
    merged = {**COLAB, **changes}
    installed = {name: version for name, version in merged.items() if version is not None}
    return list(version_findings(installed, asks=lambda name: ASKS.get(name, [])))


def test_what_colab_has_is_in_order() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"torch": "2.9.1", "torchvision": "0.24.1"}, "QVL418", "10 to 20 times slower"),
        ({"torchvision": None}, "QVL419", "not installed"),
        ({"torch": "2.13.0"}, "QVL420", "0.26.0+cu128 was not built for torch 2.13.0"),
        ({"torchvision": "0.25.0"}, "QVL420", "0.25.0 was not built for torch 2.11.0+cu128"),
        ({"trl": "1.17.0"}, "QVL421", "trl 1.17.0 is outside of <1.17,>=1.16"),
        ({"bitsandbytes": "0.45.0"}, "QVL421", "bitsandbytes 0.45.0"),
        (
            {"huggingface_hub": "0.36.0"},
            "QVL422",
            "transformers 5.15.0 needs huggingface_hub<2.0,>=1.5.0; 0.36.0 is installed",
        ),
    ],
)
def test_each_trap_is_told_with_what_to_do(
    changes: dict[str, str | None], code: str, words: str
) -> None:
    one = next(d for d in found(changes) if d.code == code)
    assert words in one.message
    assert one.hint
    assert one.severity == "warning"


def test_a_torchvision_for_another_torch_is_told_once() -> None:
    (one,) = found({"torchvision": "0.25.0"})
    assert "torchvision==0.26.*" in one.hint


def test_a_version_that_is_none_says_nothing() -> None:
    assert found({"torch": "git-abc", "trl": "unknown"}) == []


def test_before_anything_is_installed_nothing_is_said() -> None:
    assert list(version_findings({}, asks=lambda name: ASKS.get(name, []))) == []


def test_the_bounds_are_those_of_the_installed_distribution() -> None:
    assert any(text.startswith("trl") and "train" in text for text in requirements("qvl-run"))
    assert requirements("no-such-distribution") == []
    assert "QVL421" in {d.code for d in version_findings({"trl": "0.1"})}
