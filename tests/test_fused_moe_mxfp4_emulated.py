"""Weights of MXFP4 in the mixture of experts on gfx942 and gfx950, emulated with all sanitizers, small: both
precisions, every way that weights and scales lie, ids that are none, blocks of both sizes; and what each chip takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

torch = pytest.importorskip("torch")

from fused_moe_cases import skewed_ids  # noqa: E402
from fused_moe_mxfp4_cases import case_of, check, first_stage, problem_of, run  # noqa: E402
from gemm_operands import AMD, on  # noqa: E402
from moe_layers import assert_nothing_spilled  # noqa: E402

from aiterlite.dispatch import decide  # noqa: E402
from aiterlite.emulator.observe import Recording  # noqa: E402
from aiterlite.jit import toolchain  # noqa: E402
from aiterlite.reference import fused_moe as reference  # noqa: E402
from aiterlite.tables import fused_moe_mxfp4 as tables  # noqa: E402
from aiterlite.tables import fused_moe_mxfp4_codes as codes  # noqa: E402
from aiterlite.tables.fused_moe import TABLE  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.torch,
    pytest.mark.compile,
    pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd")),
]
each_target = pytest.mark.parametrize("target", AMD)
# Steps that are not whole, waves behind the width and the inner width, a part of a block that has few entries.
CASES: dict[str, dict[str, Any]] = {
    "codes": {"tokens": 5, "width": 160, "inter": 96},
    "codes that come": {"tokens": 3, "width": 160, "inter": 32, "quantised": True, "weighted_input": True},
    "shuffled, fp16": {"tokens": 20, "topk": 1, "experts": 1, "width": 320, "inter": 64, "dtype": "fp16"},
    "kept": {"tokens": 5, "width": 320, "inter": 96, "precision": "a16w4", "activation": "gelu"},
    "kept, fp16": {
        **{"tokens": 2, "width": 64, "inter": 64, "precision": "a16w4", "dtype": "fp16", "interleaved": True},
        **{"activation": "swiglu", "masked": True, "global_experts": 11},
    },
    "eight bits": {"tokens": 5, "width": 2080, "inter": 32, "precision": "a8w4", "interleaved": True},
    "eight bits, fp16": {"tokens": 2, "width": 160, "inter": 96, "precision": "a8w4", "dtype": "fp16"},
    "eight bits that come": {"tokens": 2, "width": 96, "inter": 64, "precision": "a8w4", "quantised": True},
}


@each_target
@pytest.mark.parametrize("name", CASES)
def test_layers(name: str, target: str, sanitized: Recording) -> None:
    """Plain and shuffled operands give the same bits."""
    problem = problem_of(**CASES[name])
    live = 4 if name in ("codes", "eight bits") else None
    case = case_of(problem, 1, live=live)
    with on(target):
        got = run(case, spare=1)
        names = [report["kernel"] for report in sanitized.launches]
        check(case, got)
        if problem.width % 64 == 0 and problem.inter % 64 == 0:
            assert torch.equal(run(case_of(replace(problem, shuffled=True), 1, live=live)), got)
    by_codes = codes.serve(problem, resolve(target))
    assert (codes.STAGE1 if by_codes else tables.STAGE1) in names
    assert (codes.SUMS if by_codes else tables.STAGE2) in names


@each_target
def test_ids_of_every_kind(target: str, sanitized: Recording) -> None:
    problem = problem_of(tokens=9, topk=3, experts=5, width=64, inter=32)
    for kind in ("none", "strange"):
        case = case_of(problem, 2, skewed_ids(kind, problem))
        with on(target):
            check(case, run(case))


@each_target
def test_the_first_stage(target: str, sanitized: Recording) -> None:
    case, h = first_stage(problem_of(tokens=4, topk=1, experts=2, width=96, inter=96))
    with on(target):
        assert reference.relative_error(run(case), h) <= 5e-3


@each_target
def test_nothing_is_spilled(target: str) -> None:
    persona = resolve(target)
    asked = [(4, "a4w4", 8, 256), (16, "a4w4", 256, 512), (600, "a4w4", 8, 2048), (16, "a16w4", 8, 256)]
    for tokens, precision, experts, inter in (*asked, (600, "a8w4", 8, 256)):
        problem = problem_of(
            tokens=tokens, experts=experts, width=7168, inter=inter, precision=precision, shuffled=True
        )
        for interleaved in (False, True):
            assert_nothing_spilled(decide(TABLE, replace(problem, interleaved=interleaved), persona).kernels)
    # Scales that are not shuffled take more registers, and biases some.
    for tokens, inter, biased in ((1, 256, True), (4, 2048, True), (1, 2048, False), (200, 2048, False)):
        problem = problem_of(tokens=tokens, experts=32, topk=8, width=7168, inter=inter, bias1=biased, bias2=biased)
        for shuffled in (False, True):
            assert_nothing_spilled(decide(TABLE, replace(problem, shuffled=shuffled), persona).kernels)


@each_target
def test_blocks_hold_what_experts_have(target: str) -> None:
    persona = resolve(target)
    for tokens, entries in ((1, 16), (16, 16), (128, 16), (600, 32), (4096, 32)):
        made = tables.plan(problem_of(tokens=tokens, experts=256, topk=8, precision="a16w4"), persona)
        assert made.entries == entries, tokens


# On gfx950, codes by codes. Waves of one or two steps, and of two or three; a loop over steps; what is behind them;
# both layouts, both orders of gates; biases; features behind the last; workgroups of 64 features, and of 128.
STEPS: dict[str, dict[str, Any]] = {
    "three and two, plain": {"tokens": 21, "width": 2688, "inter": 352, "topk": 1, "experts": 1, "dtype": "fp16"},
    "one and two": {
        **{"tokens": 12, "width": 1088, "inter": 576, "topk": 3, "experts": 20, "shuffled": True, "bias1": True},
        **{"bias2": True, "interleaved": True, "activation": "swiglu"},
    },
    "a loop": {
        "tokens": 2,
        "width": 192,
        "inter": 2688,
        "topk": 1,
        "experts": 1,
        "weighted_input": True,
        "bias2": True,
    },
}


@pytest.mark.parametrize("name", STEPS)
def test_codes_by_codes(name: str, sanitized: Recording) -> None:
    """Slots that the second stage adds and slots that another kernel adds are the same bits."""
    problem = problem_of(**STEPS[name])
    case = case_of(problem, 4)
    with on("gfx950"):
        got = run(case, spare=1)
        check(case, got)
        with mock.patch.object(codes, "adds_slots", return_value=False):
            other = run(replace(case, problem=replace(problem, deterministic=False)), spare=1)
    names = [report["kernel"] for report in sanitized.launches]
    assert codes.SUMS in names and codes.STAGE2 in names
    assert torch.equal(other, got)


WIDE: dict[str, dict[str, Any]] = {
    "few, biases": {"tokens": 3, "bias1": True, "bias2": True, "activation": "swiglu", "interleaved": True},
    "sorted, weighted input": {"tokens": 11, "weighted_input": True},
}


@pytest.mark.parametrize("name", WIDE)
def test_inner_widths_of_a_workgroup_give_the_same_bits(name: str, sanitized: Recording) -> None:
    """Waves of two or three steps, and what is behind them."""
    problem = problem_of(**{"width": 2368, "inter": 256, "topk": 2, "experts": 3, "shuffled": True, **WIDE[name]})
    case, results = case_of(problem, 5), []
    for inner in (64, 128):
        # A call of its own each, since prepared ones are kept.
        other = replace(case, problem=replace(problem, deterministic=inner == 64))
        with on("gfx950"), mock.patch.object(codes, "inner_of", return_value=inner) as asked:
            results.append(run(other, spare=1))
        assert asked.called
    check(case, results[1])
    assert torch.equal(*results)


def test_workgroups_have_more_of_the_inner_width_where_it_pays() -> None:
    """Where they are enough for all compute units; where experts have many entries; never beside plain scales."""
    found = {}
    for experts, tokens, inter in (
        *((256, 1, 512), (64, 32, 512), (64, 4, 512), (8, 4, 512), (8, 16, 512), (8, 32, 256), (128, 64, 256)),
        *((8, 4096, 256), (8, 32, 384), (8, 32, 1024), (8, 32, 576)),
    ):
        sizes = {"experts": experts, "topk": 8, "width": 7168, "inter": inter}
        for shuffled in (False, True):
            problem = problem_of(tokens=tokens, shuffled=shuffled, **sizes)
            found[experts, tokens, inter, shuffled] = codes.inner_of(problem, resolve("mi355x"))
    assert {key[:3] for key, inner in found.items() if inner == 128} == {
        *((64, 32, 512), (8, 16, 512), (128, 64, 256), (8, 4096, 256), (8, 32, 1024)),
    }
    assert not any(inner == 128 for (*_, shuffled), inner in found.items() if not shuffled)


def test_bits_do_not_depend_on_other_tokens(sanitized: Recording) -> None:
    """Of calls that add slots in one way or the other, or leave them; ids that name no expert, and one twice."""
    problem = problem_of(tokens=70, topk=2, experts=7, width=192, inter=96)
    ids = skewed_ids("strange", problem, 3)
    case = case_of(problem, 4, ids)
    with on("gfx950"):
        whole = run(case)
        check(case, whole)
        for count in (64, 5):
            rows = {name: getattr(case.made, name)[:count] for name in ("x", "ids", "routing")}
            few = replace(case, problem=replace(problem, tokens=count), made=replace(case.made, **rows))
            assert torch.equal(run(few), whole[:count])
        by_slots = replace(case, problem=replace(problem, by_slots=True))
        check(by_slots, run(by_slots))
    names = [report["kernel"] for report in sanitized.launches]
    assert codes.SUMS in names and codes.STAGE2 in names


def test_hidden_states_that_come_are_multiplied_otherwise() -> None:
    """And what is too large for offsets of 31 bits."""
    for sizes in ({"tokens": 2**19}, {"inter": 2**18}, {"quantised": True}):
        problem = problem_of(**{"tokens": 4, "width": 7168, "inter": 256, **sizes})
        names = [kernel.symbol for kernel in decide(TABLE, problem, resolve("mi355x")).kernels]
        assert tables.STAGE1 in names and tables.STAGE2 in names and codes.STAGE1 not in names, sizes
