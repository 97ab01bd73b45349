"""On a GPU: memory that is not enough, a process that dies in the backward pass, a kernel that never returns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")

PLUGIN = Path(__file__).parent / "plugin"
JOB = """
version: 1
name: gpu
model: {{name: {model}, precision: {precision}, lora: {{r: 16, alpha: 32}}}}
training:
  per_device_train_batch_size: {micro}
  gradient_accumulation_steps: {accumulation}
  gradient_checkpointing: false
  max_steps: {steps}
  save_steps: 2
  logging_steps: 1
  learning_rate: 1e-4
stages:
  sft:
    uses: faulty_sft
    data: {{format: spatial_scenes, with: {{size: {rows}}}}}
    with: {{memory: {memory}, fault: {fault}, at: {at}}}
recovery: {{deadlines: {{step: 5s}}}}
"""
BIG: dict[str, Any] = {"micro": 64, "accumulation": 1, "steps": 4, "rows": 256, "precision": "bf16"}
SMALL: dict[str, Any] = {"micro": 8, "accumulation": 1, "steps": 8, "rows": 64, "precision": "fp32"}
GIB = 2**30


class Ran:
    """A run of the command in a folder of its own."""

    def __init__(self, folder: Path, **values: Any) -> None:
        self.folder = folder
        folder.mkdir()
        job = {"model": "qvl-tiny", "memory": 0, "fault": "none", "at": 0, **values}
        (folder / "job.yaml").write_text(JOB.format(**job))
        path = os.pathsep.join(filter(None, (str(PLUGIN), os.environ.get("PYTHONPATH"))))
        self.done = subprocess.run(
            [sys.executable, "-m", "qvl_run", "job.yaml"],
            cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
            timeout=400, check=False,
        )  # fmt: skip
        print(self.done.stdout, self.done.stderr)
        assert self.done.returncode == 0

    @property
    def events(self) -> list[dict[str, Any]]:
        segments = sorted((self.folder / "qvl-runs" / "gpu" / "runs" / "gpu").glob("events-*"))
        return [json.loads(line) for path in segments for line in path.read_text().splitlines()]

    def named(self, event: str) -> list[dict[str, Any]]:
        return [record for record in self.events if record["event"] == event]

    @property
    def stage(self) -> Path:
        return self.folder / "qvl-runs" / "gpu" / "checkpoints" / "sft"

    @property
    def losses(self) -> list[float]:
        """The loss of each step, from the newest checkpoint."""
        newest = max(self.stage.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
        log = json.loads((newest / "trainer_state.json").read_text())["log_history"]
        return [entry["loss"] for entry in log if "loss" in entry]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.stage / "final" / "adapter_model.safetensors")


def used() -> int:
    """Bytes of the GPU in use by all processes."""
    free, total = torch.cuda.mem_get_info()
    return total - free


def test_out_of_memory_is_met_with_smaller_micro_batches_at_the_same_loss(
    tmp_path: Path, big: Path
) -> None:
    short = Ran(tmp_path / "short", model=big, memory=8, **BIG)
    adapted = short.named("adapted")
    assert adapted, "it fitted at once: this test shows nothing"
    assert {record["failure"] for record in short.named("attempt_failed")} == {"oom"}
    changes = adapted[-1]["changes"]
    micro = changes["training.per_device_train_batch_size"]
    accumulation = changes["training.gradient_accumulation_steps"]
    assert micro * accumulation == 64
    small = Ran(
        tmp_path / "small",
        model=big,
        memory=8,
        **{**BIG, "micro": micro, "accumulation": accumulation},
    )
    assert not small.named("attempt_failed")
    whole = Ran(tmp_path / "whole", model=big, **BIG)
    worst = max(abs(a - b) / b for a, b in zip(short.losses, whole.losses, strict=True))
    print(f"64 x 1 -> {micro} x {accumulation} after {len(adapted)} rungs in {8} GiB")
    print(f"losses {short.losses}, started small {small.losses}, whole {whole.losses}")
    print(f"laddered to whole: largest relative difference {worst:.1e}")
    assert short.losses == pytest.approx(small.losses, rel=1e-3)
    assert short.losses == pytest.approx(whole.losses, rel=2e-2)
    again = subprocess.run(
        [sys.executable, "-m", "qvl_run", "status", "job.yaml"],
        cwd=short.folder, env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "") + os.pathsep + str(PLUGIN)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    print(again.stdout)
    assert adapted[-1]["text"] in again.stdout


def test_killed_in_the_backward_pass_it_gives_the_memory_back_and_goes_on(tmp_path: Path) -> None:
    before = used()
    killed = Ran(tmp_path / "killed", fault="kill", at=6, **SMALL)
    after = used()
    (failed,) = killed.named("attempt_failed")
    assert (failed["failure"], failed["step"], failed["saved"]) == ("preempted", 5, 4)
    assert not [f for f in killed.named("finding") if f["name"] == "gpu_memory"]
    assert after < before + GIB // 4
    whole = Ran(tmp_path / "whole", **SMALL)
    difference = max(
        float((killed.weights[n] - whole.weights[n]).abs().max()) for n in whole.weights
    )
    print(f"final weights differ from the undisturbed run's by at most {difference:.1e}")
    assert difference < 1e-4


def test_a_kernel_that_never_returns_is_found_and_the_stage_goes_on(tmp_path: Path) -> None:
    before = used()
    hung = Ran(tmp_path / "hung", fault="spin", at=6, **SMALL)
    (failed,) = hung.named("attempt_failed")
    assert (failed["failure"], failed["saved"]) == ("hang", 4)
    (killed,) = hung.named("killed")
    evidence = json.loads(Path(killed["evidence"]).read_text())
    print(killed["why"], evidence["stacks"][:3000], sep="\n")
    assert "trainer.py" in evidence["stacks"]
    assert used() < before + GIB // 4
    whole = Ran(tmp_path / "whole", **SMALL)
    difference = max(float((hung.weights[n] - whole.weights[n]).abs().max()) for n in whole.weights)
    print(f"final weights differ from the undisturbed run's by at most {difference:.1e}")
    assert difference < 1e-4
