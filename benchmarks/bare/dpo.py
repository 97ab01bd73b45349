"""DPO on TRL's trainer, from an SFT adapter, as one would write it by hand."""

from __future__ import annotations

from common import (
    CPU_FLOAT32,
    assistant,
    load_model,
    load_processor,
    make_dataset,
    parse_args,
    read_rows,
    user,
)
from peft import PeftModel
from trl import DPOConfig, DPOTrainer


def main() -> None:
    args = parse_args(__doc__, adapter=True)
    rows = [
        {
            "image": row["image"],
            "prompt": user(row["question"]),
            "chosen": assistant(row["chosen"]),
            "rejected": assistant(row["rejected"]),
        }
        for row in read_rows(args.data)
    ]
    trainer = DPOTrainer(
        model=PeftModel.from_pretrained(load_model(args.model), args.adapter, is_trainable=True),
        processing_class=load_processor(args.model),
        train_dataset=make_dataset(rows),
        args=DPOConfig(
            output_dir=str(args.out / "trainer"),
            seed=args.seed,
            data_seed=args.seed,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=1,
            num_train_epochs=1,
            learning_rate=7e-4,
            lr_scheduler_type="linear",
            warmup_steps=0.05,
            beta=0.3,
            loss_type=["sigmoid", "sft"],
            loss_weights=[1.0, 1.0],
            max_length=None,
            logging_steps=10,
            save_strategy="steps",
            save_steps=20,
            report_to="none",
            disable_tqdm=True,
            **CPU_FLOAT32,
        ),
    )
    trainer.train()
    trainer.save_model(str(args.out))


if __name__ == "__main__":
    main()
