"""Which kernel serves which call of the fused mixture of experts, by AITER_ENABLE_VSKIP; each setting executed, too.

The golden file holds it. After a change of a table, read the difference that the failing test shows, and write the file
anew with `python tests/test_fused_moe_dispatch.py`.
"""

from __future__ import annotations

import difflib
import itertools
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from aiterlite import dispatch, envs
from aiterlite.dispatch import Decision, Wishes
from aiterlite.errors import DispatchError, EnvironmentValueError
from aiterlite.tables import TABLES, problems
from aiterlite.tables import fused_moe as tables
from aiterlite.tables.fused_moe_problem import ACTIVATIONS, FMOE_OP, OP, FmoeProblem, MoeProblem
from aiterlite.target import Persona, resolve
from aiterlite.wishes import wishes

GOLDEN = Path(__file__).with_name("golden") / "fused_moe.txt"
AMD = ("mi300x", "mi308x", "mi355x")
SETTINGS = {"unset": None, "0": False, "1": True}
TOKENS = (1, 2, 4, 5, 8, 16, 17, 31, 32, 33, 64, 100, 256, 1024, 4096, 32768)
# Calls beside DeepSeek-R1's with its weights shuffled, over 8 ranks: by what differs from that.
CALLS: dict[str, dict[str, Any]] = {
    "DeepSeek-R1, parts of each expert": {},
    "whole experts": {"experts": 32, "inter": 2048, "masked": True, "global_experts": 257},
    "whole experts, in any order": {"experts": 32, "inter": 2048, "deterministic": False},
    "half of an expert's row of blocks": {"inter": 384},
    "rows in order": {"shuffled": False},
    "gelu": {"activation": "gelu"},
    "swiglu, interleaved": {"activation": "swiglu", "interleaved": True},
    "fp16": {"dtype": "fp16"},
    "a scale a row": {"quant": "token"},
    "a scale a tensor": {"quant": "tensor"},
    "16-bit weights": {"quant": "none", "code": ""},
    "quantised hidden states": {"quantised": True},
    "weights on the input": {"weighted_input": True},
    "a row a slot": {"by_slots": True},
    "biases of w1": {"bias1": True},
    "biases of w2": {"bias2": True},
    "MXFP4": {"quant": "mxfp4", "code": "e2m1", "precision": "a4w4"},
    "MXFP4, 16-bit hidden states, rows in order": {
        **{"quant": "mxfp4", "code": "e2m1", "precision": "a16w4", "shuffled": False, "dtype": "fp16"},
    },
    "MXFP4, interleaved": {"quant": "mxfp4", "code": "e2m1", "precision": "a8w4", "interleaved": True},
    "MXFP4, many slots": {"quant": "mxfp4", "code": "e2m1", "precision": "a4w4", "topk": 24},
    "rows at any address": {"aligned": False},
}
SORTED: dict[str, dict[str, Any]] = {
    "sorted by 32": {},
    "sorted by 32, in any order": {"deterministic": False},
    "sorted by 32, gelu": {"activation": "gelu"},
    "sorted by 64": {"block_size": 64},
    "sorted by 16, fp16": {"block_size": 16, "dtype": "fp16"},
}


def moe_problem(persona: Persona, **fields: Any) -> MoeProblem:
    given = {"tokens": 64, "experts": 256, "code": persona.fp8, "shuffled": True, **fields}
    made = problems.problem(tables.TABLE, given)
    assert isinstance(made, MoeProblem)
    return made


def decided(chip: str, vskip: bool | None = None, prefer: str | None = None, **fields: Any) -> Decision:
    persona = resolve(chip)
    return dispatch.decide(tables.TABLE, moe_problem(persona, **fields), persona, Wishes(vskip=vskip, prefer=prefer))


def decided_sorted(chip: str, vskip: bool | None = None, **fields: Any) -> Decision:
    persona = resolve(chip)
    problem = FmoeProblem(**{"tokens": 64, "experts": 256, "code": persona.fp8, **fields})
    return dispatch.decide(tables.FMOE_TABLE, problem, persona, Wishes(vskip=vskip))


def told(decision: Decision) -> str:
    return "nothing" if decision.row is None else decision.row.name


def golden_text() -> str:
    lines = []
    for chip in (*AMD, "h200"):
        lines.append(f"{chip}, where AITER_ENABLE_VSKIP is unset | 0 | 1")
        for decide, calls in ((decided, CALLS), (decided_sorted, SORTED)):
            for name, fields in calls.items():
                rows = []
                for tokens in TOKENS:
                    names = [told(decide(chip, vskip, tokens=tokens, **fields)) for vskip in SETTINGS.values()]
                    rows.append((tokens, " | ".join(names)))
                for row, group in itertools.groupby(rows, lambda item: item[1]):
                    counts = [tokens for tokens, _ in group]
                    span = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
                    lines.append(f"  {name}, {span} tokens: {row}")
    return "\n".join(lines) + "\n"


def test_decisions_are_the_golden_ones() -> None:
    wanted, found = GOLDEN.read_text().splitlines(), golden_text().splitlines()
    difference = list(difflib.unified_diff(wanted, found, "golden", "now", n=0, lineterm=""))
    assert not difference, "\n".join(["`python tests/test_fused_moe_dispatch.py` writes these anew:", *difference])


def test_unasked_no_chip_takes_what_is_not_safe_on_it() -> None:
    for chip in AMD:
        for vskip, wanted in ((None, resolve(chip).vskip_safe), (False, False)):
            taken = [decided(chip, vskip, tokens=tokens).row for tokens in TOKENS]
            taken += [decided_sorted(chip, vskip, tokens=tokens).row for tokens in TOKENS]
            assert not any(row is None or (row.vskip and not wanted) for row in taken)


@pytest.mark.parametrize("inter", [64, 192])
def test_hopper_takes_no_part_of_128_elements(inter: int) -> None:
    decision = decided("h200", shuffled=False, quant="none", code="", inter=inter)
    assert decision.row is None and "no multiple of 128" in str(decision)


def test_hopper_adds_in_place_only_where_a_token_has_one_entry_an_expert() -> None:
    for fields, row in (
        ({"tokens": 512, "topk": 16}, "sums"),
        ({"tokens": 512, "topk": 32}, "slots"),
        ({"tokens": 400, "experts": 1024, "topk": 30, "inter": 128}, "slots"),
        ({"weighted_input": True}, "slots"),
        ({"weighted_input": True, "tokens": 4}, "slots"),
        ({"weighted_input": True, "tokens": 4, "topk": 1}, "sums"),
    ):
        assert told(decided("h200", **fields)) == row, fields


def random_fields(source: random.Random) -> dict[str, Any]:
    quant, code = source.choice([("block", None), ("block", None), ("token", None), ("tensor", None), ("none", "")])
    step = source.choice([128, 128, 256, 512, 100])
    fields = {
        "tokens": source.choice([1, 3, 4, 5, 31, 32, 500, 5000]),
        "experts": source.choice([1, 8, 256, 1024]),
        "topk": source.choice([1, 2, 8, 9, 64]),
        "width": step * source.randint(1, 60),
        "inter": step * source.randint(1, 20),
        "dtype": source.choice(["bf16", "bf16", "fp16"]),
        "quant": quant,
        "activation": source.choice(ACTIVATIONS),
        **{name: source.random() < 0.3 for name in ("interleaved", "quantised", "weighted_input", "masked")},
        **{name: source.random() < 0.7 for name in ("shuffled", "deterministic", "aligned")},
    }
    return fields if code is None else {**fields, "code": code}


def test_no_setting_leads_to_no_kernel() -> None:
    """Over random calls: what is served under one setting, or one preference, is served under all."""
    source, served = random.Random(1), 0
    settings = list(itertools.product(SETTINGS.values(), (None, "asm", "hip")))
    for _ in range(400):
        fields, chip = random_fields(source), source.choice(AMD)
        found = [decided(chip, vskip, prefer, **fields) for vskip, prefer in settings]
        assert len({decision.row is None for decision in found}) == 1, str(found)
        served += found[0].row is not None
    assert 100 < served < 400
    for tokens, block_size, inter in itertools.product((1, 40, 3000), (16, 24, 32, 64, 1024), (128, 256, 2048)):
        for chip, deterministic in itertools.product(AMD, (True, False)):
            given = {"tokens": tokens, "block_size": block_size, "inter": inter, "deterministic": deterministic}
            assert all(decided_sorted(chip, vskip, **given).row for vskip in SETTINGS.values())


def test_a_chip_without_a_row_of_its_own_is_served() -> None:
    """Also a part of an MI300X."""
    for chip in ("mi300x:38", "mi300a", "mi325x", "mi350x", "mi350p:128", "gfx942", "gfx950"):
        for vskip, tokens in itertools.product(SETTINGS.values(), TOKENS):
            assert decided(chip, vskip, tokens=tokens).row is not None
            assert decided_sorted(chip, vskip, tokens=tokens).row is not None


def test_a_wish_that_no_row_grants_is_said_and_refused_when_strict() -> None:
    decision = decided("mi300x", True, activation="swiglu")
    assert decision.row is not None and not decision.row.vskip
    assert decision.notes == (f"AITER_ENABLE_VSKIP=1 has no row for this problem; took {decision.row.name}",)
    with pytest.raises(DispatchError, match="AITER_ENABLE_VSKIP=1"):
        dispatch.require(decision, Wishes(vskip=True, strict=True))


def test_another_value_is_an_error_that_lists_these() -> None:
    for value in ("2", "true", "yes", "-1"):
        with (
            pytest.raises(EnvironmentValueError, match=r"AITER_ENABLE_VSKIP=.*allowed: 0, 1"),
            envs.override(AITER_ENABLE_VSKIP=value),
        ):
            wishes()


def test_what_no_row_serves_says_what_to_do() -> None:
    with pytest.raises(DispatchError) as caught:
        dispatch.require(decided("mi300x", code="e4m3fn"), Wishes())
    assert "convert the weights to e4m3fnuz" in str(caught.value)
    with pytest.raises(DispatchError) as caught:
        dispatch.require(decided("mi355x", aligned=False), Wishes())
    assert "copy them" in str(caught.value)
    with pytest.raises(DispatchError) as caught:
        dispatch.require(decided_sorted("mi355x", code="e4m3fnuz"), Wishes())
    assert "convert the weights to e4m3fn)" in str(caught.value)
    decision = dispatch.decide(tables.TABLE, moe_problem(resolve("a100")), resolve("a100"), Wishes())
    assert decision.row is None


def test_each_row_asks_what_every_call_must_be() -> None:
    """Whatever a back end asks itself, and no requirement twice."""
    persona = resolve("cpu-x86-64-v4")
    for table in (tables.TABLE, tables.FMOE_TABLE):
        for row in table.rows:
            assert len(set(row.requires)) == len(row.requires)
            for fields in ({"topk": 65}, {"topk": 0}, {"width": 192, "inter": 192}, {"tokens": 1 << 23}):
                problem: Any = replace(table.problem(tokens=4, experts=8), **fields)
                refused = [item.refuse(problem, persona, Wishes()) for item in row.requires]
                assert any(refusal is not None and "target" not in refusal.reason for refusal in refused), fields


def test_problems_are_plain_data() -> None:
    problem = moe_problem(resolve("mi300x"), quant="none", inter=100)
    assert asdict(problem)["code"] == "e4m3fnuz" and not problem.aligned
    derived = problems.problem(tables.TABLE, {"tokens": 1, "experts": 9, "quant": "none"})
    assert (derived.code, derived.global_experts, derived.aligned) == ("", 9, True)


def test_sweeps_have_codes_of_their_target() -> None:
    """Where nobody names a problem, as `aiterlite build` for gfx942, each has a row, of the chip's own 8-bit floats."""
    for chip in (*AMD, "h200", "cpu-x86-64-v4"):
        persona = resolve(chip)
        for table in (tables.TABLE, tables.FMOE_TABLE):
            for problem in problems.sweep(table):
                decision = dispatch.decide(table, problem, persona, Wishes())
                named = dispatch.decide(table, replace(problem, code=persona.fp8), persona, Wishes())
                assert decision.row is not None and decision.kernels == named.kernels
                assert (decision.plan, decision.workspace) == (named.plan, named.workspace)


# Executed -------------------------------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.compile
@pytest.mark.emulated
@pytest.mark.parametrize("chip", AMD)
def test_every_setting_runs_and_both_twins_give_the_same_bits(chip: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    import fused_moe_cases as cases
    from torch_threads import threads

    persona = resolve(chip)
    fields = {"tokens": 32, "experts": 4, "topk": 2, "width": 1024, "inter": 256, "shuffled": True}
    case = cases.case_of(cases.problem_of(code=persona.fp8, **fields), 3)
    monkeypatch.setenv("AITERLITE_TARGET", chip)
    got = {}
    with threads(1):
        for name in SETTINGS:
            monkeypatch.setenv("AITER_ENABLE_VSKIP", "" if name == "unset" else name)
            envs.reload()
            got[name] = cases.run(case)
            cases.check(case, got[name], True)
        # Assembly under either setting.
        monkeypatch.setenv("AITERLITE_PREFER", "asm")
        monkeypatch.setenv("AITER_ENABLE_VSKIP", "0")
        envs.reload()
        assert torch.equal(cases.run(case), got["1"])
    envs.reload()


@pytest.mark.torch
@pytest.mark.compile
@pytest.mark.emulated
@pytest.mark.parametrize(("op", "more"), [(OP, {}), (OP, {"quantised": True}), (FMOE_OP, {})])
def test_samples_are_of_the_target_s_codes(op: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from aiterlite.ops.samples import sample

    monkeypatch.setenv("AITERLITE_TARGET", "mi300x")
    envs.reload()
    fields = {"tokens": 3, "experts": 4, "topk": 2, "width": 256, "inter": 128, **more}
    made = sample(op, problems.problem(TABLES[op], fields), 1)
    assert made.of_bound(made.run()) <= 1
    envs.reload()


@pytest.mark.torch
def test_a_call_under_another_value_is_that_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    import fused_moe_cases as cases

    monkeypatch.setenv("AITER_ENABLE_VSKIP", "2")
    envs.reload()
    with pytest.raises(EnvironmentValueError, match="allowed: 0, 1"):
        cases.run(cases.case_of(cases.problem_of()))


if __name__ == "__main__":
    GOLDEN.write_text(golden_text())
