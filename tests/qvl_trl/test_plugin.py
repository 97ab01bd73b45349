"""What every entry point of this distribution keeps to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from qvl_run import plugins
from qvl_run.spec.schema import with_defaults

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "numpy", "PIL", "pyarrow")
GROUPS: tuple[plugins.Group, ...] = ("qvl.stages", "qvl.data_formats", "qvl.rewards")


def ours(*groups: plugins.Group) -> list[Any]:
    return [
        plugins.load(group, name)
        for group in groups
        for name, infos in plugins.installed(group).items()
        if infos[0].distribution == "qvl-run"
    ]


def test_loading_the_plugins_imports_nothing_heavy() -> None:
    script = f"""
import sys
from importlib.metadata import entry_points
found = [e.load() for group in {[*GROUPS, "qvl.models"]} for e in entry_points(group=group)]
assert len(found) >= 11, found
print(*sorted(set({HEAVY}) & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize("plugin", ours(*GROUPS), ids=lambda p: p.name)
def test_schemas_are_closed_and_documented(plugin: Any) -> None:
    Draft202012Validator.check_schema(plugin.schema)
    for schema in objects(plugin.schema):
        assert schema["additionalProperties"] is False
        for key, sub in schema["properties"].items():
            assert sub["title"], key
            assert sub["description"].endswith("."), key
            assert "default" in sub or key in schema.get("required", ()), key
            assert "default" not in sub or Draft202012Validator(sub).is_valid(sub["default"]), key


@pytest.mark.parametrize("plugin", ours(*GROUPS), ids=lambda p: p.name)
def test_defaults_are_valid(plugin: Any) -> None:
    assert Draft202012Validator(plugin.schema).is_valid(with_defaults({}, plugin.schema))


def objects(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "properties" in schema:
        yield schema
        for sub in schema["properties"].values():
            yield from objects(sub)
    if "items" in schema:
        yield from objects(schema["items"])


def test_the_bundled_model_is_small_and_whole() -> None:
    folder = plugins.load("qvl.models", "qvl-tiny").folder()
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(sizes)
    assert sum(sizes.values()) <= 6_000_000
