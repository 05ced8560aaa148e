"""The toy family's operator."""

from __future__ import annotations

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import calls, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from toy_family.tables import TABLE, RowsProblem, derive

_OPERANDS = ("x", "total", "index", "peak")


def toy_rows(x: Tensor, peak: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of x[batch, heads, width] its sum (float32) and where its first largest element is (int32); `peak`
    [batch, heads] becomes that element and half of itself. So a call that is made twice on the same tensors shows."""
    total, index = OPERATOR(x, peak)
    return total, index


def _check(x: Tensor, peak: Tensor) -> None:
    operands.check_dims(TABLE.op, "x", x, 3, "[batch, heads, width]")
    operands.check_dtype(TABLE.op, "x", x, (torch.float32,))
    operands.check_like(TABLE.op, "peak", peak, x)
    operands.check_shape(TABLE.op, "peak", peak, [x.shape[:2]])


def _prepare(x: Tensor, peak: Tensor) -> Run:
    _check(x, peak)
    operands.check_dense(TABLE.op, x=x)
    if not peak.is_contiguous():
        raise ArgumentError(TABLE.op, "peak", f"of strides {list(peak.stride())}", "contiguous")
    batch, heads, width = x.shape
    if batch * heads == 0:
        return lambda x, peak: _fake(x, peak)
    problem = RowsProblem(**derive({"batch": batch, "heads": heads, "width": width}))
    decision = calls.decide(TABLE, problem, calls.persona_of(TABLE.op, x.device))
    sizes = {"batch": batch, "heads": heads, "width": width, "stride_batch": x.stride(0), "stride_head": x.stride(1)}
    launch = launches.prepare(decision, x.device, _OPERANDS, sizes)

    def run(x: Tensor, peak: Tensor) -> tuple[Tensor, Tensor]:
        total, index = _fake(x, peak)
        launch(x, total, index, peak)
        return total, index

    return run


def _fake(x: Tensor, peak: Tensor) -> tuple[Tensor, Tensor]:
    _check(x, peak)
    return x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2], dtype=torch.int32)


OPERATOR = register("toy_rows(Tensor x, Tensor(a!) peak) -> (Tensor, Tensor)", _prepare, _fake)
