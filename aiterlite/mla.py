"""Multi-head latent attention under the names of `aiter.mla`, and plans of it."""

from __future__ import annotations

from aiterlite.ops.attention import flash_attn_varlen_func
from aiterlite.ops.mla import mla_decode_fwd, mla_prefill_fwd, mla_reduce_v1
from aiterlite.ops.mla_plan import decode_update_mla_metadata_v1, get_mla_metadata_info_v1, get_mla_metadata_v1
from aiterlite.ops.mla_query import get_meta_param, get_mla_decode_shape_support, mla_decode_asm_query
from aiterlite.ops.prefill import get_ps_metadata_info_v1, get_ps_metadata_v1, mla_prefill_ps_asm_fwd

__all__ = [
    "decode_update_mla_metadata_v1",
    "flash_attn_varlen_func",
    "get_meta_param",
    "get_mla_decode_shape_support",
    "get_mla_metadata_info_v1",
    "get_mla_metadata_v1",
    "get_ps_metadata_info_v1",
    "get_ps_metadata_v1",
    "mla_decode_asm_query",
    "mla_decode_fwd",
    "mla_prefill_fwd",
    "mla_prefill_ps_asm_fwd",
    "mla_reduce_v1",
]
