"""The fused mixture of experts with weights of MXFP4: the CPU's kernel at each level against float64, by stages and
whole, in both precisions; what the public call means, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fused_moe_mxfp4_cases import STAGE, case_of, check, first_stage, problem_of, run  # noqa: E402
from gemm_operands import on  # noqa: E402
from test_gemm_cpu_unit import HOST, RUNNABLE  # noqa: E402
from torch import Tensor  # noqa: E402
from torch_threads import threads  # noqa: E402

from aiterlite import QuantType, dispatch, envs, moe  # noqa: E402
from aiterlite.errors import ArgumentError, EnvironmentValueError  # noqa: E402
from aiterlite.ops.shuffle import mark_shuffled, shuffle_scale  # noqa: E402
from aiterlite.reference import fused_moe as reference  # noqa: E402
from aiterlite.reference import mxfp4  # noqa: E402
from aiterlite.tables import fused_moe as tables  # noqa: E402
from aiterlite.tables import problems  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile, pytest.mark.usefixtures("one_thread")]
LEVELS = [target for target in RUNNABLE if target in (HOST, "cpu-x86-64", "cpu-x86-64-v3")]
levels = pytest.mark.parametrize("target", LEVELS)
precisions = pytest.mark.parametrize("precision", ["a4w4", "a16w4", "a8w4"])


def on_level(target: str) -> Any:
    return on("cpu" if target == HOST else target)


# Against the definition -----------------------------------------------------------------------------------------------

FORMS: list[dict[str, Any]] = [
    {"precision": "a4w4"},
    {"precision": "a16w4"},
    {"precision": "a4w4", "dtype": "fp16"},
    {"precision": "a16w4", "dtype": "fp16"},
    {"precision": "a4w4", "quantised": True},
    {"precision": "a8w4"},
    {"precision": "a8w4", "dtype": "fp16", "quantised": True},
]


@levels
@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form.values())))
def test_layers(target: str, form: dict[str, Any]) -> None:
    """Plain and shuffled weights and scales give the same bits; sizes of no whole step, and of several strips."""
    sizes = [(1, 3, 192, 64, 0), (9, 3, 64, 64, 1), (37, 2, 320, 128, 3)] + [(2, 1, 4224, 64, 0)] * (target == HOST)
    for tokens, experts, width, inter, spare in sizes:
        how = {"tokens": tokens, "topk": min(experts, 2), "experts": experts}
        case = case_of(problem_of(width=width, inter=inter, **how, **form), tokens)
        shuffled = case_of(replace(case.problem, shuffled=True), tokens)
        with on_level(target):
            got = run(case, spare)
            check(case, got)
            assert torch.equal(run(shuffled), got)


@precisions
def test_the_first_stage(precision: str) -> None:
    """h, before anything of the second."""
    for interleaved in (False, True):
        how = {"activation": "gelu", "interleaved": interleaved}
        problem = problem_of(tokens=40, topk=1, width=288, inter=160, precision=precision, **how)
        case, h = first_stage(problem)
        assert reference.relative_error(run(case)[:, :160], h) <= STAGE


@precisions
@pytest.mark.parametrize("activation", ["silu", "gelu", "swiglu"])
def test_activations_and_where_the_routing_weight_goes(activation: str, precision: str) -> None:
    for weighted_input in (False, True):
        how = {"activation": activation, "precision": precision, "weighted_input": weighted_input}
        case = case_of(problem_of(tokens=6, width=96, inter=96, **how), 1)
        check(case, run(case))


@precisions
def test_ids_masks_and_tokens_that_do_not_count(precision: str) -> None:
    """What they hold is not looked at; an expert twice; more tokens of one than a panel, more than a chunk."""
    problem = problem_of(tokens=6, masked=True, global_experts=9, width=64, inter=32, precision=precision)
    ids = torch.tensor([[9, -1, 0], [1, 1, 8], [-(2**31), 2**31 - 1, 3], [5, 6, 7], [2, 2, 2], [0, 1, 2]])
    case = case_of(problem, 3, ids.int(), live=5)
    case.made.x[5] = math.nan
    case.made.routing[5] = math.nan
    check(case, run(case))
    many = case_of(problem_of(tokens=530, topk=2, experts=3, width=32, inter=32, precision=precision), 4)
    many.made.ids[:400] = torch.tensor([2, 0])
    check(many, run(many))


def test_bits_do_not_depend_on_threads_nor_on_other_tokens() -> None:
    """Nor on how many tokens there are: one rule says how they are multiplied."""
    for precision in ("a4w4", "a16w4", "a8w4"):
        case = case_of(problem_of(tokens=40, experts=3, topk=2, width=640, inter=256, precision=precision), 5)
        whole = run(case)
        with threads(3):
            assert torch.equal(run(case), whole)
        for first, last in ((0, 1), (3, 5), (11, 40)):
            part = case_of(replace(case.problem, tokens=last - first))
            made, of = part.made, case.made
            rows = {name: getattr(of, name)[first:last] for name in ("x", "ids", "routing")}
            part = replace(part, made=replace(made, **rows, weights=of.weights, w1=of.w1, w2=of.w2))
            part.made.w1_scale, part.made.w2_scale = of.w1_scale, of.w2_scale
            assert torch.equal(run(part), whole[first:last])


@levels
@precisions
def test_special_numbers(target: str, precision: str) -> None:
    """A NaN of x is its token's; a NaN scale of w2 its column's, for tokens of its expert; the least numbers count."""
    case = case_of(problem_of(tokens=7, topk=1, experts=3, width=64, inter=64, precision=precision))
    made = case.made
    made.ids[:, 0] = torch.tensor([0, 1, 2, 0, 1, 0, 1])
    made.x[3, 33] = math.nan
    made.x[5] = 2.0**-130
    assert made.w2_scale is not None
    made.w2_scale[1, 17, 1] = 255
    with on_level(target):
        got = run(case)
    odd = torch.zeros(7, 64, dtype=torch.bool)
    odd[3] = True
    odd[made.ids[:, 0] == 1, 17] = True
    assert torch.equal(got.isnan(), odd)
    kept = [0, 2]
    assert reference.relative_error(got[kept], case.layer.out[kept]) <= STAGE


# Calls ----------------------------------------------------------------------------------------------------------------


def operands(**fields: Any) -> tuple[Any, dict[str, Any]]:
    case = case_of(problem_of(tokens=3, **fields), 2)
    made = case.made
    given = {
        "hidden_states": made.x, "w1": made.w1, "w2": made.w2, "topk_weight": made.routing, "topk_ids": made.ids,
        "quant_type": QuantType.per_1x32, "w1_scale": made.w1_scale, "w2_scale": made.w2_scale,
        "a1_scale": made.x_scale,
    }  # fmt: skip
    return case, given


def test_types_and_shapes_that_engines_pass() -> None:
    """fp4x2 and e8m0, whole or as bytes; shuffled scales in any shape of as many bytes; codes of hidden states."""
    case, given = operands(quantised=True, experts=16)
    got = moe.fused_moe(**given, dtype=torch.bfloat16)
    check(case, got)
    packed = {name: given[name].view(torch.float4_e2m1fn_x2) for name in ("hidden_states", "w1", "w2")}
    scales = {name: given[name].view(torch.float8_e8m0fnu) for name in ("w1_scale", "w2_scale", "a1_scale")}
    scales["a1_scale"] = scales["a1_scale"].T.contiguous().T
    flat = {"w1_scale": scales["w1_scale"].flatten(0, 1)}
    assert torch.equal(moe.fused_moe(**{**given, **packed, **scales, **flat}, dtype=torch.bfloat16), got)
    _, shuffled = operands(quantised=True, experts=16, shuffled=True)
    shuffled["w1_scale"] = shuffled["w1_scale"].view(torch.float8_e8m0fnu).view(16, 256, -1)
    w1 = shuffled["w1"].view(torch.float4_e2m1fn_x2)
    mark_shuffled(w1)
    shuffled |= {"w1": w1, "w2": shuffled["w2"].view(torch.float4_e2m1fn_x2)}
    assert torch.equal(moe.fused_moe(**shuffled, dtype=torch.bfloat16), got)


def test_the_variable_says_what_weights_are_multiplied_by() -> None:
    case, given = operands()
    assert torch.equal(moe.fused_moe(**given), run(case))
    with envs.override(AITERLITE_MXFP4_ACTIVATIONS="bf16"):
        kept = moe.fused_moe(**given)
    check(case_of(replace(case.problem, precision="a16w4"), 2), kept)
    with envs.override(AITERLITE_MXFP4_ACTIVATIONS="fp8"):
        check(case_of(replace(case.problem, precision="a8w4"), 2), moe.fused_moe(**given))
    with pytest.raises(EnvironmentValueError, match="auto, fp4, fp8"), envs.override(AITERLITE_MXFP4_ACTIVATIONS="8"):
        moe.fused_moe(**given)


def test_gates_that_take_turns_are_multiplied_by_mxfp8_unless_something_is_asked_for() -> None:
    for asked, precision in (("auto", "a8w4"), ("fp4", "a4w4"), ("fp8", "a8w4"), ("bf16", "a16w4")):
        case, given = operands(precision=precision, interleaved=True)
        with envs.override(AITERLITE_MXFP4_ACTIVATIONS=asked):
            check(case, moe.fused_moe(**given, gate_mode="interleave"))


def test_codes_say_what_the_rest_becomes_or_are_refused() -> None:
    for precision, asked in (("a8w4", "fp8"), ("a4w4", "fp4")):
        case, given = operands(quantised=True, precision=precision)
        for interleaved in (False, True):
            lie = {"gate_mode": "interleave" if interleaved else "separated", "dtype": torch.bfloat16}
            made = replace(case, problem=replace(case.problem, interleaved=interleaved))
            made.made.weights = replace(case.made.weights, interleaved=interleaved)
            check(made, moe.fused_moe(**given, **lie))
        for other in {"fp4", "fp8", "bf16"} - {asked}:
            with envs.override(AITERLITE_MXFP4_ACTIVATIONS=other), pytest.raises(ArgumentError) as caught:
                moe.fused_moe(**given, dtype=torch.bfloat16)
            assert caught.value.argument == "hidden_states" and "Unset it" in str(caught.value)


def _bytes(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    ({"w1": torch.zeros(6, 256, 128, dtype=torch.int8)}, "w1", "uint8"),
    ({"w1": _bytes(6, 256, 120)}, "hidden_states", "as wide as w1"),
    ({"w1": _bytes(6, 255, 128)}, "w1", "without gate"),
    ({"w2": _bytes(6, 256, 128)}, "w2", "[6, 256, 64]"),
    ({"w1_scale": None}, "w1_scale", "[6, 256, 8]"),
    ({"w1_scale": torch.ones(6, 256, 8)}, "w1_scale", "float8_e8m0fnu"),
    ({"w1_scale": _bytes(6, 8, 256)}, "w1_scale", "is_shuffled"),
    ({"w2_scale": _bytes(6, 256, 8)[:, :, ::2]}, "w2_scale", ".contiguous()"),
    ({"a1_scale": _bytes(3, 8)}, "a1_scale", "quantised in the call"),
    ({"hidden_states": _bytes(3, 128), "dtype": torch.bfloat16}, "a1_scale", "[3, 8]"),
    ({"hidden_states": torch.zeros(3, 256), "dtype": torch.bfloat16}, "hidden_states", "torch.bfloat16"),
]


@pytest.mark.parametrize(("changes", "argument", "words"), REFUSALS, ids=[f"{a}-{w}" for _, a, w in REFUSALS])
def test_refusals_name_the_argument(changes: dict[str, Any], argument: str, words: str) -> None:
    _, given = operands()
    with pytest.raises(ArgumentError) as caught:
        moe.fused_moe(**{**given, **changes})
    assert caught.value.argument == argument and words in str(caught.value)


def test_shuffled_scales_beside_plain_weights_are_refused() -> None:
    """As many numbers as plain ones, and others: SGLang's Quark experts on a chip that it takes to have no MXFP4."""
    _, given = operands(experts=8)
    plain = given["w1_scale"]
    shuffled = shuffle_scale(plain.flatten(0, 1)).view(plain.shape)
    assert shuffled.shape == plain.shape and not torch.equal(shuffled, plain)
    with pytest.raises(ArgumentError, match=r"`w1_scale` is shuffled by shuffle_scale.*Shuffle w1 too, or neither"):
        moe.fused_moe(**{**given, "w1_scale": torch.nn.Parameter(shuffled, requires_grad=False)})
    moe.fused_moe(**given)


def test_sizes_of_no_whole_scale_are_refused() -> None:
    _, given = operands(width=96, inter=96)
    moe.fused_moe(**given)
    mark_shuffled(given["w1"])
    with pytest.raises(ArgumentError, match="multiples of 64, where weights are shuffled"):
        moe.fused_moe(**given)


def test_problems_say_how_they_are_multiplied() -> None:
    made = problems.problem(tables.TABLE, {"tokens": 4, "experts": 8, "quant": "mxfp4"})
    assert (made.code, made.precision, made.aligned) == ("e2m1", "a4w4", True)
    cpu = resolve("cpu-x86-64")
    for fields, words in (
        ({"precision": ""}, "allowed: a4w4, a16w4, a8w4"),
        ({"code": "e4m3fn"}, "allowed: e2m1"),
        ({"quant": "block", "code": "e4m3fn"}, "allowed: empty"),
        ({"width": 1008}, "multiples of 32"),
        ({"quantised": True, "precision": "a16w4"}, "a16w4"),
    ):
        decision = dispatch.decide(tables.TABLE, replace(made, **fields), cpu)
        assert decision.row is None and words in str(decision), fields


def test_rows_of_other_weights_do_not_ask_for_a_conversion() -> None:
    """Where no row of MXFP4 serves a call either, its reason is the one that helps."""
    made = problems.problem(tables.TABLE, {"tokens": 4, "experts": 8, "quant": "mxfp4", "shuffled": True})
    for chip in ("mi300x", "mi355x", "h200"):
        persona = resolve(chip)
        decision = dispatch.decide(tables.TABLE, made, persona)
        assert decision.row is not None and "convert the weights" not in str(decision)
        assert "not gemv: weights are of MXFP4" in str(decision) or chip == "h200"
        decision = dispatch.decide(tables.TABLE, replace(made, aligned=False), persona)
        assert decision.row is None
        assert "convert the weights" not in str(decision) and "multiples of 16 bytes (copy them)" in str(decision)


def test_the_reference_has_numbers_that_one_can_check() -> None:
    """x of 6 beside 0.3, which becomes 0.5, and 0.3 alone: its scale is 2^-4, in which it is 4.8, a 4. Of weights of
    ones gate and up are 6.75; as MXFP4 h is 48, being 45.5."""
    x = torch.zeros(1, 64, dtype=torch.bfloat16)
    x[0, 0], x[0, 1], x[0, 32] = 6.0, 0.3, 0.3
    w1 = mxfp4.pack(torch.full((1, 64, 64), 2, dtype=torch.uint8)), torch.full((1, 64, 2), 127, dtype=torch.uint8)
    w2 = mxfp4.pack(torch.full((1, 64, 32), 2, dtype=torch.uint8)), torch.full((1, 64, 1), 122, dtype=torch.uint8)
    weights = reference.Weights(w1[0], w2[0], w1[1], w2[1])
    ids, weight = torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, 1)
    layer = reference.fused_moe(x, weights, ids, weight, rounded=reference.MXFP4)
    assert layer.out.unique().tolist() == [48.0]
