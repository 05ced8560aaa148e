"""Skinny GEMM: which kernel serves y[N, M] = x[N, K] · W[M, K]^T + bias, and how it is tiled."""

from __future__ import annotations

from dataclasses import dataclass

from aiterlite.amdgpu import kernarg
from aiterlite.dispatch import Between, Holds, OneOf, Row, Table, Targets
from aiterlite.jit.spec import Unit
from aiterlite.tables import asm, gemm_asm, overlap
from aiterlite.tables.gemm_plan import CHIPS, Tiling, tiling
from aiterlite.target import Persona, launch_target

DTYPES = ("bf16", "fp16")
MAX_TOKENS = 16
CPU_LINEAR_TOKENS = 16
_INT32_MAX = 2**31 - 1
_HOST_SYMBOLS = (
    "aiterlite_gemm_abi",
    kernarg.symbol(gemm_asm.GEMM_ARGS.name),
    kernarg.symbol(gemm_asm.SCALED_GEMM_ARGS.name),
    "aiterlite_wv_split_k_cpu",
    "aiterlite_wv_split_k_launch",
    "aiterlite_wv_split_k_q_cpu",
    "aiterlite_wv_split_k_q_launch",
)
KERNEL = "aiterlite_wv_split_k"


@dataclass(frozen=True)
class GemmProblem:
    """x[n, k] · weight[m, k]^T. `aligned`: both operands start at 16-byte addresses, and so does each of their rows.
    `dense`: the last dimension of every operand has stride 1. `bias` is there or not."""

    n: int
    m: int
    k: int
    dtype: str = "bf16"
    bias: bool = False
    aligned: bool = True
    dense: bool = True


@dataclass(frozen=True)
class WvSplitKPlan:
    """One launch: the variant's tiling, whether its loads may assume alignment, and the geometry."""

    tiling: Tiling
    aligned: bool
    grid: int
    block: int


def plan_wv_split_k(problem: GemmProblem, persona: Persona) -> WvSplitKPlan:
    """The tiling and geometry of a GPU launch."""
    units = max(1, persona.cu_count)
    chosen = tiling(persona.target, problem.n, problem.m, problem.k, units, problem.aligned)
    return WvSplitKPlan(
        tiling=chosen,
        aligned=problem.aligned,
        grid=chosen.workgroups(problem.m),
        block=chosen.waves * persona.wave_size,
    )


def host_unit(target: str) -> Unit:
    """The family's host unit: its CPU implementation, and the launches of its device kernels."""
    return Unit("gemm", ("csrc/gemm/gemm.cpp", "csrc/gemm/gemm_fp8.cpp"), target, symbols=_HOST_SYMBOLS)


def tiling_defines(plan: WvSplitKPlan) -> dict[str, str]:
    """What a plan defines of wv_split_k.hip; the types are the problem's."""
    cut = plan.tiling
    values = {
        "AITERLITE_ALIGNED": int(plan.aligned),
        "AITERLITE_CLUSTER": cut.cluster,
        "AITERLITE_COLS": cut.cols,
        "AITERLITE_SLICES": cut.slices,
        "AITERLITE_TILES": cut.tiles,
        "AITERLITE_UNROLL": cut.unroll,
        "AITERLITE_WAVES": cut.waves,
    }
    return {name: str(value) for name, value in values.items()}


def device_unit(problem: GemmProblem, persona: Persona, plan: WvSplitKPlan) -> Unit:
    defines = {**tiling_defines(plan), **overlap.defines(persona.target), "AITERLITE_ELEMENT": problem.dtype}
    return Unit(
        "gemm/wv_split_k",
        ("csrc/gemm/wv_split_k.hip",),
        persona.target,
        defines=tuple(defines.items()),
        symbols=(KERNEL,),
    )


def _units(problem: GemmProblem, persona: Persona, plan: WvSplitKPlan) -> tuple[Unit, ...]:
    return overlap.with_launch((device_unit(problem, persona, plan), host_unit(launch_target())))


def _targets(prefix: str) -> tuple[str, ...]:
    """The targets that the kernel has a tiling for."""
    return tuple(target for target in CHIPS if target.startswith(prefix))


_SIZES = (
    Between("m", 1, _INT32_MAX),
    Between("k", 1, _INT32_MAX),
    Holds("dense", True, "an operand's last dimension is strided", "make it contiguous"),
)
_SKINNY = (OneOf("dtype", DTYPES), Between("n", 1, MAX_TOKENS), *_SIZES)
_CPU = Row(
    name="cpu",
    backend="host",
    requires=(Targets(("cpu-*",)), *_SKINNY),
    units=lambda problem, persona, plan: (host_unit(persona.target),),
)
_AMD = Row(
    name="mfma",
    backend="hip",
    requires=(Targets(_targets("gfx")), *_SKINNY),
    plan=plan_wv_split_k,
    units=_units,
)
_SM90 = Row(
    name="mma_sync",
    backend="cuda",
    requires=(Targets(_targets("sm_")), *_SKINNY),
    plan=plan_wv_split_k,
    units=_units,
)


def _asm_variant(plan: WvSplitKPlan) -> asm.AsmVariant:
    return gemm_asm.wv_split_k_variant(plan.tiling)


_ASM = (asm.dispatch_row(gemm_asm.WV_SPLIT_K, _SIZES, plan_wv_split_k, _asm_variant, host_unit),)

WV_SPLIT_K = Table("wvSplitK", GemmProblem, (_CPU, _AMD, *_ASM, _SM90))
