"""One JSON Schema of the job file and every installed plugin, for editors.

It accepts what `validate` accepts, as far as a schema can say it: `uses` and `format` choose the schema of `with:`
by if/then, which blames the right key in every validator.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from qvl_run import plugins
from qvl_run.plugins import PluginError
from qvl_run.spec.schema import job_schema


def bundled_schema() -> dict[str, Any]:
    """The schema; plugins that cannot be used are left out."""
    schema: dict[str, Any] = copy.deepcopy(dict(job_schema()))
    definitions = schema["$defs"]
    stages, formats = _usable("qvl.stages"), _usable("qvl.data_formats")
    _dispatch(definitions["stage"], "uses", stages, definitions, prefix="stage")
    for name, stage in stages.items():
        if stage.data_kind is not None:
            definitions["stage"]["allOf"].append(
                {"if": _is("uses", name), "then": {"required": ["data"]}}
            )
        else:
            banned = {"data": False, "eval_data": False}
            definitions["stage"]["allOf"].append(
                {"if": _is("uses", name), "then": {"properties": banned}}
            )
    _dispatch(definitions["data"], "format", formats, definitions, prefix="format")
    for name, data_format in formats.items():
        rule = (
            {"properties": {"path": False}}
            if data_format.location == "generated"
            else {"required": ["path"]}
        )
        definitions["data"]["allOf"].append({"if": _is("format", name), "then": rule})
    schemes = "|".join(re.escape(name) for name in _usable("qvl.stores"))
    bucket = schema["properties"]["storage"]["properties"]["bucket"]
    bucket["pattern"] = rf"^(\$\{{env:|({schemes})://)"
    return schema


def _dispatch(
    definition: dict[str, Any],
    key: str,
    found: Mapping[str, Any],
    definitions: dict[str, Any],
    *,
    prefix: str,
) -> None:
    """Have `definition[key]` name one of `found`, and give `with` that one's schema."""
    definition["properties"][key] = {**definition["properties"][key], "enum": sorted(found)}
    definition["allOf"] = []
    for name, plugin in found.items():
        definitions[f"{prefix}.{name}"] = dict(plugin.schema)
        then: dict[str, Any] = {"properties": {"with": {"$ref": f"#/$defs/{prefix}.{name}"}}}
        if plugin.schema.get("required"):
            then["required"] = ["with"]
        definition["allOf"].append({"if": _is(key, name), "then": then})


def _is(key: str, name: str) -> dict[str, Any]:
    return {"properties": {key: {"const": name}}, "required": [key]}


def _usable(group: plugins.Group) -> dict[str, Any]:
    found = {}
    for name in plugins.installed(group):
        try:
            found[name] = plugins.load(group, name)
        except PluginError:
            continue
    return found
