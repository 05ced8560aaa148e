"""Shape words, the sweeps that they change, and problems from plain data; on tables that are made up."""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Literal

import pytest
from toy_family.tables import TABLE

from aiterlite.cli import words
from aiterlite.dispatch import Axis, Table
from aiterlite.tables import FAMILIES, TABLES, problems


def test_words_replace_the_axes_that_hold_their_fields() -> None:
    def found(*texts: str) -> list[tuple[int, int, int, bool]]:
        return [(p.heads, p.width, p.batch, p.whole) for p in words.problems_of(TABLE, words.read(texts))]

    swept = [(3, 256, 1, True), (3, 256, 2, True), (2, 300, 1, False), (2, 300, 2, False)]
    assert found() == swept
    assert found("batch=5") == [(3, 256, 5, True), (2, 300, 5, False)]
    assert found("heads:width=7:512,8:9", "batch=1") == [(7, 512, 1, True), (8, 9, 1, False)]
    assert found("width=512,9", "heads=7", "batch=1") == [(7, 512, 1, True), (7, 9, 1, False)]
    assert found("batch=1,1", "whole=0", "heads:width=7:512") == [(7, 512, 1, False)]
    assert found("heads:width:batch=1:2:3,4:5:6") == [(1, 2, 3, False), (4, 5, 6, False)]


def test_words_that_an_unnamed_operator_cannot_take_leave_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose field of the same name is something else, goes with others, or is of a type that words cannot give."""
    class_of = {
        "other": make_dataclass("Other", [("n", bool)], frozen=True),
        "bound": make_dataclass("Bound", [("n", int), ("depth", int)], frozen=True),
        "odd": make_dataclass("Odd", [("n", dict)], frozen=True),
    }
    sweeps: dict[str, tuple[Axis, ...]] = {"bound": (Axis(("n", "depth"), ((1, 2),)),)}
    for name, kind in class_of.items():
        monkeypatch.setitem(TABLES, name, Table(name, kind, (), sweeps.get(name, ())))
    read = words.read(["n=4", "m=64", "k=512"])
    found = words.problems_of_all(list(TABLES.values()), read)
    gemms = [table.op for family in ("gemm", "gemm_a8w8", "gemm_mxfp4") for table in FAMILIES[family].tables]
    assert [table.op for table, _ in found] == gemms
    with pytest.raises(words.UsageError, match="bound: n and depth go together"):
        words.problems_of_all([TABLES["wvSplitK"], TABLES["bound"]], read, named=True)


def test_problems_are_held_against_their_dataclass() -> None:
    parts = [
        ("sizes", tuple[int, ...]),
        ("pair", tuple[int, str]),
        ("mode", Literal["a", "b"]),
        ("cap", int | None),
        ("scale", float),
    ]
    table = Table("made", make_dataclass("Made", parts, frozen=True), ())
    good = {"sizes": [1, 2], "pair": [1, "x"], "mode": "a", "cap": None, "scale": 2}
    made = problems.problem(table, good)
    assert (made.sizes, made.pair, made.cap, made.scale) == ((1, 2), (1, "x"), None, 2.0)
    assert problems.problem(table, {**good, "cap": 3}).cap == 3
    for bad in ({"sizes": [1, "2"]}, {"pair": [1]}, {"mode": "c"}, {"cap": "3"}, {"scale": True}, {"sizes": 5}):
        (name,) = bad
        with pytest.raises(ValueError, match=f"made: {name}"):
            problems.problem(table, {**good, **bad})
    with pytest.raises(ValueError, match="made needs mode, cap"):
        problems.problem(table, {"sizes": [], "pair": [1, ""], "scale": 0.5})
    with pytest.raises(ValueError, match="made has no field depth; it has sizes"):
        problems.problem(table, {**good, "depth": 1})
