"""Rotary embeddings in plain PyTorch, at float32: what the operators compute, and where they round.

Elements of a row are rotated in pairs, (x, y) by the angle of their position:

    x' = x cos - y sin        y' = y cos + x sin

neox: the first element and the one half a row behind it are a pair; gptj: neighbours are. A row of cos and sin has a
number a pair, or one for each element. Each result is rounded once from float32 to the type of x. A row whose position
is outside the table is left as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(rows: Tensor, cos: Tensor, sin: Tensor, neox: bool) -> Tensor:
    """`rows` of [..., R] by angles of [..., R / 2] or [..., R]."""
    half = rows.shape[-1] // 2
    x, y = (rows[..., :half], rows[..., half:]) if neox else (rows[..., 0::2], rows[..., 1::2])
    of_x, of_y = _of_pairs(cos.float(), rows, neox), _of_pairs(sin.float(), rows, neox)
    first = x.float() * of_x[0] - y.float() * of_y[0]
    second = y.float() * of_x[1] + x.float() * of_y[1]
    made = torch.cat((first, second), -1) if neox else torch.stack((first, second), -1).flatten(-2)
    return made.to(rows.dtype)


def _of_pairs(table: Tensor, rows: Tensor, neox: bool) -> tuple[Tensor, Tensor]:
    """The angles of pairs' first and second elements."""
    half = rows.shape[-1] // 2
    if table.shape[-1] == half:
        return table, table
    return (table[..., :half], table[..., half:]) if neox else (table[..., 0::2], table[..., 1::2])


def rope(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    neox: bool,
    half_table: bool = True,
    nope_first: bool = False,
    nearest: bool = False,
) -> Tensor:
    """x of [tokens, heads, D], of which as many elements are rotated as the tables, [positions, R / 2 or R], are for.
    `nearest`: a position outside the table counts as the nearest inside."""
    width = cos.shape[-1] * (2 if half_table else 1)
    begin = x.shape[-1] - width if nope_first else 0
    inside = (positions >= 0) & (positions < len(cos))
    at = positions.clamp(0, len(cos) - 1).long()
    part = x[..., begin : begin + width]
    turned = rotate(part, cos[at][:, None], sin[at][:, None], neox)
    if not nearest:
        turned = torch.where(inside[:, None, None], turned, part)
    result = x.clone(memory_format=torch.contiguous_format)
    result[..., begin : begin + width] = turned
    return result
