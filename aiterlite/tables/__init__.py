"""The dispatch tables, a file a family. They import no torch: they answer for any target on any machine."""

from __future__ import annotations

from collections.abc import Callable

from aiterlite.dispatch import Table
from aiterlite.jit.spec import Unit
from aiterlite.tables import gemm, gemm_asm, gemm_fp8, gemm_rc, linear
from aiterlite.tables.asm import AsmKernel, Manifest

TABLES: dict[str, Table] = {
    table.op: table for table in (gemm.WV_SPLIT_K, gemm_rc.WV_SPLIT_K_RC, gemm_fp8.WV_SPLIT_K_Q, linear.LINEAR)
}

# What is built where no operator is named. Others are built where they are asked for.
DEFAULT_OPS = ("wvSplitK", "wvSplitKQ", "linear")

# A line a family that has assembly kernels.
MANIFESTS: tuple[Manifest, ...] = (Manifest(gemm_asm.KERNELS, gemm.host_unit),)

ASM_KERNELS: tuple[AsmKernel, ...] = tuple(kernel for manifest in MANIFESTS for kernel in manifest.kernels)
# The host unit that fills each argument struct of assembly kernels; it exports the layout as its compiler has it.
KERNARG_HOSTS: dict[str, Callable[[str], Unit]] = {
    kernel.kernarg.name: manifest.host_unit for manifest in MANIFESTS for kernel in manifest.kernels
}
