"""Weights, and scales of MXFP4, in the order in which matrix units read them: `shuffle_weight`, `shuffle_scale`, and
back.

A matrix [N, K] becomes tiles of 16 rows by 16 bytes of each, two or four tiles of 16 rows beside each other for 32
elements of K: [N / 16, K / 32, 2, 16 (n), 16 (k)] for 8-bit elements, [N / 16, K / 32, 4, 16 (n), 8 (k)] for 16-bit
ones. A wave then reads a fragment as consecutive bytes. Of 4-bit elements, two of which are a byte, K is bytes.

A matrix of scales [N, K], K blocks of 32 elements, becomes tiles of 32 rows by 8 blocks, 256 bytes: [N / 32, K / 8,
4 (k), 16 (n), 2 (k), 2 (n)]. So one word of a lane has the scales of rows n and n + 16, and of blocks k and k + 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import arguments

_OP = "shuffle_weight"
_SCALE_OP = "shuffle_scale"
ROWS, DEPTH, _VECTOR_BYTES = 16, 32, 16
# Scales are padded to whole ones of these; tiles of them have fewer rows.
SCALE_ROWS, SCALE_BLOCKS, _TILE_ROWS = 256, 8, 32


def shuffle_weight(
    x: Tensor,
    layout: Sequence[int] = (16, 16),
    use_int4: bool = False,
    is_guinterleave: bool = False,
    gate_up: bool = False,
    pad_k_to: int = 0,
) -> Tensor:
    """The elements of x in the order of this module, as a new tensor of x's shape whose `is_shuffled` is True.

    Args:
        x: [..., N, K] of 4-bit (two a byte), 8-bit or 16-bit elements; N a multiple of 16, K of 32.
        layout: (16, 16).
        use_int4, is_guinterleave, pad_k_to: not here.
        gate_up: without is_guinterleave it says nothing, as upstream.

    `fused_moe` goes by that attribute, and where a tensor has none by its memory's, which is set too: a parameter that
    is made of the result, one whose `.data` it becomes, and views have that. A copy does not: set the attribute there,
    `parameter.is_shuffled = True`. False in it says that the memory holds something else by now.

    Source of the semantics: `aiter.ops.shuffle.shuffle_weight`. Raises `ArgumentError`.
    """
    arguments.check_tensors(_OP, x=x)
    if tuple(layout) != (16, 16):
        raise ArgumentError(_OP, "layout", tuple(layout), "(16, 16)", "Kernels of this package read that one.")
    if use_int4:
        raise ArgumentError(_OP, "use_int4", use_int4, "False", "Quantise weights to an e4m3 type.")
    if is_guinterleave:
        remedy = "Interleave rows, torch.stack((gate, up), 2).flatten(1, 2), then shuffle; gate_mode='interleave'."
        raise ArgumentError(_OP, "is_guinterleave", is_guinterleave, "False", remedy)
    if pad_k_to:
        raise ArgumentError(_OP, "pad_k_to", pad_k_to, "0", "Pad x, and quantise it, before.")
    shuffled = _tiles(x).permute(0, 1, 3, 4, 2, 5).contiguous().view(x.shape).view(x.dtype)
    mark_shuffled(shuffled)
    return shuffled


def unshuffle_weight(x: Tensor) -> Tensor:
    """What `shuffle_weight` made x of."""
    arguments.check_tensors("unshuffle_weight", x=x)
    rows, vectors, vector = _tiles(x).shape[2], _tiles(x).shape[4], _tiles(x).shape[5]
    lying = _as_bytes(x).contiguous().view(-1, x.shape[-2] // rows, x.shape[-1] // DEPTH, vectors, rows, vector)
    return lying.permute(0, 1, 4, 2, 3, 5).contiguous().view(x.shape).view(x.dtype)


def mark_shuffled(x: Tensor) -> None:
    """Say of a tensor, and of its memory, that its elements lie so."""
    vars(x)["is_shuffled"] = True
    # A tracer has no memory yet.
    if not torch.compiler.is_compiling():
        vars(x.untyped_storage())["is_shuffled"] = True


def is_shuffled(*weights: Tensor) -> bool:
    """Whether one of a layer's weights is said to be shuffled: upstream, which goes by either, means both."""
    return any(map(_is_marked, weights))


def _is_marked(weight: Tensor) -> bool:
    """What the tensor says of itself, or else its memory, which outlives tensors that engines wrap and drop. A tracer
    can't ask that."""
    said = getattr(weight, "is_shuffled", None)
    if said is not None or torch.compiler.is_compiling() or weight.layout is not torch.strided:
        return bool(said)
    return bool(getattr(weight.untyped_storage(), "is_shuffled", False))


def _tiles(x: Tensor) -> Tensor:
    """[matrices, N / 16, 16, K / 32, vectors of 32 elements, elements of a vector]."""
    if x.dim() < 2 or x.shape[-2] % ROWS or x.shape[-1] % DEPTH:
        allowed = f"[..., N, K], N a multiple of {ROWS} and K of {DEPTH}"
        raise ArgumentError(_OP, "x", f"of shape {list(x.shape)}", allowed, "Pad x, and quantise it, before.")
    if x.itemsize not in (1, 2):
        raise ArgumentError(_OP, "x", f"of dtype {x.dtype}", "8-bit or 16-bit elements", "Convert x before.")
    vector = _VECTOR_BYTES // x.itemsize
    parts = x.shape[-2] // ROWS, ROWS, x.shape[-1] // DEPTH, DEPTH // vector, vector
    return _as_bytes(x).contiguous().view(-1, *parts)


def _as_bytes(x: Tensor) -> Tensor:
    """8-bit elements as numbers that torch moves on every device, 16-bit ones as they are."""
    return x.view(torch.uint8) if x.itemsize == 1 else x


# Scales of MXFP4 ------------------------------------------------------------------------------------------------------


def padded_scale_shape(rows: int, blocks: int) -> tuple[int, int]:
    """The shape of the shuffled scales of a matrix of `rows` rows of `blocks` blocks."""
    return -(-rows // SCALE_ROWS) * SCALE_ROWS, -(-blocks // SCALE_BLOCKS) * SCALE_BLOCKS


def shuffle_scale(
    src: Tensor | None, experts_cnt: int | None = None, is_guinterleave: bool = False, gate_up: bool = False
) -> Tensor | None:
    """Scales in the order of this module, as a new tensor of src's type, padded with zeros: [rows up to a multiple of
    256, blocks up to a multiple of 8], marked as `shuffle_weight` marks weights. None and scales of float32, which are
    no scales of MXFP4, are returned as they are.

    Args:
        src: [rows, blocks] of float8_e8m0fnu or uint8. Those of experts are one matrix, [E * N, blocks].
        experts_cnt, gate_up: say nothing without is_guinterleave, as upstream.
        is_guinterleave: not here.

    Source of the semantics: `aiter.ops.shuffle.shuffle_scale`, whose padding is whatever was in memory; its GEMMs read
    padding of K, and are right only where it is zero. Raises `ArgumentError`.
    """
    if src is None:
        return None
    arguments.check_tensors(_SCALE_OP, src=src)
    if src.dtype == torch.float32:
        return src
    if is_guinterleave:
        remedy = "Interleave rows of weights and of scales, torch.stack((gate, up), 2).flatten(1, 2), then shuffle."
        raise ArgumentError(_SCALE_OP, "is_guinterleave", is_guinterleave, "False", remedy)
    _check_scale(src)
    rows, blocks = padded_scale_shape(*src.shape)
    padded = torch.zeros(rows, blocks, dtype=torch.uint8, device=src.device)
    padded[: src.shape[0], : src.shape[1]] = src.view(torch.uint8)
    tiles = padded.view(rows // _TILE_ROWS, 2, _TILE_ROWS // 2, blocks // SCALE_BLOCKS, 2, SCALE_BLOCKS // 2)
    shuffled = tiles.permute(0, 3, 5, 2, 4, 1).contiguous().view(rows, blocks).view(src.dtype)
    mark_shuffled(shuffled)
    return shuffled


def e8m0_shuffle(scale: Tensor | None) -> Tensor | None:
    """`shuffle_scale`, under upstream's other name for it."""
    return shuffle_scale(scale)


def unshuffle_scale(scale: Tensor, rows: int | None = None, blocks: int | None = None) -> Tensor:
    """What `shuffle_scale` made `scale` of: its first `rows` rows of `blocks` blocks; None for all, with padding."""
    arguments.check_tensors("unshuffle_scale", scale=scale)
    _check_scale(scale, "unshuffle_scale", "scale")
    if scale.shape[0] % _TILE_ROWS or scale.shape[1] % SCALE_BLOCKS:
        allowed = f"[rows, blocks], multiples of {_TILE_ROWS} and {SCALE_BLOCKS}"
        raise ArgumentError("unshuffle_scale", "scale", f"of shape {list(scale.shape)}", allowed)
    tiles = scale.view(torch.uint8).contiguous()
    tiles = tiles.view(scale.shape[0] // _TILE_ROWS, scale.shape[1] // SCALE_BLOCKS, SCALE_BLOCKS // 2, 16, 2, 2)
    plain = tiles.permute(0, 5, 3, 1, 4, 2).reshape(scale.shape)
    return plain[:rows, :blocks].contiguous().view(scale.dtype)


def _check_scale(src: Tensor, op: str = _SCALE_OP, name: str = "src") -> None:
    if src.itemsize != 1:
        raise ArgumentError(op, name, f"of dtype {src.dtype}", "torch.float8_e8m0fnu, torch.uint8")
    if src.dim() != 2:
        remedy = "Scales of experts are one matrix, [E * N, blocks]."
        raise ArgumentError(op, name, f"of shape {list(src.shape)}", "[rows, blocks]", remedy)
