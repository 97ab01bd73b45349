"""Token ids with a meaning: those that end an answer, and those that no answer may hold."""

from __future__ import annotations

from qvl_trl.policy.load import Policy


def vision_tokens(policy: Policy) -> list[int]:
    """The tokens that stand for pictures. A sampled one has no picture behind it, and the positions of the
    whole sequence can then not be computed ("shape mismatch" in transformers' `get_rope_index`)."""
    config = policy.model.config
    return [
        config.image_token_id,
        config.video_token_id,
        config.vision_start_token_id,
        config.vision_end_token_id,
    ]


def end_tokens(policy: Policy) -> list[int]:
    """The tokens that end an answer: the model's own and the tokenizer's."""
    declared = policy.model.generation_config.eos_token_id
    ids = declared if isinstance(declared, list) else [declared]
    return sorted({policy.processor.tokenizer.eos_token_id, *ids} - {None})
