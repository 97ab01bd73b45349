"""`qvl-run plugins`."""

from __future__ import annotations

import json

import click

from qvl_run import plugins
from qvl_run.plugins import GROUPS, PluginError


def main() -> None:
    """Print every installed plugin with its distribution and its options; say of each that cannot be used why."""
    for group in GROUPS:
        click.echo(f"{group.removeprefix('qvl.').replace('_', ' ')}:")
        for name, infos in plugins.installed(group).items():
            source = ", ".join(f"{i.distribution} {i.version}" for i in infos)
            click.echo(f"  {name}  ({source})")
            try:
                plugin = plugins.load(group, name)
            except PluginError as error:
                click.echo(f"    cannot be used: {error}")
                continue
            if group == "qvl.stores" and (missing := plugin.missing()):
                click.echo(f"    needs: pip install {' '.join(missing)}")
            for key, sub in getattr(plugin, "schema", {}).get("properties", {}).items():
                default = f" (default {json.dumps(sub['default'])})" if "default" in sub else ""
                click.echo(f"    {key}: {sub.get('description', '')}{default}")
