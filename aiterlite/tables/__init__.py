"""The dispatch tables, a file a family. They import no torch: they answer for any target on any machine."""

from __future__ import annotations

from collections.abc import Callable

from aiterlite.dispatch import Table
from aiterlite.jit.spec import Unit
from aiterlite.tables import asm, gemm, gemm_fp8, gemm_rc, linear

TABLES: dict[str, Table] = {
    table.op: table for table in (gemm.WV_SPLIT_K, gemm_rc.WV_SPLIT_K_RC, gemm_fp8.WV_SPLIT_K_Q, linear.LINEAR)
}

# What is built where no operator is named. Others are built where they are asked for.
DEFAULT_OPS = ("wvSplitK", "wvSplitKQ", "linear")

# The host unit that fills each argument struct of assembly kernels; it exports the layout as its compiler has it.
KERNARG_HOSTS: dict[str, Callable[[str], Unit]] = {
    asm.GEMM_ARGS.name: gemm.host_unit,
    asm.SCALED_GEMM_ARGS.name: gemm.host_unit,
}
