"""`qvl-run init`: a commented job from a few answers."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from qvl_run import hardware, plugins
from qvl_run.contract import Kind
from qvl_run.hardware import Gpu
from qvl_run.plan import decide
from qvl_run.spec.diagnostic import Diagnostic, JobError, did_you_mean
from qvl_run.units import show_size

MODEL = "Qwen/Qwen3-VL-2B-Instruct"
_ROWS = {
    "sft": "question and answer",
    "preference": "question, chosen and rejected",
    "prompt": "question and answer",
}
_OWN = {
    "dpo": "    training: {learning_rate: 1e-5}\n"
    "    with: {beta: 0.1}                # how strongly it is held to the stage it starts from\n",
    "grpo": "    training: {learning_rate: 1e-5}\n"
    "    with: {num_generations: 4, rewards: [exact_answer]}\n",
}


def main(
    path: Path,
    *,
    model: str | None,
    tier: str | None,
    stages: str | None,
    data: str | None,
    force: bool,
) -> None:
    """Write the job to `path`. Asks for what no option gives, on a terminal. Raises JobError."""
    if path.exists() and not force:
        raise _wrong(f"{path} is there already", "name another file, or give --force")
    if not path.parent.is_dir():
        raise _wrong(f"there is no folder {path.parent}")
    tier, colab = _chosen(tier)
    model = model or _ask("Base model", "qvl-tiny" if tier == "cpu" else MODEL)
    names = [name.strip() for name in (stages or _ask("Stages", "sft")).split(",") if name.strip()]
    known = plugins.installed("qvl.stages")
    for name in names:
        if name not in known:
            raise _wrong(f'there is no stage "{name}"', did_you_mean(name, known))
    if not names:
        raise _wrong("a job needs a stage", f"known: {', '.join(known)}")
    data = data or _ask("Rows to train on (JSONL)", "data/train.jsonl")
    text = job(path.stem, model=model, tier=tier, colab=colab, stages=names, data=data)
    path.write_text(text, encoding="utf-8")
    click.echo(
        f"{path} written.\n\n  qvl-run validate {path}\n  qvl-run plan {path}\n  qvl-run {path}"
    )


def job(name: str, *, model: str, tier: str, colab: bool, stages: list[str], data: str) -> str:
    """The text of a job, with the places of Colab for its files where it is to run there. Each stage after the first
    reads rows of its own, named after it."""
    machine = hardware.profile(tier)
    lines = [
        "# For an editor that knows YAML: qvl-run schema > job.schema.json, and as the first line here",
        "#   yaml-language-server: $schema=job.schema.json",
        f"# Run it, and run it again after every disconnect: qvl-run {name}.yaml",
        "version: 1",
        f"name: {_plain(name)}",
    ]
    if machine.gpu:
        lines.append(
            f"hardware: {{tier: {tier}}}              # {show_size(machine.gpu.vram)} of GPU memory"
        )
    if machine.gpu and colab:
        lines.append("storage:")
        lines.append(
            "  drive: /content/drive/MyDrive/qwen3_vl_training   # outlives the machine; any folder will do"
        )
        lines.append("  scratch: /content/qvl_run          # on the machine's own disk")
    lines += _model(model, fitted=machine.gpu is not None)
    lines += [
        "training:                            # for every stage; a stage may change any of it",
        "  learning_rate: 1e-4",
        "  global_batch_size: 8               # rows of one step; how many at once is chosen to fit the GPU",
        "  max_seq_length: 2048               # tokens of the longest row; memory is counted with it",
        "  save_steps: 20                     # what a disconnect can cost",
        "stages:                              # each starts from the one before it",
    ]
    text = "\n".join(lines) + "\n"
    for position, uses in enumerate(stages):
        text += _stage(uses, data if position == 0 else str(Path(data).with_name(f"{uses}.jsonl")))
    precision = decide.precision(machine.gpu)
    return text + f"# precision will be {precision.value}: {precision.rule}\n"


def _model(name: str, *, fitted: bool) -> list[str]:
    """What is left to `auto` is fitted to a GPU alone."""
    if not fitted:
        return [f"model: {{name: {name}, lora: {{r: 16}}}}"]
    return [
        "model:",
        f"  name: {name}",
        "  quantization: auto                 # none where the weights fit the GPU as they are, else nf4",
        "  image_tokens: auto                 # the largest pictures that fit",
        "  lora: {r: 16}",
    ]


def _stage(uses: str, data: str) -> str:
    kind: Kind | None = plugins.stage(uses).data_kind
    text = f"  {uses}:\n    uses: {uses}\n"
    if kind is not None:
        text += f"    data: {{format: jsonl, path: {data}}}   # rows of image, {_ROWS[kind]}\n"
    return text + _OWN.get(uses, "")


def _ask(question: str, default: str) -> str:
    if not sys.stdin.isatty():
        return default
    answer: str = click.prompt(question, default=default)
    return answer


def _chosen(wanted: str | None) -> tuple[str, bool]:
    """The tier, and whether the job is for Colab. A machine with a GPU that is not Colab's is asked about itself."""
    here = None if wanted else hardware.probe()
    nearest = "t4" if here is None or here.gpu is None else tier_of(here.gpu)
    word = wanted or _ask("GPU it is for", nearest)
    tier = hardware.named(word)
    if tier is None:
        raise _wrong(f'there is no tier "{word}"', hardware.meant(word))
    at_home = here is not None and here.gpu is not None and not here.colab and tier == nearest
    return tier, hardware.profile(tier).colab and not at_home


def tier_of(gpu: Gpu) -> str:
    """The tier with that very card, else the largest that is no larger, else the smallest."""
    cards = {tier: p.gpu for tier, p in hardware.PROFILES.items() if p.gpu}
    same = [tier for tier, card in cards.items() if card.name == gpu.name]
    fitting = [tier for tier in same if cards[tier].vram <= gpu.vram] or [
        tier for tier, card in cards.items() if card.vram <= gpu.vram and tier not in hardware.GONE
    ]
    if fitting:
        return max(fitting, key=lambda tier: cards[tier].vram)
    return min(cards, key=lambda tier: cards[tier].vram)


def _plain(name: str) -> str:
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in name).strip(
        "-_"
    )
    return kept[:64] or "job"


def _wrong(message: str, hint: str = "") -> JobError:
    return JobError([Diagnostic(code="QVL010", message=message, hint=hint)])
