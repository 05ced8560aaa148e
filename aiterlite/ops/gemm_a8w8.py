"""GEMM of 8-bit floats with scales, by blocks and by rows; batched ones are in `gemm_a8w8_batched`.

What each computes is in `aiterlite.reference.gemm_a8w8`. Names of arguments are upstream's: there M is tokens and N
features. The same call gives the same bits; nothing is added by atomics.
"""

# ruff: noqa: N803 (names of arguments are upstream's)
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aiterlite.errors import ArgumentError
from aiterlite.launch import results
from aiterlite.ops import arguments, operands, shuffle
from aiterlite.ops.calls import Run
from aiterlite.ops.gemm_a8w8_launch import DTYPES, FP8, launch_of
from aiterlite.ops.operator import register
from aiterlite.tables import gemm_a8w8 as tables
from aiterlite.tables.gemm_a8w8_problem import BLOCK, VECTOR, BlockScaleProblem, RowScaleProblem

_BLOCKSCALE, _ROWSCALE = tables.BLOCKSCALE, tables.ROWSCALE
_PRESHUFFLED = "gemm_a8w8_blockscale_bpreshuffle"


def gemm_a8w8_blockscale(
    XQ: Tensor,
    WQ: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    dtype: torch.dtype = torch.bfloat16,
    isBpreshuffled: bool = False,
) -> Tensor:
    """XQ · WQ^T, with a scale for each 128 k of a token and one for each block of 128 x 128 weights; [M, N] of `dtype`.

    Args:
        XQ: [M, K] of a float8_e4m3 type, M tokens, any number; the last dimension has stride 1, rows may be strided.
            GPUs take the type that their matrix unit has: float8_e4m3fnuz on gfx942, float8_e4m3fn on gfx950 and
            sm_90. CPUs take both.
        WQ: [N, K] of XQ's type, rows may be strided; where it is shuffled, contiguous, N a multiple of 16, K of 32.
        x_scale: float32 [M, ceil(K / 128)], of any strides.
        w_scale: float32 [ceil(N / 128), ceil(K / 128)]; the last dimension has stride 1.
        dtype: torch.bfloat16 or torch.float16.
        isBpreshuffled: WQ lies as `shuffle_weight` puts it, layout (16, 16). The bits of the result are the same.

    Sums are float32, 128 products at a time, and one rounding follows. Source of the semantics:
    `aiter.gemm_a8w8_blockscale`. Not differentiable. Raises `ArgumentError`, `DispatchError` or a `JitError`.
    """
    result: Tensor = FORWARD(XQ, WQ, x_scale, w_scale, dtype, isBpreshuffled)
    return result


def gemm_a8w8_blockscale_bpreshuffle(
    XQ: Tensor,
    WQ: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
) -> Tensor:
    """`gemm_a8w8_blockscale` of shuffled weights, with scales of x whose bytes are [K / 128, M].

    Args are those of `gemm_a8w8_blockscale`, and:
        x_scale: float32 [M, ceil(K / 128)]: a transposed view, of strides (1, M or more), or a contiguous tensor whose
            memory holds [ceil(K / 128), M] all the same, as quantisation with `transpose_scale` leaves it.
        out: [M, N] of `dtype`, where it is given; the last dimension has stride 1, rows may be strided.

    Source of the semantics: `aiter.gemm_a8w8_blockscale_bpreshuffle`. Raises as `gemm_a8w8_blockscale`.
    """
    arguments.check_tensors(_PRESHUFFLED, x_scale=x_scale)
    lying = _columns_first(x_scale)
    if out is None:
        result: Tensor = FORWARD(XQ, WQ, lying, w_scale, dtype, True)
        return result
    operands.check_dtype(_PRESHUFFLED, "out", out, (dtype,), "the dtype that is asked for")
    OUT(out, XQ, WQ, lying, w_scale, True)
    return out


def gemm_a8w8(
    XQ: Tensor,
    WQ: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
    splitK: int | None = None,
) -> Tensor:
    """(XQ · WQ^T) · x_scale · w_scale + bias, with a scale a token and one a row of weights; [M, N] of `dtype`.

    Args are those of `gemm_a8w8_blockscale`, and:
        x_scale: float32 of M elements, [M, 1] or [M], or of one.
        w_scale: float32 of N elements, [N, 1], [1, N] or [N], or of one.
        bias: [N] or [1, N] of `dtype`, or None.
        splitK: not used; how K is cut is planned.

    Sums are float32; scales, x's first, and the bias are applied at float32, and one rounding follows. XQ and WQ of
    int8 are multiplied by torch, with sums of int32; its GPUs ask that N and K are multiples of 8. Source of the
    semantics: `aiter.gemm_a8w8`. Raises as `gemm_a8w8_blockscale`.
    """
    if XQ.dtype == WQ.dtype == torch.int8:
        return _of_int8(XQ, WQ, x_scale, w_scale, bias, dtype)
    result: Tensor = ROWS(XQ, WQ, x_scale, w_scale, bias, dtype, False)
    return result


def gemm_a8w8_CK(  # noqa: N802
    XQ: Tensor,
    WQ: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
    splitK: int | None = None,
) -> Tensor:
    """`gemm_a8w8` under upstream's other name."""
    return gemm_a8w8(XQ, WQ, x_scale, w_scale, bias, dtype, splitK)


def gemm_a8w8_bpreshuffle(
    XQ: Tensor,
    WQ: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    bias: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """`gemm_a8w8` of shuffled weights; the same bits.

    Source of the semantics: `aiter.gemm_a8w8_bpreshuffle`. Raises as `gemm_a8w8_blockscale`.
    """
    result: Tensor = ROWS(XQ, WQ, x_scale, w_scale, bias, dtype, True)
    return result


# torch's GPUs multiply int8 for more rows than these.
_INT8_ROWS = 17


def _of_int8(x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    _check_rows(x, w, x_scale, w_scale, bias, dtype, False, (torch.int8,))
    rows = x.shape[0]
    padded = functional.pad(x, (0, 0, 0, max(0, _INT8_ROWS - rows)))
    made = torch._int_mm(padded, w.t())[:rows].float() * x_scale.reshape(-1, 1) * w_scale.reshape(1, -1)
    return (made if bias is None else made + bias.float().view(1, -1)).to(dtype)


def _columns_first(x_scale: Tensor) -> Tensor:
    """[M, groups] whose memory holds [groups, M]."""
    if x_scale.dim() == 2 and not (x_scale.stride(0) == 1 or x_scale.shape[0] == 1):
        if not x_scale.is_contiguous():
            got = f"of strides {list(x_scale.stride())}"
            raise ArgumentError(
                _PRESHUFFLED, "x_scale", got, "strides (1, M), or contiguous", "Transpose it, as bytes."
            )
        return x_scale.view(x_scale.shape[1], x_scale.shape[0]).t()
    return x_scale


# What operands must be ------------------------------------------------------------------------------------------------


def _check_codes(
    op: str, x: Tensor, w: Tensor, shuffled: bool, codes: tuple[torch.dtype, ...] = FP8
) -> tuple[int, int, int]:
    """M, N, K."""
    operands.check_dims(op, "XQ", x, 2, "[M, K]")
    operands.check_dims(op, "WQ", w, 2, "[N, K]")
    operands.check_dtype(op, "XQ", x, codes)
    (m, k), n = x.shape, w.shape[0]
    operands.check_shape(op, "WQ", w, ([n, k],), f"[N, {k}], since XQ is {[m, k]}")
    operands.check_like(op, "WQ", w, x, "XQ")
    operands.check_dense(op, XQ=x, WQ=w)
    if shuffled:
        check_shuffled(op, w)
    return m, n, k


def check_shuffled(op: str, w: Tensor) -> None:
    arguments.check_contiguous(op, WQ=w)
    if w.shape[0] % shuffle.ROWS or w.shape[1] % shuffle.DEPTH:
        allowed = f"[N, K], N a multiple of {shuffle.ROWS} and K of {shuffle.DEPTH}"
        raise ArgumentError(op, "WQ", f"of shape {list(w.shape)}", allowed, "Pad it before it is shuffled.")


def _check_scale(op: str, name: str, scale: Tensor, like: Tensor) -> None:
    operands.check_dtype(op, name, scale, (torch.float32,), "the dtype of scales")
    operands.check_device(op, name, scale, like, "XQ")


def _check_blockscale(
    x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor, dtype: torch.dtype, shuffled: bool
) -> None:
    op = _BLOCKSCALE
    m, n, k = _check_codes(op, x, w, shuffled)
    operands.check_choice(op, "dtype", dtype, DTYPES)
    groups = -(-k // BLOCK)
    _check_scale(op, "x_scale", x_scale, x)
    _check_scale(op, "w_scale", w_scale, x)
    operands.check_shape(op, "x_scale", x_scale, ([m, groups],))
    operands.check_shape(op, "w_scale", w_scale, ([-(-n // BLOCK), groups],))
    operands.check_dense(op, w_scale=w_scale)


def _check_rows(
    x: Tensor,
    w: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    shuffled: bool,
    codes: tuple[torch.dtype, ...] = FP8,
) -> None:
    op = _ROWSCALE
    m, n, _ = _check_codes(op, x, w, shuffled, codes)
    operands.check_choice(op, "dtype", dtype, DTYPES)
    for name, scale, count in (("x_scale", x_scale, m), ("w_scale", w_scale, n)):
        _check_scale(op, name, scale, x)
        shapes = ([count], [count, 1], *(() if name == "x_scale" else ([1, count],)))
        if scale.numel() != 1:
            operands.check_shape(op, name, scale, shapes, f"one element, {' or '.join(map(str, shapes))}")
    if bias is not None:
        operands.check_shape(op, "bias", bias, ([n], [1, n]))
        operands.check_dtype(op, "bias", bias, (dtype,), "the dtype that is asked for")
        operands.check_device(op, "bias", bias, x, "XQ")
        operands.check_dense(op, bias=bias)


def _check_out(op: str, name: str, out: Tensor, x: Tensor, shape: list[int]) -> None:
    operands.check_shape(op, name, out, (shape,))
    operands.check_device(op, name, out, x, "XQ")
    operands.check_dense(op, **{name: out})
    arguments.check_apart(op, name, out)


# How calls are prepared -----------------------------------------------------------------------------------------------


def _element_stride(scale: Tensor) -> int:
    """From element to element of a vector; 0 where there is one."""
    return (
        0
        if scale.numel() == 1
        else max(stride for size, stride in zip(scale.shape, scale.stride(), strict=True) if size > 1)
    )


def _is_aligned(x: Tensor, w: Tensor) -> bool:
    return operands.is_aligned(x, VECTOR) and operands.is_aligned(w, VECTOR)


def _prepare_blockscale(
    x: Tensor,
    w: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    dtype: torch.dtype,
    shuffled: bool,
    out: Tensor | None = None,
) -> Any:
    """What launches calls of such operands; None where there is nothing to do."""
    (n, k), m = x.shape, w.shape[0]
    if n == 0 or m == 0:
        return None
    if k == 0:
        return lambda x, w, bias, y, *_: y.zero_()
    code, kind = operands.dtype_name(x.dtype), operands.dtype_name(dtype)
    problem = BlockScaleProblem(n, m, k, code, kind, _is_aligned(x, w), shuffled)
    sizes = {
        "stride_x": x.stride(0),
        "stride_w": w.stride(0),
        "stride_y": m if out is None else out.stride(0),
        "stride_x_scale": x_scale.stride(0),
        "stride_x_scale_group": x_scale.stride(1),
        "stride_w_scale": w_scale.stride(0),
    }
    return launch_of(tables.BLOCKSCALE_TABLE, problem, sizes, x.device, ("bias",))


def _fake_forward(
    XQ: Tensor,
    WQ: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    dtype: torch.dtype,
    isBpreshuffled: bool = False,
) -> Tensor:
    _check_blockscale(XQ, WQ, x_scale, w_scale, dtype, isBpreshuffled)
    return XQ.new_empty((XQ.shape[0], WQ.shape[0]), dtype=dtype)


def _prepare_forward(
    XQ: Tensor,
    WQ: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    dtype: torch.dtype,
    isBpreshuffled: bool = False,
) -> Run:
    _check_blockscale(XQ, WQ, x_scale, w_scale, dtype, isBpreshuffled)
    launch = _prepare_blockscale(XQ, WQ, x_scale, w_scale, dtype, isBpreshuffled)
    empty = results.allocator((XQ.shape[0], WQ.shape[0]), dtype, XQ.device)

    def run(XQ: Tensor, WQ: Tensor, x_scale: Tensor, w_scale: Tensor, *_: Any, **__: Any) -> Tensor:
        y = empty(XQ)
        if launch is not None:
            launch(XQ, WQ, None, y, x_scale, w_scale)
        return y

    return run


def _fake_out(
    out: Tensor,
    XQ: Tensor,
    WQ: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    isBpreshuffled: bool = False,
) -> None:
    _check_blockscale(XQ, WQ, x_scale, w_scale, out.dtype, isBpreshuffled)
    _check_out(_BLOCKSCALE, "out", out, XQ, [XQ.shape[0], WQ.shape[0]])


def _prepare_out(
    out: Tensor,
    XQ: Tensor,
    WQ: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    isBpreshuffled: bool = False,
) -> Run:
    _fake_out(out, XQ, WQ, x_scale, w_scale, isBpreshuffled)
    launch = _prepare_blockscale(XQ, WQ, x_scale, w_scale, out.dtype, isBpreshuffled, out)

    def run(out: Tensor, XQ: Tensor, WQ: Tensor, x_scale: Tensor, w_scale: Tensor, *_: Any, **__: Any) -> None:
        if launch is not None:
            launch(XQ, WQ, None, out, x_scale, w_scale)

    return run


def _fake_rows(
    XQ: Tensor,
    WQ: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    isBpreshuffled: bool = False,
) -> Tensor:
    _check_rows(XQ, WQ, x_scale, w_scale, bias, dtype, isBpreshuffled)
    return XQ.new_empty((XQ.shape[0], WQ.shape[0]), dtype=dtype)


def _prepare_rows(
    XQ: Tensor,
    WQ: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    isBpreshuffled: bool = False,
) -> Run:
    _check_rows(XQ, WQ, x_scale, w_scale, bias, dtype, isBpreshuffled)
    (n, k), m = XQ.shape, WQ.shape[0]
    empty = results.allocator((n, m), dtype, XQ.device)
    launch = None
    if n and m and k:
        code, kind = operands.dtype_name(XQ.dtype), operands.dtype_name(dtype)
        problem = RowScaleProblem(n, m, k, code, kind, _is_aligned(XQ, WQ), isBpreshuffled, bias is not None)
        strides = {"stride_x": XQ.stride(0), "stride_w": WQ.stride(0), "stride_y": m}
        strides |= {"stride_x_scale": _element_stride(x_scale), "stride_w_scale": _element_stride(w_scale)}
        absent = () if bias is not None else ("bias",)
        launch = launch_of(tables.ROWSCALE_TABLE, problem, strides, XQ.device, absent)

    def run(
        XQ: Tensor, WQ: Tensor, x_scale: Tensor, w_scale: Tensor, bias: Tensor | None, *_: Any, **__: Any
    ) -> Tensor:
        y = empty(XQ)
        if launch is not None:
            launch(XQ, WQ, bias, y, x_scale, w_scale)
        elif n and m:
            y.zero_() if bias is None else y.copy_(bias.expand(n, m))
        return y

    return run


_CODES = "Tensor XQ, Tensor WQ, Tensor x_scale, Tensor w_scale"
FORWARD = register(
    f"{_BLOCKSCALE}({_CODES}, ScalarType dtype, bool isBpreshuffled=False) -> Tensor", _prepare_forward, _fake_forward
)
OUT = register(f"{_BLOCKSCALE}.out(Tensor(a!) out, {_CODES}, bool isBpreshuffled=False) -> ()", _prepare_out, _fake_out)
ROWS = register(
    f"{_ROWSCALE}({_CODES}, Tensor? bias, ScalarType dtype, bool isBpreshuffled=False) -> Tensor",
    _prepare_rows,
    _fake_rows,
)
