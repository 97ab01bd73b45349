"""The bundled model: small, whole, in Qwen's formats, and able to describe what it sees."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Qwen3VLForConditionalGeneration

import qvl_trl
from qvl_trl.policy.processor import load_processor
from qvl_trl.scenes.describe import describe_scene
from qvl_trl.scenes.draw import draw_scene
from qvl_trl.scenes.questions import KINDS, sample_question
from qvl_trl.scenes.scene import sample_scene

FOLDER = Path(qvl_trl.__file__).parent / "assets" / "qvl_tiny"
IMAGE_SIZE = 96


@pytest.fixture(scope="module")
def model() -> Any:
    return Qwen3VLForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor() -> Any:
    return load_processor(str(FOLDER), revision=None, image_tokens=None)


def messages(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def answers(model: Any, processor: Any, scenes: list[Any], prompts: list[str]) -> list[str]:
    texts = [
        processor.apply_chat_template(messages(prompt), tokenize=False, add_generation_prompt=True)
        for prompt in prompts
    ]
    images = [[draw_scene(scene, IMAGE_SIZE)] for scene in scenes]
    inputs = processor(
        text=texts, images=images, padding=True, padding_side="left", return_tensors="pt"
    )
    with torch.inference_mode():
        output = model.generate(**inputs, max_new_tokens=48, do_sample=False)
    completions = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(completions, skip_special_tokens=True)]


def test_it_is_small(model: Any) -> None:
    assert model.num_parameters() < 3_000_000
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 6_000_000


def test_every_part_of_the_architecture_is_there(model: Any) -> None:
    assert model.config.model_type == "qwen3_vl"
    assert len(model.model.visual.deepstack_merger_list) == 1
    assert model.config.text_config.rope_parameters["mrope_interleaved"]
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_token_ids_agree(model: Any, processor: Any) -> None:
    tokenizer = processor.tokenizer
    config = model.config
    ids = {
        "<|image_pad|>": config.image_token_id,
        "<|video_pad|>": config.video_token_id,
        "<|vision_start|>": config.vision_start_token_id,
        "<|vision_end|>": config.vision_end_token_id,
        "<|im_end|>": tokenizer.eos_token_id,
        "<|endoftext|>": tokenizer.pad_token_id,
    }
    for token, expected in ids.items():
        assert tokenizer.encode(token) == [expected]
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert len(tokenizer) == config.text_config.vocab_size


def test_any_text_survives_the_tokenizer() -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    for text in ("Where is the red circle?", "naïve 日本語 🙂\n\t{x: 1}", "  two  spaces "):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("How many crosses are there?")) == 6


def test_the_chat_template_renders_qwens_format(processor: Any) -> None:
    text = processor.apply_chat_template(
        [{"role": "system", "content": "S"}, *messages("Q"), {"role": "assistant", "content": "A"}],
        tokenize=False,
    )
    assert text == (
        "<|im_start|>system\nS<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Q<|im_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n"
    )


@pytest.mark.parametrize("image_size", [32, 96, 128])
def test_one_image_token_per_32_by_32_pixels(model: Any, processor: Any, image_size: int) -> None:
    image = draw_scene(sample_scene(random.Random(0), "test"), image_size)
    text = processor.apply_chat_template(messages("Q"), tokenize=False)
    inputs = processor(text=[text], images=[[image]], return_tensors="pt")
    tokens = (inputs["input_ids"] == model.config.image_token_id).sum().item()
    assert tokens == (image_size // 32) ** 2
    with torch.inference_mode():
        assert model(**inputs).logits.isfinite().all()


def test_it_describes_scenes_it_has_not_seen(model: Any, processor: Any) -> None:
    """At least nine in ten descriptions of test scenes are right to the letter."""
    rng = random.Random("describe")
    scenes = [sample_scene(rng, "test") for _ in range(64)]
    prompts, expected = zip(*map(describe_scene, scenes), strict=True)
    got = answers(model, processor, scenes, list(prompts))
    right = sum(a == b for a, b in zip(got, expected, strict=True))
    assert right >= 0.9 * len(scenes), list(zip(got, expected, strict=True))[:4]


def test_it_does_not_answer_the_quickstarts_questions_yet(model: Any, processor: Any) -> None:
    rng = random.Random("ask")
    asked = [sample_question(rng, KINDS[i % len(KINDS)], "test") for i in range(64)]
    got = answers(model, processor, [s for s, _ in asked], [q.text for _, q in asked])
    right = sum(a == q.answer for a, (_, q) in zip(got, asked, strict=True))
    assert right <= 0.3 * len(asked)
