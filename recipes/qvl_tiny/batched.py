"""Qwen3-VL's forward for a batch of pictures of one size, many times faster than the general one.

transformers runs vision attention picture by picture and computes positions in Python loops. Where
every picture has the same grid, both are one tensor operation. `check` holds the two forwards equal.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from model import GRID, MERGE, PATCH
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration


def patchify(images: Tensor) -> Tensor:
    """uint8 `(batch, GRID * PATCH, GRID * PATCH, 3)` to float `(batch, GRID**2, patch values)`.

    In the order of Qwen's image processor: merge blocks in reading order, then within a block.
    """
    n = GRID // MERGE
    x = images.float() / 127.5 - 1.0
    x = x.view(-1, n, MERGE, PATCH, n, MERGE, PATCH, 3)
    x = x.permute(0, 1, 4, 2, 5, 7, 3, 6)  # block row, column, row in block, column, RGB, y, x
    x = x.unsqueeze(6).expand(*x.shape[:6], 2, PATCH, PATCH)  # a picture is two equal frames
    return x.reshape(images.shape[0], GRID * GRID, -1)


class BatchedForward(nn.Module):
    """Wraps a model; shares its parameters. All pictures have `GRID` by `GRID` patches."""

    def __init__(self, model: Qwen3VLForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        vision = model.config.vision_config
        rows = torch.arange(GRID).view(-1, 1).expand(GRID, GRID)
        grid = torch.stack([rows, rows.T], dim=-1)  # (GRID, GRID, 2)
        n = GRID // MERGE
        grid = grid.view(n, MERGE, n, MERGE, 2).transpose(1, 2).reshape(-1, 2)
        dim = vision.hidden_size // vision.num_heads // 2
        inv_freq = 1.0 / 10000.0 ** (torch.arange(0, dim, 2).float() / dim)
        angles = (grid[..., None] * inv_freq).flatten(1)
        angles = torch.cat([angles, angles], dim=-1)  # (GRID**2, head dimension)
        self.register_buffer("index", grid[:, 0] * GRID + grid[:, 1], persistent=False)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, input_ids: Tensor, position_ids: Tensor, images: Tensor) -> Tensor:
        """Logits `(batch, length, vocabulary)`; `position_ids` is `(3, length)`, right-padded."""
        features, deep = self._encode(patchify(images))
        language = self.model.model.language_model
        embeds = language.embed_tokens(input_ids)
        mask = input_ids == self.model.config.image_token_id
        embeds = embeds.masked_scatter(mask[..., None], features.to(embeds.dtype))
        hidden = language(
            inputs_embeds=embeds,
            position_ids=position_ids[:, None].expand(-1, len(input_ids), -1),
            attention_mask=None,  # causal, and padding stands on the right
            visual_pos_masks=mask,
            deepstack_visual_embeds=deep,
            use_cache=False,
        ).last_hidden_state
        return self.model.lm_head(hidden)

    def _encode(self, patches: Tensor) -> tuple[Tensor, list[Tensor]]:
        visual = self.model.model.visual
        proj = visual.patch_embed.proj
        x = F.linear(patches, proj.weight.flatten(1), proj.bias)
        x = x + visual.pos_embed.weight[self.index]
        deep = []
        for i, block in enumerate(visual.blocks):
            x = x + self._attend(block.attn, block.norm1(x))
            x = x + block.mlp(block.norm2(x))
            if i in visual.deepstack_visual_indexes:
                merger = visual.deepstack_merger_list[visual.deepstack_visual_indexes.index(i)]
                deep.append(merger(x.flatten(0, 1)))
        return visual.merger(x.flatten(0, 1)), deep

    def _attend(self, attention: nn.Module, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = attention.qkv(x).view(batch, length, 3, attention.num_heads, -1).unbind(2)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        q, k = self._rotate(q), self._rotate(k)
        out = F.scaled_dot_product_attention(q, k, v.to(q.dtype))
        return attention.proj(out.transpose(1, 2).reshape(batch, length, -1))

    def _rotate(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-second, first], dim=-1) * self.sin
