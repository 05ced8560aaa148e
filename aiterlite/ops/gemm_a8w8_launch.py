"""What the GEMMs of 8-bit floats have in common: their dtypes, and how a launch is prepared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from aiterlite.dispatch import Table
from aiterlite.launch import calls as launches
from aiterlite.ops import calls, operands
from aiterlite.tables.gemm_a8w8_problem import DTYPES as _KINDS
from aiterlite.tables.gemm_a8w8_problem import FLAVOURS, A8w8Problem

DTYPES = tuple(operands.DTYPES[name] for name in _KINDS)
FP8 = tuple(operands.FP8_DTYPES[name] for name in FLAVOURS)
_NAMES = ("x", "w", "bias", "y", "x_scale", "w_scale")


def launch_of(
    table: Table,
    problem: A8w8Problem,
    sizes: dict[str, int],
    device: torch.device,
    absent: tuple[str, ...],
    on_gpu: Mapping[str, int] | None = None,
) -> Any:
    """The prepared launch; `on_gpu` are sizes that GPUs, emulated ones too, have in the place of others."""
    decision = calls.decide(table, problem, calls.persona_of(table.op, device))
    if on_gpu and not all(kernel.on_host for kernel in decision.kernels):
        sizes = {**sizes, **on_gpu}
    batches = {f"stride_{name}_batch": 0 for name in ("x", "w", "bias", "y", "x_scale", "w_scale")}
    scales = {"stride_x_scale": 0, "stride_x_scale_group": 0, "stride_w_scale": 0}
    return launches.prepare(decision, device, _NAMES, {**batches, **scales, **sizes}, absent)
