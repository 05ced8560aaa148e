"""RMSNorm: of rows, of rows and a residual, and quantised to 8 bits. What each computes, and where it rounds, is in
`aiterlite.reference.norm`; a row's bits do not depend on how many rows a call has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aiterlite.dispatch import Table
from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import arguments, calls, direct, operands, quant
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from aiterlite.tables import norm as tables
from aiterlite.tables.norm import NormProblem, QuantNormProblem

_CU, _ADD_CU = "rms_norm_cu", "fused_add_rms_norm_cu"
_DTYPES = tuple(operands.DTYPES[name] for name in tables.DTYPES)
_NAMES = ("x", "weight", "residual_in", "residual_out", "out", "scales")


def rms_norm(input: Tensor, weight: Tensor, epsilon: float, use_model_sensitive_rmsnorm: int = 0) -> Tensor:
    """input / sqrt(mean of its squares + epsilon) * weight, for each row; a new tensor.

    Args:
        input: [..., K] of bfloat16 or float16, K any number; the last dimension has stride 1, rows may be strided.
        weight: [K], of input's type.
        epsilon: what is added to the mean, at float32.
        use_model_sensitive_rmsnorm: 1 rounds to input's type before weights are multiplied, as Hugging Face's models
            do; 0 rounds once.

    Source of the semantics: `aiter.rms_norm`. Not differentiable. Raises `ArgumentError`, `DispatchError` or a
    `JitError`.
    """
    result: Tensor = FORWARD(input, weight, epsilon, use_model_sensitive_rmsnorm)
    return result


def rmsnorm2d_fwd(input: Tensor, weight: Tensor, epsilon: float, use_model_sensitive_rmsnorm: int = 0) -> Tensor:
    """`rms_norm` under upstream's other name."""
    return rms_norm(input, weight, epsilon, use_model_sensitive_rmsnorm)


def rms_norm_cu(out: Tensor, input: Tensor, weight: Tensor, epsilon: float) -> None:
    """`rms_norm` into `out`, which may be `input`; its rows may be strided.

    Source of the semantics: `aiter.rms_norm_cu`. Raises as `rms_norm`.
    """
    OUT(out, input, weight, epsilon)


def rmsnorm2d_fwd_with_add(
    out: Tensor,
    input: Tensor,
    residual_in: Tensor,
    residual_out: Tensor,
    weight: Tensor,
    epsilon: float,
    gemma_norm: bool = False,
    use_model_sensitive_rmsnorm: int = 0,
) -> None:
    """residual_out becomes input + residual_in, rounded; out the `rms_norm` of that.

    Args are those of `rms_norm`, and:
        out, residual_in, residual_out: of input's shape and type, rows may be strided. `out` may be `input`, and
            `residual_out` may be `residual_in`.
        gemma_norm: weights are one more than given. (Older upstream had the flag below in this place; 0 is both.)

    Source of the semantics: `aiter.rmsnorm2d_fwd_with_add`, which takes the norm of the sum before it is rounded.
    Raises as `rms_norm`.
    """
    args = (out, input, residual_in, residual_out, weight, epsilon, bool(gemma_norm), use_model_sensitive_rmsnorm)
    direct.call(ADD, args, (out, residual_out))


def fused_add_rms_norm_cu(input: Tensor, residual_in: Tensor, weight: Tensor, epsilon: float) -> None:
    """In place: residual_in becomes input + residual_in, input the `rms_norm` of that.

    Source of the semantics: `aiter.fused_add_rms_norm_cu`. Raises as `rms_norm`.
    """
    ADD_IN_PLACE(input, residual_in, weight, epsilon)


def rmsnorm2d_fwd_with_dynamicquant(
    out: Tensor,
    input: Tensor,
    yscale: Tensor,
    weight: Tensor,
    epsilon: float,
    use_model_sensitive_rmsnorm: int = 0,
    group_size: int = 0,
    shuffle_scale: bool = False,
) -> None:
    """The `rms_norm` of rows, quantised: the bits of `rms_norm` and `dynamic_per_token_scaled_quant` (group_size 0) or
    `dynamic_per_group_scaled_quant` after it.

    Args are those of `rms_norm`, and:
        out: of input's shape, of a float8_e4m3 type or int8, contiguous.
        yscale: float32, contiguous, one for each row or group: any shape of as many elements.
        group_size: 0, or 32, 64 or 128, of which K is a multiple.
        shuffle_scale: scales of groups lie as [K / group_size, rows].

    Source of the semantics: `aiter.rmsnorm2d_fwd_with_dynamicquant`, which quantises before it rounds. Raises as
    `rms_norm`.
    """
    args = (out, input, yscale, weight, epsilon, use_model_sensitive_rmsnorm, group_size, shuffle_scale)
    direct.call(DYNAMIC, args, (out, yscale))


def rmsnorm2d_fwd_with_add_dynamicquant(
    out: Tensor,
    input: Tensor,
    residual_in: Tensor,
    residual_out: Tensor,
    yscale: Tensor,
    weight: Tensor,
    epsilon: float,
    use_model_sensitive_rmsnorm: int = 0,
    group_size: int = 0,
    shuffle_scale: bool = False,
) -> None:
    """`rmsnorm2d_fwd_with_add`, quantised as by `rmsnorm2d_fwd_with_dynamicquant`.

    Source of the semantics: `aiter.rmsnorm2d_fwd_with_add_dynamicquant`. Raises as `rms_norm`.
    """
    scaled = (yscale, weight, epsilon, use_model_sensitive_rmsnorm, group_size, shuffle_scale)
    direct.call(ADD_DYNAMIC, (out, input, residual_in, residual_out, *scaled), (out, residual_out, yscale))


# What operands must be ------------------------------------------------------------------------------------------------


def _check(op: str, input: Tensor, weight: Tensor, sensitive: int, *alike: tuple[str, Tensor]) -> None:
    """`alike` are of input's shape and type."""
    if input.dim() == 0:
        raise ArgumentError(op, "input", "of no dimension", "[..., K]")
    operands.check_dtype(op, "input", input, _DTYPES)
    operands.check_like(op, "weight", weight, input, "input")
    operands.check_shape(op, "weight", weight, [[input.shape[-1]]])
    for name, tensor in alike:
        operands.check_like(op, name, tensor, input, "input")
        operands.check_shape(op, name, tensor, [input.shape])
    operands.check_dense(op, input=input, weight=weight, **dict(alike))
    operands.check_choice(op, "use_model_sensitive_rmsnorm", sensitive, (0, 1))


def _rows(tensor: Tensor) -> Tensor:
    return operands.flatten(tensor)


def _check_codes(op: str, out: Tensor, input: Tensor, yscale: Tensor, group_size: int) -> None:
    quant.check_code(op, "out", out.dtype)
    operands.check_shape(op, "out", out, [input.shape])
    operands.check_choice(op, "group_size", group_size, (0, *tables.GROUPS))
    if group_size and input.shape[-1] % group_size:
        shape = f"of shape {list(input.shape)}"
        raise ArgumentError(op, "input", shape, f"rows of a multiple of {group_size}", "Pad the rows.")
    operands.check_dtype(op, "yscale", yscale, (torch.float32,))
    count = input.numel() // group_size if group_size else operands.rows_of(input)
    if yscale.numel() != count:
        raise ArgumentError(op, "yscale", f"of shape {list(yscale.shape)}", f"{count} elements")
    operands.check_device(op, "out", out, input, "input")
    operands.check_device(op, "yscale", yscale, input, "input")
    arguments.check_contiguous(op, out=out, yscale=yscale)


# How calls are prepared -----------------------------------------------------------------------------------------------


def _prepare(
    table: Table,
    epsilon: float,
    tensors: Sequence[Tensor | None],
    gemma: bool = False,
    sensitive: int = 0,
    group_size: int = 0,
    transposed: bool = False,
) -> Run:
    """What launches calls of these tensors, in the order of `_NAMES`; None for nothing to do."""
    rows = {n: t if t is None or n in ("weight", "scales") else _rows(t) for n, t in zip(_NAMES, tensors, strict=True)}
    x, weight, out = rows["x"], rows["weight"], rows["out"]
    assert x is not None and weight is not None and out is not None
    coded = out.dtype != x.dtype
    whole = x.shape[1] % (16 if coded else 8) == 0 and weight.data_ptr() % 16 == 0
    aligned = whole and all(
        t is None or operands.is_aligned(t, 16 // t.itemsize) for n, t in rows.items() if n not in ("weight", "scales")
    )
    problem = NormProblem(x.shape[0], x.shape[1], operands.dtype_name(x.dtype), gemma, bool(sensitive), aligned)
    if coded:
        group, code = group_size or x.shape[1], operands.dtype_name(out.dtype)
        problem = QuantNormProblem(**vars(problem), group_size=group, out_dtype=code, transposed=transposed)
    decision = calls.decide(table, problem, calls.persona_of(table.op, x.device))
    strides = {"stride_x": "x", "stride_in": "residual_in", "stride_sum": "residual_out", "stride_out": "out"}
    sizes = {field: 0 if (t := rows[name]) is None else t.stride(0) for field, name in strides.items()}
    absent = [name for name, tensor in rows.items() if tensor is None]
    return launches.prepare(decision, x.device, _NAMES, {**sizes, "epsilon": epsilon}, absent)


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _fake_forward(input: Tensor, weight: Tensor, epsilon: float, use_model_sensitive_rmsnorm: int = 0) -> Tensor:
    _check(tables.PLAIN, input, weight, use_model_sensitive_rmsnorm)
    return input.new_empty(input.shape)


def _prepare_forward(input: Tensor, weight: Tensor, epsilon: float, use_model_sensitive_rmsnorm: int = 0) -> Run:
    out = _fake_forward(input, weight, epsilon, use_model_sensitive_rmsnorm)
    launch = None
    if input.numel():
        tensors = (input, weight, None, None, out, None)
        launch = _prepare(tables.PLAIN_TABLE, epsilon, tensors, sensitive=use_model_sensitive_rmsnorm)

    def run(input: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
        out = input.new_empty(input.shape)
        if launch is not None:
            launch(_rows(input), weight, None, None, out, None)
        return out

    return run


def _fake_out(out: Tensor, input: Tensor, weight: Tensor, epsilon: float) -> None:
    _check(_CU, input, weight, 0, ("out", out))
    arguments.check_written(_CU, "out", out)


def _prepare_out(out: Tensor, input: Tensor, weight: Tensor, epsilon: float) -> Run:
    _fake_out(out, input, weight, epsilon)
    if not input.numel():
        return _nothing
    launch = _prepare(tables.PLAIN_TABLE, epsilon, (input, weight, None, None, out, None))

    def run(out: Tensor, input: Tensor, weight: Tensor, *_: Any, **__: Any) -> None:
        launch(_rows(input), weight, None, None, out, None)

    return run


def _fake_add(
    out: Tensor,
    input: Tensor,
    residual_in: Tensor,
    residual_out: Tensor,
    weight: Tensor,
    epsilon: float,
    gemma_norm: bool = False,
    use_model_sensitive_rmsnorm: int = 0,
) -> None:
    alike = (("out", out), ("residual_in", residual_in), ("residual_out", residual_out))
    _check(tables.WITH_ADD, input, weight, use_model_sensitive_rmsnorm, *alike)
    arguments.check_written(tables.WITH_ADD, "out", out)
    arguments.check_written(tables.WITH_ADD, "residual_out", residual_out)


def _prepare_add(
    out: Tensor,
    input: Tensor,
    residual_in: Tensor,
    residual_out: Tensor,
    weight: Tensor,
    epsilon: float,
    gemma_norm: bool = False,
    use_model_sensitive_rmsnorm: int = 0,
) -> Run:
    tensors = (input, weight, residual_in, residual_out, out, None)
    _fake_add(out, input, residual_in, residual_out, weight, epsilon, gemma_norm, use_model_sensitive_rmsnorm)
    if not input.numel():
        return _nothing
    launch = _prepare(tables.ADD_TABLE, epsilon, tensors, gemma_norm, use_model_sensitive_rmsnorm)

    def run(
        out: Tensor, input: Tensor, residual_in: Tensor, residual_out: Tensor, weight: Tensor, *_: Any, **__: Any
    ) -> None:
        launch(_rows(input), weight, _rows(residual_in), residual_out, out, None)

    return run


def _fake_in_place(input: Tensor, residual_in: Tensor, weight: Tensor, epsilon: float) -> None:
    _check(_ADD_CU, input, weight, 0, ("residual_in", residual_in))
    arguments.check_written(_ADD_CU, "input", input)
    arguments.check_written(_ADD_CU, "residual_in", residual_in)


def _prepare_in_place(input: Tensor, residual_in: Tensor, weight: Tensor, epsilon: float) -> Run:
    _fake_in_place(input, residual_in, weight, epsilon)
    if not input.numel():
        return _nothing
    launch = _prepare(tables.ADD_TABLE, epsilon, (input, weight, residual_in, residual_in, input, None))

    def run(input: Tensor, residual_in: Tensor, weight: Tensor, *_: Any, **__: Any) -> None:
        launch(input, weight, residual_in, residual_in, input, None)

    return run


def _fake_dynamic(
    out: Tensor,
    input: Tensor,
    yscale: Tensor,
    weight: Tensor,
    epsilon: float,
    use_model_sensitive_rmsnorm: int = 0,
    group_size: int = 0,
    shuffle_scale: bool = False,
) -> None:
    _check(tables.DYNAMIC, input, weight, use_model_sensitive_rmsnorm)
    _check_codes(tables.DYNAMIC, out, input, yscale, group_size)


def _prepare_dynamic(
    out: Tensor,
    input: Tensor,
    yscale: Tensor,
    weight: Tensor,
    epsilon: float,
    use_model_sensitive_rmsnorm: int = 0,
    group_size: int = 0,
    shuffle_scale: bool = False,
) -> Run:
    sensitive = use_model_sensitive_rmsnorm
    _fake_dynamic(out, input, yscale, weight, epsilon, sensitive, group_size, shuffle_scale)
    if not input.numel():
        return _nothing
    tensors = (input, weight, None, None, out, yscale)
    launch = _prepare(tables.DYNAMIC_TABLE, epsilon, tensors, False, sensitive, group_size, shuffle_scale)

    def run(out: Tensor, input: Tensor, yscale: Tensor, weight: Tensor, *_: Any, **__: Any) -> None:
        launch(_rows(input), weight, None, None, out, yscale)

    return run


def _fake_add_dynamic(
    out: Tensor,
    input: Tensor,
    residual_in: Tensor,
    residual_out: Tensor,
    yscale: Tensor,
    weight: Tensor,
    epsilon: float,
    use_model_sensitive_rmsnorm: int = 0,
    group_size: int = 0,
    shuffle_scale: bool = False,
) -> None:
    alike = (("residual_in", residual_in), ("residual_out", residual_out))
    _check(tables.ADD_DYNAMIC, input, weight, use_model_sensitive_rmsnorm, *alike)
    arguments.check_written(tables.ADD_DYNAMIC, "residual_out", residual_out)
    _check_codes(tables.ADD_DYNAMIC, out, input, yscale, group_size)


def _prepare_add_dynamic(
    out: Tensor,
    input: Tensor,
    residual_in: Tensor,
    residual_out: Tensor,
    yscale: Tensor,
    weight: Tensor,
    epsilon: float,
    use_model_sensitive_rmsnorm: int = 0,
    group_size: int = 0,
    shuffle_scale: bool = False,
) -> Run:
    how = use_model_sensitive_rmsnorm, group_size, shuffle_scale
    _fake_add_dynamic(out, input, residual_in, residual_out, yscale, weight, epsilon, *how)
    if not input.numel():
        return _nothing
    tensors = (input, weight, residual_in, residual_out, out, yscale)
    launch = _prepare(tables.ADD_DYNAMIC_TABLE, epsilon, tensors, False, *how)

    def run(
        out: Tensor,
        input: Tensor,
        residual_in: Tensor,
        residual_out: Tensor,
        yscale: Tensor,
        weight: Tensor,
        *_: Any,
        **__: Any,
    ) -> None:
        launch(_rows(input), weight, _rows(residual_in), residual_out, out, yscale)

    return run


_SENSITIVE = "int use_model_sensitive_rmsnorm=0"
_DYNAMIC_END = f"Tensor weight, float epsilon, {_SENSITIVE}, int group_size=0, bool shuffle_scale=False) -> ()"
_RESIDUAL = "Tensor input, Tensor residual_in, Tensor(b!) residual_out"
FORWARD = register(
    f"{tables.PLAIN}(Tensor input, Tensor weight, float epsilon, {_SENSITIVE}) -> Tensor",
    _prepare_forward,
    _fake_forward,
)
OUT = register(
    f"{tables.PLAIN}.out(Tensor(a!) out, Tensor input, Tensor weight, float epsilon) -> ()", _prepare_out, _fake_out
)
ADD = register(
    f"{tables.WITH_ADD}(Tensor(a!) out, {_RESIDUAL}, Tensor weight, float epsilon, bool gemma_norm=False, {_SENSITIVE})"
    " -> ()",
    _prepare_add,
    _fake_add,
)
ADD_IN_PLACE = register(
    f"{tables.WITH_ADD}.in_place(Tensor(a!) input, Tensor(b!) residual_in, Tensor weight, float epsilon) -> ()",
    _prepare_in_place,
    _fake_in_place,
)
DYNAMIC = register(
    f"{tables.DYNAMIC}(Tensor(a!) out, Tensor input, Tensor(b!) yscale, {_DYNAMIC_END}", _prepare_dynamic, _fake_dynamic
)
ADD_DYNAMIC = register(
    f"{tables.ADD_DYNAMIC}(Tensor(a!) out, {_RESIDUAL}, Tensor(c!) yscale, {_DYNAMIC_END}",
    _prepare_add_dynamic,
    _fake_add_dynamic,
)
