"""Quantisation to MXFP4: which kernels serve a call, and how they are cut.

One kernel for rows, for rows whose parts lie apart, and for what a gated activation makes of them: a workgroup has a
tile of 32 rows by 8 blocks of 32 elements, which is how the scales of matrix units lie in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Between, OneOf, Refusal, Row, Table, Targets, Wishes, one_axis
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Value, along_x, overlap_defines
from aiterlite.tables.activation import ACTIVATIONS
from aiterlite.tables.mx_types import BLOCK
from aiterlite.tables.quant_plan import division
from aiterlite.target import Persona

ARGS = ArgumentStruct("aiterlite_mxfp4_quant_args", "aiterlite/mxfp4/quant_args.h")
DTYPES = ("bf16", "fp16")
# How scales lie, as kernels number it: as [rows, blocks], as [blocks, rows], in tiles for matrix units.
LAYOUTS = ("rows", "columns", "shuffled")
QUANT, ACT_QUANT = "quant_mxfp4", "act_mul_and_mxfp4_quant"
TILE_ROWS, TILE_BLOCKS, PADDED_ROWS = 32, 8, 256
KERNEL = "aiterlite_mxfp4_quantise"
_THREADS, _INT32_MAX = 256, 2**31 - 1
# Kernels divide numbers of tiles below 2^31; half of that leaves room.
_MOST_TILES = 2**30
# Workgroups of a multiprocessor that registers must have room for: 64 and 128 bytes a thread are under way.
_RESIDENT, _RESIDENT_GATED = 5, 4


@dataclass(frozen=True)
class MxQuantProblem:
    """`row_count` rows of `row_width` elements of `dtype` as e2m1, a scale of e8m0 for each 32 of a row.

    `layout`: how scales lie (rows, columns, shuffled). `scale_rows`: the rows of shuffled scales, padding included; 0
    is up to a multiple of 256. `parted`: a row lies in parts that are apart. `aligned`: every block of x and of the
    output starts at a multiple of 16 bytes.
    """

    row_count: int
    row_width: int
    dtype: str = "bf16"
    layout: str = "rows"
    scale_rows: int = 0
    parted: bool = False
    aligned: bool = True

    @property
    def blocks(self) -> int:
        """Of a row."""
        return self.row_width // BLOCK

    @property
    def row_tiles(self) -> int:
        if self.layout == "shuffled":
            return (self.scale_rows or -(-self.row_count // PADDED_ROWS) * PADDED_ROWS) // TILE_ROWS
        return -(-self.row_count // TILE_ROWS)

    @property
    def block_tiles(self) -> int:
        return -(-self.blocks // TILE_BLOCKS)


@dataclass(frozen=True)
class MxActProblem(MxQuantProblem):
    """The same of act(gate) * up: rows of x hold `row_width` gates, then as many ups."""

    activation: str = "silu"


@dataclass(frozen=True)
class MxQuantPlan:
    """One launch of mxfp4/quantise.hip, a workgroup for each tile. `early`: the whole grid is on the chip at once."""

    early: bool
    grid: int


@dataclass(frozen=True)
class BlocksFit:
    """Rows are whole blocks, and tiles are as many as kernels can count."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if problem.row_width % BLOCK:
            return Refusal(f"row_width, {problem.row_width}, is no multiple of the block, {BLOCK}", "pad the rows")
        if problem.row_tiles * problem.block_tiles > _MOST_TILES:
            given = f"{problem.row_count} rows of {problem.blocks} blocks are more than 2^30 tiles of 32 rows by 8"
            return Refusal(given, "split the rows")
        return None

    def __str__(self) -> str:
        return f"rows of whole blocks of {BLOCK}"


def plan(problem: MxQuantProblem, persona: Persona) -> MxQuantPlan:
    grid = problem.row_tiles * problem.block_tiles
    return MxQuantPlan(grid * _THREADS <= 1024 * max(1, persona.cu_count), grid)


def _args(problem: MxQuantProblem) -> dict[str, Value]:
    return {
        "rows": problem.row_count,
        "blocks": problem.blocks,
        "row_tiles": problem.row_tiles,
        "block_tiles": problem.block_tiles,
        "layout": LAYOUTS.index(problem.layout),
        "activation": _activation(problem),
        **division(problem.block_tiles),
    }


def _activation(problem: MxQuantProblem) -> int:
    name = getattr(problem, "activation", "")
    return ACTIVATIONS.index(name) if name else -1


def host_unit(target: str) -> Unit:
    """The family's CPU implementation, a symbol for each kind and type."""
    kinds = ("quantise", "norm")
    symbols = tuple(f"aiterlite_mxfp4_{kind}_cpu_{dtype}" for kind in kinds for dtype in DTYPES)
    sources = tuple(f"csrc/mxfp4/{kind}.cpp" for kind in (*kinds, "sort"))
    return Unit("mxfp4", sources, target, symbols=(*symbols, "aiterlite_mxfp4_sort_cpu"))


def cpu_kernels(problem: MxQuantProblem, persona: Persona, _: Any) -> tuple[Kernel, ...]:
    symbol = f"aiterlite_mxfp4_quantise_cpu_{problem.dtype}"
    return (Kernel(host_unit(persona.target), symbol, ARGS, args=_args(problem)),)


def gpu_kernels(problem: MxQuantProblem, persona: Persona, plan: MxQuantPlan) -> tuple[Kernel, ...]:
    overlaps = overlap_defines(persona.target)
    activation = _activation(problem)
    values: dict[str, object] = {
        "activation": activation,
        "aligned": int(problem.aligned),
        # Elsewhere nothing overlaps, and one kernel serves both.
        "early": int(plan.early and bool(overlaps)),
        "element": problem.dtype,
        "layout": LAYOUTS.index(problem.layout),
        "parted": int(problem.parted),
        "resident": _RESIDENT if activation < 0 else _RESIDENT_GATED,
    }
    defines = {f"AITERLITE_{name.upper()}": str(value) for name, value in values.items()} | overlaps
    sources = ("csrc/mxfp4/quantise.hip",)
    unit = Unit("mxfp4/quantise", sources, persona.target, tuple(defines.items()), symbols=(KERNEL,))
    return (Kernel(unit, KERNEL, ARGS, along_x(plan.grid), along_x(_THREADS), args=_args(problem)),)


# The tables -----------------------------------------------------------------------------------------------------------

_ROWS = (
    OneOf("dtype", DTYPES),
    OneOf("layout", LAYOUTS),
    Between("row_count", 1, _INT32_MAX),
    Between("row_width", 1, _INT32_MAX),
    BlocksFit(),
)


def _table(op: str, problem: type, width: int, *extra: Any) -> Table:
    requires = (*_ROWS, *extra)

    def derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
        return values

    return Table(
        op,
        problem,
        (
            Row("cpu", "host", (Targets(("cpu-*",)), *requires), kernels=cpu_kernels),
            Row("lanes", "hip", (Targets(("gfx942", "gfx950")), *requires), 0, plan, gpu_kernels),
            Row("warps", "cuda", (Targets(("sm_90a",)), *requires), 0, plan, gpu_kernels),
        ),
        (one_axis("row_count", 1, 16, 256, 4096), one_axis("row_width", width), one_axis("layout", "rows", "shuffled")),
        derive,
    )


# DeepSeek-R1's hidden size and its shared expert, for decode, a batch of it, and prefill.
QUANT_TABLE = _table(QUANT, MxQuantProblem, 7168)
ACT_QUANT_TABLE = _table(ACT_QUANT, MxActProblem, 2048, OneOf("activation", ACTIVATIONS))
