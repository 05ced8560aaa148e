"""Skinny GEMM of 8-bit floats: which kernel serves y[N, M] = (x[N, K] · W[M, K]^T) · scales + bias, and its tiling.

The kernels are those of the 16-bit family over another element type, and the plan is theirs too: a tile covers 64 bytes
of each row's K, whatever the elements.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiterlite.dispatch import Between, Holds, OneOf, Refusal, Row, Table, Targets, Wishes
from aiterlite.hardware import ARCHITECTURES
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, along_x, overlap_defines
from aiterlite.tables import asm, gemm, gemm_asm
from aiterlite.tables.gemm import FLAVOURS, WvSplitKPlan
from aiterlite.tables.gemm_args import SCALED_GEMM_ARGS
from aiterlite.tables.gemm_plan import CHIPS, Tiling, ranked_cuts, split_k
from aiterlite.target import Persona

NATIVE = "native"
SCALES_X, SCALES_W = ("tensor", "token"), ("tensor", "row")
KERNEL = "aiterlite_wv_split_k_q"
_SIZE_MAX = 2**31 - 1
# The 8-bit float with 3 fraction bits that a target's matrix instructions take; empty where there is none.
MATRIX_FP8 = {name: arch.matrix_fp8 for name, arch in ARCHITECTURES.items()}
# Where elements are loaded one by one, each takes a register; these are the most tiles and waves that fit.
_UNALIGNED_TILES, _UNALIGNED_WAVES = 1, 8


@dataclass(frozen=True)
class ScaledGemmProblem:
    """x[n, k] · weight[m, k]^T of 8-bit floats, scaled.

    `fp8`: the type of both operands, `native` for the target's own. `dtype`: that of the output and of the bias.
    `scale_x`: one for the `tensor`, or one a `token`; `scale_w`: one for the `tensor`, or one a `row` of the weight.
    `aligned`: both operands start at 16-byte addresses, and so does each of their rows. `dense`: the last dimension of
    every operand has stride 1. `bias` is there or not.
    """

    LOAD_ELEMENTS = 16  # a row of a multiple of these is aligned

    n: int
    m: int
    k: int
    fp8: str = NATIVE
    dtype: str = "bf16"
    scale_x: str = "tensor"
    scale_w: str = "tensor"
    bias: bool = False
    aligned: bool = True
    dense: bool = True


@dataclass(frozen=True)
class MatrixUnitTakes:
    """The operands' 8-bit float is the one that the target's matrix unit has. Targets that do not begin with
    `prefix`, or that are not known here, pass."""

    prefix: str

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        has = MATRIX_FP8.get(persona.target)
        if not persona.target.startswith(self.prefix) or has is None:
            return None
        if not has:
            return Refusal(f"the matrix unit of {persona.target} has no 8-bit float")
        if problem.fp8 in (NATIVE, has):
            return None
        remedy = f"quantise the operands to torch.float8_{has}"
        return Refusal(f"the matrix unit of {persona.target} takes {has}, the operands are {problem.fp8}", remedy)

    def __str__(self) -> str:
        return "the fp8 of the target's matrix unit"


def flavour(problem: ScaledGemmProblem, persona: Persona) -> str:
    """The 8-bit float of a problem's operands on a target."""
    return persona.fp8 if problem.fp8 == NATIVE else problem.fp8


def plan(problem: ScaledGemmProblem, persona: Persona) -> WvSplitKPlan:
    """The tiling and geometry of a GPU launch: those of 16-bit elements whose rows have as many bytes."""
    halves = -(-problem.k // 2)
    cut = _tiling(persona.target, problem.n, problem.m, halves, max(1, persona.cu_count), problem.aligned)
    return WvSplitKPlan(cut, problem.aligned, cut.workgroups(problem.m), cut.waves * persona.wave_size)


@functools.lru_cache(maxsize=4096)
def _tiling(target: str, n: int, m: int, halves: int, compute_units: int, aligned: bool) -> Tiling:
    chip = CHIPS[target]
    if target.startswith("sm_"):
        # ptxas multiplies 8-bit operands as halves where the chip has no instruction of its own; an eighth of the
        # registers is for these. Half the bytes shift the costs: these are fitted to 24 problems on an H200.
        cost = replace(chip.cost, tokens=0.4, tiles=0.2, doubling=0.3)
        chip = replace(chip, registers=chip.registers // 8 * 7, cost=cost)
    cut = split_k(chip, ranked_cuts(chip, n, m, halves, compute_units)[0], m, halves, compute_units)
    if aligned:
        return cut
    return replace(cut, unroll=1, tiles=_UNALIGNED_TILES, waves=min(cut.waves, _UNALIGNED_WAVES))


def device_unit(problem: ScaledGemmProblem, persona: Persona, plan: WvSplitKPlan) -> Unit:
    defines = {
        **gemm.tiling_defines(plan),
        **overlap_defines(persona.target),
        "AITERLITE_ELEMENT": flavour(problem, persona),
        "AITERLITE_RESULT": problem.dtype,
    }
    return Unit(
        "gemm/wv_split_k_q",
        ("csrc/gemm/wv_split_k.hip",),
        persona.target,
        defines=tuple(defines.items()),
        symbols=(KERNEL,),
    )


def launch_of(unit: Unit, symbol: str, problem: ScaledGemmProblem, plan: WvSplitKPlan) -> tuple[Kernel, ...]:
    """The launch of a GPU kernel, compiled or assembled."""
    sizes = gemm.gemm_sizes(problem)
    return (Kernel(unit, symbol, SCALED_GEMM_ARGS, along_x(plan.grid), along_x(plan.block), args=sizes),)


def _kernels(problem: ScaledGemmProblem, persona: Persona, plan: WvSplitKPlan) -> tuple[Kernel, ...]:
    return launch_of(device_unit(problem, persona, plan), KERNEL, problem, plan)


def _cpu_kernels(problem: ScaledGemmProblem, persona: Persona, plan: None) -> tuple[Kernel, ...]:
    symbol = f"{gemm.CPU_KERNEL_Q}_{flavour(problem, persona)}_{problem.dtype}"
    return (Kernel(gemm.host_unit(persona.target), symbol, SCALED_GEMM_ARGS, args=gemm.gemm_sizes(problem)),)


_OPERANDS = (
    OneOf("scale_x", SCALES_X),
    OneOf("scale_w", SCALES_W),
    Between("m", 1, _SIZE_MAX),
    Between("k", 1, _SIZE_MAX),
    Holds("dense", True, "an operand's last dimension is strided", "make it contiguous"),
)
_SKINNY = (OneOf("dtype", gemm.DTYPES), Between("n", 1, gemm.MAX_TOKENS), *_OPERANDS)
_CPU = Row(
    name="cpu",
    backend="host",
    requires=(Targets(("cpu-*",)), OneOf("fp8", (NATIVE, *FLAVOURS)), *_SKINNY),
    kernels=_cpu_kernels,
)


def _gpu(name: str, backend: str, prefix: str) -> Row:
    targets = tuple(target for target in CHIPS if target.startswith(prefix))
    return Row(name, backend, (Targets(targets), MatrixUnitTakes(prefix), *_SKINNY), plan=plan, kernels=_kernels)


def _asm_variant(plan: WvSplitKPlan) -> asm.AsmVariant:
    return gemm_asm.wv_split_k_variant(plan.tiling)


# It holds the scale of x in a scalar register.
_ASM_OPERANDS = (MatrixUnitTakes("gfx"), OneOf("scale_x", ("tensor",)), *_OPERANDS[1:])
_ASM = asm.dispatch_row(gemm_asm.WV_SPLIT_K_Q, _ASM_OPERANDS, plan, _asm_variant, launch_of)


def derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """`aligned`, where it is not given, is what contiguous operands have: rows of a multiple of 16 bytes."""
    return {"aligned": values.get("k", 0) % ScaledGemmProblem.LOAD_ELEMENTS == 0, **values}


WV_SPLIT_K_Q = Table(
    "wvSplitKQ",
    ScaledGemmProblem,
    (_CPU, _gpu("mfma_fp8", "hip", "gfx"), _ASM, _gpu("mma_sync_fp8", "cuda", "sm_")),
    gemm.SWEEP,
    derive,
)
