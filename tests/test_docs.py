import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.qvl_run.checkpoints.test_manifest import checkpoint

DOCS = Path(__file__).parent.parent / "docs"


def generated() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.pages())


@pytest.mark.parametrize(
    "name", ["diagnostics.md", "failures.md", "hardware.md", "job-reference.md"]
)
def test_generated_pages_are_fresh(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == generated()[name], "run `make docs`"


def test_the_check_in_the_page_on_checkpoints_finds_damage(tmp_path: Path) -> None:
    page = (DOCS / "checkpoints.md").read_text(encoding="utf-8")
    code = textwrap.dedent(
        re.search(r"((?:    .+\n)*    import hashlib.+\n(?:    .+\n)+)", page)[1]
    )  # type: ignore[index]
    manifest = checkpoint(tmp_path / "checkpoint-10")
    check = [sys.executable, "-c", code, str(tmp_path / "checkpoint-10")]
    assert subprocess.run(check, check=False).returncode == 0
    (tmp_path / "checkpoint-10" / manifest.files[-1].name).write_bytes(b"other")
    assert subprocess.run(check, check=False, capture_output=True).returncode == 1
