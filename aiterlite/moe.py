"""Mixture of experts under the names of `aiter`: routing."""

from __future__ import annotations

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
    "moe_fused_gate",
    "topk_sigmoid",
    "topk_softmax",
]
