"""The fused mixture of experts on the CPU against its float64 definition; what calls mean, and what is refused."""

from __future__ import annotations

import gc
import inspect
from dataclasses import replace
from enum import Enum
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fused_moe_cases as cases  # noqa: E402
from fused_moe_cases import KINDS, case_of, check, problem_of, run, run_sorted, skewed_ids  # noqa: E402
from torch import Tensor  # noqa: E402
from torch_threads import bits_do_not_depend_on_threads, threads  # noqa: E402

from aiterlite import ActivationType, QuantType, envs, moe  # noqa: E402
from aiterlite.errors import ArgumentError, DispatchError  # noqa: E402
from aiterlite.ops.fused_moe import layer_sizes  # noqa: E402
from aiterlite.ops.samples import sample  # noqa: E402
from aiterlite.ops.shuffle import is_shuffled, mark_shuffled, unshuffle_weight  # noqa: E402
from aiterlite.reference import fused_moe as reference  # noqa: E402
from aiterlite.tables import TABLES, problems  # noqa: E402
from aiterlite.tables.fused_moe_problem import FMOE_OP, OP  # noqa: E402

pytestmark = [pytest.mark.compile, pytest.mark.usefixtures("one_thread")]
BF16, FP16 = torch.bfloat16, torch.float16


def call(case: cases.Case, **changes: Any) -> Tensor:
    """The public function."""
    made, problem = case.made, case.problem
    given: dict[str, Any] = {
        "hidden_states": made.x,
        "w1": made.w1,
        "w2": made.w2,
        "topk_weight": made.routing,
        "topk_ids": made.ids,
        "expert_mask": made.mask,
        "activation": cases.ACTIVATIONS[problem.activation],
        "quant_type": cases.QUANTS[problem.quant],
        "doweight_stage1": problem.weighted_input,
        "w1_scale": made.weights.w1_scale,
        "w2_scale": made.weights.w2_scale,
        "a1_scale": made.x_scale,
        "gate_mode": "interleave" if problem.interleaved else "separated",
        "dtype": case.dtype if problem.quantised else None,
    }
    return moe.fused_moe(**{**given, **changes})


# Against the definition -----------------------------------------------------------------------------------------------

FORMATS: list[dict[str, Any]] = [
    {"quant": quant, "code": code, "dtype": dtype}
    for dtype in ("bf16", "fp16")
    for quant, code in (("block", "e4m3fn"), ("block", "e4m3fnuz"), ("token", "e4m3fn"), ("none", ""))
]
HOWS: list[dict[str, Any]] = [
    {},
    {"shuffled": True, "activation": "gelu"},
    {"interleaved": True, "activation": "swiglu"},
    {"shuffled": True, "interleaved": True, "weighted_input": True},
    {"masked": True, "global_experts": 21, "weighted_input": True},
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


# What arguments mean --------------------------------------------------------------------------------------------------


def test_signatures_are_upstream_s() -> None:
    names = list(inspect.signature(moe.fused_moe).parameters)
    assert names[:9] == [
        "hidden_states", "w1", "w2", "topk_weight", "topk_ids", "expert_mask", "activation", "quant_type",
        "doweight_stage1",
    ]  # fmt: skip
    assert names[9:32] == [
        "w1_scale", "w2_scale", "a1_scale", "a2_scale", "block_size_M", "num_local_tokens",
        "moe_sorting_dispatch_policy", "dtype", "hidden_pad", "intermediate_pad", "bias1", "bias2", "splitk",
        "swiglu_limit", "beta", "linear_beta", "gate_mode", "shared_w1", "shared_w2", "shared_w1_scale",
        "shared_w2_scale", "shared_expert_id", "stage2_scatter",
    ]  # fmt: skip
    names = list(inspect.signature(moe.fmoe_fp8_blockscale_g1u1).parameters)
    assert names[:18] == [
        "out", "input", "gate", "down", "sorted_token_ids", "sorted_weights", "sorted_expert_ids", "num_valid_ids",
        "topk", "input_scale", "fc1_scale", "fc2_scale", "kernelName", "fc_scale_blkn", "fc_scale_blkk",
        "fc2_smooth_scale", "activation", "block_size_M",
    ]  # fmt: skip
    assert list(inspect.signature(moe.shuffle_weight).parameters) == [
        "x", "layout", "use_int4", "is_guinterleave", "gate_up", "pad_k_to",
    ]  # fmt: skip


class GateMode(str, Enum):
    SEPARATED = "separated"
    INTERLEAVE = "interleave"


def test_forms_of_the_same_call_give_the_same_bits() -> None:
    case = case_of(problem_of(shuffled=True, interleaved=True), 3)
    made = case.made
    assert made.weights.w1_scale is not None and made.weights.w2_scale is not None
    expected = call(case)
    check(case, expected)
    flat = {"w1_scale": made.weights.w1_scale.flatten(), "w2_scale": made.weights.w2_scale.flatten(1)}
    for changes in (
        {"quant_type": QuantType.per_1x128},
        {"quant_type": 5, "activation": 0},
        {"gate_mode": GateMode.INTERLEAVE},
        {"block_size_M": 64, "moe_sorting_dispatch_policy": 2, "splitk": 4},
        {"block_size_M": -1},
        {"hidden_pad": 64, "intermediate_pad": 32},
        {"dtype": BF16},
        {"topk_ids": made.ids.long()},
        {"num_local_tokens": torch.tensor([5], dtype=torch.int32)},
        {"deterministic": False},
        flat,
    ):
        assert torch.equal(call(case, **changes), expected), changes


def test_absent_operands_are_told_apart_by_their_places() -> None:
    """A mask of one expert and a count of tokens lie alike; each call that follows is prepared for itself."""
    case = case_of(problem_of(experts=1, topk=1), 3, torch.zeros(5, 1, dtype=torch.int32))
    one = torch.tensor([1], dtype=torch.int32)
    whole = call(case)
    first = torch.cat([whole[:1], torch.zeros_like(whole[1:])])
    for _ in range(2):
        assert torch.equal(call(case, expert_mask=one), whole)
        assert torch.equal(call(case, num_local_tokens=one), first)
    swiglu = {"activation": ActivationType.Swiglu}
    assert not torch.equal(call(case, **swiglu, beta=2.0), call(case, **swiglu, linear_beta=2.0))


def test_in_inference_mode_and_beside_parameters() -> None:
    case = case_of(problem_of(quant="none"), 3)
    expected = call(case)
    w1 = torch.nn.Parameter(case.made.w1)
    with torch.inference_mode():
        assert torch.equal(call(case, w1=w1), expected)
    with torch.no_grad():
        assert torch.equal(call(case, w1=w1), expected)


def test_one_shuffled_weight_means_both_as_upstream() -> None:
    case = case_of(problem_of(shuffled=True), 3)
    for one, other in ((case.made.w1, case.made.w2), (case.made.w2, case.made.w1)):
        one.is_shuffled, other.is_shuffled = True, False
        check(case, call(case))
    case.made.w1.is_shuffled, case.made.w2.is_shuffled = True, False
    # A copy loses the attribute; the same bytes then mean another matrix.
    lost = case.made.w1.clone()
    assert not torch.equal(call(case), call(case, w1=lost))
    lost.is_shuffled = True
    check(case, call(case, w1=lost))


def test_engines_may_wrap_shuffled_weights() -> None:
    """As vLLM and SGLang keep them: in parameters made of them, or that have them as data; the tensors are dropped."""
    case = case_of(problem_of(), 3)
    expected = call(case_of(problem_of(shuffled=True), 3))
    plain = case.made.w1, case.made.w2

    def parameter(of: Tensor) -> Tensor:
        return torch.nn.Parameter(moe.shuffle_weight(of), requires_grad=False)

    def assigned(of: Tensor) -> Tensor:
        made = torch.nn.Parameter(of.clone(), requires_grad=False)
        made.data = moe.shuffle_weight(of)
        return made

    for wrap in (parameter, assigned, lambda of: moe.shuffle_weight(of).view(torch.uint8).view(of.dtype)):
        w1, w2 = map(wrap, plain)
        gc.collect()
        assert not hasattr(w1, "is_shuffled") and torch.equal(call(case, w1=w1, w2=w2), expected)
        # What a tensor says of itself goes before: it was unshuffled where it lies.
        w1.data.copy_(plain[0])
        w2.data.copy_(plain[1])
        w1.is_shuffled = w2.is_shuffled = False
        check(case, call(case, w1=w1, w2=w2))


def test_memory_says_nothing_of_what_else_lies_in_it() -> None:
    """Neither of other tensors, nor of memory that is used again."""
    weight = torch.randn(32, 64).bfloat16()
    made = moe.shuffle_weight(weight)
    assert is_shuffled(made) and is_shuffled(made[:16]) and not is_shuffled(made.clone()) and not is_shuffled(weight)
    # As an allocator hands out again what was freed: the same place, by another name.
    place = bytearray(4096)
    first, second = (torch.frombuffer(place, dtype=BF16).view(32, 64) for _ in range(2))
    assert first.data_ptr() == second.data_ptr()
    mark_shuffled(first)
    del first.is_shuffled
    assert is_shuffled(first) and not is_shuffled(second)
    # Some have no memory of their own.
    assert not is_shuffled(torch.eye(4).to_sparse())


def test_a_tracer_takes_the_attribute_alone_and_its_code_refuses_the_rest() -> None:
    case = case_of(problem_of(shuffled=True), 3)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    check(case, compiled(case))
    weights = {name: torch.nn.Parameter(getattr(case.made, name), requires_grad=False) for name in ("w1", "w2")}
    with pytest.raises(ArgumentError, match=r"shuffled, by its memory alone.*Set w1.is_shuffled = True"):
        compiled(case, **weights)
    weights["w1"].is_shuffled = True
    check(case, compiled(case, **weights))


def test_scales_of_rows_with_a_trailing_one() -> None:
    case = case_of(problem_of(quant="token"), 3)
    scales = {"w1_scale": case.made.weights.w1_scale, "w2_scale": case.made.weights.w2_scale}
    assert torch.equal(call(case), call(case, **{name: s.unsqueeze(-1) for name, s in scales.items() if s is not None}))


def test_scales_of_blocks_in_another_order_are_refused() -> None:
    """As many numbers as there are blocks are not yet those of the blocks."""
    case = case_of(problem_of(width=384, inter=256), 3)
    scale = case.made.weights.w1_scale
    assert scale is not None and list(scale.shape) == [8, 4, 3]
    expected = call(case)
    for shape in ((8, 12), (96,), (8, 12, 1), (8, 4, 1, 3)):
        assert torch.equal(call(case, w1_scale=scale.view(shape)), expected)
    for shape in ((8, 3, 4), (8, 6, 2), (32, 3)):
        with pytest.raises(ArgumentError, match=r"`w1_scale` is of shape .*\[8, 4, 3\], or flattened"):
            call(case, w1_scale=scale.reshape(shape))


def test_strided_scales_of_quantised_hidden_states() -> None:
    case = case_of(problem_of(quantised=True, tokens=7), 3)
    assert case.made.x_scale is not None
    transposed = case.made.x_scale.T.contiguous().T
    assert transposed.stride() != case.made.x_scale.stride()
    assert torch.equal(call(case), call(case, a1_scale=transposed))


def test_swiglu_takes_its_numbers_and_a_clamped_silu_is_one() -> None:
    case = case_of(problem_of(activation="swiglu", quant="none"), 3)
    case.made.x *= 8  # far beyond the limits
    check(case, call(case))
    made = case.made
    for changes, activation in (
        ({}, reference.Activation("swiglu", 7.0, 1.702, 1.0)),
        ({"swiglu_limit": 2.5, "beta": 0.5, "linear_beta": 3.0}, reference.Activation("swiglu", 2.5, 0.5, 3.0)),
        ({"swiglu_limit": 0.0}, reference.Activation("swiglu")),
        ({"activation": ActivationType.Silu, "swiglu_limit": 3.0}, reference.Activation("swiglu", 3.0, 1.0, 0.0)),
    ):
        layer = reference.fused_moe(made.x, made.weights, made.ids, made.routing, activation)
        got = call(case, **changes).double()
        assert bool(((got - layer.out).abs() <= reference.error_bound(layer, BF16, False)).all()), changes


def test_kernels_are_told_where_gate_and_up_rows_lie() -> None:
    """Those that are compiled for either do not look; others go by this."""
    problem = problem_of(inter=384)
    told = [layer_sizes(problem, interleaved) for interleaved in (False, True)]
    assert [(sizes["gate_step"], sizes["up_offset"]) for sizes in told] == [(1, 384), (2, 1)]


def test_no_tokens_and_no_slots() -> None:
    case = case_of(problem_of(), 1)
    made = case.made
    none = {"hidden_states": made.x[:0], "topk_ids": made.ids[:0], "topk_weight": made.routing[:0]}
    assert call(case, **none).shape == (0, 256)
    assert not call(case, topk_ids=made.ids[:, :0], topk_weight=made.routing[:, :0]).any()


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


# Shuffled weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.uint8, BF16, FP16])
@pytest.mark.parametrize("shape", [(16, 32), (3, 48, 96), (2, 2, 32, 64)])
def test_shuffled_weights_lie_as_upstream_puts_them(dtype: Any, shape: tuple[int, ...]) -> None:
    bits = torch.uint8 if dtype.itemsize == 1 else torch.int16
    x = torch.randint(0, 120, shape, dtype=bits).view(dtype)
    made = moe.shuffle_weight(x)
    assert made.shape == x.shape and made.dtype == dtype and made.is_shuffled and not hasattr(x, "is_shuffled")
    rows, columns = shape[-2:]
    vector = 16 // dtype.itemsize
    flat, given = made.view(bits).reshape(-1, rows * columns), x.view(bits).reshape(-1, rows, columns)
    for n, k in ((0, 0), (1, 0), (0, 1), (rows - 1, columns - 1), (rows // 2, columns // 3)):
        tile = n // 16 * (columns // 32) + k // 32
        place = ((tile * (32 // vector) + k % 32 // vector) * 16 + n % 16) * vector + k % vector
        assert torch.equal(flat[:, place], given[:, n, k])
    assert torch.equal(unshuffle_weight(made).view(bits), x.view(bits))
    strided = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert torch.equal(moe.shuffle_weight(strided).view(bits), made.view(bits))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layout": (32, 16)}, "`layout` is (32, 16); allowed: (16, 16)"),
        ({"use_int4": True}, "`use_int4`"),
        ({"is_guinterleave": True, "gate_up": True}, "torch.stack((gate, up), 2)"),
        ({"pad_k_to": 256}, "`pad_k_to`"),
        ({"x": torch.zeros(24, 64, dtype=BF16)}, "`x` is of shape [24, 64]"),
        ({"x": torch.zeros(32, 48, dtype=BF16)}, "`x` is of shape [32, 48]"),
        ({"x": torch.zeros(64, dtype=BF16)}, "`x` is of shape [64]"),
        ({"x": torch.zeros(32, 64)}, "`x` is of dtype torch.float32"),
        ({"x": None}, "`x` is None"),
    ],
)
def test_weights_that_are_not_shuffled(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        moe.shuffle_weight(**{"x": torch.zeros(32, 64, dtype=BF16), **changes})
    assert named in str(caught.value)


# Refusals -------------------------------------------------------------------------------------------------------------

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


# torch ----------------------------------------------------------------------------------------------------------------


def test_compiled_with_dynamic_shapes_it_gives_the_same() -> None:
    """Also of weights whose attribute says that they are shuffled, after such that do not have it."""
    torch._dynamo.reset()

    def layer(x: Tensor, w1: Tensor, w2: Tensor, weights: Tensor, ids: Tensor, s1: Tensor, s2: Tensor) -> Tensor:
        return moe.fused_moe(x, w1, w2, weights, ids, quant_type=QuantType.per_1x128, w1_scale=s1, w2_scale=s2) * 2

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens, shuffled in ((3, False), (5, True), (40, False)):
        case = case_of(problem_of(tokens=tokens, shuffled=shuffled), tokens)
        made = case.made
        scales = made.weights.w1_scale, made.weights.w2_scale
        got = compiled(made.x, made.w1, made.w2, made.routing, made.ids, *scales)
        assert torch.equal(got, call(case) * 2)


def test_fake_tensors_have_the_result_s_shape_and_the_same_refusals() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    case = case_of(problem_of(tokens=6), 1)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        made = case.made
        fakes = {name: mode.from_tensor(getattr(made, name)) for name in ("x", "w1", "w2", "ids", "routing")}
        scales = [mode.from_tensor(s) for s in (made.weights.w1_scale, made.weights.w2_scale)]
        given = (fakes["x"], fakes["w1"], fakes["w2"], fakes["routing"], fakes["ids"])
        options: dict[str, Any] = {"quant_type": QuantType.per_1x128, "w1_scale": scales[0], "w2_scale": scales[1]}
        out = moe.fused_moe(*given, **options)
        assert out.shape == (6, 256) and out.dtype == BF16
        with pytest.raises(ArgumentError, match="`w1_scale`"):
            moe.fused_moe(*given, **{**options, "w1_scale": scales[1]})


def test_it_is_not_differentiable() -> None:
    case = case_of(problem_of(quant="none"), 1)
    with pytest.raises(NotImplementedError, match="not differentiable"):
        call(case, hidden_states=case.made.x.clone().requires_grad_())
    with torch.no_grad():
        check(case, call(case, hidden_states=case.made.x.clone().requires_grad_()))
