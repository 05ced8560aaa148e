"""wvSplitKrc: the skinny GEMM for up to 128 tokens, with K split over workgroups and three ways to reduce."""

from __future__ import annotations

from dataclasses import dataclass

from aiterlite.dispatch import Between, Holds, OneOf, Row, Table, Targets
from aiterlite.jit.spec import Unit
from aiterlite.tables import gemm, gemm_sm90, overlap
from aiterlite.tables.gemm_plan import CHIPS
from aiterlite.tables.gemm_rc_plan import MAX_TOKENS, REDUCTIONS, ReduceTiling, cut, reduce_kind, workspace_bytes
from aiterlite.target import Persona, launch_target

_INT32_MAX = 2**31 - 1
_HOST_SYMBOLS = (
    "aiterlite_gemm_reduce_abi",
    "aiterlite_wv_split_k_reduce_launch",
    "aiterlite_wv_split_k_reduce_workspace",
)
KERNEL = "aiterlite_wv_split_k_reduce"


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


def host_unit(target: str) -> Unit:
    """The launches of the family's reducing kernels. Its CPU implementation is that of `gemm.host_unit`."""
    return Unit("gemm_reduce", ("csrc/gemm/wv_split_k_reduce.cpp",), target, symbols=_HOST_SYMBOLS)


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
        **overlap.defines(persona.target),
    }
    return Unit(
        "gemm/wv_split_k_reduce",
        ("csrc/gemm/wv_split_k_reduce.hip",),
        persona.target,
        defines=tuple((name, str(value)) for name, value in defines.items()),
        symbols=(KERNEL,),
    )


def _units(problem: RcProblem, persona: Persona, plan: WvSplitKrcPlan) -> tuple[Unit, ...]:
    return overlap.with_launch((device_unit(problem, persona, plan), host_unit(launch_target())))


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
    return Row(name, backend, (Targets(targets), *_SKINNY), plan=plan_wv_split_krc, units=_units)


# On a CPU each output is summed by one thread in one order, which N does not change: it is all three reductions.
_CPU = Row(
    name="cpu",
    backend="host",
    requires=(Targets(("cpu-*",)), *_SKINNY),
    units=lambda problem, persona, plan: (gemm.host_unit(persona.target),),
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
    units=gemm_sm90.units,
)

WV_SPLIT_K_RC = Table(
    "wvSplitKrc", RcProblem, (_CPU, _gpu_row("mfma", "hip", "gfx"), _WGMMA, _gpu_row("mma_sync", "cuda", "sm_"))
)
