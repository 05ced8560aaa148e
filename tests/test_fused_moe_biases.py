"""The mixture of experts with biases of both products: on the CPU, on gfx942 and gfx950 emulated with all sanitizers,
and MXFP4's stages as sm_90 compiles them, on the host; which rows serve them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fused_moe_cases as cases  # noqa: E402
import fused_moe_mxfp4_cases as mx  # noqa: E402
import test_fused_moe_mxfp4_hostsim as hostsim  # noqa: E402
from fused_moe_cases import call  # noqa: E402
from gemm_operands import AMD, on  # noqa: E402
from moe_layers import assert_nothing_spilled  # noqa: E402

from aiterlite import dispatch  # noqa: E402
from aiterlite.emulator.observe import Recording  # noqa: E402
from aiterlite.jit import toolchain  # noqa: E402
from aiterlite.reference import fused_moe as reference  # noqa: E402
from aiterlite.tables import fused_moe as tables  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile, pytest.mark.usefixtures("one_thread")]
emulated = pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd"))
BOTH = {"bias1": True, "bias2": True}


def test_the_reference_has_numbers_that_one_can_check() -> None:
    """Weights of zeros: gate is 1 and up 2 by their biases, after a weight of 3 on the input, so h is 2 silu(1);
    the result is what w2 has of biases, times 3 where the weight goes on it."""
    weights = reference.Weights(torch.zeros(1, 4, 8), torch.zeros(1, 8, 2), bias2=torch.full((1, 8), 0.5))
    weights = replace(weights, bias1=torch.tensor([[1.0, 1.0, 2.0, 2.0]]))
    ids, routing = torch.zeros(1, 1, dtype=torch.int32), torch.full((1, 1), 3.0)
    x = torch.ones(1, 8)
    assert reference.fused_moe(x, weights, ids, routing).out.unique().tolist() == [1.5]
    assert reference.fused_moe(x, weights, ids, routing, weighted_input=True).out.unique().tolist() == [0.5]
    weights = replace(weights, w2=torch.ones(1, 8, 2), bias2=None)
    made = reference.fused_moe(x, weights, ids, routing, weighted_input=True).out
    assert made.unique().tolist() == pytest.approx([4 * torch.tensor(1.0).sigmoid().item()])


# CPU ------------------------------------------------------------------------------------------------------------------

FORMS: list[dict[str, Any]] = [
    {"quant": "none", "code": "", "activation": "swiglu", "interleaved": True, **BOTH},
    {"quant": "token", "activation": "gelu", "weighted_input": True, **BOTH},
    {"quant": "block", "shuffled": True, "masked": True, "global_experts": 21, **BOTH},
    {"quant": "block", "bias1": True, "dtype": "fp16"},
    {"quant": "none", "code": "", "bias2": True, "by_slots": True},
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(form))
def test_layers(form: dict[str, Any]) -> None:
    for tokens in (1, 40):
        case = cases.case_of(cases.problem_of(tokens=tokens, **form), tokens, spare=1)
        cases.check(case, cases.run(case))


def test_sizes_that_are_no_panels() -> None:
    for width, inter, interleaved in ((100, 36, False), (17, 5, True)):
        sizes = {"width": width, "inter": inter, "interleaved": interleaved, "aligned": False}
        case = cases.case_of(cases.problem_of(quant="none", **sizes, **BOTH), 2)
        cases.check(case, cases.run(case))


@pytest.mark.parametrize("precision", ["a4w4", "a16w4"])
@pytest.mark.parametrize("activation", ["silu", "swiglu"])
def test_layers_of_mxfp4(activation: str, precision: str) -> None:
    for interleaved, weighted in ((False, True), (True, False)):
        if interleaved and precision == "a4w4":
            continue
        how = {"activation": activation, "interleaved": interleaved, "weighted_input": weighted, **BOTH}
        case = mx.case_of(mx.problem_of(tokens=6, width=96, inter=96, precision=precision, **how), 3)
        mx.check(case, mx.run(case))


def test_the_public_call() -> None:
    """Biases of either product alone; the same layout without biases is another call."""
    made = cases.case_of(cases.problem_of(quant="none", code="", **BOTH))
    biases = {name: getattr(made.made.weights, name) for name in BOTH}
    seen = []
    for given in ({}, {"bias1": biases["bias1"]}, {"bias2": biases["bias2"]}, biases):
        asked = {name: name in given for name in BOTH}
        case = replace(made, problem=replace(made.problem, **asked))
        case.made.weights = replace(made.made.weights, **{name: given.get(name) for name in BOTH})
        seen.append(call(case, **given))
        cases.check(case, seen[-1])
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(seen, 2))


# Which rows -----------------------------------------------------------------------------------------------------------


def test_rows_that_have_no_biases_do_not_serve_them() -> None:
    problem = cases.problem_of(tokens=64, experts=256, topk=8, width=7168, inter=256, shuffled=True)
    for name in BOTH:
        for chip, row, refuses in (("mi355x", "one_stage_novs_256", True), ("h200", "sums", False)):
            persona = resolve(chip)
            decision = dispatch.decide(tables.TABLE, replace(problem, **{name: True}), persona)
            rejected = {item.row: "; ".join(map(str, item.refusals)) for item in decision.rejected}
            assert decision.row is not None
            assert (f"rows of w{name[-1]} have biases" in rejected.get(row, "")) == refuses, (chip, name)
            assert (decision.row.name == row) == (not refuses)


# Emulated -------------------------------------------------------------------------------------------------------------


EMULATED: list[dict[str, Any]] = [
    {"tokens": 2, "quant": "token", "interleaved": True, "activation": "swiglu"},
    {"tokens": 3, "quant": "none", "weighted_input": True, "dtype": "fp16"},
    {"tokens": 7, "quant": "block", "interleaved": True, "shuffled": True, "weighted_input": True},
    {"tokens": 9, "quant": "none", "activation": "gelu", "width": 384, "inter": 192},
]


@emulated
@pytest.mark.parametrize("target", AMD)
@pytest.mark.parametrize("number", range(len(EMULATED)))
def test_emulated(number: int, target: str, sanitized: Recording) -> None:
    given = EMULATED[number]
    rounds = given["quant"] != "none"
    code = resolve(target).fp8 if rounds else ""
    case = cases.case_of(cases.problem_of(**given, code=code, **BOTH), 1)
    with on(target):
        cases.check(case, cases.run(case), rounds=rounds, apart=cases.SMALL)
    assert sanitized.launches


@emulated
@pytest.mark.parametrize("target", AMD)
def test_emulated_mxfp4(target: str, sanitized: Recording) -> None:
    for given in (
        {"tokens": 3, "width": 160, "inter": 96, "weighted_input": True},
        {"tokens": 2, "width": 64, "inter": 64, "precision": "a16w4", "activation": "swiglu", "interleaved": True},
    ):
        case = mx.case_of(mx.problem_of(**given, **BOTH), 1)
        with on(target):
            mx.check(case, mx.run(case))
    assert sanitized.launches


@emulated
@pytest.mark.parametrize("target", AMD)
def test_nothing_is_spilled(target: str) -> None:
    persona = resolve(target)
    for fields in ({"quant": "token"}, {"quant": "none", "code": ""}):
        problem = cases.problem_of(tokens=600, experts=8, width=2816, inter=256, activation="swiglu", **BOTH)
        problem = replace(problem, **{"code": persona.fp8, "shuffled": True, **fields})
        assert_nothing_spilled(dispatch.decide(tables.TABLE, problem, persona).kernels)
    problem = mx.problem_of(tokens=600, experts=8, width=2880, inter=384, **BOTH)
    assert_nothing_spilled(dispatch.decide(tables.TABLE, problem, persona).kernels)


# sm_90, as it is compiled, on the host --------------------------------------------------------------------------------


def test_stages_of_mxfp4_on_hopper(tmp_path: Path) -> None:
    """Gates that take turns."""
    hostsim.check_stages({**hostsim.CASES[2], **BOTH}, 2, tmp_path)
