"""Public functions that look at their operands before an operator does, called with None and with a tensor of no
dimension for each: they say which argument it is, or take it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from aiterlite import activation, mla, mxfp4, quant, rope  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402

pytestmark = pytest.mark.compile


def answer(function: Callable[..., Any], given: Mapping[str, Any], name: str, value: Tensor | None) -> None:
    """Calls with another operand: it serves, or the error of this package names a public argument."""
    try:
        function(**{**given, name: value})
    except ArgumentError as error:
        # The operator's own name for an operand may be another than that of the function in front of it.
        assert error.argument


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape).bfloat16()


ANGLES = {"cos": rows(9, 1, 1, 32), "sin": rows(9, 1, 1, 32)}
STYLE = {"rotate_style": 0, "reuse_freqs_front_part": True, "nope_first": False}
AT = {"positions": torch.zeros(3, 1, dtype=torch.int64)}
ENTRIES = {"sorted_ids": torch.zeros(32, dtype=torch.int32), "num_valid_ids": torch.zeros(2, dtype=torch.int32)}
ONE, TWO = {"input": rows(3, 1, 2, 64)}, {"input_x": rows(3, 1, 2, 64), "input_y": rows(3, 1, 1, 64)}
CACHES = {"cos_cache": ANGLES["cos"], "sin_cache": ANGLES["sin"]}
ROTARY = {"query": rows(3, 1, 128), "key": rows(3, 1, 64), "head_size": 64, "is_neox": True, "is_nope_first": False}
ATTENTION = {
    "q": rows(1, 16, 576),
    "kv_buffer": rows(4, 1, 1, 576),
    "o": rows(1, 16, 512),
    "qo_indptr": torch.tensor([0, 1], dtype=torch.int32),
    "kv_indptr": torch.tensor([0, 3], dtype=torch.int32),
    "kv_indices": torch.arange(3, dtype=torch.int32),
    "kv_last_page_lens": torch.ones(1, dtype=torch.int32),
    "max_seqlen_q": 1,
}
QUANTISED = {"out": torch.empty(3, 128, dtype=torch.int8), "input": rows(3, 128), "scales": torch.empty(3, 1)}
# Functions in front of operators, by themselves or as one of a kind.
WRAPPED: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (mla.mla_decode_fwd, ATTENTION),
    (mla.mla_prefill_fwd, ATTENTION),
    (activation.act_mul_and_fp8_group_quant, {"x": rows(3, 256), "activation": "silu", "group_size": 128}),
    (quant.dynamic_per_token_scaled_quant, QUANTISED),
    (quant.dynamic_per_group_scaled_quant, {**QUANTISED, "scales": torch.empty(3, 4), "group_size": 32}),
    (quant.per_token_quant_hip, {"x": rows(3, 128)}),
    (quant.per_group_quant_hip, {"x": rows(3, 128)}),
    (quant.per_tensor_quant_hip, {"x": rows(3, 128), "scale": torch.ones(1)}),
    (quant.fused_flatten_fp8_group_quant, {"x": rows(3, 2, 128), "group_size": 128}),
    (quant.pertoken_quant, {"x": rows(3, 128)}),
    (quant.per_tensor_quant, {"x": rows(3, 128)}),
    (quant.per_block_quant_wrapper()(quant.pertoken_quant), {"x": rows(3, 128)}),
    (quant.per_1x32_f4_quant, {"x": rows(3, 128)}),
    (quant.per_1x32_f4_quant_hip, {"x": rows(3, 128)}),
    (quant.per_1x32_f4_quant_triton, {"x": rows(3, 128)}),
    (quant.per_1x32_mx_quant_hip, {"x": rows(3, 128)}),
    (quant.quant_mxfp4_hip, {"x": rows(3, 128)}),
    (mxfp4.dynamic_mxfp4_quant, {"x": rows(3, 128)}),
    (mxfp4.utility_dynamic_mxfp4_quant, {"x": rows(3, 128)}),
    (mxfp4.fused_flatten_mxfp4_quant, {"x": rows(3, 2, 128)}),
    (mxfp4.act_mul_and_mxfp4_quant, {"x": rows(3, 128), "activation": "silu"}),
    (mxfp4.moe_mxfp4_sort, {"blockscale_e8m0": torch.zeros(3, 8, dtype=torch.uint8), **ENTRIES, "token_num": 3}),
    (mxfp4.triton_fused_dynamic_mxfp4_quant_moe_sort, {"x": rows(3, 256), **ENTRIES, "token_num": 3, "topk": 1}),
    (mxfp4.unshuffle_scale, {"scale": torch.zeros(32, 8, dtype=torch.uint8)}),
    (mxfp4.shuffle_weight, {"x": torch.zeros(32, 64, dtype=torch.uint8)}),
    (mxfp4.unshuffle_weight, {"x": torch.zeros(32, 64, dtype=torch.uint8)}),
    (rope.rope_cached_fwd, {**ONE, **ANGLES, **STYLE}),
    (rope.rope_cached_fwd_inplace, {**ONE, **ANGLES, **STYLE}),
    (rope.rope_cached_2c_fwd, {**TWO, **ANGLES, **STYLE}),
    (rope.rope_cached_2c_fwd_inplace, {**TWO, **ANGLES, **STYLE}),
    (rope.rope_cached_positions_fwd, {**ONE, **ANGLES, **AT, **STYLE}),
    (rope.rope_cached_positions_2c_fwd_inplace, {**TWO, **ANGLES, **AT, **STYLE}),
    (rope.rope_cached_positions_offsets_2c_fwd, {**TWO, **ANGLES, **AT, "offsets": AT["positions"], **STYLE}),
    (
        rope.rope_cached_thd_positions_2c_fwd,
        {"x": rows(3, 2, 64), "y": rows(3, 1, 64), **ANGLES, "positions": AT["positions"].view(3), **STYLE},
    ),
    (
        rope.rope_cached_thd_positions_2c_fwd_inplace,
        {"x": rows(3, 2, 64), "y": rows(3, 1, 64), **ANGLES, "positions": AT["positions"].view(3), **STYLE},
    ),
    (rope.rotary_embedding_fwd, {**AT, **ROTARY, **CACHES}),
    (
        rope.batched_rotary_embedding,
        {**AT, **ROTARY, **CACHES, "rot_dim": 64, "cos_sin_cache_offsets": AT["positions"].view(3)},
    ),
]


@pytest.mark.parametrize(("function", "given"), WRAPPED, ids=[function.__name__ for function, _ in WRAPPED])
def test_functions_in_front_of_operators(function: Callable[..., Any], given: dict[str, Any]) -> None:
    function(**given)
    for name, operand in given.items():
        if isinstance(operand, Tensor):
            for value in (None, torch.zeros((), dtype=operand.dtype)):
                answer(function, given, name, value)
