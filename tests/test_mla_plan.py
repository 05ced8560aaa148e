"""Plans of MLA decode: the kernels against the contract step by step (aiterlite/reference/mla_plan.py), and what must
hold of any plan, on the CPU and emulated."""

from __future__ import annotations

import inspect
import itertools
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import mla_plans  # noqa: E402
from mla_plans import Buffers, Case, case_of, prefix  # noqa: E402
from torch import Tensor  # noqa: E402

from aiterlite import envs, kernel  # noqa: E402
from aiterlite import mla as ops  # noqa: E402
from aiterlite.emulator.observe import Recording  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.jit import engine, toolchain  # noqa: E402
from aiterlite.ops import mla_plan_operators as operators  # noqa: E402
from aiterlite.ops.operator import OPERATORS  # noqa: E402
from aiterlite.ops.samples import sample  # noqa: E402
from aiterlite.reference import mla_plan as reference  # noqa: E402
from aiterlite.reference.mla_plan import PlanCall, Planned  # noqa: E402
from aiterlite.tables import TABLES, problems  # noqa: E402
from aiterlite.tables import mla_plan as tables  # noqa: E402
from aiterlite.tables.mla_plan import PLANNERS, Sizes  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = pytest.mark.compile
needs_amdgpu_clang = pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd"))
emulated = [pytest.mark.emulated, needs_amdgpu_clang]
TARGETS = ["cpu", *(pytest.param(name, marks=emulated) for name in ("gfx942", "gfx950"))]
BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn


def plan(case: Case) -> Planned:
    buffers, expected = Buffers(case.held), case.expected()
    mla_plans.run(case, buffers)
    mla_plans.check_equal(case, buffers, expected)
    return expected


# The contract, and the kernels by it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("planner", PLANNERS)
@settings(max_examples=300)
@given(source=st.randoms(use_true_random=False))
def test_pieces_cover_every_token_once_in_order(planner: str, source: random.Random) -> None:
    case = case_of(source, planner)
    mla_plans.check_covers(case, case.expected())


@pytest.mark.parametrize(("planner", "count"), [("fast", 900), ("intra", 700), ("cost", 400)])
def test_the_cpu_plans_by_the_contract(planner: str, count: int) -> None:
    source = random.Random(planner)
    for _ in range(count):
        case = case_of(source, planner)
        mla_plans.check_covers(case, plan(case))


@pytest.mark.emulated
@needs_amdgpu_clang
@pytest.mark.parametrize("target", ["gfx942", "gfx950"])
def test_the_device_plans_by_the_contract(target: str, sanitized: Recording) -> None:
    """Also more tiles than a workgroup has threads, and more pieces."""
    with envs.override(AITERLITE_TARGET=target):
        for planner in PLANNERS:
            source = random.Random(f"{planner} {target}")
            for _ in range(30):
                plan(case_of(source, planner))
            plan(large(planner))
    assert sanitized.launches


def large(planner: str) -> Case:
    source = random.Random(3)
    kv = [source.choice([0, 5, source.randint(0, 4000)]) for _ in range(150)]
    held = Sizes(304, 600 + 304 if planner == "fast" else 600 * 16, 600, 600 * 16)
    call = PlanCall(
        qo_indptr=prefix([2] * 150),
        kv_indptr=prefix(kv),
        kv_last_page_lens=[1] * 150,
        heads=16,
        fold=4,
        tile_tokens=8,
        max_q=2,
        uniform_q=2,
        page_size=1,
        granularity=16,
        trim=True,
        units=304,
        splits=tables.most_pieces(planner, held, 600, 0),
        fixed_splits=16,
        reduce_tiles=600,
    )
    return Case(planner, call, held)


def test_indices_that_are_no_prefix_sums_write_nothing_outside() -> None:
    """As those of a graph that is captured before anything is in them."""
    source = random.Random(1)
    for planner in PLANNERS:
        for _ in range(40):
            case = case_of(source, planner)
            noise = [source.choice([0, -(2**31), 2**31 - 1, source.randint(-(2**31), 2**31 - 1)]) for _ in range(200)]
            call = replace(case.call, kv_indptr=noise[: case.batch + 1], qo_indptr=noise[100 : case.batch + 101])
            buffers = Buffers(case.held)
            mla_plans.run(replace(case, call=call), buffers)
            buffers.check_rings()


# Where upstream divides by zero or passes the end ---------------------------------------------------------------------


def simple(planner: str, kv: list[int], **changes: Any) -> Case:
    batch = len(kv)
    held = changes.pop("held", Sizes(80, 64 * batch, batch, 64 * batch))
    call = PlanCall(
        qo_indptr=prefix([1] * batch),
        kv_indptr=prefix(kv),
        kv_last_page_lens=[1] * batch,
        heads=16,
        fold=1,
        tile_tokens=8,
        max_q=1,
        uniform_q=1,
        page_size=1,
        granularity=16,
        trim=False,
        units=held.units,
        splits=tables.most_pieces(planner, held, batch, changes.pop("most", 0)),
        fixed_splits=changes.pop("fixed_splits", 0),
        reduce_tiles=held.reduce_tiles,
    )
    return Case(planner, replace(call, **changes), held)


def pieces(case: Case) -> list[int]:
    """How many rows each request has."""
    rows = [row[0] for row in plan(case).work_info_set]
    return [rows.count(request) for request in range(case.batch)]


def test_intra_makes_one_piece_of_less_than_196_tokens() -> None:
    assert pieces(simple("intra", [1, 195, 196, 392, 0])) == [1, 1, 1, 2, 0]


def test_intra_makes_no_more_pieces_than_buffers_or_the_call_allow() -> None:
    kv = [4096, 8192]
    assert pieces(simple("intra", kv, fixed_splits=16)) == [16, 16]
    assert pieces(simple("intra", kv, fixed_splits=16, most=5)) == [5, 5]
    assert pieces(simple("intra", kv, fixed_splits=16, held=Sizes(80, 8, 2, 9))) == [4, 4]
    assert pieces(simple("intra", kv, fixed_splits=16, held=Sizes(80, 99, 2, 7))) == [3, 3]


def test_fast_divides_by_fewer_workgroups_where_buffers_hold_less() -> None:
    assert sum(pieces(simple("fast", [9000] * 4))) == 83
    assert sum(pieces(simple("fast", [9000] * 4, held=Sizes(80, 10, 4, 64)))) <= 10
    assert sum(pieces(simple("fast", [9000] * 4, held=Sizes(80, 64, 4, 3)))) <= 5
    assert sum(pieces(simple("fast", [9000] * 4, most=8))) <= 11


def test_a_short_last_piece_is_joined() -> None:
    """Of 4 tokens where pieces are equal; of fewer than there are queries where they fill a budget."""
    assert pieces(simple("intra", [12 * 16 + 4], fixed_splits=4)) == [3]
    assert pieces(simple("intra", [12 * 16 + 5], fixed_splits=4)) == [4]
    for rest, expected in ((1, 1), (2, 1), (3, 2)):
        given = {"granularity": 64, "max_q": 3, "uniform_q": 3, "qo_indptr": [0, 3]}
        assert pieces(simple("fast", [18 * 64 + rest], held=Sizes(2, 2, 1, 2), **given)) == [expected]


# Public functions -----------------------------------------------------------------------------------------------------


def ints(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def buffers_for(batch: int, q_len: int, heads: int, dtype: torch.dtype, **mode: Any) -> Buffers:
    """Ringed, of the sizes and in the order of get_mla_metadata_info_v1."""
    info = ops.get_mla_metadata_info_v1(batch, q_len, heads, dtype, dtype, is_sparse=False, **mode)
    (two, pointers), (indptr, _), (rows, _), (tiles, _), (final, _), (entries, _) = info
    assert (two, pointers) == (2, torch.uint64) and all(dtype == torch.int32 for _, dtype in info[1:])
    assert rows[1] == 8 and final == (tiles - 1, 2)
    return Buffers(Sizes(indptr - 1, rows[0], tiles - 1, entries))


def check_plan(buffers: Buffers, kv: list[int], queries: list[int], longest: int) -> None:
    """Every token of each folded request is covered once, up to where it sees KV, by the fold that the rows carry."""
    held = {name: tensor.tolist() for name, tensor in buffers.inner.items()}
    rows = held["work_info_set"][: held["work_indptr"][-1]]
    folds = {row[7] ^ 0x4D4C0000 for row in rows}
    assert len(folds) == 1 or not any(kv)
    fold = folds.pop() if folds else 1
    kv_indptr, qo_indptr = prefix(kv), prefix(queries)
    seen: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for folded, _, start, end, kv_start, kv_end, offset, _ in rows:
        base = folded * longest if fold > 1 else qo_indptr[folded]
        assert base <= start < end <= base + queries[folded // fold]
        assert kv_end + offset == kv_indptr[folded // fold + 1]
        for token in range(start, end):
            seen.setdefault((folded, token - base), []).append((kv_start, kv_end))
    for folded in range(len(kv) * fold):
        begin, after = kv_indptr[folded // fold : folded // fold + 2]
        count = queries[folded // fold]
        for token in range(count):
            own = sorted(seen.get((folded, token), []))
            assert [piece[0] for piece in own] == [begin, *(piece[1] for piece in own[:-1])][: len(own)]
            needed = max(begin, after - (count - 1 - token))
            assert (own[-1][1] if own else begin) >= needed
    buffers.check_rings()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("q_len", [1, 4])
@pytest.mark.parametrize(("fast", "intra"), [(True, False), (False, True), (False, False)])
def test_plans_of_64_heads_in_fp8(target: str, q_len: int, fast: bool, intra: bool) -> None:
    """Sizes for the largest batch and query, refilled for smaller ones: upstream wrote past them."""
    mode = {"fast_mode": fast, "intra_batch_mode": intra}
    source = random.Random(2)
    with envs.override(AITERLITE_TARGET=target):
        buffers = buffers_for(24, q_len, 64, FP8, num_kv_splits=32, **mode)
        for batch in (24, 3, 1):
            for q in sorted({1, q_len}):
                kv = [source.randint(q, 5000) for _ in range(batch)]
                ops.get_mla_metadata_v1(
                    ints(prefix([q] * batch)), ints(prefix(kv)), ints([1] * batch), 64, 1, True, *buffers.in_order,
                    kv_granularity=16, max_seqlen_qo=q, uni_seqlen_qo=q, max_split_per_batch=32,
                    dtype_q=FP8, dtype_kv=FP8, **mode,
                )  # fmt: skip
                check_plan(buffers, kv, [q] * batch, q)


def test_buffers_hold_every_shorter_query() -> None:
    """gfx950 plans three tokens of 32 bf16 heads as two tiles, and four as one."""
    kv = [500] * 6
    with envs.override(AITERLITE_TARGET="gfx950"):
        info = ops.get_mla_metadata_info_v1(6, 4, 32, BF16, BF16, False)
        assert info[3][0] == 6 * 2 + 1
    with envs.override(AITERLITE_TARGET="cpu"):
        buffers = buffers_for(6, 4, 32, BF16)
        for q in (1, 2, 3, 4):
            args = ints(prefix([q] * 6)), ints(prefix(kv)), ints([1] * 6), 32, 1, False, *buffers.in_order
            ops.get_mla_metadata_v1(*args, max_seqlen_qo=q, uni_seqlen_qo=q)
            check_plan(buffers, kv, [q] * 6, q)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("heads", [16, 32, 64, 128])
def test_a_client_that_chooses_its_mode_by_heads(target: str, heads: int) -> None:
    """SGLang: buffers once for the largest batch and draft, refilled with fewer; no causal plan; pages of one token.
    Under DP attention it asks for so few splits that 16 a request do not fit."""
    source = random.Random(heads)
    fast = heads in (32, 64, 128)
    mode = {"fast_mode": fast, "intra_batch_mode": not fast}
    with envs.override(AITERLITE_TARGET=target):
        for splits in (32, 5):
            buffers = buffers_for(20, 4, heads, FP8, num_kv_splits=splits, **mode)
            for batch, q in ((20, 4), (1, 1), (7, 4), (20, 1)):
                kv = [source.choice([q, source.randint(q, 9000)]) for _ in range(batch)]
                ops.get_mla_metadata_v1(
                    ints(prefix([q] * batch)), ints(prefix(kv)), ints([1] * batch), heads, 1, False,
                    *buffers.in_order, kv_granularity=16, max_seqlen_qo=q, uni_seqlen_qo=q,
                    max_split_per_batch=splits, dtype_q=FP8, dtype_kv=FP8, **mode,
                )  # fmt: skip
                check_plan(buffers, kv, [q] * batch, q)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("heads", "q_dtype"), [(16, BF16), (32, BF16), (128, BF16), (64, FP8)])
def test_a_client_that_mixes_queries(target: str, heads: int, q_dtype: torch.dtype) -> None:
    """vLLM: buffers once, a causal plan, queries of one length or, folded too, of several; a request of length 0 pads
    the batch."""
    source = random.Random(heads)
    with envs.override(AITERLITE_TARGET=target):
        buffers = buffers_for(24, 4, heads, q_dtype)
        for batch, uniform in ((24, 4), (9, -1), (24, -1), (3, 1)):
            q = [uniform if uniform > 0 else source.randint(0, 4) for _ in range(batch)]
            kv = [source.choice([0, length, source.randint(length, 3000)]) for length in q]
            longest = uniform if uniform > 0 else 4
            ops.get_mla_metadata_v1(
                ints(prefix(q)), ints(prefix(kv)), ints([1] * batch), heads, 1, True, *buffers.in_order, page_size=1,
                kv_granularity=16, max_seqlen_qo=longest, uni_seqlen_qo=uniform, fast_mode=True,
                dtype_q=q_dtype, dtype_kv=q_dtype,
            )  # fmt: skip
            check_plan(buffers, kv, q, longest)


def arguments(**changes: Any) -> dict[str, Any]:
    buffers = buffers_for(4, 2, 16, BF16)
    names = ("work_metadata_ptrs", "work_info_set", "work_indptr", "reduce_indptr", "reduce_final_map",
             "reduce_partial_map")  # fmt: skip
    given: dict[str, Any] = dict(zip(names, buffers.in_order, strict=True))
    given |= {"seqlens_qo_indptr": ints(prefix([2] * 4)), "seqlens_kv_indptr": ints(prefix([100] * 4))}
    given |= {"kv_last_page_lens": ints([1] * 4), "num_heads_per_head_k": 16, "num_heads_k": 1, "is_causal": True}
    return given | {"max_seqlen_qo": 2} | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_heads_k": 2}, "`num_heads_k` is 2; allowed: 1"),
        ({"num_heads_per_head_k": 144}, "heads is 144; allowed: 1 to 128; split the heads over more ranks"),
        ({"max_seqlen_qo": -1}, "`max_seqlen_qo` is -1, with uni_seqlen_qo -1; allowed: the longest query"),
        ({"uni_seqlen_qo": 3}, "`max_seqlen_qo` is 2, with uni_seqlen_qo 3"),
        ({"page_size": 3}, "`page_size` is 3; allowed: a power of two"),
        ({"kv_granularity": 0}, "`kv_granularity` is 0; allowed: a power of two"),
        ({"topk": 2048}, "`topk` is 2048; allowed: less than 0. Pass the chosen tokens"),
        ({"mla_version": 1}, "`mla_version` is 1; allowed: 0"),
        ({"dtype_q": FP8}, "q and KV are e4m3fn and bf16; allowed: bf16 and bf16, bf16 and fp8"),
        ({"dtype_q_rope": FP8}, "`dtype_q_rope` is torch.float8_e4m3fn; allowed: bf16"),
        ({"reduce_indptr": ints([0, 0])}, "is for 1 entries; allowed: at least 4. Make the buffers by get_mla_meta"),
        ({"work_info_set": torch.zeros(3, 8, dtype=torch.int32)}, "`work_info_set` is for 3 entries; allowed: at le"),
        ({"work_indptr": torch.zeros(65)}, "`work_indptr` is of dtype torch.float32; allowed: torch.int32"),
        ({"kv_last_page_lens": ints([1])}, "`kv_last_page_lens` is of 1 entries; allowed: at least 4"),
        ({"work_info_set": torch.zeros(130, 8, dtype=torch.int32)[::2]}, "`work_info_set` is of strides"),
    ],
)
def test_what_is_refused_is_told(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        ops.get_mla_metadata_v1(**arguments(**changes))
    assert said in str(caught.value)


def test_older_names_of_dtypes_and_none() -> None:
    """None is bf16; the newer name wins over the older one."""
    with envs.override(AITERLITE_TARGET="cpu"):
        for dtypes in ({}, {"dtype_q": BF16, "dtype_kv": FP8}, {"dtype_q_nope": FP8, "dtype_q": BF16, "dtype_kv": FP8}):
            ops.get_mla_metadata_v1(**arguments(**dtypes, dtype_q_rope=dtypes.get("dtype_q_nope")))


SIGNATURES = {
    ops.get_mla_metadata_info_v1: "batch_size max_seqlen_qo num_head_qo q_dtype kv_dtype is_sparse fast_mode=True "
    "num_kv_splits=32 intra_batch_mode=False max_split_per_batch=-1",
    ops.get_mla_metadata_v1: "seqlens_qo_indptr seqlens_kv_indptr kv_last_page_lens num_heads_per_head_k num_heads_k "
    "is_causal work_metadata_ptrs work_info_set work_indptr reduce_indptr reduce_final_map reduce_partial_map "
    "page_size=1 kv_granularity=16 max_seqlen_qo=-1 uni_seqlen_qo=-1 fast_mode=True topk=-1 max_split_per_batch=-1 "
    "intra_batch_mode=False is_cp_round_robin=False mla_version=0 dtype_q_nope=None dtype_q_rope=None "
    "dtype_kv_nope=None dtype_kv_rope=None dtype_q=None dtype_kv=None",
    ops.decode_update_mla_metadata_v1: "seqlens_qo_indptr seqlens_kv_indptr kv_last_page_lens num_heads_per_head_k "
    "num_heads_k is_causal work_metadata_ptrs work_info_set work_indptr reduce_indptr reduce_final_map "
    "reduce_partial_map page_size=1 kv_granularity=16 max_seqlen_qo=1 dtype_q=None dtype_kv=None "
    "num_reject_tokens=None",
    ops.get_meta_param: "num_kv_splits bs total_kv nhead max_seqlen_q dtype tg_factor=1 ignore_total_kv=0",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__name__)
def test_signatures_are_upstream_s(function: Any) -> None:
    found = [
        name if one.default is inspect.Parameter.empty else f"{name}={one.default}"
        for name, one in inspect.signature(function).parameters.items()
        if one.kind is not inspect.Parameter.KEYWORD_ONLY
    ]
    assert " ".join(found) == SIGNATURES[function]


# A plan brought forward -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_a_plan_is_brought_forward(target: str) -> None:
    source = random.Random(4)
    with envs.override(AITERLITE_TARGET=target):
        for planner in ("fast", "intra"):
            for _ in range(100 if target == "cpu" else 12):
                update(source, planner)


def update(source: random.Random, planner: str) -> None:
    case = case_of(source, planner, 12, 800)
    call = replace(case.call, uniform_q=case.call.max_q, tile_tokens=8, page_size=1, trim=False)
    call = replace(call, qo_indptr=prefix([call.max_q] * case.batch))
    tiles = mla_plans.tiles_at_most(call)
    held = Sizes(call.units, tiles * 16 + call.units, tiles + 2, tiles * 16 + call.units)
    call = replace(call, splits=tables.most_pieces(planner, held, tiles, 0), reduce_tiles=held.reduce_tiles)
    case, buffers = Case(planner, call, held), Buffers(held)
    mla_plans.run(case, buffers)
    lengths = [after - before for before, after in itertools.pairwise(call.kv_indptr)]
    rejected = [source.choice([0, 1, source.randint(0, length + 1)]) for length in lengths]
    kv = prefix([length + 1 - less for length, less in zip(lengths, rejected, strict=True)])
    operators.UPDATE(ints(kv), *buffers.in_order[1:], ints(rejected), max_q=call.max_q)
    expected = reference.brought_forward(call, case.expected(), kv, rejected)
    mla_plans.check_equal(case, buffers, expected)
    for (folded, _), own in mla_plans.covered(expected).items():
        request = folded // call.fold
        assert own[0][0] == kv[request] and own[-1][1] == kv[request + 1]
        assert all(end == start for (_, end), (start, _) in itertools.pairwise(own))


def test_an_update_that_changes_no_length_changes_nothing() -> None:
    given = arguments(seqlens_qo_indptr=ints(prefix([1] * 4)), max_seqlen_qo=1, uni_seqlen_qo=1)
    with envs.override(AITERLITE_TARGET="cpu"):
        ops.get_mla_metadata_v1(**given)
        before = {name: value.clone() for name, value in given.items() if isinstance(value, Tensor)}
        del given["uni_seqlen_qo"]
        ops.decode_update_mla_metadata_v1(**given, num_reject_tokens=ints([1] * 4))
        assert all(torch.equal(given[name], tensor) for name, tensor in before.items())
        for changes, said in (
            ({"page_size": 16}, "`page_size` is 16; allowed: 1. Plan again"),
            ({"max_seqlen_qo": 8, "num_heads_per_head_k": 128}, "planned as 8 tiles of 128 heads; allowed: queries of"),
            ({"num_reject_tokens": ints([1])}, "`num_reject_tokens` is of 1 entries; allowed: at least 4"),
        ):
            with pytest.raises(ArgumentError) as caught:
                ops.decode_update_mla_metadata_v1(**(given | changes))
            assert said in str(caught.value)


# Compiled for Hopper --------------------------------------------------------------------------------------------------


@pytest.mark.nvcc
def test_kernels_compile_for_hopper_without_spills() -> None:
    unit = tables.device_unit(resolve("h100"))
    resources = engine.obtain(unit, build=True).entry.meta["resources"]
    assert set(resources) == set(unit.symbols) and kernel.OVERLAP in unit.defines
    for found in resources.values():
        assert found["spill_store_bytes"] == found["spill_load_bytes"] == found["stack_bytes"] == 0


# Samples, which every command makes its calls of ----------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op", [tables.OP, tables.UPDATE_OP])
def test_samples_are_right(op: str, target: str) -> None:
    with envs.override(AITERLITE_TARGET=target):
        for problem in problems.sweep(TABLES[op]):
            made = sample(op, problem, seed=1)
            assert set(OPERATORS[op].mutates) - {"work_metadata_ptrs"} == set(made.outputs)
            assert made.error(made.run()) == 0
