"""The skinny GEMMs of vLLM's ROCm backend by the names and argument orders of `vllm._custom_ops`.

The first operand `a` is the weight [M, K], the second `b` the activation rows [N, K]. vLLM has swapped the two of
`wvSplitKrc`: 0.15.0 to 0.17.1 pass (weight, x), later versions (x, weight). The function of this module follows the
vLLM that is installed, and the newest order where none is; `for_version` gives the functions of any version. Operands
that fit only the other order are an error.

Only names and order differ from the operators of this package, which take more than upstream; their docstrings say
what. A bias may also be [N, 1], strided, or of another float dtype: torch expands, copies and converts it before the
launch, which costs a call one more kernel. A bias without elements counts as none, as upstream has it.
"""

from __future__ import annotations

import importlib.metadata
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import gemm, gemm_fp8, gemm_rc
from aiterlite.tables.gemm_rc_plan import MAX_TOKENS

# The arguments of this package's operators as the callers of these functions know them.
_WEIGHT_FIRST = {"x": "b", "weight": "a", "scale_x": "scale_a", "scale_w": "scale_b"}
_ACTIVATION_FIRST = {"x": "a", "weight": "b"}
# The first and the last vLLM whose wvSplitKrc takes the weight first; earlier ones have none.
_WEIGHT_FIRST_VERSIONS = (0, 15, 0), (0, 17, 1)


def LLMM1(a: Tensor, b: Tensor, rows_per_block: int) -> Tensor:  # noqa: N802 (upstream's name)
    """b[1, K] · a[M, K]^T: `aiterlite.ops.gemm.LLMM1`."""
    return _call(gemm.LLMM1, b, a, rows_per_block)


def wvSplitK(a: Tensor, b: Tensor, cu_count: int, bias: Tensor | None = None) -> Tensor:  # noqa: N802 (upstream's name)
    """b[N, K] · a[M, K]^T + bias, planned as for `cu_count` compute units: `aiterlite.ops.gemm.wvSplitK`."""
    _check_cu_count("wvSplitK", cu_count)
    return _call(gemm.wvSplitK, b, a, _bias_of(bias, b, a, b.dtype), cu_count=cu_count)


def _activation_first(
    a: Tensor, b: Tensor, cu_count: int, bias: Tensor | None = None, fast_skinny_gemm: bool = False
) -> Tensor:
    """a[N, K] · b[M, K]^T + bias, planned as for `cu_count` compute units: `aiterlite.ops.gemm_rc.wvSplitKrc`.

    Here the activation comes first and the weight second, unlike in the other functions of this module. vLLM's wrapper
    hands both on as they come, and its callers since pull request 34304 pass (x, weight): `rocm_unquantized_gemm_impl`
    of vllm/model_executor/layers/utils.py, and tests/kernels/quantization/test_rocm_skinny_gemms.py, whose A is [n, k]
    and whose B is [m, k].

    `fast_skinny_gemm`, an argument of pull request 35183, asks for the reduction `fast`, and False for `deterministic`,
    whatever AITERLITE_GEMM_REDUCTION says: a caller that says nothing cannot be told from one that says False. The
    workspace is this package's own.
    """
    reduction = "fast" if fast_skinny_gemm else "deterministic"
    return _reduced(a, b, cu_count, bias, reduction, _ACTIVATION_FIRST)


def _weight_first(a: Tensor, b: Tensor, cu_count: int, bias: Tensor | None = None) -> Tensor:
    """b[N, K] · a[M, K]^T + bias, planned as for `cu_count` compute units: `aiterlite.ops.gemm_rc.wvSplitKrc`.

    vLLM 0.15.0 to 0.17.1 pass the weight first, as to the other functions of this module, and have no argument for the
    reduction: AITERLITE_GEMM_REDUCTION says it, which is `deterministic` unless set.
    """
    return _reduced(b, a, cu_count, bias, None, _WEIGHT_FIRST)


def _reduced(
    x: Tensor, weight: Tensor, cu_count: int, bias: Tensor | None, reduction: str | None, names: Mapping[str, str]
) -> Tensor:
    _check_cu_count("wvSplitKrc", cu_count)
    _check_order(x, weight, bias, names)
    bias = _bias_of(bias, x, weight, x.dtype)
    return _call(gemm_rc.wvSplitKrc, x, weight, bias, names=names, cu_count=cu_count, reduction=reduction)


def _check_order(x: Tensor, weight: Tensor, bias: Tensor | None, names: Mapping[str, str]) -> None:
    """Refuse operands that this order cannot take and the other one can: they were passed in that one."""
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        return
    n, m = x.shape[0], weight.shape[0]
    remedy = (
        "Is the caller written for another vLLM? aiterlite.compat.vllm_ops.for_version gives the functions of any: "
        f'for_version("{"0.17.1" if names is _ACTIVATION_FIRST else "0.17.2"}") takes these operands.'
    )
    order = f"{names['x']} is x and {names['weight']} is the weight here; these fit the other order alone"
    if n > MAX_TOKENS >= m:
        got, allowed = f"of shape {list(x.shape)}", f"at most {MAX_TOKENS} rows: {order}"
        raise ArgumentError("wvSplitKrc", names["x"], got, allowed, remedy)
    if bias is not None and not _fits(bias, n, m) and _fits(bias, m, n) and m <= MAX_TOKENS:
        got = f"of shape {list(bias.shape)}"
        allowed = f"[{m}], [1, {m}], [{n}, {m}] or [{n}, 1]: {order}"
        raise ArgumentError("wvSplitKrc", "bias", got, allowed, remedy)


def _fits(bias: Tensor, n: int, m: int) -> bool:
    return bias.numel() == 0 or list(bias.shape) in ([m], [1, m], [n, m], [n, 1])


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
    takes them, it does not matter which is which; scale_a may have one for each row of the activation, and scale_b one
    for each row of the weight.
    """
    _check_cu_count("wvSplitKQ", cu_count)
    bias = _bias_of(bias, b, a, out_dtype)
    return _call(gemm_fp8.wvSplitKQ, b, a, out_dtype, scale_a, scale_b, bias, cu_count=cu_count)


def _bias_of(bias: Tensor | None, x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor | None:
    """A bias as the operators take it. What upstream does not take either is left to their checks."""
    if bias is None or not bias.is_floating_point() or x.dim() < 1 or weight.dim() != 2:
        return bias
    if bias.numel() == 0:
        return None
    n, m = math.prod(x.shape[:-1]), weight.shape[0]
    if list(bias.shape) == [n, 1]:
        bias = bias.expand(n, m)
    # A bias that is already as it must be is not copied.
    return bias.to(dtype).contiguous() if bias.stride(-1) != 1 else bias.to(dtype)


@dataclass(frozen=True)
class VllmOps:
    """The functions of this module in the orders of one version of vLLM."""

    LLMM1: Callable[..., Tensor]
    wvSplitK: Callable[..., Tensor]  # noqa: N815
    wvSplitKrc: Callable[..., Tensor]  # noqa: N815
    wvSplitKQ: Callable[..., Tensor]  # noqa: N815


def for_version(version: str) -> VllmOps:
    """The functions in the orders of a vLLM: `for_version("0.16.0").wvSplitKrc(weight, x, cu_count, bias)`.

    Only the release counts of `0.17.1rc2.dev3+g012345`. A build of a branch may have a misleading version: how its
    `rocm_unquantized_gemm_impl` calls `vllm._custom_ops.wvSplitKrc` decides there. Raises `ArgumentError` for what is
    no version.
    """
    return VllmOps(LLMM1, wvSplitK, _reduced_for(version), wvSplitKQ)


def _reduced_for(version: str) -> Callable[..., Tensor]:
    release = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", version)
    if release is None:
        raise ArgumentError("for_version", "version", repr(version), "a version of vLLM, such as 0.16.0")
    first, last = _WEIGHT_FIRST_VERSIONS
    return _weight_first if first <= tuple(int(part or 0) for part in release.groups()) <= last else _activation_first


def _installed() -> Callable[..., Tensor]:
    """The `wvSplitKrc` of the vLLM that is installed, or of the newest one where none is, or one without a version."""
    try:
        return _reduced_for(importlib.metadata.version("vllm"))
    except (importlib.metadata.PackageNotFoundError, ArgumentError):
        return _activation_first


# Asked once: a compiled caller would have to ask again in each graph.
wvSplitKrc = _installed()  # noqa: N816 (upstream's name)


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
