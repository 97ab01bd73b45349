import json
from collections.abc import Callable
from pathlib import Path

from qvl_run.spec import render
from qvl_run.spec.diagnostic import Diagnostic, JobError, Span, did_you_mean
from tests.conftest import Command

WRONG = """version: 1
name: demo
model: {name: qvl-tiny}
training: {epochs: 3}
stages: {a: {uses: cuont, with: {to: 3}}}
"""


def test_text_marks_the_place(job_file: Callable[..., Path]) -> None:
    path = job_file("name: x\nkey: [1, 2]\n")
    text = render.render(
        [Diagnostic(code="QVL101", message="m", span=Span(str(path), 2, 6, 6), hint="h")]
    )
    assert text.splitlines() == [
        "error[QVL101]: m", f" --> {path}:2:6", "2 | key: [1, 2]", "  |      ^^^^^^", "  = h",
    ]  # fmt: skip
    assert "\033[" in render.render([Diagnostic(code="QVL101", message="m")], colour=True)


def test_an_option_is_its_own_place(job_file: Callable[..., Path], qvl_run: Command) -> None:
    path = job_file(WRONG.replace("epochs: 3", "seed: 3").replace("cuont", "count"))
    done = qvl_run("validate", path, "--set", "training.sead=4")
    assert " --> --set training.sead=4\n  = did you mean" in done.stderr
    done = qvl_run("validate", path, "--set", "training.sead=4", "--format", "github")
    assert done.stdout.startswith("::error title=QVL101::unknown key")


def test_json_and_github_say_the_same(job_file: Callable[..., Path], qvl_run: Command) -> None:
    path = job_file(WRONG)
    done = qvl_run("validate", path, "--format", "json")
    assert done.returncode == 2
    findings = json.loads(done.stdout)["findings"]
    assert [(f["code"], f["line"], f["column"], f["hint"]) for f in findings] == [
        ("QVL101", 4, 12, 'did you mean "num_epochs"?'),
        ("QVL204", 5, 20, 'did you mean "count"?'),
    ]
    done = qvl_run("validate", path, "--format", "github")
    assert done.returncode == 2
    first = done.stdout.splitlines()[0]
    assert first.startswith(
        f"::error file={path},line=4,col=12,endColumn=18,title=QVL101::unknown key"
    )
    assert "%0Adid you mean" in first


def test_a_right_job_has_no_findings(job_file: Callable[..., Path], qvl_run: Command) -> None:
    path = job_file(WRONG.replace("epochs: 3", "save_steps: 100").replace("cuont", "count"))
    done = qvl_run("validate", path, "--format", "json")
    assert (done.returncode, [f["severity"] for f in json.loads(done.stdout)["findings"]]) == (
        0,
        ["warning"],
    )
    assert "save_steps 100 saves only at its end" in qvl_run("validate", path).stderr
    done = qvl_run("validate", path, "--format", "github", "--set", "training.save_steps=1")
    assert (done.returncode, done.stdout) == (0, "")


def test_no_colour_where_there_is_no_terminal(
    job_file: Callable[..., Path], qvl_run: Command
) -> None:
    assert "\033[" not in qvl_run("validate", job_file(WRONG)).stderr


def test_findings_are_sorted_and_echoes_cut() -> None:
    def at(line: int, code: str = "QVL101") -> Diagnostic:
        return Diagnostic(code=code, message=f"m{line}", span=Span("f", line, 1))

    error = JobError([at(5), at(2), at(5), at(3, "QVL102"), at(3, "QVL102")])
    assert [d.message for d in error.diagnostics] == ["m2", "m3", "m3", "m5"]


def test_the_nearest_word_or_all() -> None:
    assert did_you_mean("betta", ["beta", "loss_type"]) == 'did you mean "beta"?'
    assert did_you_mean("zzz", ["beta", "alpha"]) == "known: alpha, beta"
    assert did_you_mean("x", []) == ""
