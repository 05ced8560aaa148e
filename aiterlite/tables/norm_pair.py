"""RMSNorm of two tensors in one launch, such as q's and k's latents, or of one with more results than `norm` has.

One kernel in every case. Rows of each tensor have the teams that they would have in a launch of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Between, OneOf, Refusal, Row, Table, Targets, Wishes, one_axis
from aiterlite.hardware import ARCHITECTURES
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Value, along_x, overlap_defines
from aiterlite.tables import norm
from aiterlite.tables.family import Family
from aiterlite.tables.norm import CODES, DTYPES, GroupsFit, NormProblem
from aiterlite.target import Persona

ARGS = ArgumentStruct("aiterlite_norm_pair_args", "aiterlite/norm/pair_args.h")
PAIR = "fused_qk_rmsnorm"
_INT32_MAX = 2**31 - 1
_TEAM_THREADS = 128
# Registers that so many rows a lane need on Hopper, for the larger of two forms in one kernel.
_NEEDED = {1: 48, 2: 80}
# Of both tensors, each of which may have a workgroup a row, together below 2^31.
_MOST_ROWS = 2**30 - 1


@dataclass(frozen=True)
class PairNormProblem:
    """RMSNorm of `row_count` rows of `row_width` elements of `dtype`, and in the same launch of as many rows of
    `second_width` elements (0: of none).

    The first rows may be added to a residual (`with_add`). Their norm is written where `group_size` is 0; else it is
    quantised as `out_dtype`, with a float32 scale for each `group_size` elements of a row, which lie as [groups of a
    row, rows] where `transposed`, and written too where `both`. `gemma`: weights are one more than given. `aligned`:
    every row that is read or written starts at a multiple of 16 bytes, and is one of 16 bytes.
    """

    row_count: int
    row_width: int
    second_width: int = 512
    dtype: str = "bf16"
    with_add: bool = False
    both: bool = False
    gemma: bool = False
    aligned: bool = True
    group_size: int = 0
    out_dtype: str = "e4m3fn"
    transposed: bool = False


@dataclass(frozen=True)
class PairPlan:
    """One launch of norm/pair.hip: of each tensor `lanes` that share a row and have `batch` rows at once; `passes` is 2
    where they do not hold a whole row. Workgroups below `first_grid` are the first tensor's. `early`: the whole grid is
    on the chip at once. `resident`: workgroups that a multiprocessor's registers must have room for."""

    threads: int
    lanes: int
    batch: int
    passes: int
    second_lanes: int
    second_batch: int
    second_passes: int
    early: bool
    resident: int
    first_grid: int
    grid: int


@dataclass(frozen=True)
class ResultsFit:
    """Scales are for groups that fit; without scales there is one result."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if problem.group_size:
            return GroupsFit().refuse(problem, persona, wishes)
        if problem.both or problem.transposed:
            return Refusal("group_size is 0: there are no codes, and no scales", "give a group_size")
        return None

    def __str__(self) -> str:
        return f"no scales, or {GroupsFit()}"


def plan_pair(problem: PairNormProblem, persona: Persona) -> PairPlan:
    """The plans of both tensors, in workgroups of one size: the larger, where one has a workgroup."""

    def alone(width: int, group_size: int) -> norm.NormPlan:
        plain = problem.row_count, width, problem.dtype
        if not group_size:
            return norm.plan_rows(NormProblem(*plain, aligned=problem.aligned), persona)
        return norm.plan_rows(norm.QuantNormProblem(*plain, aligned=problem.aligned, group_size=group_size), persona)

    wave, first = persona.wave_size, alone(problem.row_width, problem.group_size)
    plans = [first, alone(problem.second_width, 0)] if problem.second_width else [first]
    threads = max((plan.threads for plan in plans if plan.lanes > wave), default=_TEAM_THREADS)
    teams = [1 if plan.lanes > wave else threads // plan.lanes for plan in plans]
    grids = [-(-problem.row_count // (n * plan.batch)) for n, plan in zip(teams, plans, strict=True)]
    second = plans[1] if problem.second_width else None
    crowded = any(plan.resident > 1 for plan in plans)
    return PairPlan(
        threads=threads,
        lanes=first.lanes,
        batch=first.batch,
        passes=first.passes,
        second_lanes=second.lanes if second else 0,
        second_batch=second.batch if second else 1,
        second_passes=second.passes if second else 1,
        early=sum(grids) * threads <= 1024 * max(1, persona.cu_count),
        resident=_resident(persona, threads, max(plan.batch for plan in plans)) if crowded else 1,
        first_grid=grids[0],
        grid=sum(grids),
    )


def _resident(persona: Persona, threads: int, batch: int) -> int:
    """How many workgroups of a Hopper multiprocessor hide each other's latency."""
    arch = ARCHITECTURES[persona.target]
    most = arch.simds * arch.waves_per_simd * arch.wave_size
    return max(1, min(most // threads, arch.unit_registers // (_NEEDED[batch] * threads)))


# Kernels --------------------------------------------------------------------------------------------------------------

KERNEL = "aiterlite_norm_pair"
_CPU = "aiterlite_norm_pair_cpu_{}"


def _args(problem: PairNormProblem, first_grid: int = 0) -> dict[str, Value]:
    return {
        "rows": problem.row_count,
        "width": problem.row_width,
        "group": problem.group_size,
        "transposed": int(problem.transposed),
        "gemma": int(problem.gemma),
        "second_width": problem.second_width,
        "first_grid": first_grid,
        "inverse_width": 1.0 / problem.row_width,
        "second_inverse_width": 1.0 / problem.second_width if problem.second_width else 0.0,
        "reserved": 0,
    }


def host_unit(target: str) -> Unit:
    """The family's CPU implementation, a symbol for each pair of types."""
    symbols = [_CPU.format("_".join(filter(None, (d, c)))) for d in DTYPES for c in ("", *CODES)]
    return Unit("norm_pair", ("csrc/norm/pair.cpp",), target, symbols=tuple(symbols))


def _cpu(problem: PairNormProblem, persona: Persona, _: Any) -> tuple[Kernel, ...]:
    code = problem.out_dtype if problem.group_size else ""
    symbol = _CPU.format("_".join(filter(None, (problem.dtype, code))))
    return (Kernel(host_unit(persona.target), symbol, ARGS, args=_args(problem)),)


def _gpu(problem: PairNormProblem, persona: Persona, plan: PairPlan) -> tuple[Kernel, ...]:
    size, overlaps = problem.group_size, overlap_defines(persona.target)
    values: dict[str, object] = {
        "add": int(problem.with_add),
        "aligned": int(problem.aligned),
        "batch": plan.batch,
        "code": problem.out_dtype if size else CODES[0],
        # Elsewhere nothing overlaps, and one kernel serves both.
        "early": int(plan.early and bool(overlaps)),
        "element": problem.dtype,
        "gemma": int(problem.gemma),
        # A row that is one group is that of its team.
        "group": size if size < problem.row_width else 1,
        "lanes": plan.lanes,
        "passes": plan.passes,
        "plain": int(problem.both or not size),
        "resident": plan.resident,
        "second_batch": plan.second_batch,
        "second_lanes": plan.second_lanes,
        "second_passes": plan.second_passes,
        "threads": plan.threads,
        "transposed": int(problem.transposed and size < problem.row_width),
    }
    defines = {f"AITERLITE_{name.upper()}": str(value) for name, value in values.items()} | overlaps
    unit = Unit("norm/pair", ("csrc/norm/pair.hip",), persona.target, tuple(defines.items()), symbols=(KERNEL,))
    args = _args(problem, plan.first_grid)
    return (Kernel(unit, KERNEL, ARGS, along_x(plan.grid), along_x(plan.threads), args=args),)


# The table ------------------------------------------------------------------------------------------------------------


def _derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
    whole = 16 if values.get("group_size", 0) else 8
    aligned = values.get("row_width", 0) % whole == 0 and values.get("second_width", 512) % 8 == 0
    return {"aligned": aligned, **values}


_REQUIRES = (
    OneOf("dtype", DTYPES),
    Between("row_count", 1, _MOST_ROWS),
    Between("row_width", 1, _INT32_MAX),
    Between("second_width", 0, _INT32_MAX),
    OneOf("out_dtype", CODES, "quantise to an e4m3 type or int8"),
    ResultsFit(),
)

PAIR_TABLE = Table(
    PAIR,
    PairNormProblem,
    (
        Row("cpu", "host", (Targets(("cpu-*",)), *_REQUIRES), kernels=_cpu),
        Row("lanes", "hip", (Targets(("gfx942", "gfx950")), *_REQUIRES), 0, plan_pair, _gpu),
        Row("warps", "cuda", (Targets(("sm_90a",)), *_REQUIRES), 0, plan_pair, _gpu),
    ),
    # The latents of DeepSeek-R1, for decode, a batch of it, and prefill.
    (one_axis("row_count", 1, 16, 256, 4096), one_axis("row_width", 1536)),
    _derive,
)

FAMILY = Family(
    name="norm_pair",
    tables=(PAIR_TABLE,),
    ops=("aiterlite.ops.norm_pair",),
    samples="aiterlite.ops.samples.norm_pair",
)
