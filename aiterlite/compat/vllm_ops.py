"""The skinny GEMMs of vLLM's ROCm backend by the names and argument orders of `vllm._custom_ops`.

The first operand `a` is the weight [M, K], the second `b` the activation rows [N, K], but for `wvSplitKrc`, where it is
the other way round. Only names and order differ from the operators of this package, whose docstrings say what they
take: more than upstream does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import gemm, gemm_fp8, gemm_rc, llmm1

# The arguments of this package's operators as the callers of these functions know them.
_WEIGHT_FIRST = {"x": "b", "weight": "a", "scale_x": "scale_a", "scale_w": "scale_b"}
_ACTIVATION_FIRST = {"x": "a", "weight": "b"}


def LLMM1(a: Tensor, b: Tensor, rows_per_block: int) -> Tensor:  # noqa: N802 (upstream's name)
    """b[1, K] · a[M, K]^T: `aiterlite.ops.llmm1.LLMM1`."""
    return _call(llmm1.LLMM1, b, a, rows_per_block)


def wvSplitK(a: Tensor, b: Tensor, cu_count: int, bias: Tensor | None = None) -> Tensor:  # noqa: N802 (upstream's name)
    """b[N, K] · a[M, K]^T + bias, planned as for `cu_count` compute units: `aiterlite.ops.gemm.wvSplitK`."""
    _check_cu_count("wvSplitK", cu_count)
    return _call(gemm.wvSplitK, b, a, bias, cu_count=cu_count)


def wvSplitKrc(  # noqa: N802 (upstream's name)
    a: Tensor, b: Tensor, cu_count: int, bias: Tensor | None = None, fast_skinny_gemm: bool = False
) -> Tensor:
    """a[N, K] · b[M, K]^T + bias, planned as for `cu_count` compute units: `aiterlite.ops.gemm_rc.wvSplitKrc`.

    Here the activation comes first and the weight second, unlike in the other functions of this module. vLLM's wrapper
    hands both on as they come, and its callers since pull request 34304 pass (x, weight): `rocm_unquantized_gemm_impl`
    of vllm/model_executor/layers/utils.py, and tests/kernels/quantization/test_rocm_skinny_gemms.py, whose A is [n, k]
    and whose B is [m, k]. Builds from before that passed (weight, x).

    `fast_skinny_gemm`, an argument of pull request 35183, asks for the reduction `fast`; without it
    AITERLITE_GEMM_REDUCTION decides, which is `deterministic` unless set. The workspace is this package's own.
    """
    _check_cu_count("wvSplitKrc", cu_count)
    reduction = "fast" if fast_skinny_gemm else None
    return _call(gemm_rc.wvSplitKrc, a, b, bias, names=_ACTIVATION_FIRST, cu_count=cu_count, reduction=reduction)


def wvSplitKQ(  # noqa: N802 (upstream's name)
    a: Tensor,
    b: Tensor,
    out_dtype: torch.dtype,
    scale_a: Tensor,
    scale_b: Tensor,
    cu_count: int,
    bias: Tensor | None = None,
) -> Tensor:
    """(b[N, K] · a[M, K]^T) · scale_a · scale_b + bias of fp8 operands: `aiterlite.ops.gemm_fp8.wvSplitKQ`.

    As upstream, scale_a belongs to the activation b, and scale_b to the weight a. With one element each, as upstream
    takes them, nothing depends on it; scale_b may have one for each row of the weight.
    """
    _check_cu_count("wvSplitKQ", cu_count)
    return _call(gemm_fp8.wvSplitKQ, b, a, out_dtype, scale_a, scale_b, bias, cu_count=cu_count)


def _check_cu_count(function: str, cu_count: int) -> None:
    if cu_count < 1:
        raise ArgumentError(function, "cu_count", cu_count, "at least 1, the compute units to plan for")


def _call(
    operator: Callable[..., Tensor], *arguments: Any, names: Mapping[str, str] = _WEIGHT_FIRST, **options: Any
) -> Tensor:
    try:
        return operator(*arguments, **options)
    except ArgumentError as error:
        name = names.get(error.argument, error.argument)
        allowed = f"{error.allowed} ({names['x']} is x, {names['weight']} is the weight)"
        raise ArgumentError(error.function, name, error.got, allowed, error.remedy) from None
