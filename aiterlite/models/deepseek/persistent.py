"""Plans of decode steps: work of all requests dealt to as many workgroups as the device runs at once.

A plan is made on the device, once a step, and serves all its layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aiterlite.mla import get_mla_metadata_info_v1, get_mla_metadata_v1

# Tokens in which work is counted.
_GRAIN = 16


def plan(
    heads: int, q_dtype: torch.dtype, latents: Tensor, rows: Tensor, page_rows: Tensor, last: Tensor, most: int
) -> dict[str, Tensor]:
    """What `mla_decode_fwd` takes of a plan: of queries of `most` rows each, `rows` and `page_rows` before each request
    and after the last."""
    page_size = latents.shape[1]
    types = q_dtype, latents.dtype
    info = get_mla_metadata_info_v1(rows.shape[0] - 1, most, heads, *types, False, device=latents.device)
    buffers = [torch.empty(size, dtype=dtype, device=latents.device) for size, dtype in info]
    metadata, work_indptr, work_info, reduce_indptr, reduce_final_map, reduce_partial_map = buffers
    get_mla_metadata_v1(
        rows,
        page_rows,
        last,
        heads,
        1,
        True,
        metadata,
        work_info,
        work_indptr,
        reduce_indptr,
        reduce_final_map,
        reduce_partial_map,
        page_size=page_size,
        kv_granularity=max(1, _GRAIN // page_size),
        max_seqlen_qo=most,
        uni_seqlen_qo=most,
        dtype_q=types[0],
        dtype_kv=types[1],
    )
    return {
        "work_meta_data": metadata,
        "work_indptr": work_indptr,
        "work_info_set": work_info,
        "reduce_indptr": reduce_indptr,
        "reduce_final_map": reduce_final_map,
        "reduce_partial_map": reduce_partial_map,
    }
