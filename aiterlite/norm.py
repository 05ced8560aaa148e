"""RMSNorm under the names of `aiter`, `aiter.ops.rmsnorm`, `aiter.ops.fused_qk_rmsnorm_group_quant` and
`aiter.ops.triton.fused_fp8_quant`."""

from __future__ import annotations

from aiterlite.ops.norm import (
    fused_add_rms_norm_cu,
    rms_norm,
    rms_norm_cu,
    rmsnorm2d_fwd,
    rmsnorm2d_fwd_with_add,
    rmsnorm2d_fwd_with_add_dynamicquant,
    rmsnorm2d_fwd_with_dynamicquant,
)
from aiterlite.ops.norm_pair import (
    _fused_qk_rmsnorm,
    fused_qk_rmsnorm,
    fused_qk_rmsnorm_group_quant,
    fused_qk_rmsnorm_per_token_quant,
    fused_rms_fp8_group_quant,
)

__all__ = [
    "_fused_qk_rmsnorm",
    "fused_add_rms_norm_cu",
    "fused_qk_rmsnorm",
    "fused_qk_rmsnorm_group_quant",
    "fused_qk_rmsnorm_per_token_quant",
    "fused_rms_fp8_group_quant",
    "rms_norm",
    "rms_norm_cu",
    "rmsnorm2d_fwd",
    "rmsnorm2d_fwd_with_add",
    "rmsnorm2d_fwd_with_add_dynamicquant",
    "rmsnorm2d_fwd_with_dynamicquant",
]
