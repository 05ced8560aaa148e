"""The fused mixture of experts on a GPU: against the float64 layer, captured, on several streams. L2, marked `gpu`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fused_moe_cases as cases  # noqa: E402
from fused_moe_cases import HOWS, KINDS, call, case_of, problem_of, run, run_sorted, skewed_ids  # noqa: E402

from aiterlite import moe  # noqa: E402
from aiterlite.reference import fused_moe as reference  # noqa: E402

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
TOKENS = (1, 2, 3, 4, 7, 8, 16, 17, 33, 64, 100, 256, 513, 1024, 2049, 4096)
FORMATS: list[dict[str, Any]] = [
    {"quant": quant, "dtype": dtype} for dtype in ("bf16", "fp16") for quant in ("block", "token", "none")
]


def rounds(case: cases.Case) -> bool:
    """A matrix unit multiplies codes by codes."""
    return case.problem.quant != "none"


def held(case: cases.Case) -> None:
    """Right, and the same bits in another run."""
    got = run(case)
    cases.check_on_hopper(case, got, rounds(case))
    assert torch.equal(run(case), got)


@pytest.mark.parametrize("how", HOWS, ids=lambda how: "-".join(how) or "plain")
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: "-".join(form.values()))
def test_each_format_and_layout(form: dict[str, Any], how: dict[str, Any]) -> None:
    for tokens, spare, wide in ((1, 0, False), (4, 0, True), (33, 2, False), (200, 0, True)):
        problem = problem_of(tokens=tokens, width=512, inter=256, **form, **how)
        held(case_of(problem, tokens, device=DEVICE, spare=spare, wide=wide))


@pytest.mark.parametrize("tokens", TOKENS)
def test_every_count_of_tokens(tokens: int) -> None:
    """32 experts of DeepSeek-R1's width, of which each token has 8."""
    for shuffled in (False, True):
        problem = problem_of(tokens=tokens, experts=32, topk=8, width=7168, inter=256, shuffled=shuffled)
        held(case_of(problem, tokens, device=DEVICE))


@pytest.mark.parametrize("tokens", [1, 4, 16, 64, 129, 256])
def test_deepseek_r1_s_layer_over_8_ranks(tokens: int) -> None:
    held(case_of(problem_of(tokens=tokens, experts=256, topk=8, width=7168, inter=256), tokens, device=DEVICE))


@pytest.mark.parametrize("how", HOWS, ids=lambda how: "-".join(how) or "plain")
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: "-".join(form.values()))
def test_slots_that_meet(form: dict[str, Any], how: dict[str, Any]) -> None:
    """Tokens whose sums no workgroup has room for; of 640 elements the last 256 are half there."""
    for tokens, live, experts in ((513, None, 48), (1024, 1000, 12), (1025, None, 40), (2100, 2049, 12)):
        problem = problem_of(tokens=tokens, width=640, inter=384, **form, **{**how, "experts": experts, "topk": 6})
        problem = replace(problem, global_experts=experts + 9 if problem.masked else experts)
        held(case_of(problem, tokens, device=DEVICE, spare=1, live=live))


@pytest.mark.parametrize("kind", KINDS)
def test_skewed_routing_of_slots_that_meet(kind: str) -> None:
    for tokens in (1000, 1500):
        problem = problem_of(tokens=tokens, experts=40, topk=5, width=1280, masked=True, global_experts=50)
        held(case_of(problem, 5, skewed_ids(kind, replace(problem, experts=50), 3), DEVICE, wide=True))


@pytest.mark.parametrize("inter", [128, 256, 384, 768, 1408, 2048])
def test_every_inter(inter: int) -> None:
    for tokens in (1, 9, 130):
        held(case_of(problem_of(tokens=tokens, inter=inter, width=1024, topk=2), inter, device=DEVICE))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_skewed_routing(kind: str, masked: bool) -> None:
    for tokens in (1, 4, 19, 64, 500):
        problem = problem_of(tokens=tokens, experts=11, topk=4, width=512)
        if masked:
            problem = replace(problem, masked=True, global_experts=23)
        ids = skewed_ids(kind, replace(problem, experts=problem.global_experts), tokens)
        held(case_of(problem, 5, ids, DEVICE, wide=tokens == 19))


@pytest.mark.parametrize("tokens", [1, 9, 300])
def test_quantised_hidden_states(tokens: int) -> None:
    for how in ({}, {"shuffled": True, "interleaved": True, "activation": "gelu"}):
        case = case_of(problem_of(quantised=True, tokens=tokens, width=512, **how), 3, device=DEVICE, spare=2)
        held(case)


@pytest.mark.parametrize("tokens", [4, 40, 300])
def test_tokens_that_do_not_count_are_zero_and_not_looked_at(tokens: int) -> None:
    for live in (-3, 0, 1, tokens - 1, tokens, 5000):
        case = case_of(problem_of(tokens=tokens, width=512), 4, device=DEVICE, live=live)
        case.made.x[max(0, live) :] = float("nan")
        case.made.routing[max(0, live) :] = float("nan")
        got = run(case)
        cases.check_on_hopper(case, got, rounds(case))
        assert not got[max(0, live) :].any()


@pytest.mark.parametrize("tokens", [3, 100])
def test_experts_that_nobody_chose_and_masked_slots_are_not_looked_at(tokens: int) -> None:
    problem = problem_of(tokens=tokens, width=512, masked=True, global_experts=17)
    case = case_of(problem, 4, skewed_ids("few experts", replace(problem, experts=17)), DEVICE)
    local = reference.local_ids(case.made.ids, problem.experts, case.made.mask)
    unused = sorted(set(range(problem.experts)) - set(local.flatten().tolist()))
    scales = case.made.weights.w1_scale
    assert unused and scales is not None
    scales[unused] = float("nan")
    case.made.routing[local < 0] = float("nan")
    held(case)


@pytest.mark.parametrize("tokens", [2, 100])
def test_a_mask_that_names_more_experts_than_are_here(tokens: int) -> None:
    case = case_of(problem_of(tokens=tokens, experts=3, topk=3, masked=True, global_experts=9), 6, device=DEVICE)
    assert case.made.mask is not None
    case.made.mask[:] = 1
    held(case)


@pytest.mark.parametrize("block_size", [16, 32, 64])
def test_sorted_tokens_are_added_to_what_is_there(block_size: int) -> None:
    for tokens, kind in ((1, "one token an expert"), (21, "strange"), (140, "one expert"), (5, "none")):
        problem = problem_of(tokens=tokens, width=512, shuffled=True, quantised=True)
        case = case_of(problem, 7, skewed_ids(kind, problem, 1), DEVICE)
        generator = torch.Generator(DEVICE).manual_seed(1)
        before = torch.randn(tokens, 512, generator=generator, device=DEVICE).to(torch.bfloat16)
        got = run_sorted(case, block_size, before)
        layer = case.layer()
        exact = layer.out + before.double()
        bound = reference.error_bound(layer, torch.bfloat16) + cases.MATRIX * layer.terms + 2.0**-8 * exact.abs()
        assert bool(((got.double() - exact).abs() <= bound).all())
        assert torch.equal(run_sorted(case, block_size, before), got)


@pytest.mark.parametrize("tokens", [1, 16, 300])
def test_sums_in_any_order_are_as_exact(tokens: int) -> None:
    case = case_of(problem_of(tokens=tokens, width=512, deterministic=False), 4, device=DEVICE)
    for _ in range(3):
        cases.check_on_hopper(case, run(case), rounds(case))


@pytest.mark.parametrize("tokens", [1, 4, 16, 100, 1024])
def test_a_captured_layer_follows_its_operands(tokens: int) -> None:
    """Replayed on two streams in turn, for other tokens and ids each time, beside eager calls on a third."""
    problem = problem_of(tokens=tokens, experts=16, topk=4, width=1024, inter=256)
    case, other = (case_of(problem, seed, device=DEVICE) for seed in (1, 2))
    expected_other = call(other)
    call(case)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(case)
    streams = [torch.cuda.Stream() for _ in range(3)]
    for turn in range(8):
        again = case_of(problem, 10 + turn, device=DEVICE).made
        for name in ("x", "ids", "routing"):
            getattr(case.made, name).copy_(getattr(again, name))
        out.fill_(float("nan"))
        torch.cuda.synchronize()
        with torch.cuda.stream(streams[2]):
            eager = call(other)
        with torch.cuda.stream(streams[turn % 2]):
            graph.replay()
        torch.cuda.synchronize()
        cases.check_on_hopper(case, out, rounds(case))
        assert torch.equal(eager, expected_other)
        assert torch.equal(call(case), out)


def test_the_number_of_tokens_of_a_graph_is_on_the_device() -> None:
    case = case_of(problem_of(tokens=64, width=512), 1, device=DEVICE)
    live = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    whole = call(case)
    call(case, num_local_tokens=live)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(case, num_local_tokens=live)
    for count in (0, 1, 33, 64, 70, -3):
        live.fill_(count)
        graph.replay()
        used = min(max(count, 0), 64)
        assert not out[used:].any()
        assert torch.equal(out[:used], whole[:used])


def test_sorting_then_the_layer_is_the_fused_call() -> None:
    case = case_of(problem_of(tokens=100, experts=9, width=512, shuffled=True, quantised=True), 2, device=DEVICE)
    made = case.made
    assert made.x_scale is not None
    ids, weights, experts, valid, out = moe.moe_sorting(made.ids, made.routing, 9, 512, torch.bfloat16, 32)
    scales = (made.x_scale.T.contiguous(), made.weights.w1_scale, made.weights.w2_scale)
    moe.fmoe_fp8_blockscale_g1u1(out, made.x, made.w1, made.w2, ids, weights, experts, valid, 3, *scales)
    cases.check_on_hopper(case, out, True)
    cases.check_on_hopper(case, call(case), True)
