"""What one layer of the language model keeps for its backward pass, and what it needs for a moment.

In bytes a token.
"""

from __future__ import annotations

from dataclasses import dataclass

from qvl_run.settings import ModelSettings
from qvl_trl.memory.weights import Linear, Numbers, adapts, numbers, text_linears
from qvl_trl.models.parts import Text


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of `text`, held and adapted as `model` says. `expanded`: keys and values are repeated for each query
    head before attention, as they are where there is a mask, and on GPUs without a flash kernel."""

    text: Text
    model: ModelSettings
    expanded: bool

    @property
    def numbers(self) -> Numbers:
        """How its numbers are held."""
        return numbers(self.model)

    @property
    def input(self) -> int:
        """The layer's input: all that is kept of a layer that is computed again in the backward pass."""
        return self.text.hidden_size * self.numbers.residual

    @property
    def saved(self) -> int:
        """For the backward pass of the whole layer."""
        return self._norms + self._inputs + self._attention + self._mlp

    @property
    def recomputed(self) -> int:
        """Of a layer that is computed again, when most of it is alive: what is saved, and around its last product the
        sums of the residual stream."""
        return self.saved + self._product + 5 * self.input

    @property
    def forward_workspace(self) -> int:
        """Where nothing is saved: the activation, and the output of up as its adapter's is added to it in float32."""
        return self.text.intermediate_size * (3 * self.numbers.residual + 6) + 6 * self.input

    @property
    def attention_workspace(self) -> int:
        """Around attention, its scores left out, where nothing is saved."""
        return self._attention + 4 * self.input

    @property
    def backward_workspace(self) -> int:
        """Around the last product, beside what is saved."""
        return self._product + 5 * self.input

    @property
    def cache(self) -> int:
        """Keys and values kept while answers are sampled."""
        return 2 * self._keys * self.numbers.residual

    @property
    def int8_inputs(self) -> int:
        """What stays whether or not the layer is computed again: bitsandbytes' product in 8 bits keeps its input, as it
        comes, where autograd's hooks do not see it (bitsandbytes/autograd/_functions.py, MatMul8bitLt). Linear layers
        of the same input keep it once."""
        if self.model.quantization != "int8":
            return 0
        as_held = 2 * self.text.hidden_size + self.text.intermediate_size
        return self.numbers.residual * as_held + self.numbers.compute * self._queries

    @property
    def _queries(self) -> int:
        return self.text.num_attention_heads * self.text.head_dim

    @property
    def _keys(self) -> int:
        return self.text.num_key_value_heads * self.text.head_dim

    @property
    def _trained(self) -> dict[str, Linear]:
        """The linear layers of a layer that are trained, in whichever layer that may be, by their own names."""
        lora = self.model.lora
        return {
            one.name.rpartition(".")[2]: one
            for one in text_linears(self.text)
            if lora is None or adapts(lora.target_modules, one.name)
        }

    @property
    def _norms(self) -> int:
        # In float32: the input of each norm, and of each head's.
        heads = self.text.num_attention_heads + self.text.num_key_value_heads
        return 4 * (2 * self.text.hidden_size + self._queries + self._keys + 2 + heads)

    @property
    def _inputs(self) -> int:
        """What goes into the linear layers, as far as a gradient needs it."""
        trained = self._trained
        rank = 0 if self.model.lora is None else self.model.lora.r * len(trained)
        if self.numbers.mixed:
            # Each linear layer casts its input anew; what is not cast is shared with its neighbours.
            return self.numbers.compute * (sum(one.inputs for one in trained.values()) + rank)
        groups = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("down_proj",))
        shared = [[trained[name].inputs for name in group if name in trained] for group in groups]
        return 4 * (rank + sum(max(inputs, default=0) for inputs in shared))

    @property
    def _attention(self) -> int:
        """Queries, keys and values as the kernel takes them, its output, and a float32 a head."""
        keys = self._queries if self.expanded else self._keys
        products = 2 * self._queries + 2 * keys
        return self.numbers.compute * products + 4 * self.text.num_attention_heads

    @property
    def _mlp(self) -> int:
        """The outputs of gate and up, and the activation."""
        return 3 * self.text.intermediate_size * self.numbers.residual

    @property
    def _product(self) -> int:
        """What goes into the last linear layer, and its copy in float32 for the adapter."""
        cast = 4 if self.numbers.residual != 4 and self.model.lora is not None else 0
        return self.text.intermediate_size * (self.numbers.residual + cast)
