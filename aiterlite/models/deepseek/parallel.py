"""Ranks of a model that share its work: heads, features between two projections, experts, and the vocabulary.

Communication is `torch.distributed`'s (gloo, NCCL, RCCL): a sum after attention, one after each feed-forward layer, and
the logits' parts put side by side. All ranks have the same tokens, so each of them ends with the same logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError


@dataclass(frozen=True)
class Parallel:
    """Rank `rank` of `world` in a process group (None: the default one).

    experts_whole: each rank has some of the experts whole and masks the others, instead of a part of each.
    """

    rank: int = 0
    world: int = 1
    group: Any = None
    experts_whole: bool = False

    def share(self, name: str, total: int, multiple: int = 1) -> slice:
        """This rank's range of `total`, of which each rank gets as many, a multiple of `multiple`."""
        if total % (self.world * multiple):
            unit = f" in parts of {multiple}" if multiple > 1 else ""
            allowed = f"a divisor of {name}, {total}{unit}"
            raise ArgumentError("aiterlite.models.deepseek", "world", self.world, allowed)
        size = total // self.world
        return slice(self.rank * size, (self.rank + 1) * size)

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks, in place of x."""
        if self.world > 1:
            import torch.distributed as dist

            dist.all_reduce(x, group=self.group)
        return x

    def beside(self, x: Tensor) -> Tensor:
        """The ranks' columns, side by side."""
        if self.world == 1:
            return x
        import torch.distributed as dist

        parts = [torch.empty_like(x) for _ in range(self.world)]
        dist.all_gather(parts, x.contiguous(), group=self.group)
        return torch.cat(parts, -1)
