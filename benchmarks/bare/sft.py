"""SFT on TRL's trainer, as one would write it by hand."""

from __future__ import annotations

from common import (
    CPU_FLOAT32,
    LORA,
    assistant,
    load_model,
    load_processor,
    make_dataset,
    parse_args,
    read_rows,
    user,
)
from peft import LoraConfig
from transformers import set_seed
from trl import SFTConfig, SFTTrainer


def main() -> None:
    args = parse_args(__doc__, adapter=False)
    rows = [
        {
            "image": row["image"],
            "prompt": user(row["question"]),
            "completion": assistant(row["answer"]),
        }
        for row in read_rows(args.data)
    ]
    set_seed(args.seed)  # TRL draws the adapter before it sets the seed itself
    trainer = SFTTrainer(
        model=load_model(args.model),
        processing_class=load_processor(args.model),
        train_dataset=make_dataset(rows),
        peft_config=LoraConfig(**LORA),
        args=SFTConfig(
            output_dir=str(args.out / "trainer"),
            seed=args.seed,
            data_seed=args.seed,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=1,
            num_train_epochs=1,
            learning_rate=3e-3,
            lr_scheduler_type="linear",
            warmup_steps=0.05,
            max_length=None,
            logging_steps=10,
            save_strategy="steps",
            save_steps=50,
            report_to="none",
            disable_tqdm=True,
            **CPU_FLOAT32,
        ),
    )
    trainer.train()
    trainer.save_model(str(args.out))


if __name__ == "__main__":
    main()
