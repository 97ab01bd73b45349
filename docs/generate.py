"""Writes the pages that are made from code: `make docs`. A test says when they are stale.

python docs/generate.py [FOLDER]
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qvl_run.recovery import page
from qvl_run.spec import codes
from qvl_run.spec.bundle import bundled_schema

OWN = "qvl-run"
"""The distribution whose plugins the reference describes."""


def pages() -> Mapping[str, str]:
    """Every generated page by its file name."""
    return {
        "diagnostics.md": codes.markdown(),
        "failures.md": page.markdown(),
        "hardware.md": hardware(),
        "job-reference.md": job_reference(),
    }


def hardware() -> str:
    """docs/hardware.md: predictions beside measurements."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from benchmarks import hardware_page

    return hardware_page.markdown()


def job_reference() -> str:
    """docs/job-reference.md: every key of a job file."""
    schema = bundled_schema()
    definitions = schema["$defs"]
    lines = [
        "# Job reference",
        "",
        "Every key of a job file. Made from `schemas/job.schema.json` and the schemas of the built-in plugins by "
        "`make docs`; `qvl-run schema` prints them as one JSON Schema for editors.",
        "",
        "A job may extend others, and be changed on the command line: what `extends` names, the file itself, "
        "`--profile NAME`, then all `--set KEY=VALUE` together, each laid over those before it. Maps merge, lists and "
        "values replace, `!reset` drops a key. Data that names another `format` is another source: it replaces what "
        "it is laid on instead of merging, so that nothing of the old one is left. A stage that names another `uses` "
        "keeps the rest, but not the old one's `with`. `${env:NAME}` stands for an environment variable in paths and "
        "model names; its value is never shown. `qvl-run plan JOB --show-origin` says where each value was set.",
    ]
    lines += section("The job", schema)
    for key in ("hardware", "storage", "recovery", "tracking"):
        lines += section(f"`{key}`", schema["properties"][key])
        if key == "recovery":
            deadlines = schema["properties"]["recovery"]["properties"]["deadlines"]
            lines += section("`recovery.rules[]`", definitions["rule"])
            lines += section("`recovery.deadlines`", deadlines)
    for key in ("model", "training", "data", "evaluation", "stage"):
        title = "`stages.<name>`" if key == "stage" else f"`{key}`"
        lines += section(title, definitions[key])
        if key == "model":
            lines += section("`model.lora`", definitions["model"]["properties"]["lora"])
    for prefix, title in (
        ("stage", "`with` of the stage"),
        ("format", "`with` of the data format"),
    ):
        for name in sorted(built_in(prefix)):
            found = definitions[f"{prefix}.{name}"]
            if found["properties"]:
                lines += section(f"{title} `{name}`", found)
    return "\n".join(lines) + "\n"


def built_in(prefix: str) -> set[str]:
    """Names of the plugins that this distribution brings."""
    from qvl_run import plugins

    group: plugins.Group = "qvl.stages" if prefix == "stage" else "qvl.data_formats"
    return {
        name for name, infos in plugins.installed(group).items() if infos[0].distribution == OWN
    }


def section(title: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""
    if title != "The job":
        yield schema["description"]
        yield ""
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    required = {*schema.get("required", ()), *schema.get("else", {}).get("required", ())}
    for name, sub in schema["properties"].items():
        default = (
            f"`{show(sub['default'])}`"
            if "default" in sub
            else "required"
            if name in required
            else ""
        )
        yield f"| `{name}` | {value(sub)} | {default} | {escaped(sub['description'])} |"


WORDS = re.compile(r"^\^\(([a-z_|]+)\)\$$")
"""A pattern that is a list of words."""
BOUNDS = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "to",
    "exclusiveMaximum": "below",
}


def value(schema: Mapping[str, Any]) -> str:
    """What a key takes, in a few words."""
    if "$ref" in schema:
        return f"see `{schema['$ref'].rpartition('/')[2]}`"
    if "const" in schema:
        return f"`{show(schema['const'])}`"
    if "enum" in schema:
        names = [v for v in schema["enum"] if v != "count"]
        return ", ".join(f"`{show(v)}`" for v in names)
    if "pattern" in schema and (words := WORDS.match(schema["pattern"])):
        rest = {key: item for key, item in schema.items() if key not in ("pattern", "examples")}
        rest["type"] = [kind for kind in schema["type"] if kind != "string"]
        names = ", ".join(f"`{word}`" for word in words[1].split("|"))
        article = "" if rest["type"] == ["boolean"] else "a "
        return f"{names}, or {article}{value(rest)}"
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    kind_words = {
        "object": "map",
        "array": "list",
        "string": "text",
        "integer": "whole number",
        "boolean": "true or false",
    }
    text = " or ".join(kind_words.get(kind, kind) for kind in kinds)
    bounds = [
        f"{word} {schema[key]}"
        for key, word in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
        )
        if key in schema
    ]
    example = schema.get("examples", [None])[0]
    shown = (
        f", e.g. `{show(example)}`" if example is not None and kinds not in (["boolean"],) else ""
    )
    return escaped(f"{text} {' '.join(bounds)}".strip()) + shown


def show(thing: Any) -> str:
    return thing if isinstance(thing, str) else json.dumps(thing)


def escaped(text: str) -> str:
    return text.replace("|", "\\|")


def main(folder: Path) -> None:
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
