"""MLA decode's kernels for sm_90a: how calls are cut, and that ptxas keeps all of it in registers. No GPU is needed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

pytest.importorskip("torch")

from aiterlite import dispatch
from aiterlite.jit import engine
from aiterlite.tables import mla as tables
from aiterlite.tables import mla_sm90
from aiterlite.target import resolve

H200 = resolve("h200")


def test_every_call_is_cut_so_that_it_fits() -> None:
    for q, kv, out in tables.TYPES:
        if "e4m3fnuz" in (q, kv):
            continue
        for heads in range(1, 129):
            for q_len, page_size in itertools.product((1, 3), (1, 16, 64)):
                for given in ({"splits": 1}, {"splits": 5}, {"splits": 0, "plan_units": 132}):
                    problem = tables.MlaProblem(2, heads, 64, q_len, page_size, q, kv, out, **given)
                    cut = mla_sm90.plan_decode(problem, H200)
                    assert cut.boxes == (page_size > 1)
                    assert not cut.ranks or (q_len == 1 and not problem.plan_units)
                    assert cut.shared_bytes <= H200.lds_bytes
                    assert (cut.column_groups - 1) * cut.columns < heads * q_len <= cut.column_groups * cut.columns
                    assert not cut.wide or (heads * q_len > 32 and q == kv != "e4m3fn")
                    assert cut.grid % max(1, cut.ranks) == 0
                    assert cut.wide or not problem.plan_units or heads * q_len <= 32 or kv == "e4m3fn"


def cut_of(heads: int, batch: int, context: int, kv_dtype: str = "bf16", q_len: int = 1) -> tuple[int, int, int]:
    """Rows of q a workgroup, ranks, splits."""
    given = {"batch": batch, "heads": heads, "context": context, "kv_dtype": kv_dtype, "q_len": q_len}
    problem = tables.MlaProblem(**tables.derive({**given, "page_size": 64, "splits": 1}))
    splits = tables.splits_of(H200, problem)
    plan = mla_sm90.plan_decode(replace(problem, splits=splits), H200)
    return plan.columns, plan.ranks, splits


def test_few_tokens_are_shared_by_a_cluster_and_many_fill_the_multiprocessors() -> None:
    """As they were measured to be done first."""
    assert [cut_of(heads, 1, 1024) for heads in (16, 32, 64)] == [(16, 16, 1)] * 3
    assert cut_of(16, 8, 1024) == (16, 8, 1)
    assert [cut_of(16, 32, 1024), cut_of(16, 128, 1024)] == [(16, 2, 1), (16, 1, 1)]
    assert [cut_of(heads, 1, 8192) for heads in (64, 128)] == [(16, 1, 32), (32, 1, 32)]
    assert [cut_of(heads, 128, 8192)[:2] for heads in (16, 32, 64, 128)] == [(16, 1), (32, 1), (64, 0), (64, 0)]
    assert [cut_of(16, batch, 8192, "e4m3fn")[1] for batch in (1, 8, 32)] == [8, 0, 0]
    assert [cut_of(heads, 8, 1024, "e4m3fn")[1] for heads in (64, 128)] == [0, 2]
    assert cut_of(16, 1, 1024, q_len=2)[1] == 0, "it takes one row of q"
    small = H200.with_compute_units(16)
    few = tables.MlaProblem(1, 16, 1024, page_size=64)
    assert mla_sm90.plan_decode(few, small).ranks <= 8, "clusters of 16 need a large multiprocessor group"


@pytest.mark.parametrize(("given", "boxes"), [({}, True), ({"page_size": 48}, True), ({"page_size": 24}, False)])
def test_boxes_are_for_pages_that_are_made_of_them(given: dict[str, int], boxes: bool) -> None:
    given = {"batch": 2, "heads": 8, "context": 64, "q_len": 2, "splits": 1, "page_size": 64, **given}
    problem = tables.MlaProblem(**given)
    (kernel,) = dispatch.decide(tables.DECODE, problem, H200).kernels
    assert [described.box for described in kernel.maps] == [(64, 16, 1)] * boxes
    nothing = replace(problem, pages_exist=False)
    assert not mla_sm90.plan_decode(nothing, H200).boxes, "the driver describes no tensor without elements"


def test_splits_fill_the_multiprocessors_and_not_more() -> None:
    def splits(batch: int, q_len: int, context: int) -> int:
        return mla_sm90.unasked_splits(tables.MlaProblem(batch, 8, context, q_len), H200)

    assert splits(1, 2, 64) == splits(132, 2, 8192) == 1
    assert [splits(batch, 2, 8192) for batch in (8, 32, 66)] == [16, 4, 2]
    assert splits(1, 2, 1024) == 16, "no piece is shorter than a tile"
    assert splits(1, 2, 1 << 20) == mla_sm90.MOST_SPLITS


def test_boxes_of_a_tile_are_for_pages_that_are_made_of_them() -> None:
    found = []
    for page_size in (1, 16, 48, 64, 128):
        problem = tables.MlaProblem(2, 16, 1024, page_size=page_size)
        kernel = dispatch.decide(tables.DECODE, problem, H200).kernels[0]
        found.append([described.box for described in kernel.maps])
        assert kernel.cluster > 1 and kernel.grid[0] % kernel.cluster == 0
    assert found == [[], [(64, 16, 1)], [(64, 16, 1)], [(64, 64, 3, 1)], [(64, 64, 3, 1)]]


@pytest.mark.compile
@pytest.mark.nvcc
@pytest.mark.parametrize(
    ("heads", "types", "planned", "page_size"),
    [
        (16, ("bf16", "bf16"), True, 64),
        (32, ("bf16", "bf16"), True, 64),
        (32, ("fp16", "fp16"), False, 1),
        (32, ("bf16", "e4m3fn"), True, 64),
        (16, ("e4m3fn", "e4m3fn"), False, 1),
        (64, ("bf16", "bf16"), True, 1),
        (64, ("bf16", "bf16"), True, 64),
        (64, ("fp16", "fp16"), True, 64),
        (64, ("bf16", "bf16"), False, 64),
    ],
)
def test_nothing_is_spilled(heads: int, types: tuple[str, str], planned: bool, page_size: int) -> None:
    """A register that is spilled costs every tile."""
    given = {
        "batch": 2 if heads < 64 else 140,
        "heads": heads,
        "context": 64,
        "q_dtype": types[0],
        "kv_dtype": types[1],
    }
    given |= {"page_size": page_size}
    given |= {"plan_units": 132} if planned else {"splits": 2}
    problem = tables.MlaProblem(**tables.derive(given))
    for kernel in dispatch.decide(tables.DECODE, problem, H200).kernels:
        used = engine.obtain(kernel.unit, build=True).entry.meta["resources"][kernel.symbol]
        assert not any(used[name] for name in ("spill_store_bytes", "spill_load_bytes", "stack_bytes")), used


@pytest.mark.compile
@pytest.mark.nvcc
@pytest.mark.parametrize(
    ("columns", "ranks", "types", "page_size"),
    [
        (16, 16, ("bf16", "bf16"), 64),
        (32, 8, ("bf16", "bf16"), 64),
        (32, 1, ("bf16", "bf16"), 1),
        (32, 1, ("bf16", "e4m3fn"), 1),
        (16, 8, ("e4m3fn", "e4m3fn"), 64),
    ],
)
def test_nothing_is_spilled_with_few_tokens(
    monkeypatch: pytest.MonkeyPatch, columns: int, ranks: int, types: tuple[str, str], page_size: int
) -> None:
    monkeypatch.setattr(mla_sm90, "short_cut", lambda problem, *_: mla_sm90.Short(columns, ranks, problem.splits))
    given = {"batch": 2, "heads": 32, "context": 512, "page_size": page_size}
    problem = tables.MlaProblem(**tables.derive({**given, "q_dtype": types[0], "kv_dtype": types[1], "splits": 1}))
    (kernel,) = dispatch.decide(tables.DECODE, problem, H200).kernels
    used = engine.obtain(kernel.unit, build=True).entry.meta["resources"][kernel.symbol]
    assert not any(used[name] for name in ("spill_store_bytes", "spill_load_bytes", "stack_bytes")), used
