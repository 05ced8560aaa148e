"""The read floor: a kernel that reads the weights once and does nothing else with them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aiterlite.benchmark.timing import Contender, compare
from aiterlite.dispatch import Decision, Row
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, along_x, overlap_defines
from aiterlite.launch import calls as launches
from aiterlite.tables.gemm_args import GEMM_ARGS
from aiterlite.target import Persona, host_persona, persona_for

_KERNEL, _CPU_KERNEL = "aiterlite_read_floor", "aiterlite_read_floor_cpu"
# Waves of a workgroup, loads that each lane has in flight, workgroups of a compute unit.
_FLOORS = ((16, 4, 1), (16, 4, 2), (8, 4, 2), (8, 4, 4), (8, 8, 2), (16, 2, 2))
# Operands and sizes that its argument struct has and that it does not read.
_ABSENT = ("x", "bias")
_UNREAD = dict.fromkeys(("stride_x", "stride_w", "stride_bias", "stride_y"), 0)


@dataclass(frozen=True)
class ReadProblem:
    """Reading `rows` of `columns` elements of 16 bits."""

    rows: int
    columns: int


def read_floor(weights: list[Tensor], overlapped: bool = False) -> Contender:
    """A contender that reads one of these [M, K] weights from end to end. On a GPU that can, `overlapped` launches it
    as this package's kernels are launched there; else it is launched as usual."""
    device = weights[0].device
    return _gpu_floor(weights, overlapped) if device.type == "cuda" else _cpu_floor(weights)


def _cpu_floor(weights: list[Tensor]) -> Contender:
    persona, blocks = host_persona(), torch.get_num_threads()
    unit = Unit("benchmark", ("csrc/benchmark/read_floor.cpp",), persona.target, symbols=(_CPU_KERNEL,))
    kernel = Kernel(unit, _CPU_KERNEL, GEMM_ARGS, args=_sizes(weights[0], blocks))
    return _reader(weights, kernel, persona, torch.empty(blocks, dtype=torch.int64))


def _gpu_floor(weights: list[Tensor], overlapped: bool) -> Contender:
    """The fastest of a few shapes of the reading kernel, by a short measurement."""
    candidates = {
        f"{waves},{unroll},{each}": _gpu_reader(weights, waves, unroll, each, overlapped)
        for waves, unroll, each in _FLOORS
    }
    timings = compare(candidates, len(weights), weights[0].device, samples=5)
    return candidates[min(timings, key=lambda name: timings[name].median)]


def _gpu_reader(weights: list[Tensor], waves: int, unroll: int, workgroups_each: int, overlapped: bool) -> Contender:
    device = weights[0].device
    persona = persona_for(device.type, device.index)
    defines = {"AITERLITE_UNROLL": str(unroll), "AITERLITE_WAVES": str(waves)}
    if overlapped:
        defines |= overlap_defines(persona.target)
    unit = Unit(
        "benchmark/read_floor",
        ("csrc/benchmark/read_floor.hip",),
        persona.target,
        defines=tuple(defines.items()),
        symbols=(_KERNEL,),
    )
    workgroups = persona.cu_count * workgroups_each
    grid, block = along_x(workgroups), along_x(waves * persona.wave_size)
    kernel = Kernel(unit, _KERNEL, GEMM_ARGS, grid, block, args=_sizes(weights[0], workgroups))
    return _reader(weights, kernel, persona, torch.empty(1, dtype=torch.int32, device=device))


def _sizes(weight: Tensor, parts: int) -> dict[str, int]:
    """The kernels count elements of 16 bits, and take the number of their workgroups or blocks as n."""
    rows = weight.shape[0]
    return {"n": parts, "m": rows, "k": weight.nbytes // 2 // rows}


def _reader(weights: list[Tensor], kernel: Kernel, persona: Persona, y: Tensor) -> Contender:
    problem = ReadProblem(int(kernel.args["m"]), int(kernel.args["k"]))  # type: ignore[arg-type]
    row = Row("read_floor", "benchmark", (), kernels=lambda *_: (kernel,))
    decision = Decision("read_floor", problem, persona, row)
    launch = launches.prepare(decision, y.device, ("weight", "y", *_ABSENT), _UNREAD, _ABSENT)
    return lambda copy: launch(weights[copy], y, None, None)
