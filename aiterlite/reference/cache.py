"""Latents on their way to a cache, in plain PyTorch: what the operators write.

An 8-bit number is that of x * (1 / scale), at float32, to nearest, ties to even, the largest beyond it. A rotated
element is rounded to the type of the input before, so a fused call has the bits of its parts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aiterlite.reference import quant


def scaled(rows: Tensor, dtype: torch.dtype, scale: Tensor | None) -> Tensor:
    """`rows` as `dtype`."""
    values = rows.float()
    if scale is not None:
        values = values * (1.0 / scale.float())
    return values.to(dtype) if dtype.itemsize > 1 else quant.encode(values, dtype)


def write(
    cache: Tensor, slots: Tensor, nope: Tensor, rope: Tensor, scale: Tensor | None, nope_first: bool = True
) -> None:
    """Rows of [tokens, heads, ...], side by side, into slots of a cache of [blocks, block, heads, D], in place. Tokens
    beyond the slots are not written, nor are those whose slot is none of the cache."""
    blocks, size = cache.shape[:2]
    for token, slot in enumerate(slots.tolist()):
        if not 0 <= slot < blocks * size:
            continue
        parts = (nope[token], rope[token]) if nope_first else (rope[token], nope[token])
        cache[slot // size, slot % size] = scaled(torch.cat(parts, -1), cache.dtype, scale)
