"""Multi-head latent attention over paged KV, in plain PyTorch at float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

VALUE_DIM = 512
# Unit roundoff of the types that weights and outputs are rounded to.
_ROUNDOFF = {torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12}


@dataclass(frozen=True)
class Attention:
    """`out`[rows, heads, 512] and `lse`[rows, heads], the natural logarithm of the sum of exponentials; `spread`, the
    values' magnitudes weighted as the values are, which is what rounded weights can move an output by."""

    out: Tensor
    lse: Tensor
    spread: Tensor


def paged_rows(kv_buffer: Tensor, indices: Tensor, last_page_len: int) -> Tensor:
    """The rows of KV of a request in their order, [tokens, 576]: those of whole pages, and `last_page_len` of the last.
    A page of index -1, or of one that there is not, has none."""
    pages = kv_buffer.shape[0]
    tokens = [
        kv_buffer[index, : last_page_len if at + 1 == indices.numel() else None, 0]
        for at, index in enumerate(indices.tolist())
        if 0 <= index < pages
    ]
    return torch.cat(tokens) if tokens else kv_buffer.new_empty(0, kv_buffer.shape[-1])


def decode(
    q: Tensor,
    kv_buffer: Tensor,
    qo_indptr: Tensor,
    kv_indptr: Tensor,
    kv_indices: Tensor,
    kv_last_page_lens: Tensor,
    *,
    sm_scale: float | None = None,
    q_scale: Tensor | None = None,
    kv_scale: Tensor | None = None,
    causal: bool = True,
    weights: torch.dtype | None = None,
) -> Attention:
    """softmax(sm_scale · q_scale · kv_scale · q k^T) · v · kv_scale for each request of a ragged batch.

    q is [rows, heads, 576], kv_buffer [pages, page_size, 1, 576]; v is the first 512 columns of k. Rows and pages of
    request b are those from qo_indptr[b] and kv_indptr[b] to the next. Row i of n sees all tokens but the last
    n - 1 - i, or all where not `causal`. A row that sees none is 0, and its lse -inf. `weights` is a type that weights,
    relative to the row's largest, are rounded to before they multiply values, as kernels with 8-bit products do; their
    sum is not.
    """
    rows, heads, key_dim = q.shape
    scale = key_dim**-0.5 if sm_scale is None else sm_scale
    scale *= _number(q_scale) * _number(kv_scale)
    out = torch.zeros(rows, heads, VALUE_DIM, dtype=torch.float64)
    lse = torch.full((rows, heads), -math.inf, dtype=torch.float64)
    spread = torch.zeros_like(out)
    starts, pages, last = (t.tolist() for t in (qo_indptr, kv_indptr, kv_last_page_lens))
    for b in range(len(starts) - 1):
        count = starts[b + 1] - starts[b]
        kv = paged_rows(kv_buffer, kv_indices[pages[b] : pages[b + 1]], last[b]).double()
        for i in range(count):
            seen = kv[: max(0, kv.shape[0] - count + 1 + i)] if causal else kv
            if not seen.shape[0]:
                continue
            row = starts[b] + i
            scores = q[row].double() @ seen.T * scale
            lse[row] = scores.logsumexp(-1)
            weight = (scores - scores.amax(-1, keepdim=True)).exp()
            total = weight.sum(-1, keepdim=True)
            weight = (weight if weights is None else weight.float().to(weights).double()) / total
            value = seen[:, :VALUE_DIM] * _number(kv_scale)
            out[row], spread[row] = weight @ value, weight @ value.abs()
    return Attention(out, lse, spread)


def merge(parts: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised parts [parts, ..., dim] with their log-sums [parts, ...] as one: (out, lse). A part of lse -inf has no
    say, whatever it holds; where all are, the result is 0 and -inf."""
    lse, empty = lse.double(), lse == -math.inf
    total = lse.logsumexp(0)
    weight = (lse - torch.where(total == -math.inf, 0.0, total)).exp()
    value = torch.where(empty[..., None], 0.0, parts.double()) * weight[..., None]
    return value.sum(0), total


def error_bound(exact: Attention, out_dtype: torch.dtype) -> Tensor:
    """What an element of o may differ from `exact.out`: two roundings of it, and two of each weight, of which half is
    left for the sums at float32."""
    return 2 * _ROUNDOFF[out_dtype] * (exact.out.abs() + exact.spread) + 1e-30


def _number(scale: Tensor | None) -> float:
    return 1.0 if scale is None else float(scale)
