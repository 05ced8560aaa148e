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
                    assert cut.shared_bytes <= H200.lds_bytes
                    assert (cut.column_groups - 1) * cut.columns < heads * q_len <= cut.column_groups * cut.columns
                    assert not cut.wide or (heads * q_len > 32 and q == kv != "e4m3fn")
                    assert cut.wide or not problem.plan_units or heads * q_len <= 32 or kv == "e4m3fn"


def test_rows_are_spread_where_that_fills_the_multiprocessors() -> None:
    def cut(heads: int, batch: int, context: int, types: tuple[str, str] = ("bf16", "bf16")) -> tuple[int, int]:
        given = {"batch": batch, "heads": heads, "context": context, "q_dtype": types[0], "kv_dtype": types[1]}
        problem = tables.MlaProblem(**tables.derive({**given, "page_size": 64, "splits": 1}))
        splits = tables.splits_of(H200, problem)
        return mla_sm90.plan_decode(replace(problem, splits=splits), H200).columns, splits

    assert [cut(64, 1, 1024), cut(64, 8, 1024), cut(64, 1, 8192)] == [(16, 16), (16, 4), (16, 32)]
    assert [cut(64, 32, 8192), cut(64, 128, 1024), cut(128, 128, 8192)] == [(64, 4), (64, 1), (64, 1)]
    assert [cut(128, 1, 1024), cut(128, 32, 1024)] == [(16, 8), (32, 1)]
    assert cut(32, 1, 1024) == (32, 16), "few rows have what was measured for them"
    assert cut(64, 1, 1024, ("bf16", "e4m3fn")) == (16, 16)


@pytest.mark.parametrize(("given", "boxes"), [({}, True), ({"page_size": 48}, True), ({"page_size": 24}, False)])
def test_boxes_are_for_pages_that_are_made_of_them(given: dict[str, int], boxes: bool) -> None:
    problem = tables.MlaProblem(**{"batch": 2, "heads": 16, "context": 64, "splits": 1, "page_size": 64, **given})
    (kernel,) = dispatch.decide(tables.DECODE, problem, H200).kernels
    assert [described.box for described in kernel.maps] == [(64, 16, 1)] * boxes
    nothing = replace(problem, pages_exist=False)
    assert not mla_sm90.plan_decode(nothing, H200).boxes, "the driver describes no tensor without elements"


def test_splits_fill_the_multiprocessors_and_not_more() -> None:
    def splits(batch: int, rows: int, context: int) -> int:
        return mla_sm90.unasked_splits(132, batch, rows, context, "bf16", "bf16")

    assert splits(1, 16, 64) == splits(132, 16, 8192) == 1
    assert [splits(batch, 16, 8192) for batch in (8, 32, 66)] == [16, 4, 2]
    assert splits(1, 16, 1024) == 16, "no piece is shorter than a tile"
    assert splits(1, 16, 1 << 20) == mla_sm90.MOST_SPLITS


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
