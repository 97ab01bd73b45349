"""What one layer of the language model keeps for its backward pass, and what it needs for a moment.

In bytes a token.
"""

from __future__ import annotations

from dataclasses import dataclass

from qvl_run.settings import ModelSettings
from qvl_trl.memory.weights import LANGUAGE, Numbers, adapted, numbers
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
    def between(self) -> int:
        """The layer's input: all that is kept of a layer that is computed again in the backward pass."""
        return self.text.hidden_size * self.numbers.residual

    @property
    def saved(self) -> int:
        """For the backward pass of the whole layer."""
        return self._norms + self._inputs + self._attention + self._mlp

    @property
    def again(self) -> int:
        """Of a layer that is computed again, when most of it is alive: what is saved, and around its last product the
        sums of the residual stream."""
        return self.saved + self._product + 5 * self.between

    @property
    def passing(self) -> int:
        """Where nothing is saved: the activation, and the output of up as its adapter's is added to it in float32."""
        return self.text.intermediate_size * (3 * self.numbers.residual + 6) + 6 * self.between

    @property
    def moment(self) -> int:
        """Around the last product, beside what is saved."""
        return self._product + 5 * self.between

    @property
    def cache(self) -> int:
        """Keys and values kept while answers are sampled."""
        return 2 * self._keys * self.numbers.residual

    @property
    def held(self) -> int:
        """What stays whether or not the layer is computed again: bitsandbytes' product in 8 bits keeps its input, in 16
        bits and in 8, where autograd's hooks do not see it (bitsandbytes/autograd/_functions.py, MatMul8bitLt)."""
        if self.model.quantization != "int8":
            return 0
        return 3 * sum(self._widths.values())

    @property
    def _queries(self) -> int:
        return self.text.num_attention_heads * self.text.head_dim

    @property
    def _keys(self) -> int:
        return self.text.num_key_value_heads * self.text.head_dim

    @property
    def _widths(self) -> dict[str, int]:
        """What goes into each linear layer."""
        hidden = self.text.hidden_size
        inputs = dict.fromkeys(LANGUAGE, hidden)
        return inputs | {"o_proj": self._queries, "down_proj": self.text.intermediate_size}

    @property
    def _norms(self) -> int:
        # In float32: the input of each norm, and of each head's.
        heads = self.text.num_attention_heads + self.text.num_key_value_heads
        return 4 * (2 * self.text.hidden_size + self._queries + self._keys + 2 + heads)

    @property
    def _inputs(self) -> int:
        """What goes into the linear layers, as far as a gradient needs it."""
        lora, inputs = self.model.lora, self._widths
        wanted = {n for n in LANGUAGE if lora is None or adapted(n, lora.target_modules)}
        rank = 0 if lora is None else lora.r * len(wanted)
        if self.numbers.mixed:
            # Each linear layer casts its input anew; what is not cast is shared with its neighbours.
            return self.numbers.compute * (sum(inputs[name] for name in wanted) + rank)
        groups = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("down_proj",))
        return 4 * (rank + sum(inputs[names[0]] for names in groups if wanted & set(names)))

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
