"""GEMM of 8-bit floats with scales: which kernels serve a call. A row a back end, the same for all operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiterlite.dispatch import Axis, Between, Row, Table, Targets, one_axis
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel
from aiterlite.tables import gemm_a8w8_amd as amd
from aiterlite.tables import gemm_a8w8_sm90 as sm90
from aiterlite.tables.family import Family
from aiterlite.tables.gemm_a8w8_parts import sizes
from aiterlite.tables.gemm_a8w8_problem import (
    DTYPES,
    FLAVOURS,
    SIZES,
    VECTOR,
    A8w8Problem,
    BatchedProblem,
    BlockScaleProblem,
    RowScaleProblem,
    flavour,
)
from aiterlite.target import Persona

BLOCKSCALE, ROWSCALE = "gemm_a8w8_blockscale", "gemm_a8w8"
BATCHED = "batched_gemm_a8w8_a_per_token_group_prequant_w_per_batched_tensor_quant"
CPU_ARGS = ArgumentStruct("aiterlite_gemm_a8w8_cpu_args", "aiterlite/gemm_a8w8/cpu_args.h")
_CPU = "aiterlite_gemm_a8w8_cpu_{}_{}"


def host_unit(target: str) -> Unit:
    """The family's CPU implementation, a symbol for each pair of types."""
    symbols = tuple(_CPU.format(code, dtype) for code in FLAVOURS for dtype in DTYPES)
    return Unit("gemm_a8w8", ("csrc/gemm_a8w8/cpu.cpp",), target, symbols=symbols)


def _cpu_kernels(problem: A8w8Problem, persona: Persona, _: Any) -> tuple[Kernel, ...]:
    how = {"x_groups": problem.X_GROUPS, "w_blocks": problem.W_BLOCKS, "quantise": problem.QUANTISES}
    args = {
        **sizes(problem),
        **{name: int(value) for name, value in how.items()},
        "shuffled": int(problem.is_shuffled),
    }
    symbol = _CPU.format(flavour(problem, persona), problem.dtype)
    return (Kernel(host_unit(persona.target), symbol, CPU_ARGS, args=args),)


_CPU_ROW = Row("cpu", "host", (Targets(("cpu-*",)), *SIZES), kernels=_cpu_kernels)
_ROWS = (_CPU_ROW, amd.ROW, sm90.ROW)
_CPU_BATCHED = Row("cpu", "host", (*_CPU_ROW.requires, Between("batch", 1, 2**31 - 1)), kernels=_cpu_kernels)


def _derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """`aligned`, where it is not given, is what contiguous operands have."""
    return {"aligned": values.get("k", 0) % VECTOR == 0, **values}


# DeepSeek-R1's projections on one GPU: fused q and kv, out of attention, q, and gate and up of a shared expert.
_SHAPES = Axis(("m", "k"), ((2112, 7168), (7168, 2048), (24576, 1536), (4096, 7168)))
_TOKENS = one_axis("n", 1, 16, 64, 128)
# Absorbed projections of 16 heads: keys, values.
_HEADS = one_axis("batch", 16), Axis(("m", "k"), ((512, 128), (128, 512)))

BLOCKSCALE_TABLE = Table(BLOCKSCALE, BlockScaleProblem, _ROWS, (_SHAPES, _TOKENS), _derive)
ROWSCALE_TABLE = Table(ROWSCALE, RowScaleProblem, _ROWS, (_SHAPES, _TOKENS), _derive)
BATCHED_TABLE = Table(
    BATCHED, BatchedProblem, (_CPU_BATCHED, amd.BATCHED_ROW, sm90.BATCHED_ROW), (*_HEADS, _TOKENS), _derive
)

FAMILY = Family(
    name="gemm_a8w8",
    tables=(BLOCKSCALE_TABLE, ROWSCALE_TABLE, BATCHED_TABLE),
    ops=("aiterlite.ops.gemm_a8w8", "aiterlite.ops.gemm_a8w8_batched"),
    samples="aiterlite.ops.samples.gemm_a8w8",
)
