"""The two parts of a Qwen3-VL: their sizes, in the names of its config.json, and how many parameters those make.

Counted as `Qwen3VLForConditionalGeneration` of transformers lays them out (modeling_qwen3_vl.py, 5.15 to 5.23), dense
models alone; a test holds every number against the model itself, built without memory.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Text:
    """The language model. Its linear layers have no bias."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool
    head_dim: int = 128

    @property
    def embedding(self) -> int:
        """Parameters of the token embedding."""
        return self.vocab_size * self.hidden_size

    @property
    def lm_head(self) -> int:
        """Parameters of the output layer beside those of the embedding: none where the two are one."""
        return 0 if self.tie_word_embeddings else self.embedding

    @property
    def layer_linear(self) -> int:
        """Parameters of one layer's seven linear layers: what quantization shrinks and an adapter adapts."""
        heads = 2 * self.num_attention_heads + 2 * self.num_key_value_heads
        return self.hidden_size * (heads * self.head_dim + 3 * self.intermediate_size)

    @property
    def layer_other(self) -> int:
        """Parameters of one layer's norms."""
        return 2 * self.hidden_size + 2 * self.head_dim

    @property
    def parameters(self) -> int:
        """All parameters, the output layer's included."""
        layers = self.num_hidden_layers * (self.layer_linear + self.layer_other)
        return self.embedding + layers + self.hidden_size + self.lm_head


@dataclass(frozen=True, kw_only=True)
class Vision:
    """The vision tower, with the mergers that hand its output to the language model. Its linear layers have biases."""

    hidden_size: int
    intermediate_size: int
    depth: int
    num_heads: int
    out_hidden_size: int
    deepstack_visual_indexes: tuple[int, ...]
    patch_size: int = 16
    temporal_patch_size: int = 2
    in_channels: int = 3
    spatial_merge_size: int = 2
    num_position_embeddings: int = 2304

    @property
    def patch_values(self) -> int:
        """Numbers in one patch: what a row of `pixel_values` holds."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merged_size(self) -> int:
        """Width of the patches that become one token, side by side."""
        return self.hidden_size * self.spatial_merge_size**2

    @property
    def block_linear(self) -> int:
        """Parameters of one block's four linear layers, biases left out."""
        return self.hidden_size * (4 * self.hidden_size + 2 * self.intermediate_size)

    @property
    def block_other(self) -> int:
        """Parameters of one block's biases and norms."""
        return 9 * self.hidden_size + self.intermediate_size

    @property
    def merger_linear(self) -> int:
        """Parameters of one merger's two linear layers, biases left out; `mergers` of them."""
        return self.merged_size * (self.merged_size + self.out_hidden_size)

    @property
    def mergers(self) -> int:
        """The last block's, and one for each block of `deepstack_visual_indexes`."""
        return 1 + len(self.deepstack_visual_indexes)

    @property
    def parameters(self) -> int:
        """All parameters, the mergers' included."""
        patches = self.hidden_size * (self.patch_values + 1)
        positions = self.num_position_embeddings * self.hidden_size
        blocks = self.depth * (self.block_linear + self.block_other)
        biases = self.mergers * (self.merged_size + self.out_hidden_size)
        # The last block's merger norms each patch, the others the patches that they merge.
        norms = 2 * self.hidden_size + 2 * self.merged_size * (self.mergers - 1)
        return patches + positions + blocks + self.mergers * self.merger_linear + biases + norms
