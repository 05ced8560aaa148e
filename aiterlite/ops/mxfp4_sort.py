"""MX scales in the order of entries that are sorted by experts, of scales that are there, or of rows that are quantised
in the same call. What entries are is in `aiterlite.ops.moe_sorting`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import arguments, calls, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.mxfp4 import E8M0, FP4, QUANT, SCALES, bytes_of, check_input, mode_of
from aiterlite.ops.mxfp4_factory import scaling
from aiterlite.ops.operator import register
from aiterlite.ops.shuffle import SCALE_BLOCKS
from aiterlite.tables import mxfp4_sort as tables
from aiterlite.tables.mx_types import BLOCK, MX_DEFAULT_ROUND_MODE, rule
from aiterlite.tables.mxfp4_quant import TILE_ROWS
from aiterlite.tables.mxfp4_sort import MxQuantSortProblem, MxSortProblem

Quantised = tuple[Tensor, Tensor]
_NAMES = ("row_scales", "scales", "sorted_ids", "num_valid_ids")
_ALL = (*_NAMES, "x", "out", "num_rows")


def mxfp4_moe_sort_fwd(scale: Tensor, sorted_ids: Tensor, num_valid_ids: Tensor, token_num: int, cols: int) -> Tensor:
    """Scales float8_e8m0fnu [entries up to a multiple of 32, cols / 32 up to one of 8] of sorted entries, as
    `shuffle_scale` makes them lie; the row of an entry is its place. In each 32 rows of which one is of an entry in
    use, what is of no token, no slot or no block is zero; other rows hold anything.

    Args:
        scale: of float8_e8m0fnu or uint8, [token_num, cols / 32], or as many for each slot, [token_num * topk, cols /
            32] or [token_num, topk, cols / 32].
        sorted_ids: int32 [entries], slot << 24 | token, as `moe_sorting` makes them.
        num_valid_ids: int32, of which the first says how many entries are in use; read on the device.
        token_num: at most 2^24 - 1.
        cols: elements of a row.

    Source of the semantics: `aiter.mxfp4_moe_sort_fwd`, whose padding of blocks is not always written. Not
    differentiable. Raises `ArgumentError`, `DispatchError` or a `JitError`.
    """
    arguments.check_tensors(tables.SORT, scale=scale, sorted_ids=sorted_ids, num_valid_ids=num_valid_ids)
    result: Tensor = SORT(bytes_of(scale), sorted_ids, num_valid_ids, token_num, cols)
    return result.view(E8M0)


def moe_mxfp4_sort(
    blockscale_e8m0: Tensor, sorted_ids: Tensor, num_valid_ids: Tensor, token_num: int, block_size: int = 32
) -> Tensor:
    """`mxfp4_moe_sort_fwd` of scales [token_num, blocks] or [token_num, topk, blocks]; block_size, of the entries, is a
    multiple of 32.

    Source of the semantics: `aiter.utility.fp4_utils.moe_mxfp4_sort`.
    """
    op = "moe_mxfp4_sort"
    arguments.check_tensors(op, blockscale_e8m0=blockscale_e8m0)
    _check_block_size(op, block_size)
    if blockscale_e8m0.dim() == 0:
        raise ArgumentError(op, "blockscale_e8m0", "of no dimension", "[token_num, blocks]")
    width = blockscale_e8m0.shape[-1] * BLOCK
    return mxfp4_moe_sort_fwd(blockscale_e8m0, sorted_ids, num_valid_ids, token_num, width)


def fused_dynamic_mxfp4_quant_moe_sort(
    input: Tensor,
    sorted_ids: Tensor,
    num_valid_ids: Tensor,
    token_num: int,
    topk: int,
    block_size: int,
    num_rows: Tensor | None = None,
    group_size: int = BLOCK,
    sorted_weights: Tensor | None = None,
) -> Quantised:
    """(codes float4_e2m1fn_x2 [M, K / 2], scales of `mxfp4_moe_sort_fwd`) of rows, by RoundUp: the bits of
    `per_1x32_f4_quant_hip`, and of the sorting after it.

    Args:
        input: [M, K] as `quant_mxfp4` has it, or [.., topk, K]; M is token_num, a row a token, or token_num * topk.
        sorted_ids, num_valid_ids, token_num: see `mxfp4_moe_sort_fwd`.
        topk: slots of a token.
        block_size: of the entries, a multiple of 32.
        num_rows: int32 of one element: that many tokens have rows to quantise. Read on the device.
        group_size: 32.
        sorted_weights: None.

    Source of the semantics: `aiter.fused_dynamic_mxfp4_quant_moe_sort`; zeros and NaN as in
    `aiterlite.reference.mxfp4`. Raises as `mxfp4_moe_sort_fwd`.
    """
    op = tables.QUANT_SORT
    if group_size != BLOCK:
        raise ArgumentError(op, "group_size", group_size, str(BLOCK), "A scale of MXFP4 is of 32 elements.")
    if sorted_weights is not None:
        remedy = "Weights are what stage 2 multiplies its results by."
        raise ArgumentError(op, "sorted_weights", "a tensor", "None", remedy)
    given = sorted_ids, num_valid_ids, token_num, topk, block_size
    return _quantised(input, *given, int(MX_DEFAULT_ROUND_MODE), num_rows)


def triton_fused_dynamic_mxfp4_quant_moe_sort(
    x: Tensor,
    sorted_ids: Tensor,
    num_valid_ids: Tensor,
    token_num: int,
    topk: int,
    block_size: int = 32,
    scaling_mode: str = "even",
) -> Quantised:
    """`fused_dynamic_mxfp4_quant_moe_sort` by the mode Even; for scaling_mode see `dynamic_mxfp4_quant`.

    Source of the semantics: `aiter.ops.triton.quant.fused_mxfp4_quant.fused_dynamic_mxfp4_quant_moe_sort`.
    """
    mode = scaling(tables.QUANT_SORT, scaling_mode)
    return _quantised(x, sorted_ids, num_valid_ids, token_num, topk, block_size, mode, None)


def _quantised(
    input: Tensor,
    sorted_ids: Tensor,
    num_valid_ids: Tensor,
    token_num: int,
    topk: int,
    block_size: int,
    mode: int,
    num_rows: Tensor | None,
) -> Quantised:
    op = tables.QUANT_SORT
    arguments.check_tensors(op, input=input, sorted_ids=sorted_ids, num_valid_ids=num_valid_ids)
    _check_block_size(op, block_size)
    codes, scales = QUANT_SORT(input, sorted_ids, num_valid_ids, token_num, topk, mode, num_rows)
    return codes.view(FP4), scales.view(E8M0)


# What operands must be ------------------------------------------------------------------------------------------------


def _check_block_size(op: str, block_size: int) -> None:
    if block_size < 1 or block_size % TILE_ROWS:
        allowed = f"a multiple of {TILE_ROWS}"
        raise ArgumentError(
            op, "block_size", block_size, allowed, "Sort with such blocks: tiles of scales have 32 rows."
        )


def _check_entries(op: str, like: Tensor, name: str, sorted_ids: Tensor, num_valid_ids: Tensor, tokens: int) -> None:
    for other, tensor in (("sorted_ids", sorted_ids), ("num_valid_ids", num_valid_ids)):
        operands.check_dtype(op, other, tensor, (torch.int32,))
        operands.check_device(op, other, tensor, like, name)
        operands.check_dims(op, other, tensor, 1, "[entries]")
        arguments.check_contiguous(op, **{other: tensor})
    if not num_valid_ids.numel():
        raise ArgumentError(op, "num_valid_ids", "of no element", "one or more")
    arguments.check_ints(op, token_num=(tokens, 0, tables.MOST_TOKENS))


def _slots(op: str, name: str, rows: int, tokens: int, shape: list[int], topk: int | None = None) -> int:
    """How many rows a token has: 1, or topk, where that is named."""
    if not tokens or rows == tokens:
        return 1
    slots = rows // tokens
    if rows % tokens or slots > tables.MOST_TOPK or topk not in (None, slots):
        allowed = f"{tokens} rows, or {topk or 'topk'} for each of {tokens} tokens"
        raise ArgumentError(op, name, f"of shape {shape}", allowed)
    return slots


def _results(like: Tensor, sorted_ids: Tensor, width: int) -> Tensor:
    tiles, blocks = -(-sorted_ids.shape[0] // TILE_ROWS), -(-width // BLOCK)
    shape = tiles * TILE_ROWS, -(-blocks // SCALE_BLOCKS) * SCALE_BLOCKS
    return torch.empty(shape, dtype=torch.uint8, device=like.device)


# How calls are prepared -----------------------------------------------------------------------------------------------


def _flat(scale: Tensor) -> Tensor:
    return operands.flatten(scale)


def _fake_sort(scale: Tensor, sorted_ids: Tensor, num_valid_ids: Tensor, token_num: int, cols: int) -> Tensor:
    op = tables.SORT
    operands.check_dtype(op, "scale", scale, SCALES)
    _check_entries(op, scale, "scale", sorted_ids, num_valid_ids, token_num)
    arguments.check_ints(op, cols=(cols, 0, 2**31 - 1))
    if scale.dim() not in (2, 3) or scale.shape[-1] != -(-cols // BLOCK):
        allowed = f"[rows, {-(-cols // BLOCK)}], or the same for each slot, [{token_num}, topk, {-(-cols // BLOCK)}]"
        raise ArgumentError(op, "scale", f"of shape {list(scale.shape)}", allowed)
    _slots(op, "scale", operands.rows_of(scale), token_num, list(scale.shape))
    return _results(scale, sorted_ids, cols)


def _prepare_sort(scale: Tensor, sorted_ids: Tensor, num_valid_ids: Tensor, token_num: int, cols: int) -> Run:
    out = _fake_sort(scale, sorted_ids, num_valid_ids, token_num, cols)
    launch: Any = None
    if out.numel() and scale.numel() and token_num:
        rows = _flat(scale)
        problem = MxSortProblem(token_num, cols, rows.shape[0] // token_num, sorted_ids.shape[0])
        decision = calls.decide(tables.SORT_TABLE, problem, calls.persona_of(tables.SORT, scale.device))
        sizes = {"stride_row": rows.stride(0), "stride_block": rows.stride(1)}
        launch = launches.prepare(decision, scale.device, _NAMES, sizes)

    def run(scale: Tensor, sorted_ids: Tensor, num_valid_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        found = _results(scale, sorted_ids, cols)
        if launch is None:
            return found.zero_()
        launch(_flat(scale), found, sorted_ids, num_valid_ids)
        return found

    return run


def _fake_quant(
    input: Tensor,
    sorted_ids: Tensor,
    num_valid_ids: Tensor,
    token_num: int,
    topk: int,
    round_mode: int,
    num_rows: Tensor | None = None,
) -> Quantised:
    op = tables.QUANT_SORT
    check_input(op, "input", input)
    _check_entries(op, input, "input", sorted_ids, num_valid_ids, token_num)
    arguments.check_ints(op, topk=(topk, 1, tables.MOST_TOPK))
    rows = operands.rows_of(input)
    _slots(op, "input", rows, token_num, list(input.shape), topk)
    mode_of(op, round_mode)
    if num_rows is not None:
        operands.check_dtype(op, "num_rows", num_rows, (torch.int32,))
        operands.check_device(op, "num_rows", num_rows, input, "input")
        operands.check_shape(op, "num_rows", num_rows, [[1], []])
    width = input.shape[-1]
    codes = torch.empty((rows, width // 2), dtype=torch.uint8, device=input.device)
    return codes, _results(input, sorted_ids, width)


def _prepare_quant(
    input: Tensor,
    sorted_ids: Tensor,
    num_valid_ids: Tensor,
    token_num: int,
    topk: int,
    round_mode: int,
    num_rows: Tensor | None = None,
) -> Run:
    codes, scales = _fake_quant(input, sorted_ids, num_valid_ids, token_num, topk, round_mode, num_rows)
    rows, width = codes.shape[0], input.shape[-1]
    launch: Any = None
    if codes.numel() and scales.numel() and token_num:
        x = operands.flatten(input)
        slots = rows // token_num
        aligned = operands.is_aligned(x, 8)
        name = operands.dtype_name(x.dtype)
        problem = MxQuantSortProblem(token_num, width, slots, sorted_ids.shape[0], name, aligned)
        decision = calls.decide(tables.QUANT_SORT_TABLE, problem, calls.persona_of(tables.QUANT_SORT, x.device))
        sizes = {
            "stride_x": x.stride(0),
            "stride_part": 0,
            "part_blocks": width // BLOCK,
            "num_rows_factor": slots,
            **rule(round_mode),
        }
        launch = launches.prepare(decision, x.device, _ALL, sizes, () if num_rows is not None else ("num_rows",))

    def run(input: Tensor, sorted_ids: Tensor, num_valid_ids: Tensor, *rest: Any, **named: Any) -> Quantised:
        codes = torch.empty((rows, width // 2), dtype=torch.uint8, device=input.device)
        scales = _results(input, sorted_ids, width)
        num_rows = rest[3] if len(rest) > 3 else named.get("num_rows")
        between = torch.empty(rows * (width // BLOCK), dtype=torch.uint8, device=input.device)
        if launch is None:
            # Rows of which no entry is are quantised all the same.
            if codes.numel():
                QUANT.run(input, codes, between, round_mode, False, num_rows)
            return codes, scales.zero_()
        launch(between, scales, sorted_ids, num_valid_ids, operands.flatten(input), codes, num_rows)
        return codes, scales

    return run


_ENTRIES = "Tensor sorted_ids, Tensor num_valid_ids, int token_num"
SORT = register(f"{tables.SORT}(Tensor scale, {_ENTRIES}, int cols) -> Tensor", _prepare_sort, _fake_sort)
QUANT_SORT = register(
    f"{tables.QUANT_SORT}(Tensor input, {_ENTRIES}, int topk, int round_mode, Tensor? num_rows=None) "
    "-> (Tensor, Tensor)",
    _prepare_quant,
    _fake_quant,
)
