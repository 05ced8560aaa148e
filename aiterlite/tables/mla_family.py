"""Multi-head latent attention as a family: decode, prefill, the merge of parts, and plans of decode."""

from __future__ import annotations

from aiterlite.tables import mla, mla_asm, mla_plan
from aiterlite.tables.family import Family

FAMILY = Family(
    name="mla",
    tables=(mla.DECODE, mla.PREFILL, mla.REDUCE, mla_plan.TABLE, mla_plan.UPDATE_TABLE),
    ops=("aiterlite.ops.mla", "aiterlite.ops.mla_plan_operators"),
    samples="aiterlite.ops.samples.mla",
    asm=mla_asm.KERNELS,
)
