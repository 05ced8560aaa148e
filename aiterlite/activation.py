"""Gated activations under the names of `aiter.ops.activation` and `aiter.ops.triton.activation`."""

from __future__ import annotations

from aiterlite.ops.activation import (
    act_mul_and_fp8_group_quant,
    gelu_and_mul,
    gelu_tanh_and_mul,
    silu_and_mul,
    silu_and_mul_quant,
)

__all__ = [
    "act_mul_and_fp8_group_quant",
    "gelu_and_mul",
    "gelu_tanh_and_mul",
    "silu_and_mul",
    "silu_and_mul_quant",
]
