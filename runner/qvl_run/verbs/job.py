"""What `run` and `plan` share: the job that the command line names, with its changes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qvl_run import resources
from qvl_run.plan.make import Choices
from qvl_run.spec.compose import Overlays
from qvl_run.spec.diagnostic import Diagnostic, JobError, did_you_mean
from qvl_run.spec.job import Job
from qvl_run.spec.load import load_job
from qvl_run.spec.render import render


def find_job(text: str) -> Path:
    """The file that `text` names: a path, else a shipped job (`jobs/cpu_quickstart.yaml` or `cpu_quickstart`)."""
    path = Path(text)
    if path.exists():
        return path
    shipped = resources.shipped_jobs()
    if (
        path.parent in (Path(), Path("jobs"))
        and path.stem in shipped
        and path.suffix in ("", ".yaml")
    ):
        return shipped[path.stem]
    return path


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `run` and `plan` are given besides the job, as the command line gives it."""

    profiles: Sequence[str] = ()
    settings: Sequence[str] = ()
    stage: str | None = None
    resume_from: str | None = None
    init_from: str | None = None
    from_scratch: bool = False


def chosen(text: str, options: Options) -> tuple[Job, Choices]:
    """The job, and what the options change. Raises JobError."""
    stage, resume_from, init_from = options.stage, options.resume_from, options.init_from
    from_scratch = options.from_scratch
    overlays = Overlays(profiles=options.profiles, settings=options.settings)
    job = load_job(find_job(text), overlays=overlays)
    names = [s.name for s in job.stages]
    if stage is not None and stage not in names:
        raise _wrong(f'--stage: the job has no stage "{stage}"', did_you_mean(stage, names))
    for option, value in (("--resume-from", resume_from), ("--init-from", init_from)):
        if value and stage is None and len(names) > 1:
            raise _wrong(
                f"{option} needs --stage: the job has {len(names)}", f"stages: {', '.join(names)}"
            )
    only = stage or (names[0] if len(names) == 1 else None)
    if from_scratch and resume_from:
        raise _wrong("--from-scratch and --resume-from contradict each other")
    if init_from:
        start = Path(init_from).expanduser().absolute()
        stages = tuple(
            replace(s, upstream=None, init_from=start) if s.name == only else s for s in job.stages
        )
        job = replace(job, stages=stages)
    choices = Choices(
        only=only,
        resume_from=Path(resume_from).expanduser().absolute() if resume_from else None,
        from_scratch=from_scratch,
    )
    return job, choices


def warn(job: Job) -> None:
    """Print the job's warnings."""
    if job.warnings:
        print(render(job.warnings), end="\n\n", file=sys.stderr)


def _wrong(message: str, hint: str = "") -> JobError:
    return JobError([Diagnostic(code="QVL010", message=message, hint=hint)])
