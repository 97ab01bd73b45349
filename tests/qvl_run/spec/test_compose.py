from collections.abc import Callable
from pathlib import Path

import pytest

from qvl_run.plan import origin
from qvl_run.spec.compose import Overlays, compose
from qvl_run.spec.diagnostic import JobError
from qvl_run.spec.load import load_job

BASE = """
version: 1
name: base
model: {name: qvl-tiny, lora: {r: 16}}
training: {learning_rate: 1e-4, save_steps: 5}
stages:
  sft: {uses: sft, data: {format: spatial_scenes, with: {size: 40}}}
  dpo: {uses: dpo, data: {format: spatial_scenes}}
"""
Write = Callable[..., Path]


def failure(path: Path, **overlays: list[str]) -> str:
    with pytest.raises(JobError) as error:
        load_job(path, overlays=Overlays(**overlays))
    return "\n".join(
        f"{d.code} {d.message} {d.hint} {d.span and d.span.line}" for d in error.value.diagnostics
    )


def test_maps_merge_lists_and_values_replace_and_reset_drops(job_file: Write) -> None:
    job_file(BASE + "evaluation: {data: {format: spatial_scenes}}\n", "base.yaml")
    path = job_file(
        """
        extends: base.yaml
        name: mine
        model: {image_tokens: [4, 9]}
        training: {save_steps: !reset, learning_rate: 2e-4}
        evaluation: !reset
        stages: {dpo: !reset}
        """
    )
    data = compose(path).data
    assert data["name"] == "mine"
    assert data["model"] == {"name": "qvl-tiny", "lora": {"r": 16}, "image_tokens": [4, 9]}
    assert data["training"] == {"learning_rate": 2e-4}
    assert list(data["stages"]) == ["sft"]
    assert "evaluation" not in data
    assert "extends" not in data


def test_every_value_keeps_its_origin(job_file: Write) -> None:
    base = job_file(BASE, "base.yaml")
    path = job_file("extends: base.yaml\ntraining:\n  save_steps: 7\n")
    document = compose(path, overlays=Overlays(settings=["training.seed=3"]))
    assert (
        document.span(("training", "save_steps")).file,
        document.span(("training", "save_steps")).line,
    ) == (
        str(path),
        3,
    )
    assert document.span(("training", "learning_rate")).file == str(base)
    assert document.span(("training", "seed")).file == "--set training.seed=3"


def test_of_a_list_the_later_ones_win_and_the_file_itself_wins_over_all(job_file: Write) -> None:
    job_file(BASE, "base.yaml")
    job_file("training: {save_steps: 6, seed: 6}\n", "six.yaml")
    job_file("training: {seed: 7, logging_steps: 7}\n", "seven.yaml")
    path = job_file("extends: [base.yaml, six.yaml, seven.yaml]\ntraining: {logging_steps: 8}\n")
    training = compose(path).data["training"]
    assert training == {"learning_rate": 1e-4, "save_steps": 6, "seed": 7, "logging_steps": 8}


def test_a_shipped_job_can_be_extended_by_its_name(job_file: Write) -> None:
    job = load_job(
        job_file("extends: t4_sft\nname: mine\nstages: {sft: {data: {max_samples: 10}}}\n")
    )
    assert job.stages[0].data is not None
    assert (job.name, job.stages[0].data.max_samples) == ("mine", 10)


def test_a_profile_is_laid_over_the_file_and_set_over_the_profile(job_file: Write) -> None:
    path = job_file(BASE + "profiles:\n  quick: {training: {max_steps: 2, save_steps: 1}}\n")
    assert load_job(path).stages[0].training.max_steps is None
    job = load_job(path, overlays=Overlays(profiles=["quick"], settings=["training.save_steps=2"]))
    assert [(s.training.max_steps, s.training.save_steps) for s in job.stages] == [(2, 2), (2, 2)]


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("training.learning_rate=1e-4", ("training", "learning_rate"), 1e-4),
        ("model.lora=null", ("model", "lora"), None),
        ("model={name: other}", ("model", "name"), "other"),
        ("name='12'", ("name",), "12"),
        ("stages.sft.data.with.size=9", ("stages", "sft", "data", "with", "size"), 9),
        ("model.name=", ("model", "name"), None),
    ],
)
def test_set_reads_values_as_the_file_does(
    job_file: Write, setting: str, path: tuple[str, ...], value: object
) -> None:
    at = compose(job_file(BASE), overlays=Overlays(settings=[setting])).data
    for key in path:
        at = at[key]
    assert at == value


@pytest.mark.parametrize("nothing", ["null", "!reset", "[1]"])
def test_what_one_option_clears_a_later_one_does_not_bring_back(
    nothing: str, job_file: Write
) -> None:
    path = job_file(BASE.replace("r: 16", "r: 16, alpha: 64"))
    settings = [f"model.lora={nothing}", "model.lora.r=8"]
    data = compose(path, overlays=Overlays(settings=settings)).data
    assert data["model"]["lora"] == {"r": 8}


def test_set_can_drop_a_key(job_file: Write) -> None:
    data = compose(job_file(BASE), overlays=Overlays(settings=["stages.dpo=!reset"])).data
    assert list(data["stages"]) == ["sft"]


@pytest.mark.parametrize(
    ("text", "overlays", "words"),
    [
        ("extends: nowhere\n", {}, "QVL022 there is no job nowhere"),
        ("extends: t4_sftt\n", {}, 'did you mean "t4_sft"?'),
        ("extends: {a: 1}\n", {}, "QVL022 extends takes"),
        ("extends: https://example.org/job.yaml\n", {}, "QVL023"),
        ("extends: job.yaml\n", {}, "QVL021 jobs extend each other in a circle"),
        (BASE, {"profiles": ["quick"]}, 'no profile "quick" the job has no profiles'),
        (
            BASE + "profiles: {quick: {}, slow: {}}\n",
            {"profiles": ["quik"]},
            'did you mean "quick"?',
        ),
        (
            BASE + "profiles: {quick: 1}\n",
            {"profiles": ["quick"]},
            "QVL103 profiles.quick must be a map",
        ),
        (BASE, {"settings": ["training"]}, "QVL024"),
        (BASE, {"settings": ["training..seed=1"]}, "QVL024"),
        (BASE, {"settings": ["training.sed=1"]}, 'unknown key "sed"'),
        (BASE, {"settings": ["training.seed=[1"]}, "QVL003"),
        (BASE, {"settings": ["name=${env:QVL_NOT_SET}"]}, "QVL105 name is not in the right form"),
        (BASE, {"settings": ["model.name=${env:QVL_NOT_SET}"]}, "QVL222"),
        (BASE, {"settings": ["storage.drive=s3://bucket/x"]}, "QVL220"),
        (BASE, {"settings": ["storage.drive=../up"]}, "QVL221"),
        (BASE, {"settings": ["storage.bucket=${env:QVL_NOT_SET}"]}, "QVL222"),
        (BASE, {"settings": ["storage.bucket=file://here/x"]}, "names no folder by its whole path"),
        (BASE, {"settings": ["storage.bucket=s3://k:s@b/x"]}, "QVL225"),
        (BASE, {"settings": ["stages.sft.init_from=hf://x/y"]}, "QVL220"),
    ],
)
def test_what_cannot_be_composed_is_told(
    job_file: Write, text: str, overlays: dict[str, list[str]], words: str
) -> None:
    assert words in failure(job_file(text), **overlays)


def test_paths_start_at_the_file_that_says_them(job_file: Write, tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    base = tmp_path / "below" / "base.yaml"
    base.write_text(BASE.replace("spatial_scenes, with: {size: 40}", "jsonl, path: rows.jsonl"))
    (tmp_path / "below" / "rows.jsonl").write_text("{}")
    job = load_job(job_file("extends: below/base.yaml\n"))
    assert job.stages[0].data is not None
    assert job.stages[0].data.path == str(tmp_path / "below" / "rows.jsonl")


def test_environment_variables_are_used_and_never_shown(
    job_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QVL_TEST_DRIVE", str(tmp_path / "secret-place"))
    job = load_job(job_file(BASE + 'storage: {drive: "${env:QVL_TEST_DRIVE}/run"}\n'))
    assert job.storage.drive == tmp_path / "secret-place" / "run"
    assert job.shown(f"results in {job.storage.drive}") == "results in ${env:QVL_TEST_DRIVE}/run"
    assert not any("secret-place" in line for line in origin.lines(job))
    assert any("${env:QVL_TEST_DRIVE}/run" in line for line in origin.lines(job))


def test_a_bucket_may_come_from_the_environment_but_not_with_a_secret(
    job_file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = job_file(BASE + 'storage: {bucket: "${env:QVL_TEST_BUCKET}/run"}\n')
    monkeypatch.setenv("QVL_TEST_BUCKET", "s3://our-bucket")
    job = load_job(path)
    assert job.storage.bucket == "s3://our-bucket/run"
    assert job.shown(f"results in {job.storage.bucket}") == "results in ${env:QVL_TEST_BUCKET}/run"
    monkeypatch.setenv("QVL_TEST_BUCKET", "s3://me:pass-phrase@our-bucket")
    told = failure(path)
    assert "QVL225" in told
    assert "pass-phrase" not in told


def test_show_origin_names_files_options_and_defaults(job_file: Write) -> None:
    path = job_file(BASE)
    lines = origin.lines(load_job(path, overlays=Overlays(settings=["stages.sft.training.seed=3"])))
    assert f"stages.sft.training.learning_rate = 0.0001  # {path}:5" in lines
    assert "stages.sft.training.seed = 3  # --set stages.sft.training.seed=3" in lines
    assert "stages.dpo.training.seed = 0  # default" in lines
    assert f"stages.sft.data.with.size = 40  # {path}:7" in lines
    assert f"stages.dpo.model.lora.r = 16  # {path}:4" in lines


HUB = """
version: 1
name: base
model: {name: qvl-tiny}
evaluation: {data: {format: hub, path: a/b, split: val, with: {messages: m}}}
stages:
  sft:
    uses: sft
    data: {format: hub, path: a/b, split: train, max_samples: 1000, with: {messages: m}}
  grpo:
    uses: grpo
    data: {format: hub, path: a/b, split: train}
    with: {num_generations: 4}
"""


def test_data_of_another_format_replaces_what_lies_below_it(job_file: Write) -> None:
    job_file(HUB, "base.yaml")
    path = job_file(
        """
        extends: base.yaml
        evaluation: {data: {format: spatial_scenes}}
        stages:
          sft: {data: {format: jsonl, path: rows.jsonl}}
          grpo: {eval_data: {format: jsonl, path: rows.jsonl}, data: {path: c/d}}
        """
    )
    data = compose(path).data
    assert data["evaluation"]["data"] == {"format": "spatial_scenes"}
    assert data["stages"]["sft"]["data"] == {"format": "jsonl", "path": "rows.jsonl"}
    assert data["stages"]["grpo"]["data"] == {"format": "hub", "path": "c/d", "split": "train"}


def test_data_of_the_same_format_merges(job_file: Write) -> None:
    job_file(HUB, "base.yaml")
    path = job_file("extends: base.yaml\nstages: {sft: {data: {format: hub, with: {image: i}}}}\n")
    found = compose(path).data["stages"]["sft"]["data"]
    assert (found["max_samples"], found["with"]) == (1000, {"messages": "m", "image": "i"})


def test_a_stage_of_another_kind_does_not_inherit_its_options(job_file: Write) -> None:
    job_file(HUB, "base.yaml")
    path = job_file("extends: base.yaml\nstages: {grpo: {uses: dpo, with: {beta: 0.3}}}\n")
    found = compose(path).data["stages"]["grpo"]
    assert (found["with"], found["data"]["path"]) == ({"beta": 0.3}, "a/b")
    path = job_file("extends: base.yaml\nstages: {grpo: {uses: grpo, with: {beta: 0.3}}}\n")
    assert compose(path).data["stages"]["grpo"]["with"] == {"num_generations": 4, "beta": 0.3}


@pytest.mark.parametrize("order", [1, -1])
def test_options_are_one_overlay_in_whatever_order(job_file: Write, order: int) -> None:
    settings = ["stages.sft.data.format=jsonl", "stages.sft.data.path=rows.jsonl"][::order]
    document = compose(job_file(HUB), overlays=Overlays(settings=settings))
    assert document.data["stages"]["sft"]["data"] == {"format": "jsonl", "path": "rows.jsonl"}
    place = document.span(("stages", "sft", "data", "path")).file
    assert place == "--set stages.sft.data.path=rows.jsonl"


def test_an_option_after_one_that_drops_begins_anew(job_file: Write) -> None:
    settings = ["stages.sft.data=!reset", "stages.sft.data.format=hub", "stages.sft.data.path=x"]
    data = compose(job_file(HUB), overlays=Overlays(settings=settings)).data
    assert data["stages"]["sft"]["data"] == {"format": "hub", "path": "x"}
    settings = ["stages.sft.data.max_samples=5", "stages.sft.data.max_samples=!reset"]
    data = compose(job_file(HUB), overlays=Overlays(settings=settings)).data
    assert "max_samples" not in data["stages"]["sft"]["data"]


def test_a_profile_may_name_another_source_and_drop_stages(job_file: Write) -> None:
    """Also where the job extends another, which has a profile of that name or not."""
    profile = "profiles: {local: {stages: {grpo: !reset, sft: {data: {format: jsonl, path: x}}}}}"
    job_file(HUB, "base.yaml")
    job_file(HUB + "profiles: {local: {training: {seed: 3}}}\n", "other.yaml")
    for text in (HUB, "extends: base.yaml\n", "extends: other.yaml\n"):
        data = compose(job_file(text + profile), overlays=Overlays(profiles=["local"])).data
        assert list(data["stages"]) == ["sft"]
        assert data["stages"]["sft"]["data"] == {"format": "jsonl", "path": "x"}
        assert data.get("training") == ({"seed": 3} if "other" in text else None)


def test_a_profile_over_a_profile_of_another_source(job_file: Write) -> None:
    profile = "profiles: {some: {stages: {sft: {data: {format: hub, path: c/d, split: test}}}}}\n"
    job_file(HUB + profile, "base.yaml")
    text = "extends: base.yaml\nprofiles: {some: {stages: {sft: {data: {format: jsonl}}}}}\n"
    data = compose(job_file(text), overlays=Overlays(profiles=["some"])).data
    assert data["stages"]["sft"]["data"] == {"format": "jsonl"}
