from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from qvl_run import plugins
from qvl_trl.policy.processor import Qwen3VLProcessor, load_processor, save_processor

TINY = str(plugins.load("qvl.models", "qvl-tiny").folder())


def image_tokens(processor: Qwen3VLProcessor, width: int, height: int) -> int:
    made = processor(images=[Image.new("RGB", (width, height))], text=["<|image_pad|>"])
    return len(made["input_ids"][0])


def test_an_image_token_is_32_by_32_pixels() -> None:
    processor = load_processor(TINY, revision=None, image_tokens=None)
    assert image_tokens(processor, 640, 480) == 300


@pytest.mark.parametrize(("size", "tokens"), [((640, 480), 48), ((32, 32), 16)])
def test_the_budget_bounds_an_images_tokens(size: tuple[int, int], tokens: int) -> None:
    processor = load_processor(TINY, revision=None, image_tokens=(16, 50))
    assert image_tokens(processor, *size) == tokens


def test_padding_is_on_the_left_image_positions_included() -> None:
    """GRPOTrainer pads prompts on the left and takes the image positions as the processor pads them."""
    processor = load_processor(TINY, revision=None, image_tokens=None)
    picture = Image.new("RGB", (32, 32))
    made = processor(
        images=[[picture], [picture]],
        text=["<|image_pad|> a", "<|image_pad|> a a a"],
        padding=True,
        return_tensors="pt",
    )
    assert made["attention_mask"][0].tolist()[0] == 0
    image = made["input_ids"] == processor.image_token_id
    assert (made["mm_token_type_ids"] == image.int()).all()


def test_a_saved_processor_is_the_same(tmp_path: Path) -> None:
    processor = load_processor(TINY, revision=None, image_tokens=(4, 9))
    save_processor(processor, tmp_path, source=TINY, revision=None)
    again = load_processor(str(tmp_path), revision=None, image_tokens=None)
    assert image_tokens(again, 640, 480) == image_tokens(processor, 640, 480) <= 9
    assert again.chat_template == processor.chat_template
    assert (tmp_path / "video_preprocessor_config.json").is_file()
