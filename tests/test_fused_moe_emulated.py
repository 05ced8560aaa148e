"""The mixture-of-experts kernels of gfx942 and gfx950, emulated with all sanitizers, small: both paths, every way that
weights may lie, every activation, ids that are none, skewed routing."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fused_moe_cases import case_of, run_sorted, skewed_ids  # noqa: E402
from fused_moe_cases import problem_of as case_problem  # noqa: E402
from gemm_operands import AMD, on  # noqa: E402
from moe_layers import Layer, assert_nothing_spilled, layer, run  # noqa: E402

from aiterlite.dispatch import decide  # noqa: E402
from aiterlite.emulator.observe import Recording, watching  # noqa: E402
from aiterlite.emulator.schedule import SCHEDULES  # noqa: E402
from aiterlite.jit import toolchain  # noqa: E402
from aiterlite.reference import moe_sorting as sorting  # noqa: E402
from aiterlite.reference.fused_moe import relative_error  # noqa: E402
from aiterlite.tables import fused_moe_amd as tables  # noqa: E402
from aiterlite.tables.fused_moe import FMOE_TABLE, TABLE  # noqa: E402
from aiterlite.tables.fused_moe_problem import FmoeProblem, MoeProblem  # noqa: E402
from aiterlite.target import Persona, resolve  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.compile,
    pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd")),
]
each_target = pytest.mark.parametrize("target", AMD)
# Where kernels round: bf16 loses at most 2^-9 of a number, 2^-9 / sqrt(3) on average of all; fp16 an eighth of that.
# Twice on the way to the result, of numbers that partly cancel. What float sums lose turns a code of h now and then.
TOLERANCE = {"bf16": 4e-3, "fp16": 1.5e-3}


def problem_of(persona: Persona, ids: list[list[int]], experts: int, **given: Any) -> MoeProblem:
    code = {"code": "" if given.get("quant") == "none" else persona.fp8}
    made = MoeProblem(len(ids), experts, len(ids[0]), **{"width": 256, "inter": 128, **code, **given})
    return replace(made, masked=made.global_experts > 0)


def check(made: Layer, persona: Persona, row: str) -> None:
    with on(persona.target):
        got = run(made, persona, TABLE, row)
    problem = made.problem
    # Few tokens are not rounded to the weights' code, nor is their h.
    rounds = row != "gemv" and problem.quant != "none"
    exact = made.expected(rounds)
    counting = (made.local >= 0).any(1)
    assert bool((got[~counting] == 0).all()), "a token without an expert is not zero"
    if not counting.any():
        return
    # h of fp8 weights is a bf16 number, whatever dtype is.
    kind = "bf16" if row == "gemv" and problem.quant != "none" else problem.dtype
    error = relative_error(got[counting], exact[counting])
    assert error <= TOLERANCE[kind], f"the error is {error:.2e}"
    # Each token by itself, so that a small one does not hide behind others.
    for token in counting.nonzero().flatten().tolist():
        assert relative_error(got[token], exact[token]) <= 2 * TOLERANCE[kind]


SKEWED = [[2] * 6 for _ in range(4)]
PARTLY = [[0, 5, -1], [7, 1, 5], [2, 2, 3]]
FEW = {
    "plain": ([[1, 0, 3]], 4, {"width": 1280}, {}),
    "one expert of all": (
        SKEWED, 4, {"shuffled": True, "interleaved": True, "activation": "swiglu", "weighted_input": True}, {},
    ),
    "masked": (
        PARTLY,
        5,
        {"dtype": "fp16", "activation": "gelu", "global_experts": 8, "inter": 256},
        # More than there are weights of.
        {"mask": [0, 1, 1, 1, 0, 1, 1, 1], "live": 2, "id_dtype": torch.int64},
    ),
    "quantised": ([[1, 2], [2, -1]], 4, {"quantised": True, "shuffled": True, "inter": 256}, {}),
    "16 bits": ([[1, 2], [2, 9]], 4, {"quant": "none", "shuffled": True, "width": 512, "inter": 192}, {}),
    "fp16": ([[3, 2]], 4, {"quant": "none", "dtype": "fp16", "interleaved": True}, {}),
    "a scale a row": ([[1, 2], [2, 0], [1, 0]], 4, {"quant": "token", "weighted_input": True}, {}),
    "a scale a tensor": ([[1, 2], [2, 0], [1, 0]], 4, {"quant": "tensor"}, {"halves": True}),
    "a scale a tensor, and of all of x": (
        [[3, -1, 2]], 4, {"quant": "tensor", "quantised": True, "interleaved": True, "shuffled": True}, {},
    ),
}  # fmt: skip


@each_target
@pytest.mark.parametrize("name", FEW)
def test_few_tokens(name: str, target: str, sanitized: Recording) -> None:
    ids, experts, given, more = FEW[name]
    persona = resolve(target)
    check(layer(problem_of(persona, ids, experts, **given), ids, **more), persona, "gemv")
    assert [report["kernel"] for report in sanitized.launches] == [tables.FEW_GATE_UP, tables.FEW_DOWN]


def routed(tokens: int, topk: int, experts: int, skew: bool = False, none: int = 0, seed: int = 1) -> list[list[int]]:
    """`skew`: an expert has half of all; `none`: each so many tokens have one id that is no expert's."""
    source = random.Random(seed)
    ids = [source.sample(range(experts), topk) for _ in range(tokens)]
    for token in range(0, tokens if skew else 0, 2):
        ids[token] = [experts - 1, *source.sample(range(experts - 1), topk - 1)]
    for token in range(0, tokens if none else 0, max(1, none)):
        ids[token][0] = source.choice([-1, experts, 2**30])
    return ids


SORTED = {
    "16 entries": (routed(5, 3, 6), 6, {"inter": 256}, {}),
    "32 entries": (
        routed(30, 3, 5, skew=True), 5,
        {"shuffled": True, "interleaved": True, "activation": "swiglu", "weighted_input": True, "width": 384}, {},
    ),
    "64 entries": (routed(90, 2, 3, skew=True, none=3), 3, {"inter": 256, "dtype": "fp16", "activation": "gelu"}, {}),
    "64 of them interleaved": (
        routed(70, 1, 2), 2, {"quant": "none", "interleaved": True, "shuffled": True, "inter": 192}, {},
    ),
    "masked": (
        routed(7, 3, 8, none=2), 5,
        {"global_experts": 8, "quantised": True, "width": 512},
        {"mask": [0, 1, 1, 1, 0, 1, 1, 1], "live": 5, "id_dtype": torch.int64},
    ),
    "none of them": ([[-1, 9], [8, -7]], 4, {}, {}),
    "fp16": (routed(9, 2, 4), 4, {"quant": "none", "dtype": "fp16", "activation": "gelu", "inter": 64}, {}),
    "a scale a row": (routed(20, 2, 4), 4, {"quant": "token", "shuffled": True}, {}),
    "a scale a tensor": (
        routed(19, 2, 5, none=4), 5, {"quant": "tensor", "interleaved": True, "shuffled": True}, {"halves": True},
    ),
    "a scale a row, and a token": (routed(6, 2, 4), 4, {"quant": "token", "quantised": True}, {"live": 5}),
}  # fmt: skip


@each_target
@pytest.mark.parametrize("name", SORTED)
def test_two_stages(name: str, target: str, sanitized: Recording) -> None:
    ids, experts, given, more = SORTED[name]
    persona = resolve(target)
    check(layer(problem_of(persona, ids, experts, **given), ids, **more), persona, "two_stage")


@each_target
def test_a_callers_own_sorting_is_added_to_what_is_there(target: str, sanitized: Recording) -> None:
    persona = resolve(target)
    for block_size, tokens in ((32, 21), (8, 11), (72, 50)):
        ids = routed(tokens, 3, 6, none=4, seed=block_size)
        given = {"shuffled": True, "quantised": True, "inter": 256}
        made = layer(problem_of(persona, ids, 6, **given), ids, seed=block_size)
        weights, out = made.tensors["topk_weights"], made.tensors["out"]
        assert weights is not None and out is not None
        order = sorting.moe_sorting(ids, weights.tolist(), 6, block_size)
        for name in ("sorted_ids", "sorted_expert_ids", "num_valid_ids"):
            made.tensors[name] = torch.tensor(getattr(order, name), dtype=torch.int32)
        made.tensors["sorted_weights"] = torch.tensor(order.sorted_weights)
        problem = FmoeProblem(tokens, 6, 3, 256, 256, block_size, code=persona.fp8)
        # What is behind the entries in use is not looked at, and need not be there.
        plan, spare = tables.plan_sorted(problem, persona), block_size == 32
        for name, count in (("sorted_ids", plan.blocks * block_size), ("sorted_expert_ids", plan.blocks)):
            held = made.tensors[name]
            assert held is not None and len(held) < count
            noise = torch.full((count - len(held) if spare else 0,), 2**31 - 1, dtype=torch.int32)
            made.tensors[name] = torch.cat([held, noise])
        for name in ("topk_ids", "topk_weights", "expert_mask"):
            made.tensors[name] = None
        expected = made.expected_of(weights)
        before = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out.dtype)
        out.copy_(before)
        with on(target):
            run(made, persona, FMOE_TABLE, "two_stage", problem)
        assert relative_error(out, before.double() + expected) <= TOLERANCE["bf16"]


@each_target
@pytest.mark.parametrize(("row", "tokens"), [("gemv", 4), ("two_stage", 31)])
def test_schedules_leave_the_same_bits(row: str, tokens: int, target: str) -> None:
    """Waves far apart and in other orders, workgroups too."""
    persona, ids = resolve(target), routed(tokens, 3, 6, skew=True)
    made = layer(problem_of(persona, ids, 6), ids)
    results = []
    for schedule in (None, *SCHEDULES):
        with on(target), watching(schedule=schedule) as seen:
            results.append(run(made, persona, TABLE, row).clone())
        assert not seen.findings
    assert len(results) > 2 and all(torch.equal(results[0], result) for result in results)


@each_target
def test_weights_are_read_once(target: str) -> None:
    """Of each expert that is hit, or of each of its blocks, and of no other."""
    persona = resolve(target)
    for row, ids, blocks, shuffled in (
        ("gemv", [[1, 2, 5], [2, 3, 5], [5, 1, 2], [1, -1, 5]], 4, False),
        ("gemv", [[5, 5, 0]], 2, True),
        ("two_stage", routed(8, 3, 6), 6, False),
        ("two_stage", [[0, 1]] * 70, 4, True),
    ):
        made = layer(problem_of(persona, ids, 6, shuffled=shuffled), ids)
        with on(target), watching(sanitize=False, counters=True) as seen:
            run(made, persona, TABLE, row)
        for name in ("w1", "w2"):
            weights = made.tensors[name]
            assert weights is not None
            read = sum(counted["arguments"].get(name, {}).get("read", 0) for counted in seen.counters)
            assert read == blocks * weights[0].nbytes, (row, name)


# Besides those above, of which `run` asks the same: what holds the most.
VARIANTS: list[dict[str, Any]] = [
    {"tokens": 1},
    {"tokens": 4, "quant": "none", "inter": 2048},
    {"tokens": 256, "dtype": "fp16"},
    {"tokens": 2048, "interleaved": True, "shuffled": True, "activation": "swiglu", "weighted_input": True},
    {"tokens": 2048, "quant": "token", "activation": "gelu"},
]


@pytest.mark.parametrize("chip", ["mi300x", "mi355x"])
def test_nothing_goes_through_scratch(chip: str) -> None:
    persona = resolve(chip)
    for given in VARIANTS:
        problem = MoeProblem(experts=256, code="" if given.get("quant") == "none" else persona.fp8, **given)
        assert_nothing_spilled(decide(TABLE, problem, persona).kernels)


# Of DeepSeek-R1: the row of each chip, and the entries of a block.
CHOSEN = {
    "mi300x": [("gemv", 0), ("gemv", 0), ("two_stage_304", 16), ("two_stage_304", 32), ("two_stage_304", 64)],
    "mi308x": [("gemv", 0), ("gemv", 0), ("two_stage_80", 16), ("two_stage_80", 16), ("two_stage_80", 32)],
    "mi355x": [("gemv", 0), ("gemv", 0), ("two_stage_256", 16), ("two_stage_256", 32), ("two_stage_256", 64)],
    "mi300x:38": [("gemv", 0), ("gemv", 0), ("two_stage", 16), ("two_stage", 32), ("two_stage", 64)],
}


@pytest.mark.parametrize("chip", CHOSEN)
def test_rows_of_each_chip(chip: str) -> None:
    persona, found = resolve(chip), []
    for tokens in (1, 4, 5, 256, 1024):
        problem = MoeProblem(tokens, 256, code=persona.fp8)
        decision = decide(TABLE, problem, persona)
        assert decision.row is not None
        found.append((decision.row.name, getattr(decision.plan, "block_size", 0)))
    assert found == CHOSEN[chip]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"code": "e4m3fn"}, "weights are e4m3fn, and gfx942 multiplies e4m3fnuz"),
        ({"inter": 192}, "inter is 192, no multiple of 128"),
        ({"width": 1 << 20, "inter": 1024}, "may have 4 GiB"),
        ({"aligned": False}, "do not begin at multiples of 16 bytes"),
        ({"topk": 65}, "topk must be 1 to 64"),
        ({"tokens": 1 << 20, "topk": 1, "width": 1 << 20}, "and 8589934592 groups (split tokens)"),
    ],
)
def test_what_is_refused(given: dict[str, Any], words: str) -> None:
    persona = resolve("mi300x")
    problem = MoeProblem(**{"tokens": 8, "experts": 128, "code": persona.fp8, **given})
    decision = decide(TABLE, problem, persona)
    assert decision.row is None
    two_stage = next(item for item in decision.rejected if item.row == "two_stage")
    assert words in "; ".join(map(str, two_stage.refusals))


def test_blocks_hold_what_an_expert_has() -> None:
    """No more than all tokens, however few experts there are."""
    persona, found = resolve("mi300x"), {}
    for tokens, experts in ((16, 8), (32, 8), (33, 8), (32, 256), (128, 256), (4096, 256)):
        decision = decide(TABLE, MoeProblem(tokens, experts, code=persona.fp8), persona)
        found[tokens, experts] = decision.plan.block_size
    assert found == {(16, 8): 16, (32, 8): 32, (33, 8): 64, (32, 256): 16, (128, 256): 16, (4096, 256): 64}


def test_more_pairs_than_lanes_are_sorted() -> None:
    persona = resolve("mi355x")
    decision = decide(TABLE, MoeProblem(4, 64, 20, code=persona.fp8), persona)
    assert decision.row is not None and decision.row.name == "two_stage_256"


@each_target
def test_what_a_smaller_call_leaves_in_the_workspace_marks_no_pair_of_a_larger_one(target: str) -> None:
    with on(target):
        code = resolve(target).fp8
        made = []
        for tokens, kind in ((80, "strange"), (80, "one token an expert"), (2, "one expert"), (80, "strange")):
            problem = case_problem(tokens=tokens, width=256, inter=128, code=code, shuffled=True, quantised=True)
            case = case_of(problem, 3, skewed_ids(kind, problem, 1))
            made.append(run_sorted(case, 16, torch.zeros(tokens, 256, dtype=torch.bfloat16)))
    assert torch.equal(made[0], made[3])
