"""The multi-token-prediction head: of a token's hidden state and the token that follows, the one after that."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aiterlite.models.deepseek.attention import Rope
from aiterlite.models.deepseek.layer import Attend, Layer
from aiterlite.models.deepseek.projections import Norm, Projection, Reader


@dataclass(frozen=True)
class Draft:
    """One more layer behind the model's, with latents of its own in the same slots. The embedding and the head are the
    model's; a checkpoint's copies of them are not read."""

    token_norm: Norm
    hidden_norm: Norm
    join: Projection
    layer: Layer
    norm: Norm

    @classmethod
    def read(cls, reader: Reader, index: int, rope: Rope) -> Draft:
        name = f"model.layers.{index}"
        return cls(
            reader.norm(f"{name}.enorm"),
            reader.norm(f"{name}.hnorm"),
            reader.projection(f"{name}.eh_proj"),
            Layer.read(reader, index, rope),
            reader.norm(f"{name}.shared_head.norm"),
        )

    def __call__(self, hidden: Tensor, following: Tensor, attend: Attend) -> Tensor:
        """hidden: the model's, behind its last norm; following: the embeddings of the tokens that follow."""
        joined = self.join(torch.cat([self.token_norm(following), self.hidden_norm(hidden)], -1))
        return self.norm.add(*self.layer(joined, None, attend))[0]
