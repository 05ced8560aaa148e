"""wvSplitKrc: the skinny GEMM for up to 128 tokens, with K split over workgroups and three ways to reduce."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite import envs
from aiterlite.dispatch import Between, Holds, OneOf, Row, Table, Targets, one_axis
from aiterlite.jit.spec import Unit
from aiterlite.kernel import WORKSPACE, Kernel, Operand, Value, Workspace, along_x, overlap_defines
from aiterlite.tables import gemm, gemm_sm90
from aiterlite.tables.gemm_args import REDUCE_ARGS
from aiterlite.tables.gemm_plan import CHIPS
from aiterlite.tables.gemm_rc_plan import (
    COUNTERS,
    MAX_TOKENS,
    REDUCE_ATOMIC,
    REDUCE_NONE,
    REDUCTIONS,
    ReduceTiling,
    cut,
    reduce_kind,
    workspace_bytes,
)
from aiterlite.target import Persona

_INT32_MAX = 2**31 - 1
KERNEL = "aiterlite_wv_split_k_reduce"
COUNTER_BYTES = 4 * COUNTERS


@dataclass(frozen=True)
class RcProblem(gemm.GemmProblem):
    """A skinny GEMM, and how its partial sums are reduced."""

    reduction: str = "deterministic"


@dataclass(frozen=True)
class WvSplitKrcPlan:
    """One launch: the variant's tiling, its reduction (the kernel's AITERLITE_REDUCE) and whether its loads may assume
    alignment; the shards of K; the geometry; the bytes of workspace that it needs."""

    tiling: ReduceTiling
    reduce: int
    aligned: bool
    shards: int
    shard_k: int
    grid: int
    block: int
    workspace: int


def plan_wv_split_krc(problem: RcProblem, persona: Persona) -> WvSplitKrcPlan:
    """The tiling, shards and geometry of a GPU launch. They do not depend on alignment, dtype or bias."""
    units = max(1, persona.cu_count)
    chosen = cut(persona.target, problem.n, problem.m, problem.k, units, problem.reduction)
    reduce = reduce_kind(problem.reduction, chosen.shards)
    tiles = -(-problem.m // chosen.tiling.rows)
    return WvSplitKrcPlan(
        tiling=chosen.tiling,
        reduce=reduce,
        aligned=problem.aligned,
        shards=chosen.shards,
        shard_k=chosen.shard_k,
        grid=tiles * chosen.shards,
        block=chosen.tiling.waves * persona.wave_size,
        workspace=workspace_bytes(reduce, tiles, chosen.tiling.rows * chosen.tiling.cols, chosen.shards),
    )


def device_unit(problem: RcProblem, persona: Persona, plan: WvSplitKrcPlan) -> Unit:
    tiling = plan.tiling
    defines = {
        "AITERLITE_ALIGNED": int(plan.aligned),
        "AITERLITE_COLS": tiling.cols,
        "AITERLITE_ELEMENT": problem.dtype,
        "AITERLITE_K_WAVES": tiling.k_waves,
        "AITERLITE_REDUCE": plan.reduce,
        "AITERLITE_ROW_WAVES": tiling.row_waves,
        "AITERLITE_TILES": tiling.tiles,
        "AITERLITE_UNROLL": tiling.unroll,
        **overlap_defines(persona.target),
    }
    return Unit(
        "gemm/wv_split_k_reduce",
        ("csrc/gemm/wv_split_k_reduce.hip",),
        persona.target,
        defines=tuple((name, str(value)) for name, value in defines.items()),
        symbols=(KERNEL,),
    )


def _kernels(problem: RcProblem, persona: Persona, plan: WvSplitKrcPlan) -> tuple[Kernel, ...]:
    memory: dict[str, Value] = {"counters": 0, "partials": 0}
    if plan.reduce != REDUCE_NONE:
        memory = {"counters": Operand(WORKSPACE), "partials": Operand(WORKSPACE, COUNTER_BYTES)}
    args = {**gemm.gemm_sizes(problem), **memory, "shards": plan.shards, "shard_k": plan.shard_k}
    unit = device_unit(problem, persona, plan)
    return (Kernel(unit, KERNEL, REDUCE_ARGS, along_x(plan.grid), along_x(plan.block), args=args),)


def workspace_of(problem: RcProblem, persona: Persona, plan: WvSplitKrcPlan) -> Workspace | None:
    """A launch leaves sums behind its counters, or zeros where atomics add, so these are kinds of their own."""
    if plan.reduce == REDUCE_NONE:
        return None
    if plan.reduce == REDUCE_ATOMIC:
        return Workspace("gemm atomic", plan.workspace, plan.workspace)
    return Workspace("gemm slices", COUNTER_BYTES, plan.workspace)


_SKINNY = (
    OneOf("dtype", gemm.DTYPES),
    Between("n", 1, MAX_TOKENS),
    Between("m", 1, _INT32_MAX),
    Between("k", 1, _INT32_MAX),
    Holds("dense", True, "an operand's last dimension is strided", "make it contiguous"),
    OneOf("reduction", REDUCTIONS),
)


def _gpu_row(name: str, backend: str, prefix: str) -> Row:
    targets = tuple(target for target in CHIPS if target.startswith(prefix))
    return Row(name, backend, (Targets(targets), *_SKINNY), 0, plan_wv_split_krc, _kernels, workspace_of)


# On a CPU one thread sums each output in one order, which N does not change: that is all three reductions.
_CPU = Row(
    name="cpu",
    backend="host",
    requires=(Targets(("cpu-*",)), *_SKINNY),
    kernels=gemm.cpu_kernels,
)

# No atomics and no workspace: it is `deterministic`, and `fast` has nothing to gain.
_WGMMA = Row(
    name="wgmma",
    backend="cuda",
    requires=(
        Targets((gemm_sm90.TARGET,)),
        Holds("aligned", True, "an operand is not 16-byte aligned", "pad rows and addresses to 16 bytes"),
        *_SKINNY,
    ),
    plan=gemm_sm90.plan,
    kernels=gemm_sm90.kernels,
)


def derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The defaults of a call: contiguous operands, and the reduction of AITERLITE_GEMM_REDUCTION."""
    return gemm.derive({"reduction": envs.GEMM_REDUCTION.get(), **values})


SWEEP = (gemm.SWEEP[0], one_axis("n", 1, 4, 16, 32, 64, 128), gemm.SWEEP[2])
WV_SPLIT_K_RC = Table(
    "wvSplitKrc",
    RcProblem,
    (_CPU, _gpu_row("mfma", "hip", "gfx"), _WGMMA, _gpu_row("mma_sync", "cuda", "sm_")),
    SWEEP,
    derive,
)
