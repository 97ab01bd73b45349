"""`qvl-run schema`."""

from __future__ import annotations

import json

import click

from qvl_run.spec.bundle import bundled_schema


def main() -> None:
    """Print the bundled schema."""
    click.echo(json.dumps(bundled_schema(), indent=2))
