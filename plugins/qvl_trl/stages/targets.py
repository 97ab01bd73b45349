"""Whether each target of an adapter means linear layers that it can be trained on."""

from __future__ import annotations

from collections.abc import Iterator

from qvl_run.contract import Finding
from qvl_run.settings import StageSettings
from qvl_run.spec.diagnostic import did_you_mean
from qvl_trl.models.architecture import of_stage
from qvl_trl.models.modules import HEAD, LINEAR, NAMES, meant


def check_targets(settings: StageSettings) -> Iterator[Finding]:
    """PEFT itself passes over a target that means nothing, where another means something."""
    lora = settings.model.lora
    targets = lora.target_modules if lora else ()
    if isinstance(targets, str):
        return
    sizes = of_stage(settings)
    for number, target in enumerate(targets):
        at = f"model.lora.target_modules.{number}"
        found = set(meant(target, sizes))
        others = sorted(found - set(LINEAR))
        if HEAD in others:
            message = f"an adapter on {HEAD} would never be trained: TRL reads that layer's weights directly"
            yield Finding(at, message)
        elif others and found != set(others):
            linear = min(found - set(others))
            message = f"{target} means {others[0]} too, which is no linear layer"
            yield Finding(at, message, f'write "{".".join(linear.split(".")[-2:])}"')
        elif others:
            message = f"{target} is no linear layer: adapters are trained on those alone"
            yield Finding(at, message, f"known: {', '.join(NAMES)}")
        elif not found:
            message = f"no layer of the model is called {target}"
            yield Finding(at, message, did_you_mean(target.rpartition(".")[2], NAMES))
