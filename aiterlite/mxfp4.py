"""MXFP4: quantisers, what is quantised as a part of another operator, and the order of weights and scales that matrix
units read. Names are upstream's, of several of its modules. Where two functions of it share one, one of them has
`utility_` or `triton_` before it here.
"""

from __future__ import annotations

from aiterlite.ops.mxfp4 import dynamic_per_group_scaled_quant_fp4, quant_mxfp4
from aiterlite.ops.mxfp4_factory import (
    act_mul_and_mxfp4_quant,
    dynamic_mxfp4_quant,
    fused_flatten_mxfp4_quant,
    per_1x32_f4_quant,
    per_1x32_f4_quant_hip,
    per_1x32_f4_quant_triton,
    per_1x32_mx_quant_hip,
    quant_mxfp4_hip,
    utility_dynamic_mxfp4_quant,
)
from aiterlite.ops.mxfp4_norm import fused_rms_mxfp4_quant
from aiterlite.ops.mxfp4_sort import (
    fused_dynamic_mxfp4_quant_moe_sort,
    moe_mxfp4_sort,
    mxfp4_moe_sort_fwd,
    triton_fused_dynamic_mxfp4_quant_moe_sort,
)
from aiterlite.ops.shuffle import e8m0_shuffle, shuffle_scale, shuffle_weight, unshuffle_scale, unshuffle_weight
from aiterlite.tables.mx_types import MX_DEFAULT_ROUND_MODE, MxScaleRoundMode

__all__ = [
    "MX_DEFAULT_ROUND_MODE",
    "MxScaleRoundMode",
    "act_mul_and_mxfp4_quant",
    "dynamic_mxfp4_quant",
    "dynamic_per_group_scaled_quant_fp4",
    "e8m0_shuffle",
    "fused_dynamic_mxfp4_quant_moe_sort",
    "fused_flatten_mxfp4_quant",
    "fused_rms_mxfp4_quant",
    "moe_mxfp4_sort",
    "mxfp4_moe_sort_fwd",
    "per_1x32_f4_quant",
    "per_1x32_f4_quant_hip",
    "per_1x32_f4_quant_triton",
    "per_1x32_mx_quant_hip",
    "quant_mxfp4",
    "quant_mxfp4_hip",
    "shuffle_scale",
    "shuffle_weight",
    "triton_fused_dynamic_mxfp4_quant_moe_sort",
    "unshuffle_scale",
    "unshuffle_weight",
    "utility_dynamic_mxfp4_quant",
]
