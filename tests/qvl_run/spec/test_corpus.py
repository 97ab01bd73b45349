"""Every file of `tests/specs`: a valid one loads, an invalid one is told in exactly the text that lies beside it."""

from pathlib import Path

import pytest

from qvl_run.spec.diagnostic import JobError
from qvl_run.spec.load import load_job
from qvl_run.spec.render import render

SPECS = Path(__file__).parents[2] / "specs"


@pytest.fixture(autouse=True)
def _among_the_specs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SPECS)


@pytest.mark.parametrize("path", sorted((SPECS / "valid").glob("*.yaml")), ids=lambda p: p.stem)
def test_valid(path: Path) -> None:
    job = load_job(path)
    assert {s.name for s in job.stages} == set(job.document.data["stages"])


@pytest.mark.parametrize("path", sorted((SPECS / "invalid").glob("*.yaml")), ids=lambda p: p.stem)
def test_invalid(path: Path) -> None:
    with pytest.raises(JobError) as error:
        load_job(path.relative_to(SPECS))
    text = render(error.value.diagnostics).replace(str(SPECS), "SPECS") + "\n"
    assert text == path.with_suffix(".txt").read_text()


def test_every_invalid_file_has_its_text_and_every_text_its_file() -> None:
    stems = {
        suffix: {p.stem for p in (SPECS / "invalid").glob(f"*.{suffix}")}
        for suffix in ("yaml", "txt")
    }
    assert stems["yaml"] == stems["txt"]
