"""bare(decision, tensors, sizes): a launch with nothing around it, against which a call of an operator is measured."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from aiterlite import envs
from aiterlite.dispatch import Decision
from aiterlite.launch import calls, drivers, functions, program, streams


def bare(
    decision: Decision, tensors: Mapping[str, Tensor | None], sizes: Mapping[str, int | float]
) -> Callable[[], int]:
    """One C call that launches a decision's kernels with arguments that were packed once; it returns 0.

    The arguments hold addresses: the caller keeps the tensors alive. It goes to the stream that is torch's current one
    now. Raises `ValueError` for kernels that need a workspace, or that only the emulator runs here, and as
    `calls.prepare` does.
    """
    kernels, persona = decision.kernels, decision.persona
    if decision.workspace is not None:
        raise ValueError(f"{decision.op} needs a workspace, and a bare launch has none")
    present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    values = {**sizes, **{name: 0 for name, tensor in tensors.items() if tensor is None}}
    addresses = tuple(tensor.data_ptr() for tensor in present.values())
    packing = program.packing(kernels, tuple(present), values)
    arguments = packing.pack(addresses)
    if all(kernel.on_host for kernel in kernels):
        (kernel,) = kernels
        entry = calls.host_entry(kernel)
        return functools.partial(entry, arguments, calls.parallel_for(), torch.get_num_threads())
    device = next(iter(present.values())).device
    if device.type != "cuda":
        raise ValueError(f"{decision.op} is launched on {device}, where only the emulator runs {persona.target} code")
    index = device.index or 0
    handles = [functions.find(kernel, persona, index) for kernel in kernels]
    driver = drivers.driver(persona.family)
    overlap = envs.OVERLAP.get() == "1"
    made = program.words(kernels, handles, driver.launch_words, overlap, packing.offsets, values)
    raw_stream: Any = torch._C._cuda_getCurrentRawStream
    entry = calls.launch_entry(streams.capturing)
    launch = functools.partial(entry, made.buffer_info()[0], raw_stream(index), arguments)
    # The launch reads the program at its address.
    launch.__dict__["program"] = made
    return launch
