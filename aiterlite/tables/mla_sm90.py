"""MLA decode on sm_90: which of csrc/mla/sm90_decode.hip, sm90_decode_short.hip and sm90_decode_wide.hip serves a call,
and how it is cut for it. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aiterlite import hardware
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
SHORT_KERNEL = "aiterlite_sm90_mla_decode_short"
# Two warpgroups multiply, two copy; one where the former need the registers, with 32 columns or 64 rows, and where
# boxes come.
_THREADS, _THREADS_FEW, _THREADS_LEAST = 512, 384, 288
# Tokens of a box (mla/sm90_boxes.h); of boxes of a tile, which comes in parts, rows of 64 elements.
BOX_TOKENS, _PART_PANELS = 16, 3
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
# The same of the kernel for few tokens, fitted to 110 measured calls within 20 %, so that it finds the first of most
# shapes: a workgroup without its tokens, by bits and columns, 16 or 32; what it takes besides in a cluster, by columns,
# and in one of 16; a merge, a part of it, a row. A tile, by bits and columns. What memory brings, in megabytes a
# microsecond, to all multiprocessors and to one.
_SHORT_US, _CLUSTER_US, _LARGE_CLUSTER_US = ((4.2, 5.9), (4.3, 7.3)), (1.0, 1.6), 0.4
_SHORT_MERGE_US = (3.0, 0.06, 0.0025)
_SHORT_TILE_US, _READ_RATE, _UNIT_RATE = ((1.45, 2.0), (1.5, 2.0)), 4.5, 0.068
_TOKEN_BYTES = (1152, 576)
# Workgroups of a cluster. Of few multiprocessors not all have clusters of more than 8.
_RANKS, _UNITS_OF_LARGE_CLUSTERS = (1, 2, 4, 8, 16), 100
MOST_SPLITS = 64


@dataclass(frozen=True)
class Sm90Plan:
    """One launch: `columns` packed rows of q a workgroup, `column_groups` of those a piece, `stages` tiles of 64 tokens
    in `shared_bytes` of shared memory. `wide`: by the kernel for 64 rows. `boxes`: the copy engine brings 16 tokens of
    a page at once, not rows one by one. `ranks`: by the kernel for few tokens, in which so many workgroups, a cluster,
    share each split; 0: by another one."""

    wide: bool
    boxes: bool
    columns: int
    column_groups: int
    stages: int
    shared_bytes: int
    grid: int
    ranks: int = 0


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


def short_shared_bytes(columns: int, stages: int, kv_dtype: str, boxes: bool, ranks: int) -> int:
    """The size of sm90_decode_short.hip's `Shared`: tiles; operands; what is small."""
    weight_parts = 2 if kv_dtype == "bf16" else 1
    row = _KEY_DIM * (1 if kv_dtype == "e4m3fn" else 2) + (0 if boxes else _PADDING)
    operands = columns * _KEY_DIM * 2 + 2 * weight_parts * columns * _TOKENS * 2
    small = columns * (32 + 16 + 8 * ranks) + 4 * 32 + (4 * 8 + 8) * stages + 24
    return _aligned(stages * _TOKENS * row + operands + small)


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


class _Done(NamedTuple):
    """When a call of so many rows of q a workgroup, and splits, is done: first of all its microseconds."""

    us: float
    splits: int
    cut: int


def _done(problem: MlaProblem, units: int, splits: int) -> _Done:
    """That of the best cut; the most rows of equals."""
    batch, context, rows = max(1, problem.batch), max(1, problem.context), problem.q_len * problem.heads
    given = (units, batch, rows, context, problem.kv_dtype, splits)
    cuts = reversed(_cuts(rows, problem.q_dtype, problem.kv_dtype))
    return min((_Done(_microseconds(cut, *given), splits, cut) for cut in cuts), key=lambda done: done.us)


def plan_decode(problem: MlaProblem, persona: Persona) -> Sm90Plan:
    """The rows of q a workgroup that are done first: few where that fills the multiprocessors, many where KV is read
    again for each group of them. With a plan, which was made for a piece a workgroup, the fewest that hold all rows of
    a piece, or the most. Then as many stages as fit. Boxes where pages are made of them."""
    rows, boxes = problem.q_len * problem.heads, problem.pages_exist and problem.page_size % BOX_TOKENS == 0
    pieces = problem.plan_units or problem.batch * problem.splits
    cuts = _cuts(rows, problem.q_dtype, problem.kv_dtype)
    columns = cuts[-1]
    short = short_cut(problem, persona, (problem.splits,))
    if short is not None:
        return _plan_short(problem, persona, short)
    if not problem.plan_units:
        columns = _done(problem, max(1, mla_heads.compute_units(persona)), problem.splits).cut
    groups = -(-rows // columns)
    if columns == WIDE_ROWS:
        return Sm90Plan(True, boxes, columns, groups, _LEAST_STAGES, wide_shared_bytes(), pieces * groups)
    stages = _MOST_STAGES
    while stages > _LEAST_STAGES and shared_bytes(columns, stages, problem.kv_dtype, boxes) > persona.lds_bytes:
        stages -= 1
    size = shared_bytes(columns, stages, problem.kv_dtype, boxes)
    return Sm90Plan(False, boxes, columns, groups, stages, size, pieces * groups)


@dataclass(frozen=True)
class Short:
    """A cut for sm90_decode_short.hip: `columns` heads a workgroup, `ranks` workgroups of each of `splits`."""

    columns: int
    ranks: int
    splits: int

    def groups(self, heads: int) -> int:
        return -(-heads // self.columns)

    def tiles(self, context: float) -> int:
        """Those of a workgroup."""
        return max(1, math.ceil(context / (_TOKENS * self.splits * self.ranks)))

    def us(self, problem: MlaProblem, units: int) -> float:
        eight_bits, wide = problem.kv_dtype == "e4m3fn", self.columns > COLUMNS[0]
        groups, tiles = self.groups(problem.heads), self.tiles(problem.context)
        workgroups = problem.batch * self.splits * groups * self.ranks
        rounds = math.ceil(workgroups / max(1, hardware.units_in_clusters(self.ranks, units)))
        # Some may have no tile, and workgroups that share KV read it once.
        readers = problem.batch * math.ceil(max(1, problem.context) / (_TOKENS * tiles))
        read = problem.batch * problem.context * _TOKEN_BYTES[eight_bits] * 1e-6
        reading = read / min(_READ_RATE, _UNIT_RATE * readers)
        working = rounds * tiles * _SHORT_TILE_US[eight_bits][wide]
        cluster = (_CLUSTER_US[wide] if self.ranks > 1 else 0.0) + (_LARGE_CLUSTER_US if self.ranks > 8 else 0.0)
        taken = rounds * (_SHORT_US[eight_bits][wide] + cluster) + max(reading, working)
        base, part, row = _SHORT_MERGE_US
        return taken + (base + part * self.splits + row * problem.batch * problem.heads if self.splits > 1 else 0.0)


def short_cut(problem: MlaProblem, persona: Persona, splits: Iterable[int]) -> Short | None:
    """How sm90_decode_short.hip serves a call done first, where it is the one to serve it; None: another kernel is.

    It takes one row of q a request: of 16-bit KV always, but for more heads than columns where the models say
    otherwise; of 8 bits, which it converts in one group of warps at a time, few tiles a workgroup."""
    if problem.plan_units or problem.q_len != 1:
        return None
    units, heads, splits = max(1, mla_heads.compute_units(persona)), problem.heads, tuple(splits)
    columns = COLUMNS if heads > COLUMNS[0] else COLUMNS[:1]
    most = _RANKS[-1] if units >= _UNITS_OF_LARGE_CLUSTERS else hardware.PORTABLE_CLUSTER
    ranks = [count for count in _RANKS if count <= most]
    best = min(
        itertools.starmap(Short, itertools.product(columns, ranks, splits)), key=lambda cut: cut.us(problem, units)
    )
    if problem.kv_dtype == "e4m3fn":
        # Of more heads the kernel before reads KV less often, and loses only to what needs no merge.
        spread = best.columns == COLUMNS[0] < heads and (heads <= COLUMNS[-1] or best.splits == 1)
        few = 8 if spread else 2
        return best if best.tiles(problem.context) <= few else None
    wide = heads > COLUMNS[-1] and min(_done(problem, units, count) for count in splits).cut == WIDE_ROWS
    return None if wide else best


def _plan_short(problem: MlaProblem, persona: Persona, cut: Short) -> Sm90Plan:
    columns, ranks, boxes = cut.columns, cut.ranks, _box_tokens(problem) > 1
    stages = _MOST_STAGES
    while short_shared_bytes(columns, stages, problem.kv_dtype, boxes, ranks) > persona.lds_bytes:
        stages -= 1
    size, groups = short_shared_bytes(columns, stages, problem.kv_dtype, boxes, ranks), cut.groups(problem.heads)
    grid = problem.batch * problem.splits * groups * ranks
    return Sm90Plan(False, boxes, columns, groups, stages, size, grid, ranks)


def _box_tokens(problem: MlaProblem) -> int:
    """The tokens of a box of the kernel for few tokens; 1: rows are copied."""
    if not problem.pages_exist or problem.page_size % BOX_TOKENS != 0:
        return 1
    return _TOKENS if problem.page_size % _TOKENS == 0 else BOX_TOKENS


def unasked_splits(problem: MlaProblem, persona: Persona) -> int:
    """The count of pieces of each request that is done first by the models above. The lowest of equals."""
    units = max(1, mla_heads.compute_units(persona))
    # Of few tokens, powers of two, and what fills the multiprocessors.
    filling = (units // max(1, problem.batch * -(-problem.heads // columns)) for columns in COLUMNS)
    some = sorted({1, 2, 4, 8, 16, 32, MOST_SPLITS, *(min(max(1, count), MOST_SPLITS) for count in filling)})
    short = short_cut(problem, persona, some)
    if short is not None:
        return short.splits
    return min(_done(problem, units, splits) for splits in range(1, MOST_SPLITS + 1)).splits


def threads(plan: Sm90Plan, page_size: int) -> int:
    """Two warpgroups, and those that copy. One warp asks for whole tiles; with 32 columns its warpgroup gives registers
    up."""
    if plan.ranks:
        alone = plan.boxes and page_size % _TOKENS == 0 and plan.columns == COLUMNS[0]
        return _THREADS_LEAST if alone else _THREADS_FEW
    return _THREADS if plan.columns == COLUMNS[0] and not plan.boxes else _THREADS_FEW


def symbol(plan: Sm90Plan) -> str:
    return WIDE_KERNEL if plan.wide else SHORT_KERNEL if plan.ranks else KERNEL


def unit(problem: MlaProblem, persona: Persona, plan: Sm90Plan) -> Unit:
    cut = {"AITERLITE_COLUMNS": plan.columns, "AITERLITE_STAGES": plan.stages}
    if plan.ranks:
        cut |= {"AITERLITE_BOX_TOKENS": _box_tokens(problem), "AITERLITE_RANKS": plan.ranks}
    else:
        cut = {} if plan.wide else cut
        cut |= {"AITERLITE_BOXES": int(plan.boxes), "AITERLITE_PLANNED": int(problem.plan_units > 0)}
    defines = {
        **{name: str(value) for name, value in cut.items()},
        "AITERLITE_KV": problem.kv_dtype,
        "AITERLITE_OUT": problem.out_dtype,
        "AITERLITE_Q": problem.q_dtype,
        "AITERLITE_SHARED_BYTES": str(plan.shared_bytes),
        **overlap_defines(persona.target),
    }
    name = "sm90_decode_wide" if plan.wide else "sm90_decode_short" if plan.ranks else "sm90_decode"
    given = tuple(sorted(defines.items()))
    return Unit(f"mla/{name}", (f"csrc/mla/{name}.hip",), persona.target, given, symbols=(symbol(plan),))


def arguments(plan: Sm90Plan) -> ArgumentStruct:
    return BOX_ARGS if plan.boxes else DECODE_ARGS


def maps(problem: MlaProblem, plan: Sm90Plan) -> tuple[TensorMap, ...]:
    """KV as [pages, page_size, 576], in boxes whose rows are as long as they are swizzled. A box of a tile has a
    third of its rows, of [pages, 9, page_size, 64]."""
    if not plan.boxes:
        return ()
    swizzle = 64 if problem.kv_dtype == "e4m3fn" else 128
    sizes: tuple[int | str, ...] = (_KEY_DIM, problem.page_size, "pages")
    strides: tuple[int | str, ...] = ("stride_slot", "stride_page")
    box: tuple[int, ...] = (64, BOX_TOKENS, 1)
    if plan.ranks and _box_tokens(problem) == _TOKENS:
        sizes, strides = (64, problem.page_size, _KEY_DIM // 64, "pages"), ("stride_slot", 64, "stride_page")
        box = (64, _TOKENS, _PART_PANELS, 1)
    return (TensorMap("kv_map", "kv_buffer", problem.kv_dtype, sizes, strides, box, swizzle),)
