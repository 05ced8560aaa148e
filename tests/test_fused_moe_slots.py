"""The mixture of experts without its sum (`no_combine`): a row for each slot, on the CPU, on gfx942 and gfx950 emulated
with all sanitizers, and what sm_90 has of its own for it, on the host; which rows serve it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fused_moe_cases as cases  # noqa: E402
import fused_moe_mxfp4_cases as mx  # noqa: E402
from fused_moe_cases import call  # noqa: E402
from gemm_operands import AMD, on  # noqa: E402
from hostsim_sm90 import simulate  # noqa: E402
from test_fused_moe_mxfp4_hostsim import only  # noqa: E402

from aiterlite import dispatch  # noqa: E402
from aiterlite.emulator.observe import Recording  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.jit import toolchain  # noqa: E402
from aiterlite.ops import fused_moe as ops  # noqa: E402
from aiterlite.ops.fused_moe import layer_sizes  # noqa: E402
from aiterlite.tables import fused_moe as tables  # noqa: E402
from aiterlite.tables import moe_sorting  # noqa: E402
from aiterlite.tables.fused_moe_parts import ABSENT, SUM  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile, pytest.mark.usefixtures("one_thread")]
emulated = pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd"))
HOWS: list[dict[str, Any]] = [
    {"shuffled": True},
    {"weighted_input": True, "quant": "token", "activation": "gelu"},
    {"masked": True, "global_experts": 21, "quant": "none", "dtype": "fp16", "interleaved": True},
]


def strange(problem: Any, make: Any = cases.case_of, **how: Any) -> Any:
    """Ids of none, experts that a token names twice, tokens that do not count."""
    ids = cases.skewed_ids("strange", replace(problem, experts=problem.global_experts or problem.experts), 1)
    ids[0] = problem.experts // 2
    return make(problem, 2, ids, **how)


# CPU ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOWS, ids=lambda how: "-".join(how))
def test_rows_of_slots(how: dict[str, Any]) -> None:
    """What they add up to is the layer."""
    for tokens in (1, 7, 530):
        problem = cases.problem_of(tokens=tokens, width=128, **how)
        case = strange(replace(problem, by_slots=True), live=max(1, tokens - 2), spare=2)
        got = cases.run(case)
        cases.check(case, got)
        summed = cases.run(strange(problem, live=max(1, tokens - 2)))
        unit = 2.0 ** (-10 if case.dtype == torch.float16 else -7)
        assert bool(((got.double().sum(1) - summed.double()).abs() <= unit * got.double().abs().sum(1)).all())


@pytest.mark.parametrize("precision", ["a4w4", "a16w4"])
def test_rows_of_slots_of_mxfp4(precision: str) -> None:
    for tokens in (2, 40):
        case = strange(mx.problem_of(tokens=tokens, precision=precision, by_slots=True, inter=96), mx.case_of, live=1)
        mx.check(case, mx.run(case))


def test_the_public_call() -> None:
    case = strange(cases.problem_of(by_slots=True))
    got = call(case, no_combine=True)
    assert got.shape == (5, 3, 256) and torch.equal(got, cases.run(case))
    none = call(case, no_combine=True, hidden_states=case.made.x[:0], topk_ids=case.made.ids[:0],
                topk_weight=case.made.routing[:0])  # fmt: skip
    assert none.shape == (0, 3, 256)


def test_results_of_other_shapes_are_refused() -> None:
    case = cases.case_of(cases.problem_of())
    made = case.made
    given = [made.x, made.w1, made.w2, made.routing, made.ids]
    rest = [None, None, made.weights.w1_scale, made.weights.w2_scale, None, 0, 5]
    options = [False, "separated", False, None, None, None, True, "", True]
    for out, words in (
        (torch.zeros(5, 256, dtype=case.dtype), "[5, 3, 256]"),
        (torch.zeros(5, 3, 264, dtype=case.dtype)[..., :256], ".contiguous()"),
    ):
        with pytest.raises(ArgumentError) as caught:
            ops.OPERATOR(*given, out, *rest, *options)
        assert caught.value.argument == "out" and words in str(caught.value)


# Which rows -----------------------------------------------------------------------------------------------------------


def test_rows_that_add_slots_up_do_not_serve_it() -> None:
    for chip, few, many in (("mi300x", "gemv", "two_stage_304"), ("h200", "slots", "slots")):
        persona = resolve(chip)
        for tokens, row in ((1, few), (64, many), (2048, many)):
            problem = cases.problem_of(tokens=tokens, experts=256, topk=8, width=7168, inter=256, shuffled=True)
            problem = replace(problem, code=persona.fp8, by_slots=True)
            decision = dispatch.decide(tables.TABLE, problem, persona)
            assert decision.row is not None and decision.row.name == row, (chip, tokens)
            symbols = [kernel.symbol for kernel in decision.kernels]
            assert SUM not in symbols and (ABSENT in symbols) == (row != "gemv")
            summed = dispatch.decide(tables.TABLE, replace(problem, by_slots=False), persona)
            if row != "gemv":
                assert decision.workspace is not None and summed.workspace is not None
                assert decision.workspace.total != summed.workspace.total
        rejected = {item.row: "; ".join(map(str, item.refusals)) for item in decision.rejected}
        assert "a row a slot" in rejected["one_stage_novs" if chip == "mi300x" else "sums"]


def test_a_slot_has_its_own_row_where_a_token_names_an_expert_twice() -> None:
    """sm_90's own lists make one entry of both; those of the general sorting two."""
    problem = cases.problem_of(tokens=64, experts=256, topk=8, width=7168, inter=256, by_slots=True)
    symbols = {kernel.symbol for kernel in dispatch.decide(tables.TABLE, problem, resolve("h200")).kernels}
    assert symbols & {moe_sorting.ONCE, moe_sorting.COUNT}


# Emulated -------------------------------------------------------------------------------------------------------------


@emulated
@pytest.mark.parametrize("target", AMD)
@pytest.mark.parametrize(("tokens", "quant"), [(2, "block"), (7, "token"), (3, "none"), (9, "none")])
def test_emulated(tokens: int, quant: str, target: str, sanitized: Recording) -> None:
    persona = resolve(target)
    code = "" if quant == "none" else persona.fp8
    problem = cases.problem_of(tokens=tokens, quant=quant, code=code, by_slots=True, weighted_input=tokens == 7)
    case = strange(problem, live=tokens - 1)
    with on(target):
        cases.check(case, cases.run(case), rounds=quant != "none", apart=cases.SMALL)
    launched = [report["kernel"] for report in sanitized.launches]
    assert (ABSENT in launched) == (tokens > 4)


@emulated
@pytest.mark.parametrize("target", AMD)
def test_emulated_mxfp4(target: str, sanitized: Recording) -> None:
    for precision in ("a4w4", "a16w4"):
        case = strange(mx.problem_of(tokens=3, width=160, inter=96, precision=precision, by_slots=True), mx.case_of)
        with on(target):
            mx.check(case, mx.run(case))
    assert ABSENT in [report["kernel"] for report in sanitized.launches]


# sm_90, as it is compiled, on the host --------------------------------------------------------------------------------


def test_zeros_of_absent_slots_on_hopper(tmp_path: Path) -> None:
    """Those that have an expert keep what is there; nothing behind them changes."""
    problem = cases.problem_of(tokens=5, topk=3, experts=4, width=2176, by_slots=True)
    kernels = dispatch.decide(tables.TABLE, problem, resolve("h200")).kernels
    kernel = next(only(kernel) for kernel in kernels if kernel.symbol == ABSENT)
    local = torch.tensor([0, -1, 3, 2, 4, -1, -(2**31), 1, 2**31 - 1, 0, 1, 2, 3, -1, -1], dtype=torch.int32)
    slots = torch.full((len(local) + 1, problem.width), torch.nan, dtype=torch.bfloat16)
    simulate(kernel, {"slots": slots, "local_topk_ids": local}, layer_sizes(problem, False), tmp_path)
    counts = (local >= 0) & (local < problem.experts)
    assert not slots[:-1][~counts].any() and bool(slots[:-1][counts].isnan().all()) and bool(slots[-1].isnan().all())
