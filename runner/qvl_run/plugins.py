"""Plugins by entry point: stages, data formats, rewards, bundled models and stores, from any installed distribution.

Names are listed without importing anything; an object is imported when a job uses it. A plugin that fails to import
is a `PluginError` naming its distribution; two that share a name are an error naming both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from qvl_run.contract import BundledModel, DataFormat, Reward, Stage, StoreScheme

Group = Literal["qvl.stages", "qvl.data_formats", "qvl.rewards", "qvl.models", "qvl.stores"]
GROUPS: Mapping[Group, type] = {
    "qvl.stages": Stage,
    "qvl.data_formats": DataFormat,
    "qvl.rewards": Reward,
    "qvl.models": BundledModel,
    "qvl.stores": StoreScheme,
}


class PluginError(Exception):
    """A plugin that cannot be used; the message names the distribution and says why."""


@dataclass(frozen=True, kw_only=True)
class PluginInfo:
    """An installed plugin, not imported."""

    group: Group
    name: str
    distribution: str
    version: str
    entry: EntryPoint = field(compare=False, repr=False)


@cache
def installed(group: Group) -> Mapping[str, tuple[PluginInfo, ...]]:
    """Every plugin of `group` by name; more than one under a name is a clash."""
    found: dict[str, dict[str, PluginInfo]] = {}
    for entry in entry_points(group=group):
        dist = entry.dist
        info = PluginInfo(
            group=group,
            name=entry.name,
            distribution=dist.name if dist else "unknown",
            version=dist.version if dist else "unknown",
            entry=entry,
        )
        # One distribution may be visible twice (an editable install beside its build): that is no clash.
        found.setdefault(entry.name, {})[f"{info.distribution}:{entry.value}"] = info
    return {name: tuple(infos.values()) for name, infos in sorted(found.items())}


@cache
def load(group: Group, name: str) -> Any:
    """The plugin object. Raises KeyError where none has that name, PluginError where it cannot be used."""
    infos = installed(group)[name]
    if len(infos) > 1:
        names = " and ".join(f"{i.distribution} {i.version}" for i in infos)
        raise PluginError(f'two plugins are called "{name}": from {names}; uninstall one of them')
    info = infos[0]
    source = f'the plugin "{name}" of {info.distribution} {info.version}'
    try:
        plugin: Any = info.entry.load()
    except Exception as error:
        raise PluginError(
            f"{source} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(plugin, GROUPS[group]):
        raise PluginError(f"{source} is not a {GROUPS[group].__name__}: see qvl_run.contract")
    own: str = plugin.name  # type: ignore[attr-defined]  # every protocol of GROUPS has it
    if own != name:
        raise PluginError(f'{source} calls itself "{own}"; both names must be the same')
    return plugin


def stage(name: str) -> Stage:
    """The stage called `name`; see `load`."""
    plugin: Stage = load("qvl.stages", name)
    return plugin


def data_format(name: str) -> DataFormat:
    """The data format called `name`; see `load`."""
    plugin: DataFormat = load("qvl.data_formats", name)
    return plugin


def store(scheme: str) -> StoreScheme:
    """The kind of store that URLs of `scheme` name; see `load`."""
    plugin: StoreScheme = load("qvl.stores", scheme)
    return plugin


def version_of(group: Group, name: str) -> str:
    """`distribution version` of the plugin, for keys and manifests."""
    info = installed(group)[name][0]
    return f"{info.distribution} {info.version}"
