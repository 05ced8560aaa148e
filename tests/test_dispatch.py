"""Dispatch: the engine on made-up tables, and the package's own tables for chips that are not here.

The golden file holds what every persona takes. After a change of a table or a plan, read the difference that the
failing test shows, and write the file anew with `python tests/test_dispatch.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiterlite import dispatch
from aiterlite.dispatch import Between, ComputeUnits, Holds, OneOf, Refusal, Row, Table, Targets, Wishes
from aiterlite.errors import DispatchError
from aiterlite.jit.spec import Unit
from aiterlite.tables import TABLES, gemm, gemm_fp8, gemm_plan, gemm_rc
from aiterlite.tables.gemm_rc_plan import REDUCTIONS
from aiterlite.target import resolve

GOLDEN = Path(__file__).with_name("golden") / "dispatch.txt"
PERSONAS = ("mi300x", "mi308x", "mi355x", "h100", "cpu-x86-64-v4")


# The engine -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    size: int
    kind: str = "a"
    dense: bool = True


@dataclass(frozen=True)
class Plan:
    tile: int


def compiled(problem: Any, persona: Any, plan: Any) -> tuple[Unit, ...]:
    return (Unit("toy/toy", ("csrc/toy/toy.hip",), persona.target, (("TILE", str(plan.tile)),)),)


def row(name: str, *requires: Any, **settings: Any) -> Row:
    return Row(name, "hip", requires, **settings)


def decide(*rows: Row, problem: Problem = Problem(4), chip: str = "mi300x", **wishes: Any) -> dispatch.Decision:
    return dispatch.decide(Table("toy", Problem, rows), problem, resolve(chip), Wishes(**wishes))


def why(decision: dispatch.Decision, name: str) -> str:
    (found,) = [item for item in decision.rejected if item.row == name]
    return "; ".join(map(str, found.refusals))


def chosen(decision: dispatch.Decision) -> str | None:
    return decision.row.name if decision.row else None


@pytest.mark.parametrize(
    ("requirement", "fits", "fails", "reason"),
    [
        (Targets(("gfx942",)), {}, {"chip": "mi355x"}, "runs on gfx942, the target is gfx950"),
        (Targets(("gfx9*",)), {"chip": "mi355x"}, {"chip": "h100"}, "runs on gfx9*, the target is sm_90a"),
        (ComputeUnits(100, 304), {}, {"chip": "mi308x"}, "needs 100 to 304 CUs, mi308x has 80"),
        (OneOf("kind", ("a", "b")), {}, {"problem": Problem(4, "c")}, "kind must be a or b, it is c"),
        (Between("size", 2, 4), {}, {"problem": Problem(5)}, "size must be 2 to 4, it is 5"),
        (Between("size", 4, 9), {}, {"problem": Problem(3)}, "size must be 4 to 9, it is 3"),
        (
            Holds("dense", True, "it is strided", "make it contiguous"),
            {},
            {"problem": Problem(4, dense=False)},
            "it is strided (make it contiguous)",
        ),
    ],
)
def test_a_requirement_refuses_in_words(
    requirement: Any, fits: dict[str, Any], fails: dict[str, Any], reason: str
) -> None:
    assert chosen(decide(row("one", requirement), **fits)) == "one"
    decision = decide(row("one", requirement), **fails)
    assert decision.row is None and why(decision, "one") == reason


def test_all_reasons_are_given_not_only_the_first() -> None:
    decision = decide(row("one", Between("size", 8, 9), OneOf("kind", ("b",))))
    assert why(decision, "one") == "size must be 8 to 9, it is 4; kind must be b, it is a"


def test_preference_decides_and_the_order_of_the_table_breaks_ties() -> None:
    rows = [row("low", preference=-1), row("first"), row("second"), row("high", preference=1)]
    assert chosen(decide(*rows)) == "high"
    assert chosen(decide(*rows[:3])) == "first"
    assert chosen(decide(*reversed(rows[:3]))) == "second"
    assert why(decide(*rows), "first") == "high is preferred"
    assert [item.row for item in decide(*rows).rejected] == ["low", "first", "second"]


VSKIP = row("vskip", vskip=True, preference=1)
PLAIN = row("plain")


@pytest.mark.parametrize(
    ("chip", "wish", "expected"),
    [
        ("mi300x", None, "plain"),
        ("mi308x", None, "plain"),
        ("mi300x", False, "plain"),
        ("mi300x", True, "vskip"),
        ("mi355x", None, "vskip"),
        ("mi355x", False, "plain"),
        ("mi355x", True, "vskip"),
    ],
)
def test_vskip_has_three_values(chip: str, wish: bool | None, expected: str) -> None:
    decision = decide(VSKIP, PLAIN, chip=chip, vskip=wish)
    assert chosen(decision) == expected and decision.notes == ()
    if expected == "plain":
        assert "AITER_ENABLE_VSKIP=1" in why(decision, "vskip")


def test_the_wish_for_vskip_outranks_preference() -> None:
    assert chosen(decide(row("vskip", vskip=True, preference=-5), PLAIN, chip="mi355x")) == "plain"
    assert chosen(decide(row("vskip", vskip=True, preference=-5), PLAIN, chip="mi355x", vskip=True)) == "vskip"


ASM = Row("asm", "asm", (), preference=-1)


@pytest.mark.parametrize(("wish", "expected"), [(None, "plain"), ("hip", "plain"), ("asm", "asm")])
def test_the_wish_for_a_kind_outranks_preference(wish: str | None, expected: str) -> None:
    decision = decide(PLAIN, ASM, prefer=wish)
    assert chosen(decision) == expected and decision.notes == ()
    other = {"plain": "asm", "asm": "plain"}[expected]
    kind = {"plain": "hip", "asm": "asm"}[other]
    assert why(decision, other) == f"{expected} is preferred (AITERLITE_PREFER={kind})"


def test_a_kind_without_a_row_leaves_the_other_and_says_so() -> None:
    small = Row("asm", "asm", (Between("size", 8, 9),))
    decision = decide(PLAIN, small, prefer="asm")
    assert chosen(decision) == "plain"
    assert decision.notes == ("AITERLITE_PREFER=asm has no row for this problem; took plain",)
    with pytest.raises(DispatchError, match="AITERLITE_STRICT=1.*plain"):
        dispatch.require(decision, Wishes(prefer="asm", strict=True))
    large = Row("hip", "hip", (Between("size", 8, 9),))
    assert decide(large, ASM, prefer="hip").notes == ("AITERLITE_PREFER=hip has no row for this problem; took asm",)
    # Nothing to say where a table has no such kind, or where the call is none for AMD kernels at all.
    assert decide(PLAIN, prefer="asm").notes == ()
    assert decide(Row("cpu", "host", ()), small, prefer="asm").notes == ()


def test_the_wish_for_vskip_goes_before_that_for_a_kind() -> None:
    skipping = Row("skipping", "asm", (), preference=-1, vskip=True)
    decision = decide(PLAIN, skipping, chip="mi355x", vskip=True, prefer="hip")
    assert (
        chosen(decision) == "skipping" and "AITER_ENABLE_VSKIP=1 goes before AITERLITE_PREFER=hip" in decision.notes[0]
    )
    assert chosen(decide(PLAIN, skipping, chip="mi355x", vskip=False, prefer="asm")) == "plain"


def test_a_wish_without_a_row_takes_the_safe_one_and_says_so() -> None:
    small_vskip = row("vskip", Between("size", 8, 9), vskip=True)
    decision = decide(small_vskip, PLAIN, vskip=True)
    assert chosen(decision) == "plain" and "AITER_ENABLE_VSKIP=1 has no row" in decision.notes[0]
    assert dispatch.require(decision, Wishes(vskip=True)).name == "plain"
    with pytest.raises(DispatchError, match="AITERLITE_STRICT=1.*plain") as caught:
        dispatch.require(decision, Wishes(vskip=True, strict=True))
    assert caught.value.decision is decision and "size must be 8 to 9" in str(caught.value)
    assert decide(PLAIN, vskip=True).notes == ()


def test_strict_refuses_a_fallback_and_nothing_else() -> None:
    fallback = Row("torch", "torch", (), preference=-1, fallback=True)
    small = row("small", Between("size", 8, 9))
    decision = decide(small, fallback)
    assert dispatch.require(decision, Wishes()).name == "torch"
    with pytest.raises(DispatchError, match="would fall back to torch"):
        dispatch.require(decision, Wishes(strict=True))
    assert dispatch.require(decide(PLAIN, fallback), Wishes(strict=True)).name == "plain"


def test_no_row_is_an_error_with_the_whole_trace() -> None:
    decision = decide(row("one", Between("size", 8, 9)), row("two", OneOf("kind", ("b",))))
    with pytest.raises(DispatchError) as caught:
        dispatch.require(decision, Wishes())
    for text in ("toy", "not one: size must be 8 to 9", "not two: kind must be b"):
        assert text in str(caught.value)


def test_with_the_jit_off_only_what_needs_no_kernel_remains() -> None:
    kernel = row("kernel", units=compiled, plan=lambda problem, persona: Plan(8), preference=1)
    assert chosen(decide(kernel, Row("torch", "torch", ()))) == "kernel"
    decision = decide(kernel, Row("torch", "torch", ()), jit_off=True)
    assert chosen(decision) == "torch"
    assert why(decision, "kernel") == "AITERLITE_JIT=off (AITERLITE_JIT=auto or require-cache)"


def test_only_the_chosen_row_is_planned() -> None:
    def refuse(problem: Any, persona: Any) -> Any:
        raise AssertionError("planned a row that does not apply")

    planned = row("planned", units=compiled, plan=lambda problem, persona: Plan(problem.size * 2))
    decision = decide(planned, row("other", Between("size", 8, 9), plan=refuse), row("later", plan=refuse))
    assert decision.plan == Plan(8)
    assert [unit.label for unit in decision.units] == ["toy/toy[tile=8] for gfx942"]


def test_a_decision_tells_itself_to_people_and_programs() -> None:
    planned = row("planned", units=compiled, plan=lambda problem, persona: Plan(8))
    decision = decide(planned, row("other", Holds("dense", False, "dense", "stride it")))
    assert str(decision).splitlines() == [
        "toy(size=4, kind=a, dense=True) on mi300x (gfx942, 304 CUs)",
        "  -> planned (hip)",
        "     tile=8",
        "     unit toy/toy[tile=8] for gfx942",
        "  not other: dense (stride it)",
    ]
    data = json.loads(json.dumps(decision.to_json()))
    assert (data["chosen"], data["plan"], data["units"]) == ("planned", {"tile": 8}, ["toy/toy[tile=8] for gfx942"])
    assert data["rejected"] == [{"row": "other", "why": [{"reason": "dense", "remedy": "stride it"}]}]
    assert "no row applies" in str(decide(row("one", Between("size", 8, 9))))
    assert str(Refusal("why")) == "why"


def test_problems_from_data_are_checked() -> None:
    table = Table("toy", Problem, ())
    assert dispatch.problem_from(table, {"size": 3}) == Problem(3)
    with pytest.raises(ValueError, match="no field sise; it has dense, kind, size"):
        dispatch.problem_from(table, {"sise": 3})
    with pytest.raises(ValueError, match="size"):
        dispatch.problem_from(table, {})


# The package's tables -------------------------------------------------------------------------------------------------

problems = st.builds(
    gemm.GemmProblem,
    n=st.integers(0, 20),
    m=st.integers(1, 20000),
    k=st.integers(1, 20000),
    dtype=st.sampled_from(["bf16", "fp16", "float32"]),
    bias=st.booleans(),
    aligned=st.booleans(),
    dense=st.booleans(),
)
scaled_problems = st.builds(
    gemm_fp8.ScaledGemmProblem,
    n=st.integers(0, 20),
    m=st.integers(1, 20000),
    k=st.integers(1, 20000),
    fp8=st.sampled_from(["native", "e4m3fn", "e4m3fnuz", "e5m2"]),
    dtype=st.sampled_from(["bf16", "fp16", "float32"]),
    scale_w=st.sampled_from(["tensor", "row", "block"]),
    bias=st.booleans(),
    aligned=st.booleans(),
    dense=st.booleans(),
)
rc_problems = st.builds(
    lambda problem, reduction: gemm_rc.RcProblem(**vars(problem), reduction=reduction),
    problems,
    st.sampled_from(REDUCTIONS),
)
PROBLEMS = {
    gemm.GemmProblem: problems,
    gemm_fp8.ScaledGemmProblem: scaled_problems,
    gemm_rc.RcProblem: rc_problems,
}
calls = st.sampled_from(list(TABLES.values())).flatmap(lambda table: st.tuples(st.just(table), PROBLEMS[table.problem]))
wishes = st.builds(
    Wishes,
    vskip=st.sampled_from([None, False, True]),
    prefer=st.sampled_from([None, *dispatch.KINDS]),
    jit_off=st.booleans(),
)


@given(calls, st.sampled_from(PERSONAS), wishes)
def test_every_row_is_chosen_or_rejected_with_a_reason(call: tuple[Table, Any], chip: str, wished: Wishes) -> None:
    table, problem = call
    decision = dispatch.decide(table, problem, resolve(chip), wished)
    told = [item.row for item in decision.rejected] + [name for name in [chosen(decision)] if name]
    assert sorted(told) == sorted(row.name for row in table.rows)
    assert all(item.refusals and all(refusal.reason for refusal in item.refusals) for item in decision.rejected)
    assert dispatch.decide(table, problem, resolve(chip), wished) == decision


@given(problems, st.sampled_from(PERSONAS))
def test_linear_always_has_a_row_and_takes_the_kernel_where_wv_split_k_does(
    problem: gemm.GemmProblem, chip: str
) -> None:
    linear = dispatch.decide(gemm.LINEAR, problem, resolve(chip))
    kernel = dispatch.decide(gemm.WV_SPLIT_K, problem, resolve(chip))
    assert linear.row is not None
    # Where torch was measured to be faster: many tokens on a CPU; many tokens and rows on NVIDIA.
    overtaken = {
        "cpu": problem.n > gemm.CPU_LINEAR_TOKENS,
        "cuda": problem.n > 8 and problem.m > 6144,
        "amd": False,
    }[resolve(chip).family]
    if kernel.row is not None and not overtaken:
        assert (chosen(linear), linear.plan) == (kernel.row.name, kernel.plan)
    else:
        assert chosen(linear) == "torch"


@given(problems, st.sampled_from(["mi300x", "mi308x", "mi355x", "h100", "h200", "a100", "l40s"]))
def test_every_plan_is_one_that_the_kernel_can_run(problem: gemm.GemmProblem, chip: str) -> None:
    """What wv_split_k.hip states of its defines and its launch."""
    persona = resolve(chip)
    decision = dispatch.decide(gemm.WV_SPLIT_K, problem, persona)
    if decision.row is None:
        return
    plan: gemm.WvSplitKPlan = decision.plan
    cut = plan.tiling
    rows = cut.tiles * 16 // cut.slices
    assert problem.n <= cut.cols // cut.slices
    assert plan.grid == cut.cluster * -(-problem.m // rows) and plan.grid < 2**31
    assert plan.block == cut.waves * persona.wave_size <= 1024
    assert cut.cluster == 1 or persona.target == "sm_90a"
    assert plan.aligned == problem.aligned and (plan.aligned or cut.unroll == 1)
    assert gemm_plan.compiles(gemm_plan.CHIPS[persona.target], cut)


def test_rows_of_a_table_have_names_of_their_own() -> None:
    for table in TABLES.values():
        names = [row.name for row in table.rows]
        assert len(set(names)) == len(names)


SHAPES = [(256, 7168), (576, 7168), (1536, 7168), (2112, 7168), (3072, 1536), (7168, 2048), (7168, 2304), (4096, 4096)]
ODD = {
    "fp16 with bias": {"dtype": "fp16", "bias": True},
    "unaligned": {"aligned": False},
    "strided": {"dense": False},
    "float32": {"dtype": "float32"},
    "17 tokens": {"n": 17},
    "no token": {"n": 0},
    "odd sizes": {"m": 257, "k": 7169, "aligned": False},
}


ODD_SCALED = {
    "e4m3fn": {"fp8": "e4m3fn"},
    "e4m3fnuz, fp16, a scale a row, bias": {"fp8": "e4m3fnuz", "dtype": "fp16", "scale_w": "row", "bias": True},
    "17 tokens": {"n": 17},
    "odd sizes": {"m": 257, "k": 7169, "aligned": False},
}


def golden_text() -> str:
    """Each persona's plan for each shape and number of tokens, then traces of problems that are out of the ordinary."""
    lines = []
    for chip, (m, k) in itertools.product(PERSONAS, SHAPES):
        previous = ""
        for n in (1, 4, 16):
            told = _short(dispatch.decide(gemm.LINEAR, gemm.GemmProblem(n, m, k), resolve(chip)))
            lines.append(f"{chip} m={m} k={k} n={n}: {told if told != previous else 'the same'}")
            previous = told
    lines += _golden_assembly()
    for op, chip, (name, change) in itertools.product(("wvSplitK", "linear"), PERSONAS, ODD.items()):
        problem = dataclasses.replace(gemm.GemmProblem(4, 2112, 7168), **change)
        lines += _trace(f"{op} {chip} {name}", dispatch.decide(TABLES[op], problem, resolve(chip)))
    for chip, (m, k), n in itertools.product(PERSONAS[:-1], SHAPES[::3], (1, 4, 16)):
        problem = gemm_fp8.ScaledGemmProblem(n, m, k)
        told = _short(dispatch.decide(gemm_fp8.WV_SPLIT_K_Q, problem, resolve(chip)))
        lines.append(f"wvSplitKQ {chip} m={m} k={k} n={n}: {told}")
    for chip, (name, change) in itertools.product((*PERSONAS, "a100"), ODD_SCALED.items()):
        problem = dataclasses.replace(gemm_fp8.ScaledGemmProblem(4, 2112, 7168), **change)
        lines += _trace(f"wvSplitKQ {chip} {name}", dispatch.decide(gemm_fp8.WV_SPLIT_K_Q, problem, resolve(chip)))
    return "\n".join(lines) + "\n"


def _golden_assembly() -> list[str]:
    """What AITERLITE_PREFER=asm changes, and where it has nothing to give."""
    lines = []
    asked = Wishes(prefer="asm")
    for chip, (m, k), n in itertools.product(("mi300x", "mi308x", "mi355x"), SHAPES[::3], (1, 4, 16)):
        decision = dispatch.decide(gemm.LINEAR, gemm.GemmProblem(n, m, k), resolve(chip), asked)
        lines.append(f"{chip} prefer=asm m={m} k={k} n={n}: {_short(decision)}")
    for chip, (name, change) in itertools.product(PERSONAS, ODD.items()):
        problem = dataclasses.replace(gemm.GemmProblem(4, 2112, 7168), **change)
        decision = dispatch.decide(gemm.LINEAR, problem, resolve(chip), asked)
        lines.append(f"linear prefer=asm {chip} {name}: {_short(decision)}")
        lines += [f"    note: {note}" for note in decision.notes]
    scaled = {f"n={n}": {"n": n} for n in (1, 4, 16)} | ODD_SCALED
    for chip, (name, change) in itertools.product(("mi300x", "mi308x", "mi355x"), scaled.items()):
        problem = dataclasses.replace(gemm_fp8.ScaledGemmProblem(4, 2112, 7168), **change)
        decision = dispatch.decide(gemm_fp8.WV_SPLIT_K_Q, problem, resolve(chip), asked)
        lines.append(f"wvSplitKQ prefer=asm {chip} {name}: {_short(decision)}")
        lines += [f"    note: {note}" for note in decision.notes]
    return lines


def _trace(call: str, decision: dispatch.Decision) -> list[str]:
    """What a call takes, and why it does not take the other rows of its target."""
    lines = [f"{call}: {_short(decision)}"]
    for item in decision.rejected:
        if not any(f"the target is {decision.persona.target}" in refusal.reason for refusal in item.refusals):
            lines.append(f"    not {item.row}: {'; '.join(map(str, item.refusals))}")
    return lines


def _short(decision: dispatch.Decision) -> str:
    if decision.plan is None:
        return str(chosen(decision))
    numbers = {**dataclasses.asdict(decision.plan), **dataclasses.asdict(decision.plan.tiling)}
    plan = " ".join(f"{name}={int(value)}" for name, value in numbers.items() if name != "tiling")
    return f"{chosen(decision)} {plan}"


def test_decisions_are_the_golden_ones() -> None:
    wanted, found = GOLDEN.read_text().splitlines(), golden_text().splitlines()
    difference = list(difflib.unified_diff(wanted, found, "golden", "now", n=0, lineterm=""))
    assert not difference, "\n".join(["`python tests/test_dispatch.py` writes these anew:", *difference])


@pytest.mark.parametrize(("n", "m", "row"), [(8, 7168, "mma_sync"), (9, 7168, "torch"), (16, 6144, "mma_sync")])
def test_linear_leaves_to_torch_what_torch_does_faster(n: int, m: int, row: str) -> None:
    decision = dispatch.decide(gemm.LINEAR, gemm.GemmProblem(n, m, 2048), resolve("h200"))
    assert chosen(decision) == row
    assert chosen(dispatch.decide(gemm.WV_SPLIT_K, gemm.GemmProblem(n, m, 2048), resolve("h200"))) == "mma_sync"


if __name__ == "__main__":
    GOLDEN.write_text(golden_text())
