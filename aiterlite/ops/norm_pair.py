"""RMSNorm of two tensors in one launch: q's and k's latents, or a hidden state and what goes beside it. What each
computes, and where it rounds, is in `aiterlite.reference.norm`; the bits are those of calls of `aiterlite.ops.norm`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import arguments, calls, direct, operands, quant
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from aiterlite.tables import norm_pair as tables
from aiterlite.tables.norm import DTYPES, GROUPS
from aiterlite.tables.norm_pair import PairNormProblem
from aiterlite.tables.quant_types import QuantType

_OP = tables.PAIR
_DTYPES = tuple(operands.DTYPES[name] for name in DTYPES)
_OPERANDS = (
    *("x", "weight", "residual_in", "residual_out", "out", "codes", "scales"),
    *("second_x", "second_weight", "second_out"),
)
_GROUPED = (QuantType.per_1x128, QuantType.per_128x128, QuantType.per_256x128, QuantType.per_1024x128)


def _fused_qk_rmsnorm(
    q_out: Tensor | None,
    q: Tensor,
    q_weight: Tensor,
    q_eps: float,
    k_out: Tensor | None,
    k: Tensor,
    k_weight: Tensor,
    k_eps: float,
) -> tuple[Tensor, Tensor]:
    """(q_out, k_out): the `rms_norm` of q and of k, new tensors where None is given.

    Args:
        q, k: [tokens, K] of bfloat16 or float16, any K each; rows may be strided, as columns of one projection are.
        q_weight, k_weight: [K], of that type.
        q_out, k_out: of the shapes of q and k, rows may be strided.

    Source of the semantics: `aiter.ops.fused_qk_norm_rope_cache_quant._fused_qk_rmsnorm`. Not differentiable. Raises
    `ArgumentError`, `DispatchError` or a `JitError`.
    """
    q_out = q.new_empty(q.shape) if q_out is None else q_out
    k_out = k.new_empty(k.shape) if k_out is None else k_out
    _call(q, q_weight, q_eps, None, None, q_out, None, None, k, k_weight, k_eps, k_out)
    return q_out, k_out


def fused_qk_rmsnorm_group_quant(
    q_out_quantized: Tensor | None = None,
    q_out_scale: Tensor | None = None,
    q: Tensor | None = None,
    q_weight: Tensor | None = None,
    q_epsilon: float = 1e-6,
    q_out_unquantized: Tensor | None = None,
    k_out: Tensor | None = None,
    q_res_out: Tensor | None = None,
    k: Tensor | None = None,
    k_weight: Tensor | None = None,
    k_epsilon: float | None = None,
    q_residual: Tensor | None = None,
    group_size: int = 128,
    transpose_scale: bool = False,
    gemma_norm: bool = False,
) -> None:
    """The `rms_norm` of q, added to a residual first where there is one, quantised by groups, written, or both; and,
    where k is given, that of k.

    Args are those of `_fused_qk_rmsnorm`, and:
        q_out_quantized: of q's shape, contiguous, of a float8_e4m3 type or int8.
        q_out_scale: float32, [tokens, K / group_size], contiguous. None: nothing is quantised.
        q_out_unquantized: of q's shape and type: what is quantised.
        q_residual, q_res_out: of q's shape and type; the second becomes their sum, whose norm is taken.
        group_size: 32, 64 or 128, of which q's K is a multiple, or K.
        transpose_scale: scales lie as [K / group_size, tokens]; q_out_scale may also say so, by strides (1, tokens).
        gemma_norm: weights are one more than given, of q and of k.

    Source of the semantics: `aiter.fused_qk_rmsnorm_group_quant`, which quantises before it rounds. Raises as
    `_fused_qk_rmsnorm`.
    """
    op = "fused_qk_rmsnorm_group_quant"
    arguments.check_tensors(op, q=q, q_weight=q_weight)
    if q_out_scale is None:
        q_out_quantized, group_size, transpose_scale = None, 0, False
    elif group_size < 1:
        raise ArgumentError(op, "group_size", group_size, f"{', '.join(map(str, GROUPS))}, or q's K")
    results = q_out_quantized, q_out_scale, q_out_unquantized, q_residual, q_res_out
    _call(q, q_weight, q_epsilon, *results, k, k_weight, k_epsilon, k_out, group_size, transpose_scale, gemma_norm)


def fused_qk_rmsnorm_per_token_quant(
    q_out_quantized: Tensor,
    q_out_scale: Tensor,
    q: Tensor,
    q_weight: Tensor,
    q_epsilon: float,
    q_out_unquantized: Tensor | None = None,
    k_out: Tensor | None = None,
    q_res_out: Tensor | None = None,
    k: Tensor | None = None,
    k_weight: Tensor | None = None,
    k_epsilon: float | None = None,
    q_residual: Tensor | None = None,
    gemma_norm: bool = False,
) -> None:
    """`fused_qk_rmsnorm_group_quant` with a scale a row: q_out_scale is [tokens, 1].

    Source of the semantics: `aiter.fused_qk_rmsnorm_per_token_quant`.
    """
    arguments.check_tensors("fused_qk_rmsnorm_per_token_quant", q=q, q_weight=q_weight, q_out_scale=q_out_scale)
    results = q_out_quantized, q_out_scale, q_out_unquantized, q_residual, q_res_out
    _call(q, q_weight, q_epsilon, *results, k, k_weight, k_epsilon, k_out, q.shape[-1], False, gemma_norm)


def fused_qk_rmsnorm(
    q_out_quantized: Tensor | None = None,
    q_out_scale: Tensor | None = None,
    q: Tensor | None = None,
    q_weight: Tensor | None = None,
    q_epsilon: float = 1e-6,
    q_out_unquantized: Tensor | None = None,
    k_out: Tensor | None = None,
    q_res_out: Tensor | None = None,
    k: Tensor | None = None,
    k_weight: Tensor | None = None,
    k_epsilon: float | None = None,
    q_residual: Tensor | None = None,
    gemma_norm: bool = False,
    quant_type: QuantType | int | None = QuantType.No,
    group_size: int | None = None,
    transpose_scale: bool = False,
) -> None:
    """By `quant_type`: `No` writes the norm of q to q_out_quantized, of its type, and that of k, with no residual;
    `per_Token` is `fused_qk_rmsnorm_per_token_quant`, and others `fused_qk_rmsnorm_group_quant`, of 128 unless
    `group_size` says otherwise.

    Source of the semantics: `aiter.fused_qk_rmsnorm`.
    """
    op, kind = _OP, QuantType(quant_type) if quant_type is not None else None
    arguments.check_tensors(op, q=q, q_weight=q_weight)
    if kind in (QuantType.No, QuantType.per_Token):
        arguments.check_tensors(op, q_out_quantized=q_out_quantized)
    assert q is not None and q_weight is not None
    if kind is QuantType.No:
        arguments.check_tensors(op, k=k, k_weight=k_weight, k_out=k_out)
        _call(q, q_weight, q_epsilon, None, None, q_out_quantized, None, None, k, k_weight, k_epsilon, k_out)
        return
    if kind is QuantType.per_Token:
        arguments.check_tensors(op, q_out_scale=q_out_scale)
        group_size, transpose_scale = q.shape[-1], False
    elif group_size is None:
        if kind not in (*_GROUPED, QuantType.per_1x32):
            allowed = ", ".join(k.name for k in (QuantType.No, QuantType.per_Token, QuantType.per_1x32, *_GROUPED))
            raise ArgumentError(op, "quant_type", None if kind is None else kind.name, allowed)
        group_size = 32 if kind is QuantType.per_1x32 else 128
    outputs = q_out_unquantized, k_out, q_res_out, k, k_weight, k_epsilon, q_residual
    rest = group_size, transpose_scale, gemma_norm
    fused_qk_rmsnorm_group_quant(q_out_quantized, q_out_scale, q, q_weight, q_epsilon, *outputs, *rest)


def fused_rms_fp8_group_quant(
    inp1: Tensor,
    inp1_weight: Tensor,
    inp1_epsilon: float,
    inp2: Tensor | None = None,
    inp2_weight: Tensor | None = None,
    inp2_epsilon: float | None = None,
    group_size: int = 128,
    dtype_quant: torch.dtype | None = None,
    res1: Tensor | None = None,
    output_unquantized_inp1: bool = False,
    transpose_scale: bool = False,
    is_x_scale_strided: bool = False,
) -> tuple[tuple[Tensor, Tensor], Tensor | None, Tensor | None, Tensor | None]:
    """((codes, scales), norm of inp1, norm of inp2, inp1 + res1), None for what is not asked for, all new tensors: the
    `rms_norm` of inp1, or of inp1 + res1, quantised by groups, and that of inp2.

    Args are those of `fused_qk_rmsnorm_group_quant` under other names, and:
        dtype_quant: a float8_e4m3 type or int8; None is the e4m3 type of inp1's device.
        output_unquantized_inp1: what is quantised is returned, too.
        transpose_scale: scales lie as [K / group_size, tokens]; they report [tokens, K / group_size] and row-major
            strides, or, with is_x_scale_strided, strides (1, tokens).

    Source of the semantics: `aiter.ops.triton.fused_fp8_quant.fused_rms_fp8_group_quant`, which quantises before it
    rounds, and has a last group that is not whole. Raises as `_fused_qk_rmsnorm`.
    """
    op = "fused_rms_fp8_group_quant"
    arguments.check_tensors(op, inp1=inp1, inp1_weight=inp1_weight)
    dtype = operands.FP8_DTYPES[calls.fp8_of(inp1.device)] if dtype_quant is None else dtype_quant
    quant.check_code(op, "dtype_quant", dtype)
    if inp1.dim() != 2 or group_size < 1 or inp1.shape[1] % group_size:
        given = f"of shape {list(inp1.shape)}"
        raise ArgumentError(
            op, "inp1", given, f"[tokens, K], K a multiple of group_size, {group_size}", "Pad the rows."
        )
    rows, groups = inp1.shape[0], inp1.shape[1] // group_size
    codes, scales = inp1.new_empty(inp1.shape, dtype=dtype), inp1.new_empty((rows, groups), dtype=torch.float32)
    plain = inp1.new_empty(inp1.shape) if output_unquantized_inp1 else None
    total = None if res1 is None else inp1.new_empty(inp1.shape)
    second = None if inp2 is None else inp2.new_empty(inp2.shape)
    results = codes, scales, plain, res1, total
    try:
        _call(
            inp1,
            inp1_weight,
            inp1_epsilon,
            *results,
            inp2,
            inp2_weight,
            inp2_epsilon,
            second,
            group_size,
            transpose_scale,
        )
    except ArgumentError as error:
        name = _NAMES_OF_TRITON.get(error.argument, error.argument)
        raise ArgumentError(op, name, error.got, error.allowed, error.remedy) from None
    if transpose_scale and is_x_scale_strided:
        scales = scales.view(groups, rows).T
    return (codes, scales), plain, second, total


_NAMES_OF_TRITON = {
    **{"q": "inp1", "q_weight": "inp1_weight", "q_residual": "res1", "q_out_quantized": "dtype_quant"},
    **{"k": "inp2", "k_weight": "inp2_weight", "k_epsilon": "inp2_epsilon"},
}


# One operator for all of them -----------------------------------------------------------------------------------------


def _call(
    q: Tensor | None,
    q_weight: Tensor | None,
    q_epsilon: float,
    codes: Tensor | None,
    scales: Tensor | None,
    plain: Tensor | None,
    residual: Tensor | None,
    total: Tensor | None,
    k: Tensor | None,
    k_weight: Tensor | None,
    k_epsilon: float | None,
    k_out: Tensor | None,
    group_size: int = 0,
    transpose_scale: bool = False,
    gemma_norm: bool = False,
) -> None:
    if k is not None and k_epsilon is None:
        raise ArgumentError(_OP, "k_epsilon", "None", "a number, as k is given")
    # In the order of the schema; what is absent has no epsilon to be told apart by.
    epsilon = float(k_epsilon) if k is not None and k_epsilon is not None else 0.0
    pair = (k, k_weight, epsilon, k_out) if k is not None else (None, None, 0.0, None)
    results = codes, scales, plain, residual, total
    args = (q, q_weight, q_epsilon, *results, *pair, group_size, bool(transpose_scale), bool(gemma_norm))
    direct.call(PAIR, args, tuple(t for t in (codes, scales, plain, total, pair[3]) if t is not None))


def _check_rows(name: str, tensor: Tensor, like: Tensor, shape: Any, written: bool) -> None:
    operands.check_like(_OP, name, tensor, like, "q")
    operands.check_shape(_OP, name, tensor, [shape])
    operands.check_dense(_OP, **{name: tensor})
    if written:
        arguments.check_written(_OP, name, tensor)


def _check_together(given: str, tensor: Any, **others: Any) -> None:
    """What belongs to an operand is there where that is, and only there."""
    for name, other in others.items():
        if (tensor is None) != (other is None):
            allowed = f"None, as {given} is" if tensor is None else f"a tensor, as {given} is given"
            raise ArgumentError(_OP, name, "None" if other is None else "a tensor", allowed)


def _check_scales(q: Tensor, codes: Tensor, scales: Tensor, group_size: int, transposed: bool) -> None:
    width = q.shape[1]
    quant.check_code(_OP, "q_out_quantized", codes.dtype)
    operands.check_shape(_OP, "q_out_quantized", codes, [q.shape])
    if group_size != width and (group_size not in GROUPS or width % group_size):
        fitting = [str(size) for size in GROUPS if width % size == 0]
        raise ArgumentError(_OP, "group_size", group_size, ", ".join([*fitting, f"{width}, for a scale a row"]))
    operands.check_dtype(_OP, "q_out_scale", scales, (torch.float32,))
    operands.check_shape(_OP, "q_out_scale", scales, [[q.shape[0], width // group_size if width else 0]])
    for name, tensor in (("q_out_quantized", codes), ("q_out_scale", scales)):
        operands.check_device(_OP, name, tensor, q, "q")
    arguments.check_contiguous(_OP, q_out_quantized=codes)
    if not (transposed and scales.T.is_contiguous()):
        arguments.check_contiguous(_OP, q_out_scale=scales)


def _fake(
    q: Tensor,
    q_weight: Tensor,
    q_epsilon: float,
    q_out_quantized: Tensor | None = None,
    q_out_scale: Tensor | None = None,
    q_out_unquantized: Tensor | None = None,
    q_residual: Tensor | None = None,
    q_res_out: Tensor | None = None,
    k: Tensor | None = None,
    k_weight: Tensor | None = None,
    k_epsilon: float = 0.0,
    k_out: Tensor | None = None,
    group_size: int = 0,
    transpose_scale: bool = False,
    gemma_norm: bool = False,
) -> None:
    operands.check_dims(_OP, "q", q, 2, "[tokens, K]")
    operands.check_dtype(_OP, "q", q, _DTYPES)
    operands.check_dense(_OP, q=q)
    _check_rows("q_weight", q_weight, q, [q.shape[1]], False)
    _check_together("q_out_scale", q_out_scale, q_out_quantized=q_out_quantized)
    _check_together("q_residual", q_residual, q_res_out=q_res_out)
    _check_together("k", k, k_weight=k_weight, k_out=k_out)
    if q_out_scale is None:
        if q_out_unquantized is None:
            raise ArgumentError(_OP, "q_out_unquantized", "None", "a tensor, where nothing is quantised")
    else:
        assert q_out_quantized is not None
        _check_scales(q, q_out_quantized, q_out_scale, group_size, transpose_scale)
    for name, tensor, written in (
        ("q_out_unquantized", q_out_unquantized, True),
        ("q_residual", q_residual, False),
        ("q_res_out", q_res_out, True),
    ):
        if tensor is not None:
            _check_rows(name, tensor, q, q.shape, written)
    if k is not None:
        assert k_weight is not None and k_out is not None
        operands.check_dims(_OP, "k", k, 2, "[tokens, K]")
        _check_rows("k", k, q, [q.shape[0], k.shape[1]], False)
        _check_rows("k_weight", k_weight, q, [k.shape[1]], False)
        _check_rows("k_out", k_out, q, k.shape, True)


def _prepare(*args: Any, **kwargs: Any) -> Run:
    given = _bound(args, kwargs)
    _fake(**given)
    q, k, codes = given["q"], given["k"], given["q_out_quantized"]
    if not q.numel() and (k is None or not k.numel()):
        return lambda *_, **__: None
    if not q.numel():
        raise ArgumentError(_OP, "q", f"of shape {list(q.shape)}", "rows of elements, as k's have", "Call rms_norm.")
    if k is not None and not k.numel():
        k = None
    tensors = _in_order(given, k)
    named = dict(zip(_OPERANDS, tensors, strict=True))
    weights = [t for t in (named["weight"], named["second_weight"]) if t is not None]
    whole = q.shape[1] % (8 if codes is None else 16) == 0 and (k is None or k.shape[1] % 8 == 0)
    aligned = whole and all(t.data_ptr() % 16 == 0 for t in weights)
    for name, tensor in named.items():
        if tensor is not None and name not in ("weight", "second_weight", "scales"):
            aligned = aligned and operands.is_aligned(tensor, 16 // tensor.itemsize)
    problem = PairNormProblem(
        row_count=q.shape[0],
        row_width=q.shape[1],
        second_width=0 if k is None else k.shape[1],
        dtype=operands.dtype_name(q.dtype),
        with_add=given["q_residual"] is not None,
        both=codes is not None and given["q_out_unquantized"] is not None,
        gemma=given["gemma_norm"],
        aligned=aligned,
        group_size=0 if codes is None else given["group_size"],
        out_dtype="e4m3fn" if codes is None else operands.dtype_name(codes.dtype),
        transposed=codes is not None and given["transpose_scale"],
    )
    decision = calls.decide(tables.PAIR_TABLE, problem, calls.persona_of(_OP, q.device))
    strides = {
        **{"stride_x": "x", "stride_in": "residual_in", "stride_sum": "residual_out", "stride_out": "out"},
        **{"stride_codes": "codes", "second_stride_x": "second_x", "second_stride_out": "second_out"},
    }
    sizes = {field: 0 if (t := named[name]) is None else t.stride(0) for field, name in strides.items()}
    epsilons = {"epsilon": given["q_epsilon"], "second_epsilon": given["k_epsilon"]}
    absent = [name for name, tensor in named.items() if tensor is None]
    launch = launches.prepare(decision, q.device, _OPERANDS, {**sizes, **epsilons}, absent)
    without_k = k is None

    def run(*args: Any, **kwargs: Any) -> None:
        given = _bound(args, kwargs)
        launch(*_in_order(given, None if without_k else given["k"]))

    return run


def _in_order(given: Mapping[str, Any], k: Tensor | None) -> tuple[Tensor | None, ...]:
    """A call's tensors in the order of `_OPERANDS`."""
    names = ("q", "q_weight", "q_residual", "q_res_out", "q_out_unquantized", "q_out_quantized", "q_out_scale")
    second = (None, None, None) if k is None else (k, given["k_weight"], given["k_out"])
    return (*[given[name] for name in names], *second)


def _bound(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name."""
    return {**_DEFAULTS, **dict(zip(_PARAMETERS, args, strict=False)), **kwargs}


PAIR = register(
    f"{_OP}(Tensor q, Tensor q_weight, float q_epsilon, Tensor(a!)? q_out_quantized=None, "
    "Tensor(b!)? q_out_scale=None, Tensor(c!)? q_out_unquantized=None, Tensor? q_residual=None, "
    "Tensor(d!)? q_res_out=None, Tensor? k=None, Tensor? k_weight=None, float k_epsilon=0.0, Tensor(e!)? k_out=None, "
    "int group_size=0, bool transpose_scale=False, bool gemma_norm=False) -> ()",
    _prepare,
    _fake,
)
_PARAMETERS = tuple(argument.name for argument in PAIR.overload._schema.arguments)
_DEFAULTS = {a.name: a.default_value for a in PAIR.overload._schema.arguments if a.has_default_value()}
