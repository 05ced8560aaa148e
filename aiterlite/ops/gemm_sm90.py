"""Launches of the skinny GEMM that sm_90's copy engine feeds, for the operators whose tables choose it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite import launcher
from aiterlite.dispatch import Decision
from aiterlite.jit import loader
from aiterlite.ops import gemm
from aiterlite.tables import gemm_sm90 as tables
from aiterlite.target import launch_target

Launch = Callable[[Tensor, Tensor, "Tensor | None", Tensor], None]

_ABI = 1


def _entry() -> Any:
    """The launch: (driver's launch, its tensor map encoder, function, stream, block, shared bytes, rows and columns of
    a tile, cluster, element, operands...) -> the driver's status, or -1."""
    library = loader.host_library(tables.host_unit(launch_target()), launcher.capturing)
    loader.require_abi(library, "aiterlite_sm90_gemm_abi", _ABI)
    launch = library.aiterlite_sm90_wv_split_k_launch
    launch.argtypes = [
        *[ctypes.c_void_p] * 4,
        *[ctypes.c_uint32] * 2,
        *[ctypes.c_int64] * 3,
        ctypes.c_int32,
        *gemm._OPERAND_TYPES,
    ]
    return launch


def prepare(decision: Decision, fixed: tuple[int, ...], device: torch.device) -> Launch:
    """A launch of the decision's kernel on torch's current stream: (x of [N, K], weight, bias, y). `fixed` are the
    operands' `gemm.sizes`. Raises `JitError`; the launch raises `LaunchError`."""
    plan: tables.Sm90Plan = decision.plan
    persona = decision.persona
    index = device.index or 0
    cut = plan.tiling
    function = launcher.function(
        decision.units[0], persona, device.type, index, tables.KERNEL, plan.shared_bytes, cut.cluster
    )
    entry = _entry()
    encode = launcher.driver("cuda").entry("cuTensorMapEncodeTiled")
    geometry = (plan.block, plan.shared_bytes, cut.rows, cut.cols, cut.cluster, gemm.ELEMENTS[decision.problem.dtype])
    raw_stream: Any = torch._C._cuda_getCurrentRawStream

    def launch(x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor) -> None:
        code = launcher.submit(
            index,
            entry,
            function.launch,
            encode,
            function.handle,
            raw_stream(index),
            *geometry,
            x.data_ptr(),
            weight.data_ptr(),
            None if bias is None else bias.data_ptr(),
            y.data_ptr(),
            *fixed,
        )
        if code != 0:
            launcher.check_launch(code, function, persona.family, plan.grid, plan.block, str(decision.problem))

    return launch
