"""GEMM of MXFP4 weights: which kernels serve a call. One table for all operators, a row a back end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiterlite.dispatch import Axis, Row, Table, Targets, one_axis
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel
from aiterlite.tables import gemm_mxfp4_amd as amd
from aiterlite.tables import gemm_mxfp4_codes as codes
from aiterlite.tables import gemm_mxfp4_sm90 as sm90
from aiterlite.tables.family import Family
from aiterlite.tables.gemm_mxfp4_problem import KINDS, OP, REQUIRES, RESULTS, WHOLE_K, MxGemmProblem, sizes
from aiterlite.target import Persona

CPU_ARGS = ArgumentStruct("aiterlite_gemm_mxfp4_cpu_args", "aiterlite/gemm_mxfp4/cpu_args.h")
_CPU = "aiterlite_gemm_mxfp4_cpu_{}"


def host_unit(target: str) -> Unit:
    """The family's CPU implementation, a symbol for each kind of x."""
    symbols = tuple(_CPU.format(kind) for kind in KINDS)
    return Unit("gemm_mxfp4", ("csrc/gemm_mxfp4/cpu.cpp",), target, symbols=symbols)


def _cpu_kernels(problem: MxGemmProblem, persona: Persona, _: Any) -> tuple[Kernel, ...]:
    args = {
        **sizes(problem),
        "w_shuffled": int(problem.shuffled),
        "w_scale_shuffled": int(problem.w_scale == "shuffled"),
        "x_scale_shuffled": int(problem.x_scale_shuffled),
        "result": RESULTS.index(problem.dtype),
    }
    return (Kernel(host_unit(persona.target), _CPU.format(problem.x), CPU_ARGS, args=args),)


_CPU_ROW = Row("cpu", "host", (Targets(("cpu-*",)), *REQUIRES), kernels=_cpu_kernels)


def _derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where they are not given: `aligned` and `w_scale` are what contiguous operands have."""
    k = values.get("k", 0)
    return {"aligned": k % 32 == 0, "w_scale": "rows" if k % WHOLE_K == 0 else "strided", **values}


# DeepSeek-R1's projections on one GPU: fused q and kv, down of a shared expert, q, gate and up of a shared expert, and
# out of attention.
_SHAPES = Axis(("m", "k"), ((2112, 7168), (7168, 2048), (24576, 1536), (4096, 7168), (7168, 16384)))

_SWEEP = (_SHAPES, one_axis("n", 1, 16, 64), one_axis("x", "bf16", "fp4"))
TABLE = Table(OP, MxGemmProblem, (_CPU_ROW, codes.ROW, amd.ROW, sm90.ROW, sm90.DENSE_ROW), _SWEEP, _derive)

FAMILY = Family(
    name="gemm_mxfp4",
    tables=(TABLE,),
    ops=("aiterlite.ops.gemm_mxfp4",),
    samples="aiterlite.ops.samples.gemm_mxfp4",
)
