"""GRPO on TRL's trainer, from a DPO adapter, as one would write it by hand."""

from __future__ import annotations

from typing import Any

from common import (
    CPU_FLOAT32,
    load_model,
    load_processor,
    make_dataset,
    parse_args,
    read_rows,
    user,
)
from peft import PeftModel
from trl import GRPOConfig, GRPOTrainer


def exact_answer(
    completions: list[list[dict[str, str]]], answer: list[str], **_: Any
) -> list[float]:
    """1.0 where the completion is the answer, else 0.0."""
    return [
        float(completion[0]["content"].strip() == expected)
        for completion, expected in zip(completions, answer, strict=True)
    ]


def main() -> None:
    args = parse_args(__doc__, adapter=True)
    rows = [
        {"image": row["image"], "prompt": user(row["question"]), "answer": row["answer"]}
        for row in read_rows(args.data)
    ]
    processor = load_processor(args.model)
    processor.tokenizer.padding_side = "left"  # GRPOTrainer's prompts are; it does not set it
    never = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    trainer = GRPOTrainer(
        model=PeftModel.from_pretrained(load_model(args.model), args.adapter, is_trainable=True),
        processing_class=processor,
        reward_funcs=exact_answer,
        train_dataset=make_dataset(rows),
        args=GRPOConfig(
            output_dir=str(args.out / "trainer"),
            seed=args.seed,
            data_seed=args.seed,
            per_device_train_batch_size=96,
            gradient_accumulation_steps=1,
            num_generations=8,
            max_completion_length=8,
            temperature=1.0,
            beta=0.0,
            num_train_epochs=1,
            learning_rate=2e-4,
            lr_scheduler_type="linear",
            warmup_steps=0.05,
            generation_kwargs={"suppress_tokens": processor.tokenizer.convert_tokens_to_ids(never)},
            logging_steps=10,
            save_strategy="steps",
            save_steps=10,
            report_to="none",
            disable_tqdm=True,
            **CPU_FLOAT32,
        ),
    )
    trainer.train()
    trainer.save_model(str(args.out))


if __name__ == "__main__":
    main()
