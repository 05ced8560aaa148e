"""Skinny GEMM of 8-bit floats: `wvSplitKQ`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aiterlite.launch import calls as launches
from aiterlite.ops import calls, matmul, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.matmul import Bias
from aiterlite.ops.operator import register
from aiterlite.tables import gemm_fp8 as tables
from aiterlite.tables.gemm import FLAVOURS

_OP = "wvSplitKQ"
_FP8 = tuple(operands.FP8_DTYPES[name] for name in FLAVOURS)
_OPERANDS = (*matmul.OPERANDS, "scale_x", "scale_w")


def wvSplitKQ(  # noqa: N802 (the operator's name in the field)
    x: Tensor,
    weight: Tensor,
    out_dtype: torch.dtype,
    scale_x: Tensor,
    scale_w: Tensor,
    bias: Tensor | None = None,
    *,
    cu_count: int = 0,
) -> Tensor:
    """The fp8 skinny GEMM of vLLM's ROCm backend: y = (x · weight^T) · scale_x · scale_w + bias for 1 to 16 rows of x.

    Args:
        x: [..., K] of a float8_e4m3 type with 0 to 16 rows; the last dimension has stride 1, rows may be strided. GPUs
            take the type that their matrix unit has: float8_e4m3fnuz on gfx942, float8_e4m3fn on gfx950 and sm_90. CPUs
            take both.
        weight: [M, K] of x's dtype and device; the last dimension has stride 1, rows may be strided. Rows at multiples
            of 16 bytes (all, where K is a multiple of 16) are read 16 bytes at a time, others byte by byte.
        out_dtype: torch.bfloat16 or torch.float16.
        scale_x: float32 on x's device, the factor from x's stored numbers to its real ones: one element, or [N] or
            [N, 1], one for each row of x. It may be strided.
        scale_w: the same of the weight: one element, or [M] or [M, 1].
        bias: None, [M], [1, M] or [N, M] of out_dtype on x's device, N the number of rows of x.
        cu_count: plan as for a chip of this many compute units; 0 for as many as the device has.

    Returns [..., M] of out_dtype. Sums are float32; scale_x, then scale_w, then the bias are applied in float32, and
    one rounding follows. A power of two moves from one scale to the other first, so that nothing on the way overflows
    or is subnormal where the result is not. The same call gives the same bits. Scales are read on the device. Nothing
    outside the operands' addressed elements is read. Not differentiable.

    Source of the semantics: `wvSplitKQ` of vLLM (csrc/rocm/skinny_gemms.cu), whose argument order is weight first, and
    which takes 1 to 4 rows, K a multiple of 16, and scales of one element.
    Raises `ArgumentError`, `DispatchError` (with the reasons) or a `JitError`.
    """
    result: Tensor = OPERATOR(x, weight, out_dtype, scale_x, scale_w, bias, cu_count=cu_count)
    return result


def _check(x: Tensor, weight: Tensor, out_dtype: torch.dtype, scale_x: Tensor, scale_w: Tensor, bias: Bias) -> int:
    """The number of rows of x. Raises `ArgumentError` for operands that do not fit together."""
    n, m = matmul.check_product(_OP, x, weight), weight.shape[0]
    operands.check_dtype(_OP, "x", x, _FP8)
    operands.check_choice(_OP, "out_dtype", out_dtype, matmul.DTYPES)
    for name, scale, rows in (("scale_x", scale_x, n), ("scale_w", scale_w, m)):
        if scale.numel() != 1:
            operands.check_shape(_OP, name, scale, ([rows], [rows, 1]), f"one element, [{rows}] or [{rows}, 1]")
        operands.check_dtype(_OP, name, scale, (torch.float32,), "the dtype of scales")
        operands.check_device(_OP, name, scale, x)
    if bias is not None:
        matmul.check_bias(_OP, bias, n, m, x, out_dtype, "out_dtype")
    return n


def _prepare(
    x: Tensor, weight: Tensor, out_dtype: torch.dtype, scale_x: Tensor, scale_w: Tensor, bias: Bias = None, **opts: Any
) -> Run:
    n = _check(x, weight, out_dtype, scale_x, scale_w, bias)
    operands.check_dense(_OP, x=x, weight=weight, bias=bias)
    persona = calls.persona_of(_OP, x.device, **opts)
    shape, (m, k) = matmul.result_shape(x, weight), weight.shape
    if n == 0 or m == 0:
        return lambda x, *_, **__: x.new_empty(shape, dtype=out_dtype)
    rows, elements = operands.flatten(x), tables.ScaledGemmProblem.LOAD_ELEMENTS
    problem = tables.ScaledGemmProblem(
        n=n,
        m=m,
        k=k,
        fp8=operands.dtype_name(x.dtype),
        dtype=operands.dtype_name(out_dtype),
        scale_x="tensor" if scale_x.numel() == 1 else "token",
        scale_w="tensor" if scale_w.numel() == 1 else "row",
        bias=bias is not None,
        aligned=k % elements == 0 and operands.is_aligned(rows, elements) and operands.is_aligned(weight, elements),
    )
    decision = calls.decide(tables.WV_SPLIT_K_Q, problem, persona)
    strides = matmul.strides(rows, weight, bias)
    for name, scale in (("stride_scale_x", scale_x), ("stride_scale_w", scale_w)):
        strides[name] = scale.stride(0) if scale.numel() > 1 else 0
    launch = launches.prepare(decision, x.device, _OPERANDS, strides, () if bias is not None else ("bias",))

    def run(
        x: Tensor, weight: Tensor, out_dtype: torch.dtype, scale_x: Tensor, scale_w: Tensor, bias: Bias = None, **_: Any
    ) -> Tensor:
        y = x.new_empty(shape, dtype=out_dtype)
        launch(operands.flatten(x), weight, bias, y, scale_x, scale_w)
        return y

    return run


def _fake(
    x: Tensor, weight: Tensor, out_dtype: torch.dtype, scale_x: Tensor, scale_w: Tensor, bias: Bias = None, **_: Any
) -> Tensor:
    _check(x, weight, out_dtype, scale_x, scale_w, bias)
    return x.new_empty(matmul.result_shape(x, weight), dtype=out_dtype)


OPERATOR = register(
    "wvSplitKQ(Tensor x, Tensor weight, ScalarType out_dtype, Tensor scale_x, Tensor scale_w, Tensor? bias=None, "
    "*, int cu_count=0) -> Tensor",
    _prepare,
    _fake,
)
