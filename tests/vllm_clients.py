"""What vLLM's ROCm code does with aiter, in its spellings and orders of arguments, on tensors of any device. Modules of
aiter are imported in the functions, as it does; something must answer to that name. Not a test file.

Facts of it: vLLM's `_aiter_ops.py` and `rocm_aiter_mla.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from mla_cases import Batch
from torch import Tensor

LATENT, WIDTH = 512, 576


# Attention ------------------------------------------------------------------------------------------------------------


def decode(case: Batch, max_num_reqs: int) -> Tensor:
    """Decode of vLLM's ROCM_AITER_MLA: persistent buffers for all requests that there may be."""
    import inspect

    from aiter import get_mla_metadata_info_v1, get_mla_metadata_v1
    from aiter.mla import mla_decode_fwd

    device, most, heads = case.q.device, max(case.counts), case.q.shape[1]
    types = case.q.dtype, case.kv_buffer.dtype
    info = get_mla_metadata_info_v1(max_num_reqs, most, heads, *types, is_sparse=False, fast_mode=True)
    buffers = [torch.empty(size, dtype=dtype, device=device) for size, dtype in info]
    metadata, indptr, info_set, *reduce = buffers
    ones = torch.ones(len(case.counts), dtype=torch.int32, device=device)
    get_mla_metadata_v1(
        *(case.qo_indptr, case.kv_indptr, ones, heads, 1, True, metadata, info_set, indptr, *reduce),
        page_size=1,
        kv_granularity=16,
        max_seqlen_qo=most,
        uni_seqlen_qo=most if len(set(case.counts)) == 1 else -1,
        fast_mode=True,
        dtype_q=types[0],
        dtype_kv=types[1],
    )
    parameters = inspect.signature(mla_decode_fwd).parameters
    scales = {"q_scale": case.q_scale, "kv_scale": case.kv_scale} if "q_scale" in parameters else {}
    assert "kv_scale" in parameters and "causal" in parameters
    o = torch.zeros(case.q.shape[0], heads, LATENT, dtype=torch.bfloat16, device=device)
    mla_decode_fwd(
        case.q,
        case.kv_buffer.view(-1, 1, 1, case.q.shape[-1]),
        o,
        case.qo_indptr,
        case.kv_indptr,
        case.kv_indices,
        ones,
        most,
        sm_scale=WIDTH**-0.5,
        logit_cap=0.0,
        causal=True,
        work_meta_data=metadata,
        work_indptr=indptr,
        work_info_set=info_set,
        reduce_indptr=reduce[0],
        reduce_final_map=reduce[1],
        reduce_partial_map=reduce[2],
        **scales,
    )
    return o


def decode_with_lse(case: Batch) -> tuple[Tensor, Tensor]:
    """Context parallel decode needs the LSE, and goes without a plan, in two splits at least."""
    from aiter.mla import get_meta_param, mla_decode_fwd

    heads, most = case.q.shape[1], max(case.counts)
    splits, indptr = get_meta_param(None, len(case.counts), case.kv_indices.shape[0], heads, most, case.kv_buffer.dtype)
    if splits < 2:
        splits, indptr = get_meta_param(
            2, len(case.counts), case.kv_indices.shape[0], heads, most, case.kv_buffer.dtype
        )
    o = torch.zeros(case.q.shape[0], heads, LATENT, dtype=torch.bfloat16, device=case.q.device)
    _, lse = mla_decode_fwd(
        *(case.q, case.kv_buffer.view(-1, 1, 1, WIDTH), o, case.qo_indptr, case.kv_indptr, case.kv_indices),
        *(case.kv_last_page_lens, most),
        sm_scale=WIDTH**-0.5,
        logit_cap=0.0,
        num_kv_splits=splits,
        num_kv_splits_indptr=indptr,
        return_lse=True,
        q_scale=case.q_scale if case.q.itemsize == 1 else None,
        kv_scale=case.kv_scale,
    )
    return o, lse


def flash(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, most: int, scale: float) -> Tensor:
    from aiter import flash_attn_varlen_func

    found: Tensor = flash_attn_varlen_func(
        q=q,
        k=k,
        v=v,
        cu_seqlens_q=offsets,
        cu_seqlens_k=offsets,
        max_seqlen_q=most,
        max_seqlen_k=most,
        min_seqlen_q=None,
        dropout_p=0.0,
        softmax_scale=scale,
        causal=True,
        window_size=None,
        alibi_slopes=None,
        return_lse=False,
        out=None,
        sink_ptr=None,
    )
    return found


# Norms, quantisation, activations -------------------------------------------------------------------------------------


def norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """vLLM passes the flag of an older aiter by its place."""
    import aiter as rocm_aiter

    residual_out, output = torch.empty_like(x), torch.empty_like(x)
    rocm_aiter.rmsnorm2d_fwd_with_add(output, x, residual, residual_out, weight, eps, 0)
    return output, residual_out


def norm_quant(x: Tensor, residual: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    import aiter as rocm_aiter

    y_scale = torch.empty(x.shape[0], 1, dtype=torch.float32, device=x.device)
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    residual_out = torch.empty_like(x)
    rocm_aiter.rmsnorm2d_fwd_with_add_dynamicquant(
        out, x, residual, residual_out, y_scale, weight, eps, use_model_sensitive_rmsnorm=0
    )
    return out, residual_out, y_scale


def norm_group_quant(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    from aiter.ops.triton.fused_fp8_quant import fused_rms_fp8_group_quant

    (codes, scales), _, _, res = fused_rms_fp8_group_quant(
        x, weight, eps, None, None, None, group_size=128, dtype_quant=dtype, res1=residual
    )
    return codes, scales, res


def latents(q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    import aiter.ops.fused_qk_norm_rope_cache_quant as aiter_ops

    assert hasattr(aiter_ops, "_fused_qk_rmsnorm") and not hasattr(aiter_ops, "fused_qk_rmsnorm")
    found: tuple[Tensor, Tensor] = aiter_ops._fused_qk_rmsnorm(
        q_out=None, q=q, q_weight=q_weight, q_eps=eps, k_out=None, k=k, k_weight=k_weight, k_eps=eps
    )
    return found


def token_quant(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    from aiter.ops.quant import dynamic_per_token_scaled_quant

    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    scale = torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device)
    dynamic_per_token_scaled_quant(out, x, scale, scale_ub=None, shuffle_scale=False, num_rows=None, num_rows_factor=1)
    return out, scale


def activation(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    from aiter.ops.triton.activation import act_mul_and_fp8_group_quant

    found: tuple[Tensor, Tensor] = act_mul_and_fp8_group_quant(x, activation="silu", group_size=128, dtype_quant=dtype)
    return found


# Mixture of experts ---------------------------------------------------------------------------------------------------


def mxfp4(x: Tensor, weight_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What AiterMxfp4LinearKernel makes of a weight's scales at load, and of an activation at each call."""
    from aiter.ops.quant import per_1x32_f4_quant_hip
    from aiter.utility.fp4_utils import e8m0_shuffle

    x_q, x_s = per_1x32_f4_quant_hip(x, shuffle=True)
    return x_q, x_s, e8m0_shuffle(weight_scale)


def experts(x: Tensor, w1: Tensor, w2: Tensor, scales: tuple[Any, Any], routed: tuple[Tensor, Tensor]) -> Tensor:
    """vLLM passes kinds as integers, and asks the signature for what it may pass; how gates lie it imports in each
    call, and passes 0 where there is no limit."""
    import inspect

    from aiter import ActivationType, QuantType
    from aiter.fused_moe import fused_moe
    from aiter.ops.flydsl.moe_common import GateMode
    from aiter.ops.shuffle import shuffle_weight

    assert "gate_mode" in inspect.signature(fused_moe).parameters
    w1, w2 = (shuffle_weight(weight, layout=(16, 16)) for weight in (w1, w2))
    found: Tensor = fused_moe(
        *(x, w1, w2, *routed, None, ActivationType(0), QuantType(5), False, *scales, None, None),
        num_local_tokens=None,
        dtype=None,
        hidden_pad=0,
        intermediate_pad=0,
        bias1=None,
        bias2=None,
        moe_sorting_dispatch_policy=0,
        swiglu_limit=0.0,
        gate_mode=GateMode.SEPARATED.value,
    )
    return found


def tensor_experts(
    x: Tensor, w1: Tensor, w2: Tensor, scales: tuple[Any, Any], static: tuple[Any, Any], routed: tuple[Tensor, Tensor]
) -> Tensor:
    """Of a checkpoint with a scale a tensor: one an expert, and what it says of hidden states and of those between."""
    from aiter import ActivationType, QuantType
    from aiter.fused_moe import fused_moe
    from aiter.ops.shuffle import shuffle_weight

    w1, w2 = (shuffle_weight(weight, layout=(16, 16)) for weight in (w1, w2))
    of_weights: dict[str, Any] = {"w1_scale": scales[0], "w2_scale": scales[1]}
    found: Tensor = fused_moe(
        *(x, w1, w2, *routed, None, ActivationType(0), QuantType(1), False),
        **of_weights,
        a1_scale=static[0],
        a2_scale=static[1],
    )
    return found


def softmax_topk(gating: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    import inspect

    from aiter import topk_softmax

    assert "num_shared_experts" in inspect.signature(topk_softmax).parameters
    tokens, device = gating.shape[0], gating.device
    weights = torch.empty((tokens, topk), dtype=torch.float32, device=device)
    ids, indices = (torch.empty((tokens, topk), dtype=torch.int32, device=device) for _ in range(2))
    topk_softmax(weights, ids, indices, gating, True, 0, "")
    return weights, ids


def topk_gating(gating: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """What vLLM routes up to 4,096 tokens by on gfx942 and gfx950."""
    from aiter.ops.topk import topk_gating

    weights = torch.empty((gating.shape[0], topk), dtype=torch.float32, device=gating.device)
    ids = torch.empty((gating.shape[0], topk), dtype=torch.int32, device=gating.device)
    topk_gating(
        weights,
        ids,
        gating,
        correction_bias=None,
        need_renorm=True,
        routed_scaling_factor=1.0,
        score_func="softmax",
        num_shared_experts=0,
    )
    return weights, ids


# GEMMs of 8 bits, rotary embeddings, the cache -----------------------------------------------------------------------


def linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """vLLM's of scales of tokens and of rows."""
    from aiter import gemm_a8w8_CK

    codes, scales = token_quant(x, dtype)
    found: Tensor = gemm_a8w8_CK(codes, weight, scales, scale, bias, x.dtype)
    return found


def integer_linear(codes: Tensor, weight: Tensor, scales: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    """vLLM's of int8."""
    from aiter import gemm_a8w8_CK

    found: Tensor = gemm_a8w8_CK(codes, weight, scales, rows, bias, torch.bfloat16)
    return found


def rope(positions: Tensor, query: Tensor, key: Tensor, head_size: int, table: Tensor, is_neox: bool) -> None:
    from aiter.ops.triton.rope.rope import rope_cached_thd_positions_offsets_2c_fwd_inplace

    cos, sin = table.chunk(2, dim=-1)
    query, key = (x.view(positions.numel(), -1, head_size)[..., :head_size] for x in (query, key))
    rope_cached_thd_positions_offsets_2c_fwd_inplace(
        *(query, key, cos, sin, positions, None, 0 if is_neox else 1), reuse_freqs_front_part=True, nope_first=False
    )
