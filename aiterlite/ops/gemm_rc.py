"""Skinny GEMM for up to 128 tokens: `wvSplitKrc`, registered with torch.library as `aiterlite::wvSplitKrc`.

What a call means is in the docstring of `wvSplitKrc`; why each reduction keeps its promise, in
csrc/gemm/wv_split_k_reduce.hip.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite import dispatch, emulator, envs, launcher
from aiterlite.dispatch import Decision
from aiterlite.errors import ArgumentError, LaunchError
from aiterlite.jit import loader
from aiterlite.ops import calls, gemm, gemm_sm90, workspace
from aiterlite.ops.workspace import Need
from aiterlite.tables import gemm_rc as tables
from aiterlite.tables.gemm_rc_plan import COUNTERS, REDUCE_ATOMIC, REDUCE_NONE, REDUCTIONS
from aiterlite.tables.gemm_sm90 import Sm90Plan
from aiterlite.target import launch_target
from aiterlite.wishes import wishes

Run = Callable[[Tensor, Tensor, "Tensor | None", "Tensor | None"], Tensor]

_OP = "wvSplitKrc"
_ABI = 1
_SMALL_WORKSPACE = -3
_COUNTER_BYTES = 4 * COUNTERS


def wvSplitKrc(  # noqa: N802 (the operator's name in the field)
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    reduction: str | None = None,
    workspace: Tensor | None = None,
    cu_count: int = 0,
) -> Tensor:
    """The skinny GEMM of vLLM's ROCm backend for more rows: y = x · weight^T + bias for 1 to 128 rows of x.

    Args:
        x: [..., K] bfloat16 or float16 with 0 to 128 rows; the last dimension has stride 1, rows may be strided.
        weight: [M, K] of x's dtype and device; the last dimension has stride 1, rows may be strided.
        bias: None, [M], [1, M] or [N, M] of x's dtype and device, N the number of rows of x.
        reduction: how sums over parts of K come together; None takes AITERLITE_GEMM_REDUCTION.
            `deterministic`: the same call gives the same bits on the same chip.
            `fast`: by float atomics; where a shape has three parts or more, the last bits may vary.
            `batch_invariant`: deterministic, and a row's bits do not depend on how many other rows x has, 1 to 128.
        workspace: memory for the partial sums, contiguous, on x's device, of at least `wvSplitKrc_workspace_size`
            bytes, or None for memory that this package keeps for each device and stream. It is zero before its first
            use, is used by one launch at a time, and is zeroed again before another reduction uses it; its counters
            are zero again after each call, after one that failed too.
        cu_count: plan as for a chip of this many compute units; 0 for as many as the device has.

    Returns [..., M] of x's dtype. Sums are float32, the bias is added in float32, and one rounding follows. Nothing
    outside the operands' addressed elements is read. Not differentiable.

    Source of the semantics: `wvSplitKrc` of vLLM (csrc/rocm/skinny_gemms.cu), which takes 9 to 128 rows.
    Raises `ArgumentError`, `DispatchError` (with the reasons) or a `JitError`.
    """
    result: Tensor = _WV_SPLIT_K_RC_OP(x, weight, bias, reduction=reduction, workspace=workspace, cu_count=cu_count)
    return result


def wvSplitKrc_workspace_size(  # noqa: N802 (after the operator)
    n: int, m: int, k: int, *, reduction: str | None = None, device: torch.device | str = "cuda", cu_count: int = 0
) -> int:
    """The bytes of workspace that `wvSplitKrc` needs for x[n, k] and weight[m, k] on a device; 0 if none.

    `reduction` and `cu_count` are those of the call. Raises `ArgumentError` for ones that it does not take, and
    `DispatchError` for sizes that it does not take.
    """
    persona = gemm._planned_for(_OP, torch.device(device), cu_count)
    problem = tables.RcProblem(n, m, k, reduction=reduction_mode(_OP, reduction))
    wished = wishes()
    decision = dispatch.decide(tables.WV_SPLIT_K_RC, problem, persona, wished)
    dispatch.require(decision, wished)
    return 0 if decision.plan is None else int(decision.plan.workspace)


# Preparing: once for each combination of shapes, strides, dtypes, alignment, reduction and device ---------------------


def reduction_mode(function: str, asked: str | None) -> str:
    """What a call of `function` asks for, else what the environment does."""
    if asked is None:
        return envs.GEMM_REDUCTION.get()
    if asked not in REDUCTIONS:
        raise ArgumentError(function, "reduction", repr(asked), ", ".join(REDUCTIONS))
    return asked


def problem_of(rows: Tensor, weight: Tensor, bias: Tensor | None, reduction: str) -> tables.RcProblem:
    """The problem of x[N, K] and a weight. In `batch_invariant` a row alone counts as aligned only if the rows beside
    it would be too: alignment may choose a kernel, and another kernel may add in another order."""
    plain = gemm._problem(rows, weight, bias)
    alone = reduction == "batch_invariant" and rows.shape[0] == 1 and rows.stride(0) % 8 != 0
    return tables.RcProblem(**{**vars(plain), "aligned": plain.aligned and not alone}, reduction=reduction)


def _prepare(x: Tensor, weight: Tensor, bias: Tensor | None, reduction: str, cu_count: int) -> Run:
    n = gemm._check(_OP, x, weight, bias)
    gemm._check_kernel_operands(_OP, x, weight, bias)
    shape = (*x.shape[:-1], weight.shape[0])
    if n == 0 or weight.shape[0] == 0:
        return lambda x, weight, bias, workspace: x.new_empty(shape)
    rows = gemm._flatten(x)
    problem = problem_of(rows, weight, bias, reduction)
    decision, _ = calls.decide(tables.WV_SPLIT_K_RC, problem, gemm._planned_for(_OP, x.device, cu_count))
    return run_of(decision, shape, gemm.sizes(rows, weight, bias), x.device)


def run_of(decision: Decision, shape: tuple[int, ...], fixed: tuple[int, ...], device: torch.device) -> Run:
    """The launch of what a decision on `wvSplitKrc` chose, for results of a shape and operands of `gemm.sizes`."""
    if decision.row is not None and decision.row.backend == "host":
        host = gemm._host_run(decision, shape, fixed)
        return lambda x, weight, bias, workspace: host(x, weight, bias)
    if device.type == "cpu":
        return _emulated_run(decision, shape, fixed)
    if isinstance(decision.plan, Sm90Plan):
        return _sm90_run(decision, shape, fixed, device)
    return _device_run(decision, shape, fixed, device)


def _need(plan: tables.WvSplitKrcPlan) -> Need:
    return Need(plan.workspace if plan.reduce == REDUCE_ATOMIC else min(plan.workspace, _COUNTER_BYTES), plan.workspace)


def _kind(plan: tables.WvSplitKrcPlan) -> str:
    return "atomic" if plan.reduce == REDUCE_ATOMIC else "slices"


def _check_workspace(given: Tensor, x: Tensor, need: Need) -> Tensor:
    """The caller's workspace as bytes."""
    if given.device != x.device:
        raise ArgumentError(_OP, "workspace", f"on {given.device}", f"{x.device}, the device of x")
    if not given.is_contiguous() or given.data_ptr() % 16:
        got = f"of strides {list(given.stride())} at address {given.data_ptr():#x}"
        raise ArgumentError(_OP, "workspace", got, "contiguous memory at a multiple of 16 bytes")
    if given.nbytes < need.total:
        remedy = "wvSplitKrc_workspace_size gives what a shape needs."
        raise ArgumentError(_OP, "workspace", f"{given.nbytes} bytes", f"at least {need.total} bytes", remedy)
    return workspace.as_bytes(given)


def launch_entry(capturing: bool = True) -> Any:
    """The launch of a kernel of this family: (driver's launch, function, stream, block, reduce, tile rows, tile
    columns, shards, shard_k, workspace, its bytes, operands...) -> the driver's status, -1 for sizes that do not fit,
    -3 for a workspace that is too small. `capturing`: a graph may be under capture."""
    watch = launcher.capturing if capturing else lambda: False
    library = loader.host_library(tables.host_unit(launch_target()), watch)
    loader.require_abi(library, "aiterlite_gemm_reduce_abi", _ABI)
    launch = library.aiterlite_wv_split_k_reduce_launch
    launch.argtypes = [
        *[ctypes.c_void_p] * 3,
        ctypes.c_uint32,
        ctypes.c_int32,
        *[ctypes.c_int64] * 4,
        ctypes.c_void_p,
        ctypes.c_int64,
        *gemm._OPERAND_TYPES,
    ]
    return launch


def launch_shape(plan: tables.WvSplitKrcPlan) -> tuple[int, ...]:
    """What `launch_entry` takes from the block to the width of a shard."""
    tiling = plan.tiling
    return plan.block, plan.reduce, tiling.rows, tiling.cols, plan.shards, plan.shard_k


def _raise_refused(code: int, function: launcher.Function, decision: Decision) -> None:
    plan: tables.WvSplitKrcPlan = decision.plan
    if code == _SMALL_WORKSPACE:
        detail = f"the workspace is smaller than the {plan.workspace} bytes of the plan"
        raise LaunchError(function.name, code, detail, (plan.grid, 1, 1), (plan.block, 1, 1), str(decision.problem))
    launcher.check_launch(code, function, decision.persona.family, plan.grid, plan.block, str(decision.problem))


def _device_run(decision: Decision, shape: tuple[int, ...], fixed: tuple[int, ...], device: torch.device) -> Run:
    plan: tables.WvSplitKrcPlan = decision.plan
    persona = decision.persona
    index = device.index or 0
    unit = tables.device_unit(decision.problem, persona, plan)
    function = launcher.function(unit, persona, device.type, index, tables.KERNEL)
    launch = launch_entry()
    need, kind, cut = _need(plan), _kind(plan), launch_shape(plan)
    raw_stream: Any = torch._C._cuda_getCurrentRawStream

    def run(x: Tensor, weight: Tensor, bias: Tensor | None, given: Tensor | None) -> Tensor:
        rows = x if x.dim() == 2 else gemm._flatten(x)
        y = x.new_empty(shape)
        stream = raw_stream(index)

        def go() -> int:
            memory = None
            if plan.reduce != REDUCE_NONE:
                memory = (
                    workspace.on_stream(x.device, stream, kind, need)
                    if given is None
                    else _check_workspace(given, x, need)
                )
            code: int = launch(
                function.launch,
                function.handle,
                stream,
                *cut,
                None if memory is None else memory.data_ptr(),
                0 if memory is None else memory.numel(),
                rows.data_ptr(),
                weight.data_ptr(),
                None if bias is None else bias.data_ptr(),
                y.data_ptr(),
                *fixed,
            )
            if code != 0 and memory is not None:
                need.restore(memory)
            return code

        code = launcher.submit(index, go)
        if code != 0:
            _raise_refused(code, function, decision)
        return y

    return run


def _sm90_run(decision: Decision, shape: tuple[int, ...], fixed: tuple[int, ...], device: torch.device) -> Run:
    launch = gemm_sm90.prepare(decision, fixed, device)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None, given: Tensor | None) -> Tensor:
        y = x.new_empty(shape)
        launch(gemm._flatten(x), weight, bias, y)
        return y

    return run


def _emulated_run(decision: Decision, shape: tuple[int, ...], fixed: tuple[int, ...]) -> Run:
    """The AMD path on CPU tensors: the same plan, host code, arguments and machine code, run by the emulator."""
    plan: tables.WvSplitKrcPlan = decision.plan
    persona = decision.persona
    unit = tables.device_unit(decision.problem, persona, plan)
    function = launcher.function(unit, persona, "cpu", 0, tables.KERNEL)
    launch = launch_entry(capturing=False)
    need, kind, cut = _need(plan), _kind(plan), launch_shape(plan)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None, given: Tensor | None) -> Tensor:
        rows = x if x.dim() == 2 else gemm._flatten(x)
        y = x.new_empty(shape)
        memory = None
        if plan.reduce != REDUCE_NONE:
            # No more than the launch needs, so that an access behind that is outside.
            held = workspace.on_thread(kind, need) if given is None else _check_workspace(given, x, need)
            memory = held[: need.total]
        emulator.prepare_launch(persona, {"x": rows, "weight": weight, "bias": bias, "y": y, "workspace": memory})
        where = (None, 0) if memory is None else (memory.data_ptr(), memory.numel())
        addresses = (rows.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr(), y.data_ptr())
        code = launch(function.launch, function.handle, None, *cut, *where, *addresses, *fixed)
        if code != 0 and memory is not None:
            need.restore(memory)
        if code < 0:
            _raise_refused(code, function, decision)
        emulator.raise_last_error(code)
        return y

    return run


# Registration --------------------------------------------------------------------------------------------------------

_calls: calls.PreparedCalls[Run] = calls.PreparedCalls()


def _wv_split_k_rc_impl(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    reduction: str | None = None,
    workspace: Tensor | None = None,
    cu_count: int = 0,
) -> Tensor:
    """Runs the prepared call for these operands."""
    key = (reduction, cu_count, gemm.layout_key(x, weight, bias))
    run = _calls.find(key) or _calls.keep(key, _prepare(x, weight, bias, reduction_mode(_OP, reduction), cu_count))
    return run(x, weight, bias, workspace)


def _fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    reduction: str | None = None,
    workspace: Tensor | None = None,
    cu_count: int = 0,
) -> Tensor:
    reduction_mode(_OP, reduction)
    gemm._check(_OP, x, weight, bias)
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _register() -> Any:
    library: Any = torch.library.Library("aiterlite", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define(
        "wvSplitKrc(Tensor x, Tensor weight, Tensor? bias=None, *, str? reduction=None, Tensor(a!)? workspace=None, "
        "int cu_count=0) -> Tensor"
    )
    for key in ("CPU", "CUDA"):
        library.impl(_OP, _wv_split_k_rc_impl, key)
    torch.library.register_fake("aiterlite::wvSplitKrc", _fake, lib=library)
    return library


_registered = _register()
_WV_SPLIT_K_RC_OP = torch.ops.aiterlite.wvSplitKrc.default
