"""What vLLM's and SGLang's ROCm code does with aiter, in their spellings and orders of arguments, on tensors of any
device. Modules of aiter are imported in the functions, as those clients do; something must answer to that name. Not a
test file.

Facts of them: vLLM's `_aiter_ops.py` and `rocm_aiter_mla.py`, SGLang's `aiter_backend.py`, `forward_mla_rocm.py`,
`layernorm.py`, `fp8_utils.py` and `topk.py`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from mla_cases import Batch
from torch import Tensor

LATENT, WIDTH = 512, 576


# Attention ------------------------------------------------------------------------------------------------------------


def sglang_block() -> dict[str, Any]:
    """The one block that SGLang imports its attention in; it goes without all of them where one is missing."""
    from aiter import (
        flash_attn_varlen_fp8_pertensor_func,
        flash_attn_varlen_func,
        get_mla_metadata_info_v1,
        get_mla_metadata_v1,
        get_ps_metadata_info_v1,
        get_ps_metadata_v1,
        mha_batch_prefill_func,
        mla_prefill_ps_asm_fwd,
        mla_reduce_v1,
        paged_attention_ragged,
    )
    from aiter.mla import mla_decode_fwd, mla_prefill_fwd
    from aiter.ops.triton.attention.unified_attention import unified_attention

    functions = (
        *(flash_attn_varlen_fp8_pertensor_func, flash_attn_varlen_func, get_mla_metadata_info_v1, get_mla_metadata_v1),
        *(get_ps_metadata_info_v1, get_ps_metadata_v1, mha_batch_prefill_func, mla_prefill_ps_asm_fwd, mla_reduce_v1),
        *(paged_attention_ragged, mla_decode_fwd, mla_prefill_fwd, unified_attention),
    )
    return {function.__name__: function for function in functions}


def sglang_decode(case: Batch, max_bs: int, page_size: int = 1) -> Tensor:
    """Decode of SGLang's AiterAttnBackend with an 8-bit KV: buffers for `max_bs` requests, filled again for these."""
    from aiter import get_mla_metadata_info_v1, get_mla_metadata_v1
    from aiter.mla import mla_decode_fwd

    kv_dtype, device, most = case.kv_buffer.dtype, case.q.device, max(case.counts)
    heads = given = case.q.shape[1]
    q = case.q
    if heads in (4, 8):
        # Copies of the heads, to 16 of them.
        q, heads = q.repeat(1, 16 // heads, 1), 16
    fast_mode, intra_batch_mode = (True, False) if heads in (32, 64, 128) else (False, True)
    max_split = 32
    info = get_mla_metadata_info_v1(
        max_bs,
        most,
        heads,
        kv_dtype,
        kv_dtype,
        is_sparse=False,
        fast_mode=fast_mode,
        num_kv_splits=max_split,
        intra_batch_mode=intra_batch_mode,
    )
    buffers = [torch.empty(size, dtype=dtype, device=device) for size, dtype in info]
    metadata, indptr, info_set, reduce_indptr, reduce_final_map, reduce_partial_map = buffers
    ones = torch.ones(len(case.counts), dtype=torch.int32, device=device)
    get_mla_metadata_v1(
        case.qo_indptr,
        case.kv_indptr,
        ones,
        heads,
        1,
        False,
        metadata,
        info_set,
        indptr,
        reduce_indptr,
        reduce_final_map,
        reduce_partial_map,
        kv_granularity=max(page_size, 16),
        max_seqlen_qo=most,
        uni_seqlen_qo=most,
        fast_mode=fast_mode,
        max_split_per_batch=max_split,
        intra_batch_mode=intra_batch_mode,
        dtype_q=kv_dtype,
        dtype_kv=kv_dtype,
    )
    o = q.new_empty((q.shape[0], heads, LATENT), dtype=torch.bfloat16)
    mla_decode_fwd(
        q.view(-1, heads, WIDTH),
        case.kv_buffer.view(-1, 1, 1, WIDTH),
        o.view(-1, heads, LATENT),
        case.qo_indptr,
        case.kv_indptr,
        case.kv_indices,
        ones,
        most,
        sm_scale=WIDTH**-0.5,
        logit_cap=0.0,
        work_meta_data=metadata,
        work_indptr=indptr,
        work_info_set=info_set,
        reduce_indptr=reduce_indptr,
        reduce_final_map=reduce_final_map,
        reduce_partial_map=reduce_partial_map,
        q_scale=case.kv_scale,
        kv_scale=case.kv_scale,
        intra_batch_mode=intra_batch_mode,
        num_kv_splits=max_split,
    )
    return o[:, :given]


def sglang_decode_unplanned(case: Batch) -> Tensor:
    """With a KV of bf16 and 16 or 128 heads SGLang has no plan."""
    from aiter.mla import mla_decode_fwd

    heads = case.q.shape[1]
    o = case.q.new_empty((case.q.shape[0], heads, LATENT))
    mla_decode_fwd(
        *(case.q, case.kv_buffer.view(-1, 1, 1, WIDTH), o, case.qo_indptr, case.kv_indptr, case.kv_indices),
        *(case.kv_last_page_lens, max(case.counts)),
        sm_scale=WIDTH**-0.5,
        logit_cap=0.0,
        work_meta_data=None,
        work_indptr=None,
        work_info_set=None,
        reduce_indptr=None,
        reduce_final_map=None,
        reduce_partial_map=None,
        q_scale=None,
        kv_scale=None,
        intra_batch_mode=True,
        num_kv_splits=None,
    )
    return o


def vllm_decode(case: Batch, max_num_reqs: int) -> Tensor:
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


def vllm_decode_with_lse(case: Batch) -> tuple[Tensor, Tensor]:
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


def vllm_flash(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, most: int, scale: float) -> Tensor:
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


def sglang_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> Any:
    from aiter import rmsnorm2d_fwd as rms_norm
    from aiter import rmsnorm2d_fwd_with_add as fused_add_rms_norm

    if residual is None:
        return rms_norm(x, weight, eps)
    residual_out, output = torch.empty_like(x), torch.empty_like(x)
    fused_add_rms_norm(output, x, residual, residual_out, weight, eps)
    return output, residual_out


def vllm_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """vLLM passes the flag of an older aiter by its place."""
    import aiter as rocm_aiter

    residual_out, output = torch.empty_like(x), torch.empty_like(x)
    rocm_aiter.rmsnorm2d_fwd_with_add(output, x, residual, residual_out, weight, eps, 0)
    return output, residual_out


def vllm_norm_quant(x: Tensor, residual: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    import aiter as rocm_aiter

    y_scale = torch.empty(x.shape[0], 1, dtype=torch.float32, device=x.device)
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    residual_out = torch.empty_like(x)
    rocm_aiter.rmsnorm2d_fwd_with_add_dynamicquant(
        out, x, residual, residual_out, y_scale, weight, eps, use_model_sensitive_rmsnorm=0
    )
    return out, residual_out, y_scale


def vllm_norm_group_quant(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    from aiter.ops.triton.fused_fp8_quant import fused_rms_fp8_group_quant

    (codes, scales), _, _, res = fused_rms_fp8_group_quant(
        x, weight, eps, None, None, None, group_size=128, dtype_quant=dtype, res1=residual
    )
    return codes, scales, res


def vllm_latents(q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    import aiter.ops.fused_qk_norm_rope_cache_quant as aiter_ops

    assert hasattr(aiter_ops, "_fused_qk_rmsnorm") and not hasattr(aiter_ops, "fused_qk_rmsnorm")
    found: tuple[Tensor, Tensor] = aiter_ops._fused_qk_rmsnorm(
        q_out=None, q=q, q_weight=q_weight, q_eps=eps, k_out=None, k=k, k_weight=k_weight, k_eps=eps
    )
    return found


def sglang_latents(q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    from aiter.ops.enum import QuantType
    from aiter.ops.fused_qk_rmsnorm_group_quant import fused_qk_rmsnorm

    q_out, k_out = torch.empty_like(q), torch.empty_like(k)
    fused_qk_rmsnorm(
        q_out_quantized=q_out,
        k_out=k_out,
        q=q,
        q_weight=q_weight,
        q_epsilon=eps,
        k=k,
        k_weight=k_weight,
        k_epsilon=eps,
        quant_type=QuantType.No,
    )
    return q_out, k_out


def sglang_latents_quantised(
    q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    from aiter.ops.triton.fused_fp8_quant import fused_rms_fp8_group_quant

    (codes, scales), lora, k_nope, _ = fused_rms_fp8_group_quant(
        q,
        q_weight,
        eps,
        k,
        k_weight,
        eps,
        group_size=128,
        dtype_quant=dtype,
        res1=None,
        output_unquantized_inp1=True,
        transpose_scale=False,
    )
    return codes, scales, lora, k_nope


def sglang_flatten(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    from aiter.ops.triton.fused_fp8_quant import fused_flatten_fp8_group_quant

    found: tuple[Tensor, Tensor] = fused_flatten_fp8_group_quant(
        x.transpose(0, 1), group_size=128, dtype_quant=dtype, transpose_scale=False
    )
    return found


def group_quant(x: Tensor, dtype: torch.dtype, **how: Any) -> tuple[Tensor, Tensor]:
    """Of both, before a GEMM of block scales."""
    import aiter
    from aiter import get_hip_quant

    found: tuple[Tensor, Tensor] = get_hip_quant(aiter.QuantType.per_1x128)(x, quant_dtype=dtype, **how)
    return found


def vllm_token_quant(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    from aiter.ops.quant import dynamic_per_token_scaled_quant

    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    scale = torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device)
    dynamic_per_token_scaled_quant(out, x, scale, scale_ub=None, shuffle_scale=False, num_rows=None, num_rows_factor=1)
    return out, scale


def vllm_activation(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    from aiter.ops.triton.activation import act_mul_and_fp8_group_quant

    found: tuple[Tensor, Tensor] = act_mul_and_fp8_group_quant(x, activation="silu", group_size=128, dtype_quant=dtype)
    return found


# Mixture of experts ---------------------------------------------------------------------------------------------------


def sglang_mxfp4(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, k: Tensor, heads: Tensor
) -> tuple[tuple[Tensor, Tensor], ...]:
    """What its linears of MXFP4 take: an input norm with a residual, beside the norm of the latents; heads on their way
    to the output projection; and an activation by itself."""
    from aiter.ops.triton.fused_mxfp4_quant import fused_flatten_mxfp4_quant, fused_rms_mxfp4_quant
    from aiter.ops.triton.quant import dynamic_mxfp4_quant

    given = k, weight[: k.shape[-1]], eps
    normed, *_, total = fused_rms_mxfp4_quant(x, weight, eps, *given, residual)
    q_quantized, _, k_normed, _ = fused_rms_mxfp4_quant(x, weight, eps, *given)
    return normed, (total, k_normed), q_quantized, fused_flatten_mxfp4_quant(heads), dynamic_mxfp4_quant(x)


def vllm_mxfp4(x: Tensor, weight_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What AiterMxfp4LinearKernel makes of a weight's scales at load, and of an activation at each call."""
    from aiter.ops.quant import per_1x32_f4_quant_hip
    from aiter.utility.fp4_utils import e8m0_shuffle

    x_q, x_s = per_1x32_f4_quant_hip(x, shuffle=True)
    return x_q, x_s, e8m0_shuffle(weight_scale)


def sglang_route(gating: Tensor, bias: Tensor, topk: int, groups: int, topk_group: int) -> tuple[Tensor, Tensor]:
    from aiter import biased_grouped_topk as aiter_biased_grouped_topk

    tokens, device = gating.shape[0], gating.device
    weights = torch.empty((tokens, topk), dtype=torch.float32, device=device)
    ids = torch.empty((tokens, topk), dtype=torch.int32, device=device)
    aiter_biased_grouped_topk(gating.to(dtype=torch.float32), bias, weights, ids, groups, topk_group, True, 2.5)
    return weights, ids


def sglang_experts(x: Tensor, w1: Tensor, w2: Tensor, scales: tuple[Any, Any], routed: tuple[Tensor, Tensor]) -> Tensor:
    from aiter import ActivationType, QuantType
    from aiter.fused_moe import fused_moe
    from aiter.ops.shuffle import shuffle_weight

    w13, w2 = shuffle_weight(w1.contiguous(), (16, 16)), shuffle_weight(w2.contiguous(), (16, 16))
    found: Tensor = fused_moe(
        x,
        w13,
        w2,
        routed[0],
        routed[1],
        w1_scale=scales[0],
        w2_scale=scales[1],
        quant_type=QuantType.per_128x128,
        activation=ActivationType.Silu,
        expert_mask=None,
    )
    return found


def sglang_wrapped_experts(
    x: Tensor, w1: Tensor, w2: Tensor, scales: tuple[Any, Any], routed: tuple[Tensor, Tensor]
) -> Tensor:
    """Of a checkpoint that is turned into FP8 when it is loaded: parameters take the shuffled weights as their data,
    and nothing says of them that they are shuffled. The runner passes all by name."""
    from aiter import ActivationType, QuantType
    from aiter.fused_moe import fused_moe
    from aiter.ops.shuffle import shuffle_weight

    layers = [torch.nn.Parameter(weight.clone(), requires_grad=False) for weight in (w1, w2)]
    for layer in layers:
        layer.data = shuffle_weight(layer.contiguous(), (16, 16))
    found: Tensor = fused_moe(
        hidden_states=x,
        w1=layers[0],
        w2=layers[1],
        topk_weight=routed[0],
        topk_ids=routed[1],
        quant_type=QuantType.per_128x128,
        activation=ActivationType.Silu,
        w1_scale=scales[0],
        w2_scale=scales[1],
        a1_scale=None,
        a2_scale=None,
        bias1=None,
        bias2=None,
        expert_mask=None,
        doweight_stage1=False,
        hidden_pad=0,
        intermediate_pad=0,
        moe_sorting_dispatch_policy=0,
    )
    return found


def vllm_experts(x: Tensor, w1: Tensor, w2: Tensor, scales: tuple[Any, Any], routed: tuple[Tensor, Tensor]) -> Tensor:
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


def vllm_tensor_experts(
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


def sglang_biased_experts(
    x: Tensor,
    weights: tuple[Tensor, Tensor],
    scales: tuple[Tensor, Tensor],
    biases: tuple[Tensor, Tensor],
    routed: tuple[Tensor, Tensor],
    no_combine: bool,
) -> Tensor:
    """What its runner of experts passes for gpt-oss in MXFP4, whose gate and up rows take turns: biases, a limit,
    padding; and no_combine where the signature has it."""
    import inspect

    from aiter import ActivationType, QuantType
    from aiter.fused_moe import fused_moe
    from aiter.ops.shuffle import shuffle_weight
    from aiter.utility.fp4_utils import e8m0_shuffle

    extra: dict[str, Any] = {"gate_mode": "interleave", "swiglu_limit": 7.0}
    if no_combine:
        assert "no_combine" in inspect.signature(fused_moe).parameters
        extra["no_combine"] = True
    (w13, w2), shuffled = (shuffle_weight(weight, (16, 16)) for weight in weights), []
    for scale in scales:
        shuffled.append(e8m0_shuffle(scale.flatten(0, 1)).view(scale.shape[0], -1))
    found: Tensor = fused_moe(
        hidden_states=x,
        w1=w13,
        w2=w2,
        topk_weight=routed[0],
        topk_ids=routed[1],
        quant_type=QuantType.per_1x32,
        activation=ActivationType.Swiglu,
        w1_scale=shuffled[0],
        w2_scale=shuffled[1],
        a1_scale=None,
        a2_scale=None,
        bias1=biases[0],
        bias2=biases[1],
        expert_mask=None,
        doweight_stage1=False,
        hidden_pad=32,
        intermediate_pad=32,
        **extra,
    )
    return found


def vllm_softmax_topk(gating: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    import inspect

    from aiter import topk_softmax

    assert "num_shared_experts" in inspect.signature(topk_softmax).parameters
    tokens, device = gating.shape[0], gating.device
    weights = torch.empty((tokens, topk), dtype=torch.float32, device=device)
    ids, indices = (torch.empty((tokens, topk), dtype=torch.int32, device=device) for _ in range(2))
    topk_softmax(weights, ids, indices, gating, True, 0, "")
    return weights, ids


def vllm_topk_gating(gating: Tensor, topk: int) -> tuple[Tensor, Tensor]:
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


def sglang_linear(x: Tensor, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """A linear layer of block scales in each of SGLang's ways: as it is, shuffled, and by Triton's name."""
    import aiter
    from aiter import gemm_a8w8_blockscale as ck_gemm_a8w8_blockscale
    from aiter import gemm_a8w8_blockscale_bpreshuffle, get_hip_quant
    from aiter.ops.shuffle import shuffle_weight
    from aiter.ops.triton.gemm_a8w8_blockscale import gemm_a8w8_blockscale as triton_gemm_a8w8_blockscale

    quantise = get_hip_quant(aiter.QuantType.per_1x128)
    q_input, x_scale = quantise(x, quant_dtype=dtype)
    plain = ck_gemm_a8w8_blockscale(q_input, weight, x_scale, scale, dtype=x.dtype)
    by_triton = triton_gemm_a8w8_blockscale(q_input, weight, x_scale, scale, dtype=x.dtype)
    q_input, x_scale = quantise(x, quant_dtype=dtype, transpose_scale=True)
    shuffled = shuffle_weight(weight, layout=(16, 16))
    pre = gemm_a8w8_blockscale_bpreshuffle(q_input, shuffled, x_scale, scale, dtype=x.dtype)
    return plain, by_triton, pre


def vllm_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """vLLM's of scales of tokens and of rows."""
    from aiter import gemm_a8w8_CK

    codes, scales = vllm_token_quant(x, dtype)
    found: Tensor = gemm_a8w8_CK(codes, weight, scales, scale, bias, x.dtype)
    return found


def vllm_integer_linear(codes: Tensor, weight: Tensor, scales: Tensor, rows: Tensor, bias: Tensor) -> Tensor:
    """vLLM's of int8."""
    from aiter import gemm_a8w8_CK

    found: Tensor = gemm_a8w8_CK(codes, weight, scales, rows, bias, torch.bfloat16)
    return found


def sglang_absorb(q_nope: Tensor, w_kc: Tensor, w_scale: Tensor) -> Tensor:
    from aiter.ops.triton.batched_gemm_a8w8_a_per_token_group_prequant_w_per_batched_tensor_quant import (
        batched_gemm_a8w8_a_per_token_group_prequant_w_per_batched_tensor_quant,
    )

    found: Tensor = batched_gemm_a8w8_a_per_token_group_prequant_w_per_batched_tensor_quant(
        X=q_nope,
        WQ=w_kc.transpose(-1, -2),
        w_scale=w_scale,
        group_size=128,
        YQ=None,
        transpose_bm=False,
        transpose_bm_in=True,
        dtype=torch.bfloat16,
    )
    return found


def vllm_rope(positions: Tensor, query: Tensor, key: Tensor, head_size: int, table: Tensor, is_neox: bool) -> None:
    from aiter.ops.triton.rope.rope import rope_cached_thd_positions_offsets_2c_fwd_inplace

    cos, sin = table.chunk(2, dim=-1)
    query, key = (x.view(positions.numel(), -1, head_size)[..., :head_size] for x in (query, key))
    rope_cached_thd_positions_offsets_2c_fwd_inplace(
        *(query, key, cos, sin, positions, None, 0 if is_neox else 1), reuse_freqs_front_part=True, nope_first=False
    )


def cache_latents(kv_c: Tensor, k_pe: Tensor, cache: Tensor, slots: Tensor, kind: str, scale: Tensor) -> None:
    from aiter import concat_and_cache_mla

    concat_and_cache_mla(kv_c, k_pe, cache, slots, kind, scale)


def sglang_rope_and_cache(
    q: tuple[Tensor, Tensor], k: tuple[Tensor, Tensor], cache: Tensor, slots: Tensor, pos: Tensor, cos: Any, sin: Any,
    scale: Tensor, q_out_dtype: torch.dtype,
) -> tuple[Tensor, ...]:  # fmt: skip
    from aiter.ops.triton.fused_kv_cache import fused_qk_rope_cat_and_cache_mla

    found: tuple[Tensor, ...] = fused_qk_rope_cat_and_cache_mla(
        *(*q, *k, cache, slots, pos, cos, sin, scale, False), q_out_dtype=q_out_dtype
    )
    return found
