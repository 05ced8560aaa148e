"""`router_gemm`: the kernels of wvSplitK, whose float32 sums are not rounded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aiterlite.dispatch import Row, Table, one_axis
from aiterlite.kernel import Kernel
from aiterlite.tables import gemm
from aiterlite.target import Persona

OP = "router_gemm"


def _floats(row: Row) -> Row:
    """The row with kernels that write float32."""

    def kernels(problem: Any, persona: Persona, plan: Any) -> tuple[Kernel, ...]:
        assert row.kernels is not None
        (kernel,) = row.kernels(problem, persona, plan)
        if kernel.on_host:
            return (replace(kernel, symbol=f"{kernel.symbol}_float"),)
        defines = (*kernel.unit.defines, ("AITERLITE_FLOAT", "1"))
        return (replace(kernel, unit=replace(kernel.unit, name=f"{kernel.unit.name}_float", defines=defines)),)

    return replace(row, kernels=kernels)


_SERVED = {row.name: row for row in gemm.WV_SPLIT_K.rows}
# Experts of DeepSeek-R1.
ROUTER_GEMM = Table(
    OP,
    gemm.GemmProblem,
    tuple(_floats(_SERVED[name]) for name in ("cpu", "mfma", "mma_sync")),
    (one_axis("m", 256), one_axis("k", 7168), one_axis("n", 1, 16), one_axis("dtype", "bf16")),
    gemm.derive,
)
