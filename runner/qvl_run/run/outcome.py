"""How a run ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qvl_run.checkpoints.manifest import Manifest
from qvl_run.checkpoints.store import Held, Store
from qvl_run.plan.plan import StagePlan
from qvl_run.recovery.failure import Failure
from qvl_run.run.outbox import Local

Ending = Literal["done", "failed", "stopped", "no_input", "broken", "owned"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`outputs` are the manifests of the finished stages; `result` is where the last one's output lies. `elsewhere`
    names those of them that were measured on other held-out rows than the job now names. `why` says what stopped it,
    where that was not the user. `left` is what has not reached the store; `store` says where that is."""

    ending: Ending
    outputs: tuple[Manifest, ...] = ()
    result: Held | None = None
    elsewhere: frozenset[str] = frozenset()
    stage: StagePlan | None = None
    failure: Failure | None = None
    why: str = ""
    log: Path | None = None
    left: tuple[Local, ...] = ()
    store: Store | None = None
