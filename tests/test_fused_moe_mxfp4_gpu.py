"""The mixture of experts with weights of MXFP4 on a GPU, against float64; and DeepSeek-R1's layer, in a graph too."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fused_moe_cases import skewed_ids  # noqa: E402
from fused_moe_mxfp4_cases import case_of, check, problem_of, run  # noqa: E402

from aiterlite import QuantType, moe  # noqa: E402
from aiterlite.dispatch import decide  # noqa: E402
from aiterlite.ops.shuffle import mark_shuffled  # noqa: E402
from aiterlite.tables.fused_moe import TABLE  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

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
    for tokens in (1, 7, 16, 64):
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


# Calls of up to 8 tokens that are not sorted (row mxfp4_stream).
STREAMED: list[dict[str, Any]] = [
    {"precision": "a4w4", "masked": True, "global_experts": 14},
    {"precision": "a4w4", "weighted_input": True, "bias1": True, "bias2": True},
    {"precision": "a8w4", "interleaved": True, "activation": "swiglu"},
    {"precision": "a16w4", "activation": "gelu"},
]


@pytest.mark.parametrize("form", STREAMED, ids=lambda form: "-".join(map(str, form.values())))
def test_few_tokens(form: dict[str, Any]) -> None:
    """Blocks of h whole in a workgroup of stage 1 and not, widths of units that warps share unequally; ids of none, of
    experts that are not there and of one twice; both layouts, the same bits; strides between rows."""
    for tokens, topk, width, inter in ((1, 8, 1024, 256), (3, 5, 1408, 128), (5, 8, 3072, 384), (8, 8, 1024, 512)):
        problem = problem_of(tokens=tokens, topk=topk, experts=12, width=width, inter=inter, **form)
        row = decide(TABLE, problem, resolve("h200")).row
        assert row is not None and row.name == "mxfp4_stream"
        for kind in ("strange", "one expert", "none"):
            ids = skewed_ids(kind, replace(problem, experts=problem.global_experts), tokens)
            if kind == "strange":
                ids[0, 1] = ids[0, 0]
            case = case_of(problem, tokens, ids)
            got = run(case, spare=1, device="cuda")
            check(case, got)
            shuffled = case_of(replace(problem, shuffled=True), tokens, ids)
            assert torch.equal(run(shuffled, device="cuda"), got)


def test_few_tokens_behind_each_other() -> None:
    """Calls whose second kernel starts early, one behind the other on one workspace, with other routing each: the bits
    of calls that wait."""
    problem = problem_of(tokens=4, topk=8, experts=16, width=1920, inter=256)
    cases = [case_of(problem, seed) for seed in range(3)]
    made = cases[0].made
    w1, w2 = made.w1.cuda(), made.w2.cuda()
    scales = {"w1_scale": made.w1_scale.cuda(), "w2_scale": made.w2_scale.cuda()}
    given = [(one.made.x.cuda(), w1, w2, one.made.routing.cuda(), one.made.ids.cuda()) for one in cases]

    def call(number: int) -> torch.Tensor:
        return moe.fused_moe(*given[number], quant_type=QuantType.per_1x32, **scales)

    apart = []
    for number in range(3):
        apart.append(call(number))
        torch.cuda.synchronize()
    check(cases[0], apart[0].cpu())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        together = [call(turn % 3) for turn in range(30)]
    for _ in range(3):
        for one in together:
            one.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(one, apart[turn % 3]) for turn, one in enumerate(together))


def test_few_tokens_do_not_depend_on_others() -> None:
    problem = problem_of(tokens=8, topk=8, experts=16, width=1920, inter=256)
    case = case_of(problem, 1)
    whole = run(case, device="cuda")
    for count in (1, 3, 5):
        rows = {name: getattr(case.made, name)[:count] for name in ("x", "ids", "routing")}
        fewer = replace(case, problem=replace(problem, tokens=count), made=replace(case.made, **rows))
        assert torch.equal(run(fewer, device="cuda"), whole[:count])


# Calls of some tens of tokens by 8-bit products (row mxfp4_e4m3, whose kernels take more than it serves).
EIGHT_BITS: list[dict[str, Any]] = [
    {"precision": "a4w4", "masked": True, "spare": 4},
    {"precision": "a4w4", "bias1": True, "bias2": True, "activation": "gelu"},
    {"precision": "a4w4", "interleaved": True, "activation": "swiglu"},
]


@pytest.mark.parametrize("form", EIGHT_BITS, ids=lambda form: "-".join(map(str, form.values())))
def test_tens_of_tokens(form: dict[str, Any]) -> None:
    """Ids of none, of experts that are not there and of one twice; blocks of one expert that are several; strides."""
    given = dict(form)
    spare = given.pop("spare", 0)
    for tokens, topk, experts, width, inter in ((16, 5, 20, 1024, 512), (64, 8, 128, 256, 256)):
        problem = problem_of(
            tokens=tokens, topk=topk, experts=experts, global_experts=experts + spare, width=width, inter=inter, **given
        )
        row = decide(TABLE, problem, resolve("h200")).row
        assert row is not None and row.name == "mxfp4_e4m3"
        for kind in ("strange", "one expert", "none"):
            ids = skewed_ids(kind, replace(problem, experts=problem.global_experts), tokens)
            if kind == "strange":
                ids[0, 1] = ids[0, 0]
            case = case_of(problem, tokens, ids)
            check(case, run(case, spare=1, device="cuda"))


def test_tens_of_tokens_behind_each_other() -> None:
    """Calls whose kernels start early, on one workspace, with other routing each: the bits of calls that wait; and of a
    token those of fewer tokens."""
    problem = problem_of(tokens=16, topk=8, experts=64, width=2048, inter=256)
    cases = [case_of(problem, seed) for seed in range(3)]
    made = cases[0].made
    w1, w2 = made.w1.cuda(), made.w2.cuda()
    scales = {"w1_scale": made.w1_scale.cuda(), "w2_scale": made.w2_scale.cuda()}
    given = [(one.made.x.cuda(), w1, w2, one.made.routing.cuda(), one.made.ids.cuda()) for one in cases]

    def call(number: int) -> torch.Tensor:
        return moe.fused_moe(*given[number], quant_type=QuantType.per_1x32, **scales)

    apart = []
    for number in range(3):
        apart.append(call(number))
        torch.cuda.synchronize()
    check(cases[0], apart[0].cpu())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        together = [call(turn % 3) for turn in range(30)]
    for _ in range(3):
        for one in together:
            one.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(one, apart[turn % 3]) for turn, one in enumerate(together))
    x, _, _, routing, ids = given[0]
    fewer = moe.fused_moe(x[:10], w1, w2, routing[:10], ids[:10], quant_type=QuantType.per_1x32, **scales)
    assert torch.equal(fewer, apart[0][:10])
