"""MX scales in the order of entries that are sorted by experts: of scales that are there, and of rows that are
quantised in the same call. Then the quantiser comes first, and leaves its scales row by row for the kernel that sorts:
each row is read once, however many experts have it, and rows that none has are quantised too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiterlite.dispatch import Between, OneOf, Refusal, Row, Table, Targets, Wishes, one_axis
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Operand, Value, along_x, overlap_defines
from aiterlite.tables import mxfp4_quant
from aiterlite.tables.mx_types import BLOCK
from aiterlite.tables.mxfp4_quant import DTYPES, TILE_BLOCKS, TILE_ROWS, MxQuantProblem, host_unit
from aiterlite.tables.quant_plan import division
from aiterlite.target import Persona

ARGS = ArgumentStruct("aiterlite_mxfp4_sort_args", "aiterlite/mxfp4/sort_args.h")
SORT, QUANT_SORT, KERNEL = "mxfp4_moe_sort_fwd", "fused_dynamic_mxfp4_quant_moe_sort", "aiterlite_mxfp4_sort"
_SPAN = 4
_THREADS, _INT32_MAX, _MOST_TILES = TILE_ROWS * TILE_BLOCKS, 2**31 - 1, 2**30
# What an entry has room for.
MOST_TOKENS, MOST_TOPK = 2**24 - 1, 127


@dataclass(frozen=True)
class MxSortProblem:
    """Scales of `tokens` rows, or `topk` for each, of `row_width` elements, for `entries` sorted entries."""

    tokens: int
    row_width: int
    topk: int = 1
    entries: int = 0

    @property
    def blocks(self) -> int:
        """Of a row."""
        return -(-self.row_width // BLOCK)

    @property
    def row_tiles(self) -> int:
        return -(-self.entries // TILE_ROWS)

    @property
    def block_tiles(self) -> int:
        return -(-self.blocks // TILE_BLOCKS)

    @property
    def spans(self) -> int:
        """Of tiles beside each other, which a workgroup has."""
        return -(-self.block_tiles // _SPAN)


@dataclass(frozen=True)
class MxQuantSortProblem(MxSortProblem):
    """The same of rows of `dtype` that are quantised before; `aligned`: see `MxQuantProblem`."""

    dtype: str = "bf16"
    aligned: bool = True

    @property
    def rows(self) -> MxQuantProblem:
        """What is quantised."""
        return MxQuantProblem(self.tokens * self.topk, self.row_width, self.dtype, aligned=self.aligned)


@dataclass(frozen=True)
class TilesFit:
    """Tiles are as many as kernels can count, and rows to quantise are whole blocks."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if isinstance(problem, MxQuantSortProblem) and (refused := _FIT.refuse(problem.rows, persona, wishes)):
            return refused
        if problem.row_tiles * problem.block_tiles > _MOST_TILES:
            given = f"{problem.entries} entries of {problem.blocks} blocks are more than 2^30 tiles of 32 entries by 8"
            return Refusal(given, "split the tokens")
        return None

    def __str__(self) -> str:
        return "at most 2^30 tiles of 32 entries by 8 blocks"


_FIT = mxfp4_quant.BlocksFit()


@dataclass(frozen=True)
class MxSortPlan:
    """A workgroup of mxfp4/sort.hip for each span of tiles."""

    grid: int


def plan(problem: MxSortProblem, persona: Persona) -> MxSortPlan:
    return MxSortPlan(problem.row_tiles * problem.spans)


def _sort(problem: MxSortProblem, persona: Persona) -> Kernel:
    args: dict[str, Value] = {
        "tokens": problem.tokens,
        "topk": problem.topk,
        "entries": problem.entries,
        "blocks": problem.blocks,
        "row_tiles": problem.row_tiles,
        "block_tiles": problem.block_tiles,
        "spans": problem.spans,
        "reserved": 0,
        **division(problem.spans),
    }
    if persona.target.startswith("cpu"):
        return Kernel(host_unit(persona.target), "aiterlite_mxfp4_sort_cpu", ARGS, args=args)
    defines = tuple(overlap_defines(persona.target).items())
    unit = Unit("mxfp4/sort", ("csrc/mxfp4/sort.hip",), persona.target, defines, symbols=(KERNEL,))
    grid = plan(problem, persona).grid
    return Kernel(unit, KERNEL, ARGS, along_x(grid), along_x(_THREADS), args=args)


def _kernels(problem: MxSortProblem, persona: Persona, _: Any) -> tuple[Kernel, ...]:
    """The quantiser's scales are what the other kernel sorts."""
    sort = _sort(problem, persona)
    if not isinstance(problem, MxQuantSortProblem):
        return (sort,)
    rows = problem.rows
    if persona.target.startswith("cpu"):
        quantise = mxfp4_quant.cpu_kernels(rows, persona, None)
    else:
        quantise = mxfp4_quant.gpu_kernels(rows, persona, mxfp4_quant.plan(rows, persona))
    lying: dict[str, Value] = {"stride_row": problem.blocks, "stride_block": 1}
    own: dict[str, Value] = {"scales": Operand("row_scales"), **lying}
    return (
        *(replace(kernel, args={**kernel.args, **own}) for kernel in quantise),
        replace(sort, args={**sort.args, **lying}),
    )


def _table(op: str, problem: type, *extra: Any) -> Table:
    requires = (
        Between("entries", 1, _INT32_MAX),
        Between("row_width", 1, _INT32_MAX),
        Between("tokens", 1, MOST_TOKENS),
        Between("topk", 1, MOST_TOPK),
        *extra,
        TilesFit(),
    )

    def derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
        # 256 experts, blocks of 32, as moe_sorting allocates them.
        pairs = values.get("tokens", 1) * 8
        return {"entries": pairs + 256 * 32 - 8, **values}

    return Table(
        op,
        problem,
        (
            Row("cpu", "host", (Targets(("cpu-*",)), *requires), kernels=_kernels),
            Row("lanes", "hip", (Targets(("gfx942", "gfx950")), *requires), 0, plan, _kernels),
            Row("warps", "cuda", (Targets(("sm_90a",)), *requires), 0, plan, _kernels),
        ),
        (one_axis("tokens", 1, 64, 4096), one_axis("row_width", 7168)),
        derive,
    )


SORT_TABLE = _table(SORT, MxSortProblem)
QUANT_SORT_TABLE = _table(QUANT_SORT, MxQuantSortProblem, OneOf("dtype", DTYPES))
