"""A layer of the decoder: attention and a feed-forward part, each behind a norm of what came before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from aiterlite.models.deepseek.attention import Attention, Rope
from aiterlite.models.deepseek.experts import Experts
from aiterlite.models.deepseek.projections import FeedForward, Norm, Reader, Rows

# What attention makes of a layer's normalised input, wherever its tokens are.
Attend = Callable[[int, Attention, Rows], Tensor]


@dataclass(frozen=True)
class Layer:
    """`index` is its place in the cache."""

    index: int
    input_norm: Norm
    attention: Attention
    output_norm: Norm
    feed_forward: FeedForward | Experts

    @classmethod
    def read(cls, reader: Reader, index: int, rope: Rope) -> Layer:
        name, config = f"model.layers.{index}", reader.config
        dense = config.is_dense(index)
        return cls(
            index,
            reader.norm(f"{name}.input_layernorm"),
            Attention.read(reader, f"{name}.self_attn", rope),
            reader.norm(f"{name}.post_attention_layernorm"),
            reader.feed_forward(f"{name}.mlp", config.intermediate_size)
            if dense
            else Experts.read(reader, f"{name}.mlp"),
        )

    def __call__(self, x: Tensor, residual: Tensor | None, attend: Attend) -> tuple[Tensor, Tensor]:
        """What the layer adds, and what it is to be added to."""
        normed, residual = self.input_norm.add_in(self.attention.code, x, residual)
        x = attend(self.index, self.attention, normed)
        normed, residual = self.output_norm.add_in(self.feed_forward.code, x, residual)
        x = self.feed_forward(normed)
        return (self.attention.parallel.sum(x) if isinstance(self.feed_forward, FeedForward) else x), residual
