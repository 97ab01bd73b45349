"""Every diagnostic code: what it means and what to do. `qvl-run explain` and docs/diagnostics.md are made from this.

Codes are stable: one is never given another meaning. The hundreds group them: 0 files and the command line, 1 schema,
2 meaning, 3 data, 4 the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Code:
    """One code: a title in a few words, the long answer, and a piece of a job that has it, with its cure."""

    title: str
    text: str
    wrong: str = ""
    right: str = ""


CODES: Mapping[str, Code] = {
    "QVL001": Code(
        title="a job file cannot be read",
        text="There is no file of that name, or this user may not read it. A name without a path also stands for a "
        "shipped job: `qvl-run jobs` lists them.",
    ),
    "QVL002": Code(
        title="a file is no job file by its size or its encoding",
        text="A job file is UTF-8 text of at most 128,000 bytes, nested at most 60 deep, with at most 50,000 nodes "
        "once its aliases are expanded. Real jobs are far smaller; the bounds keep a damaged or hostile file from "
        "taking time and memory.",
    ),
    "QVL003": Code(
        title="not valid YAML",
        text="The text cannot be read as YAML 1.2. Usual causes: a bracket or quote that is not closed, a tab in the "
        "indentation, a value with `: ` in it that is not in quotes, the marks of a merge conflict.",
        wrong="name: my run: the second",
        right='name: "my run: the second"',
    ),
    "QVL004": Code(
        title="the file is empty, or no map",
        text="A job is one map of keys at its top: version, name, model, stages.",
        wrong="- version: 1",
        right="version: 1",
    ),
    "QVL005": Code(
        title="a key that stands twice, or is no text",
        text="Of two equal keys one would be lost silently, so it is refused. `<<` merges a map, or a list of maps; "
        "a key that stands beside it wins.",
        wrong="training: {save_steps: 10, save_steps: 20}",
        right="training: {save_steps: 20}",
    ),
    "QVL006": Code(
        title="a tag that is not allowed",
        text="Tags that make objects are never followed. Only the core types of YAML and `!reset` are known.",
        wrong="name: !!python/name:os.system",
        right="name: demo",
    ),
    "QVL010": Code(
        title="a wrong option on the command line",
        text="An option names what the job does not have, or two options contradict each other.",
    ),
    "QVL011": Code(
        title="a checkpoint that cannot be resumed from",
        text="The folder that --resume-from names is not whole, has no optimizer state, or was made with settings that "
        "give another result; the message says which. --init-from starts the stage from its weights instead.",
    ),
    "QVL012": Code(
        title="a plan that no longer holds",
        text="`run --plan` runs exactly what a saved plan says. The job, its data, the machine or what storage holds "
        "has changed since; make the plan anew and look at it.",
    ),
    "QVL021": Code(
        title="jobs extend each other in a circle",
        text="`extends` must lead to a file that extends nothing.",
    ),
    "QVL022": Code(
        title="a job to extend that is not there",
        text="`extends` takes the path of a job file, relative to the file that says it, the name of a shipped job, or "
        "a list of these, in which later ones are laid over earlier ones.",
        wrong="extends: t4_full_pipelin",
        right="extends: t4_full_pipeline",
    ),
    "QVL023": Code(
        title="a URL where a job file belongs",
        text="Jobs are read from files only, so that a job cannot change without anybody noticing. Download it first.",
    ),
    "QVL024": Code(
        title="a --set option that is no KEY=VALUE",
        text="KEY is the path of a key with dots, VALUE is read as it would be in the file.",
        wrong="--set stages.sft.training.num_epochs 2",
        right="--set stages.sft.training.num_epochs=2",
    ),
    "QVL101": Code(
        title="an unknown key",
        text="No key is ever ignored: a misspelled one would train with a default, silently.",
        wrong="training: {epochs: 3}",
        right="training: {num_epochs: 3}",
    ),
    "QVL102": Code(
        title="a key that is missing",
        text="The key has no default, because no value would be right for all.",
    ),
    "QVL103": Code(
        title="a value of the wrong type",
        text='YAML 1.2 decides what a value is: `yes` and `on` are text, `1e-4` is a number, `"1"` is text.',
        wrong='training: {num_epochs: "1"}',
        right="training: {num_epochs: 1}",
    ),
    "QVL104": Code(
        title="a value that is not one of those allowed",
        text="The key takes one of a few values; the hint names the nearest, or all.",
        wrong="model: {precision: fp61}",
        right="model: {precision: fp16}",
    ),
    "QVL105": Code(
        title="a value out of its bounds, or in the wrong form",
        text="Sizes are written `14GiB`, durations `12h` or `90min`; numbers have the bounds that the message names.",
        wrong="hardware: {max_session: 12 hours}",
        right="hardware: {max_session: 12h}",
    ),
    "QVL201": Code(
        title="data for a stage that takes none", text="The stage named by `uses` reads no rows."
    ),
    "QVL202": Code(
        title="a data format without rows of the kind that is needed",
        text="SFT needs questions with answers, DPO pairs of a chosen and a rejected answer, GRPO and evaluation "
        "questions. Not every format has all of them.",
        wrong="sft: {uses: sft, data: {format: rlhf_v, path: openbmb/RLHF-V-Dataset}}",
        right="dpo: {uses: dpo, data: {format: rlhf_v, path: openbmb/RLHF-V-Dataset}}",
    ),
    "QVL203": Code(
        title="a path for a format that generates its rows",
        text="The path would be read by nothing.",
    ),
    "QVL204": Code(
        title="a plugin that is not installed",
        text="No installed distribution has a stage, data format, reward or store of that name. `qvl-run plugins` "
        "lists what there is; a store is named by the scheme of its URL.",
    ),
    "QVL205": Code(
        title="a plugin that cannot be used",
        text="Its distribution cannot be imported, does not fit the contract, or shares a name with another one. The "
        "message names the distribution.",
    ),
    "QVL206": Code(
        title="a stage that needs one which is not there",
        text="`needs` names another stage of the job.",
    ),
    "QVL207": Code(
        title="both needs and init_from",
        text="A stage starts from another stage's output or from a folder, not from both.",
    ),
    "QVL208": Code(
        title="stages that need each other in a circle",
        text="One of them must start from the base model (`needs: null`) or from a folder (`init_from`). A stage "
        "without `needs` needs the one before it in the file.",
    ),
    "QVL210": Code(
        title="a setting that the stage cannot work with",
        text="The stage itself refuses it, before anything is loaded; the message says why.",
        wrong="training: {gradient_accumulation_steps: 6}   # with num_generations: 4",
        right="training: {gradient_accumulation_steps: 8}   # with num_generations: 4",
    ),
    "QVL211": Code(
        title="a key that the data format does not read",
        text="`split` and `revision` speak of data sets on the hub; for a file or generated rows they do nothing.",
    ),
    "QVL212": Code(
        title="an image budget that does not fit",
        text="An image whose tokens are cut fails in mid-training with `image features and image tokens do not match`. "
        "So the largest image must leave room for text in `max_seq_length`. One token is 32 x 32 pixels.",
        wrong="model: {image_tokens: [64, 2048]}   # with max_seq_length: 2048",
        right="model: {image_tokens: [64, 1024]}   # with max_seq_length: 2048",
    ),
    "QVL213": Code(
        title="a full fine-tune of quantized weights",
        text="Weights of 4 or 8 bits cannot take a gradient. Keep `lora`, or set `quantization: none`.",
    ),
    "QVL214": Code(
        title="stages that disagree about the model they hand over",
        text="A stage goes on with the adapter that the one before it leaves: same base model, same `lora`. Set them "
        "once, in the job's `model`.",
    ),
    "QVL215": Code(
        title="a save interval longer than the stage",
        text="The stage would save only at its end, and a disconnect would cost all of it.",
    ),
    "QVL216": Code(
        title="a training key that would do nothing",
        text="Another key overrides it, or the schedule has no use for it. A key that is accepted and read by nothing "
        "is how runs go wrong without anybody noticing.",
    ),
    "QVL217": Code(
        title="more than the tier has",
        text="`hardware.tier` and `hardware.min_vram` contradict each other: no machine of that tier has so much. A "
        "card shows less than the gigabytes it is sold by: a T4 of 16 GB has 14.7 GiB.",
    ),
    "QVL218": Code(
        title="a storage folder in a bad place",
        text="Scratch on the drive would be slow and fill its quota; a drive folder in a git repository ends up in "
        "commits.",
    ),
    "QVL219": Code(
        title="two stages that write to one place",
        text="Their names differ in case only, and not every file system tells them apart.",
    ),
    "QVL220": Code(
        title="a URL where a path belongs",
        text="Only data sets of the hub are downloaded, by their id.",
    ),
    "QVL221": Code(
        title="a storage path that climbs out",
        text="`..` in a storage folder depends on where the command is given. Write the whole path.",
    ),
    "QVL222": Code(
        title="an environment variable that is not set",
        text="`${env:NAME}` stands for the variable's value, which is never shown. It works in paths and model names.",
    ),
    "QVL223": Code(
        title="both a drive and a bucket",
        text="Checkpoints have one place that outlives the machine: a folder, such as a mounted Google Drive, or a "
        "bucket. `drive: !reset` drops one that is inherited.",
        wrong="storage: {drive: /content/drive/MyDrive/run, bucket: s3://my-bucket/run}",
        right="storage: {bucket: s3://my-bucket/run}",
    ),
    "QVL224": Code(
        title="a bucket's URL that cannot be used",
        text="`storage.bucket` takes a scheme, a bucket and a folder in it. Only plain names are taken: no `?`, no "
        "`#`, no backslash. `qvl-run plugins` lists the schemes that are installed.",
        wrong="storage: {bucket: my-bucket/qwen3_vl}",
        right="storage: {bucket: s3://my-bucket/qwen3_vl}",
    ),
    "QVL225": Code(
        title="a secret in the job file",
        text="A job file is copied, shown and committed. Credentials belong where s3fs and gcsfs look for them: "
        "environment variables, their own files, the role of the machine.",
        wrong="storage: {bucket: s3://KEY:SECRET@my-bucket/run}",
        right="storage: {bucket: s3://my-bucket/run}",
    ),
    "QVL226": Code(
        title="a rule of recovery that does nothing",
        text="The first rule that names a class of failure holds, so a later one for the same class is never asked. "
        "What a rule says of restarts is read only where it tries again, and making the training smaller helps only "
        "after `oom` and `ram`.",
        wrong="recovery: {rules: [{on: any, do: stop}, {on: oom, limit: 3}]}",
        right="recovery: {rules: [{on: oom, limit: 3}, {on: any, do: stop}]}",
    ),
    "QVL228": Code(
        title="a compute capability that no GPU has",
        text="It is written as NVIDIA does: a T4 has 7.5, an A100 8.0, a GPU of the G4 machines 12.0. "
        "The 80 of `sm_80` is 8.0.",
        wrong="hardware: {min_compute_capability: 80}",
        right="hardware: {min_compute_capability: 8.0}",
    ),
    "QVL230": Code(
        title="a global batch that its parts do not make",
        text="`per_device_train_batch_size` x `gradient_accumulation_steps` is the number of rows in one optimizer "
        "step. Where `global_batch_size` says that number, leave one of the two out, or both: then the split is chosen "
        "to fit the GPU and the result stays the same.",
        wrong="training: {global_batch_size: 8, per_device_train_batch_size: 3}",
        right="training: {global_batch_size: 8, per_device_train_batch_size: 2}",
    ),
    "QVL231": Code(
        title="a stage whose rows nothing bounds",
        text="Memory grows with the longest row. Without `training.max_seq_length` there is no bound to it, so GPU "
        "memory is not predicted, a job that does not fit is not refused beforehand, and what says `auto` stays at its "
        "default. A row that is longer than the bound is cut at its answer's end.",
        wrong="training: {global_batch_size: 8}",
        right="training: {global_batch_size: 8, max_seq_length: 2048}",
    ),
    "QVL301": Code(
        title="a row that cannot be used",
        text="The line is no JSON, lacks a key or its image, the image cannot be read, or the row's pictures fill "
        "`training.max_seq_length`, each with up to the second number of `model.image_tokens`. Rows are checked before "
        "anything is loaded; those that are wrong alike are told once, at the first of them. Keys of other names are "
        "given under the data's `with`.",
    ),
    "QVL302": Code(
        title="a data file that is not there",
        text="A relative path starts at the job file that says it.",
    ),
    "QVL401": Code(
        title="no GPU",
        text="The job asks for a GPU and none was found. On Colab the runtime type decides; elsewhere nvidia-smi must "
        "show one, and CUDA_VISIBLE_DEVICES must not hide it.",
    ),
    "QVL402": Code(
        title="too little GPU memory",
        text="The GPU has less than `hardware.min_vram`, or PyTorch is told to keep to less "
        "(`per_process_memory_fraction` in PYTORCH_ALLOC_CONF). The hint names a shipped job that needs less.",
    ),
    "QVL403": Code(
        title="a precision that the machine does not have",
        text="bf16 needs compute capability 8.0; below it torch emulates it, about twice as slow. fp16 needs a GPU. "
        "`precision: auto` takes the right one.",
    ),
    "QVL404": Code(
        title="needs a GPU", text="Quantization and 8-bit optimizers run on a GPU only."
    ),
    "QVL405": Code(
        title="an attention kernel that the machine does not run",
        text="FlashAttention 2 needs a GPU of compute capability 8.0, and half precision. `attention: auto` takes "
        "SDPA, which runs everywhere.",
    ),
    "QVL406": Code(
        title="a GPU that is too old",
        text="Its compute capability is below `hardware.min_compute_capability`. A T4 has 7.5, an A100 8.0, an L4 8.9, "
        "an H100 9.0.",
    ),
    "QVL407": Code(
        title="too little RAM",
        text="The machine has less memory than `hardware.min_ram`, used or not. A free Colab machine has 12.7 GiB.",
    ),
    "QVL410": Code(
        title="a library that is not installed",
        text='Checking and planning need little; training needs `pip install "qvl-run[train]"`, quantization and '
        "8-bit optimizers `[train,gpu]`, a bucket `[train,buckets]`; `attention: flash_attention_2` the package "
        "flash-attn.",
    ),
    "QVL411": Code(
        title="Google Drive is not mounted",
        text="Mounting works in a cell of the notebook only, not from a command: "
        '`from google.colab import drive; drive.mount("/content/drive")`. Elsewhere there is no such folder: name '
        "another as `storage.drive`, on the command line with `--set storage.drive=FOLDER`, or leave `storage` out.",
    ),
    "QVL412": Code(
        title="too little disk",
        text="The disk of `storage.scratch` has less free than `hardware.min_disk`.",
    ),
    "QVL413": Code(
        title="too little space where results go",
        text="The folder that outlives the machine has less free than `hardware.min_drive_space`. Compared is what its "
        "file system reports. On a mounted Google Drive that may be the account's quota or what the machine's disk has "
        "left to hold uploads; deleted files count until Drive's trash is emptied.",
    ),
    "QVL414": Code(
        title="space that cannot be told",
        text="`hardware.min_drive_space` is asked for, and the place that results go to does not say how much is free: "
        "a bucket never does, and a mount need not. A warning; the run is not held up.",
    ),
    "QVL415": Code(
        title="a GPU whose driver does not answer",
        text="NVIDIA's library is there and reports an error, or hangs: a driver that was updated beneath a running "
        "system, a GPU that has fallen off the bus, a container without access to it. nvidia-smi says the same. A "
        "restart of the machine, or of the Colab runtime, is the usual cure.",
    ),
    "QVL416": Code(
        title="several GPUs",
        text="A stage trains on one GPU, the first that CUDA_VISIBLE_DEVICES shows. The others stay idle.",
    ),
    "QVL417": Code(
        title="bf16 that is emulated",
        text="Below compute capability 8.0 `torch.cuda.is_bf16_supported()` is true nevertheless, because it counts "
        "emulation, which is about twice as slow as fp16. qvl-run decides by the compute capability; scripts of your "
        "own that ask torch do not.",
    ),
    "QVL418": Code(
        title="a torch that is slow with images",
        text="torch 2.9 runs the Conv3d that reads an image's patches 10 to 20 times slower (pytorch #174051). "
        "Versions before and after are not affected.",
    ),
    "QVL419": Code(
        title="no torchvision",
        text="Nothing is to be done: images are read without it. transformers' own Qwen3VLProcessor asks for it, for "
        "videos; code of yours that loads the result with that class needs it.",
    ),
    "QVL420": Code(
        title="a torchvision for another torch",
        text="torch 2.N belongs to torchvision 0.(N + 15). Others fail when they are imported, often with `operator "
        "torchvision::nms does not exist`. Without any torchvision images are read all the same.",
    ),
    "QVL421": Code(
        title="a library outside of the tested versions",
        text='`pip install "qvl-run[train]"` would have chosen another one. It may work; it was not tried.',
    ),
    "QVL422": Code(
        title="libraries that break each other",
        text="One of the training libraries says in its metadata that it needs another version of a second one than is "
        "installed. `pip check` says the same of all packages.",
    ),
    "QVL423": Code(
        title="vLLM on a Turing GPU",
        text="vLLM has no attention kernel for Qwen3-VL on compute capability 7.5 (vllm #29743). qvl-run itself does "
        "not use vLLM.",
    ),
    "QVL424": Code(
        title="a GPU that torch has no kernels for",
        text="Builds of torch for CUDA 12.8 and later have none for GPUs older than Turing, such as the V100: training "
        "would end at its first step with `no kernel image is available`. With `--assume` a warning: which torch such "
        "a machine has is not known.",
    ),
    "QVL425": Code(
        title="no token for a model that may be gated",
        text="Some models of the hub are given only to who has accepted their licence. Whether this one is of them, "
        "only the hub can tell. The models of Qwen are open. In Colab a secret called HF_TOKEN does not reach a "
        "command by itself: set it with os.environ in a cell.",
    ),
    "QVL430": Code(
        title="a stage that does not fit the GPU",
        text="What the stage needs of GPU memory at its peak, computed from the settings for the longest rows that "
        "they admit, is more than the GPU has for it, and nothing that recovery may lower after an out-of-memory "
        "is enough. What is measured beside the training is judged by itself. The hint names single changes that "
        "are enough, or several together, each computed. `max_seq_length` bounds the rows that are counted with: "
        "where your rows are shorter, say so there.",
    ),
    "QVL431": Code(
        title="settings that may be too large for the GPU",
        text="For the longest rows that the settings admit, they are predicted to need more than the GPU has. Shorter "
        "rows may fit, so the run starts; after an out-of-memory, recovery lowers what the hint names, step by "
        "step, and each step costs an attempt. Where what is measured beside the training is too large, its batch"
        " is lowered alone. The hint ends with what to write to begin with what fits; `auto` begins with that.",
    ),
    "QVL432": Code(
        title="GPU memory that something else holds",
        text="The GPU is large enough, but less of it is free now than the stage is predicted to need. Settings are "
        "never fitted to what is free at the moment, or they would differ from one start to the next.",
    ),
    "QVL433": Code(
        title="too little RAM for a stage",
        text="Without a GPU all that a stage holds lies in RAM; the merge stage, which works in either, uses RAM where"
        " the GPU has no room for the model. What it is predicted to need there, the process itself included, is "
        "more than the machine has, used or not: the system would end it. It is an error where the model and what"
        " belongs to it are the larger part of that, and a warning where that is the process, which is counted "
        "with a round figure.",
    ),
    "QVL434": Code(
        title="too little space for what the run writes",
        text="What the run is predicted to write, where results go or on this machine's own disk, is more than is free"
        " there, as its file system reports it. A warning, and told before anything of the run is stored only: "
        "later it is not known how much is still to come. A model that is in a cache already is counted "
        "nevertheless.",
    ),
}


def explain(code: str) -> str:
    """The long answer for `code`, as text. Raises KeyError where there is no such code."""
    entry = CODES[code]
    lines = [f"{code}: {entry.title}", "", entry.text]
    if entry.wrong:
        lines += ["", f"    wrong: {entry.wrong}", f"    right: {entry.right}"]
    return "\n".join(lines)


def markdown() -> str:
    """docs/diagnostics.md."""
    lines = [
        "# Diagnostics",
        "",
        "Made from `runner/qvl_run/spec/codes.py` by `make docs`; `qvl-run explain CODE` says the same.",
    ]
    for code, entry in CODES.items():
        lines += ["", f"## {code}: {entry.title}", "", entry.text]
        if entry.wrong:
            lines += ["", "```yaml", f"# wrong\n{entry.wrong}", f"# right\n{entry.right}", "```"]
    return "\n".join(lines) + "\n"
