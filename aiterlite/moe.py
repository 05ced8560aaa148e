"""Mixture of experts under the names of `aiter`: routing, and sorting by experts."""

from __future__ import annotations

from aiterlite.ops.moe_sorting import moe_align_block_size, moe_sorting, moe_sorting_fwd
from aiterlite.ops.moe_sum import moe_sum
from aiterlite.ops.routing import (
    biased_grouped_topk,
    fused_topk,
    grouped_topk,
    moe_fused_gate,
    topk_sigmoid,
    topk_softmax,
)

__all__ = [
    "biased_grouped_topk",
    "fused_topk",
    "grouped_topk",
    "moe_align_block_size",
    "moe_fused_gate",
    "moe_sorting",
    "moe_sorting_fwd",
    "moe_sum",
    "topk_sigmoid",
    "topk_softmax",
]
