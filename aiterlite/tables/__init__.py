"""The dispatch tables, a file a family. They import no torch: they answer for any target on any machine.

A family is a record (family.py) that `register` takes; the command line, the prebuild, the tests and the public names
read here all that they know of operators.
"""

from __future__ import annotations

from aiterlite.dispatch import Table
from aiterlite.tables.activation import FAMILY as ACTIVATION
from aiterlite.tables.asm import AsmKernel
from aiterlite.tables.cache import FAMILY as CACHE
from aiterlite.tables.family import Family
from aiterlite.tables.fused_moe import FAMILY as FUSED_MOE
from aiterlite.tables.gemm_a8w8 import FAMILY as GEMM_A8W8
from aiterlite.tables.gemm_family import FAMILY as GEMM
from aiterlite.tables.gemm_mxfp4 import FAMILY as GEMM_MXFP4
from aiterlite.tables.mla_family import FAMILY as MLA
from aiterlite.tables.moe_sorting import FAMILY as MOE_SORTING
from aiterlite.tables.mxfp4_family import FAMILY as MXFP4_QUANT
from aiterlite.tables.norm import FAMILY as NORM
from aiterlite.tables.norm_pair import FAMILY as NORM_PAIR
from aiterlite.tables.quant_family import FAMILY as QUANT
from aiterlite.tables.rope import FAMILY as ROPE
from aiterlite.tables.routing import FAMILY as ROUTING

FAMILIES: dict[str, Family] = {}
TABLES: dict[str, Table] = {}


def register(family: Family) -> None:
    """Make a family known to all commands. Raises `ValueError` where its name or one of its operators is taken."""
    taken = [name for name in (table.op for table in family.tables) if name in TABLES]
    if family.name in FAMILIES or taken:
        raise ValueError(f"{', '.join(taken) or family.name} is registered already")
    FAMILIES[family.name] = family
    TABLES.update((table.op, table) for table in family.tables)


def unregister(name: str) -> None:
    """Forget a family again."""
    for table in FAMILIES.pop(name).tables:
        del TABLES[table.op]


def family_of(op: str) -> Family:
    """The family of an operator that has a table."""
    return next(family for family in FAMILIES.values() if op in (table.op for table in family.tables))


def asm_kernels() -> tuple[AsmKernel, ...]:
    """The assembly kernels of all families."""
    return tuple(kernel for family in FAMILIES.values() for kernel in family.asm)


def default_ops() -> tuple[str, ...]:
    """The operators that are built where none is named. Others are built where they are asked for."""
    return tuple(op for family in FAMILIES.values() for op in family.defaults)


# A line a family.
register(GEMM)
register(MLA)
register(ROUTING)
register(MOE_SORTING)
register(QUANT)
register(MXFP4_QUANT)
register(NORM)
register(ROPE)
register(CACHE)
register(NORM_PAIR)
register(ACTIVATION)
register(FUSED_MOE)
register(GEMM_A8W8)
register(GEMM_MXFP4)
