"""Quantisation as a family: per token, per group of a row, per tensor, and by a given scale."""

from __future__ import annotations

from aiterlite.tables import quant
from aiterlite.tables.family import Family

FAMILY = Family(
    name="quant",
    tables=(quant.GROUP, quant.TOKEN, quant.TENSOR, quant.STATIC),
    ops=("aiterlite.ops.quant",),
    samples="aiterlite.ops.samples.quant",
    public={"ActivationType": "aiterlite.tables.quant_types", "QuantType": "aiterlite.tables.quant_types"},
)
