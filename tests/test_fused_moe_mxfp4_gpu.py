"""The mixture of experts with weights of MXFP4 on a GPU, against float64; and DeepSeek-R1's layer, in a graph too."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fused_moe_mxfp4_cases import case_of, check, problem_of, run  # noqa: E402

from aiterlite import QuantType, moe  # noqa: E402
from aiterlite.ops.shuffle import mark_shuffled  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.gpu]
FORMS: list[dict[str, Any]] = [
    {"precision": "a4w4"},
    {"precision": "a4w4", "quantised": True, "weighted_input": True},
    {"precision": "a8w4", "interleaved": True, "activation": "swiglu"},
    {"precision": "a8w4", "quantised": True, "dtype": "fp16"},
    {"precision": "a16w4", "interleaved": True, "activation": "swiglu"},
    {"precision": "a16w4", "dtype": "fp16", "masked": True, "global_experts": 9},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_layers(form: dict[str, Any]) -> None:
    for tokens, width, inter in ((1, 160, 96), (9, 448, 64), (40, 320, 128), (300, 192, 192)):
        case = case_of(problem_of(tokens=tokens, width=width, inter=inter, **form), tokens)
        got = run(case, device="cuda")
        check(case, got)
        if width % 64 == 0 and inter % 64 == 0:
            shuffled = case_of(replace(case.problem, shuffled=True), tokens)
            assert torch.equal(run(shuffled, device="cuda"), got)


def test_deepseek_r1() -> None:
    """A rank's part of 16 of its experts, 8 a token: eagerly, and replayed from a graph, the same bits."""
    for tokens in (1, 16, 64):
        problem = problem_of(tokens=tokens, experts=16, topk=8, width=7168, inter=256, shuffled=True)
        case = case_of(problem, tokens)
        made = case.made
        w1, w2 = made.w1.cuda(), made.w2.cuda()
        mark_shuffled(w1)
        scales = {"w1_scale": made.w1_scale.cuda(), "w2_scale": made.w2_scale.cuda()}
        given = made.x.cuda(), w1, w2, made.routing.cuda(), made.ids.cuda()
        call = functools.partial(moe.fused_moe, *given, quant_type=QuantType.per_1x32, **scales)
        got = call()
        check(case, got.cpu())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            replayed = call()
        for _ in range(3):
            graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(replayed, got)
