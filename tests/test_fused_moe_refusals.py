"""The fused mixture of experts: calls that are refused, and what they are told."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fused_moe_cases import call, case_of, problem_of  # noqa: E402

from aiterlite import ActivationType, QuantType, moe  # noqa: E402
from aiterlite.errors import ArgumentError, DispatchError  # noqa: E402

pytestmark = [pytest.mark.compile, pytest.mark.usefixtures("one_thread")]
BF16, FP16 = torch.bfloat16, torch.float16

T: Any = torch
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"hidden_states": None}, "hidden_states", "a tensor"),
    ({"w2": 3}, "w2", "a tensor"),
    ({"hidden_states": T.zeros(5, 2, 128, dtype=BF16)}, "hidden_states", "2 dimensions"),
    ({"hidden_states": T.zeros(5, 256)}, "dtype", "torch.bfloat16"),
    ({"hidden_states": T.zeros(5, 256, dtype=FP16), "dtype": BF16}, "hidden_states", "the dtype of the result"),
    ({"hidden_states": T.zeros(5, 128, dtype=BF16)}, "hidden_states", "[tokens, 256]"),
    ({"hidden_states": T.zeros(256, 5, dtype=BF16).T}, "hidden_states", ".contiguous()"),
    ({"hidden_states": T.zeros(5, 256).to(T.float8_e4m3fn)}, "dtype", "pass it"),
    ({"hidden_states": T.zeros(5, 256).to(T.float8_e4m3fn), "dtype": BF16}, "a1_scale", "[5, 2]"),
    ({"hidden_states": T.zeros(5, 256).to(T.float8_e4m3fnuz), "dtype": BF16}, "hidden_states", "codes of the weights"),
    ({"a1_scale": T.ones(5, 2)}, "a1_scale", "quantised in the call"),
    ({"a2_scale": T.ones(5, 1)}, "a2_scale", "quantised in the call"),
    ({"dtype": T.float32}, "dtype", "torch.float16"),
    ({"w1": T.zeros(8, 256, dtype=T.uint8)}, "w1", "3 dimensions"),
    ({"w1": T.zeros(8, 255, 256).to(T.float8_e4m3fn)}, "w1", "2 * inter"),
    ({"w1": T.zeros(8, 128, 256).to(T.float8_e4m3fn)}, "w2", "without gate"),
    ({"w1": T.zeros(8, 256, 256, dtype=T.int8)}, "w2", "the dtype of w1"),
    ({"w1": T.zeros(8, 256, 256, dtype=BF16), "w2": T.zeros(8, 256, 128, dtype=BF16)}, "w1", "float8_e4m3fn"),
    ({"w1": T.zeros(8, 256, 512).to(T.float8_e4m3fn)[:, :, ::2]}, "w1", ".contiguous()"),
    ({"w2": T.zeros(8, 128, 256).to(T.float8_e4m3fn)}, "w2", "[8, 256, 128]"),
    ({"w1_scale": None}, "w1_scale", "float32 [8, 2, 2]"),
    ({"w1_scale": T.ones(8, 2, 3)}, "w1_scale", "[8, 2, 2], or flattened"),
    ({"w1_scale": T.ones(16, 2)}, "w1_scale", "[8, 2, 2], or flattened"),
    ({"w1_scale": T.ones(2, 2, 8)}, "w1_scale", "[8, 2, 2], or flattened"),
    ({"w2_scale": T.ones(8, 2, 1, dtype=T.float64)}, "w2_scale", "torch.float32"),
    ({"w2_scale": T.ones(8, 2, 2)[:, :, :1]}, "w2_scale", ".contiguous()"),
    ({"quant_type": QuantType.No}, "w1", "torch.bfloat16"),
    ({"quant_type": QuantType.per_1x32}, "w1", "two codes a byte"),
    ({"quant_type": QuantType.per_256x128}, "quant_type", "per_Tensor (1)"),
    ({"quant_type": 77}, "quant_type", "per_128x128 (5)"),
    ({"quant_type": None}, "quant_type", "QuantType, or its number"),
    ({"activation": "silu"}, "activation", "ActivationType, or its number"),
    ({"activation": 0.7}, "activation", "ActivationType, or its number"),
    ({"activation": ActivationType.Situv2}, "activation", "Swiglu (2)"),
    ({"activation": ActivationType.No}, "activation", "Silu (0)"),
    ({"gate_mode": "mixed"}, "gate_mode", "'interleave'"),
    ({"swiglu_limit": -1.0}, "swiglu_limit", "above 0"),
    ({"swiglu_limit": float("nan")}, "swiglu_limit", "finite"),
    ({"activation": ActivationType.Swiglu, "swiglu_limit": 1e39}, "swiglu_limit", "finite number of 32 bits"),
    ({"activation": ActivationType.Swiglu, "beta": -1e39}, "beta", "finite number of 32 bits"),
    ({"activation": ActivationType.Gelu, "swiglu_limit": 3.0}, "swiglu_limit", "silu and swiglu"),
    ({"beta": 1.0}, "beta", "ActivationType.Swiglu"),
    ({"linear_beta": 0.0}, "linear_beta", "ActivationType.Swiglu"),
    ({"topk_ids": T.zeros(5, 3)}, "topk_ids", "torch.int64"),
    ({"topk_ids": T.zeros(15, dtype=T.int32)}, "topk_ids", "2 dimensions"),
    ({"topk_ids": T.zeros(4, 3, dtype=T.int32)}, "topk_ids", "a row a token"),
    ({"topk_ids": T.zeros(3, 5, dtype=T.int32).T}, "topk_ids", ".contiguous()"),
    ({"topk_weight": T.zeros(5, 3, dtype=BF16)}, "topk_weight", "torch.float32"),
    ({"topk_weight": T.zeros(5, 2)}, "topk_weight", "[5, 3]"),
    ({"expert_mask": T.ones(7, dtype=T.int32)}, "expert_mask", "at least 8"),
    ({"expert_mask": T.ones(8)}, "expert_mask", "torch.int32"),
    ({"num_local_tokens": T.ones(1, dtype=T.int64)}, "num_local_tokens", "torch.int32"),
    ({"num_local_tokens": T.ones(0, dtype=T.int32)}, "num_local_tokens", "Leave it out"),
    ({"bias1": T.zeros(8, 128)}, "bias1", "[8, 256], one a row of w1"),
    ({"bias1": T.zeros(8, 256, dtype=BF16)}, "bias1", ".float()"),
    ({"bias2": T.zeros(8, 128)}, "bias2", "[8, 256], one a row of w2"),
    ({"bias2": T.zeros(256, 8).T}, "bias2", ".contiguous()"),
    ({"hidden_pad": 257}, "hidden_pad", "0 to 256"),
    ({"intermediate_pad": -1}, "intermediate_pad", "0 to 128"),
    ({"splitk": 0.5}, "splitk", "an integer"),
    ({"shared_w1": T.zeros(1)}, "shared_w1", "a call of its own"),
    ({"shared_w1": T.zeros(1)}, "shared_w1", "Append the shared expert"),
    ({"shared_w2_scale": T.zeros(1)}, "shared_w2_scale", "Append the shared expert"),
    ({"shared_expert_id": 8}, "shared_expert_id", "Append the shared expert"),
    ({"stage2_scatter": object()}, "stage2_scatter", "after the call"),
    ({"block_size_M": 4096}, "block_size_M", "1024"),
    ({"block_size_M": "many"}, "block_size_M", "an integer"),
    ({"moe_sorting_dispatch_policy": 9}, "moe_sorting_dispatch_policy", "0, 1, 2"),
]


@pytest.mark.parametrize(("changes", "argument", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_refusals_name_the_argument(changes: dict[str, Any], argument: str, words: str) -> None:
    case = case_of(problem_of(), 1)
    with pytest.raises(ArgumentError) as caught:
        call(case, **changes)
    assert caught.value.argument == argument and words in str(caught.value)


def test_what_scales_do_not_go_with() -> None:
    case = case_of(problem_of(quant="none"), 1)
    with pytest.raises(ArgumentError, match="`w2_scale` is a tensor.*quant_type"):
        call(case, w2_scale=torch.ones(8, 2, 1))
    case = case_of(problem_of(quant="token", width=200, inter=60), 1)
    with pytest.raises(ArgumentError, match="`w1` is of shape .*multiples of 128"):
        call(case, quant_type=QuantType.per_1x128)
    case.made.w1.is_shuffled = True
    with pytest.raises(ArgumentError, match="`w1` is of shape .*multiples of 32"):
        call(case)
    codes = case.made.x.to(torch.float8_e4m3fn)
    case.made.w1.is_shuffled = False
    with pytest.raises(ArgumentError, match=r"`a1_scale` is None.*\[5, 1\]"):
        call(case, hidden_states=codes, dtype=BF16)
    case = case_of(problem_of(quant="none"), 1)
    with pytest.raises(ArgumentError, match="`hidden_states` is of dtype torch.float8_e4m3fn.*dtype of the result"):
        call(case, hidden_states=case.made.x.to(torch.float8_e4m3fn), dtype=BF16)


def test_a_call_that_no_row_serves_says_why() -> None:
    case = case_of(problem_of(experts=2, topk=1), 1)
    made = case.made
    mask = torch.zeros(2000, dtype=torch.int32)
    with pytest.raises(DispatchError, match="global_experts must be 0 to 1024, it is 2000"):
        call(case, expert_mask=mask)
    ids, routing = made.ids[:, :1].expand(5, 65).contiguous(), made.routing[:, :1].expand(5, 65).contiguous()
    with pytest.raises(DispatchError, match="topk must be 1 to 64, it is 65"):
        call(case, topk_ids=ids, topk_weight=routing)


FMOE_REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"kernelName": "fmoe_bf16_blockscaleFp8_g1u1_vs_silu_1tg_ps_32x256"}, "kernelName", "AITER_ENABLE_VSKIP"),
    ({"fc_scale_blkn": 64}, "fc_scale_blkn", "128"),
    ({"fc2_smooth_scale": T.ones(1)}, "fc2_smooth_scale", "None"),
    ({"activation": 3}, "activation", "Silu (0)"),
    ({"activation": "silu"}, "activation", "ActivationType, or its number"),
    ({"topk": 0}, "topk", "1 to 64"),
    ({"block_size_M": 0}, "block_size_M", "1 to 1024"),
    ({"block_size_M": 8}, "sorted_expert_ids", "block_size_M"),
    ({"input": T.zeros(5, 256, dtype=BF16)}, "input", "transpose_scale=True"),
    ({"input_scale": T.ones(5, 3)}, "input_scale", "[2, 5] or [5, 2]"),
    ({"input_scale": T.ones(2, 10)[:, ::2]}, "input_scale", ".contiguous()"),
    ({"fc1_scale": T.ones(8, 1)}, "fc1_scale", "[8, 2, 2], or flattened"),
    ({"out": T.zeros(5, 256)}, "out", "torch.bfloat16"),
    ({"out": T.zeros(4, 256, dtype=BF16)}, "out", "[5, 256]"),
    ({"out": T.zeros(5, 264, dtype=BF16)[:, 1:257]}, "input", "multiples of 16 bytes"),
    ({"sorted_token_ids": T.zeros(500, dtype=T.int64)}, "sorted_token_ids", "torch.int32"),
    ({"sorted_weights": T.zeros(3)}, "sorted_weights", "at least"),
    ({"sorted_expert_ids": T.zeros(1, dtype=T.int32)}, "sorted_expert_ids", "at least"),
    ({"num_valid_ids": T.zeros(0, dtype=T.int32)}, "num_valid_ids", "at least 1"),
]


@pytest.mark.parametrize(("changes", "argument", "words"), FMOE_REFUSED, ids=lambda value: str(value)[:40])
def test_refusals_of_sorted_tokens_name_the_argument(changes: dict[str, Any], argument: str, words: str) -> None:
    made = case_of(problem_of(shuffled=True, quantised=True), 1).made
    ids, weights, experts, valid, out = moe.moe_sorting(made.ids, made.routing, 8, 256, BF16, 32)
    assert made.x_scale is not None
    given: dict[str, Any] = {
        "out": out, "input": made.x, "gate": made.w1, "down": made.w2, "sorted_token_ids": ids,
        "sorted_weights": weights, "sorted_expert_ids": experts, "num_valid_ids": valid, "topk": 3,
        "input_scale": made.x_scale.T.contiguous(), "fc1_scale": made.weights.w1_scale,
        "fc2_scale": made.weights.w2_scale,
    }  # fmt: skip
    with pytest.raises(ArgumentError) as caught:
        moe.fmoe_fp8_blockscale_g1u1(**{**given, **changes})
    assert caught.value.argument == argument and words in str(caught.value)
