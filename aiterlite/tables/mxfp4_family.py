"""Quantisation to MXFP4 as a family: of rows, of gated activations, of RMSNorm, and for experts."""

from __future__ import annotations

from aiterlite.tables import mxfp4_norm, mxfp4_quant, mxfp4_sort
from aiterlite.tables.family import Family

FAMILY = Family(
    name="mxfp4_quant",
    tables=(
        mxfp4_quant.QUANT_TABLE,
        mxfp4_quant.ACT_QUANT_TABLE,
        mxfp4_norm.RMS_QUANT_TABLE,
        mxfp4_sort.SORT_TABLE,
        mxfp4_sort.QUANT_SORT_TABLE,
    ),
    ops=("aiterlite.ops.mxfp4", "aiterlite.ops.mxfp4_norm", "aiterlite.ops.mxfp4_sort"),
    samples="aiterlite.ops.samples.mxfp4",
    public={"MxScaleRoundMode": "aiterlite.tables.mx_types"},
)
