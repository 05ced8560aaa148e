"""GEMM of MXFP4 weights: the operator that all public forms call (`ops/gemm_mxfp4_operators.py`).

What it computes is in `aiterlite.reference.gemm_mxfp4`. Names of arguments are upstream's: there M is tokens and N
features. The same call gives the same bits; nothing is added by atomics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.launch import results
from aiterlite.ops import arguments, calls, gemm_mxfp4_dense, operands, shuffle
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from aiterlite.tables import gemm_mxfp4 as tables
from aiterlite.tables.gemm_mxfp4_problem import (
    KINDS,
    NEAR_BYTES,
    NEAR_ROWS,
    OP,
    RESULTS,
    SHUFFLED_K,
    SHUFFLED_ROWS,
    WHOLE_K,
    MxGemmProblem,
)
from aiterlite.tables.mx_types import BLOCK

PACKED, SCALES = operands.MX_CODES, operands.MX_SCALES
_NAMES = ("x", "w", "bias", "y", "x_scale", "w_scale")
_HALVES = tuple(operands.DTYPES[name] for name in KINDS[:2])
_RESULTS = tuple(operands.DTYPES[name] for name in RESULTS)
_VECTOR = 16


@dataclass(frozen=True)
class _Call:
    """A call's operands, once checked: tensors of three dimensions of operands, and what a kernel must know of them."""

    batch: int
    n: int
    m: int
    k: int
    kind: str


def _check(
    x: Tensor,
    w: Tensor,
    x_scale: Tensor | None,
    w_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    how: tuple[bool, bool, bool],
) -> _Call:
    shuffled, x_shuffled, w_shuffled = how
    operands.check_dtype(OP, "x", x, (*_HALVES, *PACKED))
    operands.check_dtype(OP, "w", w, PACKED)
    operands.check_choice(OP, "dtype", dtype, _RESULTS)
    operands.check_device(OP, "w", w, x)
    if x.dim() not in (2, 3):
        raise ArgumentError(OP, "x", f"of shape {list(x.shape)}", "[M, K] or [B, M, K], two or three dimensions")
    packed = x.dtype in PACKED
    k = x.shape[-1] * (2 if packed else 1)
    *batches, n = x.shape[:-1]
    batch = batches[0] if batches else 1
    m = w.shape[-2] if w.dim() > 1 else 0
    wanted = [*batches, m, k // 2]
    operands.check_shape(OP, "w", w, (wanted,), f"[{', '.join(map(str, batches))}{', ' if batches else ''}N, {k // 2}]")
    operands.check_dense(OP, x=x, w=w)
    if k % BLOCK:
        raise ArgumentError(OP, "x", f"of K {k}", f"a multiple of {BLOCK}", "Pad x and w with zeros.")
    if shuffled:
        _check_shuffled(w, m, k)
    _check_scale("w_scale", w_scale, batches, m, k, x, w_shuffled)
    if packed and x_scale is None:
        raise ArgumentError(OP, "x_scale", "None", "the scales of x, which is packed")
    if not packed and x_scale is not None:
        raise ArgumentError(OP, "x_scale", "a tensor", f"None, since x is of {x.dtype}")
    if x_scale is not None:
        _check_scale("x_scale", x_scale, batches, n, k, x, x_shuffled)
    if bias is not None:
        operands.check_shape(OP, "bias", bias, ([m], [1, m], [n, m]))
        operands.check_dtype(OP, "bias", bias, (torch.float32, dtype), "or the dtype of the result")
        operands.check_device(OP, "bias", bias, x)
        operands.check_dense(OP, bias=bias)
    return _Call(batch, n, m, k, "fp4" if packed else operands.dtype_name(x.dtype))


def _check_shuffled(w: Tensor, m: int, k: int) -> None:
    arguments.check_contiguous(OP, w=w)
    if w.dim() != 2 or m % SHUFFLED_ROWS or k % SHUFFLED_K:
        allowed = f"[N, K / 2], N a multiple of {SHUFFLED_ROWS} and K of {SHUFFLED_K}, since it is shuffled"
        raise ArgumentError(OP, "w", f"of shape {list(w.shape)}", allowed, "Pad it before it is shuffled.")


def _check_scale(name: str, scale: Tensor, batches: list[int], rows: int, k: int, x: Tensor, shuffled: bool) -> None:
    operands.check_dtype(OP, name, scale, SCALES)
    operands.check_device(OP, name, scale, x)
    if not shuffled:
        operands.check_shape(OP, name, scale, ([*batches, rows, k // BLOCK],))
        return
    arguments.check_contiguous(OP, **{name: scale})
    tile_rows, tile_blocks = 32, shuffle.SCALE_BLOCKS
    whole = scale.dim() == 2 and not batches
    if not whole or scale.shape[0] % tile_rows or scale.shape[1] % tile_blocks:
        allowed = f"[rows, blocks], multiples of {tile_rows} and {tile_blocks}, since they are shuffled"
        raise ArgumentError(OP, name, f"of shape {list(scale.shape)}", allowed, "Shuffle them with shuffle_scale.")
    if scale.shape[0] < rows or scale.shape[1] * BLOCK < k:
        allowed = f"at least [{rows}, {k // BLOCK}]"
        raise ArgumentError(OP, name, f"of shape {list(scale.shape)}", allowed)


def _prepare(
    y: Tensor,
    x: Tensor,
    w: Tensor,
    x_scale: Tensor | None,
    w_scale: Tensor,
    bias: Tensor | None,
    factors: tuple[float, float],
    how: tuple[bool, bool, bool],
    tokens_first: bool,
) -> Any:
    """What launches calls of such operands, into memory as y's; None where there is nothing to do."""
    call = _check(x, w, x_scale, w_scale, bias, y.dtype, how)
    alpha, beta = factors
    if 0 in (call.batch, call.n, call.m):
        return None
    if call.k == 0:
        return lambda x, w, bias, y, *_: y.zero_() if bias is None else y.copy_(beta * bias)
    shuffled, x_shuffled, w_shuffled = how
    problem = MxGemmProblem(
        call.n,
        call.m,
        call.k,
        call.kind,
        operands.dtype_name(y.dtype),
        shuffled,
        "shuffled" if w_shuffled else _lay(w_scale, call.k),
        x_shuffled,
        bias is not None,
        call.batch,
        all(operands.is_aligned(t, _VECTOR // t.itemsize) for t in (x, w)),
        _is_near(x, w, None if x_shuffled else x_scale, None if w_shuffled else w_scale),
    )
    sizes: dict[str, int | float] = {
        **_strides("x", x),
        **_strides("w", w),
        **_scale_strides("x_scale", x_scale, x_shuffled),
        **_scale_strides("w_scale", w_scale, w_shuffled),
        **_strides("y", y.transpose(0, 1) if tokens_first else y),
        "stride_bias": bias.stride(0) if bias is not None and bias.dim() == 2 and bias.shape[0] > 1 else 0,
        "bias_is_float": int(bias is not None and bias.dtype == torch.float32),
        "alpha": alpha,
        "beta": beta,
        "reserved": 0,
    }
    absent = tuple(name for name, given in (("bias", bias), ("x_scale", x_scale)) if given is None)
    decision = calls.decide(tables.TABLE, problem, calls.persona_of(OP, x.device))
    if not decision.kernels:
        return gemm_mxfp4_dense.prepare(factors, how, tokens_first, x.device)
    return launches.prepare(decision, x.device, _NAMES, sizes, absent)


def _is_near(*tensors: Tensor | None) -> bool:
    """Whether neighbouring rows are so near each other that offsets of 32 bits tell them apart."""
    return all(
        (NEAR_ROWS * t.stride(-2) + t.shape[-1] * t.stride(-1)) * t.itemsize < NEAR_BYTES
        for t in tensors
        if t is not None
    )


def _lay(scale: Tensor, k: int) -> str:
    """Whether scales are words of four, in whole steps of K."""
    outer = [stride for size, stride in zip(scale.shape[:-1], scale.stride()[:-1], strict=True) if size > 1]
    whole = k % WHOLE_K == 0 and scale.data_ptr() % 4 == 0 and all(stride % 4 == 0 for stride in outer)
    return "rows" if whole and (scale.stride(-1) == 1 or scale.shape[-1] == 1) else "strided"


def _strides(name: str, tensor: Tensor) -> dict[str, int]:
    return {
        f"stride_{name}": tensor.stride(-2),
        f"stride_{name}_batch": tensor.stride(0) if tensor.dim() == 3 else 0,
    }


def _scale_strides(name: str, scale: Tensor | None, shuffled: bool) -> dict[str, int]:
    if scale is None or shuffled:
        row, block, batch = (0 if scale is None else 32 * scale.shape[1]), 0, 0
    else:
        row, block = scale.stride(-2), scale.stride(-1)
        batch = scale.stride(0) if scale.dim() == 3 else 0
    return {f"stride_{name}": row, f"stride_{name}_block": block, f"stride_{name}_batch": batch}


def _shape(x: Tensor, w: Tensor, tokens_first: bool) -> tuple[int, ...]:
    *batches, n = x.shape[:-1]
    return (n, *batches, w.shape[-2]) if tokens_first else (*batches, n, w.shape[-2])


def _fake_forward(
    x: Tensor,
    w: Tensor,
    x_scale: Tensor | None,
    w_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    alpha: float,
    beta: float,
    shuffled: bool = False,
    x_scale_shuffled: bool = False,
    w_scale_shuffled: bool = False,
    tokens_first: bool = False,
) -> Tensor:
    _check(x, w, x_scale, w_scale, bias, dtype, (shuffled, x_scale_shuffled, w_scale_shuffled))
    return x.new_empty(_shape(x, w, tokens_first), dtype=dtype)


def _prepare_forward(
    x: Tensor,
    w: Tensor,
    x_scale: Tensor | None,
    w_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    alpha: float,
    beta: float,
    shuffled: bool = False,
    x_scale_shuffled: bool = False,
    w_scale_shuffled: bool = False,
    tokens_first: bool = False,
) -> Run:
    how = (shuffled, x_scale_shuffled, w_scale_shuffled)
    y = _fake_forward(x, w, x_scale, w_scale, bias, dtype, alpha, beta, *how, tokens_first)
    launch = _prepare(y, x, w, x_scale, w_scale, bias, (alpha, beta), how, tokens_first)
    empty = results.allocator(y.shape, dtype, x.device)

    def run(
        x: Tensor, w: Tensor, x_scale: Tensor | None, w_scale: Tensor, bias: Tensor | None, *_: Any, **__: Any
    ) -> Tensor:
        y = empty(x)
        if launch is not None:
            launch(x, w, bias, y, x_scale, w_scale)
        return y

    return run


def _fake_out(
    y: Tensor,
    x: Tensor,
    w: Tensor,
    x_scale: Tensor | None,
    w_scale: Tensor,
    bias: Tensor | None,
    alpha: float,
    beta: float,
    shuffled: bool = False,
    x_scale_shuffled: bool = False,
    w_scale_shuffled: bool = False,
    tokens_first: bool = False,
) -> None:
    _check(x, w, x_scale, w_scale, bias, y.dtype, (shuffled, x_scale_shuffled, w_scale_shuffled))
    operands.check_shape(OP, "y", y, (_shape(x, w, tokens_first),))
    operands.check_device(OP, "y", y, x)
    operands.check_dense(OP, y=y)
    arguments.check_apart(OP, "y", y)


def _prepare_out(
    y: Tensor,
    x: Tensor,
    w: Tensor,
    x_scale: Tensor | None,
    w_scale: Tensor,
    bias: Tensor | None,
    alpha: float,
    beta: float,
    shuffled: bool = False,
    x_scale_shuffled: bool = False,
    w_scale_shuffled: bool = False,
    tokens_first: bool = False,
) -> Run:
    how = (shuffled, x_scale_shuffled, w_scale_shuffled)
    _fake_out(y, x, w, x_scale, w_scale, bias, alpha, beta, *how, tokens_first)
    launch = _prepare(y, x, w, x_scale, w_scale, bias, (alpha, beta), how, tokens_first)

    def run(
        y: Tensor,
        x: Tensor,
        w: Tensor,
        x_scale: Tensor | None,
        w_scale: Tensor,
        bias: Tensor | None,
        *_: Any,
        **__: Any,
    ) -> None:
        if launch is not None:
            launch(x, w, bias, y, x_scale, w_scale)

    return run


_OPERANDS = "Tensor x, Tensor w, Tensor? x_scale, Tensor w_scale, Tensor? bias"
_FACTORS = "float alpha, float beta"
_LAYS = "bool shuffled=False, bool x_scale_shuffled=False, bool w_scale_shuffled=False, bool tokens_first=False"
FORWARD = register(
    f"{OP}({_OPERANDS}, ScalarType dtype, {_FACTORS}, {_LAYS}) -> Tensor", _prepare_forward, _fake_forward
)
OUT = register(f"{OP}.out(Tensor(a!) y, {_OPERANDS}, {_FACTORS}, {_LAYS}) -> ()", _prepare_out, _fake_out)
