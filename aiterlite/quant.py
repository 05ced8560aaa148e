"""Quantisation to 8-bit numbers and to MXFP4 under the names of `aiter.ops.quant`."""

from __future__ import annotations

from aiterlite.ops.mxfp4 import dynamic_per_group_scaled_quant_fp4, quant_mxfp4
from aiterlite.ops.mxfp4_factory import (
    per_1x32_f4_quant,
    per_1x32_f4_quant_hip,
    per_1x32_f4_quant_triton,
    per_1x32_mx_quant_hip,
    quant_mxfp4_hip,
)
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
    get_triton_quant,
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
    "dynamic_per_group_scaled_quant_fp4",
    "dynamic_per_tensor_quant",
    "dynamic_per_token_scaled_quant",
    "fused_flatten_fp8_group_quant",
    "get_hip_quant",
    "get_torch_quant",
    "get_triton_quant",
    "per_1x32_f4_quant",
    "per_1x32_f4_quant_hip",
    "per_1x32_f4_quant_triton",
    "per_1x32_mx_quant_hip",
    "per_block_quant_wrapper",
    "per_group_quant_hip",
    "per_tensor_quant",
    "per_tensor_quant_hip",
    "per_token_quant_hip",
    "pertoken_quant",
    "quant_mxfp4",
    "quant_mxfp4_hip",
    "static_per_tensor_quant",
]
