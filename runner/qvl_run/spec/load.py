"""From a job file to a `Job`, or to every finding at once.

Reads the job file, what it extends, and the plugins' schemas. Nothing is written, and no network is used.
"""

from __future__ import annotations

from pathlib import Path

from qvl_run.spec import schema
from qvl_run.spec.build import build
from qvl_run.spec.compose import Overlays, compose
from qvl_run.spec.diagnostic import JobError
from qvl_run.spec.job import Job
from qvl_run.spec.meaning import meaning_findings
from qvl_run.spec.order import order_findings
from qvl_run.spec.plugin_keys import plugin_findings


def load_job(path: Path, *, overlays: Overlays | None = None) -> Job:
    """The job at `path`. Raises JobError with all findings that the files and the plugins' schemas give.

    Findings that stop nothing are the job's `warnings`.
    """
    document = compose(path, overlays=overlays)
    found = list(schema.findings(document.data, schema.job_schema(), document))
    found += plugin_findings(document)
    if not found:
        found += order_findings(document)
    if found:
        raise JobError(found)
    job = build(document, path)
    found = list(meaning_findings(job))
    if any(finding.severity == "error" for finding in found):
        raise JobError(found)
    return job.with_warnings(found)
