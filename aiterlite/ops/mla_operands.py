"""What the MLA operators ask of their operands: a check raises `ArgumentError` with what is allowed and what to do. And
by what of them a prepared call is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import operands, operator
from aiterlite.ops.arguments import check_contiguous
from aiterlite.tables import mla as tables
from aiterlite.tables import mla_context

Q_DTYPES = (torch.bfloat16, torch.float16, *operands.FP8_DTYPES.values())
O_DTYPES = (torch.bfloat16, torch.float16)
PLAN = ("work_meta_data", "work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")


def context(entries: int, page_size: int, batch: int) -> int:
    """Tokens that a request has, on average and about, where kv_indices has so many entries."""
    return mla_context.about(entries * page_size // max(1, batch))


# Where the operators that attend have them among their arguments.
_KV_BUFFER, _QO_INDPTR, INDICES = 1, 3, 5


def key_of(args: tuple[Any, ...]) -> Any:
    """A call's layouts and values; instead of the length of kv_indices, which each further page changes, the context
    that a call is decided for. The length itself goes with each launch."""
    key = operator.key_of(args)
    if args[_KV_BUFFER] is None or args[_QO_INDPTR] is None or args[INDICES] is None:
        return key
    buffer, rows, (entries, strides, dtype, device, _) = key[_KV_BUFFER][0], key[_QO_INDPTR][0], key[INDICES]
    if (len(buffer), len(rows), len(entries)) != (4, 1, 1):
        return key
    # The stride of a single entry says nothing of another length.
    about = context(entries[0], buffer[1], rows[0] - 1), strides[0] == 1 or entries[0] < 2
    return (*key[:INDICES], (*about, dtype, device), *key[INDICES + 1 :])


def check_ints(op: str, like: Tensor, of: str = "q", **tensors: Tensor | None) -> None:
    """Contiguous int32 on the device of another operand."""
    for name, tensor in tensors.items():
        if tensor is not None:
            operands.check_dtype(op, name, tensor, (torch.int32,))
            operands.check_device(op, name, tensor, like, of)
    check_contiguous(op, **tensors)


def check_length(op: str, name: str, tensor: Tensor, least: int, of: str) -> None:
    if tensor.dim() != 1 or tensor.shape[0] < least:
        raise ArgumentError(op, name, f"of shape {list(tensor.shape)}", f"[{least}] or longer, {of}")


def check_rows(op: str, q: Tensor, kv_buffer: Tensor, o: Tensor, page_size: int | None, max_seqlen_q: int) -> None:
    operands.check_dims(op, "q", q, 3, "[total_q, heads, 576]")
    operands.check_shape(op, "q", q, [[*q.shape[:2], tables.KEY_DIM]])
    operands.check_dtype(op, "q", q, Q_DTYPES)
    operands.check_dims(op, "kv_buffer", kv_buffer, 4, "[pages, page_size, 1, 576]")
    pages, slots = kv_buffer.shape[:2]
    operands.check_shape(op, "kv_buffer", kv_buffer, [[pages, slots, 1, tables.KEY_DIM]])
    eight = tuple(operands.FP8_DTYPES.values())
    allowed = (q.dtype,) if q.dtype in eight else (q.dtype, *eight)
    operands.check_dtype(op, "kv_buffer", kv_buffer, allowed, f"beside a q of {q.dtype}")
    operands.check_device(op, "kv_buffer", kv_buffer, q, "q")
    operands.check_shape(op, "o", o, [[*q.shape[:2], tables.VALUE_DIM]])
    operands.check_dtype(op, "o", o, O_DTYPES if q.dtype in eight else (q.dtype,), f"beside a q of {q.dtype}")
    operands.check_device(op, "o", o, q, "q")
    if page_size is not None and page_size != slots:
        raise ArgumentError(
            op, "page_size", page_size, f"{slots}, the second dimension of kv_buffer", "View it by page."
        )
    if max_seqlen_q < 1:
        raise ArgumentError(op, "max_seqlen_q", max_seqlen_q, "1 or more")


def check_layout(op: str, q: Tensor, kv_buffer: Tensor, o: Tensor) -> None:
    check_contiguous(op, q=q, o=o)
    operands.check_dense(op, kv_buffer=kv_buffer)
    bytes_apart = [kv_buffer.stride(d) * kv_buffer.itemsize for d in (0, 1) if kv_buffer.shape[d] > 1]
    for name, tensor in (("q", q), ("o", o)):
        if tensor.data_ptr() % 16:
            raise ArgumentError(op, name, f"at {tensor.data_ptr():#x}", "memory at a multiple of 16 bytes", "Clone it.")
    if kv_buffer.data_ptr() % 16 or any(step % 16 for step in bytes_apart):
        got = f"of strides {list(kv_buffer.stride())} at {kv_buffer.data_ptr():#x}"
        remedy = "Call .clone(memory_format=torch.contiguous_format) on what lies elsewhere."
        raise ArgumentError(op, "kv_buffer", got, "rows at multiples of 16 bytes", remedy)


def check_pages(op: str, q: Tensor, batch: int, kv_indptr: Tensor, kv_indices: Tensor, last_page_lens: Tensor) -> None:
    check_ints(op, q, kv_indptr=kv_indptr, kv_indices=kv_indices, kv_last_page_lens=last_page_lens)
    check_length(op, "kv_indptr", kv_indptr, batch + 1, "one more than requests")
    check_length(op, "kv_indices", kv_indices, 0, "a page number each")
    check_length(op, "kv_last_page_lens", last_page_lens, batch, "one a request")


def check_unsupported(op: str, nhead_kv: int, logit_cap: float, g_kv_indptr: Tensor | None, cp_world_size: int) -> None:
    if nhead_kv != 1:
        raise ArgumentError(op, "nhead_kv", nhead_kv, "1: all heads share the latent KV")
    if logit_cap > 0:
        raise ArgumentError(op, "logit_cap", logit_cap, "0 or less", "Scores are not capped here.")
    if g_kv_indptr is not None or cp_world_size != 1:
        name, got = ("cp_world_size", cp_world_size) if g_kv_indptr is None else ("g_kv_indptr", "given")
        raise ArgumentError(op, name, got, "1, without g_kv_indptr", "Decode each rank's KV, and merge by the lse.")


def check_scales(op: str, q: Tensor, kv_buffer: Tensor, q_scale: Tensor | None, kv_scale: Tensor | None) -> None:
    for name, scale in (("q_scale", q_scale), ("kv_scale", kv_scale)):
        if scale is None:
            if q.itemsize == 1:
                raise ArgumentError(op, name, None, f"float32 of one element, beside a q of {q.dtype}")
            continue
        operands.check_dtype(op, name, scale, (torch.float32,))
        operands.check_device(op, name, scale, q, "q")
        if scale.numel() != 1:
            raise ArgumentError(op, name, f"of shape {list(scale.shape)}", "one element")


def check_plan(op: str, q: Tensor, plan: Sequence[Tensor | None]) -> None:
    given = dict(zip(PLAN, plan, strict=True))
    for name, tensor in given.items():
        if tensor is None:
            raise ArgumentError(op, name, None, "a tensor, as all six of a plan", "Leave work_meta_data out as well.")
    meta, indptr, info, reduce_indptr, final_map, partial_map = (t for t in plan if t is not None)
    operands.check_device(op, "work_meta_data", meta, q, "q")
    check_ints(op, q, "q", **{name: given[name] for name in PLAN[1:]})
    check_length(op, "work_indptr", indptr, 2, "one more than workgroups")
    for name, tensor, width in (("work_info_set", info, 8), ("reduce_final_map", final_map, 2)):
        if tensor.numel() % width or tensor.shape[-1:] != (width,):
            raise ArgumentError(op, name, f"of shape {list(tensor.shape)}", f"[rows, {width}]")
    check_length(op, "reduce_indptr", reduce_indptr, 1, "one more than tiles")
    check_length(op, "reduce_partial_map", partial_map, 0, "one a part")
    if final_map.numel() // 2 < reduce_indptr.shape[0] - 1:
        tiles = reduce_indptr.shape[0] - 1
        raise ArgumentError(op, "reduce_final_map", f"of shape {list(final_map.shape)}", f"[{tiles}, 2] or longer")


def check_merge(
    partial: Tensor,
    partial_lse: Tensor,
    indptr: Tensor,
    final_map: Tensor | None,
    partial_map: Tensor,
    max_seqlen_q: int,
    num_kv_splits: int,
    final: Tensor,
    lse: Tensor | None = None,
) -> None:
    op = tables.REDUCE.op
    operands.check_dims(op, "final_output", final, 3, "[rows, heads, dim]")
    operands.check_dtype(op, "final_output", final, O_DTYPES)
    rows, heads, dim = final.shape
    operands.check_dtype(op, "partial_output", partial, (torch.float32,))
    parts = partial.shape[0] if partial.dim() else 0
    operands.check_shape(op, "partial_output", partial, [[parts, heads, dim], [parts, 1, heads, dim]])
    operands.check_dtype(op, "partial_lse", partial_lse, (torch.float32,))
    if partial_lse.numel() != parts * heads:
        got, allowed = f"of shape {list(partial_lse.shape)}", f"[{parts}, {heads}], with ones between or behind"
        raise ArgumentError(op, "partial_lse", got, allowed)
    floats = {"partial_output": partial, "partial_lse": partial_lse}
    if lse is not None:
        operands.check_dtype(op, "final_lse", lse, (torch.float32,))
        if lse.numel() < rows * heads:
            raise ArgumentError(op, "final_lse", f"of shape {list(lse.shape)}", f"[{rows}, {heads}]")
        floats["final_lse"] = lse
    for name, tensor in floats.items():
        operands.check_device(op, name, tensor, final, "final_output")
    check_contiguous(op, final_output=final, **floats)
    check_ints(
        op, final, "final_output", reduce_indptr=indptr, reduce_final_map=final_map, reduce_partial_map=partial_map
    )
    check_length(op, "reduce_indptr", indptr, 1, "one more than tiles")
    check_length(op, "reduce_partial_map", partial_map, 0, "one a part")
    if final_map is not None and (final_map.shape[-1:] != (2,) or final_map.numel() // 2 < indptr.shape[0] - 1):
        got, allowed = f"of shape {list(final_map.shape)}", f"[{indptr.shape[0] - 1}, 2] or longer"
        raise ArgumentError(op, "reduce_final_map", got, allowed)
    if max_seqlen_q < 1:
        raise ArgumentError(op, "max_seqlen_q", max_seqlen_q, "1 or more")
