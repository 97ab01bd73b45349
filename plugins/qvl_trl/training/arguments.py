"""`TrainingSettings` as the keyword arguments of TRL's configs, the same for all three trainers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from qvl_run.settings import StageSettings


def training_arguments(settings: StageSettings, *, output_dir: Path) -> dict[str, Any]:
    """Arguments of `transformers.TrainingArguments`.

    Mixed precision is on for every half-precision run on a GPU and off on a CPU; none of TRL's own
    choices is left open (it takes bf16 wherever torch claims to have it, which a T4's does).
    """
    training, precision = settings.training, settings.model.precision
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(output_dir),
        "num_train_epochs": training.num_epochs,
        "max_steps": training.max_steps or -1,
        "per_device_train_batch_size": training.per_device_train_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.lr_scheduler_type,
        "warmup_steps": training.warmup_ratio,  # below 1 it is a ratio
        "weight_decay": training.weight_decay,
        "adam_beta1": training.adam_beta1,
        "adam_beta2": training.adam_beta2,
        "max_grad_norm": training.max_grad_norm,
        "optim": training.optim,
        "gradient_checkpointing": training.gradient_checkpointing,
        "dataloader_num_workers": training.dataloader_num_workers,
        "dataloader_pin_memory": gpu,
        "seed": training.seed,
        "data_seed": training.seed,
        "use_cpu": not gpu,
        "fp16": gpu and precision == "fp16",
        "bf16": gpu and precision == "bf16",
        "save_strategy": "steps",
        "save_steps": training.save_steps,
        "save_total_limit": None,
        "eval_strategy": "no",
        "logging_steps": training.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # a NaN must be seen
        "report_to": "wandb" if settings.wandb else "none",
        "run_name": settings.name,
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
