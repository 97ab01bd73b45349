"""What a job says that its schemas cannot judge: keys that contradict each other, and keys that nothing would read.

Each check is a small generator over the job; all of them run, and all findings are told at once. Pure but for asking
whether a data file is there, and how many rows it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from qvl_run import plugins
from qvl_run.hardware import PROFILES
from qvl_run.hardware.facts import dotted
from qvl_run.spec.data_check import data_of
from qvl_run.spec.diagnostic import Diagnostic, Severity, Span
from qvl_run.spec.document import Key
from qvl_run.spec.job import Job, StageSpec
from qvl_run.spec.paths import exists, is_file
from qvl_run.spec.recovery_check import recovery_findings
from qvl_run.spec.resolve import model_settings, provisional_settings
from qvl_run.units import show_unlike, sold_as

At = tuple[Key, ...]
SHORTEST_SESSION = 1200.0
LONG = 50
"""Steps from which on a stage is too long to be lost, so that the default save interval is spoken of too."""


def meaning_findings(job: Job) -> Iterator[Diagnostic]:
    """What every check finds. What two stages say alike of a value that they share is told once."""
    yield from dict.fromkeys(_each(job))


def _each(job: Job) -> Iterator[Diagnostic]:
    for check in (_tier, _session, _storage, _stage_folders, recovery_findings):
        yield from check(job)
    for stage in job.stages:
        for stage_check in _STAGE_CHECKS:
            yield from stage_check(job, stage)


def _plugins_own(job: Job, stage: StageSpec) -> Iterator[Diagnostic]:
    for found in plugins.stage(stage.uses).check(provisional_settings(stage)):
        keys = [tuple(map(_key, path.split("."))) for path in found.path.split(" ")]
        written = (
            k for k in keys if job.document.has(("stages", stage.name, *k)) or job.document.has(k)
        )
        span = _stage_span(job, stage, *next(written, keys[0]))
        yield _finding(job, "QVL210", found.message, span, found.hint, severity=found.severity)


def _key(text: str) -> Key:
    """The number of an entry of a list, else a key."""
    return int(text) if text.isdigit() else text


def _data_files(job: Job, stage: StageSpec) -> Iterator[Diagnostic]:
    for key, data, _ in data_of(stage):
        data_format = plugins.data_format(data.format)
        at = _data_at(job, stage, key)
        if data_format.location == "file" and data.path and not is_file(Path(data.path)):
            hint = "a path is relative to the file that says it"
            message = f"there is no data file {job.shown(data.path)}"
            yield _finding(job, "QVL302", message, job.document.span((*at, "path")), hint)
        for name in ("split", "revision"):
            if data_format.location != "hub" and getattr(data, name) is not None:
                message = f"{data.format} reads no {name}: it is for data sets of the hub"
                yield _finding(job, "QVL211", message, job.document.key_span((*at, name)))


def _images(job: Job, stage: StageSpec) -> Iterator[Diagnostic]:
    model, longest = provisional_settings(stage).model, stage.training.max_seq_length
    if model.image_tokens is None:
        return
    least, most = model.image_tokens
    span = _stage_span(job, stage, "model", "image_tokens")
    if least > most:
        message = f"image_tokens is [least, most], but {least} is more than {most}"
        yield _finding(job, "QVL212", message, span)
    elif longest is not None and most >= longest:
        message = f"an image of {most} tokens leaves no room in a max_seq_length of {longest}"
        hint = f"image_tokens: [{min(least, longest // 2)}, {longest // 2}], or a longer sequence"
        yield _finding(job, "QVL212", message, span, hint)


def _full_fine_tune(job: Job, stage: StageSpec) -> Iterator[Diagnostic]:
    model = provisional_settings(stage).model
    if model.lora is None and model.quantization != "none":
        message = f"weights in {model.quantization} cannot be trained: without LoRA nothing is left to train"
        span = _stage_span(job, stage, "model", "quantization")
        yield _finding(job, "QVL213", message, span, "quantization: none, or a lora: {...}")


def _hand_over(job: Job, stage: StageSpec) -> Iterator[Diagnostic]:
    """A stage continues its upstream's adapter, or its full model: what both say of the model must agree."""
    if stage.upstream is None:
        return
    above = next(s for s in job.stages if s.name == stage.upstream)
    mine, theirs = (
        model_settings(s.model, precision="fp32", attention="sdpa") for s in (stage, above)
    )
    for name, one, other in (
        ("name", mine.name, theirs.name),
        ("revision", mine.revision, theirs.revision),
    ):
        if one != other:
            message = (
                f"{stage.name} starts from {above.name}, whose model.{name} is {other}, not {one}"
            )
            yield _finding(job, "QVL214", message, _stage_span(job, stage, "model", name))
    span = _stage_span(job, stage, "model", "lora")
    if mine.lora is None and theirs.lora is not None:
        message = (
            f"{above.name} leaves an adapter; {stage.name} with lora: null cannot go on with it"
        )
        yield _finding(job, "QVL214", message, span, "give both stages the same lora")
    elif mine.lora is not None and theirs.lora is not None and mine.lora != theirs.lora:
        message = (
            f"{stage.name} goes on with the adapter of {above.name}, so its lora must be the same"
        )
        yield _finding(job, "QVL214", message, span, "set lora once, in the job's model")


def _steps(job: Job, stage: StageSpec) -> Iterator[Diagnostic]:
    training, own_at = stage.training, ("stages", stage.name, "training")
    total = plugins.stage(stage.uses).estimate(provisional_settings(stage)).optimizer_steps
    written = any(job.document.has((*at, "save_steps")) for at in (own_at, ("training",)))
    if total is not None and training.save_steps > total and (written or total >= LONG):
        steps = "1 step" if total == 1 else f"{total} steps"
        message = (
            f"{stage.name} has {steps}, so save_steps {training.save_steps} saves only at its end"
        )
        span = _stage_span(job, stage, "training", "save_steps")
        hint = "a disconnect would cost the whole stage; choose a smaller number"
        yield _finding(job, "QVL215", message, span, hint, severity="warning")
    if training.warmup_ratio and training.lr_scheduler_type == "constant":
        message = "the constant schedule has no warm-up, so warmup_ratio would do nothing"
        span = _stage_span(job, stage, "training", "warmup_ratio")
        yield _finding(job, "QVL216", message, span, "lr_scheduler_type: constant_with_warmup")
    if training.lr_scheduler_type == "constant_with_warmup" and not training.warmup_ratio:
        message = "constant_with_warmup needs a warmup_ratio above 0"
        span = _stage_span(job, stage, "training", "lr_scheduler_type")
        yield _finding(job, "QVL216", message, span)
    own = job.document.data["stages"][stage.name].get("training", {})
    for keys, at in (
        (own, ("stages", stage.name, "training")),
        (job.document.data.get("training", {}), ("training",)),
    ):
        if keys.get("max_steps") is not None and "num_epochs" in keys:
            message = "max_steps overrides num_epochs, which would do nothing"
            span = job.document.key_span((*at, "num_epochs"))
            yield _finding(job, "QVL216", message, span, "leave one of them out")


def _tier(job: Job) -> Iterator[Diagnostic]:
    """What the tier that the job names can never give it, on any such machine."""
    wants, document = job.hardware, job.document
    if wants.tier is None:
        return
    gpu, least = PROFILES[wants.tier].gpu, wants.min_compute_capability
    if wants.min_vram is not None:
        span = document.span(("hardware", "min_vram"))
        if gpu is None:
            yield _finding(job, "QVL217", "the tier cpu has no GPU memory to ask for", span)
        elif gpu.vram < wants.min_vram:
            has, asked = show_unlike(gpu.vram, wants.min_vram)
            message = f"the tier {wants.tier} has {has}, less than the {asked} asked for"
            hint = sold_as(gpu.vram, asked=wants.min_vram)
            hint += ", or leave it out, the tier says it" if hint else ""
            yield _finding(job, "QVL217", message, span, hint)
    if least is not None and (gpu is None or gpu.capability < least):
        has = "no GPU" if gpu is None else f"compute capability {gpu.dotted}"
        message = f"the tier {wants.tier} has {has}, not the {dotted(least)} asked for"
        span = document.span(("hardware", "min_compute_capability"))
        yield _finding(job, "QVL217", message, span)


def _session(job: Job) -> Iterator[Diagnostic]:
    """A run saves and stops some minutes before the session's end: a short session would be over at its start."""
    session = job.hardware.max_session
    if session is not None and session < SHORTEST_SESSION:
        message = "a session this short has no time to train: the run saves and stops minutes before its end"
        span = job.document.span(("hardware", "max_session"))
        yield _finding(job, "QVL217", message, span, "at least 20min, or leave it out")


def _storage(job: Job) -> Iterator[Diagnostic]:
    drive, scratch = job.storage.drive, job.storage.scratch
    span = job.document.span(("storage", "drive"))
    if drive is not None and scratch is not None and (drive == scratch or drive in scratch.parents):
        message = "scratch lies on the drive: it is for the machine's own disk, which is fast and does not go away"
        yield _finding(job, "QVL218", message, job.document.span(("storage", "scratch")))
    if job.storage.mirror_rate < 64 * 1024:
        message = "storage.mirror_rate is too slow for any checkpoint to arrive"
        yield _finding(
            job,
            "QVL218",
            message,
            job.document.span(("storage", "mirror_rate")),
            "64MiB suits most",
        )
    if drive is not None and any(exists(p / ".git") for p in (drive, *drive.parents)):
        message = f"storage.drive lies inside a git repository: {job.shown(str(drive))}"
        hint = "checkpoints are large; choose a folder outside of it"
        yield _finding(job, "QVL218", message, span, hint, severity="warning")


def _stage_folders(job: Job) -> Iterator[Diagnostic]:
    seen: dict[str, str] = {}
    for stage in job.stages:
        other = seen.setdefault(stage.name.casefold(), stage.name)
        if other != stage.name:
            message = f"stages {other} and {stage.name} would write to one folder where case does not count"
            yield _finding(job, "QVL219", message, job.document.key_span(("stages", stage.name)))


_STAGE_CHECKS: tuple[Callable[[Job, StageSpec], Iterator[Diagnostic]], ...] = (
    _plugins_own,
    _data_files,
    _images,
    _full_fine_tune,
    _hand_over,
    _steps,
)


def _finding(
    job: Job, code: str, message: str, span: Span, hint: str = "", *, severity: Severity = "error"
) -> Diagnostic:
    return Diagnostic(
        code=code, message=job.shown(message), span=span, hint=hint, severity=severity
    )


def _stage_span(job: Job, stage: StageSpec, *path: Key) -> Span:
    return job.document.stage_span(stage.name, *path)


def _data_at(job: Job, stage: StageSpec, key: tuple[str, ...]) -> At:
    own = ("stages", stage.name, *key)
    return own if job.document.has(own) else key
