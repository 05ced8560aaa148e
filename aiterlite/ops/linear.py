"""`linear`: the whole skinny-GEMM family and torch behind one call."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from aiterlite import envs
from aiterlite.errors import ToolchainNotFoundError
from aiterlite.ops import arguments, calls, gemm_rc, matmul, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from aiterlite.tables import linear as tables
from aiterlite.tables.gemm_rc_plan import MAX_TOKENS
from aiterlite.target import persona_for

_OP = "linear"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, reduction: str | None = None) -> Tensor:
    """y = x · weight^T + bias, by the fastest implementation for the shape; torch where no kernel applies.

    Args:
        x: [..., K]; rows may be strided.
        weight: [M, K] of x's dtype and device; rows may be strided.
        bias: None, [M], [1, M] or [N, M] of x's dtype and device, N the number of rows of x.
        reduction: `deterministic`, `fast` or `batch_invariant`, as `wvSplitKrc` has them; None takes
            AITERLITE_GEMM_REDUCTION. In `batch_invariant`, a row of bfloat16 or float16 gets the same bits whatever
            the number of rows, 1 to 128: `wvSplitKrc` serves every such call. Where it cannot, the call is an error.

    Returns [..., M] of x's dtype: float32 sums, one rounding. Up to 128 rows in bfloat16 or float16 go to `wvSplitK`,
    `wvSplitKrc` or torch, whichever is fastest as far as measured (docs/linear.md); other problems, and any that needs
    gradients or autocast, go to `torch.nn.functional.linear`, whose semantics these are. `AITERLITE_STRICT=1` makes
    falling back to torch because of the shape or dtype, or for want of a compiler, an error.

    Raises `ArgumentError` for operands that do not fit together, `DispatchError` under AITERLITE_STRICT=1 and where
    `batch_invariant` cannot be kept, and a `JitError` where a kernel cannot be built or loaded.
    """
    try:
        cast = torch._C._is_any_autocast_enabled() and (x.is_cpu or x.is_cuda)
        if (cast and torch.is_autocast_enabled(x.device.type)) or (
            torch.is_grad_enabled()
            and (x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad))
        ):
            return functional.linear(x, weight, bias)
        # torch serves what no kernel takes, whatever the weight.
        rows = x.shape[0] if x.ndim == 2 else 0 if x.is_nested else operands.rows_of(x)
    except AttributeError:
        arguments.check_tensors(_OP, x=x, weight=weight, **({} if bias is None else {"bias": bias}))
        raise
    decided = torch.compiler.is_compiling() or (x.dtype in matmul.DTYPES and 1 <= rows <= _most_tokens(x, reduction))
    if not decided and calls.is_unobserved():
        return _prefill(x, weight, bias, reduction)
    layouts = operands.plain_layouts(x, weight, bias)
    if layouts is None:
        if forward_ad._current_level >= 0:
            return functional.linear(x, weight, bias)
        result: Tensor = OPERATOR(x, weight, bias, reduction=reduction)
        return result
    key = (layouts, reduction)
    run = OPERATOR.prepared.find(key) or OPERATOR.prepare_as(key, x, weight, bias, reduction=reduction)
    result = run(x, weight, bias)
    return result


def _most_tokens(x: Tensor, reduction: str | None) -> int:
    return MAX_TOKENS if x.is_cuda or reduction is not None else _most_on_cpu(envs.snapshot().generation)


@functools.lru_cache(1)
def _most_on_cpu(generation: int) -> int:
    return tables.most_tokens(persona_for("cpu", None), envs.GEMM_REDUCTION.get())


def _prefill(x: Tensor, weight: Tensor, bias: Tensor | None, reduction: str | None) -> Tensor:
    """A call that torch serves and nobody watches. It keeps neither its decision nor the call, and torch checks its
    operands; where torch refuses them, or takes what is no linear, the checks here say why."""
    gemm_rc.reduction_mode(_OP, reduction)
    arguments.check_tensors(_OP, x=x, weight=weight, **({} if bias is None else {"bias": bias}))
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        matmul.check(_OP, x, weight, bias)
    try:
        return _torch_linear(x, weight, bias)
    except RuntimeError:
        matmul.check(_OP, x, weight, bias)
        raise


def _prepare(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, reduction: str | None = None) -> Run:
    mode = gemm_rc.reduction_mode(_OP, reduction)
    n = matmul.check(_OP, x, weight, bias)
    if n == 0 or weight.shape[0] == 0:
        return matmul.empty_result(x, weight)
    problem = gemm_rc.problem_of(operands.flatten(x), weight, bias, mode)
    decision = calls.decide(tables.LINEAR, problem, calls.persona_of(_OP, x.device))
    if not decision.kernels:
        return _torch_linear
    try:
        return matmul.run_of(decision, x, weight, bias)
    except ToolchainNotFoundError as error:
        # Nobody asked for a kernel by name; torch does not keep what `batch_invariant` promises.
        if envs.STRICT.get() or mode == "batch_invariant":
            raise
        warnings.warn(f"torch serves linear: {error}", RuntimeWarning, stacklevel=2)
        return _torch_linear


def _torch_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, **_: Any) -> Tensor:
    if bias is None or bias.dim() == 1 or x.dim() == 2:
        return functional.linear(x, weight, bias)
    # torch adds a bias per row to a matrix only.
    return functional.linear(operands.flatten(x), weight, bias).view(*x.shape[:-1], weight.shape[0])


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, reduction: str | None = None) -> Tensor:
    gemm_rc.reduction_mode(_OP, reduction)
    matmul.check(_OP, x, weight, bias)
    return x.new_empty(matmul.result_shape(x, weight))


OPERATOR = register(
    "linear(Tensor x, Tensor weight, Tensor? bias=None, *, str? reduction=None) -> Tensor", _prepare, _fake
)
