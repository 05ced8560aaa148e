"""`batched_gemm_bf16`: products that lie beside each other, such as those of MLA's heads.

Names of arguments are upstream's: there M is tokens and N features. The same call gives the same bits.
"""

# ruff: noqa: N803 (names of arguments are upstream's)
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite.launch import calls as launches
from aiterlite.launch import results
from aiterlite.ops import arguments, calls, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from aiterlite.tables import gemm
from aiterlite.tables.batched_gemm import BATCHED_GEMM, OP, BatchedGemmProblem

DTYPES = tuple(operands.DTYPES[name] for name in gemm.DTYPES)
_NAMES = ("x", "weight", "bias", "y")


def batched_gemm_bf16(
    XQ: Tensor,
    WQ: Tensor,
    bias: Tensor | None = None,
    dtype: torch.dtype | None = torch.bfloat16,
    splitK: int | None = None,
    YQ: Tensor | None = None,
    config: object = None,
) -> Tensor:
    """B products XQ · WQ^T + bias, summed at float32 and rounded once.

    Args:
        XQ: [B, M, K] of `dtype`; the last dimension has stride 1, the others any: heads may lie inside tokens.
        WQ: [B, N, K] of `dtype` on XQ's device; the last dimension has stride 1.
        bias: [B, 1, N] of `dtype`, or None.
        dtype: torch.bfloat16 or torch.float16, the operands' too; None is XQ's.
        splitK, config: not used; how K is cut is planned.
        YQ: the result's memory, where it is given: [B, M, N] of `dtype`, the last dimension of stride 1, no row over
            another or over the operands, which is not checked.

    Returns [B, M, N], YQ where that is given. Up to 16 tokens are one launch of wvSplitK's kernel; on GPUs torch
    serves more.
    Not differentiable.

    Source of the semantics: aiter's Triton operator of this name. Raises `ArgumentError`, `DispatchError` (with the
    reasons) or a `JitError`.
    """
    arguments.check_tensors(OP, XQ=XQ, WQ=WQ)
    kind = XQ.dtype if dtype is None else dtype
    operands.check_choice(OP, "dtype", kind, DTYPES)
    operands.check_dtype(OP, "XQ", XQ, (kind,), "the dtype that is asked for")
    if YQ is None:
        result: Tensor = OPERATOR(XQ, WQ, bias)
        return result
    OPERATOR_OUT(YQ, XQ, WQ, bias)
    return YQ


def batched_gemm_bf16_CK(  # noqa: N802 (upstream's name)
    XQ: Tensor,
    WQ: Tensor,
    bias: Tensor | None = None,
    dtype: torch.dtype | None = torch.bfloat16,
    splitK: int | None = None,
) -> Tensor:
    """`batched_gemm_bf16` under the name and with the arguments of aiter's other operator."""
    return batched_gemm_bf16(XQ, WQ, bias, dtype, splitK)


def _check(x: Tensor, w: Tensor, bias: Tensor | None) -> tuple[int, int, int]:
    """The shape of the result."""
    operands.check_dims(OP, "XQ", x, 3, "[B, M, K]")
    operands.check_dtype(OP, "XQ", x, DTYPES)
    batch, n, k = x.shape
    m = w.shape[1] if w.dim() == 3 else 0
    operands.check_shape(OP, "WQ", w, ([batch, m, k],), f"[{batch}, N, {k}], since XQ is {list(x.shape)}")
    operands.check_like(OP, "WQ", w, x, "XQ")
    if bias is not None:
        operands.check_shape(OP, "bias", bias, ([batch, 1, m],))
        operands.check_like(OP, "bias", bias, x, "XQ")
    return batch, n, m


def _check_result(y: Tensor, x: Tensor, shape: tuple[int, int, int]) -> None:
    operands.check_shape(OP, "YQ", y, (shape,))
    operands.check_like(OP, "YQ", y, x, "XQ")
    operands.check_dense(OP, YQ=y)
    arguments.check_apart(OP, "YQ", y)


def _product(y: Tensor, x: Tensor, w: Tensor, bias: Tensor | None) -> Callable[..., Any]:
    """What launches calls of such operands: it takes y, x, w and bias."""
    operands.check_dense(OP, XQ=x, WQ=w, bias=bias)
    batch, n, k = x.shape
    m = w.shape[1]
    if 0 in (batch, n, m):
        return lambda *_: None
    if k == 0:
        return lambda y, _x, _w, bias: y.zero_() if bias is None else y.copy_(bias.expand(y.shape))
    aligned = k % 8 == 0 and operands.is_aligned(x, 8) and operands.is_aligned(w, 8)
    problem = BatchedGemmProblem(n, m, k, batch, operands.dtype_name(x.dtype), bias is not None, aligned)
    decision = calls.decide(BATCHED_GEMM, problem, calls.persona_of(OP, x.device))
    if not decision.kernels:
        return _by_torch
    strides = {"stride_bias": 0, "stride_bias_batch": 0 if bias is None else bias.stride(0)}
    for name, tensor in (("x", x), ("w", w), ("y", y)):
        strides |= {f"stride_{name}": tensor.stride(1), f"stride_{name}_batch": tensor.stride(0)}
    launch = launches.prepare(decision, x.device, _NAMES, strides, () if bias is not None else ("bias",))
    return lambda y, x, w, bias: launch(x, w, bias, y)


def _by_torch(y: Tensor, x: Tensor, w: Tensor, bias: Tensor | None) -> None:
    if bias is None:
        torch.bmm(x, w.mT, out=y)
    else:
        torch.baddbmm(bias, x, w.mT, out=y)


def _fake(XQ: Tensor, WQ: Tensor, bias: Tensor | None = None) -> Tensor:
    return XQ.new_empty(_check(XQ, WQ, bias))


def _prepare(XQ: Tensor, WQ: Tensor, bias: Tensor | None = None) -> Run:
    y = _fake(XQ, WQ, bias)
    product = _product(y, XQ, WQ, bias)
    empty = results.allocator(y.shape, XQ.dtype, XQ.device)

    def run(XQ: Tensor, WQ: Tensor, bias: Tensor | None = None, **_: Any) -> Tensor:
        y = empty(XQ)
        product(y, XQ, WQ, bias)
        return y

    return run


def _fake_out(YQ: Tensor, XQ: Tensor, WQ: Tensor, bias: Tensor | None = None) -> None:
    _check_result(YQ, XQ, _check(XQ, WQ, bias))


def _prepare_out(YQ: Tensor, XQ: Tensor, WQ: Tensor, bias: Tensor | None = None) -> Run:
    _fake_out(YQ, XQ, WQ, bias)
    product = _product(YQ, XQ, WQ, bias)

    def run(YQ: Tensor, XQ: Tensor, WQ: Tensor, bias: Tensor | None = None, **_: Any) -> None:
        product(YQ, XQ, WQ, bias)

    return run


OPERATOR = register(f"{OP}(Tensor XQ, Tensor WQ, Tensor? bias=None) -> Tensor", _prepare, _fake)
OPERATOR_OUT = register(
    f"{OP}.out(Tensor(a!) YQ, Tensor XQ, Tensor WQ, Tensor? bias=None) -> ()", _prepare_out, _fake_out
)
