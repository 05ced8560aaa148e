"""flash_attn_varlen_func: attention of the prompts of several requests, as MLA's prefill asks for it. torch serves it,
on every target."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from aiterlite.errors import ArgumentError
from aiterlite.ops import arguments, operands

_OP = "flash_attn_varlen_func"
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Scores that are in memory at once while log-sums are made.
_SCORES = 1 << 24


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    min_seqlen_q: int | None = 0,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    logits_soft_cap: float = 0.0,
    causal: bool = False,
    window_size: Sequence[int] | None = (-1, -1, 0),
    bias: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_lse: bool = False,
    return_attn_probs: bool = False,
    how_v3_bf16_cvt: int = 1,
    block_table: Tensor | None = None,
    out: Tensor | None = None,
    cu_seqlens_q_padded: Tensor | None = None,
    cu_seqlens_k_padded: Tensor | None = None,
    sink_ptr: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(scale q k^T) v of each request, whose rows follow those of the request before.

    Args:
        q: [rows, heads, D] of bfloat16, float16 or float32.
        k, v: [tokens, KV heads, D] and [tokens, KV heads, Dv] of q's type; heads are a multiple of KV heads, and head h
            has the KV head h // (heads / KV heads). MLA's prefill has D 192 and Dv 128.
        cu_seqlens_q, cu_seqlens_k: int32 [requests + 1]: request b has the rows and tokens from entry b to entry b + 1.
            They are read on the host, so a call waits for the device and cannot be captured.
        max_seqlen_q, max_seqlen_k, min_seqlen_q, deterministic, how_v3_bf16_cvt: taken and not used.
        softmax_scale: D^-0.5 where it is None.
        causal: of n rows and m tokens row i sees the tokens up to m - n + i.
        return_lse: return log-sums of the scaled scores too.
        out: [rows, heads, Dv], written to and returned.
        dropout_p, logits_soft_cap, window_size, bias, alibi_slopes, return_attn_probs, block_table, sink_ptr,
            cu_seqlens_q_padded, cu_seqlens_k_padded: as by default; anything else is refused.

    Returns:
        out, or (out, lse): float32 [heads, rows]. A row that sees no token is 0, its log-sum -inf.

    Raises `ArgumentError`. Source of the semantics: `aiter.flash_attn_varlen_func`.
    """
    # vLLM passes None for no window.
    window = () if window_size is None else tuple(window_size)
    unserved = {
        "dropout_p": (dropout_p, dropout_p == 0),
        "logits_soft_cap": (logits_soft_cap, logits_soft_cap == 0),
        "window_size": (window, all(size < 0 for size in window[:2])),
        "return_attn_probs": (return_attn_probs, not return_attn_probs),
    }
    unserved |= {
        name: ("a tensor", given is None)
        for name, given in (
            *(("bias", bias), ("alibi_slopes", alibi_slopes), ("block_table", block_table), ("sink_ptr", sink_ptr)),
            *(("cu_seqlens_q_padded", cu_seqlens_q_padded), ("cu_seqlens_k_padded", cu_seqlens_k_padded)),
        )
    }
    for name, (got, as_default) in unserved.items():
        if not as_default:
            raise ArgumentError(_OP, name, got, "its default alone", "Call torch's attention for it.")
    _check(q, k, v, out)
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    result = q.new_empty((*q.shape[:2], v.shape[-1])) if out is None else out
    # What the offsets are is not known to a tracer, which takes all of it as one operator.
    attend = _OPERATOR if torch.compiler.is_compiling() else _attend_each
    lse = attend(q, k, v, cu_seqlens_q, cu_seqlens_k, scale, causal, return_lse, result)
    return (result, lse) if return_lse else result


def _attend_each(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    scale: float,
    causal: bool,
    with_lse: bool,
    out: Tensor,
) -> Tensor:
    """Writes out, one request after the other; returns log-sums, of no element where none were asked for."""
    rows = _offsets("cu_seqlens_q", cu_seqlens_q, q.shape[0], "rows of q")
    tokens = _offsets("cu_seqlens_k", cu_seqlens_k, k.shape[0], "rows of k")
    if len(rows) != len(tokens):
        raise ArgumentError(_OP, "cu_seqlens_k", f"of {len(tokens)} entries", f"{len(rows)}, those of cu_seqlens_q")
    # Rows of no request are zeros too.
    out.zero_()
    lse = _fake(q, k, v, cu_seqlens_q, cu_seqlens_k, scale, causal, with_lse, out).fill_(-torch.inf)
    for (first, last), (begin, end) in zip(pairwise(rows), pairwise(tokens), strict=True):
        # The first rows of a causal request with more rows than tokens see none.
        first = max(first, last - (end - begin)) if causal else first
        if first == last or begin == end:
            continue
        query, key, value = (t.transpose(0, 1) for t in (q[first:last], k[begin:end], v[begin:end]))
        out[first:last] = _attend(query, key, value, scale, causal).transpose(0, 1)
        if with_lse:
            lse[:, first:last] = _log_sums(query, key, scale, causal)
    return lse


def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    scale: float,
    causal: bool,
    with_lse: bool,
    out: Tensor,
) -> Tensor:
    return q.new_empty((q.shape[1], q.shape[0]) if with_lse else (0,), dtype=torch.float32)


# For tracers alone: torch attends, so there is nothing to decide, to build or to log.
_OPERATOR = torch.library.custom_op(f"aiterlite::{_OP}", _attend_each, mutates_args=("out",))
_OPERATOR.register_fake(_fake)


def _check(q: Tensor, k: Tensor, v: Tensor, out: Tensor | None) -> None:
    arguments.check_tensors(_OP, q=q, k=k, v=v)
    operands.check_dtype(_OP, "q", q, _DTYPES)
    operands.check_dims(_OP, "q", q, 3, "[rows, heads, D]")
    for name, tensor in (("k", k), ("v", v)):
        operands.check_like(_OP, name, tensor, q, "q")
        operands.check_dims(_OP, name, tensor, 3, "[tokens, KV heads, D]")
    operands.check_shape(_OP, "k", k, [[k.shape[0], k.shape[1], q.shape[2]]])
    operands.check_shape(_OP, "v", v, [[k.shape[0], k.shape[1], v.shape[2]]])
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ArgumentError(_OP, "k", f"of {k.shape[1]} heads", f"a divisor of q's, {q.shape[1]}")
    if out is not None:
        operands.check_like(_OP, "out", out, q, "q")
        operands.check_shape(_OP, "out", out, [[*q.shape[:2], v.shape[2]]])


def _offsets(name: str, given: Tensor, most: int, of: str) -> list[int]:
    if not isinstance(given, Tensor) or given.dim() != 1 or given.dtype != torch.int32 or given.shape[0] < 1:
        got = f"of dtype {given.dtype}, shape {list(given.shape)}" if isinstance(given, Tensor) else given
        raise ArgumentError(_OP, name, got, "int32 [requests + 1]")
    found: list[int] = given.tolist()
    if found[0] < 0 or found[-1] > most or any(b < a for a, b in pairwise(found)):
        raise ArgumentError(_OP, name, found, f"numbers that do not fall, from 0 to {most}, the {of}")
    return found


def _mask(rows: int, tokens: int, device: torch.device) -> Tensor:
    """Whether a row sees a token: the last row sees all."""
    return torch.ones(rows, tokens, dtype=torch.bool, device=device).tril(tokens - rows)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> Tensor:
    """q [heads, n, D], k [KV heads, m, D], v [KV heads, m, Dv]; where causal, n is at most m."""
    rows, tokens = q.shape[1], k.shape[1]
    whole = rows == tokens
    mask = _mask(rows, tokens, q.device) if causal and not whole else None
    result: Tensor = functional.scaled_dot_product_attention(
        q.unsqueeze(0),
        k.unsqueeze(0),
        v.unsqueeze(0),
        attn_mask=mask,
        is_causal=causal and whole,
        scale=scale,
        enable_gqa=q.shape[0] != k.shape[0],
    )
    return result[0]


def _log_sums(q: Tensor, k: Tensor, scale: float, causal: bool) -> Tensor:
    """float32 [heads, n]; some rows at a time."""
    heads, rows, tokens = q.shape[0], q.shape[1], k.shape[1]
    key = k.float().repeat_interleave(heads // k.shape[0], 0).transpose(1, 2)
    mask = _mask(rows, tokens, q.device) if causal else None
    most = max(1, _SCORES // (heads * tokens))
    found = []
    for begin in range(0, rows, most):
        scores = q[:, begin : begin + most].float() @ key * scale
        if mask is not None:
            scores = scores.masked_fill(~mask[begin : begin + most], -torch.inf)
        found.append(scores.logsumexp(-1))
    return torch.cat(found, -1)
