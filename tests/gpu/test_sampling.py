"""On a GPU: where its memory does not hold the whole batch, GRPO samples it in parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from qvl_run import plugins
from qvl_run.settings import DataSettings, ModelSettings
from qvl_trl import images
from qvl_trl.policy.load import load_policy
from qvl_trl.training.sampling import Sampler

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")

ROWS, TOKENS = 256, 16
GIB = 2**30


@pytest.fixture
def _whole_memory_after() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.usefixtures("_whole_memory_after")
def test_a_batch_that_does_not_fit_is_sampled_in_parts(big: Path, tmp_path: Path) -> None:
    policy = load_policy(ModelSettings(name=str(big), precision="bf16"), start=None, seed=0)
    data = DataSettings(format="spatial_scenes", options={"size": ROWS})
    examples = plugins.data_format("spatial_scenes").examples(data, kind="prompt", cache=tmp_path)
    pictures = [[images.decode(i, source=e.source) for i in e.images] for e in examples]
    prompts = [
        policy.processor.apply_chat_template(
            [
                {
                    "role": "user",
                    "content": [{"type": "image"}, {"type": "text", "text": e.question}],
                }
            ],
            add_generation_prompt=True,
        )
        for e in examples
    ]
    inputs = policy.processor(
        text=prompts, images=pictures, padding=True, padding_side="left", return_tensors="pt"
    ).to("cuda")
    config = GenerationConfig(
        max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=True, temperature=1.0,
        pad_token_id=policy.processor.tokenizer.pad_token_id,
    )  # fmt: skip

    def sample(sampler: Sampler) -> torch.Tensor:
        generate = sampler.wrap(policy.model.generate, pictures=[1] * ROWS)
        with policy.inference():
            return generate(generation_config=config, **inputs)

    torch.cuda.reset_peak_memory_stats()
    whole = sample(Sampler(seeds=lambda: 7))
    peak, held = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
    torch.cuda.empty_cache()
    limit = held + (peak - held) * 0.6
    torch.cuda.set_per_process_memory_fraction(
        limit / torch.cuda.get_device_properties(0).total_memory
    )
    sampler = Sampler(seeds=lambda: 7)
    parts = sample(sampler)
    assert sampler.rows is not None, "it fitted at once: this test shows nothing"
    assert sampler.rows < ROWS
    assert parts.shape == whole.shape
    same = float((parts == whole).all(dim=1).float().mean())
    print(
        f"{ROWS} rows: peak {peak / GIB:.2f} GiB, held {held / GIB:.2f}, limit {limit / GIB:.2f}; "
        f"sampled {sampler.rows} at a time; {same:.0%} of the rows equal to the last of {TOKENS} tokens"
    )
    assert same > 0.5
