"""The shipped jobs, on models of the real sizes with random weights: memory, speed and losses. Needs a CUDA GPU.

    python benchmarks/jobs.py run t4_full_pipeline --cap 14.0 --precision fp16 --out build/jobs
    python benchmarks/jobs.py run a100_full_pipeline --cap 38.8 --stages grpo --completion 64 --out build/jobs
    python benchmarks/jobs.py table build/jobs

`run` runs `qvl-run` itself, fitted to a GPU on which PyTorch's allocator may take `--cap` GiB, on rows of 640 x 480
pictures and texts of real lengths. The job's data, evaluation and storage are replaced, nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import rows
from host_memory import HostMemory

from qvl_run import hardware, resources
from qvl_run.spec.job import Job
from qvl_run.spec.load import load_job
from qvl_trl.models.qvl_tiny import model as tiny

GIB = 2**30
PLUGIN = Path(__file__).resolve().parent / "plugin"
"""Has the reward `chance`."""
KINDS = {"sft": "sft", "dpo": "preference", "grpo": "prompt"}
ROWS = 64
SAVING = 30.0
"""Seconds that a run has to save and stop."""


def overlay(shipped: Job, args: argparse.Namespace, data: Mapping[str, Path]) -> str:
    """What is laid over the shipped job."""
    model = shipped.stages[0].model["name"]
    name = f"{args.job}-{'-'.join(args.stages)}".replace("_", "-")
    lines = [
        "version: 1",
        f"extends: {args.job}",
        f"name: {name}",
        "hardware: !reset",
        "storage: !reset",
        "evaluation: !reset",
        "recovery: none",
        "tracking: {wandb: false}",
        f"model: {{name: 'random:{model}', precision: {args.precision}}}",
        f"training: {{max_steps: {args.steps}, save_steps: {args.steps}, logging_steps: 1}}",
        "stages:",
    ]
    for stage in shipped.stages:
        if stage.name not in args.stages:
            lines.append(f"  {stage.name}: !reset")
            continue
        path = data[KINDS[stage.uses]]
        lines += [f"  {stage.name}:", f"    data: {{format: jsonl, path: '{path}'}}"]
        if stage.uses == "grpo":
            length = f"max_completion_length: {args.completion}, " if args.completion else ""
            reward = "rewards: [chance]"
            lines.append(f"    with: {{{length}{reward}}}")
    if args.merge:
        lines.append("  merge: {uses: merge}")
    return "\n".join(lines) + "\n"


def run(args: argparse.Namespace) -> None:
    """Run the job and note what its stages took."""
    from transformers import AutoTokenizer

    shipped = load_job(resources.shipped_jobs()[args.job])
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        here = Path(folder)
        data = rows.write(
            here / "rows", count=ROWS, tokenizer=AutoTokenizer.from_pretrained(tiny.folder())
        )
        job = here / "job.yaml"
        job.write_text(overlay(shipped, args, data))
        name = load_job(job).name
        runs = here / "qvl-runs" / name
        if args.models:  # made before: they are the same for every run
            (runs / "scratch" / "cache").mkdir(parents=True)
            (runs / "scratch" / "cache" / "random").symlink_to(args.models / "random")
        command = [sys.executable, "-m", "qvl_run", "run", "job.yaml"]
        process = subprocess.Popen(command, cwd=here, env=environment(args.cap))
        ram = HostMemory()
        with ram.watching(process.pid):
            end(process, args.seconds)
        (args.out / f"{name}.yaml").write_text(job.read_text())
        noted = {
            "cap": args.cap,
            "beside": args.beside,
            "completion": args.completion,
            "gpu": gpu_name(),
        }
        found = [{**one, **noted, "ram": ram.most.get(one["stage"])} for one in stages(runs)]
    (args.out / f"{name}.json").write_text(json.dumps(found, indent=1))
    for one in found:
        print(line(one), flush=True)
    print(f"{name}: ended with {process.returncode}; RAM {dict(ram.most)}", flush=True)
    sys.exit(process.returncode)


def end(process: subprocess.Popen[bytes], seconds: float | None) -> None:
    """Wait for the run; after `seconds` have it save and stop, and end it where it does not within `SAVING`."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(SAVING)
        except subprocess.TimeoutExpired:
            process.kill()  # what its finished stages left is still worth having
            process.wait()


def environment(cap: float) -> dict[str, str]:
    """Variables under which PyTorch's allocator takes no more than `cap` GiB."""
    gpu = hardware.probe().gpu
    assert gpu is not None
    share = cap * GIB / gpu.vram
    allocator = f"per_process_memory_fraction:{share:.5f},expandable_segments:True"
    plugins = os.pathsep.join(filter(None, (str(PLUGIN), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTORCH_ALLOC_CONF": allocator, "PYTHONPATH": plugins}


def stages(runs: Path) -> Iterator[dict[str, Any]]:
    """What each stage left word of."""
    for output in sorted((runs / "checkpoints").glob("*/final*/manifest.json")):
        manifest = json.loads(output.read_text())
        facts, stage = manifest["facts"], manifest["stage"]
        found = {
            "job": runs.name,
            "stage": stage,
            "steps": manifest["step"],
            "loop_seconds": facts.get("loop_seconds"),
            "seconds": facts.get("seconds"),
            "memory": facts.get("memory", {}),
            "training": manifest["identity"]["training"],
        }
        for checkpoint in sorted((runs / "checkpoints" / stage).glob("checkpoint-*")):
            found |= training(checkpoint)
        yield found


def training(checkpoint: Path) -> dict[str, Any]:
    """Losses and gradients of the steps up to `checkpoint`, and where fp16's loss scale has come to."""
    import torch

    log = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    found: dict[str, Any] = {
        name: [entry[name] for entry in log if name in entry]
        for name in ("loss", "grad_norm", "kl")
    }
    scaler = checkpoint / "scaler.pt"
    if scaler.exists():
        found["scale"] = torch.load(scaler, weights_only=True)["scale"]
    schedule = torch.load(checkpoint / "scheduler.pt", weights_only=True)
    found["applied"] = schedule["last_epoch"]
    return found


def gpu_name() -> str:
    """The GPU's name."""
    gpu = hardware.probe().gpu
    assert gpu is not None
    return gpu.name


def line(one: Mapping[str, Any]) -> str:
    """A stage for people."""
    memory, seconds = one["memory"], one["loop_seconds"]
    text = f"{one['job']} {one['stage']}: {one['steps']} steps"
    if memory:
        peak, predicted = memory["training"], memory["predicted"]
        text += (
            f", measured {peak / GIB:.2f} GiB, predicted {predicted / GIB:.2f} ({predicted / peak - 1:+.1%}), "
            f"reserved {memory['reserved'] / GIB:.2f}, longest row {memory['tokens']:.0f} tokens"
        )
    if seconds and one.get("loss"):
        losses = one["loss"]
        batch = one["training"]["global_batch"]
        finite = all(math.isfinite(loss) for loss in losses)
        text += (
            f", {one['steps'] * batch / seconds:.2f} samples/s, loss {losses[0]:.3f} -> {losses[-1]:.3f}"
            f"{'' if finite else ' NOT FINITE'}, applied {one['applied']}, scale {one.get('scale')}"
        )
    return text


def table(args: argparse.Namespace) -> None:
    """All that was noted."""
    for path in sorted(args.out.glob("*.json")):
        for one in json.loads(path.read_text()):
            print(line(one))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    running = verbs.add_parser("run")
    running.add_argument("job")
    running.add_argument(
        "--stages", type=lambda text: text.split(","), default=["sft", "dpo", "grpo"]
    )
    running.add_argument(
        "--cap", type=float, required=True, help="GiB that PyTorch's allocator may take"
    )
    running.add_argument("--precision", default="auto")
    running.add_argument("--steps", type=int, default=20)
    running.add_argument(
        "--completion", type=int, help="most tokens of a completion; else the job's"
    )
    running.add_argument("--merge", action="store_true", help="merge the adapter in the end")
    running.add_argument(
        "--models", type=Path, help="where random weights lie already, below random/"
    )
    running.add_argument("--work", type=Path, help="a folder with room for the run")
    running.add_argument(
        "--beside", type=int, default=0, help="other programs at work on the GPU: noted"
    )
    running.add_argument("--seconds", type=float, help="ask it to stop after so long")
    running.add_argument("--out", type=Path, default=Path("build/jobs"))
    running.set_defaults(verb=run)
    showing = verbs.add_parser("table")
    showing.add_argument("out", type=Path)
    showing.set_defaults(verb=table)
    args = parser.parse_args()
    sys.path.insert(0, str(PLUGIN))
    args.verb(args)


if __name__ == "__main__":
    main()
