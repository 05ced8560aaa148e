"""GEMMs under the names of `aiter` (of its `ops.gemm_op_a8w8` and of its Triton operators)."""

from __future__ import annotations

from aiterlite.ops.batched_gemm import batched_gemm_bf16, batched_gemm_bf16_CK
from aiterlite.ops.gemm_a8w8 import (
    gemm_a8w8,
    gemm_a8w8_blockscale,
    gemm_a8w8_blockscale_bpreshuffle,
    gemm_a8w8_bpreshuffle,
    gemm_a8w8_CK,
)
from aiterlite.ops.gemm_a8w8_batched import (
    batched_gemm_a8w8_a_per_token_group_prequant_w_per_batched_tensor_quant,
)
from aiterlite.ops.gemm_mxfp4_operators import (
    batched_gemm_a16wfp4,
    batched_gemm_afp4wfp4_pre_quant,
    gemm_a4w4,
    gemm_a4w4_asm,
    gemm_a4w4_blockscale,
    gemm_a16wfp4,
    gemm_a16wfp4_preshuffle,
    gemm_afp4wfp4,
    gemm_afp4wfp4_pre_quant,
    gemm_afp4wfp4_preshuffle,
)

__all__ = [
    "batched_gemm_bf16",
    "batched_gemm_bf16_CK",
    "batched_gemm_a16wfp4",
    "batched_gemm_afp4wfp4_pre_quant",
    "gemm_a4w4",
    "gemm_a4w4_asm",
    "gemm_a4w4_blockscale",
    "gemm_a16wfp4",
    "gemm_a16wfp4_preshuffle",
    "gemm_afp4wfp4",
    "gemm_afp4wfp4_pre_quant",
    "gemm_afp4wfp4_preshuffle",
    "batched_gemm_a8w8_a_per_token_group_prequant_w_per_batched_tensor_quant",
    "gemm_a8w8",
    "gemm_a8w8_CK",
    "gemm_a8w8_blockscale",
    "gemm_a8w8_blockscale_bpreshuffle",
    "gemm_a8w8_bpreshuffle",
]
