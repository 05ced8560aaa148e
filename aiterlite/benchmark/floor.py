"""The read floor: a kernel that reads the weights once and does nothing else with them."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from aiterlite import launcher
from aiterlite.benchmark.timing import Contender, compare
from aiterlite.jit import loader
from aiterlite.jit.spec import Unit
from aiterlite.ops import gemm
from aiterlite.tables import overlap
from aiterlite.target import host_persona, persona_for

_KERNEL = "aiterlite_read_floor"
# Waves of a workgroup, loads that each lane has in flight, workgroups of a compute unit.
_FLOORS = ((16, 4, 1), (16, 4, 2), (8, 4, 2), (8, 4, 4), (8, 8, 2), (16, 2, 2))


def read_floor(weights: list[Tensor], overlapped: bool = False) -> Contender:
    """A contender that reads one of these [M, K] weights from end to end, on a GPU that has it launched `overlapped`,
    as this package's kernels are there, or as usual."""
    device = weights[0].device
    return _gpu_floor(weights, overlapped) if device.type == "cuda" else _cpu_floor(weights)


def _cpu_floor(weights: list[Tensor]) -> Contender:
    unit = Unit(
        "benchmark",
        ("csrc/benchmark/read_floor.cpp",),
        host_persona().target,
        symbols=("aiterlite_read_floor_cpu",),
    )
    kernel = loader.host_library(unit).aiterlite_read_floor_cpu
    kernel.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
    blocks = torch.get_num_threads()
    sums = torch.empty(blocks, dtype=torch.int64)
    pool = gemm.parallel_for()

    def read(copy: int) -> None:
        weight = weights[copy]
        code = kernel(weight.data_ptr(), weight.numel() * weight.element_size(), blocks, sums.data_ptr(), pool)
        if code != 0:
            raise RuntimeError(f"aiterlite_read_floor_cpu failed with code {code}")

    return read


def _gpu_floor(weights: list[Tensor], overlapped: bool) -> Contender:
    """The fastest of a few shapes of the reading kernel, by a short measurement."""
    candidates = {
        f"{waves},{unroll},{each}": _gpu_reader(weights, waves, unroll, each, overlapped)
        for waves, unroll, each in _FLOORS
    }
    timings = compare(candidates, len(weights), weights[0].device, samples=5)
    return candidates[min(timings, key=lambda name: timings[name].median)]


def _gpu_reader(weights: list[Tensor], waves: int, unroll: int, workgroups_each: int, overlapped: bool) -> Contender:
    weight = weights[0]
    index = weight.device.index or 0
    persona = persona_for(weight.device.type, index)
    defines = {"AITERLITE_UNROLL": str(unroll), "AITERLITE_WAVES": str(waves)}
    if overlapped:
        defines |= overlap.defines(persona.target)
    unit = Unit(
        "benchmark/read_floor",
        ("csrc/benchmark/read_floor.hip",),
        persona.target,
        defines=tuple(defines.items()),
        symbols=(_KERNEL,),
    )
    function = launcher.function(unit, persona, weight.device.type, index, _KERNEL)
    launch = gemm.launch_entry()
    grid, block = persona.cu_count * workgroups_each, waves * persona.wave_size
    out = torch.empty(1, dtype=torch.int32, device=weight.device)
    m, k = weight.shape
    raw_stream: Any = torch._C._cuda_getCurrentRawStream

    def read(copy: int) -> None:
        # The kernel takes the number of its workgroups as n.
        arguments = (None, weights[copy].data_ptr(), None, out.data_ptr(), 0, k, 0, 0, grid, m, k)
        code = launch(function.launch, function.handle, raw_stream(index), grid, block, 0, *arguments)
        launcher.check_launch(code, function, persona.family, grid, block, str([m, k]))

    return read
