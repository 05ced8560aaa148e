"""Skinny GEMM of 8-bit floats: `wvSplitKQ`, registered with torch.library as `aiterlite::wvSplitKQ`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite import emulator, launcher
from aiterlite.amdgpu import kernarg
from aiterlite.dispatch import Decision
from aiterlite.errors import ArgumentError, LaunchError
from aiterlite.ops import calls, gemm
from aiterlite.tables import gemm_asm
from aiterlite.tables import gemm_fp8 as tables
from aiterlite.target import launch_target

# What a call is, once prepared: (x, weight, scale_x, scale_w, bias) -> y.
Run = Callable[[Tensor, Tensor, Tensor, Tensor, "Tensor | None"], Tensor]

_OP = "wvSplitKQ"
FLAVOURS = {torch.float8_e4m3fn: "e4m3fn", torch.float8_e4m3fnuz: "e4m3fnuz"}
ELEMENTS = {"e4m3fn": 0, "e4m3fnuz": 1}
_OUTPUTS = {torch.bfloat16: "bf16", torch.float16: "fp16"}
_MAX_CACHED_CALLS = 4096
_OPERAND_TYPES: list[Any] = [*[ctypes.c_void_p] * 6, *[ctypes.c_int64] * 8]


def wvSplitKQ(  # noqa: N802 (the operator's name in the field)
    x: Tensor,
    weight: Tensor,
    out_dtype: torch.dtype,
    scale_x: Tensor,
    scale_w: Tensor,
    bias: Tensor | None = None,
    *,
    cu_count: int = 0,
) -> Tensor:
    """The fp8 skinny GEMM of vLLM's ROCm backend: y = (x · weight^T) · scale_x · scale_w + bias for 1 to 16 rows of x.

    Args:
        x: [..., K] of a float8_e4m3 type with 0 to 16 rows; the last dimension has stride 1, rows may be strided. GPUs
            take the type that their matrix unit has: float8_e4m3fnuz on gfx942, float8_e4m3fn on gfx950 and sm_90. CPUs
            take both.
        weight: [M, K] of x's dtype and device; the last dimension has stride 1, rows may be strided. Rows at multiples
            of 16 bytes, as all are where K is one of 16, are read 16 bytes at a time; others byte by byte.
        out_dtype: torch.bfloat16 or torch.float16.
        scale_x: float32, one element, on x's device: the factor from x's stored numbers to its real ones.
        scale_w: float32 on x's device: one element, or [M] or [M, 1], one for each row of the weight.
        bias: None, [M], [1, M] or [N, M] of out_dtype on x's device, N the number of rows of x.
        cu_count: plan as for a chip of this many compute units; 0 for as many as the device has.

    Returns [..., M] of out_dtype. Sums are float32; scale_x, then scale_w, then the bias are applied in float32, and
    one rounding follows. The same call gives the same bits. Scales are read on the device. Nothing outside the
    operands' addressed elements is read. Not differentiable.

    Source of the semantics: `wvSplitKQ` of vLLM (csrc/rocm/skinny_gemms.cu), whose argument order is weight first, and
    which takes 1 to 4 rows, K a multiple of 16, and scales of one element.
    Raises `ArgumentError`, `DispatchError` (with the reasons) or a `JitError`.
    """
    result: Tensor = _WV_SPLIT_K_Q_OP(x, weight, out_dtype, scale_x, scale_w, bias, cu_count=cu_count)
    return result


# Checking ------------------------------------------------------------------------------------------------------------


def _check(
    x: Tensor, weight: Tensor, out_dtype: torch.dtype, scale_x: Tensor, scale_w: Tensor, bias: Tensor | None
) -> int:
    """The number of rows of x. Raises `ArgumentError` for operands that do not fit together."""
    n, m = gemm._check(_OP, x, weight, None), weight.shape[0]
    if x.dtype not in FLAVOURS:
        raise ArgumentError(_OP, "x", f"of dtype {x.dtype}", ", ".join(map(str, FLAVOURS)))
    if out_dtype not in _OUTPUTS:
        raise ArgumentError(_OP, "out_dtype", out_dtype, ", ".join(map(str, _OUTPUTS)))
    _check_scale("scale_x", scale_x, x, scale_x.numel() == 1, "one element")
    row_scales = list(scale_w.shape) in ([m], [m, 1])
    _check_scale("scale_w", scale_w, x, scale_w.numel() == 1 or row_scales, f"one element, [{m}] or [{m}, 1]")
    if bias is not None:
        gemm._check_bias_shape(_OP, bias, n, m)
        _check_place("bias", bias, x, out_dtype, "out_dtype")
    return n


def _check_scale(name: str, scale: Tensor, x: Tensor, fits: bool, allowed: str) -> None:
    if not fits:
        raise ArgumentError(_OP, name, f"of shape {list(scale.shape)}", allowed)
    _check_place(name, scale, x, torch.float32, "the dtype of scales")


def _check_place(name: str, tensor: Tensor, x: Tensor, dtype: torch.dtype, what: str) -> None:
    if tensor.dtype != dtype:
        raise ArgumentError(_OP, name, f"of dtype {tensor.dtype}", f"{dtype}, {what}")
    if tensor.device != x.device:
        raise ArgumentError(_OP, name, f"on {tensor.device}", f"{x.device}, the device of x")


# Preparing: once for each combination of shapes, strides, dtypes, alignment and device -------------------------------


def _problem(
    rows: Tensor, weight: Tensor, out_dtype: torch.dtype, scale_w: Tensor, bias: Tensor | None
) -> tables.ScaledGemmProblem:
    m, k = weight.shape
    return tables.ScaledGemmProblem(
        n=rows.shape[0],
        m=m,
        k=k,
        fp8=FLAVOURS[rows.dtype],
        dtype=_OUTPUTS[out_dtype],
        scale_w="tensor" if scale_w.numel() == 1 else "row",
        bias=bias is not None,
        aligned=k % tables.ScaledGemmProblem.LOAD_ELEMENTS == 0 and _is_aligned(rows) and _is_aligned(weight),
    )


def _is_aligned(matrix: Tensor) -> bool:
    one_row = matrix.shape[0] == 1
    return matrix.data_ptr() % 16 == 0 and (one_row or matrix.stride(0) % 16 == 0)


def _prepare(
    x: Tensor,
    weight: Tensor,
    out_dtype: torch.dtype,
    scale_x: Tensor,
    scale_w: Tensor,
    bias: Tensor | None,
    cu_count: int,
) -> Run:
    n = _check(x, weight, out_dtype, scale_x, scale_w, bias)
    gemm._check_dense(_OP, x, weight, bias)
    persona = gemm._planned_for(_OP, x.device, cu_count)
    shape = (*x.shape[:-1], weight.shape[0])
    if n == 0 or weight.shape[0] == 0:
        return lambda x, weight, scale_x, scale_w, bias: x.new_empty(shape, dtype=out_dtype)
    rows = gemm._flatten(x)
    decision, row = calls.decide(tables.WV_SPLIT_K_Q, _problem(rows, weight, out_dtype, scale_w, bias), persona)
    fixed = sizes(rows, weight, scale_w, bias)
    if row.backend == "host":
        launch = _host_launch(decision, fixed)
    elif x.device.type == "cpu":
        launch = _emulated_launch(decision, fixed)
    else:
        launch = _device_launch(decision, fixed, x.device)

    def run(x: Tensor, weight: Tensor, scale_x: Tensor, scale_w: Tensor, bias: Tensor | None) -> Tensor:
        rows = x if x.dim() == 2 else gemm._flatten(x)
        y = x.new_empty(shape, dtype=out_dtype)
        launch(rows, weight, bias, y, scale_x, scale_w)
        return y

    return run


def sizes(rows: Tensor, weight: Tensor, scale_w: Tensor, bias: Tensor | None) -> tuple[int, ...]:
    """What every C entry point of wvSplitKQ takes after the six addresses: strides, and n, m, k."""
    strides = gemm.sizes(rows, weight, bias)
    return (*strides[:4], scale_w.stride(0) if scale_w.numel() > 1 else 0, *strides[4:])


# What has the operands (x, weight, bias, y, scale_x, scale_w) computed.
Launch = Callable[[Tensor, Tensor, "Tensor | None", Tensor, Tensor, Tensor], None]


def _addresses(
    rows: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor, scale_x: Tensor, scale_w: Tensor
) -> tuple[int | None, ...]:
    bias_address = None if bias is None else bias.data_ptr()
    return rows.data_ptr(), weight.data_ptr(), bias_address, y.data_ptr(), scale_x.data_ptr(), scale_w.data_ptr()


def host_entry(target: str) -> Any:
    """The CPU kernel of a target: (operands..., element, result, parallel_for, threads) -> status."""
    kernel = gemm._library(target).aiterlite_wv_split_k_q_cpu
    kernel.argtypes = [*_OPERAND_TYPES, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32]
    return kernel


def launch_entry(capturing: bool = True, reads: str = "") -> Any:
    """The launch of a GPU kernel, as `gemm.launch_entry`, for the operands of wvSplitKQ."""
    watch = launcher.capturing if capturing else lambda: False
    library = gemm._library(launch_target(), watch)
    if reads:
        kernarg.require(library, gemm_asm.SCALED_GEMM_ARGS.name, reads)
    launch = library.aiterlite_wv_split_k_q_launch
    launch.argtypes = [*[ctypes.c_void_p] * 3, *[ctypes.c_uint32] * 3, *_OPERAND_TYPES]
    return launch


def _host_launch(decision: Decision, fixed: tuple[int, ...]) -> Launch:
    kernel = host_entry(decision.persona.target)
    problem: tables.ScaledGemmProblem = decision.problem
    tail = (*fixed, ELEMENTS[problem.fp8], gemm.ELEMENTS[problem.dtype], gemm.parallel_for())

    def launch(*operands: Any) -> None:
        code = kernel(*_addresses(*operands), *tail, torch.get_num_threads())
        if code != 0:
            raise LaunchError("aiterlite_wv_split_k_q_cpu", code, "the thread pool failed", (), (), str(problem))

    return launch


def _device_launch(decision: Decision, fixed: tuple[int, ...], device: torch.device) -> Launch:
    persona, grid, block = decision.persona, decision.plan.grid, decision.plan.block
    index = device.index or 0
    unit, kernel = gemm.device_kernel(decision)
    function = launcher.function(unit, persona, device.type, index, kernel)
    entry = launch_entry(reads=unit.kernarg)
    raw_stream: Any = torch._C._cuda_getCurrentRawStream

    def launch(*operands: Any) -> None:
        head = (function.launch, function.handle, raw_stream(index), grid, block, 0)
        code = launcher.submit(index, entry, *head, *_addresses(*operands), *fixed)
        if code != 0:
            launcher.check_launch(code, function, persona.family, grid, block, str(decision.problem))

    return launch


def _emulated_launch(decision: Decision, fixed: tuple[int, ...]) -> Launch:
    """The AMD path on CPU tensors: the same plan, host code, arguments and machine code, run by the emulator."""
    persona, grid, block = decision.persona, decision.plan.grid, decision.plan.block
    unit, kernel = gemm.device_kernel(decision)
    function = launcher.function(unit, persona, "cpu", 0, kernel)
    entry = launch_entry(capturing=False, reads=unit.kernarg)
    names = ("x", "weight", "bias", "y", "scale_x", "scale_w")

    def launch(*operands: Any) -> None:
        emulator.prepare_launch(persona, dict(zip(names, operands, strict=True)))
        code = entry(function.launch, function.handle, None, grid, block, 0, *_addresses(*operands), *fixed)
        if code == -1:
            launcher.check_launch(code, function, persona.family, grid, block, str(decision.problem))
        emulator.raise_last_error(code)

    return launch


# Registration --------------------------------------------------------------------------------------------------------

_calls: calls.PreparedCalls[Run] = calls.PreparedCalls()


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _impl(
    x: Tensor,
    weight: Tensor,
    out_dtype: torch.dtype,
    scale_x: Tensor,
    scale_w: Tensor,
    bias: Tensor | None = None,
    *,
    cu_count: int = 0,
) -> Tensor:
    """Runs the prepared call for these operands."""
    key = (
        out_dtype,
        cu_count,
        gemm.layout_key(x, weight, bias),
        _layout(scale_x),
        _layout(scale_w),
    )
    run = _calls.find(key) or _calls.keep(key, _prepare(x, weight, out_dtype, scale_x, scale_w, bias, cu_count))
    return run(x, weight, scale_x, scale_w, bias)


def _fake(
    x: Tensor,
    weight: Tensor,
    out_dtype: torch.dtype,
    scale_x: Tensor,
    scale_w: Tensor,
    bias: Tensor | None = None,
    *,
    cu_count: int = 0,
) -> Tensor:
    _check(x, weight, out_dtype, scale_x, scale_w, bias)
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=out_dtype)


def _register() -> Any:
    library: Any = torch.library.Library("aiterlite", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define(
        "wvSplitKQ(Tensor x, Tensor weight, ScalarType out_dtype, Tensor scale_x, Tensor scale_w, Tensor? bias=None, "
        "*, int cu_count=0) -> Tensor"
    )
    for key in ("CPU", "CUDA"):
        library.impl(_OP, _impl, key)
    torch.library.register_fake(f"aiterlite::{_OP}", _fake, lib=library)
    return library


_registered = _register()
_WV_SPLIT_K_Q_OP = torch.ops.aiterlite.wvSplitKQ.default
