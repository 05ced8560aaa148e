"""Prefill of MLA with 8-bit queries, keys and values, under the names of upstream's planned prefill: a plan, a product
by it, and `mla_reduce_v1` behind it. torch attends, on every target, so a plan only says where results go.

A tile is up to `qlen_granularity` rows of a request. Without log-sums its rows are written where they belong, and
nothing is left to merge. With them each tile is two pieces, one of all tokens and one of none, since log-sums are what
`mla_reduce_v1` writes, and it writes those of tiles that have two pieces.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import arguments, operands
from aiterlite.ops.attention import flash_attn_varlen_func
from aiterlite.ops.mla_query import persona_here

_INFO, _PLAN, _OP = "get_ps_metadata_info_v1", "get_ps_metadata_v1", "mla_prefill_ps_asm_fwd"
_CODES = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.bfloat16, torch.float16)
_WORDS, _PIECES = 8, 2  # of a work item; of a tile with log-sums
_Size = tuple[int | tuple[int, int], torch.dtype]


def get_ps_metadata_info_v1(
    batch_size: int, num_head_k: int, max_qlen: int, qlen_granularity: int = 256
) -> tuple[_Size, _Size, _Size, _Size, _Size, _Size]:
    """Sizes and dtypes of a plan's buffers for up to batch_size requests of up to max_qlen rows: work_metadata_ptrs,
    work_indptr, work_info, reduce_indptr, reduce_final_map, reduce_partial_map.

    Source of the semantics: `aiter.get_ps_metadata_info_v1`. Raises `ArgumentError`.
    """
    most = 2**31 - 1
    given = {"batch_size": batch_size, "num_head_k": num_head_k, "max_qlen": max_qlen}
    arguments.check_ints(_INFO, **{name: (value, 1, most) for name, value in given.items()})
    arguments.check_ints(_INFO, qlen_granularity=(qlen_granularity, 1, most))
    tiles = batch_size * -(-max_qlen // qlen_granularity)
    return (
        (2, torch.uint64),
        (max(1, persona_here().cu_count) + 1, torch.int32),
        ((tiles, _WORDS), torch.int32),
        (tiles + 1, torch.int32),
        ((tiles, 2), torch.int32),
        (_PIECES * tiles, torch.int32),
    )


def get_ps_metadata_v1(
    seqlens_qo_indptr: Tensor,
    pages_kv_indptr: Tensor,
    context_lens: Tensor,
    gqa_ratio: int,
    num_heads_k: int,
    work_metadata_ptrs: Tensor,
    work_indptr: Tensor,
    work_info: Tensor,
    reduce_indptr: Tensor,
    reduce_final_map: Tensor,
    reduce_partial_map: Tensor,
    qhead_granularity: int = 1,
    qlen_granularity: int = 256,
    kvlen_granularity: int = 16,
    block_size: int = 16,
    is_causal: bool = True,
    need_lse: bool = False,
) -> None:
    """Writes a plan into buffers that may be larger than the batch needs.

    Args:
        seqlens_qo_indptr, pages_kv_indptr: int32 [requests + 1], read on the host: prefix sums of rows, and of pages of
            block_size tokens, of which 1 is served.
        context_lens: the tokens of requests; taken and not used, as are gqa_ratio, num_heads_k, qhead_granularity,
            kvlen_granularity and is_causal.
        work_metadata_ptrs: taken and left alone.
        work_indptr, work_info, reduce_indptr, reduce_final_map, reduce_partial_map: written, on any device.
        need_lse: whether `mla_reduce_v1` is to write log-sums.

    Source of the semantics: `aiter.get_ps_metadata_v1`. Raises `ArgumentError`.
    """
    if block_size != 1:
        raise ArgumentError(_PLAN, "block_size", block_size, "1", "Count tokens, with an index of each.")
    rows, pages = _prefix(_PLAN, "seqlens_qo_indptr", seqlens_qo_indptr), pages_kv_indptr.tolist()
    if len(pages) != len(rows):
        raise ArgumentError(_PLAN, "pages_kv_indptr", f"of {len(pages)} entries", f"{len(rows)}, as seqlens_qo_indptr")
    items: list[list[int]] = []
    pieces: list[int] = []
    for request in range(len(rows) - 1):
        for first in range(rows[request], rows[request + 1], qlen_granularity):
            last = min(first + qlen_granularity, rows[request + 1])
            place = len(items) * _PIECES * qlen_granularity if need_lse else -1
            none = place + qlen_granularity if need_lse else 0
            items.append([request, place, first, last, pages[request], pages[request + 1], 0, none])
            pieces += [place, none] if need_lse else []
    for name, buffer, count in (
        ("work_info", work_info, len(items)),
        ("reduce_indptr", reduce_indptr, len(items) + 1),
        ("reduce_final_map", reduce_final_map, len(items)),
        ("reduce_partial_map", reduce_partial_map, len(pieces)),
    ):
        if buffer.shape[0] < count:
            remedy = f"{_INFO} says how large buffers are."
            raise ArgumentError(_PLAN, name, f"of {buffer.shape[0]} rows", f"at least {count}", remedy)
    work_indptr.fill_(len(items))
    work_indptr[:1] = 0
    reduce_indptr.fill_(len(pieces))
    ends = torch.arange(len(items) + 1, dtype=torch.int32) * (_PIECES if need_lse else 0)
    reduce_indptr[: len(items) + 1] = ends.to(reduce_indptr.device)
    if items:
        made = torch.tensor(items, dtype=torch.int32).to(work_info.device)
        work_info[: len(items)] = made
        reduce_final_map[: len(items)] = made[:, 2:4].to(reduce_final_map.device)
    if pieces:
        places = torch.tensor(pieces, dtype=torch.int32).to(reduce_partial_map.device)
        reduce_partial_map[: len(pieces)] = places


def mla_prefill_ps_asm_fwd(
    Q: Tensor,  # noqa: N803 (upstream's names)
    K: Tensor,  # noqa: N803
    V: Tensor,  # noqa: N803
    qo_indptr: Tensor,
    kv_indptr: Tensor,
    kv_page_indices: Tensor,
    work_indptr: Tensor | None,
    work_info_set: Tensor | None,
    max_seqlen_q: int,
    softmax_scale: float,
    is_causal: bool,
    splitData: Tensor,  # noqa: N803
    splitLse: Tensor,  # noqa: N803
    output: Tensor,
    q_scale: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
) -> None:
    """softmax(scale q k^T) v of each request, by a plan of `get_ps_metadata_v1`, into output; pieces of tiles with
    log-sums into splitData and splitLse too.

    Args:
        Q: [rows, heads, D], K: [tokens, KV heads, D], V: [tokens, KV heads, Dv], of an e4m3 type or 16 bits. Codes are
            numbers of output's type before they are multiplied; the softmax's weights are not quantised.
        qo_indptr, kv_indptr: int32 [requests + 1], prefix sums of rows and tokens; read on the host, so a call waits
            for the device and cannot be captured.
        kv_page_indices: int32: which row of K and V each token is.
        work_indptr, work_info_set: the plan's, read on the host.
        max_seqlen_q: taken and not used.
        is_causal: of n rows and m tokens row i sees the tokens up to m - n + i.
        splitData, splitLse: float32, rows of the plan's pieces, [.., heads, Dv] and [.., heads].
        output: [rows, heads, Dv], bfloat16 or float16.
        q_scale, k_scale, v_scale: float32, one element each: what codes are multiples of.

    Source of the semantics: `aiter.mla_prefill_ps_asm_fwd`, which serves gfx950 alone. Raises `ArgumentError`.
    """
    arguments.check_tensors(_OP, Q=Q, K=K, V=V, output=output)
    for name, tensor in (("Q", Q), ("K", K), ("V", V)):
        operands.check_dtype(_OP, name, tensor, _CODES)
        operands.check_dims(_OP, name, tensor, 3, "[rows, heads, D]")
    operands.check_dtype(_OP, "output", output, (torch.bfloat16, torch.float16))
    if work_indptr is None or work_info_set is None:
        absent = "work_indptr" if work_indptr is None else "work_info_set"
        raise ArgumentError(_OP, absent, None, f"a plan of {_PLAN}")
    items = work_info_set[: int(work_indptr[-1])].tolist()
    places = [item for item in items if item[1] >= 0]
    tokens = _prefix(_OP, "kv_indptr", kv_indptr)[-1]
    chosen = kv_page_indices[:tokens].long()
    numbers = (
        _numbers(Q, q_scale, output.dtype),
        _numbers(_chosen(K, chosen), k_scale, output.dtype),
        _numbers(_chosen(V, chosen), v_scale, output.dtype),
    )
    how: dict[str, Any] = {"softmax_scale": softmax_scale, "causal": is_causal, "out": output}
    given = *numbers, qo_indptr, kv_indptr, max_seqlen_q, max(1, tokens)
    found = flash_attn_varlen_func(*given, return_lse=bool(places), **how)
    if not places:
        return
    heads, width = output.shape[1:]
    data, sums = splitData.view(-1, heads, width), splitLse.view(-1, heads)
    for _, place, first, last, *_, none in places:
        count = last - first
        data[place : place + count] = output[first:last]
        sums[place : place + count] = found[1][:, first:last].T
        data[none : none + count] = 0
        sums[none : none + count] = -torch.inf


def _prefix(op: str, name: str, given: Tensor) -> list[int]:
    if given.dim() != 1 or given.dtype != torch.int32 or given.shape[0] < 1:
        raise ArgumentError(op, name, f"of dtype {given.dtype}, shape {list(given.shape)}", "int32 [requests + 1]")
    found: list[int] = given.tolist()
    return found


def _chosen(tensor: Tensor, rows: Tensor) -> Tensor:
    """Rows of codes, which torch chooses as bytes."""
    if tensor.itemsize != 1:
        return tensor.index_select(0, rows)
    return tensor.view(torch.uint8).index_select(0, rows).view(tensor.dtype)


def _numbers(tensor: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    made = tensor.to(dtype)
    return made if scale is None else made * scale.to(dtype)
