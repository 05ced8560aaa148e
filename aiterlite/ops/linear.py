"""`linear`: the whole skinny-GEMM family and torch behind one call, registered as `aiterlite::linear`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aiterlite import dispatch
from aiterlite.dispatch import Decision
from aiterlite.ops import calls, gemm, gemm_rc
from aiterlite.tables import TABLES
from aiterlite.tables import linear as tables
from aiterlite.tables.gemm_rc import WV_SPLIT_K_RC
from aiterlite.target import persona_for
from aiterlite.wishes import wishes

Run = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]

_OP = "linear"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, reduction: str | None = None) -> Tensor:
    """y = x · weight^T + bias, by the fastest implementation for the shape; torch where no kernel applies.

    Args:
        x: [..., K]; rows may be strided.
        weight: [M, K] of x's dtype and device; rows may be strided.
        bias: None, [M], [1, M] or [N, M] of x's dtype and device, N the number of rows of x.
        reduction: `deterministic`, `fast` or `batch_invariant`, as `wvSplitKrc` has them; None takes
            AITERLITE_GEMM_REDUCTION. In `batch_invariant`, a row of bfloat16 or float16 gets the same bits whatever
            the number of rows, 1 to 128: by `wvSplitKrc`, always. Where that cannot serve, the call is an error.

    Returns [..., M] of x's dtype: float32 sums, one rounding. For up to 128 rows in bfloat16 or float16 that is
    `wvSplitK`, `wvSplitKrc` or torch, whichever is fastest as far as it was measured (docs/linear.md); for other
    problems, and any that needs gradients or autocast, `torch.nn.functional.linear`, whose semantics these are.
    `AITERLITE_STRICT=1` makes falling back to torch because of the shape or dtype an error.

    Raises `ArgumentError` for operands that do not fit together, `DispatchError` under AITERLITE_STRICT=1 and where
    `batch_invariant` cannot be kept, and a `JitError` where a kernel cannot be built or loaded.
    """
    if _is_autocast(x) or (
        torch.is_grad_enabled()
        and (x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad))
    ):
        return functional.linear(x, weight, bias)
    if calls.is_plain(x, weight, bias):
        run = _calls.find((reduction, gemm.layout_key(x, weight, bias)))
        return _impl(x, weight, bias, reduction=reduction) if run is None else run(x, weight, bias)
    result: Tensor = _LINEAR_OP(x, weight, bias, reduction=reduction)
    return result


def _is_autocast(x: Tensor) -> bool:
    if x.is_cuda:
        return torch.is_autocast_enabled("cuda")
    return x.is_cpu and torch.is_autocast_enabled("cpu")


def explain(op: str, problem: Any, device: torch.device) -> Decision:
    """The decision that a call of an operator with this problem on this device would take."""
    return dispatch.decide(TABLES[op], problem, persona_for(device.type, device.index), wishes())


# Preparing: once for each combination of shapes, strides, dtypes, alignment, reduction and device ---------------------


def _prepare(x: Tensor, weight: Tensor, bias: Tensor | None, reduction: str) -> Run:
    n = gemm._check(_OP, x, weight, bias)
    shape = (*x.shape[:-1], weight.shape[0])
    if n == 0 or weight.shape[0] == 0:
        return lambda x, weight, bias: x.new_empty(shape)
    rows = gemm._flatten(x)
    problem = gemm_rc.problem_of(rows, weight, bias, reduction)
    persona = persona_for(x.device.type, x.device.index)
    decision, row = calls.decide(tables.LINEAR, problem, persona)
    operator = tables.OPERATORS[row.name]
    if operator == tables.TORCH:
        return _torch_linear
    fixed = gemm.sizes(rows, weight, bias)
    if operator == tables.WV_SPLIT_K:
        return gemm.run_of(decision, shape, fixed, x.device)
    chosen = dispatch.decide(WV_SPLIT_K_RC, problem, persona, wishes())
    run = gemm_rc.run_of(chosen, shape, fixed, x.device)
    return lambda x, weight, bias: run(x, weight, bias, None)


def _torch_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None or bias.dim() == 1 or x.dim() == 2:
        return functional.linear(x, weight, bias)
    # torch adds a bias per row to a matrix only.
    return functional.linear(gemm._flatten(x), weight, bias).view(*x.shape[:-1], weight.shape[0])


# Registration --------------------------------------------------------------------------------------------------------

_calls: calls.PreparedCalls[Run] = calls.PreparedCalls()


def _impl(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, reduction: str | None = None) -> Tensor:
    """Runs the prepared call for these operands."""
    key = (reduction, gemm.layout_key(x, weight, bias))
    run = _calls.find(key) or _calls.keep(key, _prepare(x, weight, bias, gemm_rc.reduction_mode(_OP, reduction)))
    return run(x, weight, bias)


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, reduction: str | None = None) -> Tensor:
    gemm_rc.reduction_mode(_OP, reduction)
    gemm._check(_OP, x, weight, bias)
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _register() -> Any:
    library: Any = torch.library.Library("aiterlite", "FRAGMENT")  # type: ignore[no-untyped-call]
    library.define("linear(Tensor x, Tensor weight, Tensor? bias=None, *, str? reduction=None) -> Tensor")
    for key in ("CPU", "CUDA"):
        library.impl(_OP, _impl, key)
    torch.library.register_fake("aiterlite::linear", _fake, lib=library)
    return library


_registered = _register()
_LINEAR_OP = torch.ops.aiterlite.linear.default
