"""Skinny GEMM for up to 128 tokens: `wvSplitKrc`.

What a call means is in the docstring of `wvSplitKrc`; why each reduction keeps its promise, in
csrc/gemm/wv_split_k_reduce.hip.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from aiterlite import dispatch, envs
from aiterlite.ops import calls, matmul, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.matmul import Bias
from aiterlite.ops.operator import register
from aiterlite.tables import gemm_rc as tables
from aiterlite.tables.gemm_rc_plan import REDUCTIONS
from aiterlite.wishes import wishes

_OP = "wvSplitKrc"


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
    form, given = (OPERATOR, {}) if workspace is None else (WITH_WORKSPACE, {"workspace": workspace})
    result: Tensor = form(x, weight, bias, reduction=reduction, cu_count=cu_count, **given)
    return result


def wvSplitKrc_workspace_size(  # noqa: N802 (after the operator)
    n: int, m: int, k: int, *, reduction: str | None = None, device: torch.device | str = "cuda", cu_count: int = 0
) -> int:
    """The bytes of workspace that `wvSplitKrc` needs for x[n, k] and weight[m, k] on a device; 0 if none.

    `reduction` and `cu_count` are those of the call. Raises `ArgumentError` for ones that it does not take, and
    `DispatchError` for sizes that it does not take.
    """
    persona = calls.persona_of(_OP, torch.device(device), cu_count)
    problem = tables.RcProblem(n, m, k, reduction=reduction_mode(_OP, reduction))
    wished = wishes()
    decision = dispatch.decide(tables.WV_SPLIT_K_RC, problem, persona, wished)
    dispatch.require(decision, wished)
    return decision.workspace.total if decision.workspace else 0


def reduction_mode(function: str, asked: str | None) -> str:
    """What a call of `function` asks for, else what the environment does."""
    if asked is None:
        return envs.GEMM_REDUCTION.get()
    operands.check_choice(function, "reduction", asked, REDUCTIONS)
    return asked


def problem_of(rows: Tensor, weight: Tensor, bias: Bias, reduction: str) -> tables.RcProblem:
    """The problem of x[N, K] and a weight. In `batch_invariant` a row alone counts as aligned only if the rows beside
    it would be too: alignment may choose a kernel, and another kernel may add in another order."""
    plain = matmul.problem_of(rows, weight, bias)
    alone = reduction == "batch_invariant" and rows.shape[0] == 1 and rows.stride(0) % 8 != 0
    return tables.RcProblem(**{**vars(plain), "aligned": plain.aligned and not alone}, reduction=reduction)


def _prepare(
    x: Tensor, weight: Tensor, bias: Bias = None, *, reduction: str | None = None, cu_count: int = 0, **_: Any
) -> Run:
    to_problem = functools.partial(problem_of, reduction=reduction_mode(_OP, reduction))
    return matmul.prepare(tables.WV_SPLIT_K_RC, x, weight, bias, cu_count=cu_count, to_problem=to_problem)


def _fake(x: Tensor, weight: Tensor, bias: Bias = None, *, reduction: str | None = None, **_: Any) -> Tensor:
    reduction_mode(_OP, reduction)
    return matmul.fake(_OP, x, weight, bias)


_SCHEMA = "wvSplitKrc{}(Tensor x, Tensor weight, Tensor? bias=None, *, {}str? reduction=None, int cu_count=0) -> Tensor"
OPERATOR = register(_SCHEMA.format("", ""), _prepare, _fake)
# A separate form: torch's default backend compiles no call whose writable argument is None.
WITH_WORKSPACE = register(_SCHEMA.format(".workspace", "Tensor(a!) workspace, "), _prepare, _fake)
