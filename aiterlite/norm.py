"""RMSNorm under the names of `aiter` and `aiter.ops.rmsnorm`."""

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

__all__ = [
    "fused_add_rms_norm_cu",
    "rms_norm",
    "rms_norm_cu",
    "rmsnorm2d_fwd",
    "rmsnorm2d_fwd_with_add",
    "rmsnorm2d_fwd_with_add_dynamicquant",
    "rmsnorm2d_fwd_with_dynamicquant",
]
