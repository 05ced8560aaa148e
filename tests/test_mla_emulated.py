"""The MLA kernels of gfx942 and gfx950, emulated with all sanitizers, small: types, heads, rows, splits and plans."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import AMD, on  # noqa: E402
from mla_cases import (  # noqa: E402
    Batch,
    assert_nothing_leaks,
    assert_right,
    assert_rows_before_and_behind_are_no_request_s,
    batch,
    plan,
    ringed,
    run,
)

from aiterlite import dispatch, envs  # noqa: E402
from aiterlite.emulator import watching  # noqa: E402
from aiterlite.jit import engine, toolchain  # noqa: E402
from aiterlite.mla import mla_prefill_fwd, mla_reduce_v1  # noqa: E402
from aiterlite.reference import mla as reference  # noqa: E402
from aiterlite.tables import mla as tables  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.compile,
    pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd")),
]
FP8 = {"gfx942": "e4m3fnuz", "gfx950": "e4m3fn"}

# heads, rows of each request, tokens of each, (q, KV) with "fp8" for the target's own, page size, options: splits, or
# the fold and tile of a plan; and the compute units of the chip, of which few leave each workgroup several tiles.
CASES = [
    (16, [1, 2, 1], [50, 0, 7], ("bf16", "bf16"), 1, {"splits": 2, "units": 6}),
    (64, [1, 1], [41, 9], ("fp16", "fp16"), 1, {"splits": 2}),
    (8, [2, 1], [70, 1], ("bf16", "fp8"), 64, {"splits": 3, "causal": False}),
    (24, [1, 3], [33, 9], ("bf16", "bf16"), 16, {"tile": 2}),
    (64, [1, 1], [35, 20], ("fp8", "fp8"), 1, {"fold": 4}),
    (128, [1, 1], [40, 0], ("fp8", "fp8"), 16, {"tile": 1}),
    (96, [5], [8], ("fp8", "fp8"), 64, {"fold": 6}),
    (48, [8], [17], ("fp16", "fp16"), 1, {"splits": 1, "units": 8}),
]


def options(case: Batch, heads: int, given: dict[str, Any]) -> dict[str, Any]:
    causal = {"causal": given.get("causal", True)}
    if "splits" in given:
        return {"num_kv_splits": given["splits"], **causal}
    return {**plan(case, heads, given.get("fold", 1), workgroups=3, tile=given.get("tile", 8), seed=1), **causal}


@pytest.mark.parametrize("target", AMD)
@pytest.mark.parametrize(("heads", "counts", "lengths", "types", "page_size", "given"), CASES)
def test_decode(
    heads: int,
    counts: list[int],
    lengths: list[int],
    types: tuple[str, str],
    page_size: int,
    given: dict[str, Any],
    target: str,
    sanitized: Any,
) -> None:
    q, kv = (FP8[target] if name == "fp8" else name for name in types)
    case = batch(lengths, counts, heads, types=(q, kv), page_size=page_size, seed=heads)
    with on(f"{target}:{given['units']}" if "units" in given else target):
        got = run(case, **options(case, heads, given))
    assert_right(got, case.exact(given.get("causal", True)))


def test_rows_are_spread_where_each_workgroup_has_a_unit() -> None:
    """One tile of rows a workgroup for few pieces, all of them where pieces fill the chip, and with a plan."""
    problem = tables.MlaProblem(1, 64, 4096, splits=16)
    expected = (
        ("mi300x", 1, 1),
        ("mi300x", 4, 1),
        ("mi300x", 8, 2),
        ("mi300x", 16, 4),
        ("mi308x", 4, 4),
    )
    for chip, requests, tiles in expected:
        found = tables.plan_decode(replace(problem, batch=requests), resolve(chip))
        assert (found.column_tiles, found.column_groups) == (tiles, 4 // tiles), (chip, requests)
        assert found.grid == 16 * requests * found.column_groups
    planned = replace(problem, splits=0, plan_units=16)
    assert tables.plan_decode(planned, resolve("mi355x")).column_tiles == 4
    # Of gfx942's folds a piece has one tile; where q of 8 bits is not folded, a client may have planned for that.
    for kv_dtype, heads, tiles, spare in (
        ("bf16", 64, 1, False),
        ("e4m3fnuz", 64, 4, True),
        ("e4m3fnuz", 48, 1, False),
    ):
        found = tables.plan_decode(replace(planned, heads=heads, kv_dtype=kv_dtype), resolve("mi300x"))
        assert (found.column_tiles, found.column_groups, found.spare) == (tiles, 1, spare)
    assert tables.plan_decode(replace(problem, heads=128), resolve("mi308x")).column_tiles == 2


@pytest.mark.parametrize(("types", "fold"), [(("bf16", "e4m3fnuz"), 4), (("e4m3fnuz", "e4m3fnuz"), 1)])
def test_a_plan_without_stamps_is_read_by_the_table(types: tuple[str, str], fold: int, sanitized: Any) -> None:
    """As upstream would on gfx942: 64 heads of a 16-bit q are folded, of an 8-bit one they are not."""
    case = batch([40, 7], [1, 1], 64, types=types)
    with on("gfx942"):
        got = run(case, **plan(case, 64, fold, stamp=False, seed=3))
    assert_right(got, case.exact())


@pytest.mark.parametrize("target", AMD)
def test_what_must_not_be_read_changes_no_bit(target: str, sanitized: Any) -> None:
    with on(target) as device:
        assert_nothing_leaks(device)


@pytest.mark.parametrize("target", AMD)
def test_rows_before_and_behind_requests_stay(target: str, sanitized: Any) -> None:
    with on(target) as device:
        assert_rows_before_and_behind_are_no_request_s(device, (2,))


@pytest.mark.parametrize("target", AMD)
@pytest.mark.parametrize("dim", tables.MERGED_DIMS)
def test_merge(dim: int, target: str, sanitized: Any) -> None:
    generator = torch.Generator().manual_seed(dim)
    part, lse = torch.randn(6, 6, dim, generator=generator), torch.randn(6, 6, generator=generator)
    lse[2], part[2] = -math.inf, math.nan
    indptr = torch.tensor([0, 3, 4, 6], dtype=torch.int32)
    final_map = torch.tensor([[0, 1], [1, 2], [2, 3]], dtype=torch.int32)
    partial_map = torch.tensor([0, 2, 4, 1, 3, 5], dtype=torch.int32)
    whole, _ = torch.full((5, 6, dim), 7.0, dtype=torch.bfloat16), None
    out, out_lse = whole[1:4], torch.full((3, 6), 7.0)
    with on(target):
        mla_reduce_v1(part, lse, indptr, final_map, partial_map, 1, 0, out, out_lse)
    assert bool((whole[[0, 2, 4]] == 7).all() and (out_lse[1] == 7).all())
    for row, of in ((0, [0, 2, 4]), (2, [3, 5])):
        value, log_sum = reference.merge(part[of], lse[of])
        torch.testing.assert_close(out[row].double(), value, rtol=2**-7, atol=2**-8)
        torch.testing.assert_close(out_lse[row].double(), log_sum, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", AMD)
def test_prefill(target: str, sanitized: Any) -> None:
    case = batch([20, 6], [9, 6], 16)
    o, _ = ringed(15, 16, torch.bfloat16)
    with on(target):
        _, lse = mla_prefill_fwd(case.q, case.kv_buffer, o, *case.pages, 9)
    assert_right((o, lse[:, 0, :, 0]), case.exact())


@pytest.mark.parametrize("chip", ["gfx942", "gfx950"])
@pytest.mark.parametrize(("heads", "requests"), [(16, 2), (64, 256)])
def test_nothing_goes_through_scratch(heads: int, requests: int, chip: str) -> None:
    """Sums and q stay in registers: a vector register that is spilled costs every tile."""
    fp8 = resolve(chip).fp8
    for types in ({}, {"q_dtype": fp8}):
        problem = tables.MlaProblem(
            **tables.derive({"batch": requests, "heads": heads, "context": 64, "splits": 2, **types})
        )
        for kernel in dispatch.decide(tables.DECODE, problem, resolve(chip)).kernels:
            used = engine.obtain(kernel.unit, build=True).entry.meta["resources"][kernel.symbol]
            spilled = ("vgpr_spills", "scratch_bytes", "spill_store_bytes", "spill_load_bytes")
            assert not any(used.get(name) for name in spilled), f"{kernel}: {used}"


@pytest.mark.parametrize("target", AMD)
@pytest.mark.parametrize("types", [("bf16", "bf16"), ("bf16", "fp8")], ids=str)
def test_kv_is_read_once_and_q_too(types: tuple[str, str], target: str) -> None:
    """Of whole tiles no byte of KV twice, and q by one wave for each tile of columns, or in parts."""
    q, kv = (FP8[target] if name == "fp8" else name for name in types)
    case = batch([128, 192], [1, 1], 16, types=(q, kv), seed=5)
    with on(target), envs.override(AITERLITE_PREFER="hip"), watching(sanitize=False, counters=True) as seen:
        run(case, num_kv_splits=1)
    (counted,) = [item["arguments"] for item in seen.counters if "decode" in item["kernel"]]
    assert counted["kv_buffer"]["read"] == counted["kv_buffer"]["unique_read"] == 320 * 576 * case.kv_buffer.itemsize
    assert counted["q"]["read"] == counted["q"]["unique_read"] == 2 * 16 * 576 * case.q.itemsize


@pytest.mark.parametrize("chip", AMD)
def test_tiles_fit_every_chip(chip: str) -> None:
    persona = resolve(chip)
    for q, kv, out in tables.TYPES:
        for heads in range(1, 129):
            for requests in (2, 256):
                cut = tables.plan_decode(tables.MlaProblem(requests, heads, 64, 3, 1, q, kv, out), persona)
                assert cut.shared_bytes <= persona.lds_bytes and cut.column_tiles * cut.column_groups >= heads * 3 / 16
