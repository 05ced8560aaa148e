"""The sum over a token's slots, of what its experts made of it: `moe_sum`."""

from __future__ import annotations

from torch import Tensor

from aiterlite.launch import calls as launches
from aiterlite.ops import arguments, calls, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from aiterlite.tables import moe_sorting as tables

__all__ = ["moe_sum"]

_SUM = tables.SUM_OP


def moe_sum(input: Tensor, output: Tensor) -> None:
    """output[M, D] becomes the sum of input[M, topk, D] over topk: in float32, slot by slot, rounded once. Both are
    bfloat16, float16 or float32, and their last dimension is dense.

    Source of the semantics: `aiter.moe_sum`. Raises `ArgumentError`, `DispatchError` or a `JitError`.
    """
    SUM(input, output)


def _check_sum(input: Tensor, output: Tensor) -> None:
    operands.check_dims(_SUM, "input", input, 3, "[tokens, topk, width]")
    operands.check_dtype(_SUM, "input", input, tuple(operands.DTYPES.values()))
    operands.check_like(_SUM, "output", output, input, "input")
    operands.check_shape(_SUM, "output", output, [[input.shape[0], input.shape[2]]])
    operands.check_dense(_SUM, input=input, output=output)
    arguments.check_apart(_SUM, "output", output)


def _prepare_sum(input: Tensor, output: Tensor) -> Run:
    _check_sum(input, output)
    tokens, topk, width = input.shape
    if tokens * width == 0:
        return lambda input, output: None
    each = 16 // input.itemsize
    steps = [width, *[stride for tensor in (input, output) for stride in tensor.stride()[:-1]]]
    vectors = not any(step % each for step in steps) and not (input.data_ptr() | output.data_ptr()) % 16
    problem = tables.SumProblem(tokens, topk, width, operands.dtype_name(input.dtype), vectors)
    decision = calls.decide(tables.SUM_TABLE, problem, calls.persona_of(_SUM, input.device))
    sizes = {
        "tokens": tokens, "topk": topk, "width": width,
        "stride_token": input.stride(0), "stride_slot": input.stride(1), "stride_out": output.stride(0),
    }  # fmt: skip
    absent = [] if topk else ["input"]
    launch = launches.prepare(decision, input.device, ("input", "output"), sizes, absent)

    def run(input: Tensor, output: Tensor) -> None:
        launch(input, output)

    return run


SUM = register(f"{_SUM}(Tensor input, Tensor(a!) output) -> ()", _prepare_sum, _check_sum)
