"""`batched_gemm_bf16`: products of few tokens and small weights each, all in one launch.

The kernels are wvSplitK's. How many workgroups share a chip is the same as if all weights were rows of one, and so is
the plan.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from aiterlite.dispatch import Axis, Between, OneOf, Row, Table, Targets, one_axis
from aiterlite.kernel import Kernel, Value
from aiterlite.tables import gemm
from aiterlite.tables.gemm_args import BATCHED_GEMM_ARGS
from aiterlite.tables.gemm_plan import CHIPS, tiling
from aiterlite.target import Persona

OP = "batched_gemm_bf16"
KERNEL = "aiterlite_batched_gemm"
MAX_TOKENS = gemm.MAX_TOKENS
_INT32_MAX, _LARGEST_GRID_Y = 2**31 - 1, 2**16 - 1


@dataclass(frozen=True)
class BatchedGemmProblem:
    """`batch` products x[n, k] · weight[m, k]^T + bias. `aligned`: both operands start at 16-byte addresses, and so
    does each of their rows."""

    n: int
    m: int
    k: int
    batch: int = 1
    dtype: str = "bf16"
    bias: bool = False
    aligned: bool = True


def _sizes(problem: BatchedGemmProblem) -> dict[str, Value]:
    return {"n": problem.n, "m": problem.m, "k": problem.k, "batch": problem.batch}


def plan(problem: BatchedGemmProblem, persona: Persona) -> gemm.WvSplitKPlan:
    """The tiling and geometry of one product's workgroups."""
    rows = problem.m * problem.batch
    chosen = tiling(persona.target, problem.n, rows, problem.k, max(1, persona.cu_count), problem.aligned)
    return gemm.WvSplitKPlan(chosen, problem.aligned, chosen.workgroups(problem.m), chosen.waves * persona.wave_size)


def _kernels(problem: BatchedGemmProblem, persona: Persona, plan: gemm.WvSplitKPlan) -> tuple[Kernel, ...]:
    served = gemm.device_unit(gemm.GemmProblem(problem.n, problem.m, problem.k, problem.dtype), persona, plan)
    defines = (*served.defines, ("AITERLITE_BATCHED", "1"))
    unit = replace(served, name="gemm/batched_gemm", defines=defines, symbols=(KERNEL,))
    grid, block = (plan.grid, problem.batch, 1), (plan.block, 1, 1)
    return (Kernel(unit, KERNEL, BATCHED_GEMM_ARGS, grid, block, args=_sizes(problem)),)


def _cpu_kernels(problem: BatchedGemmProblem, persona: Persona, plan: None) -> tuple[Kernel, ...]:
    unit = gemm.host_unit(persona.target)
    return (Kernel(unit, f"{gemm.CPU_BATCHED}_{problem.dtype}", BATCHED_GEMM_ARGS, args=_sizes(problem)),)


_SIZES = (OneOf("dtype", gemm.DTYPES), Between("m", 1, _INT32_MAX), Between("k", 1, _INT32_MAX))
_TARGETS = tuple(CHIPS)


def _on_gpu(name: str, backend: str, prefix: str) -> Row:
    targets = Targets(tuple(target for target in _TARGETS if target.startswith(prefix)))
    few = Between("n", 1, MAX_TOKENS), Between("batch", 1, _LARGEST_GRID_Y)
    return Row(name, backend, (targets, *_SIZES, *few), plan=plan, kernels=_kernels)


BATCHED_GEMM = Table(
    OP,
    BatchedGemmProblem,
    (
        Row("cpu", "host", (Targets(("cpu-*",)), *_SIZES, Between("n", 1, _INT32_MAX)), kernels=_cpu_kernels),
        _on_gpu("mfma", "hip", "gfx"),
        _on_gpu("mma_sync", "cuda", "sm_"),
        # Of more tokens weights are no longer most of the work.
        Row("torch", "torch", (Targets(_TARGETS), *_SIZES, Between("n", MAX_TOKENS + 1, _INT32_MAX))),
    ),
    # The absorbed projections of 16 heads of DeepSeek-R1.
    (
        Axis(("m", "k"), ((512, 128), (128, 512))),
        one_axis("batch", 16),
        one_axis("n", 1, 16),
        one_axis("dtype", "bf16"),
    ),
    gemm.derive,
)
