"""What calls of the mixture of experts may ask for beside the sum of products, on a GPU, against float64: biases, and a
row for each slot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fused_moe_cases as cases  # noqa: E402
import fused_moe_mxfp4_cases as mx  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.gpu]
BOTH = {"bias1": True, "bias2": True}
WEIGHTS: list[dict[str, Any]] = [
    {"quant": "none", "code": ""},
    {"quant": "token", "code": "e4m3fn"},
    {"quant": "tensor", "code": "e4m3fn"},
    {"quant": "block", "code": "e4m3fn", "shuffled": True},
]
ASKED: list[dict[str, Any]] = [
    {"activation": "swiglu", **BOTH},
    {"interleaved": True, "weighted_input": True, **BOTH},
    {"bias1": True, "activation": "gelu"},
    {"by_slots": True},
    {"by_slots": True, "masked": True, "global_experts": 13, **BOTH},
]


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: "-".join(asked))
@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda weights: weights["quant"])
def test_layers(weights: dict[str, Any], asked: dict[str, Any]) -> None:
    # Sums in shared memory, of lists that each workgroup makes and of sorted ones; slots that meet in the L2, and of
    # the last elements a part.
    for tokens, width, inter in ((9, 384, 384), (70, 384, 128), (600, 640, 256)):
        problem = cases.problem_of(tokens=tokens, width=width, inter=inter, **weights, **asked)
        ids = cases.skewed_ids("strange", replace(problem, experts=problem.global_experts), tokens)
        ids[0] = 2
        case = cases.case_of(problem, tokens, ids, device="cuda")
        cases.check_on_hopper(case, cases.run(case), problem.quant != "none")


@pytest.mark.parametrize(
    ("quant", "how"),
    [("tensor", {}), ("tensor", {"shuffled": True, "interleaved": True}), ("token", {})],
    ids=["tensor", "tensor-shuffled-interleaved", "token"],
)
def test_scales_of_tensors_and_of_whole_hidden_states(quant: str, how: dict[str, Any]) -> None:
    """By each row. Of even seeds w1 has one scale an expert, of odd ones gate and up have one each."""
    for tokens, quantised in ((2, False), (40, True), (600, False), (1100, True)):
        fields = {"tokens": tokens, "quant": quant, "quantised": quantised, "width": 640, "inter": 384}
        for seed in (2, 3):
            case = cases.case_of(cases.problem_of(**fields, **how), seed, device="cuda", spare=seed - 2)
            cases.check_on_hopper(case, cases.run(case), True)


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: "-".join(asked))
@pytest.mark.parametrize("precision", ["a4w4", "a16w4"])
def test_layers_of_mxfp4(precision: str, asked: dict[str, Any]) -> None:
    for tokens, width, inter in ((1, 160, 96), (300, 192, 192)):
        fields = {**asked, "interleaved": asked.get("interleaved", False) and precision != "a4w4"}
        case = mx.case_of(mx.problem_of(tokens=tokens, width=width, inter=inter, precision=precision, **fields), tokens)
        mx.check(case, mx.run(case, device="cuda"))
