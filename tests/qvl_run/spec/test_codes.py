"""Each diagnostic code: explained, and reached by the code that tests run."""

import re
from pathlib import Path

from qvl_run.spec.codes import CODES
from tests.conftest import Command

ROOT = Path(__file__).parents[3]
CODE = re.compile(r"QVL[0-9]{3}")


def codes_in(*folders: str, pattern: str = "*.py") -> set[str]:
    found: set[str] = set()
    for folder in folders:
        for path in (ROOT / folder).rglob(pattern):
            if path.name != "codes.py":
                found |= set(CODE.findall(path.read_text(encoding="utf-8")))
    return found


def test_every_code_that_is_used_is_explained_and_none_is_left_over() -> None:
    assert codes_in("runner") == set(CODES)


def test_every_code_is_reached_by_a_test() -> None:
    reached = codes_in("tests") | codes_in("tests/specs", pattern="*.txt")
    assert set(CODES) - reached == set()


def test_explain(qvl_run: Command) -> None:
    done = qvl_run("explain", "qvl101")
    assert done.returncode == 0
    assert done.stdout.startswith("QVL101: an unknown key")
    assert "wrong: training: {epochs: 3}" in done.stdout
    unknown = qvl_run("explain", "QVL999")
    assert unknown.returncode == 2
    assert 'no diagnostic "QVL999"' in unknown.stderr
