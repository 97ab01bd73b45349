from __future__ import annotations

import pytest

from tests.qvl_trl.conftest import Ran


@pytest.mark.parametrize("name", ["sft", "dpo", "grpo"])
def test_runs(name, request):
    ran: Ran = request.getfixturevalue(name)
    print(name, ran.result, ran.ctx.sections, ran.ctx.metrics, ran.ctx.checkpoints, ran.ctx.records)
