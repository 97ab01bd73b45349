"""What every input must do: raw bytes as a job file end in a `Job` or in diagnostics, soon and in little memory."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from qvl_run.spec.diagnostic import JobError
from qvl_run.spec.load import load_job
from qvl_run.spec.render import as_github, as_json, render

SECONDS = 2.0
"""Of this process's own time, which other load on the machine does not lengthen."""
CORPUS = Path(__file__).parents[1] / "specs"
_FILE = Path(tempfile.mkdtemp(prefix="qvl-fuzz-")) / "job.yaml"


def check(raw: bytes) -> bool:
    """Whether `raw` is a right job. Raises AssertionError where it takes too long; anything else that is raised is
    what the fuzzer looks for."""
    _FILE.write_bytes(raw)
    began = time.process_time()
    try:
        load_job(_FILE)
        right = True
    except JobError as error:
        right = False
        found = error.diagnostics
        # Rendering must not fail either, whatever the bytes.
        render(found)
        as_json(found)
        as_github(found)
        if not found or any(d.span and min(d.span.line, d.span.column) < 1 for d in found):
            raise AssertionError(found) from error
    taken = time.process_time() - began
    assert taken < SECONDS, f"{taken:.2f} s for {len(raw)} bytes"
    return right
