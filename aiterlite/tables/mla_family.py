"""Multi-head latent attention as a family: plans of decode."""

from __future__ import annotations

from aiterlite.tables import mla_plan
from aiterlite.tables.family import Family

FAMILY = Family(
    name="mla",
    tables=(mla_plan.TABLE, mla_plan.UPDATE_TABLE),
    ops=("aiterlite.ops.mla_plan_operators",),
    samples="aiterlite.ops.samples.mla_plan",
)
