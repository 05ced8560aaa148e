"""Operators by the names and argument orders of `vllm._custom_ops`.

Of the skinny GEMMs of vLLM's ROCm backend, the first operand `a` is the weight [M, K], the second `b` the activation
rows [N, K]. vLLM has swapped the two of `wvSplitKrc`: 0.15.0 to 0.17.1 pass (weight, x), later versions (x, weight).
The function of this module follows the vLLM that is installed, and the newest order where none is; `for_version` gives
the functions of any version. Operands that fit only the other order are an error.

Only names and order differ from the operators of this package, which take more than upstream; their docstrings say
what. A bias may also be [N, 1], strided, or of another float dtype: torch expands, copies and converts it before the
launch, which costs a call one more kernel. A bias without elements counts as none, as upstream has it.

The others take and write what vLLM's do. Where those can do what is not here (see each), the argument is refused by
name. Quantisation with scales that are made in the call is left out: vLLM's have another least scale, and on gfx942
another largest number.
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
from aiterlite.ops import activation, cache, gemm, gemm_fp8, gemm_rc, norm, operands, quant, rope, routing
from aiterlite.ops import moe_sorting as sorting
from aiterlite.ops import moe_sum as sums
from aiterlite.ops.calls import fp8_of
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


# The others -----------------------------------------------------------------------------------------------------------


def rms_norm(out: Tensor, input: Tensor, weight: Tensor, epsilon: float) -> None:
    """out becomes the RMSNorm of rows: `aiterlite.norm.rms_norm_cu`. vLLM's weight may be None; here it may not."""
    norm.rms_norm_cu(out, input, weight, epsilon)


def fused_add_rms_norm(input: Tensor, residual: Tensor, weight: Tensor, epsilon: float) -> None:
    """In place, residual becomes the sum, input its RMSNorm: `aiterlite.norm.fused_add_rms_norm_cu`."""
    norm.fused_add_rms_norm_cu(input, residual, weight, epsilon)


def silu_and_mul(out: Tensor, input: Tensor) -> None:
    """`torch.ops._C.silu_and_mul`: `aiterlite.activation.silu_and_mul`."""
    activation.silu_and_mul(out, input)


def rotary_embedding(
    positions: Tensor,
    query: Tensor,
    key: Tensor | None,
    head_size: int,
    cos_sin_cache: Tensor,
    is_neox: bool,
    rope_dim_offset: int = 0,
    inverse: bool = False,
) -> None:
    """Heads of query and key rotated in place: `aiterlite.rope.rotary_embedding_fwd`. A row of cos_sin_cache has all
    cosines before all sines. Of the offset, 0 is here, and what lies behind all that is not rotated; no inverse is."""
    rotated = cos_sin_cache.shape[-1]
    if rope_dim_offset not in (0, head_size - rotated):
        allowed = f"0 or {head_size - rotated}, head_size less what is rotated"
        raise ArgumentError("rotary_embedding", "rope_dim_offset", rope_dim_offset, allowed)
    if inverse:
        raise ArgumentError("rotary_embedding", "inverse", True, "False", "Negate the sines of the cache.")
    cos, sin = cos_sin_cache.chunk(2, -1)
    nope_first = bool(rope_dim_offset)
    rope.rotary_embedding_fwd(positions, query, key, head_size, cos, sin, is_neox, nope_first)


def concat_and_cache_mla(
    kv_c: Tensor, k_pe: Tensor, kv_cache: Tensor, slot_mapping: Tensor, kv_cache_dtype: str, scale: Tensor
) -> None:
    """Latents and rotated keys to their slots: `aiterlite.cache.concat_and_cache_mla`."""
    cache.concat_and_cache_mla(kv_c, k_pe, kv_cache, slot_mapping, kv_cache_dtype, scale)


def topk_softmax(
    topk_weights: Tensor,
    topk_ids: Tensor,
    token_expert_indices: Tensor,
    gating_output: Tensor,
    renormalize: bool = False,
    e_score_correction_bias: Tensor | None = None,
) -> None:
    """The greatest of each row's softmax: `aiterlite.moe.topk_softmax`. No bias is here."""
    if e_score_correction_bias is not None:
        remedy = "Call aiterlite.moe.biased_grouped_topk for sigmoids with a bias."
        raise ArgumentError("topk_softmax", "e_score_correction_bias", "a tensor", "None", remedy)
    routing.topk_softmax(topk_weights, topk_ids, token_expert_indices, gating_output, renormalize)


def moe_sum(input: Tensor, output: Tensor) -> None:
    """output becomes the sum of input over its second dimension: `aiterlite.moe.moe_sum`."""
    sums.moe_sum(input, output)


def moe_align_block_size(
    topk_ids: Tensor,
    num_experts: int,
    block_size: int,
    sorted_token_ids: Tensor,
    experts_ids: Tensor,
    num_tokens_post_pad: Tensor,
    expert_map: Tensor | None = None,
) -> None:
    """Places of ids sorted by experts, in whole blocks: `aiterlite.moe.moe_align_block_size`, and entries behind those
    in use filled as vLLM has them. No map of experts is here."""
    if expert_map is not None:
        remedy = "Look the ids up in the map before, as vLLM did; ids below 0 are skipped."
        raise ArgumentError("moe_align_block_size", "expert_map", "a tensor", "None", remedy)
    sorted_token_ids.fill_(topk_ids.numel())
    experts_ids.fill_(-1)
    counts = torch.empty_like(experts_ids)
    sorting.moe_align_block_size(
        topk_ids, num_experts, block_size, sorted_token_ids, experts_ids, counts, num_tokens_post_pad
    )


def scaled_fp8_quant(
    input: Tensor,
    scale: Tensor,
    num_token_padding: int | None = None,
    scale_ub: Tensor | None = None,
    use_per_token_if_dynamic: bool = False,
    output: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(codes of the device's e4m3 type, scale) by a scale that is given: `aiterlite.quant.static_per_tensor_quant`.
    vLLM makes one where it is None; here that is refused, and scale_ub and use_per_token_if_dynamic are of that."""
    if not isinstance(scale, Tensor) or scale.numel() != 1:
        got = "None" if scale is None else f"of shape {list(scale.shape)}" if isinstance(scale, Tensor) else scale
        remedy = (
            "Call aiterlite.quant.dynamic_per_tensor_quant, or dynamic_per_token_scaled_quant, for one that is made."
        )
        raise ArgumentError("scaled_fp8_quant", "scale", got, "float32 of one element", remedy)
    rows = max(num_token_padding or 0, input.shape[0])
    if output is None:
        dtype = operands.FP8_DTYPES[fp8_of(input.device)]
        output = torch.empty((rows, *input.shape[1:]), dtype=dtype, device=input.device)
    quant.static_per_tensor_quant(output[: input.shape[0]], input, scale)
    return output, scale


# Versions -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VllmOps:
    """The skinny GEMMs in the orders of one version of vLLM."""

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
