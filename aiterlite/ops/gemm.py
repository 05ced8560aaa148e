"""Skinny GEMM: `wvSplitK`, registered with torch.library as `aiterlite::wvSplitK`, and what its family shares.

A call is validated and dispatched once for each combination of shapes, strides, dtypes and device; what that gives is a
closure that only reads addresses and launches.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from aiterlite import emulator, launcher
from aiterlite.amdgpu import kernarg
from aiterlite.dispatch import Decision, Table
from aiterlite.errors import ArgumentError, LaunchError
from aiterlite.jit import loader
from aiterlite.jit.spec import Unit
from aiterlite.ops import calls
from aiterlite.tables import gemm as tables
from aiterlite.tables import gemm_asm
from aiterlite.target import Persona, launch_target, persona_for

Run = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]

ELEMENTS = {"bf16": 0, "fp16": 1}
_DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16"}
_ABI = 1


def wvSplitK(  # noqa: N802 (the operator's name in the field)
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, cu_count: int = 0
) -> Tensor:
    """The skinny GEMM of vLLM's ROCm backend: y = x · weight^T + bias for 1 to 16 rows of x.

    Args:
        x: [..., K] bfloat16 or float16 with 0 to 16 rows; the last dimension has stride 1, rows may be strided.
        weight: [M, K] of x's dtype and device; the last dimension has stride 1, rows may be strided.
        bias: None, [M], [1, M] or [N, M] of x's dtype and device.
        cu_count: plan as for a chip of this many compute units; 0 for as many as the device has.

    Returns [..., M] of x's dtype. Sums are float32, the bias is added in float32, and one rounding follows. The same
    call gives the same bits. Nothing outside the operands' addressed elements is read. Not differentiable.

    Source of the semantics: `wvSplitK` of vLLM (csrc/rocm/skinny_gemms.cu), whose argument order is weight first.
    Raises `ArgumentError`, `DispatchError` (with the reasons) or a `JitError`.
    """
    result: Tensor = _WV_SPLIT_K_OP(x, weight, bias, cu_count=cu_count)
    return result


# Checking ------------------------------------------------------------------------------------------------------------


def _check(function: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> int:
    """The number of rows of x. Raises `ArgumentError` for operands that do not fit together."""
    if x.dim() < 1:
        raise ArgumentError(function, "x", "0-dimensional", "[..., K], at least 1 dimension")
    if weight.dim() != 2:
        raise ArgumentError(function, "weight", f"of shape {list(weight.shape)}", "[M, K], 2 dimensions")
    k = x.shape[-1]
    if weight.shape[1] != k:
        raise ArgumentError(
            function, "weight", f"of shape {list(weight.shape)}", f"[M, {k}], since x is {list(x.shape)}"
        )
    _check_alike(function, "weight", weight, x)
    n = x.numel() // k if k else _rows(x)
    if bias is not None:
        _check_bias_shape(function, bias, n, weight.shape[0])
        _check_alike(function, "bias", bias, x)
    return n


def _check_bias_shape(function: str, bias: Tensor, n: int, m: int) -> None:
    if list(bias.shape) not in ([m], [1, m], [n, m]):
        allowed = f"[{m}], [1, {m}] or [{n}, {m}] (features, or rows too)"
        raise ArgumentError(function, "bias", f"of shape {list(bias.shape)}", allowed)


def _rows(x: Tensor) -> int:
    rows = 1
    for size in x.shape[:-1]:
        rows *= size
    return rows


def _check_alike(function: str, name: str, tensor: Tensor, x: Tensor) -> None:
    if tensor.dtype != x.dtype:
        raise ArgumentError(function, name, f"of dtype {tensor.dtype}", f"{x.dtype}, the dtype of x")
    if tensor.device != x.device:
        raise ArgumentError(function, name, f"on {tensor.device}", f"{x.device}, the device of x")


def _check_kernel_operands(function: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """What the kernels need and torch does not."""
    if x.dtype not in _DTYPES:
        raise ArgumentError(function, "x", f"of dtype {x.dtype}", "torch.bfloat16, torch.float16")
    _check_dense(function, x, weight, bias)


def _check_dense(function: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if tensor is not None and not _is_dense(tensor):
            got = f"of strides {list(tensor.stride())}"
            raise ArgumentError(function, name, got, "a last dimension of stride 1", "Call .contiguous() on it.")


def _planned_for(function: str, device: torch.device, cu_count: int) -> Persona:
    """The persona of a device, with `cu_count` compute units where that is not 0. A CPU has none."""
    if cu_count < 0:
        raise ArgumentError(function, "cu_count", cu_count, "a number of compute units, or 0 for the device's own")
    persona = persona_for(device.type, device.index)
    return replace(persona, cu_count=cu_count) if cu_count and persona.cu_count else persona


def _is_dense(tensor: Tensor) -> bool:
    return tensor.shape[-1] <= 1 or tensor.stride(-1) == 1


# Preparing: once for each combination of shapes, strides, dtypes, alignment and device -------------------------------


def _problem(rows: Tensor, weight: Tensor, bias: Tensor | None) -> tables.GemmProblem:
    m, k = weight.shape
    return tables.GemmProblem(
        n=rows.shape[0],
        m=m,
        k=k,
        dtype=_DTYPES.get(rows.dtype, str(rows.dtype).removeprefix("torch.")),
        bias=bias is not None,
        aligned=k % 8 == 0 and _is_aligned(rows) and _is_aligned(weight),
        dense=all(_is_dense(tensor) for tensor in (rows, weight, bias) if tensor is not None),
    )


def _is_aligned(matrix: Tensor) -> bool:
    one_row = matrix.shape[0] == 1
    return matrix.data_ptr() % 16 == 0 and (one_row or matrix.stride(0) % 8 == 0)


def _flatten(x: Tensor) -> Tensor:
    """x as [N, K]; a view wherever strides allow one."""
    return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])


def _prepare(table: Table, function: str, x: Tensor, weight: Tensor, bias: Tensor | None, cu_count: int) -> Run:
    n = _check(function, x, weight, bias)
    shape = (*x.shape[:-1], weight.shape[0])
    _check_kernel_operands(function, x, weight, bias)
    if n == 0 or weight.shape[0] == 0:
        return lambda x, weight, bias: x.new_empty(shape)
    rows = _flatten(x)
    problem = _problem(rows, weight, bias)
    decision, _ = calls.decide(table, problem, _planned_for(function, x.device, cu_count))
    # The strides are part of what a prepared call is kept under, so these never change for it.
    return run_of(decision, shape, sizes(rows, weight, bias), x.device)


def run_of(decision: Decision, shape: tuple[int, ...], fixed: tuple[int, ...], device: torch.device) -> Run:
    """The launch of what a decision on `wvSplitK` chose, for results of a shape and operands of these `sizes`."""
    if decision.row is not None and decision.row.backend == "host":
        return _host_run(decision, shape, fixed)
    if device.type == "cpu":
        return _emulated_run(decision, shape, fixed)
    return _device_run(decision, shape, fixed, device)


def sizes(rows: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[int, ...]:
    """What every C entry point of this family takes after the four addresses: row strides, and n, m, k."""
    m, k = weight.shape
    per_row = bias is not None and bias.dim() == 2 and bias.shape[0] > 1
    return (
        rows.stride(0),
        weight.stride(0),
        bias.stride(0) if bias is not None and per_row else 0,
        m,
        rows.shape[0],
        m,
        k,
    )


_OPERAND_TYPES: list[Any] = [*[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 7]


def _library(target: str, capturing: Callable[[], bool] = lambda: False) -> ctypes.CDLL:
    library = loader.host_library(tables.host_unit(target), capturing)
    loader.require_abi(library, "aiterlite_gemm_abi", _ABI)
    return library


def host_entry(target: str) -> Any:
    """The CPU kernel of a target: (operands..., element, parallel_for, threads) -> status."""
    kernel = _library(target).aiterlite_wv_split_k_cpu
    kernel.argtypes = [*_OPERAND_TYPES, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32]
    return kernel


def launch_entry(capturing: bool = True, reads: str = "") -> Any:
    """The launch of a GPU kernel of this family: (driver's launch, function, stream, grid, block, shared bytes,
    operands...) -> the driver's status, or -1 for sizes beyond 32 bits. `capturing`: a graph may be under capture.

    `reads` is the `kernarg` of the kernel's unit. Raises `LoadError` where the host fills another struct than that.
    """
    watch = launcher.capturing if capturing else lambda: False
    library = _library(launch_target(), watch)
    if reads:
        kernarg.require(library, gemm_asm.GEMM_ARGS.name, reads)
    launch = library.aiterlite_wv_split_k_launch
    launch.argtypes = [*[ctypes.c_void_p] * 3, *[ctypes.c_uint32] * 3, *_OPERAND_TYPES]
    return launch


def device_kernel(decision: Decision) -> tuple[Unit, str]:
    """The unit of the GPU kernel that a decision chose, and the kernel's symbol."""
    unit = decision.units[0]
    return unit, unit.symbols[0]


def parallel_for() -> int:
    """The address of torch's own parallel loop, so that torch.set_num_threads is obeyed without linking torch."""
    path = os.path.join(os.path.dirname(torch.__file__), "lib", "libtorch_cpu.so")
    return ctypes.cast(ctypes.CDLL(path).torch_parallel_for, ctypes.c_void_p).value or 0


def _host_run(decision: Decision, shape: tuple[int, ...], fixed: tuple[int, ...]) -> Run:
    kernel = host_entry(decision.persona.target)
    tail = (*fixed, ELEMENTS[decision.problem.dtype], parallel_for())

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = x if x.dim() == 2 else _flatten(x)
        y = x.new_empty(shape)
        bias_address = None if bias is None else bias.data_ptr()
        code = kernel(rows.data_ptr(), weight.data_ptr(), bias_address, y.data_ptr(), *tail, torch.get_num_threads())
        if code != 0:
            raise LaunchError("aiterlite_wv_split_k_cpu", code, "the thread pool failed", (), (), str(decision.problem))
        return y

    return run


def _device_run(decision: Decision, shape: tuple[int, ...], fixed: tuple[int, ...], device: torch.device) -> Run:
    plan: tables.WvSplitKPlan = decision.plan
    persona = decision.persona
    index = device.index or 0
    unit, kernel = device_kernel(decision)
    function = launcher.function(unit, persona, device.type, index, kernel)
    launch = launch_entry(reads=unit.kernarg)
    handle, entry, grid, block = function.handle, function.launch, plan.grid, plan.block
    raw_stream: Any = torch._C._cuda_getCurrentRawStream

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = x if x.dim() == 2 else _flatten(x)
        y = x.new_empty(shape)
        arguments = (
            entry,
            handle,
            raw_stream(index),
            grid,
            block,
            0,
            rows.data_ptr(),
            weight.data_ptr(),
            None if bias is None else bias.data_ptr(),
            y.data_ptr(),
            *fixed,
        )
        # `submit` would ask the same, and pack the arguments once more.
        code = launch(*arguments) if launcher.is_ready(index) else launcher.submit(index, launch, *arguments)
        if code != 0:
            launcher.check_launch(code, function, persona.family, grid, block, str(decision.problem))
        return y

    return run


def _emulated_run(decision: Decision, shape: tuple[int, ...], fixed: tuple[int, ...]) -> Run:
    """The AMD path on CPU tensors: the same plan, host code, arguments and machine code, run by the emulator."""
    plan: tables.WvSplitKPlan = decision.plan
    persona = decision.persona
    unit, kernel = device_kernel(decision)
    function = launcher.function(unit, persona, "cpu", 0, kernel)
    launch = launch_entry(capturing=False, reads=unit.kernarg)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = x if x.dim() == 2 else _flatten(x)
        y = x.new_empty(shape)
        emulator.prepare_launch(persona, {"x": rows, "weight": weight, "bias": bias, "y": y})
        addresses = (rows.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr(), y.data_ptr())
        code = launch(function.launch, function.handle, None, plan.grid, plan.block, 0, *addresses, *fixed)
        if code == -1:
            launcher.check_launch(code, function, persona.family, plan.grid, plan.block, str(decision.problem))
        emulator.raise_last_error(code)
        return y

    return run


# Registration --------------------------------------------------------------------------------------------------------

_calls: calls.PreparedCalls[Run] = calls.PreparedCalls()


def layout_key(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Any, ...]:
    """What a prepared call depends on of its operands: shapes, strides, dtypes, devices (a GPU's number, -1 for a CPU:
    implementations are called with no others), alignment."""
    return (
        x.shape,
        x.stride(),
        x.dtype,
        x.get_device(),
        weight.shape,
        weight.stride(),
        weight.dtype,
        weight.get_device(),
        (x.data_ptr() | weight.data_ptr()) & 15,
        None if bias is None else (bias.shape, bias.stride(), bias.dtype, bias.get_device()),
    )


def _run_for(x: Tensor, weight: Tensor, bias: Tensor | None, cu_count: int = 0, function: str = "wvSplitK") -> Run:
    """The prepared call for these operands. Errors name `function`."""
    key = (function, cu_count, layout_key(x, weight, bias))
    run = _calls.find(key)
    return run or _calls.keep(key, _prepare(tables.WV_SPLIT_K, function, x, weight, bias, cu_count))


def _impl(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, cu_count: int = 0) -> Tensor:
    return _run_for(x, weight, bias, cu_count)(x, weight, bias)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, cu_count: int = 0) -> Tensor:
    _check("wvSplitK", x, weight, bias)
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _register() -> Any:
    library: Any = torch.library.Library("aiterlite", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define("wvSplitK(Tensor x, Tensor weight, Tensor? bias=None, *, int cu_count=0) -> Tensor")
    for key in ("CPU", "CUDA"):
        library.impl("wvSplitK", _impl, key)
    torch.library.register_fake("aiterlite::wvSplitK", _fake, lib=library)
    return library


_registered = _register()
_WV_SPLIT_K_OP = torch.ops.aiterlite.wvSplitK.default


_ELSEWHERE = {
    "explain": "linear",
    "linear": "linear",
    "wvSplitKrc": "gemm_rc",
    "wvSplitKrc_workspace_size": "gemm_rc",
}


def __getattr__(name: str) -> Any:
    """The operators of this family that have a file of their own, which reads this one."""
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(f"aiterlite.ops.{_ELSEWHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
