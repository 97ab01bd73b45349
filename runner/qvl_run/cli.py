"""The command `qvl-run`. Each verb has a module; what it needs is imported when it is called."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from qvl_run import __version__, exit_codes, resources
from qvl_run.spec.diagnostic import JobError


class _JobOrVerb(click.Group):
    """A group whose default verb is `run`: `qvl-run job.yaml` is `qvl-run run job.yaml`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        first = args[0]
        if first not in self.commands and _looks_like_a_job(first):
            return "run", self.commands["run"], args
        return super().resolve_command(ctx, args)


def _looks_like_a_job(text: str) -> bool:
    if text.endswith((".yaml", ".yml")) or os.sep in text or Path(text).exists():
        return True
    return text in resources.shipped_jobs()


@click.group(cls=_JobOrVerb, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qvl-run")
def cli() -> None:
    """Post-train Qwen3-VL from one YAML file.

    \b
    qvl-run JOB.yaml            run it; run it again after a disconnect
    qvl-run validate JOB.yaml   check it, here and now
    qvl-run plan JOB.yaml       say what run would do
    """


_JOB = click.argument("job", metavar="JOB", type=click.Path())


@cli.command()
@_JOB
@click.option("--stage", metavar="NAME", help="Run this stage only.")
@click.option(
    "--resume-from",
    metavar="FOLDER",
    help="Go on from this checkpoint. Needs --stage in a job of several.",
)
@click.option(
    "--init-from",
    metavar="FOLDER",
    help="Start the stage from this adapter, model or checkpoint folder.",
)
@click.option(
    "--from-scratch", is_flag=True, help="Leave what is there alone, and start the stages anew."
)
def run(
    job: str, stage: str | None, resume_from: str | None, init_from: str | None, from_scratch: bool
) -> None:
    """Run JOB, or go on with it."""
    from qvl_run.verbs import run as verb

    sys.exit(
        verb.main(
            job,
            stage=stage,
            resume_from=resume_from,
            init_from=init_from,
            from_scratch=from_scratch,
        )
    )


@cli.command()
@_JOB
def validate(job: str) -> None:
    """Check JOB and the local data it names, and write nothing."""
    from qvl_run.verbs import validate as verb

    verb.main(job)


@cli.command()
@_JOB
@click.option(
    "--assume",
    metavar="TIER",
    help="Plan for a machine that is not here: t4, l4, a100-40gb, cpu ...",
)
@click.option("--json", "as_json", is_flag=True, help="The same as data.")
@click.option("--stage", metavar="NAME", help="Plan this stage only.")
@click.option("--resume-from", metavar="FOLDER", help="As for run.")
@click.option("--init-from", metavar="FOLDER", help="As for run.")
@click.option("--from-scratch", is_flag=True, help="As for run.")
def plan(
    job: str,
    assume: str | None,
    as_json: bool,
    stage: str | None,
    resume_from: str | None,
    init_from: str | None,
    from_scratch: bool,
) -> None:
    """Say what `run` would do with JOB, and why."""
    from qvl_run.verbs import plan as verb

    sys.exit(
        verb.main(
            job,
            assume=assume,
            as_json=as_json,
            stage=stage,
            resume_from=resume_from,
            init_from=init_from,
            from_scratch=from_scratch,
        )
    )


@cli.command()
def plugins() -> None:
    """List the installed stages, data formats, rewards and models, with their options."""
    from qvl_run.verbs import plugins as verb

    verb.main()


def main() -> None:
    """The console script. A mistake of the user's is told without a traceback."""
    try:
        cli(prog_name="qvl-run")
    except JobError as error:
        from qvl_run.spec.render import render

        colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
        print(render(error.diagnostics, colour=colour), file=sys.stderr)
        count = len(error.diagnostics)
        print(
            f"\n{count} {'finding' if count == 1 else 'findings'}; nothing was run", file=sys.stderr
        )
        sys.exit(exit_codes.USAGE)
