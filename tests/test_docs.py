import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from qvl_run.spec.data_check import check_data
from qvl_run.spec.load import load_job
from tests.qvl_run.checkpoints.test_manifest import checkpoint

DOCS = Path(__file__).parent.parent / "docs"
README = DOCS.parent / "README.md"
YAML = r"[a-z_]+:( |\n)"
HEAD = "version: 1\nname: demo\nmodel: {name: qvl-tiny}\ntraining: {save_steps: 10}\n"
SFT = "stages:\n  sft: {uses: sft, data: {format: spatial_scenes}}\n"


def blocks(start: str) -> list[str]:
    """The indented blocks of the README whose first line that is no comment begins so."""
    found = re.findall(
        r"(?:^    .*\n|^\n(?=    ))+", README.read_text(encoding="utf-8"), re.MULTILINE
    )
    return [
        textwrap.dedent(block)
        for block in found
        if re.match(rf"(\s*#.*\n)*{start}", textwrap.dedent(block).lstrip("\n"))
    ]


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


@pytest.mark.parametrize("block", blocks(YAML))
def test_the_jobs_in_the_readme_are_right(block: str, tmp_path: Path) -> None:
    """With the rows that it shows as their data, each block as a job or within one."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    rows = "\n".join(blocks(r"\{")).splitlines()
    for name in re.findall(r"images/[\w.]+", "".join(rows)):
        Image.new("RGB", (64, 64)).save(tmp_path / "data" / name)
    (tmp_path / "data" / "train.jsonl").write_text(
        "".join(f"{row}\n" for row in rows if "answer" in row) * 200
    )
    if not re.search("^(extends|stages):", block, re.MULTILINE):
        block = SFT + textwrap.indent(block, "  ")
    if "extends:" not in block:
        block = HEAD + block
    (tmp_path / "job.yaml").write_text(block)
    job = load_job(tmp_path / "job.yaml")
    check_data(job)
    assert job.warnings == ()
    local = [s.data for s in job.stages if s.data and s.data.format == "jsonl"]
    assert local or "jsonl" not in block
    assert [data.max_samples for data in local] == [None] * len(local)


def test_the_readme_shows_jobs() -> None:
    assert len(blocks(YAML)) >= 3
