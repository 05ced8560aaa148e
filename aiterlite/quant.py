"""Quantisation to 8-bit numbers under the names of `aiter.ops.quant`."""

from __future__ import annotations

from aiterlite.ops.quant import (
    dynamic_per_group_scaled_quant,
    dynamic_per_tensor_quant,
    dynamic_per_token_scaled_quant,
    static_per_tensor_quant,
)
from aiterlite.ops.quant_factory import (
    fused_flatten_fp8_group_quant,
    get_hip_quant,
    get_torch_quant,
    per_block_quant_wrapper,
    per_group_quant_hip,
    per_tensor_quant,
    per_tensor_quant_hip,
    per_token_quant_hip,
    pertoken_quant,
)
from aiterlite.tables.quant_types import ActivationType, QuantType

__all__ = [
    "ActivationType",
    "QuantType",
    "dynamic_per_group_scaled_quant",
    "dynamic_per_tensor_quant",
    "dynamic_per_token_scaled_quant",
    "fused_flatten_fp8_group_quant",
    "get_hip_quant",
    "get_torch_quant",
    "per_block_quant_wrapper",
    "per_group_quant_hip",
    "per_tensor_quant",
    "per_tensor_quant_hip",
    "per_token_quant_hip",
    "pertoken_quant",
    "static_per_tensor_quant",
]
