"""Planning MLA decode: sizes of a plan's buffers, the plan itself, and a plan brought forward.

What a plan is, in the words of its buffers (all int32 but the first):

    work_metadata_ptrs   [2] uint64     addresses of work_indptr and work_info_set
    work_indptr          [S + 1]        workgroup c executes the rows from [c] to [c + 1]; S is one less than its length
    work_info_set        [rows, 8]      batch_idx, partial_qo_loc, qo_start, qo_end, kv_start, kv_end, kv_offset, stamp
    reduce_indptr        [tiles + 1]    entries of reduce_partial_map of each tile; the unused tail repeats the last
    reduce_final_map     [tiles, 2]     rows of the output that a tile's merged partial results are
    reduce_partial_map   [entries]      first row, in the partial results, of each piece of a tile that is cut

`batch_idx` counts folded requests: it is request batch_idx // fold, heads 16 * (batch_idx % fold) onwards. Rows of its
queries are `max_seqlen_qo` apart where the fold is not 1, and those of the call's q where it is. `partial_qo_loc` is -1
for a tile that is not cut. `kv_start` and `kv_end` are places in kv_indices; `kv_offset` the tokens from kv_end to the
end of the request. The stamp, padding upstream, is 0x4d4c0000 and the fold.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import calls, operands
from aiterlite.ops import mla_plan_operators as operators
from aiterlite.ops.mla_query import persona_here
from aiterlite.tables import mla_heads, mla_plan

_INFO, _PLAN, _UPDATE = "get_mla_metadata_info_v1", "get_mla_metadata_v1", "decode_update_mla_metadata_v1"
# MlaVersion.V32 upstream: DeepSeek V3 and R1.
_V32 = 0
Info = tuple[tuple[Any, torch.dtype], ...]


def get_mla_metadata_info_v1(
    batch_size: int,
    max_seqlen_qo: int,
    num_head_qo: int,
    q_dtype: torch.dtype | None,
    kv_dtype: torch.dtype | None,
    is_sparse: bool,
    fast_mode: bool = True,
    num_kv_splits: int = 32,
    intra_batch_mode: bool = False,
    max_split_per_batch: int = -1,
    *,
    device: torch.device | str | None = None,
) -> Info:
    """Shape (or length) and dtype of a plan's six buffers, in the order of the module's docstring.

    They hold a plan of any batch up to `batch_size` and of queries up to `max_seqlen_qo`, of these heads and dtypes.
    (Upstream's are too small for some shorter queries: gfx950 plans three tokens of 32 heads as two tiles, four as
    one.)
    Heads that no kernel has are padded. `device` is where the plan will be made; None is the current one.

    Source of the semantics: `aiter.get_mla_metadata_info_v1`. Raises `ArgumentError`.
    """
    for name, value, least in (
        ("batch_size", batch_size, 0),
        ("max_seqlen_qo", max_seqlen_qo, 1),
        ("num_kv_splits", num_kv_splits, 1),
    ):
        if value < least:
            raise ArgumentError(_INFO, name, value, f"at least {least}")
    try:
        held = mla_plan.sizes(
            persona_here(device),
            batch_size,
            max_seqlen_qo,
            num_head_qo,
            *_dtype_names(q_dtype, kv_dtype),
            sparse=is_sparse,
            planner=_planner(fast_mode, intra_batch_mode),
            num_kv_splits=num_kv_splits,
            max_split_per_batch=max_split_per_batch,
        )
    except ValueError as error:
        raise ArgumentError(_INFO, "num_head_qo, q_dtype, kv_dtype", str(error), "what the table has") from None
    return (
        (2, torch.uint64),
        (held.units + 1, torch.int32),
        ((held.work_rows, mla_heads.ROW_WORDS), torch.int32),
        (held.reduce_tiles + 1, torch.int32),
        ((held.reduce_tiles, 2), torch.int32),
        (held.partial_entries, torch.int32),
    )


def get_mla_metadata_v1(
    seqlens_qo_indptr: Tensor,
    seqlens_kv_indptr: Tensor,
    kv_last_page_lens: Tensor,
    num_heads_per_head_k: int,
    num_heads_k: int,
    is_causal: bool,
    work_metadata_ptrs: Tensor,
    work_info_set: Tensor,
    work_indptr: Tensor,
    reduce_indptr: Tensor,
    reduce_final_map: Tensor,
    reduce_partial_map: Tensor,
    page_size: int = 1,
    kv_granularity: int = 16,
    max_seqlen_qo: int = -1,
    uni_seqlen_qo: int = -1,
    fast_mode: bool = True,
    topk: int = -1,
    max_split_per_batch: int = -1,
    intra_batch_mode: bool = False,
    is_cp_round_robin: bool = False,
    mla_version: int = _V32,
    dtype_q_nope: torch.dtype | None = None,
    dtype_q_rope: torch.dtype | None = None,
    dtype_kv_nope: torch.dtype | None = None,
    dtype_kv_rope: torch.dtype | None = None,
    dtype_q: torch.dtype | None = None,
    dtype_kv: torch.dtype | None = None,
) -> None:
    """Plan MLA decode into six buffers. Their order here is not that of `get_mla_metadata_info_v1`: work_info_set comes
    before work_indptr.

    Args:
        seqlens_qo_indptr, seqlens_kv_indptr: int32 [batch + 1], prefix sums of tokens and of pages; the latter begins
            with the first place in kv_indices that belongs to a request, usually 0.
        kv_last_page_lens: int32 [batch], read where `page_size` is not 1.
        num_heads_per_head_k, num_heads_k: query heads of this rank, and 1.
        is_causal: each q tile leaves out the KV that none of its tokens sees. False leaves all masking to decode.
        page_size, kv_granularity: powers of two; work is counted in blocks of so many pages.
        max_seqlen_qo, uni_seqlen_qo: the longest query; the length of all, or less than 1 where they differ.
        fast_mode, intra_batch_mode: v1_2 (fast); else v1_0 (intra); else v1_1.
        max_split_per_batch: pieces of a request, at most (v1_2: on average); less than 1 for no such limit.
        is_cp_round_robin: the KV is dealt to several ranks token by token: nothing is left out.
        dtype_q_nope, ..., dtype_kv: of q and KV; None is bfloat16. `dtype_q` and `dtype_kv` are older names.

    Buffers may be larger than this batch needs. Every entry of work_indptr and reduce_indptr is written, and of the
    others those that a row or a tile stands for. It runs on the current stream, asks nothing of the host and needs no
    memory, so it can be captured into a graph, whose replays plan for what the index arrays then hold.

    Departures from upstream, where that divides by zero, passes the end of a buffer, or reads another request's entry:
        A request without KV, and a q tile that sees none, is no work; a request without query has no tile.
        v1_0 makes 1 to `max_split_per_batch` pieces of a tile, and no more than the buffers hold; v1_2 divides the work
            by fewer workgroups where they hold less. (Upstream makes 16 on gfx942 whatever the buffers were sized for.)
        All planners fold, and cut queries into tiles, by one table (tables/mla_heads.py), v1_0 too for 32 and 64 heads.
            A tile of several tokens never has more rows than the table says, and 128 heads of v1_0 are tiles of one
            token, not requests: batch_idx is the request's, kv_offset counts to the request's own end.
        Pages of folded requests have the last page's length of their request.
        v1_1 takes the lowest of equals first.

    Source of the semantics: `aiter.get_mla_metadata_v1`. Raises `ArgumentError`, `DispatchError` or a `JitError`.
    """
    q, kv = _dtype_names(dtype_q_nope or dtype_q, dtype_kv_nope or dtype_kv)
    for name, rope, nope in (
        ("dtype_q_rope", dtype_q_rope or dtype_q, q),
        ("dtype_kv_rope", dtype_kv_rope or dtype_kv, kv),
    ):
        if rope is not None and operands.dtype_name(rope) != nope:
            raise ArgumentError(_PLAN, name, rope, f"{nope}, the dtype of the other part")
    for name, value, allowed in (
        ("num_heads_k", num_heads_k, 1),
        ("mla_version", int(mla_version), _V32),
    ):
        if value != allowed:
            raise ArgumentError(_PLAN, name, value, str(allowed))
    if topk >= 0:
        raise ArgumentError(_PLAN, "topk", topk, "less than 0", "Pass the chosen tokens as kv_indices of their own.")
    for name, value in (("page_size", page_size), ("kv_granularity", kv_granularity)):
        if value < 1 or value & (value - 1):
            raise ArgumentError(_PLAN, name, value, "a power of two")
    uniform = max(uni_seqlen_qo, 0)
    longest = max_seqlen_qo if max_seqlen_qo > 0 else uniform
    if longest < 1 or uniform > longest:
        got = f"{max_seqlen_qo}, with uni_seqlen_qo {uni_seqlen_qo}"
        raise ArgumentError(_PLAN, "max_seqlen_qo", got, "the longest query, at least 1 and uni_seqlen_qo")
    persona = calls.persona_of(_PLAN, seqlens_kv_indptr.device)
    try:
        heads = mla_heads.fold(persona.target, num_heads_per_head_k, q, kv, longest)
    except ValueError as error:
        raise ArgumentError(_PLAN, "num_heads_per_head_k, dtypes", str(error), "what the table has") from None
    planner = _planner(fast_mode, intra_batch_mode)
    held = operators.held_by(work_info_set, work_indptr, reduce_indptr, reduce_final_map, reduce_partial_map)
    requests = max(seqlens_kv_indptr.numel() - 1, 0) * heads.fold
    tiles = requests * -(-(uniform or longest) // heads.tile_tokens)
    operators.check_held(planner, held, tiles)
    most = max(max_split_per_batch, 0) * (requests if planner == "fast" else 1)
    operators.PLAN(
        seqlens_qo_indptr,
        seqlens_kv_indptr,
        kv_last_page_lens,
        work_metadata_ptrs,
        work_info_set,
        work_indptr,
        reduce_indptr,
        reduce_final_map,
        reduce_partial_map,
        planner=planner,
        heads=heads.heads,
        fold=heads.fold,
        tile_tokens=heads.tile_tokens,
        max_q=longest,
        uniform_q=uniform,
        page_size=page_size,
        granularity=kv_granularity,
        trim=is_causal and page_size == 1 and not is_cp_round_robin,
        splits=mla_plan.most_pieces(planner, held, tiles, most),
        fixed_splits=mla_plan.GFX942_SPLITS if persona.target == "gfx942" else 0,
    )


def decode_update_mla_metadata_v1(
    seqlens_qo_indptr: Tensor,
    seqlens_kv_indptr: Tensor,
    kv_last_page_lens: Tensor,
    num_heads_per_head_k: int,
    num_heads_k: int,
    is_causal: bool,
    work_metadata_ptrs: Tensor,
    work_info_set: Tensor,
    work_indptr: Tensor,
    reduce_indptr: Tensor,
    reduce_final_map: Tensor,
    reduce_partial_map: Tensor,
    page_size: int = 1,
    kv_granularity: int = 16,
    max_seqlen_qo: int = 1,
    dtype_q: torch.dtype | None = None,
    dtype_kv: torch.dtype | None = None,
    num_reject_tokens: Tensor | None = None,
) -> None:
    """Bring a plan of the same requests forward: each has one token more, less those of `num_reject_tokens` (int32
    [batch]), and queries become one token long. `seqlens_kv_indptr` is the new one, `max_seqlen_qo` the length of all
    queries when the plan was made.

    Cuts stay where they are, counted from each request's start, so after many steps a new plan is shorter than an old
    one brought forward. A piece behind the end of a request that shrank is empty. What has no work in the plan, a
    request without KV, gets none. Plans of several q tiles a request are refused.

    Source of the semantics: `aiter.decode_update_mla_metadata_v1`, which moves the cuts instead and asks for pages of
    one token as well. Raises `ArgumentError`, `DispatchError` or a `JitError`.
    """
    for name, value in (("page_size", page_size), ("num_heads_k", num_heads_k)):
        if value != 1:
            raise ArgumentError(_UPDATE, name, value, "1", "Plan again with get_mla_metadata_v1.")
    persona = calls.persona_of(_UPDATE, seqlens_kv_indptr.device)
    try:
        heads = mla_heads.fold(
            persona.target, num_heads_per_head_k, *_dtype_names(dtype_q, dtype_kv), max(max_seqlen_qo, 1)
        )
    except ValueError as error:
        raise ArgumentError(_UPDATE, "num_heads_per_head_k, dtypes", str(error), "what the table has") from None
    if heads.q_tiles > 1:
        got = f"{max_seqlen_qo}, planned as {heads.q_tiles} tiles of {heads.heads} heads"
        raise ArgumentError(
            _UPDATE, "max_seqlen_qo", got, "queries of one tile", "Plan again with get_mla_metadata_v1."
        )
    operators.UPDATE(
        seqlens_kv_indptr, work_info_set, work_indptr, reduce_indptr, reduce_final_map, reduce_partial_map,
        num_reject_tokens, max_q=max(max_seqlen_qo, 1),
    )  # fmt: skip


def _dtype_names(q: torch.dtype | None, kv: torch.dtype | None) -> tuple[str, str]:
    return operands.dtype_name(q or torch.bfloat16), operands.dtype_name(kv or torch.bfloat16)


def _planner(fast_mode: bool, intra_batch_mode: bool) -> str:
    return "fast" if fast_mode else "intra" if intra_batch_mode else "cost"
