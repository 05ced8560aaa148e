"""Rotary embeddings under the names of `aiter`: what their operator (`rope_operator.py`) is called for.

x and y are two tensors that are rotated by one launch, queries and keys; in place, or as new tensors. Operands are
bfloat16 or float16, [s, b, heads, D] or [tokens, heads, D], with any strides, the last 1.

    cos, sin: [positions, F] or [positions, 1, 1, F], of x's type or float32, with any stride between rows. Of a head,
        R elements are rotated, 2 F with reuse_freqs_front_part (a number a pair), else F (a number for each element):
        the first ones, or with nope_first the last ones. The others are copied, or in place left alone.
    positions: int64 or int32, one for each token. Without (`rope_cached_fwd`) a token's position is its place in the
        first dimension. A token whose position is none of the table's is not rotated.
    offsets: of as many elements; they are added to positions.
    rotate_style: 0, neox: pairs are an element and the one half of R behind it; 1, gptj: pairs are neighbours.
    transpose_output: the result has the strides of a contiguous [b, s, heads, D].

Where results are rounded is in `aiterlite.reference.rope`. Not differentiable. All raise `ArgumentError`,
`DispatchError` or a `JitError`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import arguments, direct
from aiterlite.ops.rope_operator import IN_PLACE, ONE, TWO


def rotate_in_place(x: Tensor, y: Tensor | None, *rest: Tensor | int | bool | None) -> None:
    """x and y by the operator; `rest` are its other arguments."""
    direct.call(IN_PLACE, (x, y, *rest), (x,) if y is None else (x, y))


def rope_cached_fwd(
    input: Tensor,
    cos: Tensor,
    sin: Tensor,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
    transpose_output: bool = False,
) -> Tensor:
    """The rotated tensor, a new one. A position is a place in the first dimension.

    Source of the semantics: `aiter.rope_cached_fwd`.
    """
    result: Tensor = ONE(
        input, cos, sin, None, None, rotate_style, reuse_freqs_front_part, nope_first, transpose_output
    )
    return result


def rope_cached_fwd_inplace(
    input: Tensor,
    cos: Tensor,
    sin: Tensor,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
) -> None:
    """Rotated in place. Source of the semantics: `aiter.rope_cached_fwd_inplace`."""
    rotate_in_place(input, None, cos, sin, None, None, rotate_style, reuse_freqs_front_part, nope_first)


def rope_cached_2c_fwd(
    input_x: Tensor,
    input_y: Tensor,
    cos: Tensor,
    sin: Tensor,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
    transpose_output: bool = False,
) -> tuple[Tensor, Tensor]:
    """Both rotated, as new tensors. A position is a place in the first dimension.

    Source of the semantics: `aiter.rope_cached_2c_fwd`.
    """
    result: tuple[Tensor, Tensor] = TWO(
        input_x, input_y, cos, sin, None, None, rotate_style, reuse_freqs_front_part, nope_first, transpose_output
    )
    return result


def rope_cached_2c_fwd_inplace(
    input_x: Tensor,
    input_y: Tensor,
    cos: Tensor,
    sin: Tensor,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
) -> None:
    """Both rotated in place. Source of the semantics: `aiter.rope_cached_2c_fwd_inplace`."""
    rotate_in_place(input_x, input_y, cos, sin, None, None, rotate_style, reuse_freqs_front_part, nope_first)


def rope_cached_positions_fwd(
    input: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
    transpose_output: bool = False,
) -> Tensor:
    """The rotated tensor, a new one. Source of the semantics: `aiter.rope_cached_positions_fwd`."""
    result: Tensor = ONE(
        input, cos, sin, positions, None, rotate_style, reuse_freqs_front_part, nope_first, transpose_output
    )
    return result


def rope_cached_positions_fwd_inplace(
    input: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
) -> None:
    """Rotated in place. Source of the semantics: `aiter.rope_cached_positions_fwd_inplace`."""
    rotate_in_place(input, None, cos, sin, positions, None, rotate_style, reuse_freqs_front_part, nope_first)


def rope_cached_positions_2c_fwd(
    input_x: Tensor,
    input_y: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
    transpose_output: bool = False,
) -> tuple[Tensor, Tensor]:
    """Both rotated, as new tensors. Source of the semantics: `aiter.rope_cached_positions_2c_fwd`."""
    result: tuple[Tensor, Tensor] = TWO(
        input_x, input_y, cos, sin, positions, None, rotate_style, reuse_freqs_front_part, nope_first, transpose_output
    )
    return result


def rope_cached_positions_2c_fwd_inplace(
    input_x: Tensor,
    input_y: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
) -> None:
    """Both rotated in place. Source of the semantics: `aiter.rope_cached_positions_2c_fwd_inplace`."""
    rotate_in_place(input_x, input_y, cos, sin, positions, None, rotate_style, reuse_freqs_front_part, nope_first)


def rope_cached_positions_offsets_fwd(
    input: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    offsets: Tensor,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
    transpose_output: bool = False,
) -> Tensor:
    """The rotated tensor, a new one. Source of the semantics: `aiter.rope_cached_positions_offsets_fwd`."""
    result: Tensor = ONE(
        input, cos, sin, positions, offsets, rotate_style, reuse_freqs_front_part, nope_first, transpose_output
    )
    return result


def rope_cached_positions_offsets_fwd_inplace(
    input: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    offsets: Tensor,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
) -> None:
    """Rotated in place. Source of the semantics: `aiter.rope_cached_positions_offsets_fwd_inplace`."""
    rotate_in_place(input, None, cos, sin, positions, offsets, rotate_style, reuse_freqs_front_part, nope_first)


def rope_cached_positions_offsets_2c_fwd(
    input_x: Tensor,
    input_y: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    offsets: Tensor,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
    transpose_output: bool = False,
) -> tuple[Tensor, Tensor]:
    """Both rotated, as new tensors. Source of the semantics: `aiter.rope_cached_positions_offsets_2c_fwd`."""
    result: tuple[Tensor, Tensor] = TWO(
        input_x,
        input_y,
        cos,
        sin,
        positions,
        offsets,
        rotate_style,
        reuse_freqs_front_part,
        nope_first,
        transpose_output,
    )
    return result


def rope_cached_positions_offsets_2c_fwd_inplace(
    input_x: Tensor,
    input_y: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    offsets: Tensor,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
) -> None:
    """Both rotated in place. Source of the semantics: `aiter.rope_cached_positions_offsets_2c_fwd_inplace`."""
    rotate_in_place(input_x, input_y, cos, sin, positions, offsets, rotate_style, reuse_freqs_front_part, nope_first)


def rope_cached_thd_positions_2c_fwd(
    x: Tensor,
    y: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
    transpose_output: bool = False,
) -> tuple[Tensor, Tensor]:
    """Both rotated, as new tensors, of [tokens, heads, D]; transpose_output is not used (nor is it upstream).

    Source of the semantics: `rope_cached_thd_positions_2c_fwd` of `aiter.ops.triton.rope.rope`.
    """
    _check_thd(x)
    result: tuple[Tensor, Tensor] = TWO(
        x, y, cos, sin, positions, None, rotate_style, reuse_freqs_front_part, nope_first
    )
    return result


def rope_cached_thd_positions_2c_fwd_inplace(
    x: Tensor,
    y: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
    transpose_output: bool = False,
) -> tuple[Tensor, Tensor]:
    """Both rotated in place, and returned; [tokens, heads, D]. transpose_output is not used (nor is it upstream).

    Source of the semantics: `rope_cached_thd_positions_2c_fwd_inplace` of `aiter.ops.triton.rope.rope`.
    """
    _check_thd(x)
    rotate_in_place(x, y, cos, sin, positions, None, rotate_style, reuse_freqs_front_part, nope_first)
    return x, y


def rope_cached_thd_positions_offsets_2c_fwd(
    x: Tensor,
    y: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    offsets: Tensor,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
    transpose_output: bool = False,
) -> tuple[Tensor, Tensor]:
    """Both rotated, as new tensors, of [tokens, heads, D]; transpose_output is not used (nor is it upstream).

    Source of the semantics: `rope_cached_thd_positions_offsets_2c_fwd` of `aiter.ops.triton.rope.rope`.
    """
    _check_thd(x)
    result: tuple[Tensor, Tensor] = TWO(
        x, y, cos, sin, positions, offsets, rotate_style, reuse_freqs_front_part, nope_first
    )
    return result


def rope_cached_thd_positions_offsets_2c_fwd_inplace(
    x: Tensor,
    y: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    offsets: Tensor,
    rotate_style: int,
    reuse_freqs_front_part: bool,
    nope_first: bool,
    transpose_output: bool = False,
) -> tuple[Tensor, Tensor]:
    """Both rotated in place, and returned; [tokens, heads, D]. transpose_output is not used (nor is it upstream).

    Source of the semantics: `rope_cached_thd_positions_offsets_2c_fwd_inplace` of `aiter.ops.triton.rope.rope`.
    """
    _check_thd(x)
    rotate_in_place(x, y, cos, sin, positions, offsets, rotate_style, reuse_freqs_front_part, nope_first)
    return x, y


def rotary_embedding_fwd(
    positions: Tensor,
    query: Tensor,
    key: Tensor | None,
    head_size: int,
    cos_cache: Tensor,
    sin_cache: Tensor,
    is_neox: bool,
    is_nope_first: bool,
) -> None:
    """Heads of `head_size` elements of query and key rotated in place.

    Args:
        positions: [tokens] or [batch, tokens].
        query, key: the same dimensions and [heads * head_size], or [heads, head_size]. `key` may be None.
        cos_cache, sin_cache: [positions, R / 2] or [positions, 1, 1, R / 2].

    Source of the semantics: `aiter.rotary_embedding_fwd`, which rounds each product (here a result is rounded once).
    """
    _rotary("rotary_embedding_fwd", positions, query, key, head_size, cos_cache, sin_cache, is_neox, is_nope_first)


def batched_rotary_embedding(
    positions: Tensor,
    query: Tensor,
    key: Tensor | None,
    head_size: int,
    cos_cache: Tensor,
    sin_cache: Tensor,
    is_neox: bool,
    is_nope_first: bool,
    rot_dim: int,
    cos_sin_cache_offsets: Tensor,
) -> None:
    """`rotary_embedding_fwd` at positions that offsets, one for each token, are added to; `rot_dim` elements of a head
    are rotated, twice as many as a row of cos_cache has.

    Source of the semantics: `aiter.batched_rotary_embedding`.
    """
    op = "batched_rotary_embedding"
    arguments.check_tensors(op, cos_cache=cos_cache)
    if cos_cache.dim() == 0:
        raise ArgumentError(op, "cos_cache", "of no dimension", "[positions, F]")
    if rot_dim != 2 * cos_cache.shape[-1]:
        allowed = f"{2 * cos_cache.shape[-1]}, for cos_cache of shape {list(cos_cache.shape)}"
        raise ArgumentError(op, "rot_dim", rot_dim, allowed)
    given = positions, query, key, head_size, cos_cache, sin_cache, is_neox, is_nope_first
    _rotary(op, *given, cos_sin_cache_offsets)


def _rotary(
    op: str,
    positions: Tensor,
    query: Tensor,
    key: Tensor | None,
    head_size: int,
    cos: Tensor,
    sin: Tensor,
    is_neox: bool,
    is_nope_first: bool,
    offsets: Tensor | None = None,
) -> None:
    arguments.check_tensors(op, positions=positions, query=query)
    x = _heads_of(op, "query", query, head_size, positions)
    y = None if key is None else _heads_of(op, "key", key, head_size, positions)
    if y is not None and y.dim() != x.dim():
        raise ArgumentError(op, "key", f"of shape {list(y.shape)}", f"the dimensions of query, {list(x.shape)}")
    rotate_in_place(x, y, cos, sin, positions, offsets, 0 if is_neox else 1, True, bool(is_nope_first))


def _heads_of(op: str, name: str, tensor: Tensor, head_size: int, positions: Tensor) -> Tensor:
    """A view of [..., heads, head_size]. Where a single head leaves open whether heads are apart, the dimensions of
    positions tell."""
    whole, tokens = tensor.shape[-1] if tensor.dim() else 0, positions.numel()
    if head_size > 0 and tensor.dim() >= 2:
        apart = whole == head_size and tensor.shape[:-2].numel() == tokens
        if apart and tensor.dim() >= 3 and tensor.dim() != positions.dim() + 1:
            return tensor
        if tensor.shape[:-1].numel() == tokens and whole % head_size == 0:
            return tensor.view(*tensor.shape[:-1], whole // head_size, head_size)
        if apart:
            return tensor
    allowed = f"{tokens} tokens, as positions has, of heads of {head_size} elements"
    raise ArgumentError(op, name, f"of shape {list(tensor.shape)}", allowed)


def _check_thd(x: Tensor) -> None:
    if isinstance(x, torch.Tensor) and x.dim() != 3:
        raise ArgumentError("rope", "x", f"of shape {list(x.shape)}", "[tokens, heads, D]")
