"""JSON Schema findings as diagnostics: the job's own schema, then each plugin's schema for its `with:`.

Every object in the schemas is closed, and a stage is validated against the one schema that its `uses` names, so a
finding always speaks of the key that is wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any

from qvl_run import hardware, resources
from qvl_run.spec.diagnostic import Diagnostic, did_you_mean
from qvl_run.spec.document import Document, Key

MAX_FINDINGS = 50
"""Of one schema: a file with more is not mended by reading them all."""
_WORDS = re.compile(r"^\^\(([a-z_|]+)\)\$$")
"""A pattern that is a list of words, where a key takes a word or something of another type."""
_TYPES = {
    "object": "a map",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


@cache
def job_schema() -> Mapping[str, Any]:
    """The schema of a job file, without the plugins' parts."""
    with (resources.folder("schemas") / "job.schema.json").open(encoding="utf-8") as file:
        schema: Mapping[str, Any] = json.load(file)
    return schema


def findings(
    data: Any, schema: Mapping[str, Any], document: Document, *, at: Sequence[Key] = ()
) -> Iterator[Diagnostic]:
    """What `schema` says against `data`, which stands at the path `at` of `document`."""
    from jsonschema import Draft202012Validator

    errors = Draft202012Validator(schema).iter_errors(data)
    found = (d for e in errors for d in _diagnostics(e, document, (*at, *e.absolute_path)))
    return islice(found, MAX_FINDINGS)


def with_defaults(options: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """`options` with the schema's top-level defaults filled in."""
    properties = schema.get("properties", {})
    filled = {key: sub["default"] for key, sub in properties.items() if "default" in sub}
    return filled | dict(options)


def _diagnostics(error: Any, document: Document, path: tuple[Key, ...]) -> Iterator[Diagnostic]:
    where = show_path(path)
    keyword, wanted = error.validator, error.validator_value
    if keyword == "additionalProperties":
        known = error.schema.get("properties", {})
        for key in error.instance:
            if key not in known:
                yield Diagnostic(
                    code="QVL101",
                    message=f'unknown key "{key}" in {where}',
                    span=document.key_span((*path, key)),
                    hint=did_you_mean(key, known),
                )
        return
    span = document.span(path)
    if keyword == "required":
        missing = [key for key in wanted if key not in error.instance]
        # One error a missing key: jsonschema reports each on its own, the message names it.
        key = next(k for k in missing if error.message.startswith(repr(k)))
        yield Diagnostic(
            code="QVL102",
            message=f'{where} lacks the key "{key}"',
            span=document.key_span(path) if path else span,
            # What a job must have stands in an `else`, apart from the properties.
            hint=_example(error.schema if path else job_schema(), key),
        )
        return
    if keyword == "propertyNames" or "propertyNames" in error.absolute_schema_path:
        yield Diagnostic(
            code="QVL105",
            message=f'"{error.instance}" is no name: letters, digits, "-" and "_", at most 64',
            span=document.key_span((*path, error.instance)),
        )
        return
    value = _shown(error.instance)
    if keyword == "type":
        kinds = [wanted] if isinstance(wanted, str) else wanted
        words = _WORDS.match(error.schema.get("pattern", ""))
        names = _TYPES | ({"string": words[1]} if words and "|" not in words[1] else {})
        message = f"{where} must be {' or '.join(names[k] for k in kinds)}, not {value}"
        yield Diagnostic(
            code="QVL103",
            message=message,
            span=span,
            hint=_type_hint(error.instance, kinds) or _example_hint(error),
        )
    elif keyword in ("enum", "const") or (keyword == "pattern" and _WORDS.match(wanted)):
        words = _WORDS.match(str(wanted))
        values = wanted if keyword == "enum" else words[1].split("|") if words else [wanted]
        allowed = [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
        yield Diagnostic(
            code="QVL104",
            message=f"{where} cannot be {value}",
            span=span,
            hint=_type_hint(error.instance, error.schema.get("type", ()))
            or _nearest(path, str(error.instance), allowed),
        )
    else:
        yield Diagnostic(
            code="QVL105",
            message=f"{where} {_bound(keyword, wanted, error, value)}",
            span=span,
            hint=_example_hint(error),
        )


def _nearest(path: tuple[Key, ...], word: str, allowed: Sequence[str]) -> str:
    return hardware.meant(word) if path == ("hardware", "tier") else did_you_mean(word, allowed)


def _bound(keyword: str, wanted: Any, error: Any, value: str) -> str:
    bounds = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "more than",
        "exclusiveMaximum": "less than",
    }
    if keyword in bounds:
        return f"must be {bounds[keyword]} {wanted}, not {value}"
    if keyword == "pattern":
        return f"is not in the right form: {value}"
    if keyword in ("minItems", "maxItems"):
        least = "at least" if keyword == "minItems" else "at most"
        return f"must have {least} {wanted} {'entry' if wanted == 1 else 'entries'}"
    if keyword == "minLength":
        return "must not be empty"
    if keyword == "minProperties":
        return "must not be empty"
    return " ".join(error.message.split())


def _example_hint(error: Any) -> str:
    examples = error.schema.get("examples") if "pattern" in error.schema else None
    return f"for example: {examples[0]}" if examples else ""


def _type_hint(instance: Any, kinds: Sequence[str]) -> str:
    if isinstance(instance, str) and {"integer", "number"} & set(kinds):
        try:
            float(instance)
        except ValueError:
            return ""
        return "leave out the quotes"
    if (
        isinstance(instance, str)
        and "boolean" in kinds
        and instance.lower() in ("yes", "no", "on", "off")
    ):
        return "YAML 1.2 has true and false only"
    return ""


def _example(schema: Mapping[str, Any], key: str) -> str:
    sub = schema.get("properties", {}).get(key, {})
    examples = sub.get("examples") or ([sub["const"]] if "const" in sub else [])
    return f"for example: {key}: {_shown(examples[0], quote=False)}" if examples else ""


def _shown(value: Any, *, quote: bool = True) -> str:
    if isinstance(value, dict):
        return "a map" if quote else json.dumps(value)
    if isinstance(value, list):
        return "a list" if quote else json.dumps(value)
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, str) and quote:
        return f'"{value[:60]}"' if len(value) <= 60 else f'"{value[:57]}..."'
    return str(value)[:60]


def show_path(path: Sequence[Key]) -> str:
    """`stages.sft.data`, `rewards[0]`; "the job" for the empty path."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.lstrip(".") or "the job"
