"""Weights in the order in which matrix units read them: `shuffle_weight`, and back.

A matrix [N, K] becomes tiles of 16 rows by 16 bytes of each, two or four tiles of 16 rows beside each other for 32
elements of K: [N / 16, K / 32, 2, 16 (n), 16 (k)] for 8-bit elements, [N / 16, K / 32, 4, 16 (n), 8 (k)] for 16-bit
ones. A wave then reads a fragment as consecutive bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import arguments

_OP = "shuffle_weight"
ROWS, DEPTH, _VECTOR_BYTES = 16, 32, 16


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
        x: [..., N, K] of 8-bit or 16-bit elements; N a multiple of 16, K of 32.
        layout: (16, 16).
        use_int4, is_guinterleave, pad_k_to: not here.
        gate_up: without is_guinterleave it says nothing, as upstream.

    An attribute is lost where a tensor is wrapped or converted; set it again, `parameter.is_shuffled = True`, since
    `fused_moe` goes by it.

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
    shuffled = _tiles(x).permute(0, 1, 3, 4, 2, 5).contiguous().view(x.shape)
    mark_shuffled(shuffled)
    return shuffled


def unshuffle_weight(x: Tensor) -> Tensor:
    """What `shuffle_weight` made x of."""
    rows, vectors, vector = _tiles(x).shape[2], _tiles(x).shape[4], _tiles(x).shape[5]
    lying = x.contiguous().view(-1, x.shape[-2] // rows, x.shape[-1] // DEPTH, vectors, rows, vector)
    return lying.permute(0, 1, 4, 2, 3, 5).contiguous().view(x.shape)


def mark_shuffled(x: Tensor) -> None:
    """Say of a tensor that its elements lie so."""
    vars(x)["is_shuffled"] = True


def is_shuffled(*weights: Tensor) -> bool:
    """Whether one of a layer's weights is said to be shuffled: upstream, which goes by either, means both."""
    return any(getattr(weight, "is_shuffled", False) for weight in weights)


def _tiles(x: Tensor) -> Tensor:
    """[matrices, N / 16, 16, K / 32, vectors of 32 elements, elements of a vector]."""
    if x.dim() < 2 or x.shape[-2] % ROWS or x.shape[-1] % DEPTH:
        allowed = f"[..., N, K], N a multiple of {ROWS} and K of {DEPTH}"
        raise ArgumentError(_OP, "x", f"of shape {list(x.shape)}", allowed, "Pad x, and quantise it, before.")
    if x.itemsize not in (1, 2):
        raise ArgumentError(_OP, "x", f"of dtype {x.dtype}", "8-bit or 16-bit elements", "Convert x before.")
    vector = _VECTOR_BYTES // x.itemsize
    return x.contiguous().view(-1, x.shape[-2] // ROWS, ROWS, x.shape[-1] // DEPTH, DEPTH // vector, vector)
