"""What both vLLM's and SGLang's ROCm code do with aiter (vllm_clients.py, sglang_clients.py). Not a test file."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


def planned_prefill(
    q: Tensor, k: Tensor, v: Tensor, rows: list[int], scale: float, need_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Prefill of prompts without a prefix, in 8 bits: planned on the host, attended, then merged."""
    from aiter import get_ps_metadata_info_v1, get_ps_metadata_v1, mla_prefill_ps_asm_fwd, mla_reduce_v1

    device, heads, tile, most = q.device, q.shape[1], 256, max(b - a for a, b in pairwise(rows))
    info = get_ps_metadata_info_v1(batch_size=8, num_head_k=heads, max_qlen=most, qlen_granularity=tile)
    buffers = [torch.empty(size, dtype=dtype, device=device) for size, dtype in info]
    metadata, indptr, info_set, *reduce = buffers
    offsets = torch.tensor(rows, dtype=torch.int32)
    # vLLM's aiter has no need_lse, SGLang's has.
    more = {"need_lse": True} if need_lse else {}
    get_ps_metadata_v1(
        *(offsets, offsets.clone(), offsets.diff(), 1, heads, metadata, indptr, info_set, *reduce),
        qhead_granularity=1,
        qlen_granularity=tile,
        kvlen_granularity=128,
        block_size=1,
        is_causal=True,
        **more,
    )
    tiles = int(reduce[0][-1])
    logits = torch.empty(max(tiles, 1) * tile, heads, v.shape[2], device=device)
    sums = torch.empty(max(tiles, 1) * tile, heads, device=device)
    lse = torch.empty(q.shape[0], heads, device=device) if need_lse else None
    o = torch.empty(q.shape[0], heads, v.shape[2], dtype=torch.bfloat16, device=device)
    one, offsets = torch.ones((), device=device), offsets.to(device)
    indices = torch.arange(k.shape[0], dtype=torch.int32, device=device)
    mla_prefill_ps_asm_fwd(
        *(q, k, v, offsets, offsets, indices, indptr, info_set, most, scale, True, logits, sums, o, one, one, one)
    )
    mla_reduce_v1(logits, sums, *reduce, tile, 0, o, lse)
    return o, lse


def group_quant(x: Tensor, dtype: torch.dtype, **how: Any) -> tuple[Tensor, Tensor]:
    """Of both, before a GEMM of block scales."""
    import aiter
    from aiter import get_hip_quant

    found: tuple[Tensor, Tensor] = get_hip_quant(aiter.QuantType.per_1x128)(x, quant_dtype=dtype, **how)
    return found


def cache_latents(kv_c: Tensor, k_pe: Tensor, cache: Tensor, slots: Tensor, kind: str, scale: Tensor) -> None:
    from aiter import concat_and_cache_mla

    concat_and_cache_mla(kv_c, k_pe, cache, slots, kind, scale)
