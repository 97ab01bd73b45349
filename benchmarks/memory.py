"""Memory of the GPU: predicted beside measured, for the settings of `memory_settings`. Needs a CUDA GPU.

    python benchmarks/memory.py measure --out build/memory.jsonl [--part 1/3] [--model random:...] [--quantization nf4]
    python benchmarks/memory.py table build/memory.jsonl

Each setting trains two optimizer steps on the real trainers, on a model of the real sizes with random weights. What is
measured is the most that PyTorch's allocator held in tensors; what it had reserved is told beside it. Several of these
may run side by side: each sees its own memory alone.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rows
from memory_settings import Setting, settings
from meter import Meter, dtypes, listen, watch

from qvl_run import plugins
from qvl_run.contract import Peak
from qvl_run.settings import (
    DataSettings,
    LoraSettings,
    ModelSettings,
    StageSettings,
    TrainingSettings,
)
from qvl_run.spec.schema import with_defaults
from qvl_trl.memory.predict import training_peak
from qvl_trl.memory.shape import Shape
from qvl_trl.models.architecture import architecture

KINDS = {"sft": "sft", "dpo": "preference", "grpo": "prompt"}
STEPS = 2
GIB = 2**30
PLUGIN = Path(__file__).resolve().parent / "plugin"
"""Has the reward `chance`."""
MEASURED = Path(__file__).resolve().parent / "measured"


@dataclass
class Context:
    """As much of a `StageContext` as a trainer asks for."""

    settings: StageSettings
    scratch: Path
    cache: Path
    input: Path | None = None
    resume_from: Path | None = None

    def progress(self, section: str, **_: Any) -> None: ...

    def commit_checkpoint(self, folder: Path, *, step: int) -> None: ...

    def stop_requested(self) -> bool:
        return False

    def save_requested(self) -> bool:
        return False


def stage_settings(setting: Setting) -> StageSettings:
    """`setting` as a job says it."""
    rank = setting.rank
    lora = (
        None
        if rank is None
        else LoraSettings(r=rank, alpha=2 * rank, target_modules=setting.targets)
    )
    options: dict[str, Any] = {}
    if setting.uses == "grpo":
        options = {
            "num_generations": setting.generations,
            "max_completion_length": setting.completion,
            "rewards": ["chance"],
        }
    return StageSettings(
        name=setting.uses,
        uses=setting.uses,
        model=ModelSettings(
            name=setting.model,
            precision=setting.precision,
            quantization=setting.quantization,
            attention=setting.attention,
            lora=lora,
            image_tokens=(64, 4096),
        ),
        training=TrainingSettings(
            max_steps=STEPS,
            per_device_train_batch_size=setting.batch,
            gradient_accumulation_steps=setting.accumulation,
            gradient_checkpointing=setting.checkpointing,
            optim=setting.optim,
            learning_rate=1e-4,
            save_steps=10**6,
            logging_steps=1,
        ),
        data=DataSettings(format="jsonl", path="rows.jsonl"),
        options=with_defaults(options, plugins.stage(setting.uses).schema),
    )


def measure(setting: Setting, *, folder: Path) -> dict[str, Any]:
    """What `setting` takes, predicted and measured."""
    import torch

    from qvl_trl.policy.artifact import save_artifact
    from qvl_trl.policy.load import load_policy
    from qvl_trl.policy.lora import unrounded
    from qvl_trl.rows import to_dataset
    from qvl_trl.training import dpo, grpo, sft

    chosen = stage_settings(setting)
    # fp16 is for GPUs without bf16, which have no flash kernel either.
    torch.backends.cuda.enable_flash_sdp(setting.precision != "fp16")
    torch.backends.cuda.enable_cudnn_sdp(False)
    gc.collect()
    torch.cuda.empty_cache()
    # What an earlier setting left behind.
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        ctx = Context(chosen, scratch=Path(scratch), cache=folder)
        start = None
        policy = load_policy(chosen.model, start=None, seed=0, ctx=ctx)
        if setting.follows:
            start = Path(scratch) / "adapter"
            save_artifact(policy, start)
            del policy
            gc.collect()
            policy = load_policy(chosen.model, start=start, seed=0, ctx=ctx)
        meter = Meter()
        meter.phase("load")
        data = rows.write(
            Path(scratch) / "rows",
            count=STEPS * setting.batch * setting.accumulation,
            tokenizer=policy.processor.tokenizer,
            image=setting.image,
            question_tokens=setting.question,
            answer_tokens=setting.answer,
        )
        kind = KINDS[setting.uses]
        read = DataSettings(format="jsonl", path=str(data[kind]))
        examples = plugins.data_format("jsonl").examples(read, kind=kind, cache=ctx.scratch)
        method: Any = {"sft": sft.Sft, "dpo": dpo.Dpo, "grpo": grpo.Grpo}[setting.uses]()
        with unrounded(policy.model):
            trainer, _ = method.trainer(ctx, policy, to_dataset(examples))
        watch(trainer, meter)
        listen(policy.model, meter)
        began = time.perf_counter()
        trainer.train()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        meter.phase("between")
        shape = trainer.seen.shape()
        assert shape is not None
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        found = {
            "setting": asdict(setting),
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "shape": asdict(shape),
            "before": before,
            "measured": meter.peaks,
            "reserved": meter.reserved,
            "losses": losses,
            "dtypes": {**dtypes(policy.model), **meter.arriving},
            "seconds": seconds,
            "host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        del trainer, policy
    if "bitsandbytes" in sys.modules:
        # It keeps embeddings that were given an optimizer of their own, for as long as the process lives.
        from bitsandbytes.optim import GlobalOptimManager

        GlobalOptimManager.get_instance().initialize()
    return found


def chosen_settings(args: argparse.Namespace) -> Sequence[Setting]:
    """Those that the command line asks for."""
    known = recorded()
    found = [
        one
        for one in settings()
        if args.only in (None, one.uses)
        and args.model in (None, one.model)
        and (args.quantization is None or one.quantization in args.quantization.split(","))
        and (one.held_out or not args.held_out)
        and not (args.missing and one in known)
    ]
    part, parts = (int(text) for text in args.part.split("/"))
    return found[part - 1 :: parts]


def recorded() -> list[Setting]:
    """Those that `measured/` holds."""
    return [
        to_setting(json.loads(text)["setting"])
        for path in sorted(MEASURED.glob("memory-*.jsonl"))
        for text in path.read_text(encoding="utf-8").splitlines()
    ]


def to_setting(values: Mapping[str, Any]) -> Setting:
    """A setting from its record; JSON has no tuples."""
    return Setting(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def run(args: argparse.Namespace) -> None:
    """Measure, a line each."""
    import torch

    args.cache.mkdir(parents=True, exist_ok=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + args.seconds
    with args.out.open("a") as out:
        for setting in chosen_settings(args):
            if time.monotonic() > until:
                print("out of time", flush=True)
                break
            began = time.monotonic()
            try:
                found = measure(setting, folder=args.cache)
            except Exception as error:  # the others are still worth measuring
                print(f"failed: {setting}: {type(error).__name__}: {error}", flush=True)
                gc.collect()
                torch.cuda.empty_cache()
                continue
            out.write(json.dumps(found) + "\n")
            out.flush()
            print(line(found), f"{time.monotonic() - began:.1f} s", flush=True)


def line(found: Mapping[str, Any]) -> str:
    """One measurement for people."""
    one = to_setting(found["setting"])
    measured, expected = peak(found["measured"]), predicted(found)
    ratio = expected.total / measured
    name = one.model.split("-VL-")[-1].split("-")[0]
    return (
        f"{one.uses:5}{name} {one.precision} {one.quantization:5} r{one.rank} {one.batch}x{one.accumulation} "
        f"{'ckpt' if one.checkpointing else 'full'} {one.image[0]}x{one.image[1]} {found['shape']['prompt']}+"
        f"{found['shape']['answer']} "
        f"measured {measured / GIB:.3f} predicted {expected.total / GIB:.3f} ({expected.phase}) "
        f"{ratio - 1:+.1%}{' held out' if one.held_out else ''}"
    )


def predicted(found: Mapping[str, Any]) -> Peak:
    """What is predicted today for the rows that a measurement saw."""
    setting = to_setting(found["setting"])
    sizes = architecture(setting.model)
    assert sizes is not None
    return training_peak(stage_settings(setting), sizes, Shape(**found["shape"]))


def peak(measured: Mapping[str, int]) -> int:
    """The most while training: loading is done before."""
    return max(value for name, value in measured.items() if name != "load")


def table(args: argparse.Namespace) -> None:
    """All that was measured, and the largest error of both kinds."""
    found = [json.loads(text) for path in args.files for text in path.read_text().splitlines()]
    for one in found:
        print(line(one))
    for name, group in (
        ("fitted", [one for one in found if not one["setting"]["held_out"]]),
        ("held out", [one for one in found if one["setting"]["held_out"]]),
    ):
        errors = [predicted(one).total / peak(one["measured"]) - 1 for one in group]
        if errors:
            print(f"{name}: {len(errors)} settings, error {min(errors):+.1%} to {max(errors):+.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    measuring = verbs.add_parser("measure")
    measuring.add_argument("--out", type=Path, default=Path("build/memory.jsonl"))
    measuring.add_argument(
        "--cache", type=Path, default=Path("build/models"), help="where random weights are kept"
    )
    measuring.add_argument("--part", default="1/1")
    measuring.add_argument("--only", choices=KINDS)
    measuring.add_argument("--model")
    measuring.add_argument("--quantization", help="several with commas")
    measuring.add_argument("--held-out", action="store_true", help="the held-out settings alone")
    measuring.add_argument(
        "--missing", action="store_true", help="those alone that `measured/` has no record of"
    )
    measuring.add_argument(
        "--seconds", type=float, default=1e9, help="begin no setting after so long"
    )
    measuring.set_defaults(verb=run)
    showing = verbs.add_parser("table")
    showing.add_argument("files", type=Path, nargs="+")
    showing.set_defaults(verb=table)
    args = parser.parse_args()
    sys.path.insert(0, str(PLUGIN))
    args.verb(args)


if __name__ == "__main__":
    main()
