"""MLA decode on sm_90: which of csrc/mla/sm90_decode.hip and sm90_decode_wide.hip serves a call, and how it is cut for
it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import TensorMap, overlap_defines
from aiterlite.tables import mla_heads
from aiterlite.target import Persona

if TYPE_CHECKING:
    from aiterlite.tables.mla import MlaProblem

DECODE_ARGS = ArgumentStruct("aiterlite_mla_decode_args", "aiterlite/mla/args.h")
BOX_ARGS = ArgumentStruct("aiterlite_sm90_mla_args", "aiterlite/mla/sm90_args.h")
KERNEL, WIDE_KERNEL = "aiterlite_sm90_mla_decode", "aiterlite_sm90_mla_decode_wide"
# Two warpgroups multiply, two copy; one where the former need the registers, with 32 columns or 64 rows, and where
# boxes come.
_THREADS, _THREADS_FEW = 512, 384
# Tokens of a box (mla/sm90_boxes.h).
BOX_TOKENS = 16
KV_DTYPES = ("bf16", "fp16", "e4m3fn")
_KEY_DIM, _VALUE_DIM, _TOKENS, _PADDING = 576, 512, 64, 16
# Packed rows of q that a workgroup has: as columns, and of 16-bit KV as rows.
COLUMNS = (16, 32)
WIDE_ROWS = 64
# More stages than this are no faster, and fewer than two leave a warpgroup without a tile.
_MOST_STAGES, _LEAST_STAGES = 4, 2
# A model of an H200. A token of 16-bit and of 8-bit KV while all multiprocessors read; a piece of few rows without its
# tokens; a merge without its parts, a part. Of more rows than columns, by those that a workgroup has: what a lone
# workgroup takes without its tiles, what it takes longer where all multiprocessors have one, a tile (fitted to 80
# measured calls, within 4 to 15 %; 16 columns of 8-bit KV from calls of 16 heads).
_TOKEN_US, _PIECE_US, _MERGE_US, _PART_US = (0.036, 0.021), 5.0, 2.0, 0.02
_WORKGROUP_US = (
    {16: (4.2, 3.6, 1.4), 32: (6.3, 6.6, 1.8), WIDE_ROWS: (7.0, 9.0, 3.0)},
    {16: (5.2, 3.3, 1.25), 32: (7.5, 4.9, 1.2)},
)
MOST_SPLITS = 64


@dataclass(frozen=True)
class Sm90Plan:
    """One launch: `columns` packed rows of q a workgroup, `column_groups` of those a piece, `stages` tiles of 64 tokens
    in `shared_bytes` of shared memory. `wide`: by the kernel for 64 rows. `boxes`: the copy engine brings 16 tokens of
    a page at once, not rows one by one."""

    wide: bool
    boxes: bool
    columns: int
    column_groups: int
    stages: int
    shared_bytes: int
    grid: int


def shared_bytes(columns: int, stages: int, kv_dtype: str, boxes: bool) -> int:
    """The size of the kernel's `Shared`: operands, or what its warpgroups exchange; the tiles; what is small, for which
    the padding of rows has room, and boxes have none."""
    weight_parts = 2 if kv_dtype == "bf16" else 1
    operands = columns * _KEY_DIM * 2 + 2 * weight_parts * columns * _TOKENS * 2
    exchanged = 2 * columns * (_VALUE_DIM // 2 + 4) * 4
    row = _KEY_DIM * (1 if kv_dtype == "e4m3fn" else 2) + (0 if boxes else _PADDING)
    area, tiles = max(operands, exchanged), stages * _TOKENS * row
    if not boxes:
        return area + tiles + 16
    small = 16 * (2 * stages + 13 * columns // 4)
    return _aligned(_aligned(area) + tiles + small)


def wide_shared_bytes() -> int:
    """The size of the wide kernel's `Shared`: boxes of 64 rows of 128 bytes, of KV, of q, and of what rounding of
    weights lost; barriers and what is kept of a row."""
    boxes = (_LEAST_STAGES + 1) * _KEY_DIM // 64 + 1
    small = 2 * (5 * 8 + 5 * 8 + 16) + WIDE_ROWS * (2 * 4 + 2 * 4 + 8 + 4) + 2 * WIDE_ROWS * 8
    return _aligned(boxes * 64 * 128 + small)


def _aligned(size: int) -> int:
    return -(-size // 1024) * 1024


def _cuts(rows: int, q_dtype: str, kv_dtype: str) -> tuple[int, ...]:
    """The rows of q that a workgroup may have where a piece has `rows`."""
    if rows <= COLUMNS[-1]:
        return (next(count for count in COLUMNS if count >= rows),)
    return (*COLUMNS, WIDE_ROWS) if q_dtype == kv_dtype != "e4m3fn" else COLUMNS


def _microseconds(cut: int, units: int, batch: int, rows: int, context: float, kv_dtype: str, splits: int) -> float:
    """What a call takes: rounds of workgroups, and a merge. Workgroups that share a piece read its KV once."""
    eight_bits, groups = kv_dtype == "e4m3fn", -(-rows // cut)
    workgroups, tiles = batch * groups * splits, -(-context // (splits * _TOKENS))
    read = _TOKENS * _TOKEN_US[eight_bits]
    if rows <= COLUMNS[-1]:
        of_round = _PIECE_US + tiles * read
    else:
        busy = min(1.0, workgroups / units)
        alone, crowded, tile = _WORKGROUP_US[eight_bits][cut]
        of_round = alone + crowded * busy + tiles * max(tile, read * busy / groups)
    return -(-workgroups // units) * of_round + (_MERGE_US + splits * _PART_US if splits > 1 else 0.0)


def plan_decode(problem: MlaProblem, persona: Persona) -> Sm90Plan:
    """The rows of q a workgroup that are done first: few where that fills the multiprocessors, many where KV is read
    again for each group of them. With a plan, which was made for a piece a workgroup, the fewest that hold all rows of
    a piece, or the most. Then as many stages as fit. Boxes where pages are made of them."""
    rows, boxes = problem.q_len * problem.heads, problem.pages_exist and problem.page_size % BOX_TOKENS == 0
    pieces = problem.plan_units or problem.batch * problem.splits
    cuts = _cuts(rows, problem.q_dtype, problem.kv_dtype)
    columns = cuts[-1]
    if not problem.plan_units:
        units, context = max(1, mla_heads.compute_units(persona)), max(1, problem.context)
        given = (units, problem.batch, rows, context, problem.kv_dtype, problem.splits)
        columns = min(reversed(cuts), key=lambda cut: _microseconds(cut, *given))
    groups = -(-rows // columns)
    if columns == WIDE_ROWS:
        return Sm90Plan(True, boxes, columns, groups, _LEAST_STAGES, wide_shared_bytes(), pieces * groups)
    stages = _MOST_STAGES
    while stages > _LEAST_STAGES and shared_bytes(columns, stages, problem.kv_dtype, boxes) > persona.lds_bytes:
        stages -= 1
    size = shared_bytes(columns, stages, problem.kv_dtype, boxes)
    return Sm90Plan(False, boxes, columns, groups, stages, size, pieces * groups)


def unasked_splits(cu_count: int, batch: int, rows: int, context: float, q_dtype: str, kv_dtype: str) -> int:
    """The count of pieces of a request, of `rows` packed rows of q, that is done first by the model above. The lowest
    of equals."""

    def microseconds(splits: int) -> float:
        given = (max(1, cu_count), batch, rows, context, kv_dtype, splits)
        return min(_microseconds(cut, *given) for cut in _cuts(rows, q_dtype, kv_dtype))

    return min(range(1, MOST_SPLITS + 1), key=microseconds)


def threads(plan: Sm90Plan) -> int:
    return _THREADS if plan.columns == COLUMNS[0] and not plan.boxes else _THREADS_FEW


def symbol(plan: Sm90Plan) -> str:
    return WIDE_KERNEL if plan.wide else KERNEL


def unit(problem: MlaProblem, persona: Persona, plan: Sm90Plan) -> Unit:
    cut: dict[str, str] = (
        {} if plan.wide else {"AITERLITE_COLUMNS": str(plan.columns), "AITERLITE_STAGES": str(plan.stages)}
    )
    defines = {
        **cut,
        "AITERLITE_BOXES": str(int(plan.boxes)),
        "AITERLITE_KV": problem.kv_dtype,
        "AITERLITE_OUT": problem.out_dtype,
        "AITERLITE_PLANNED": str(int(problem.plan_units > 0)),
        "AITERLITE_Q": problem.q_dtype,
        "AITERLITE_SHARED_BYTES": str(plan.shared_bytes),
        **overlap_defines(persona.target),
    }
    name = "sm90_decode_wide" if plan.wide else "sm90_decode"
    given = tuple(sorted(defines.items()))
    return Unit(f"mla/{name}", (f"csrc/mla/{name}.hip",), persona.target, given, symbols=(symbol(plan),))


def arguments(plan: Sm90Plan) -> ArgumentStruct:
    return BOX_ARGS if plan.boxes else DECODE_ARGS


def maps(problem: MlaProblem, plan: Sm90Plan) -> tuple[TensorMap, ...]:
    """KV as [pages, page_size, 576], in boxes whose rows are as long as they are swizzled."""
    if not plan.boxes:
        return ()
    sizes, strides = (_KEY_DIM, problem.page_size, "pages"), ("stride_slot", "stride_page")
    swizzle = 64 if problem.kv_dtype == "e4m3fn" else 128
    return (TensorMap("kv_map", "kv_buffer", problem.kv_dtype, sizes, strides, (64, BOX_TOKENS, 1), swizzle),)
