"""prepare(decision, ...): what a decision launches, as a callable that takes tensors.

All that depends on shapes and devices is done here, once; a call collects addresses, packs them and launches. CPU
kernels, GPU kernels and emulated ones take the same argument structs from the same kernels of the decision.
"""

from __future__ import annotations

import ctypes
import functools
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from aiterlite import emulator, envs
from aiterlite.dispatch import Decision
from aiterlite.errors import ArgumentError, LaunchError
from aiterlite.jit import loader
from aiterlite.kernel import LAUNCH_SYMBOL, WORKSPACE, Kernel, Workspace, launch_unit
from aiterlite.launch import drivers, functions, hints, program, streams
from aiterlite.launch import record as records
from aiterlite.launch import workspace as workspaces
from aiterlite.launch.record import LaunchRecord

# Launches. Takes tensors, or numbers, in the order of the names it was prepared for, None where one is absent, and the
# caller's workspace or None.
Launch = Callable[..., None]

_NO_MEMORY = -2
_data_ptr = Tensor.data_ptr


def _value(given: Any) -> int:
    return given if isinstance(given, int) else _data_ptr(given)


def prepare(
    decision: Decision,
    device: torch.device,
    operands: Sequence[str],
    sizes: Mapping[str, int | float],
    absent: Sequence[str] = (),
    numbers: Sequence[str] = (),
) -> Launch:
    """The launches of a decision's kernels for tensors of this device, on torch's current stream.

    `operands` names the tensors that each call brings, in order; those of `absent` are None in every call, and their
    addresses null. Those of `numbers`, which come last, are ints and no tensors: sizes that differ from call to call.
    `sizes` are the values of all other fields that the kernels do not fill themselves. The callable raises
    `LaunchError` for what a driver refuses, `EmulatorError` for what an emulated kernel does wrong, and `ArgumentError`
    for a workspace that does not serve. Raises `JitError` and `LaunchError`. For tensors without memory (meta) nothing
    is loaded, and the callable does nothing.
    """
    if device.type == "meta":
        return _nothing
    brings = [name for name in operands if name not in absent]
    present = [index for index, name in enumerate(operands) if name not in absent]
    pick = _pick(present, len(operands))
    sizes = {**sizes, **dict.fromkeys(absent, 0)}
    if all(kernel.on_host for kernel in decision.kernels):
        return _host(decision, brings, pick, sizes, numbers)
    if device.type == "cpu":
        return _emulated(decision, brings, pick, sizes, numbers)
    return _device(decision, device, brings, pick, sizes, numbers)


def _nothing(*tensors: Tensor | None, workspace: Tensor | None = None) -> None:
    return None


def _pick(present: Sequence[int], count: int) -> Any:
    """A function that picks the tensors that are there from those of a call."""
    if len(present) == count:
        return tuple
    return operator.itemgetter(*present) if len(present) > 1 else lambda tensors: (tensors[present[0]],)


# CPU ------------------------------------------------------------------------------------------------------------------


@functools.cache
def parallel_for() -> int:
    """The address of torch's own parallel loop, so that torch.set_num_threads is obeyed without linking torch."""
    path = os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so")
    return ctypes.cast(ctypes.CDLL(path).torch_parallel_for, ctypes.c_void_p).value or 0


def host_entry(kernel: Kernel) -> Any:
    """A CPU kernel: (arguments, parallel_for, threads) -> status."""
    entry = getattr(loader.host_library(kernel.unit), kernel.symbol)
    entry.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int32]
    return entry


def _host(
    decision: Decision, brings: Sequence[str], pick: Any, sizes: Mapping[str, int | float], numbers: Sequence[str]
) -> Launch:
    pool, value_of = parallel_for(), _value if numbers else _data_ptr
    steps = [
        (host_entry(kernel), program.packing([kernel], brings, sizes, numbers).pack, kernel)
        for kernel in decision.kernels
    ]

    def launch(*tensors: Tensor | None, workspace: Tensor | None = None) -> None:
        if workspace is not None:
            _given(decision.op, workspace, tensors)
        addresses = tuple(map(value_of, pick(tensors)))
        for entry, pack, kernel in steps:
            code = entry(pack(addresses), pool, torch.get_num_threads())
            if code != 0:
                detail = "out of memory" if code == _NO_MEMORY else "the thread pool failed"
                raise LaunchError(kernel.symbol, code, detail, (), (), str(decision.problem))

    return launch


# GPUs -----------------------------------------------------------------------------------------------------------------


def launch_entry(capturing: Callable[[], bool]) -> Any:
    """The launch unit's function: (program, stream, arguments) -> kernel and status."""
    entry = getattr(loader.host_library(launch_unit(), capturing), LAUNCH_SYMBOL)
    entry.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p]
    entry.restype = ctypes.c_int64
    return entry


@functools.cache
def _record(directory: str) -> LaunchRecord | None:
    """This process's record of its launches, where AITERLITE_LAST_LAUNCHES names a directory for it."""
    return records.open_from_env() if directory else None


def _noted(entry: Any, decision: Decision, kernels: Sequence[Kernel], offsets: Sequence[int]) -> Any:
    """The launch, preceded by a note of each kernel where a record is kept."""
    record = _record(envs.LAST_LAUNCHES.get())
    if record is None:
        return entry
    note, chosen = record.note, f"{decision.op}: {decision.row.name if decision.row else ''}"
    ends = [offset + kernel.layout.size for kernel, offset in zip(kernels, offsets, strict=True)]

    def noting(program: int, stream: int | None, arguments: bytes) -> int:
        for kernel, begin, end in zip(kernels, offsets, ends, strict=True):
            note(kernel.symbol, kernel.grid, kernel.block, kernel.lds, arguments[begin:end], chosen)
        return int(entry(program, stream, arguments))

    return noting


def _device(
    decision: Decision,
    device: torch.device,
    brings: Sequence[str],
    pick: Any,
    sizes: Mapping[str, int | float],
    numbers: Sequence[str] = (),
) -> Launch:
    index = device.index or 0
    value_of = _value if numbers else _data_ptr
    kernels, need = decision.kernels, decision.workspace
    handles = [functions.find(kernel, decision.persona, index) for kernel in kernels]
    entry = launch_entry(streams.capturing)
    driver = drivers.driver(decision.persona.family)
    names = [*brings, WORKSPACE] if need else brings
    filled = program.packing(kernels, names, sizes, numbers)
    overlap = envs.OVERLAP.get() == "1"
    made = program.words(kernels, handles, driver.launch_words, overlap, filled.offsets, sizes)
    entry = _noted(entry, decision, kernels, filled.offsets)
    start, pack = made.buffer_info()[0], filled.pack
    raw_stream: Any = torch._C._cuda_getCurrentRawStream

    def launch(*tensors: Tensor | None, workspace: Tensor | None = None) -> None:
        if workspace is not None:
            _given(decision.op, workspace, tensors)
        arguments = pack(map(value_of, pick(tensors)))
        # `submit` would ask the same, at the price of one more call.
        if streams.is_ready(index):
            code = entry(start, raw_stream(index), arguments)
        else:
            code = streams.submit(index, lambda: entry(start, raw_stream(index), arguments))
        if code != 0:
            raise launch_error(code, decision, driver)

    def launch_with_workspace(*tensors: Tensor | None, workspace: Tensor | None = None) -> None:
        streams.submit(index, go, tensors, workspace)

    def go(tensors: Sequence[Tensor | None], workspace: Tensor | None) -> None:
        assert need is not None
        stream = raw_stream(index)
        memory = _given(decision.op, workspace, tensors, need)
        if memory is None:
            memory = workspaces.on_stream(torch.device(device.type, index), stream, need)
        code = entry(start, stream, pack((*map(value_of, pick(tensors)), memory.data_ptr())))
        if code != 0:
            workspaces.restore(memory, need)
            raise launch_error(code, decision, driver)

    launching = launch_with_workspace if need else launch
    # The launch reads the program at its address.
    launching.__dict__["program"] = made
    return launching


def launch_error(code: int, decision: Decision, driver: drivers.Driver) -> LaunchError:
    """What the launch unit's answer means."""
    kernel, status = decision.kernels[code >> 32], code & 0xFFFFFFFF
    detail = driver.error_text(status)
    # On the thread of the launch: each thread has an error of its own.
    driver.forget_error()
    hint = hints.launch_failure_hint(decision.persona.family, status)
    detail = f"{detail}; {hint}" if hint else detail
    return LaunchError(kernel.symbol, status, detail, kernel.grid, kernel.block, str(decision.problem))


def _given(
    function: str, workspace: Tensor | None, tensors: Sequence[Tensor | None], need: Workspace | None = None
) -> Tensor | None:
    """The caller's workspace as bytes, checked, also where kernels need none; None where there is none."""
    if workspace is None:
        return None
    first = next(tensor for tensor in tensors if tensor is not None)
    if workspace.device != first.device:
        raise ArgumentError(
            function, WORKSPACE, f"on {workspace.device}", f"{first.device}, the device of the operands"
        )
    if not workspace.is_contiguous() or workspace.data_ptr() % 16:
        got = f"of strides {list(workspace.stride())} at address {workspace.data_ptr():#x}"
        raise ArgumentError(function, WORKSPACE, got, "contiguous memory at a multiple of 16 bytes")
    if need is not None and workspace.nbytes < need.total:
        remedy = f"{function}_workspace_size gives what a shape needs."
        allowed = f"at least {need.total} bytes"
        raise ArgumentError(function, WORKSPACE, f"{workspace.nbytes} bytes", allowed, remedy)
    return workspaces.as_bytes(workspace)


# The emulator ---------------------------------------------------------------------------------------------------------


def _emulated(
    decision: Decision, brings: Sequence[str], pick: Any, sizes: Mapping[str, int | float], numbers: Sequence[str]
) -> Launch:
    """The AMD path on CPU tensors: the same plan, host code, arguments and machine code, run by the emulator."""
    kernels, need, persona = decision.kernels, decision.workspace, decision.persona
    handles = [functions.find(kernel, persona, functions.EMULATED) for kernel in kernels]
    entry = launch_entry(lambda: False)
    driver = drivers.driver("emulated")
    names = [*brings, WORKSPACE] if need else list(brings)
    # One at a time: a kernel's report and its errors are asked for before the next one runs.
    steps = []
    for kernel, handle in zip(kernels, handles, strict=True):
        filled = program.packing([kernel], names, sizes, numbers)
        made = program.words([kernel], [handle], driver.launch_words, False, filled.offsets, sizes)
        steps.append((made, filled.pack, _noted(entry, decision, [kernel], filled.offsets)))

    def launch(*tensors: Tensor | None, workspace: Tensor | None = None) -> None:
        named = dict(zip(brings, pick(tensors), strict=True))
        if need:
            # No more than the launch needs, so that any access behind it is outside.
            held = _given(decision.op, workspace, tensors, need)
            named[WORKSPACE] = (workspaces.on_thread(need) if held is None else held)[: need.total]
        values = tuple(map(_value, named.values()))
        memory = {name: tensor for name, tensor in named.items() if name not in numbers}
        for made, pack, submit in steps:
            emulator.prepare_launch(persona, memory)
            code = submit(made.buffer_info()[0], None, pack(values))
            if code and need:
                workspaces.restore(named[WORKSPACE], need)
            emulator.raise_last_error(code)

    return launch
