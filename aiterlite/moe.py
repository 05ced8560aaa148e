"""Mixture of experts under the names of `aiter`: routing and its logits, sorting by experts, and the fused layer."""

from __future__ import annotations

from aiterlite.ops.fmoe import fmoe_fp8_blockscale_g1u1
from aiterlite.ops.fused_moe import fused_moe
from aiterlite.ops.moe_sorting import moe_align_block_size, moe_sorting, moe_sorting_fwd
from aiterlite.ops.moe_sum import moe_sum
from aiterlite.ops.router_gemm import router_gemm
from aiterlite.ops.routing import (
    biased_grouped_topk,
    fused_topk,
    grouped_topk,
    moe_fused_gate,
    topk_sigmoid,
    topk_softmax,
)
from aiterlite.ops.shuffle import shuffle_weight

__all__ = [
    "biased_grouped_topk",
    "fmoe_fp8_blockscale_g1u1",
    "fused_moe",
    "fused_topk",
    "grouped_topk",
    "moe_align_block_size",
    "moe_fused_gate",
    "moe_sorting",
    "moe_sorting_fwd",
    "moe_sum",
    "router_gemm",
    "shuffle_weight",
    "topk_sigmoid",
    "topk_softmax",
]
