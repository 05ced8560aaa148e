"""Skinny GEMM: which kernel serves y[N, M] = x[N, K] · W[M, K]^T + bias, and how it is tiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiterlite.dispatch import Axis, Between, Holds, OneOf, Row, Table, Targets, one_axis
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Value, along_x, overlap_defines
from aiterlite.tables import asm, gemm_asm
from aiterlite.tables.gemm_args import GEMM_ARGS
from aiterlite.tables.gemm_plan import CHIPS, SHAPES, Tiling, tiling
from aiterlite.target import Persona

DTYPES = ("bf16", "fp16")
FLAVOURS = ("e4m3fn", "e4m3fnuz")
MAX_TOKENS = 16
CPU_LINEAR_TOKENS = 16
_INT32_MAX = 2**31 - 1
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


CPU_KERNEL, CPU_KERNEL_Q = "aiterlite_wv_split_k_cpu", "aiterlite_wv_split_k_q_cpu"
CPU_BATCHED = "aiterlite_batched_gemm_cpu"


def host_unit(target: str) -> Unit:
    """The family's CPU implementation, a symbol for each set of types."""
    symbols = [f"{CPU_KERNEL}_{dtype}{result}" for dtype in DTYPES for result in ("", "_float")]
    symbols += [f"{CPU_BATCHED}_{dtype}" for dtype in DTYPES]
    symbols += [f"{CPU_KERNEL_Q}_{fp8}_{dtype}" for fp8 in FLAVOURS for dtype in DTYPES]
    return Unit("gemm", ("csrc/gemm/gemm.cpp", "csrc/gemm/gemm_fp8.cpp"), target, symbols=tuple(symbols))


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
    defines = {**tiling_defines(plan), **overlap_defines(persona.target), "AITERLITE_ELEMENT": problem.dtype}
    return Unit(
        "gemm/wv_split_k",
        ("csrc/gemm/wv_split_k.hip",),
        persona.target,
        defines=tuple(defines.items()),
        symbols=(KERNEL,),
    )


def gemm_sizes(problem: Any) -> dict[str, Value]:
    """What the plan puts into the argument structs of this family; strides and addresses are the operands'."""
    return {"n": problem.n, "m": problem.m, "k": problem.k}


def launch_of(unit: Unit, symbol: str, problem: Any, plan: WvSplitKPlan) -> tuple[Kernel, ...]:
    """The launch of a GPU kernel of `wvSplitK`, compiled or assembled."""
    return (Kernel(unit, symbol, GEMM_ARGS, along_x(plan.grid), along_x(plan.block), args=gemm_sizes(problem)),)


def cpu_kernels(problem: GemmProblem, persona: Persona, plan: None) -> tuple[Kernel, ...]:
    """The CPU kernel, which serves any number of tokens, and so the whole family."""
    symbol = f"{CPU_KERNEL}_{problem.dtype}"
    return (Kernel(host_unit(persona.target), symbol, GEMM_ARGS, args=gemm_sizes(problem)),)


def _kernels(problem: GemmProblem, persona: Persona, plan: WvSplitKPlan) -> tuple[Kernel, ...]:
    return launch_of(device_unit(problem, persona, plan), KERNEL, problem, plan)


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
    kernels=cpu_kernels,
)
_AMD = Row(
    name="mfma",
    backend="hip",
    requires=(Targets(_targets("gfx")), *_SKINNY),
    plan=plan_wv_split_k,
    kernels=_kernels,
)
_SM90 = Row(
    name="mma_sync",
    backend="cuda",
    requires=(Targets(_targets("sm_")), *_SKINNY),
    plan=plan_wv_split_k,
    kernels=_kernels,
)


def _asm_variant(plan: WvSplitKPlan) -> asm.AsmVariant:
    return gemm_asm.wv_split_k_variant(plan.tiling)


_ASM = (asm.dispatch_row(gemm_asm.WV_SPLIT_K, _SIZES, plan_wv_split_k, _asm_variant, launch_of),)


def derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """`aligned`, where it is not given, is what contiguous operands have: rows of a multiple of 16 bytes."""
    return {"aligned": values.get("k", 0) % 8 == 0, **values}


SWEEP = (Axis(("m", "k"), SHAPES), one_axis("n", 1, 4, 16), one_axis("dtype", "bf16"))
WV_SPLIT_K = Table("wvSplitK", GemmProblem, (_CPU, _AMD, *_ASM, _SM90), SWEEP, derive)
# The same kernels for one row of x, under the name and the contract of vLLM's GEMV.
LLMM1 = Table(
    "LLMM1",
    GemmProblem,
    tuple(
        replace(
            row, requires=(*row.requires, Between("n", 1, 1), Holds("bias", False, "it adds no bias", "call wvSplitK"))
        )
        for row in WV_SPLIT_K.rows
    ),
    (SWEEP[0], one_axis("n", 1), SWEEP[2]),
    derive,
)
