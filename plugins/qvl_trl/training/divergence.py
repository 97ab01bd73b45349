"""When a loss or a gradient that is no finite number ends training. Pure: told of every optimizer step before it is
applied.

Without a loss scaler (fp32, bf16) the first one does: applied, it would leave no weight finite. With one (fp16) a
gradient that overflows is part of the method: the scaler leaves that step out and halves its scale. Only what halving
cannot mend ends training then.
"""

from __future__ import annotations

from typing import Literal

OVERFLOWS = 20
"""Steps in a row that may overflow: 16 halvings take a scaler's first scale, 65536, down to 1."""
LOSSES = 3
"""Steps in a row whose loss itself may be no number: it is computed before it is scaled, so halving never mends it."""

Part = Literal["loss", "gradient"]


class Divergence:
    """What was not finite in the steps before this one."""

    def __init__(self) -> None:
        self._losses = 0
        self._overflows = 0

    def after(self, *, loss_finite: bool, gradient_finite: bool, scaled: bool) -> Part | None:
        """What ends training, None where it goes on. `scaled`: a loss scaler is in use, and leaves out a step whose
        gradient is not finite."""
        self._losses = 0 if loss_finite else self._losses + 1
        self._overflows = 0 if gradient_finite else self._overflows + 1
        if self._losses >= (LOSSES if scaled else 1):
            return "loss"
        if self._overflows >= (OVERFLOWS if scaled else 1):
            return "gradient"
        return None
