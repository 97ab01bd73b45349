"""A download that stalls, under the real command: found, ended, resumed, and trained on."""

import json
from collections.abc import Callable
from pathlib import Path

from qvl_trl.models.qvl_tiny import model
from tests.conftest import Command
from tests.hub_server import Faults, Hub

JOB = """
version: 1
name: stalled
model: {name: owner/tiny, lora: {r: 4, alpha: 8}}
training: {max_steps: 1, per_device_train_batch_size: 2, gradient_accumulation_steps: 1}
stages:
  sft: {uses: sft, data: {format: spatial_scenes, with: {size: 2}}}
recovery: {rules: [{on: download, backoff: 0.1s}], deadlines: {download: 2s}}
"""
SENT = 2_000_000


def test_a_stalled_download_is_found_and_resumed(
    job_file: Callable[..., Path], qvl_run: Command, tmp_path: Path
) -> None:
    faults = Faults(stall_after=SENT, stalls=1)
    with Hub({"models/owner/tiny": model.folder()}, faults=faults) as hub:
        run = qvl_run(
            job_file(JOB),
            env={
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(tmp_path / "home"),
                "HF_HUB_DOWNLOAD_TIMEOUT": "600",
                "OMP_NUM_THREADS": "1",
            },
        )
        large = [
            r for r in hub.requests if r.path.endswith("model.safetensors") and r.method == "GET"
        ]
    assert run.returncode == 0, run.stdout + run.stderr
    assert "failed (download)" in run.stdout
    assert "Traceback" not in run.stdout
    size = (model.folder() / "model.safetensors").stat().st_size
    first, second = large
    assert first.sent <= SENT
    assert second.first, "from where it had come to"
    assert second.first + second.sent == size
    final = tmp_path / "qvl-runs/stalled/checkpoints/sft/final"
    config = json.loads((final / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/tiny", "what another machine can load"
    assert str(tmp_path) not in (final / "usage.py").read_text()
