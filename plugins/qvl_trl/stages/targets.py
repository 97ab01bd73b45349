"""Whether each target of an adapter means linear layers that it can be trained on."""

from __future__ import annotations

from collections.abc import Iterator

from qvl_run.contract import Finding
from qvl_run.settings import StageSettings
from qvl_run.spec.diagnostic import did_you_mean
from qvl_trl.models.architecture import KNOWN, of_stage
from qvl_trl.models.modules import HEAD, NAMES, OTHER, linears, means

WORDS = ("language", "all-linear")
"""What may be said in place of a list."""


def check_targets(settings: StageSettings) -> Iterator[Finding]:
    """PEFT itself passes over a target that means nothing, where another means something."""
    lora = settings.model.lora
    targets = lora.target_modules if lora else ()
    if isinstance(targets, str):
        yield from _check_word(targets)
        return
    # Of a model whose sizes are not known, layers as many as the largest has.
    sizes = of_stage(settings) or max(KNOWN.values(), key=lambda known: known.parameters)
    for number, target in enumerate(targets):
        at = f"model.lora.target_modules.{number}"
        found = [one.name for one in linears(sizes) if means(target, one.name)]
        others = [name for name in OTHER if means(target, name)]
        if HEAD in others:
            message = f"an adapter on {HEAD} would never be trained: TRL reads that layer's weights directly"
            yield Finding(at, message)
        elif others and found:
            message = f"{target} means {others[0]} too, which is no linear layer"
            yield Finding(at, message, f'write "{".".join(found[0].split(".")[-2:])}"')
        elif others:
            message = f"{target} is no linear layer: adapters are trained on those alone"
            yield Finding(at, message, f"known: {', '.join(NAMES)}")
        elif not found:
            message = f"no layer of the model is called {target}"
            yield Finding(at, message, did_you_mean(target.rpartition(".")[2], NAMES))


def _check_word(word: str) -> Iterator[Finding]:
    if word in WORDS:
        return
    hint = f"write [{word}]" if word in NAMES else did_you_mean(word, WORDS)
    yield Finding(
        "model.lora.target_modules", f"{word} is neither {' nor '.join(WORDS)}, nor a list", hint
    )
