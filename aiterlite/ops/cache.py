"""Latents of MLA on their way to a paged cache, under the names of `aiter`.

A cache is [blocks, block, W], and a slot is a place in it, block * size + offset. A token whose slot is none of the
cache, -1 above all, is skipped: nothing of it is written, and its position may be anything. Slots may be fewer than
rows; rows beyond are left alone. Two tokens must not have one slot.

An 8-bit cache holds x * (1 / scale), to nearest, ties to even, the largest number beyond it. A cache of uint8 is one of
the target's own format (e4m3fnuz on gfx942, else e4m3fn), and a float8_e4m3 one has its own on every target. What
is written, and where it is rounded, is in `aiterlite.reference.cache`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import arguments, direct
from aiterlite.ops.cache_operators import CONCAT_AND_CACHE, FUSED_CONCAT, cat_and_cache
from aiterlite.tables.cache import CAT


def concat_and_cache_mla(
    kv_c: Tensor, k_pe: Tensor, kv_cache: Tensor, slot_mapping: Tensor, kv_cache_dtype: str, scale: Tensor
) -> None:
    """Writes [kv_c, k_pe] of each token to its slot of the cache.

    Args:
        kv_c, k_pe: [tokens, kv_lora_rank] and [tokens, R] of bfloat16 or float16; rows may be strided, and more than
            slots.
        kv_cache: [blocks, block, kv_lora_rank + R]; blocks and entries may be strided.
        slot_mapping: int64 or int32, [tokens] or fewer.
        kv_cache_dtype: "auto", for a cache of kv_c's type, or "fp8" or "fp8_e4m3", for one of 8 bits or uint8.
        scale: float32 of one element, read on the device; not used by "auto".

    Source of the semantics: `aiter.concat_and_cache_mla`. Not differentiable. Raises `ArgumentError`, `DispatchError`
    or a `JitError`.
    """
    direct.call(CONCAT_AND_CACHE, (kv_c, k_pe, kv_cache, slot_mapping, kv_cache_dtype, scale), (kv_cache,))


def fused_qk_rope_concat_and_cache_mla(
    q_nope: Tensor,
    q_pe: Tensor,
    kv_c: Tensor,
    k_pe: Tensor,
    kv_cache: Tensor,
    q_out: Tensor,
    slot_mapping: Tensor,
    k_scale: Tensor,
    q_scale: Tensor,
    positions: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    is_neox: bool,
    is_nope_first: bool,
    compute_all_q_rope: bool = False,
) -> None:
    """Rotates q_pe and k_pe at their tokens' positions; writes [q_nope, q_pe] to q_out, and [kv_c, k_pe] to the cache.

    Args are those of `concat_and_cache_mla`, and:
        q_nope, q_pe: [tokens, heads, kv_lora_rank] and [tokens, heads, R], of kv_c's type, strided in any way but for
            the last dimension.
        kv_c, k_pe: also [tokens, kv_heads, ...], and then kv_cache [blocks, block, kv_heads, W].
        q_out: [tokens, heads, kv_lora_rank + R], of the same type or of a float8_e4m3 one, which is divided by q_scale
            as the cache is by k_scale; rows may be strided.
        positions: int64 or int32, one for each slot or more. One outside the tables counts as the nearest inside.
        cos_cache, sin_cache: [positions, R / 2] or [positions, R], of kv_c's type or float32.
        is_neox, is_nope_first: pairs are halves of R (else neighbours); rows are [nope, rope] (else [rope, nope]).
        compute_all_q_rope: q_out is written for tokens without a slot, too (of those that slot_mapping has).

    Source of the semantics: `aiter.fused_qk_rope_concat_and_cache_mla`, which does not round what it rotated before it
    quantises it. Raises as `concat_and_cache_mla`.
    """
    operands = q_nope, q_pe, kv_c, k_pe, kv_cache, q_out, slot_mapping, k_scale, q_scale, positions
    how = bool(is_neox), bool(is_nope_first), bool(compute_all_q_rope)
    direct.call(FUSED_CONCAT, (*operands, cos_cache, sin_cache, *how), (kv_cache, q_out))


def fused_qk_rope_cat_and_cache_mla(
    q_nope: Tensor,
    q_pe: Tensor,
    k_nope: Tensor,
    k_pe: Tensor,
    kv_cache: Tensor,
    slot_mapping: Tensor,
    pos: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_scale: Tensor | None,
    is_neox: bool,
    num_decode_toks_for_zeros: int = 0,
    apply_scale: bool = True,
    q_out: Tensor | None = None,
    decode_q_pe_out: Tensor | None = None,
    k_pe_out: Tensor | None = None,
    q_out_dtype: torch.dtype | None = None,
    shuffled_kv_cache: bool = False,
    upcast_operand: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same with results of its own: (q_out, decode_q_pe_out, k_pe_out, q_nope_zeros_out).

    Args are those of `fused_qk_rope_concat_and_cache_mla` under other names, and:
        q_nope, q_pe: [B, heads, ...]; all are written to q_out, with a slot or without.
        k_nope, k_pe: [T, kv_heads, ...] of T >= B tokens; k_pe of the first B is rotated, others are written as they
            are.
        kv_cache: [slots, kv_heads, W]. It is divided by k_scale where that is given and apply_scale holds, also if it
            is of k_nope's type.
        num_decode_toks_for_zeros: for so many tokens, decode_q_pe_out is the rotated q_pe and q_nope_zeros_out zeros.
        k_pe_out: [T, kv_heads, R], the rotated k_pe of tokens that have a slot; others are left as they are.
        q_out_dtype: of a new q_out, else q_nope's. A q_out of 8 bits has no scale.
        shuffled_kv_cache: has no kernel here.
        upcast_operand: not used: the arithmetic is float32 in any case.

    Source of the semantics: `fused_qk_rope_cat_and_cache_mla` of `aiter.ops.triton.fusions.fused_kv_cache`. Raises as
    `concat_and_cache_mla`.
    """
    arguments.check_tensors(CAT, q_nope=q_nope, q_pe=q_pe, k_nope=k_nope, k_pe=k_pe)
    if shuffled_kv_cache:
        raise ArgumentError(CAT, "shuffled_kv_cache", True, "False", "Keep the cache as [slots, heads, W].")
    for name, tensor in (("q_nope", q_nope), ("q_pe", q_pe), ("k_pe", k_pe)):
        if tensor.dim() != 3:
            raise ArgumentError(CAT, name, f"of shape {list(tensor.shape)}", "[tokens, heads, W], 3 dimensions")
    tokens, heads, lora = q_nope.shape
    width = q_pe.shape[2]
    arguments.check_ints(CAT, num_decode_toks_for_zeros=(num_decode_toks_for_zeros, 0, tokens))
    count = int(num_decode_toks_for_zeros)
    if q_out is None:
        q_out = q_nope.new_empty((tokens, heads, lora + width), dtype=q_out_dtype or q_nope.dtype)
    if decode_q_pe_out is None:
        decode_q_pe_out = q_nope.new_empty((count, heads, width))
    elif decode_q_pe_out.shape[:1].numel() != count:
        given = f"of shape {list(decode_q_pe_out.shape)}"
        raise ArgumentError(CAT, "decode_q_pe_out", given, f"{count} tokens, as num_decode_toks_for_zeros says")
    if k_pe_out is None:
        k_pe_out = k_pe.new_empty(k_pe.shape)
    zeros = q_nope.new_empty((count, heads, lora))
    scale = k_scale if apply_scale else None
    operands = q_nope, q_pe, k_nope, k_pe, kv_cache, slot_mapping, pos, cos, sin, scale, bool(is_neox)
    written = q_out, decode_q_pe_out, k_pe_out, zeros
    cat_and_cache(*operands, *written)
    return written
