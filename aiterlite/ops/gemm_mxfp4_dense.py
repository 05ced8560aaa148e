"""GEMM of MXFP4 weights by torch: weights dequantised once, then torch's product.

What sm_90 takes of many tokens, where decoding for each tile of tokens takes longer, and of rows that its kernel cannot
read. No speed is claimed for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aiterlite.ops import shuffle
from aiterlite.reference import mxfp4
from aiterlite.tables.mx_types import BLOCK


def prepare(
    factors: tuple[float, float], how: tuple[bool, bool, bool], tokens_first: bool, device: torch.device
) -> Any:
    """What computes calls of such layouts: a callable of x, w, bias, y, x_scale and w_scale, which writes y."""
    alpha, beta = factors
    shuffled, x_shuffled, w_shuffled = how
    # Two numbers a byte, made once: none can be copied to a GPU while a graph is captured.
    numbers = torch.tensor([sign * number for sign in (1.0, -1.0) for number in mxfp4.NUMBERS], dtype=torch.float32)
    byte = torch.arange(256)
    table = torch.stack((numbers[byte & 15], numbers[byte >> 4]), -1).to(device)

    def dense(codes: Tensor, scale: Tensor, tiled: bool, pieces: bool, dtype: torch.dtype) -> Tensor:
        codes = codes.view(torch.uint8)
        rows, blocks = codes.shape[-2], codes.shape[-1] * 2 // BLOCK
        if pieces:
            codes = shuffle.unshuffle_weight(codes)
        if tiled:
            scale = shuffle.unshuffle_scale(scale, rows, blocks)
        values = table.to(dtype)[codes.int()].view(*codes.shape[:-1], blocks, BLOCK)
        bits = scale.view(torch.uint8).int()
        exponent = torch.where(bits == 255, 0x7FC00000, torch.where(bits == 0, 0x400000, bits << 23))
        return (values * exponent.view(torch.float32).to(dtype).unsqueeze(-1)).flatten(-2)

    def run(x: Tensor, w: Tensor, bias: Tensor | None, y: Tensor, x_scale: Tensor | None, w_scale: Tensor) -> None:
        # bf16 holds codes times scales, and its product is rounded once: the definition, where nothing follows.
        plain = alpha == 1.0 and bias is None and y.dtype == torch.bfloat16 and x.dtype != torch.float16
        kind = torch.bfloat16 if plain else torch.float32
        right = dense(w, w_scale, w_shuffled, shuffled, kind)
        left = x.to(kind) if x_scale is None else dense(x, x_scale, x_shuffled, False, kind)
        made = torch.matmul(left, right.mT)
        if not plain:
            made = alpha * made
            made = made if bias is None else made + beta * bias.float()
        y.copy_(made.transpose(0, 1) if tokens_first and made.dim() == 3 else made)

    return run
