"""RMSNorm with results of MXFP4: one kernel, whose rows are cut as those of RMSNorm are (tables/norm.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Between, OneOf, Refusal, Row, Table, Targets, Wishes, one_axis
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Value, along_x, overlap_defines
from aiterlite.tables.mx_types import BLOCK
from aiterlite.tables.mxfp4_quant import DTYPES, LAYOUTS, TILE_BLOCKS, host_unit
from aiterlite.tables.norm import NormPlan, QuantNormProblem, plan_rows
from aiterlite.target import Persona

ARGS = ArgumentStruct("aiterlite_mxfp4_norm_args", "aiterlite/mxfp4/norm_args.h")
RMS_QUANT, KERNEL = "fused_rms_mxfp4_quant", "aiterlite_mxfp4_norm"
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class MxNormProblem:
    """RMSNorm of `row_count` rows of `row_width` elements of `dtype` as e2m1, a scale of e8m0 for each 32 of a row.

    `layout`: how scales lie (rows, columns, shuffled). `scale_rows`: the rows of shuffled scales, padding included; 0
    is up to a multiple of 256. `add`: a residual is added before. `plain`: the norm is written unquantised, too.
    `aligned`: every row that is read or written starts at a multiple of 16 bytes.
    """

    row_count: int
    row_width: int
    dtype: str = "bf16"
    layout: str = "rows"
    scale_rows: int = 0
    add: bool = False
    plain: bool = False
    aligned: bool = True

    @property
    def rows_of_scales(self) -> int:
        if self.layout != "shuffled":
            return self.row_count
        return self.scale_rows or -(-self.row_count // 256) * 256

    @property
    def blocks_of_scales(self) -> int:
        blocks = self.row_width // BLOCK
        return -(-blocks // TILE_BLOCKS) * TILE_BLOCKS if self.layout == "shuffled" else blocks


@dataclass(frozen=True)
class WholeBlocks:
    """Rows are whole blocks."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if problem.row_width % BLOCK:
            return Refusal(f"row_width, {problem.row_width}, is no multiple of the block, {BLOCK}", "pad the rows")
        return None

    def __str__(self) -> str:
        return f"rows of whole blocks of {BLOCK}"


def plan(problem: MxNormProblem, persona: Persona) -> NormPlan:
    """A team for each row, of padding too. (A team of norm/rows.hip has several rows only where no group of them has a
    scale of its own.)"""
    rows = problem.rows_of_scales
    groups = QuantNormProblem(rows, problem.row_width, problem.dtype, aligned=problem.aligned, group_size=1)
    return plan_rows(groups, persona)


def _args(problem: MxNormProblem) -> dict[str, Value]:
    return {
        "rows": problem.row_count,
        "width": problem.row_width,
        "scale_rows": problem.rows_of_scales,
        "scale_blocks": problem.blocks_of_scales,
        "layout": LAYOUTS.index(problem.layout),
        "inverse_width": 1.0 / problem.row_width,
        "reserved": 0,
    }


def _cpu(problem: MxNormProblem, persona: Persona, _: Any) -> tuple[Kernel, ...]:
    symbol = f"aiterlite_mxfp4_norm_cpu_{problem.dtype}"
    return (Kernel(host_unit(persona.target), symbol, ARGS, args=_args(problem)),)


def _gpu(problem: MxNormProblem, persona: Persona, plan: NormPlan) -> tuple[Kernel, ...]:
    overlaps = overlap_defines(persona.target)
    values: dict[str, object] = {
        "add": int(problem.add),
        "aligned": int(problem.aligned),
        # Elsewhere nothing overlaps, and one kernel serves both.
        "early": int(plan.early and bool(overlaps)),
        "element": problem.dtype,
        "lanes": plan.lanes,
        # Rows and columns differ by strides alone.
        "layout": 2 * int(problem.layout == "shuffled"),
        "passes": plan.passes,
        "plain": int(problem.plain),
        "resident": plan.resident,
        "threads": plan.threads,
    }
    defines = {f"AITERLITE_{name.upper()}": str(value) for name, value in values.items()} | overlaps
    unit = Unit("mxfp4/norm", ("csrc/mxfp4/norm.hip",), persona.target, tuple(defines.items()), symbols=(KERNEL,))
    return (Kernel(unit, KERNEL, ARGS, along_x(plan.grid), along_x(plan.threads), args=_args(problem)),)


_REQUIRES = (
    OneOf("dtype", DTYPES),
    OneOf("layout", LAYOUTS),
    Between("row_count", 1, _INT32_MAX),
    Between("row_width", 1, _INT32_MAX),
    WholeBlocks(),
)


def _derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return values


RMS_QUANT_TABLE = Table(
    RMS_QUANT,
    MxNormProblem,
    (
        Row("cpu", "host", (Targets(("cpu-*",)), *_REQUIRES), kernels=_cpu),
        Row("lanes", "hip", (Targets(("gfx942", "gfx950")), *_REQUIRES), 0, plan, _gpu),
        Row("warps", "cuda", (Targets(("sm_90a",)), *_REQUIRES), 0, plan, _gpu),
    ),
    # DeepSeek-R1's hidden size, for decode, a batch of it, and prefill.
    (one_axis("row_count", 1, 16, 256, 4096), one_axis("row_width", 7168), one_axis("add", False, True)),
    _derive,
)
