"""The schema for editors: it is complete, documented, and agrees with `validate`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from qvl_run.spec.bundle import bundled_schema
from qvl_run.spec.schema import job_schema

SPECS = Path(__file__).parents[2] / "specs"

# What only the merged, built job shows: an editor cannot know it, `validate` does. By code of the finding.
BEYOND_A_SCHEMA = {
    "QVL206", "QVL207", "QVL208", "QVL210", "QVL211", "QVL212", "QVL213", "QVL214", "QVL215", "QVL216", "QVL217",
    "QVL218", "QVL219", "QVL220", "QVL221", "QVL222", "QVL223", "QVL224", "QVL225", "QVL226", "QVL228",
    "QVL230",
    "QVL302", "QVL021", "QVL022", "QVL023", "QVL202",
}  # fmt: skip


def keys(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every described key of a schema, with its path."""
    if not isinstance(schema, dict):
        return
    for name, sub in schema.get("properties", {}).items():
        if (isinstance(sub, dict) and "const" not in sub) or path == "":
            yield f"{path}.{name}", sub
            yield from keys(sub, f"{path}.{name}")
    for name, sub in schema.get("$defs", {}).items():
        yield from keys(sub, f"{path}#{name}")


def test_the_bundle_is_a_schema_of_this_draft() -> None:
    Draft202012Validator.check_schema(bundled_schema())


@pytest.mark.parametrize(
    ("path", "key"), sorted(keys(bundled_schema())), ids=lambda v: v if isinstance(v, str) else ""
)
def test_every_key_has_a_title_a_description_and_an_example(path: str, key: dict[str, Any]) -> None:
    assert len(key["title"]) <= 60
    assert len(key["description"]) > 10
    if "$ref" not in key and "const" not in key and "properties" not in key:
        assert key["examples"]
        for example in key["examples"]:
            Draft202012Validator({"$defs": bundled_schema()["$defs"], **key}).validate(example)
    if "default" in key:
        Draft202012Validator({"$defs": bundled_schema()["$defs"], **key}).validate(key["default"])


def test_every_object_is_closed() -> None:
    def objects(schema: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(schema, dict):
            if "properties" in schema and "type" in schema:
                yield path, schema
            for name, sub in schema.items():
                yield from objects(sub, f"{path}/{name}")

    found = dict(objects(bundled_schema(), ""))
    assert len(found) > 10
    assert [
        path for path, schema in found.items() if schema.get("additionalProperties") is not False
    ] == []


def test_the_bundle_names_the_plugins_that_are_installed() -> None:
    stage = bundled_schema()["$defs"]["stage"]["properties"]["uses"]
    assert {"sft", "dpo", "grpo", "count"} <= set(stage["enum"])
    assert "enum" not in job_schema()["$defs"]["stage"]["properties"]["uses"]


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    """What `check-jsonschema` says of each file of the corpus."""
    schema = tmp_path_factory.mktemp("schema") / "bundle.json"
    schema.write_text(json.dumps(bundled_schema()))
    files = [*SPECS.glob("*/*.yaml")]
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--schemafile",
        schema,
        "-o",
        "json",
        *files,
    ]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    wrong = {entry["filename"] for entry in [*report["errors"], *report["parse_errors"]]}
    return {str(path): str(path) not in wrong for path in files}


@pytest.mark.parametrize("path", sorted((SPECS / "valid").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_editor_accepts_what_validate_accepts(path: Path, verdicts: dict[str, bool]) -> None:
    assert verdicts[str(path)]


@pytest.mark.parametrize("path", sorted((SPECS / "invalid").glob("*.yaml")), ids=lambda p: p.stem)
def test_the_editor_refuses_what_validate_refuses(path: Path, verdicts: dict[str, bool]) -> None:
    text = path.with_suffix(".txt").read_text()
    codes = {line[6:12] for line in text.splitlines() if line.startswith("error[")}
    if codes <= BEYOND_A_SCHEMA:
        return
    assert not verdicts[str(path)], codes
