"""Choices by estimates: the file, what is asked of it, and what the tables take by it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from aiterlite import dispatch, envs
from aiterlite.dispatch import Row, Table, Targets, Wishes
from aiterlite.emulator.calibration import shipped as calibration
from aiterlite.tables import estimated, mla, problems
from aiterlite.tables import fused_moe as moe
from aiterlite.target import Persona, resolve

CHIPS = ("mi300x", "mi308x", "mi355x")
KINDS = ("", "gemv", "two_stage", "one_stage")


def layer(chip: str, wishes: Wishes | None = None, **fields: Any) -> str:
    given = {"experts": 256, "code": resolve(chip).fp8, "shuffled": True, **fields}
    decision = dispatch.decide(moe.TABLE, problems.problem(moe.TABLE, given), resolve(chip), wishes or Wishes())
    assert decision.row is not None
    return decision.row.name


def decode(chip: str | Persona, **fields: Any) -> str:
    persona = resolve(chip) if isinstance(chip, str) else chip
    given = {"batch": 1, "heads": 64, "context": 16384, "splits": 16, **fields}
    decision = dispatch.decide(mla.DECODE, mla.MlaProblem(**given), persona)
    assert decision.row is not None
    return decision.row.name


def test_the_file_is_whole_and_of_the_calibration_of_today() -> None:
    data, fitted = estimated.shipped(), calibration().data
    assert data["calibration"] == {name: fitted[name] for name in ("source", "date", "points")}
    assert set(data["chips"]) == set(CHIPS) and "No time of it was measured" in data["what"]
    for chip, held in data["chips"].items():
        assert held["compute_units"] == resolve(chip).cu_count
        grids = [*held["mla_splits"].values(), *held["mla_tiles"].values()]
        assert set(held["mla_splits"]) == {"bf16", "fp8"}
        for grid in grids:
            assert [len(row) for row in grid["choices"]] == [len(grid["requests"])] * len(grid["tokens"])
            assert all(axis == sorted(set(axis)) for axis in (grid["tokens"], grid["requests"]))
        splits = [number for grid in held["mla_splits"].values() for row in grid["choices"] for number in row]
        assert any(splits) and all(0 <= number <= mla.MOST_SPLITS for number in splits)
        told = [name for grid in held["mla_tiles"].values() for row in grid["choices"] for name in row]
        assert set(told) == {"", "asm"}
        for item in held["fused_moe"]:
            assert len(item["choices"]) == len(item["tokens"]) and set(item["choices"]) <= set(KINDS)


def test_neighbours_on_an_axis() -> None:
    axis = (1, 2, 8, 32)
    assert [estimated.neighbours(axis, value) for value in (1, 8, 32)] == [(0,), (2,), (3,)]
    assert [estimated.neighbours(axis, value) for value in (3, 4, 5, 31)] == [(1, 2), (1, 2), (2, 1), (3, 2)]
    assert [estimated.neighbours(axis, value) for value in (0, 33)] == [(), ()]
    assert estimated.neighbours((), 1) == ()


def test_a_choice_between_numbers_takes_all_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {"tokens": [256, 1024], "requests": [1, 4], "choices": [[64, 32], [16, 0]]}
    layers = [{"layer": [256, 8, 7168, 256], "tokens": [1, 4, 16], "choices": ["gemv", "two_stage", "two_stage"]}]
    tiles = {"2": {"tokens": [256], "requests": [1], "choices": [["asm"]]}}
    tiles["8"] = {"tokens": [256], "requests": [1], "choices": [[""]]}
    chip = {"compute_units": 304, "mla_splits": {"bf16": grid}, "mla_tiles": tiles, "fused_moe": layers}
    monkeypatch.setattr(estimated, "shipped", lambda: {"chips": {"mi300x": chip}})
    asked = (estimated.mla_splits, estimated.mla_tiles, estimated.fused_moe)
    persona = resolve("mi300x")
    for function in asked:
        function.cache_clear()
    try:
        told = [estimated.mla_splits(persona, "bf16", *at) for at in ((256, 1), (256, 3), (600, 1), (500, 3), (100, 1))]
        assert told == [64, 32, 16, 0, 0]
        assert estimated.mla_splits(persona, "e4m3fnuz", 256, 1) == 0
        assert [estimated.mla_tiles(persona, count, 256, 1) for count in (1, 2, 4, 8)] == ["", "asm", "", ""]
        near, far = (257, 9, 7168, 256), (512, 8, 7168, 256)
        assert [estimated.fused_moe(persona, n, near) for n in (1, 2, 4, 8, 17)] == [
            *("gemv", "", "two_stage", "two_stage", "")
        ]
        assert estimated.fused_moe(persona, 1, far) == ""
        for other in (resolve("mi325x"), persona.with_compute_units(76)):
            assert estimated.mla_splits(other, "bf16", 256, 1) == 0
            assert estimated.fused_moe(other, 1, near) == ""
    finally:
        for function in asked:
            function.cache_clear()


def test_a_row_that_data_favours_goes_first_and_a_wish_before_it() -> None:
    @dataclasses.dataclass(frozen=True)
    class Problem:
        size: int

    anywhere = (Targets(("*",)),)
    rows = (
        Row("first", "hip", anywhere, 5),
        Row(
            "favoured", "asm", anywhere, favour=lambda problem, persona: 10 * (problem.size > 1), favoured_by="a guess"
        ),
    )
    table = Table("toy", Problem, rows)

    def taken(size: int, **wishes: Any) -> str | None:
        row = dispatch.decide(table, Problem(size), resolve("mi300x"), Wishes(**wishes)).row
        return row.name if row else None

    assert [taken(1), taken(2)] == ["first", "favoured"]
    rejected = [dispatch.decide(table, Problem(size), resolve("mi300x")).rejected[0].refusals[0] for size in (1, 2)]
    assert [item.reason for item in rejected] == ["first is preferred", "favoured is preferred, a guess"]
    assert [taken(1, prefer="asm"), taken(2, prefer="hip")] == ["favoured", "first"]


def test_pieces_of_a_long_request() -> None:
    """A request of 16 heads and 16,384 tokens alone: more pieces than the rule's 16; other calls keep the rule's."""
    one = mla.MlaProblem(1, 16, 16384)
    for chip in CHIPS:
        persona = resolve(chip)
        rule = mla.unasked_splits(persona.cu_count, 1, 16384)
        assert rule == 16 and mla.splits_of(persona, one) > 16
        half = persona.with_compute_units(persona.cu_count // 2)
        assert mla.splits_of(half, one) == mla.unasked_splits(half.cu_count, 1, 16384)
        for fields in ({"heads": 32}, {"q_len": 2}, {"q_dtype": "fp16", "kv_dtype": "fp16", "out_dtype": "fp16"}):
            assert mla.splits_of(persona, dataclasses.replace(one, **fields)) == rule  # type: ignore[arg-type]
        batch = dataclasses.replace(one, batch=32)
        assert mla.splits_of(persona, batch) == mla.unasked_splits(persona.cu_count, 32, 16384)


@pytest.mark.parametrize("chip", CHIPS)
def test_assembly_for_several_tiles_of_few_requests(chip: str) -> None:
    assert decode(chip) == "decode_asm_bf16_tiles"
    for fields in ({"batch": 64}, {"splits": 64}, {"q_dtype": "fp16", "kv_dtype": "fp16", "out_dtype": "fp16"}):
        assert decode(chip, **fields) == "mfma"
    if chip == "mi355x":  # whose plans fold no heads
        assert decode(chip, splits=0, plan_units=256) == "mfma"
    assert decode(resolve(chip).with_compute_units(32)) == "mfma"


def test_few_tokens_of_a_layer_on_80_compute_units() -> None:
    """What a CU does limits the kernel for few tokens there, and not on chips with 256 or 304 of the same memory."""
    assert [layer("mi308x", tokens=n) for n in (2, 3, 4)] == ["two_stage_80"] * 3
    assert [layer(chip, tokens=2) for chip in ("mi300x", "mi355x")] == ["gemv"] * 2
    others = ({"quant": "none", "code": ""}, {"quant": "token"}, {"masked": True, "global_experts": 512})
    for fields in (*others, {"shuffled": False}):
        assert layer("mi308x", tokens=2, **fields) == "gemv"
    assert layer("mi308x", Wishes(prefer="asm"), tokens=2) == "one_stage_novs"
    assert layer("mi308x", Wishes(vskip=True), tokens=2) == "one_stage_vs"
    assert layer("mi308x", Wishes(vskip=False), tokens=2) == "two_stage_80"


@pytest.mark.torch
@pytest.mark.emulated
@pytest.mark.compile
def test_a_choice_is_what_estimates_say_today(emulator_library: str) -> None:
    """One of them: after a change of kernels or calibration, run benchmarks/estimate_choices.py again."""
    from aiterlite import emulator
    from aiterlite import mla as ops
    from aiterlite.emulator.estimate import estimate, faster
    from aiterlite.ops.samples.mla import paged

    emulator.use_library(emulator_library)
    persona = resolve("mi355x")
    held = []
    for splits in (mla.splits_of(persona, mla.MlaProblem(1, 16, 16384)), 16):
        named = paged(mla.MlaProblem(1, 16, 16384, splits=splits), 0)
        with (
            envs.override(AITERLITE_TARGET="mi355x"),
            emulator.watching(sanitize=False, counters=True) as seen,
        ):
            ops.mla_decode_fwd(*named.values(), 1, num_kv_splits=splits)
        held.append(estimate(seen.counters, persona))
    assert faster(*held) == "A"
