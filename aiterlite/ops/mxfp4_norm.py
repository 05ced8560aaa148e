"""RMSNorm with results of MXFP4, a residual added before or not: the bits of `rms_norm`, or of
`rmsnorm2d_fwd_with_add`, and of a quantiser after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import arguments, calls, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.direct import call
from aiterlite.ops.mxfp4 import check_input, check_results, lying, mode_of
from aiterlite.ops.mxfp4_factory import scales_in_place
from aiterlite.ops.norm import rms_norm
from aiterlite.ops.operator import register
from aiterlite.tables import mxfp4_norm as tables
from aiterlite.tables.mx_types import BLOCK, MxScaleRoundMode, rule
from aiterlite.tables.mxfp4_norm import MxNormProblem

Quantised = tuple[Tensor, Tensor]
_NAMES = ("x", "weight", "residual_in", "residual_out", "plain", "out", "scales")


def fused_rms_mxfp4_quant(
    x1: Tensor,
    x1_weight: Tensor,
    x1_epsilon: float,
    x2: Tensor | None = None,
    x2_weight: Tensor | None = None,
    x2_epsilon: float = 0.0,
    res1: Tensor | None = None,
    shuffle: bool | None = False,
    scale_shuffle_padding: bool | None = False,
    output_unquantized_inp1: bool = False,
    inargs: str = "auto",
) -> tuple[Quantised, Tensor | None, Tensor | None, Tensor | None]:
    """((codes, scales), norm of x1, norm of x2, x1 + res1): the RMSNorm of x1, or of the rounded x1 + res1, as MXFP4 by
    the mode Even.

    Args:
        x1: [M, K] of bfloat16 or float16, K a multiple of 32; the last dimension has stride 1, rows may be strided.
        x1_weight, x1_epsilon: see `rms_norm`.
        x2: [M, K2] of x1's type, whose norm is not quantised; a call of its own on the device. None: its result is.
        res1: of x1's shape and type; None: the last result is.
        shuffle: scales as `shuffle_scale` makes them.
        scale_shuffle_padding: scales in a tensor of that shape, in order, zeros behind them.
        output_unquantized_inp1: whether the norm of x1 is a result, too; else that is None.
        inargs: auto, gluon or triton, upstream's choices of kernels; not read.

    Codes are uint8 [M, K / 2], scales uint8 [M, K / 32]. Source of the semantics:
    `aiter.ops.triton.quant.fused_mxfp4_quant.fused_rms_mxfp4_quant`, which quantises before it rounds. Older upstream
    returns fewer values. Not differentiable. Raises `ArgumentError`, `DispatchError` or a `JitError`.
    """
    op = tables.RMS_QUANT
    arguments.check_tensors(op, x1=x1, x1_weight=x1_weight)
    operands.check_choice(op, "inargs", inargs, ("auto", "gluon", "triton"))
    operands.check_dims(op, "x1", x1, 2, "[M, K]")
    check_input(op, "x1", x1)
    if (x2 is None) != (x2_weight is None):
        raise ArgumentError(op, "x2_weight", "a tensor" if x2 is None else "None", "as x2 is, a tensor or None")
    codes = torch.empty((x1.shape[0], x1.shape[1] // 2), dtype=torch.uint8, device=x1.device)
    scales, written = scales_in_place(x1, x1.shape[1], shuffle, scale_shuffle_padding)
    plain = x1.new_empty(x1.shape) if output_unquantized_inp1 else None
    total = x1.new_empty(x1.shape) if res1 is not None else None
    mode = int(MxScaleRoundMode.Even)
    call(QUANT, (x1, x1_weight, x1_epsilon, res1, total, plain, codes, written, mode, bool(shuffle)), (codes, scales))
    out2 = None if x2 is None or x2_weight is None else rms_norm(x2, x2_weight, x2_epsilon)
    return (codes, scales), plain, out2, total


def _fake(
    x1: Tensor,
    x1_weight: Tensor,
    epsilon: float,
    res1: Tensor | None,
    sum: Tensor | None,
    plain: Tensor | None,
    out_packed: Tensor,
    out_scale: Tensor,
    round_mode: int,
    shuffle: bool,
) -> None:
    op = tables.RMS_QUANT
    check_input(op, "x1", x1)
    operands.check_like(op, "x1_weight", x1_weight, x1, "x1")
    operands.check_shape(op, "x1_weight", x1_weight, [[x1.shape[-1]]])
    operands.check_dense(op, x1_weight=x1_weight)
    if (res1 is None) != (sum is None):
        raise ArgumentError(op, "sum", "a tensor" if res1 is None else "None", "as res1 is, a tensor or None")
    for name, tensor in (("res1", res1), ("sum", sum), ("plain", plain)):
        if tensor is None:
            continue
        operands.check_like(op, name, tensor, x1, "x1")
        operands.check_shape(op, name, tensor, [x1.shape])
        operands.check_dense(op, **{name: tensor})
        if name != "res1":
            arguments.check_written(op, name, tensor)
    mode_of(op, round_mode)
    check_results(op, x1, out_packed, out_scale, operands.rows_of(x1), x1.shape[-1], shuffle)


def _rows(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else operands.flatten(tensor)


def _nothing(*args: Any) -> None:
    """Of no rows, or rows of no elements: shuffled scales, which may be padding, are zero."""
    scale, shuffle = args[7], args[9]
    if shuffle:
        scale.zero_()


def _prepare(
    x1: Tensor,
    x1_weight: Tensor,
    epsilon: float,
    res1: Tensor | None,
    sum: Tensor | None,
    plain: Tensor | None,
    out_packed: Tensor,
    out_scale: Tensor,
    round_mode: int,
    shuffle: bool,
) -> Run:
    _fake(x1, x1_weight, epsilon, res1, sum, plain, out_packed, out_scale, round_mode, shuffle)
    if not x1.numel():
        return _nothing
    x, given = operands.flatten(x1), [_rows(tensor) for tensor in (res1, sum, plain)]
    layout, scale_rows, (stride_row, stride_block) = lying(tables.RMS_QUANT, out_scale, x.shape[1] // BLOCK, shuffle)
    whole = (x1_weight.data_ptr() | out_packed.data_ptr()) % 16 == 0
    problem = MxNormProblem(
        row_count=x.shape[0],
        row_width=x.shape[1],
        dtype=operands.dtype_name(x.dtype),
        layout=layout,
        scale_rows=scale_rows,
        add=res1 is not None,
        plain=plain is not None,
        aligned=whole and all(t is None or operands.is_aligned(t, 8) for t in (x, *given)),
    )
    decision = calls.decide(tables.RMS_QUANT_TABLE, problem, calls.persona_of(tables.RMS_QUANT, x.device))
    strides = zip(("stride_in", "stride_sum", "stride_plain"), given, strict=True)
    sizes: dict[str, float | int] = {
        "epsilon": epsilon,
        "stride_x": x.stride(0),
        "stride_row": stride_row,
        "stride_block": stride_block,
        **{name: 0 if tensor is None else tensor.stride(0) for name, tensor in strides},
        **rule(round_mode),
    }
    absent = [name for name, tensor in zip(_NAMES[2:5], given, strict=True) if tensor is None]
    launch = launches.prepare(decision, x.device, _NAMES, sizes, absent)

    def run(x1: Tensor, weight: Tensor, epsilon: float, *rest: Any) -> None:
        res1, sum, plain, out, scale = rest[:5]
        launch(operands.flatten(x1), weight, _rows(res1), _rows(sum), _rows(plain), out, scale)

    return run


QUANT = register(
    f"{tables.RMS_QUANT}(Tensor x1, Tensor x1_weight, float epsilon, Tensor? res1, Tensor(a!)? sum, Tensor(b!)? plain, "
    "Tensor(c!) out_packed, Tensor(d!) out_scale, int round_mode, bool shuffle) -> ()",
    _prepare,
    _fake,
)
