"""`router_gemm`: logits, of routing or of words, which stay float32."""

from __future__ import annotations

import torch
from torch import Tensor

from aiterlite.ops import matmul
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from aiterlite.tables.router_gemm import OP, ROUTER_GEMM


def router_gemm(x: Tensor, weight: Tensor) -> Tensor:
    """y = x · weight^T at float32, for 1 to 16 rows of x: `wvSplitK` without the rounding of its result.

    Args:
        x: [..., K] bfloat16 or float16; the last dimension has stride 1, rows may be strided.
        weight: [M, K] of x's dtype and device; the last dimension has stride 1, rows may be strided.

    Returns [..., M] float32. Logits of 16 bits would tie, and choose other experts
    than the model does. The same call gives the same bits. Not differentiable.

    Source of the semantics: `dsv3_router_gemm` of SGLang and vLLM with out_dtype float32, which takes 256 experts of
    7168. Raises `ArgumentError`, `DispatchError` (with the reasons) or a `JitError`.
    """
    result: Tensor = OPERATOR(x, weight)
    return result


def _prepare(x: Tensor, weight: Tensor) -> Run:
    return matmul.prepare(ROUTER_GEMM, x, weight, dtype=torch.float32)


def _fake(x: Tensor, weight: Tensor) -> Tensor:
    made = matmul.fake(OP, x, weight)
    return made.new_empty(made.shape, dtype=torch.float32)


OPERATOR = register("router_gemm(Tensor x, Tensor weight) -> Tensor", _prepare, _fake)
