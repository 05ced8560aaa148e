"""The fused mixture of experts on the CPU against its float64 definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fused_moe_cases as cases  # noqa: E402
from fused_moe_cases import HOWS, KINDS, call, case_of, check, problem_of, run, run_sorted, skewed_ids  # noqa: E402
from torch import Tensor  # noqa: E402
from torch_threads import bits_do_not_depend_on_threads, threads  # noqa: E402

from aiterlite import QuantType, envs, moe  # noqa: E402
from aiterlite.ops.samples import sample  # noqa: E402
from aiterlite.reference import fused_moe as reference  # noqa: E402
from aiterlite.tables import TABLES, problems  # noqa: E402
from aiterlite.tables.fused_moe_problem import FMOE_OP, OP  # noqa: E402

pytestmark = [pytest.mark.compile, pytest.mark.usefixtures("one_thread")]
BF16, FP16 = torch.bfloat16, torch.float16


# Against the definition -----------------------------------------------------------------------------------------------


def test_the_bound_of_an_element_has_room_for_fp16_s_least_numbers() -> None:
    """Slots that are rounded, and then their sum: nothing less can be asked of a kernel."""
    made = problem_of(tokens=40, topk=3, dtype="fp16", quant="none", code="", weighted_input=True)
    case = case_of(made, 1)
    case.made.routing.mul_(1e-3)
    layer = case.layer()
    slots = replace(case, problem=replace(made, by_slots=True)).layer().out
    got = slots.to(FP16).float().sum(1).to(FP16)
    assert 0 < layer.out.abs().median() < torch.finfo(FP16).smallest_normal
    assert ((got.double() - layer.out).abs() <= reference.error_bound(layer, FP16, False)).all()


FORMATS: list[dict[str, Any]] = [
    {"quant": quant, "code": code, "dtype": dtype}
    for dtype in ("bf16", "fp16")
    for quant, code in (("block", "e4m3fn"), ("block", "e4m3fnuz"), ("token", "e4m3fn"), ("none", ""))
]


@pytest.mark.parametrize("how", HOWS, ids=lambda how: "-".join(how) or "plain")
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: "-".join(form.values()))
def test_each_format_and_layout(form: dict[str, Any], how: dict[str, Any]) -> None:
    for tokens, spare, wide in ((1, 0, False), (7, 0, True), (33, 3, False)):
        case = case_of(problem_of(tokens=tokens, **form, **how), tokens, spare=spare, wide=wide)
        check(case, run(case))


@pytest.mark.parametrize("how", [{}, {"shuffled": True}, {"activation": "gelu", "interleaved": True}])
def test_quantised_hidden_states(how: dict[str, Any]) -> None:
    for code in ("e4m3fn", "e4m3fnuz"):
        case = case_of(problem_of(quantised=True, code=code, tokens=9, **how), 3, spare=2)
        check(case, run(case))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_skewed_routing(kind: str, masked: bool) -> None:
    for tokens in (1, 19, 64):
        problem = problem_of(tokens=tokens, experts=11, topk=4, shuffled=tokens == 19)
        if masked:
            problem = replace(problem, masked=True, global_experts=23)
        ids = skewed_ids(kind, replace(problem, experts=problem.global_experts), tokens)
        case = case_of(problem, 5, ids, wide=tokens == 19)
        check(case, run(case))


def test_every_count_of_tokens() -> None:
    problem = problem_of(width=128, topk=2, experts=5, shuffled=True)
    for tokens in range(1, 65):
        case = case_of(replace(problem, tokens=tokens), tokens)
        check(case, run(case))


@pytest.mark.parametrize("tokens", [100, 513, 1025])
def test_many_tokens_by_two_threads(tokens: int) -> None:
    case = case_of(problem_of(tokens=tokens, width=128, shuffled=True), tokens)
    with threads(2):
        check(case, run(case))


@pytest.mark.parametrize("inter", [128, 256, 384, 768, 1408, 2048])
def test_every_inter(inter: int) -> None:
    for how in ({"shuffled": True}, {"quant": "token", "interleaved": True}):
        case = case_of(problem_of(tokens=3, inter=inter, width=384, experts=4, topk=2, **how), inter)
        check(case, run(case))


def test_sizes_that_are_no_blocks_where_scales_are_not_of_blocks() -> None:
    for form in ({"quant": "none"}, {"quant": "token"}, {"quant": "none", "dtype": "fp16", "interleaved": True}):
        for width, inter in ((100, 36), (17, 5), (130, 130)):
            case = case_of(problem_of(width=width, inter=inter, aligned=False, **form), 2)
            check(case, run(case))


def test_deepseek_r1_s_width_and_slots() -> None:
    for tokens in (1, 3):
        case = case_of(problem_of(tokens=tokens, experts=12, topk=8, width=7168, inter=256, shuffled=True), 1)
        check(case, run(case))


def test_the_most_slots_and_experts() -> None:
    case = case_of(problem_of(tokens=3, experts=1024, topk=64, width=64, inter=32, quant="token", shuffled=True), 1)
    check(case, run(case))


def test_tokens_that_do_not_count_are_zero_and_not_looked_at() -> None:
    problem = problem_of(tokens=9, shuffled=True)
    for live in (-3, 0, 1, 6, 9, 50):
        case = case_of(problem, 4, live=live)
        case.made.x[max(0, live) :] = float("nan")
        case.made.routing[max(0, live) :] = float("nan")
        got = run(case)
        check(case, got)
        assert not got[max(0, live) :].any()


def test_experts_that_nobody_chose_and_masked_slots_are_not_looked_at() -> None:
    problem = problem_of(tokens=6, quant="none", masked=True, global_experts=17)
    ids = skewed_ids("few experts", replace(problem, experts=17))
    case = case_of(problem, 4, ids)
    local = reference.local_ids(ids, problem.experts, case.made.mask)
    unused = sorted(set(range(problem.experts)) - set(local.flatten().tolist()))
    assert unused
    case.made.w1[unused] = float("nan")
    case.made.w2[unused] = float("inf")
    case.made.routing[local < 0] = float("nan")
    check(case, run(case))


def test_a_mask_that_names_more_experts_than_are_here() -> None:
    """Those beyond have no weights: they add nothing, and nothing is read behind w1."""
    case = case_of(problem_of(tokens=12, experts=3, topk=3, masked=True, global_experts=9), 6)
    assert case.made.mask is not None
    case.made.mask[:] = 1
    check(case, run(case))


def test_a_trailing_fake_expert() -> None:
    """As expert parallel clients have it: the mask has one entry more, 0, and ids that are no expert's name it."""
    problem = problem_of(tokens=10, experts=8, topk=3)
    plain = case_of(problem, 2)
    ids = torch.where(plain.made.ids < 0, 8, plain.made.ids)
    mask = torch.tensor([1] * 8 + [0], dtype=torch.int32)
    assert torch.equal(call(plain), call(plain, topk_ids=ids, expert_mask=mask))


def test_same_call_same_bits_whatever_threads() -> None:
    case = case_of(problem_of(tokens=37, inter=384, width=512, shuffled=True), 8)
    assert bits_do_not_depend_on_threads(lambda: run(case), (1, 2, 3))


@pytest.mark.parametrize("op", [OP, FMOE_OP])
def test_samples_are_right(op: str) -> None:
    table = TABLES[op]
    small = [problem for problem in problems.sweep(table) if problem.width < 1000 and problem.tokens <= 16]
    assert len(small) == 3
    for problem in small:
        made = sample(op, problem, 1)
        assert made.of_bound(made.run()) <= 1


# Sorted ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [16, 32, 100])
@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_sorted_tokens_are_added_to_what_is_there(block_size: int, activation: str) -> None:
    for tokens, kind in ((1, "one token an expert"), (21, "strange"), (40, "one expert"), (5, "none")):
        problem = problem_of(tokens=tokens, shuffled=True, quantised=True, activation=activation)
        case = case_of(problem, 7, skewed_ids(kind, problem, 1))
        before = torch.randn(tokens, 256, generator=torch.Generator().manual_seed(1)).to(BF16)
        got = run_sorted(case, block_size, before)
        layer = case.layer()
        exact = layer.out + before.double()
        bound = reference.error_bound(layer, BF16, False) + 2.0**-8 * exact.abs()
        assert bool(((got.double() - exact).abs() <= bound).all())


def test_sorting_then_the_layer_is_the_fused_call() -> None:
    """Through the public functions, from 16-bit hidden states, as clients do it."""
    from aiterlite.quant import get_hip_quant

    case = case_of(problem_of(tokens=30, experts=9, shuffled=True, quantised=True), 2)
    made = case.made
    x = torch.randn(30, 256, generator=torch.Generator().manual_seed(5)).to(BF16)
    quantise = get_hip_quant(QuantType.per_1x128)
    plain, plain_scale = quantise(x, quant_dtype=torch.float8_e4m3fn)
    codes, scale = quantise(x, quant_dtype=torch.float8_e4m3fn, transpose_scale=True)
    ids, weights, experts, valid, out = moe.moe_sorting(made.ids, made.routing, 9, 256, BF16, 32)
    rest = (made.weights.w1_scale, made.weights.w2_scale)
    moe.fmoe_fp8_blockscale_g1u1(out, codes, made.w1, made.w2, ids, weights, experts, valid, 3, scale, *rest)
    fused = call(case, hidden_states=plain, a1_scale=plain_scale)
    assert torch.equal(out, fused)
    kept = call(case, hidden_states=x, a1_scale=None)
    assert 0 < reference.relative_error(kept, fused.double()) < cases.ROUNDED


@pytest.mark.emulated
@pytest.mark.parametrize(("target", "prefer"), [("", ""), ("mi300x", ""), ("mi355x", ""), ("mi300x", "asm")])
def test_sorted_buffers_are_believed_as_far_as_they_reach(
    target: str, prefer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever num_valid_ids says. And slots that the call does not have add nothing."""
    monkeypatch.setenv("AITERLITE_TARGET", target)
    monkeypatch.setenv("AITERLITE_PREFER", prefer)
    envs.reload()
    code = "e4m3fnuz" if target == "mi300x" else "e4m3fn"
    # What the assembly takes, or as little as there is.
    width, block = (1024, 32) if prefer else (256, 16)
    sizes = {"width": width, "inter": 256 if prefer else 128, "experts": 4 if prefer else 8}
    case = case_of(problem_of(tokens=20, shuffled=True, quantised=True, code=code, **sizes), 1)
    made, scales = case.made, case.made.weights
    assert made.x_scale is not None
    ids, weights, experts, valid, out = moe.moe_sorting(made.ids, made.routing, len(made.w1), width, BF16, block)
    entries = int(valid[0])
    ids, weights, experts = ids[:entries].clone(), weights[:entries].clone(), experts[: entries // block].clone()

    def added(ids: Tensor, said: int) -> Tensor:
        got, count = torch.zeros_like(out), torch.tensor([said, 20], dtype=torch.int32)
        moe.fmoe_fp8_blockscale_g1u1(
            got, made.x, made.w1, made.w2, ids, weights, experts, count, 3, made.x_scale.T.contiguous(),
            scales.w1_scale, scales.w2_scale, block_size_M=block,
        )  # fmt: skip
        return got

    expected = added(ids, entries)
    assert expected.any()
    for said in (entries + 1, entries + block, 2**31 - 1):
        assert torch.equal(added(ids, said), expected), said
    assert not added(ids, 0).any() and not added(ids, -16).any()
    # Assembly takes a slot as it is.
    assert prefer or not added(ids | 0x7F << 24, entries).any()
    envs.reload()
