"""Quantisation to MXFP4 into tensors of the caller: rows, rows whose parts lie apart, and gated activations of them.

What a code and a scale byte are, zeros, infinities and NaN included, is in `aiterlite.reference.mxfp4`, whose bits
these operators give on every target. Names of upstream that return new tensors are in `aiterlite.ops.mxfp4_factory`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aiterlite.dispatch import Table
from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import arguments, calls, operands
from aiterlite.ops import shuffle as shuffles
from aiterlite.ops.calls import Run
from aiterlite.ops.direct import call
from aiterlite.ops.operator import register
from aiterlite.ops.shuffle import SCALE_BLOCKS
from aiterlite.tables import mxfp4_quant as tables
from aiterlite.tables.activation import ACTIVATIONS
from aiterlite.tables.mx_types import BLOCK, MX_DEFAULT_ROUND_MODE, MxScaleRoundMode, rule
from aiterlite.tables.mxfp4_quant import MxActProblem, MxQuantProblem

FP4, E8M0 = torch.float4_e2m1fn_x2, torch.float8_e8m0fnu
CODES, SCALES = (FP4, torch.uint8), (E8M0, torch.uint8)
_INPUTS = tuple(operands.DTYPES[name] for name in tables.DTYPES)
_NAMES = ("x", "out", "scales", "num_rows")


def quant_mxfp4(
    inp: Tensor,
    out_packed: Tensor,
    out_scale: Tensor,
    group_size: int = BLOCK,
    round_mode: int = MxScaleRoundMode.RoundDown,
    e8m0_shuffle: bool = False,
    a16w4_shuffle: bool = False,
    gate_up: bool = False,
    shuffle_weight: bool = False,
) -> None:
    """Quantise rows to MXFP4; writes `out_packed` and `out_scale`.

    Args:
        inp: [..., K] of bfloat16 or float16, K a multiple of 32; the last dimension has stride 1, rows may be strided.
        out_packed: [..., K / 2], contiguous, of float4_e2m1fn_x2 or uint8. Byte i of a row holds element 2i in its low
            half.
        out_scale: of float8_e8m0fnu or uint8. [rows, K / 32] with any strides, or contiguous of as many elements; with
            e8m0_shuffle contiguous, of whole tiles: rows up to a multiple of 32 (or any greater one, upstream's is of
            256), of K / 32 up to a multiple of 8 bytes. Where there is no row or no block, it becomes zero.
        group_size: 32.
        round_mode: `MxScaleRoundMode`, 0 RoundDown, 1 RoundUp, 2 Even, 3 Ceil. The default is this function's upstream;
            that of others differs.
        e8m0_shuffle: scales lie as `shuffle_scale` makes them lie.
        a16w4_shuffle, gate_up: not here.
        shuffle_weight: codes lie as `shuffle_weight` makes them lie; only beside e8m0_shuffle.

    Source of the semantics: `aiter.quant_mxfp4`, whose padding of scales is not written. Not differentiable. Raises
    `ArgumentError`, `DispatchError` or a `JitError`.
    """
    _refuse_interleaved(tables.QUANT, a16w4_shuffle, gate_up)
    _check_group_size(tables.QUANT, group_size)
    if not shuffle_weight:
        quantise(inp, out_packed, out_scale, round_mode, e8m0_shuffle)
        return
    if not e8m0_shuffle:
        remedy = "Shuffle scales too, or call shuffle_weight on the codes."
        raise ArgumentError(tables.QUANT, "shuffle_weight", True, "False without e8m0_shuffle", remedy)
    codes = torch.empty(out_packed.shape, dtype=torch.uint8, device=out_packed.device)
    quantise(inp, codes, out_scale, round_mode, True)
    out_packed.view(torch.uint8).copy_(shuffles.shuffle_weight(codes))
    shuffles.mark_shuffled(out_packed)


def dynamic_per_group_scaled_quant_fp4(
    out: Tensor,
    input: Tensor,
    scales: Tensor,
    group_size: int = BLOCK,
    shuffle_scale: bool = True,
    num_rows: Tensor | None = None,
    num_rows_factor: int = 1,
) -> None:
    """`quant_mxfp4` by RoundUp, under the names of the operands and the defaults of upstream's; writes `out` and
    `scales`.

    Args:
        shuffle_scale: scales lie as `shuffle_scale` makes them lie.
        num_rows: int32 of one element: no more than num_rows * num_rows_factor rows are quantised. It is read on the
            device, so that a captured graph follows it. Of other rows nothing is read, and nothing is written but zeros
            in shuffled scales.
        num_rows_factor: at least 1.

    Source of the semantics: `aiter.dynamic_per_group_scaled_quant_fp4`, whose groups of zeros have scale byte 92, and
    which does not see NaN.
    """
    _check_group_size("dynamic_per_group_scaled_quant_fp4", group_size)
    quantise(input, out, scales, MX_DEFAULT_ROUND_MODE, shuffle_scale, num_rows, num_rows_factor)


def quantise(
    input: Tensor,
    out: Tensor,
    scale: Tensor,
    round_mode: int,
    shuffle: bool = False,
    num_rows: Tensor | None = None,
    num_rows_factor: int = 1,
    flatten: bool = False,
) -> None:
    """All forms of a call; `flatten`: input is [M, N1, N2], whose rows are [N1, N2] and may lie apart."""
    arguments.check_tensors(tables.QUANT, input=input, out_packed=out, out_scale=scale)
    mode = mode_of(tables.QUANT, round_mode)
    given = input, bytes_of(out), bytes_of(scale), mode, shuffle, num_rows, num_rows_factor, flatten
    call(QUANT, given, (out, scale))


def bytes_of(tensor: Tensor) -> Tensor:
    """Codes and scales as the operators take them: torch moves and compares no 4-bit number."""
    return tensor.view(torch.uint8) if tensor.dtype in (FP4, E8M0) else tensor


def mode_of(op: str, round_mode: int) -> int:
    """A mode as a plain number. Raises `ArgumentError`."""
    try:
        return int(MxScaleRoundMode(round_mode))
    except (TypeError, ValueError):
        allowed = ", ".join(f"{mode.value} ({mode.name})" for mode in MxScaleRoundMode)
        raise ArgumentError(op, "round_mode", round_mode, allowed) from None


def _refuse_interleaved(op: str, a16w4_shuffle: bool, gate_up: bool) -> None:
    for name, value in (("a16w4_shuffle", a16w4_shuffle), ("gate_up", gate_up)):
        if value:
            remedy = "Interleave rows before, torch.stack((gate, up), 1).flatten(0, 1), and pass e8m0_shuffle."
            raise ArgumentError(op, name, value, "False", remedy)


def _check_group_size(op: str, group_size: int) -> None:
    if group_size != BLOCK:
        raise ArgumentError(op, "group_size", group_size, str(BLOCK), "A scale of MXFP4 is of 32 elements.")


# What operands must be ------------------------------------------------------------------------------------------------


def check_input(op: str, name: str, input: Tensor, halves: int = 1) -> None:
    if input.dim() == 0:
        raise ArgumentError(op, name, "of no dimension", "[..., K]")
    operands.check_dtype(op, name, input, _INPUTS)
    if input.shape[-1] % (BLOCK * halves):
        allowed = f"rows of a multiple of {BLOCK * halves}" + (", gates and as many ups" if halves > 1 else "")
        raise ArgumentError(op, name, f"of shape {list(input.shape)}", allowed, "Pad the rows.")
    operands.check_dense(op, **{name: input})


def check_results(op: str, input: Tensor, out: Tensor, scale: Tensor, rows: int, width: int, shuffle: bool) -> None:
    operands.check_dtype(op, "out_packed", out, CODES)
    operands.check_dtype(op, "out_scale", scale, SCALES)
    if out.numel() != rows * width // 2:
        allowed = f"{rows * width // 2} bytes, half as many as elements"
        raise ArgumentError(op, "out_packed", f"of shape {list(out.shape)}", allowed)
    operands.check_device(op, "out_packed", out, input, "input")
    operands.check_device(op, "out_scale", scale, input, "input")
    arguments.check_contiguous(op, out_packed=out)
    blocks = width // BLOCK
    if shuffle:
        arguments.check_contiguous(op, out_scale=scale)
        padded = -(-blocks // SCALE_BLOCKS) * SCALE_BLOCKS
        found = scale.numel() // padded if padded else 0
        if padded and (scale.numel() % (padded * tables.TILE_ROWS) or found < rows):
            allowed = f"{padded} bytes for each of {rows} rows, and of rows up to a multiple of {tables.TILE_ROWS}"
            raise ArgumentError(op, "out_scale", f"of shape {list(scale.shape)}", f"{allowed}, or of 256")
        return
    if list(scale.shape) != [rows, blocks]:
        if scale.numel() != rows * blocks or not scale.is_contiguous():
            allowed = f"[{rows}, {blocks}], or contiguous of as many elements"
            raise ArgumentError(op, "out_scale", f"of shape {list(scale.shape)}", allowed)
    else:
        arguments.check_apart(op, "out_scale", scale)


# How calls are prepared -----------------------------------------------------------------------------------------------


def _prepare(
    table: Table,
    x: Tensor,
    out: Tensor,
    scale: Tensor,
    mode: int,
    shuffle: bool,
    sizes: dict[str, int],
    absent: tuple[str, ...],
    activation: str = "",
) -> Any:
    """What launches calls of such tensors, in the order of `_NAMES`; None for nothing to do. `sizes` has the parts of a
    row, where it lies in several."""
    rows, parts = x.shape[0], sizes.get("part_blocks", 0)
    width = out.numel() * 2 // rows if rows else 0
    if not rows or not width:
        return None
    blocks = width // BLOCK
    layout, scale_rows, strides = lying(table.op, scale, blocks, shuffle)
    apart = x.stride(0) % 8 == 0 or rows == 1
    values: dict[str, Any] = {
        "row_count": rows,
        "row_width": width,
        "dtype": operands.dtype_name(x.dtype),
        "layout": layout,
        "scale_rows": scale_rows,
        "parted": bool(parts),
        "aligned": apart and sizes.get("stride_part", 0) % 8 == 0 and x.data_ptr() % 16 == out.data_ptr() % 16 == 0,
    }
    problem = MxActProblem(**values, activation=activation) if activation else MxQuantProblem(**values)
    decision = calls.decide(table, problem, calls.persona_of(table.op, x.device))
    given = {
        "stride_x": x.stride(0),
        "stride_part": 0,
        "part_blocks": blocks,
        "stride_row": strides[0],
        "stride_block": strides[1],
        "num_rows_factor": 1,
        **rule(mode),
        **sizes,
    }
    return launches.prepare(decision, x.device, _NAMES, given, absent)


def lying(op: str, scale: Tensor, blocks: int, shuffle: bool) -> tuple[str, int, tuple[int, int]]:
    """How scales lie: the layout, the rows of shuffled ones, padding included, and strides of a row and a block."""
    if shuffle:
        if scale.data_ptr() % 16:
            raise ArgumentError(op, "out_scale", "at no multiple of 16 bytes", "one that is", "Clone it.")
        return "shuffled", scale.numel() // (-(-blocks // SCALE_BLOCKS) * SCALE_BLOCKS), (0, 0)
    strides = (scale.stride(0), scale.stride(1)) if scale.dim() == 2 else (blocks, 1)
    columns = strides[0] == 1 and scale.dim() == 2 and min(scale.shape) > 1
    return "columns" if columns else "rows", 0, strides


def _parts(input: Tensor) -> dict[str, int]:
    """How the parts of the rows of [M, N1, N2] lie; nothing where they lie one behind the other."""
    _, count, size = input.shape
    if count == 1 or input.stride(1) == size:
        return {}
    return {"part_blocks": size // BLOCK, "stride_part": input.stride(1)}


def _fake_quant(
    input: Tensor,
    out_packed: Tensor,
    out_scale: Tensor,
    round_mode: int,
    shuffle: bool,
    num_rows: Tensor | None = None,
    num_rows_factor: int = 1,
    flatten: bool = False,
) -> None:
    op = tables.QUANT
    check_input(op, "input", input)
    if flatten:
        operands.check_dims(op, "input", input, 3, "[M, N1, N2]")
    rows = input.shape[0] if flatten else operands.rows_of(input)
    width = input.shape[1] * input.shape[2] if flatten else input.shape[-1]
    check_results(op, input, out_packed, out_scale, rows, width, shuffle)
    operands.check_row_count(op, input, num_rows, num_rows_factor)


def _prepare_quant(
    input: Tensor,
    out_packed: Tensor,
    out_scale: Tensor,
    round_mode: int,
    shuffle: bool,
    num_rows: Tensor | None = None,
    num_rows_factor: int = 1,
    flatten: bool = False,
) -> Run:
    _fake_quant(input, out_packed, out_scale, round_mode, shuffle, num_rows, num_rows_factor, flatten)
    sizes = {"num_rows_factor": num_rows_factor}
    if flatten and input.numel():
        sizes |= _parts(input)
    view = (lambda x: x) if flatten else operands.flatten
    absent = ("num_rows",) if num_rows is None else ()
    launch = _prepare(tables.QUANT_TABLE, view(input), out_packed, out_scale, round_mode, shuffle, sizes, absent)

    def run(input: Tensor, out: Tensor, scale: Tensor, *rest: Any, **named: Any) -> None:
        if launch is not None:
            num_rows = rest[2] if len(rest) > 2 else named.get("num_rows")
            launch(view(input), out, scale, num_rows)
        elif shuffle:
            scale.zero_()

    return run


def _fake_act(
    input: Tensor, out_packed: Tensor, out_scale: Tensor, activation: str, round_mode: int, shuffle: bool
) -> None:
    op = tables.ACT_QUANT
    check_input(op, "x", input, 2)
    operands.check_choice(op, "activation", activation, ACTIVATIONS)
    rows, width = operands.rows_of(input), input.shape[-1] // 2
    check_results(op, input, out_packed, out_scale, rows, width, shuffle)


def _prepare_act(
    input: Tensor, out_packed: Tensor, out_scale: Tensor, activation: str, round_mode: int, shuffle: bool
) -> Run:
    _fake_act(input, out_packed, out_scale, activation, round_mode, shuffle)
    table, given = tables.ACT_QUANT_TABLE, (operands.flatten(input), out_packed, out_scale)
    launch = _prepare(table, *given, round_mode, shuffle, {}, ("num_rows",), activation)

    def run(input: Tensor, out: Tensor, scale: Tensor, *_: Any, **__: Any) -> None:
        if launch is not None:
            launch(operands.flatten(input), out, scale, None)
        elif shuffle:
            scale.zero_()

    return run


_WRITTEN = "Tensor input, Tensor(a!) out_packed, Tensor(b!) out_scale"
QUANT = register(
    f"{tables.QUANT}({_WRITTEN}, int round_mode, bool shuffle, Tensor? num_rows=None, int num_rows_factor=1, "
    "bool flatten=False) -> ()",
    _prepare_quant,
    _fake_quant,
)
ACT_QUANT = register(
    f"{tables.ACT_QUANT}({_WRITTEN}, str activation, int round_mode, bool shuffle) -> ()", _prepare_act, _fake_act
)
