"""Quantisation that returns new tensors, by kinds: `get_hip_quant` by this package's kernels, `get_torch_quant` by
plain PyTorch. Both give the same bits (`aiterlite.reference.quant`)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import arguments, calls, mxfp4_factory, operands
from aiterlite.ops.quant import (
    check_code,
    dynamic_per_group_scaled_quant,
    dynamic_per_tensor_quant,
    dynamic_per_token_scaled_quant,
    static_per_tensor_quant,
)
from aiterlite.reference import quant as reference
from aiterlite.tables.quant import GROUPS
from aiterlite.tables.quant_types import QuantType

Quantised = tuple[Tensor, Tensor]


def per_token_quant_hip(
    x: Tensor,
    scale: Tensor | None = None,
    quant_dtype: torch.dtype = torch.int8,
    num_rows: Tensor | None = None,
    num_rows_factor: int = 1,
) -> Quantised:
    """(codes of x's shape, scales [..., 1]); see `dynamic_per_token_scaled_quant`. `scale` must be None."""
    arguments.check_tensors("per_token_quant_hip", x=x)
    _no_scale("per_token_quant_hip", scale)
    check_code("per_token_quant_hip", "quant_dtype", quant_dtype)
    y = torch.empty(x.shape, dtype=quant_dtype, device=x.device)
    scales = torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device)
    dynamic_per_token_scaled_quant(y, x, scales, num_rows=num_rows, num_rows_factor=num_rows_factor)
    return y, scales


def per_group_quant_hip(
    x: Tensor,
    scale: Tensor | None = None,
    quant_dtype: torch.dtype = torch.int8,
    group_size: int = 128,
    transpose_scale: bool = False,
    num_rows: Tensor | None = None,
    num_rows_factor: int = 1,
    scale_type: torch.dtype = torch.float32,
    scale_layout_m32k4: bool = False,
) -> Quantised:
    """(codes of x's shape, scales [..., K / group_size]); see `dynamic_per_group_scaled_quant`. `scale` must be None.

    With transpose_scale the scales report that shape and row-major strides, and their bytes are those of
    [K / group_size, rows], which is what GEMMs of block scales take.
    """
    op = "per_group_quant_hip"
    arguments.check_tensors(op, x=x)
    _no_scale(op, scale)
    check_code(op, "quant_dtype", quant_dtype)
    operands.check_choice(op, "group_size", group_size, GROUPS)
    if scale_type != torch.float32 or scale_layout_m32k4:
        name = "scale_layout_m32k4" if scale_layout_m32k4 else "scale_type"
        got = scale_layout_m32k4 or scale_type
        remedy = "Scales of 8 bits are those of MXFP4: per_1x32."
        raise ArgumentError(op, name, got, "rows of torch.float32", remedy)
    y = torch.empty(x.shape, dtype=quant_dtype, device=x.device)
    if x.dim() == 0:
        raise ArgumentError(op, "x", "of no dimension", "[..., K]")
    scales = torch.empty((*x.shape[:-1], x.shape[-1] // group_size), dtype=torch.float32, device=x.device)
    dynamic_per_group_scaled_quant(y, x, scales, group_size, transpose_scale, num_rows, num_rows_factor)
    return y, scales


def per_tensor_quant_hip(
    x: Tensor,
    scale: Tensor | None = None,
    quant_dtype: torch.dtype = torch.int8,
    num_rows: Tensor | None = None,
    num_rows_factor: int = 1,
) -> Quantised:
    """(codes of x's shape, scale [1]), by `dynamic_per_tensor_quant`, or by `static_per_tensor_quant` where a scale is
    given. num_rows must be None."""
    op = "per_tensor_quant_hip"
    arguments.check_tensors(op, x=x)
    check_code(op, "quant_dtype", quant_dtype)
    if num_rows is not None:
        raise ArgumentError(op, "num_rows", "a tensor", "None", "Quantise per token or per group.")
    y = torch.empty(x.shape, dtype=quant_dtype, device=x.device)
    x = x.contiguous()
    if scale is None:
        scale = torch.empty(1, dtype=torch.float32, device=x.device)
        dynamic_per_tensor_quant(y, x, scale)
    else:
        static_per_tensor_quant(y, x, scale)
    return y, scale.view(1)


def fused_flatten_fp8_group_quant(
    x: Tensor, group_size: int, dtype_quant: torch.dtype | None = None, transpose_scale: bool = False
) -> Quantised:
    """(codes [M, N1 * N2], scales [M, N1 * N2 / group_size]) of x [M, N1, N2]: its rows without the last dimension's
    bounds, by groups; see `dynamic_per_group_scaled_quant`. Strides that no view serves cost a copy.

    Args:
        group_size: 32, 64 or 128, of which N1 * N2 is a multiple.
        dtype_quant: a float8_e4m3 type or int8; None is the e4m3 type of x's device.
        transpose_scale: scales lie as [N1 * N2 / group_size, M], and report so by strides (1, M).

    Source of the semantics: `aiter.ops.triton.fused_fp8_quant.fused_flatten_fp8_group_quant`, whose groups lie in
    rows of N2, which is the same where N2 is a multiple of the group.
    """
    op = "fused_flatten_fp8_group_quant"
    arguments.check_tensors(op, x=x)
    operands.check_dims(op, "x", x, 3, "[M, N1, N2]")
    dtype = operands.FP8_DTYPES[calls.fp8_of(x.device)] if dtype_quant is None else dtype_quant
    check_code(op, "dtype_quant", dtype)
    operands.check_choice(op, "group_size", group_size, GROUPS)
    if x.shape[2] % group_size:
        allowed = f"[M, N1, N2], N2 a multiple of {group_size}"
        raise ArgumentError(op, "x", f"of shape {list(x.shape)}", allowed, "Pad the rows.")
    rows, width = x.shape[0], x.shape[1] * x.shape[2]
    y = torch.empty((rows, width), dtype=dtype, device=x.device)
    scales = torch.empty((rows, width // group_size), dtype=torch.float32, device=x.device)
    dynamic_per_group_scaled_quant(y, x.reshape(rows, width), scales, group_size, transpose_scale)
    return y, scales.view(-1, rows).T if transpose_scale else scales


def _no_scale(op: str, scale: Tensor | None) -> None:
    if scale is not None:
        raise ArgumentError(op, "scale", "a tensor", "None", "A static scale is for a whole tensor: per_Tensor.")


# Plain PyTorch --------------------------------------------------------------------------------------------------------


def pertoken_quant(
    x: Tensor,
    scale: Tensor | None = None,
    x_scale: Tensor | None = None,
    scale_dtype: torch.dtype = torch.float32,
    quant_dtype: torch.dtype = torch.int8,
    dtypeMax: float | None = None,  # noqa: N803 (upstream's name)
) -> Quantised:
    """(codes of x's shape, scales [..., 1]) by plain PyTorch, for any floating-point x, on any device.

    Args:
        scale: scales to use, broadcast with x; None for those of the rows.
        x_scale: multiplies x first (smooth quantisation).
        scale_dtype: of the scales that are returned.
        dtypeMax: what a row's greatest magnitude becomes; None for the largest number of quant_dtype.

    Source of the semantics: `aiter.ops.quant.pertoken_quant`, whose rows of zeros have a scale of 1 instead, and whose
    int8 codes are cut off, not rounded. Raises `ArgumentError`.
    """
    arguments.check_tensors("pertoken_quant", x=x)
    check_code("pertoken_quant", "quant_dtype", quant_dtype)
    if x.dim() == 0:
        raise ArgumentError("pertoken_quant", "x", "of no dimension", "[..., K]")
    values = x.float() if x_scale is None else x.float() * x_scale
    found = reference.scale_of(reference.greatest(values), quant_dtype, dtypeMax) if scale is None else scale
    return reference.encode(values / found, quant_dtype), found.to(scale_dtype)


def per_tensor_quant(
    x: Tensor,
    scale: Tensor | None = None,
    scale_dtype: torch.dtype = torch.float32,
    quant_dtype: torch.dtype = torch.int8,
    dtypeMax: float | None = None,  # noqa: N803 (upstream's name)
) -> Quantised:
    """(codes of x's shape, scale [1]) by plain PyTorch; arguments are those of `pertoken_quant`. By a given scale,
    codes are those of `static_per_tensor_quant`."""
    arguments.check_tensors("per_tensor_quant", x=x)
    check_code("per_tensor_quant", "quant_dtype", quant_dtype)
    if scale is not None:
        return reference.static(x, quant_dtype, scale), scale.view(1).to(scale_dtype)
    found = reference.scale_of(reference.greatest(x.flatten()), quant_dtype, dtypeMax)
    return reference.encode(x.float() / found, quant_dtype), found.to(scale_dtype)


def per_block_quant_wrapper(block_shape: tuple[int, int] = (1, 128)) -> Callable[..., Any]:
    """Makes a function of rows, such as `pertoken_quant`, one of groups of block_shape[1] elements of them; then it
    returns scales [rows, K / block_shape[1]]. block_shape[0] is 1."""
    rows, group = block_shape
    if rows != 1:
        raise ArgumentError("per_block_quant_wrapper", "block_shape", block_shape, "(1, group)")

    def decorator(per_token_quant: Callable[..., Quantised]) -> Callable[..., Quantised]:
        @functools.wraps(per_token_quant)
        def wrapper(x: Tensor, scale: Tensor | None = None, quant_dtype: torch.dtype = torch.int8) -> Quantised:
            arguments.check_tensors("per_block_quant", x=x)
            if x.dim() == 0 or x.shape[-1] % group:
                got, allowed = f"of shape {list(x.shape)}", f"rows of a multiple of {group}"
                raise ArgumentError("per_block_quant", "x", got, allowed, "Pad the rows.")
            y, scales = per_token_quant(x.reshape(-1, group), scale=scale, quant_dtype=quant_dtype)
            return y.view(x.shape), scales.view(math.prod(x.shape[:-1]), x.shape[-1] // group)

        return wrapper

    return decorator


# By kinds -------------------------------------------------------------------------------------------------------------


def _as_it_is(x: Any, *_: Any, **__: Any) -> tuple[Any, None]:
    return x, None


_HIP: dict[QuantType, Callable[..., Any]] = {
    QuantType.No: _as_it_is,
    QuantType.per_Tensor: per_tensor_quant_hip,
    QuantType.per_Token: per_token_quant_hip,
    QuantType.per_1x32: mxfp4_factory.per_1x32_mx_quant_hip,
    QuantType.per_1x128: functools.partial(per_group_quant_hip, group_size=128),
}
# Kernels too, where upstream has Triton: MXFP4 by another mode.
_TRITON: dict[QuantType, Callable[..., Any]] = {**_HIP, QuantType.per_1x32: mxfp4_factory.per_1x32_f4_quant_triton}
_TORCH: dict[QuantType, Callable[..., Any]] = {
    QuantType.No: _as_it_is,
    QuantType.per_Tensor: per_tensor_quant,
    QuantType.per_Token: pertoken_quant,
    QuantType.per_1x32: mxfp4_factory.per_1x32_f4_quant,
    QuantType.per_1x128: per_block_quant_wrapper((1, 128))(pertoken_quant),
}


def get_hip_quant(qType: QuantType | int) -> Callable[..., Any]:  # noqa: N803 (upstream's name)
    """The kernels' function of (x, scale=None, quant_dtype=..., ...) -> (codes, scales) for a kind of quantisation:
    `per_tensor_quant_hip`, `per_token_quant_hip`, `per_group_quant_hip`, and of per_1x32 `per_1x32_mx_quant_hip`, whose
    quant_dtype is float4_e2m1fn_x2 by default; of `No`, (x, None). That of a kind without kernels raises
    `ArgumentError` when it is called."""
    return _HIP.get(QuantType(qType)) or functools.partial(_refuse, "get_hip_quant", QuantType(qType))


def get_torch_quant(qType: QuantType | int) -> Callable[..., Any]:  # noqa: N803 (upstream's name)
    """The same by plain PyTorch."""
    return _TORCH.get(QuantType(qType)) or functools.partial(_refuse, "get_torch_quant", QuantType(qType))


def get_triton_quant(qType: QuantType | int) -> Callable[..., Any]:  # noqa: N803 (upstream's name)
    """`get_hip_quant`, but for per_1x32: `per_1x32_f4_quant_triton`, whose mode is Even."""
    return _TRITON.get(QuantType(qType)) or functools.partial(_refuse, "get_triton_quant", QuantType(qType))


def _refuse(function: str, kind: QuantType, *_: Any, **__: Any) -> None:
    allowed = ", ".join(other.name for other in _HIP)
    remedies = {
        QuantType.per_128x128: "It is a kind of weights: activations beside them are per_1x128.",
    }
    raise ArgumentError(function, "qType", kind.name, allowed, remedies.get(kind, "Quantise per_1x128."))
