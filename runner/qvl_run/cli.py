"""The command `qvl-run`. Each verb has a module; what it needs is imported when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from qvl_run import __version__, exit_codes, resources
from qvl_run.spec.diagnostic import JobError, did_you_mean


class _JobOrVerb(click.Group):
    """A group whose default verb is `run`: `qvl-run job.yaml` is `qvl-run run job.yaml`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        first = args[0]
        if first not in self.commands and _looks_like_a_job(first):
            return "run", self.commands["run"], args
        if first not in self.commands and not first.startswith("-"):
            known = [*self.commands, *resources.shipped_jobs()]
            hint = did_you_mean(first, known)
            raise click.UsageError(
                f'there is no command, no file and no job "{first}": {hint}', ctx
            )
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


Verb = Callable[..., None]


def _complete_job(ctx: click.Context, param: click.Parameter, text: str) -> list[str]:  # noqa: ARG001
    here = [str(path) for pattern in ("*.yaml", "*/*.yaml") for path in Path().glob(pattern)]
    return [name for name in sorted({*here, *resources.shipped_jobs()}) if name.startswith(text)]


_JOB = click.argument("job", metavar="JOB", type=click.Path(), shell_complete=_complete_job)


def _overlays(verb: Verb) -> Verb:
    """The options that lay something over the job file."""
    for option in (
        click.option(
            "--set",
            "settings",
            metavar="KEY=VALUE",
            multiple=True,
            help="Lay one value over the job's.",
        ),
        click.option(
            "--profile",
            "profiles",
            metavar="NAME",
            multiple=True,
            help="Lay this profile of the job over it.",
        ),
    ):
        verb = option(verb)
    return verb


def _choices(verb: Verb) -> Verb:
    """The options that choose what is run, and from where."""
    for option in (
        click.option(
            "--from-scratch", is_flag=True, help="Keep what is there, and start the stages anew."
        ),
        click.option(
            "--init-from",
            metavar="FOLDER",
            help="Start the stage from this adapter, model or checkpoint folder.",
        ),
        click.option("--resume-from", metavar="FOLDER", help="Go on from this very checkpoint."),
        click.option("--stage", metavar="NAME", help="This stage only."),
    ):
        verb = option(verb)
    return verb


@cli.command()
@_JOB
@_overlays
@_choices
@click.option(
    "--plan", "saved", metavar="FILE", help="Refuse to run if this saved plan no longer holds."
)
@click.option("--take-over", is_flag=True, help="Do not wait for another runner that may be gone.")
@click.option(
    "--wait-for-drive", is_flag=True, help="At the end, wait until all has reached storage."
)
def run(job: str, **options: Any) -> None:
    """Run JOB, or go on with it."""
    from qvl_run.verbs import run as verb

    sys.exit(verb.main(job, **options))


@cli.command()
@_JOB
@_overlays
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "github"]),
    default="text",
    show_default=True,
    help="How findings are written.",
)
def validate(job: str, **options: Any) -> None:
    """Check JOB and the local data it names, and write nothing."""
    from qvl_run.verbs import validate as verb

    sys.exit(verb.main(job, **options))


@cli.command()
@_JOB
@_overlays
@_choices
@click.option(
    "--assume",
    metavar="TIER",
    help="Plan for a machine that is not here: t4, l4, a100-40gb, rtx4090, cpu ... Without it, plan is for this one.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as data.")
@click.option("--show-origin", is_flag=True, help="Every value of the job, and where it was set.")
def plan(job: str, **options: Any) -> None:
    """Say what `run` would do with JOB, and why."""
    from qvl_run.verbs import plan as verb

    sys.exit(verb.main(job, **options))


@cli.command()
@click.argument(
    "job", metavar="[JOB]", required=False, type=click.Path(), shell_complete=_complete_job
)
@_overlays
@click.option("--json", "as_json", is_flag=True, help="The same as data.")
def doctor(job: str | None, **options: Any) -> None:
    """Say what this machine is, what that means for training, and what is wrong with it, or with it for JOB."""
    from qvl_run.verbs import doctor as verb

    if job is None and (options["settings"] or options["profiles"]):
        raise click.UsageError("--set and --profile change a JOB: name one")
    sys.exit(verb.main(job, **options))


@cli.command()
@_JOB
@_overlays
@click.option("--stage", metavar="NAME", help="This stage only.")
@click.option("--verify", is_flag=True, help="Read and hash every file.")
@click.option("--prune", is_flag=True, help="Delete what the rules allow, after showing it.")
@click.option("--yes", is_flag=True, help="With --prune: do not ask.")
@click.option(
    "--adopt",
    "adopting",
    is_flag=True,
    help="Take in checkpoints that other scripts left in the job's folders.",
)
def checkpoints(job: str, **options: Any) -> None:
    """List the checkpoints of JOB: where, which step, how large, how safe."""
    from qvl_run.verbs import checkpoints as verb

    sys.exit(verb.main(job, **options))


@cli.command()
@_JOB
@_overlays
@click.option("--json", "as_json", is_flag=True, help="The same as data.")
def status(job: str, **options: Any) -> None:
    """Say what the run of JOB is doing, or why it stopped and what the next start would do."""
    from qvl_run.verbs import status as verb

    sys.exit(verb.main(job, **options))


@cli.command()
@_JOB
@_overlays
@click.option("--json", "as_json", is_flag=True, help="The same as data.")
def report(job: str, **options: Any) -> None:
    """Say what the finished stages of JOB came to, and what they took, predicted beside measured."""
    from qvl_run.verbs import report as verb

    sys.exit(verb.main(job, **options))


@cli.command()
@_JOB
@_overlays
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="The last N events alone.")
def events(job: str, **options: Any) -> None:
    """Print the story of JOB: every attempt, failure, restart and checkpoint."""
    from qvl_run.verbs import events as verb

    sys.exit(verb.main(job, **options))


@cli.command()
@_JOB
@_overlays
@click.option("--after-save", is_flag=True, help="Do not save now: stop after the next save.")
@click.option("--save", is_flag=True, help="Save now, and do not stop.")
def stop(job: str, **options: Any) -> None:
    """Ask the run of JOB to save and stop; the same command as ever goes on with it."""
    from qvl_run.verbs import stop as verb

    if options["after_save"] and options["save"]:
        raise click.UsageError("--after-save and --save contradict each other")
    sys.exit(verb.main(job, **options))


@cli.group(invoke_without_command=True)
@click.pass_context
def jobs(ctx: click.Context) -> None:
    """List the jobs that ship with qvl-run, or copy one."""
    if ctx.invoked_subcommand is None:
        from qvl_run.verbs import jobs as verb

        verb.main()


@jobs.command()
@click.argument("name", shell_complete=_complete_job)
@click.argument("path", required=False, type=click.Path(path_type=Path))
def copy(name: str, path: Path | None) -> None:
    """Copy the shipped job NAME to PATH, or to the current folder."""
    from qvl_run.verbs import jobs as verb

    verb.copy(name, path)


@cli.command()
@click.argument("path", required=False, type=click.Path(path_type=Path), default=Path("job.yaml"))
@click.option("--model", metavar="NAME", help="Base model.")
@click.option("--tier", metavar="TIER", help="The machine it is for.")
@click.option("--stages", metavar="LIST", help="Stages in their order, such as sft,dpo.")
@click.option("--data", metavar="FILE", help="JSONL file of the first stage.")
@click.option("--force", is_flag=True, help="Replace PATH where it is there already.")
def init(path: Path, **options: Any) -> None:
    """Write a commented job to PATH (job.yaml) from a few answers, asked on a terminal or given as options."""
    from qvl_run.verbs import init as verb

    verb.main(path, **options)


@cli.command()
@click.argument("code")
def explain(code: str) -> None:
    """Say at length what the diagnostic CODE means."""
    from qvl_run.verbs import explain as verb

    verb.main(code)


@cli.command()
def schema() -> None:
    """Print one JSON Schema of the job file and all installed plugins, for editors."""
    from qvl_run.verbs import schema as verb

    verb.main()


@cli.command()
def plugins() -> None:
    """List the installed stages, data formats, rewards and models, with their options."""
    from qvl_run.verbs import plugins as verb

    verb.main()


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL: eval "$(qvl-run completion bash)"."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "qvl-run", "_QVL_RUN_COMPLETE").source())


def main() -> None:
    """The console script. A mistake of the user's is told without a traceback."""
    try:
        cli(prog_name="qvl-run", complete_var="_QVL_RUN_COMPLETE")
    except JobError as error:
        from qvl_run.spec.render import render

        print(render(error.diagnostics, colour=wants_colour()), file=sys.stderr)
        count = sum(d.severity == "error" for d in error.diagnostics)
        print(f"\n{count} {'error' if count == 1 else 'errors'}; nothing was run", file=sys.stderr)
        sys.exit(exit_codes.USAGE)
    except BrokenPipeError:
        # The reader of our output has gone (`qvl-run plan JOB | head`): that is no failure of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(exit_codes.FAILED)
    except OSError as error:
        print(f"a file or folder cannot be used: {error}; nothing was decided", file=sys.stderr)
        sys.exit(exit_codes.STOPPED)


def wants_colour() -> bool:
    """On a terminal, unless NO_COLOR (no-color.org) is set."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")
