"""The engine of dispatch, on made-up tables; the package's own are in test_dispatch.py."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from decisions import chosen, why

from aiterlite import dispatch
from aiterlite.dispatch import Between, ComputeUnits, Holds, OneOf, Refusal, Row, Table, Targets, Wishes
from aiterlite.errors import DispatchError
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, launch_unit
from aiterlite.tables.gemm_args import GEMM_ARGS
from aiterlite.target import resolve


@dataclass(frozen=True)
class Problem:
    size: int
    kind: str = "a"
    dense: bool = True


@dataclass(frozen=True)
class Plan:
    tile: int


def compiled(problem: Any, persona: Any, plan: Any) -> tuple[Kernel, ...]:
    unit = Unit("toy/toy", ("csrc/toy/toy.hip",), persona.target, (("TILE", str(plan.tile)),))
    return (Kernel(unit, "toy", GEMM_ARGS, (8, 2, 1), (64, 1, 1), cluster=2),)


def row(name: str, *requires: Any, **settings: Any) -> Row:
    return Row(name, "hip", requires, **settings)


def decide(*rows: Row, problem: Problem = Problem(4), chip: str = "mi300x", **wishes: Any) -> dispatch.Decision:
    return dispatch.decide(Table("toy", Problem, rows), problem, resolve(chip), Wishes(**wishes))


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
    kernel = row("kernel", kernels=compiled, plan=lambda problem, persona: Plan(8), preference=1)
    assert chosen(decide(kernel, Row("torch", "torch", ()))) == "kernel"
    decision = decide(kernel, Row("torch", "torch", ()), jit_off=True)
    assert chosen(decision) == "torch"
    assert why(decision, "kernel") == "AITERLITE_JIT=off (AITERLITE_JIT=auto or require-cache)"


def test_only_the_chosen_row_is_planned() -> None:
    def refuse(problem: Any, persona: Any) -> Any:
        raise AssertionError("planned a row that does not apply")

    planned = row("planned", kernels=compiled, plan=lambda problem, persona: Plan(problem.size * 2))
    decision = decide(planned, row("other", Between("size", 8, 9), plan=refuse), row("later", plan=refuse))
    assert decision.plan == Plan(8)
    assert [unit.label for unit in decision.units] == ["toy/toy[tile=8] for gfx942", launch_unit().label]


def test_a_decision_tells_itself_to_people_and_programs() -> None:
    planned = row("planned", kernels=compiled, plan=lambda problem, persona: Plan(8))
    decision = decide(planned, row("other", Holds("dense", False, "dense", "stride it")))
    assert str(decision).splitlines() == [
        "toy(size=4, kind=a, dense=True) on mi300x (gfx942, 304 CUs)",
        "  -> planned (hip)",
        "     tile=8",
        "     kernel toy grid 8 x 2, block 64, clusters of 2",
        "     unit toy/toy[tile=8] for gfx942",
        f"     unit {launch_unit().label}",
        "  not other: dense (stride it)",
    ]
    data = json.loads(json.dumps(decision.to_json()))
    units = ["toy/toy[tile=8] for gfx942", launch_unit().label]
    assert (data["chosen"], data["plan"], data["units"]) == ("planned", {"tile": 8}, units)
    kernel = {"unit": units[0], "symbol": "toy", "grid": [8, 2, 1], "block": [64, 1, 1], "lds": 0, "cluster": 2}
    assert data["kernels"] == [kernel]
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
