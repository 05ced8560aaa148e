"""The public forms of the GEMM of MXFP4 weights, under upstream's names, order of arguments and defaults.

All of them are one operator (`ops/gemm_mxfp4.py`). `config`, `kernelName`, `splitK`, `log2_k_split` and `skip_reduce`
are taken and not used: how a call is cut is planned, and sums are whole.
"""

# ruff: noqa: N803 (names of arguments are upstream's)
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import arguments, mxfp4, operands
from aiterlite.ops.gemm_mxfp4 import FORWARD, OUT, PACKED
from aiterlite.tables.mx_types import BLOCK, MxScaleRoundMode

_A4W4 = "gemm_a4w4"
_FEW = 32  # tokens below which upstream's preshuffled form takes plain scales of x
_FORMER_NAMES = {"bias", "alpha", "beta", "bpreshuffle"}
_P = ParamSpec("_P")


def _in_either_order(later: Callable[_P, Tensor]) -> Callable[_P, Tensor]:
    """gemm_a4w4 in the order in which its arguments come."""

    @functools.wraps(later)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> Tensor:
        former: Callable[..., Tensor] = _former_a4w4
        return former(*args, **kwargs) if _is_former(args, kwargs) else later(*args, **kwargs)

    return called


def _is_former(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call is of the order in which the fifth is the result's memory. What only the later one has says that
    it is that: a bias or a dtype by its name, or a dtype in the sixth place."""
    if len(args) < 5 or not isinstance(args[4], Tensor) or not _FORMER_NAMES.issuperset(kwargs):
        return False
    if len(args) > 5:
        return not isinstance(args[5], torch.dtype)
    return "bias" in kwargs or _is_result(args[4], args[0], args[1])


@_in_either_order
def gemm_a4w4(
    A: Tensor,
    B: Tensor,
    A_scale: Tensor,
    B_scale: Tensor,
    bias: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
    alpha: float | None = 1.0,
    beta: float | None = 0.0,
    bpreshuffle: bool | None = True,
    apreshuffle: bool | None = False,
    global_A_scale: Tensor | None = None,
    global_B_scale: Tensor | None = None,
) -> Tensor:
    """alpha * A · B^T + beta * bias of MXFP4 operands; [..., N] of `dtype`.

    Args:
        A: [..., K / 2] of float4_e2m1fn_x2 or uint8, two elements a byte; K a multiple of 32, with bpreshuffle of 64.
        B: [N, K / 2] of the same; with bpreshuffle as `shuffle_weight` puts it, N a multiple of 16.
        A_scale: float8_e8m0fnu or uint8 of A's rows by K / 32, as `shuffle_scale` puts and pads them. What the padding
            holds does not matter.
        B_scale: the same of B.
        bias: float32 [N] or [1, N], or [M, N], M the rows of A; or None.
        dtype: torch.bfloat16, torch.float16 or torch.float32.
        alpha, beta: factors. With a bias and `beta` 0.0, upstream's default, beta is 1: a bias that is given is added.
        bpreshuffle: whether B is shuffled.
        apreshuffle, global_A_scale, global_B_scale: False and None.

    Upstream's former order is told by what comes fifth and sixth by its place: `(A, B, A_scale, B_scale, out,
    bias=None, alpha=1.0, beta=0.0, bpreshuffle=True)`, `out` 16-bit [M or more, N], which is written to, its first M
    rows, and returned. A bias of that kind is given by its name, or beside a dtype.

    Source of the semantics: `aiter.gemm_a4w4`. Not differentiable. Raises `ArgumentError`, `DispatchError` or a
    `JitError`.
    """
    arguments.check_tensors(_A4W4, A=A, B=B, A_scale=A_scale, B_scale=B_scale)
    _refuse_other_formats(apreshuffle, global_A_scale, global_B_scale)
    rows = _flat(_A4W4, "A", A)
    factors = _factors(alpha, beta, bias)
    made: Tensor = FORWARD(rows, B, A_scale, B_scale, bias, dtype, *factors, _is(bpreshuffle), True, True)
    return made if A.dim() == 2 else made.view(*A.shape[:-1], made.shape[-1])


def _is_result(given: Tensor, A: Any, B: Any) -> bool:
    """Whether the fifth argument is the result's memory: 16 bits, as many rows as A or more, and B's as columns."""
    if given.dtype not in (torch.bfloat16, torch.float16) or given.dim() != 2:
        return False
    if not (isinstance(A, Tensor) and isinstance(B, Tensor) and A.dim() and B.dim()):
        return False
    return given.shape[0] >= operands.rows_of(A) and given.shape[1] == B.shape[0]


def _former_a4w4(
    A: Tensor,
    B: Tensor,
    A_scale: Tensor,
    B_scale: Tensor,
    out: Any,
    bias: Any = None,
    alpha: Any = 1.0,
    beta: Any = 0.0,
    bpreshuffle: Any = True,
) -> Tensor:
    return gemm_a4w4_asm(A, B, A_scale, B_scale, out, "", bias, alpha, beta, bpreshuffle)


def gemm_a4w4_asm(
    A: Tensor,
    B: Tensor,
    A_scale: Tensor,
    B_scale: Tensor,
    out: Tensor,
    kernelName: str = "",
    bias: Tensor | None = None,
    alpha: float | None = 1.0,
    beta: float | None = 0.0,
    bpreshuffle: bool | None = True,
    log2_k_split: int | None = None,
) -> Tensor:
    """`gemm_a4w4` into `out` [M or more, N], whose first M rows are written; returns it.

    Source of the semantics: `aiter.gemm_a4w4_asm`. Raises as `gemm_a4w4`.
    """
    op = "gemm_a4w4_asm"
    arguments.check_tensors(op, A=A, B=B, A_scale=A_scale, B_scale=B_scale, out=out)
    rows = _flat(op, "A", A)
    _check_result(op, "out", out, rows.shape[0])
    factors = _factors(alpha, beta, bias)
    OUT(out[: rows.shape[0]], rows, B, A_scale, B_scale, bias, *factors, _is(bpreshuffle), True, True)
    return out


def gemm_a4w4_blockscale(
    XQ: Tensor,
    WQ: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    Out: Tensor,
    splitK: int = 0,
    kernelName: str = "",
) -> Tensor:
    """`gemm_a4w4_asm` of shuffled weights without factors and bias.

    Source of the semantics: `aiter.gemm_a4w4_blockscale`. Raises as `gemm_a4w4`.
    """
    op = "gemm_a4w4_blockscale"
    arguments.check_tensors(op, XQ=XQ, WQ=WQ, x_scale=x_scale, w_scale=w_scale, Out=Out)
    _check_result(op, "Out", Out, XQ.shape[0])
    OUT(Out[: XQ.shape[0]], XQ, WQ, x_scale, w_scale, None, 1.0, 0.0, True, True, True)
    return Out


def gemm_afp4wfp4(
    x: Tensor,
    w: Tensor,
    x_scales: Tensor,
    w_scales: Tensor,
    dtype: torch.dtype | None = torch.bfloat16,
    y: Tensor | None = None,
    config: object = None,
    skip_reduce: bool | None = False,
) -> Tensor:
    """x · w^T of MXFP4 operands, none of them shuffled; [M, N] of `dtype`, or into y.

    Args:
        x: [M, K / 2] of uint8 or float4_e2m1fn_x2; rows may be strided.
        w: [N, K / 2] of the same.
        x_scales: uint8 or float8_e8m0fnu [M, K / 32], of any strides.
        w_scales: [N, K / 32], of any strides.
        dtype: of the result; None is bfloat16. Not used where y is given.
        y: [M, N] of bfloat16, float16 or float32; the last dimension has stride 1.

    Source of the semantics: aiter's Triton operator of this name. Raises as `gemm_a4w4`.
    """
    return _into("gemm_afp4wfp4", y, dtype, x, w, x_scales, w_scales)


def gemm_afp4wfp4_preshuffle(
    x_fp4: Tensor,
    w_preshuf: Tensor,
    x_scales: Tensor,
    w_scales: Tensor,
    dtype: torch.dtype | None = torch.bfloat16,
    y: Tensor | None = None,
    config: object = None,
    skip_reduce: bool | None = False,
) -> Tensor:
    """`gemm_afp4wfp4` of shuffled weights and scales.

    Args are those of `gemm_afp4wfp4`, and:
        w_preshuf: [N / 16, 8 K], the bytes of `shuffle_weight` of [N, K / 2].
        x_scales: of 32 tokens or more [M / 32, K], the bytes of `shuffle_scale`; of fewer [M, K / 32] as they are.
        w_scales: [N / 32, K], the bytes of `shuffle_scale`.

    Source of the semantics: aiter's Triton operator of this name. Raises as `gemm_a4w4`.
    """
    op = "gemm_afp4wfp4_preshuffle"
    arguments.check_tensors(op, x_fp4=x_fp4, w_preshuf=w_preshuf, x_scales=x_scales, w_scales=w_scales)
    shuffled = x_fp4.shape[0] >= _FEW
    scales = _tiled(op, "x_scales", x_scales) if shuffled else x_scales
    return _into(
        op, y, dtype, x_fp4, _pieces(op, "w_preshuf", w_preshuf), scales, _tiled(op, "w_scales", w_scales),
        (True, shuffled, True),
    )  # fmt: skip


def gemm_a16wfp4(
    x: Tensor,
    w: Tensor,
    w_scales: Tensor,
    atomic_add: bool | None = False,
    dtype: torch.dtype | None = torch.bfloat16,
    y: Tensor | None = None,
    config: object = None,
) -> Tensor:
    """x · w^T of 16-bit x, as it is, and MXFP4 weights; [M, N] of `dtype`, or into y.

    Args are those of `gemm_afp4wfp4`, and:
        x: [M, K] of bfloat16 or float16; rows may be strided.
        atomic_add: not used; nothing is added by atomics, and y is overwritten.

    Source of the semantics: aiter's Triton operator of this name. Raises as `gemm_a4w4`.
    """
    return _into("gemm_a16wfp4", y, dtype, x, w, None, w_scales)


def gemm_a16wfp4_preshuffle(
    x: Tensor,
    w: Tensor,
    w_scales: Tensor,
    prequant: bool | None = True,
    dtype: torch.dtype | None = torch.bfloat16,
    y: Tensor | None = None,
    config: object = None,
    skip_reduce: bool | None = False,
) -> Tensor:
    """`gemm_a16wfp4` of shuffled weights and scales, by default of x that is rounded to MXFP4.

    Args are those of `gemm_a16wfp4`, and:
        w: [N / 16, 8 K], as `gemm_afp4wfp4_preshuffle` has it; w_scales [N / 32, K] likewise.
        prequant: whether x is quantised on the way, by the mode `Even`, as `dynamic_mxfp4_quant` of aiter's Triton
            operators does.

    Source of the semantics: aiter's Triton operator of this name. Raises as `gemm_a4w4`.
    """
    op = "gemm_a16wfp4_preshuffle"
    arguments.check_tensors(op, x=x, w=w, w_scales=w_scales)
    codes, scales = _quantised(op, x) if _is(prequant) else (x, None)
    how = (True, False, True)
    return _into(op, y, dtype, codes, _pieces(op, "w", w), scales, _tiled(op, "w_scales", w_scales), how)


def gemm_afp4wfp4_pre_quant(
    x: Tensor,
    w: Tensor,
    w_scales: Tensor,
    dtype: torch.dtype | None = torch.bfloat16,
    y: Tensor | None = None,
    config: object = None,
) -> Tensor:
    """`gemm_afp4wfp4` of 16-bit x [M, K], which is quantised on the way as `gemm_a16wfp4_preshuffle` does.

    Upstream adds to y; here it is overwritten. Source of the semantics: aiter's Triton operator of this name. Raises as
    `gemm_a4w4`.
    """
    codes, scales = _quantised("gemm_afp4wfp4_pre_quant", x)
    return _into("gemm_afp4wfp4_pre_quant", y, dtype, codes, w, scales, w_scales)


def batched_gemm_a16wfp4(
    x: Tensor,
    w: Tensor,
    w_scales: Tensor,
    dtype: torch.dtype | None = torch.bfloat16,
    y: Tensor | None = None,
    config: object = None,
    transpose_bm: bool | None = False,
    prequant: bool | None = True,
    y_scale: Tensor | None = None,
) -> Tensor:
    """B products of 16-bit x and MXFP4 weights, by default of x that is rounded to MXFP4 on the way.

    Args:
        x: [B, M, K] of bfloat16 or float16, of any strides but 1 of the last dimension.
        w: [B, N, K / 2] of uint8 or float4_e2m1fn_x2.
        w_scales: [B, N, K / 32], of any strides.
        dtype, y, prequant: as `gemm_a16wfp4_preshuffle` has them; y is of the result's shape.
        transpose_bm: the result is [M, B, N] in place of [B, M, N].
        y_scale: None.

    Source of the semantics: aiter's Triton operator of this name. Raises as `gemm_a4w4`.
    """
    op = "batched_gemm_a16wfp4"
    if y_scale is not None:
        raise ArgumentError(op, "y_scale", "a tensor", "None", "Quantise the result.")
    codes, scales = _quantised(op, x) if _is(prequant) else (x, None)
    return _into(op, y, dtype, codes, w, scales, w_scales, tokens_first=bool(transpose_bm))


def batched_gemm_afp4wfp4_pre_quant(
    x: Tensor,
    w: Tensor,
    w_scales: Tensor,
    dtype: torch.dtype | None = torch.bfloat16,
    y: Tensor | None = None,
    config: object = None,
) -> Tensor:
    """`batched_gemm_a16wfp4` with `prequant`, under upstream's other name."""
    return batched_gemm_a16wfp4(x, w, w_scales, dtype, y, config)


# What the forms share -------------------------------------------------------------------------------------------------


def _into(
    op: str,
    y: Tensor | None,
    dtype: torch.dtype | None,
    x: Tensor,
    w: Tensor,
    x_scales: Tensor | None,
    w_scales: Tensor,
    how: tuple[bool, bool, bool] = (False, False, False),
    tokens_first: bool = False,
) -> Tensor:
    if y is None:
        kind = torch.bfloat16 if dtype is None else dtype
        made: Tensor = FORWARD(x, w, x_scales, w_scales, None, kind, 1.0, 0.0, *how, tokens_first)
        return made
    OUT(y, x, w, x_scales, w_scales, None, 1.0, 0.0, *how, tokens_first)
    return y


def _is(flag: bool | None) -> bool:
    """None is upstream's default, True."""
    return flag is None or bool(flag)


def _factors(alpha: float | None, beta: float | None, bias: Tensor | None) -> tuple[float, float]:
    factor = 1.0 if alpha is None else float(alpha)
    return factor, (float(beta) if beta else 1.0) if bias is not None else 0.0


def _refuse_other_formats(apreshuffle: Any, global_a: Any, global_b: Any) -> None:
    if apreshuffle:
        raise ArgumentError(_A4W4, "apreshuffle", apreshuffle, "False", "Leave A as it is.")
    for name, given in (("global_A_scale", global_a), ("global_B_scale", global_b)):
        if given is not None:
            raise ArgumentError(_A4W4, name, "a tensor", "None", "Scales of whole tensors go with NVFP4.")


def _flat(op: str, name: str, x: Tensor) -> Tensor:
    if not x.dim():
        raise ArgumentError(op, name, "of no dimension", "[..., K]")
    return operands.flatten(x)


def _check_result(op: str, name: str, out: Tensor, rows: int) -> None:
    if out.dim() != 2 or out.shape[0] < rows:
        raise ArgumentError(op, name, f"of shape {list(out.shape)}", f"[{rows} or more, N]")


def _pieces(op: str, name: str, w: Tensor) -> Tensor:
    """[N, K / 2] of shuffled weights [N / 16, 8 K]."""
    arguments.check_contiguous(op, **{name: w})
    if w.dim() != 2 or w.shape[1] % 16:
        raise ArgumentError(op, name, f"of shape {list(w.shape)}", "[N / 16, 8 K], shuffled")
    return w.view(16 * w.shape[0], w.shape[1] // 16)


def _tiled(op: str, name: str, scales: Tensor) -> Tensor:
    """[N, K / 32] of shuffled scales [N / 32, K]."""
    arguments.check_contiguous(op, **{name: scales})
    if scales.dim() != 2 or scales.shape[1] % BLOCK:
        raise ArgumentError(op, name, f"of shape {list(scales.shape)}", "[rows / 32, K], shuffled")
    return scales.view(32 * scales.shape[0], scales.shape[1] // BLOCK)


def _quantised(op: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """x in MXFP4, by the mode of aiter's Triton operators."""
    arguments.check_tensors(op, x=x)
    rows = _flat(op, "x", x)
    if x.dtype in PACKED:
        raise ArgumentError(op, "x", f"of dtype {x.dtype}", "torch.bfloat16, torch.float16", "Call gemm_afp4wfp4.")
    if x.shape[-1] % BLOCK:
        raise ArgumentError(op, "x", f"of shape {list(x.shape)}", f"a K that is a multiple of {BLOCK}", "Pad x and w.")
    codes = torch.empty((rows.shape[0], x.shape[-1] // 2), dtype=torch.uint8, device=x.device)
    scales = torch.empty((rows.shape[0], x.shape[-1] // BLOCK), dtype=torch.uint8, device=x.device)
    mxfp4.quantise(rows, codes, scales, MxScaleRoundMode.Even)
    return codes.view(*x.shape[:-1], codes.shape[1]), scales.view(*x.shape[:-1], scales.shape[1])
