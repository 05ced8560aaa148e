"""What SGLang's ROCm code does with aiter, in its spellings and orders of arguments, on tensors of any device. Modules
of aiter are imported in the functions, as it does; something must answer to that name. Not a test file.

Facts of it: SGLang's `aiter_backend.py`, `forward_mla_rocm.py`, `layernorm.py`, `fp8_utils.py` and `topk.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from mla_cases import Batch
from torch import Tensor

LATENT, WIDTH = 512, 576


# Attention ------------------------------------------------------------------------------------------------------------


def block() -> dict[str, Any]:
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


def decode(case: Batch, max_bs: int, page_size: int = 1) -> Tensor:
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


def decode_unplanned(case: Batch) -> Tensor:
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


# Norms, quantisation, activations -------------------------------------------------------------------------------------


def norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> Any:
    from aiter import rmsnorm2d_fwd as rms_norm
    from aiter import rmsnorm2d_fwd_with_add as fused_add_rms_norm

    if residual is None:
        return rms_norm(x, weight, eps)
    residual_out, output = torch.empty_like(x), torch.empty_like(x)
    fused_add_rms_norm(output, x, residual, residual_out, weight, eps)
    return output, residual_out


def latents(q: Tensor, k: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
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


def latents_quantised(
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


def flatten(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    from aiter.ops.triton.fused_fp8_quant import fused_flatten_fp8_group_quant

    found: tuple[Tensor, Tensor] = fused_flatten_fp8_group_quant(
        x.transpose(0, 1), group_size=128, dtype_quant=dtype, transpose_scale=False
    )
    return found


# Mixture of experts ---------------------------------------------------------------------------------------------------


def mxfp4(
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


def route(gating: Tensor, bias: Tensor, topk: int, groups: int, topk_group: int) -> tuple[Tensor, Tensor]:
    from aiter import biased_grouped_topk as aiter_biased_grouped_topk

    tokens, device = gating.shape[0], gating.device
    weights = torch.empty((tokens, topk), dtype=torch.float32, device=device)
    ids = torch.empty((tokens, topk), dtype=torch.int32, device=device)
    aiter_biased_grouped_topk(gating.to(dtype=torch.float32), bias, weights, ids, groups, topk_group, True, 2.5)
    return weights, ids


def experts(x: Tensor, w1: Tensor, w2: Tensor, scales: tuple[Any, Any], routed: tuple[Tensor, Tensor]) -> Tensor:
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


def wrapped_experts(
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


def biased_experts(
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


# GEMMs of 8 bits, rotary embeddings, the cache -----------------------------------------------------------------------


def linear(x: Tensor, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
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


def absorb(q_nope: Tensor, w_kc: Tensor, w_scale: Tensor) -> Tensor:
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


def rope_and_cache(
    q: tuple[Tensor, Tensor], k: tuple[Tensor, Tensor], cache: Tensor, slots: Tensor, pos: Tensor, cos: Any, sin: Any,
    scale: Tensor, q_out_dtype: torch.dtype,
) -> tuple[Tensor, ...]:  # fmt: skip
    from aiter.ops.triton.fused_kv_cache import fused_qk_rope_cat_and_cache_mla

    found: tuple[Tensor, ...] = fused_qk_rope_cat_and_cache_mla(
        *(*q, *k, cache, slots, pos, cos, sin, scale, False), q_out_dtype=q_out_dtype
    )
    return found
