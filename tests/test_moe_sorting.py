"""Sorting of tokens by experts on the CPU against its plain definition; what is refused, planned and compiled."""

from __future__ import annotations

import inspect
import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import moe_sortings  # noqa: E402
from moe_sortings import Ringed, case_of, check, extremes, large, layout_of, run  # noqa: E402
from torch import Tensor  # noqa: E402

from aiterlite import dispatch, envs, kernel  # noqa: E402
from aiterlite.errors import ArgumentError, DispatchError  # noqa: E402
from aiterlite.jit import engine  # noqa: E402
from aiterlite.ops import moe_sorting as ops  # noqa: E402
from aiterlite.ops.moe_sum import moe_sum  # noqa: E402
from aiterlite.ops.samples import sample  # noqa: E402
from aiterlite.reference import moe_sorting as reference  # noqa: E402
from aiterlite.tables import TABLES, problems  # noqa: E402
from aiterlite.tables import moe_sorting as tables  # noqa: E402
from aiterlite.target import resolve  # noqa: E402
from aiterlite.wishes import Wishes  # noqa: E402

pytestmark = pytest.mark.compile
BF16 = torch.bfloat16


def ints(*values: Any) -> Tensor:
    return torch.tensor(*values, dtype=torch.int32)


# Against the definition -----------------------------------------------------------------------------------------------


def test_five_thousand_random_calls() -> None:
    source = random.Random(0)
    for _ in range(250):
        layout = layout_of(source, 120)
        for _ in range(20):
            case = case_of(source, layout)
            check(case, run(case))


@pytest.mark.parametrize(("tokens", "experts", "topk"), [(65536, 256, 8), (4096, 1024, 16), (1 << 20, 8, 1)])
def test_many_tokens(tokens: int, experts: int, topk: int) -> None:
    """By torch's stable sort, since the plain definition would take long."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(-1, experts + 1, (tokens, topk), generator=generator).int()
    weights = torch.rand(tokens, topk, generator=generator)
    made = ops.moe_sorting(ids, weights, experts, 8, BF16, 16)
    check_by_torch(ids, weights, experts, 16, made)


def check_by_torch(ids: Tensor, weights: Tensor, experts: int, block: int, made: tuple[Tensor, ...]) -> None:
    """What `moe_sorting` returned without mask, on any device."""
    (tokens, topk), flat = ids.shape, ids.flatten().long()
    counts = torch.bincount(flat[(flat >= 0) & (flat < experts)], minlength=experts)
    blocks = (counts + block - 1) // block
    begins = torch.cat([blocks.new_zeros(1), blocks.cumsum(0)])
    used = int(begins[-1]) * block
    entries = torch.full((used,), topk << 24 | tokens, dtype=torch.int32, device=ids.device)
    values = torch.zeros(used, device=ids.device)
    key, order = torch.sort(flat, stable=True)
    keep = (key >= 0) & (key < experts)
    key, order = key[keep], order[keep]
    first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    places = begins[key] * block + torch.arange(len(key), device=ids.device) - first[key]
    entries[places] = ((order % topk) << 24 | order // topk).int()
    values[places] = weights.flatten()[order]
    sorted_ids, sorted_weights, expert_ids, valid, moe_buf = made
    assert valid.tolist() == [used, tokens] and not moe_buf.any()
    assert torch.equal(sorted_ids[:used], entries) and torch.equal(sorted_weights[:used], values)
    owners = torch.repeat_interleave(torch.arange(experts, device=ids.device), blocks)
    assert torch.equal(expert_ids[: len(owners)], owners.int())


def test_the_largest_blocks_and_the_most_slots() -> None:
    for case in extremes(0):
        check(case, run(case))


def test_the_reference_is_upstream_s_example() -> None:
    """Ids, mask and local ids of a test of upstream's, blocks of 8."""
    mask = [0, 1, 1, 0, 1, 0]
    ids, weights = [[0, 1, 5], [2, 4, 3], [5, 0, 2]], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
    made = reference.moe_sorting(ids, weights, 6, 8, mask)
    assert made.local_topk_ids == [[-1, 0, -1], [1, 2, -1], [-1, -1, 1]]
    fill = 3 << 24 | 3
    assert made.sorted_ids == [
        *[1 << 24 | 0, *[fill] * 7],
        *[0 << 24 | 1, 2 << 24 | 2, *[fill] * 6],
        *[1 << 24 | 1, *[fill] * 7],
    ]
    assert made.sorted_weights == [2.0, *[0.0] * 7, 4.0, 9.0, *[0.0] * 6, 5.0, *[0.0] * 7]
    assert (made.sorted_expert_ids, made.token_nums, made.num_valid_ids) == ([0, 1, 2], [1, 2, 1], (24, 3))


# Public functions -----------------------------------------------------------------------------------------------------


def test_results_have_upstream_s_shapes() -> None:
    ids, weights = ints([[3, 1], [1, 0], [-1, 9]]), torch.rand(3, 2)
    mask, live = ints([1, 1, 0, 1]), ints([2])
    made = ops.moe_sorting(ids, weights, 4, 64, BF16, 4, mask, live, return_local_topk_ids=True)
    sorted_ids, sorted_weights, expert_ids, valid, moe_buf, local = made
    assert sorted_ids.shape == sorted_weights.shape == (3 * 2 + 4 * 4 - 2,) and expert_ids.shape == (5,)
    assert valid.tolist() == [12, 2] and expert_ids[:3].tolist() == [0, 1, 2]
    assert moe_buf.shape == (3, 64) and moe_buf.dtype == BF16 and not moe_buf.any()
    assert local.tolist() == [[2, 1], [1, 0], [-1, -1]]
    fill = 2 << 24 | 3
    assert sorted_ids[:12].tolist() == [1 << 24 | 1, fill, fill, fill, 1 << 24, 1, fill, fill, 0, fill, fill, fill]
    without = ops.moe_sorting(ids, weights, 4, 64, torch.float32, 4, accumulate=False)
    assert len(without) == 5 and without[4].shape == (0, 64) and without[4].dtype == torch.float32


def test_compiled_with_dynamic_shapes_it_gives_the_same() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(ops.moe_sorting, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (3, 5, 700):
        ids = torch.rand(tokens, 16).topk(4).indices.int()
        given = (ids, torch.rand(tokens, 4), 16, 24, BF16, 8)
        check_by_torch(given[0], given[1], 16, 8, compiled(*given))


def test_no_tokens_and_no_room() -> None:
    made = ops.moe_sorting(torch.empty(0, 8, dtype=torch.int32), torch.empty(0, 8), 4, 64, BF16, 1)
    assert made[0].shape == (0,) and made[3].tolist() == [0, 0]


def test_sorting_in_place_takes_what_clients_allocate() -> None:
    """Buffers for a larger batch, num_valid_ids of one entry, and moe_buf of more rows than tokens."""
    case = large(30, 64, 6, 0)
    ids, weights = ints(case.ids), torch.tensor(case.weights)
    made = Ringed()
    entries = tables.capacity(100, 6, 64, 32)
    ops.moe_sorting_fwd(
        ids, weights, made.out("sorted_ids", entries), made.out("sorted_weights", entries, torch.float32),
        made.out("sorted_expert_ids", entries // 32), made.out("num_valid_ids", 1),
        made.out("moe_buf", 999, torch.float16), 64, 32, ints(case.mask), None, 0,
    )  # fmt: skip
    expected = case.expected()
    used = expected.num_valid_ids[0]
    assert made.inner["num_valid_ids"].tolist() == [used] and not made.inner["moe_buf"].any()
    assert made.inner["sorted_ids"][:used].tolist() == expected.sorted_ids
    made.check_rings()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_places_are_aligned_to_blocks(dtype: torch.dtype) -> None:
    source = random.Random(3)
    for _ in range(200):
        experts, block_size = source.choice([1, 8, 60, 256, 1000]), source.choice([1, 4, 7, 16, 64, 256])
        ids = [source.randint(-1, experts) for _ in range(source.choice([0, 1, 40, 300]))]
        check_align(ids, experts, block_size, dtype)


def check_align(ids: list[int], experts: int, block_size: int, dtype: torch.dtype, device: str = "cpu") -> None:
    made, entries = Ringed(device), tables.least_capacity(len(ids), experts, block_size)
    blocks = entries // block_size
    given = torch.tensor(ids, dtype=dtype, device=device).view(-1, 2 - len(ids) % 2)
    ops.moe_align_block_size(
        given, experts, block_size, made.out("sorted_ids", entries), made.out("sorted_expert_ids", blocks),
        made.out("token_nums", blocks), made.out("num_valid", 1),
    )  # fmt: skip
    expected = reference.moe_align_block_size(ids, experts, block_size)
    assert made.inner["num_valid"].tolist() == [expected.num_valid_ids[0]]
    for name in ("sorted_ids", "sorted_expert_ids", "token_nums"):
        moe_sortings.check_prefix(name, made.inner[name], getattr(expected, name))
    made.check_rings()


# What is refused ------------------------------------------------------------------------------------------------------


def arguments(**changes: Any) -> dict[str, Any]:
    given = {"topk_ids": ints([[0, 1], [2, 3]]), "topk_weights": torch.rand(2, 2), "num_experts": 4}
    return given | {"model_dim": 8, "moebuf_dtype": BF16} | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"flat": True}, "`flat` is True; allowed: False. Sort, or route"),
        ({"output_aux": True}, "`output_aux` is True; allowed: False. Make them from sorted_ids"),
        ({"topk_ids": ints([0, 1])}, "`topk_ids` is of shape [2]; allowed: [tokens, topk], 2 dimensions"),
        ({"topk_ids": torch.rand(2, 2)}, "`topk_ids` is of dtype torch.float32; allowed: torch.int32, torch.int64"),
        ({"topk_ids": ints([[0, 1], [2, 3]]).t()}, "`topk_ids` is of strides [1, 2]"),
        ({"topk_weights": torch.rand(2, 3)}, "`topk_weights` is of shape [2, 3]; allowed: [2, 2]"),
        ({"topk_weights": torch.rand(2, 2).bfloat16()}, "`topk_weights` is of dtype torch.bfloat16"),
        ({"num_experts": 0}, "`num_experts` is 0; allowed: 1 to 1024"),
        ({"num_experts": 1025}, "`num_experts` is 1025; allowed: 1 to 1024"),
        ({"block_size": 0}, "`block_size` is 0; allowed: 1 to 1024"),
        ({"moebuf_dtype": torch.int8}, "`moebuf_dtype` is torch.int8; allowed: torch.bfloat16"),
        ({"model_dim": -1}, "`model_dim` is -1; allowed: 0 or more"),
        ({"expert_mask": ints([1, 1, 1])}, "`local_expert_mask` is of 3 entries; allowed: at least 4"),
        ({"expert_mask": torch.ones(4, dtype=torch.bool)}, "`local_expert_mask` is of dtype torch.bool"),
        ({"expert_mask": ints([1] * 8)[::2]}, "`local_expert_mask` is of strides [2]; allowed: contiguous"),
        ({"num_local_tokens": torch.tensor([1])}, "`num_local_tokens` is of dtype torch.int64"),
    ],
)
def test_a_sorting_says_what_does_not_fit(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        ops.moe_sorting(**arguments(**changes))
    assert said in str(caught.value)


def test_buffers_that_do_not_hold_any_ids_are_refused() -> None:
    ids, weights = ints([[0, 1], [2, 3]]), torch.rand(2, 2)

    def call(entries: int, weight_entries: int, blocks: int, valid: int, buffer: Tensor) -> None:
        sizes = (ints([0] * entries), torch.zeros(weight_entries), ints([0] * blocks), ints([0] * valid))
        ops.moe_sorting_fwd(ids, weights, *sizes, buffer, 4, 8)

    buffer = torch.zeros(2, 8)
    call(32, 32, 4, 1, buffer)
    for sizes, said in (
        ((31, 32, 4, 2), "`sorted_token_ids` is of 31 entries; allowed: at least 32. Make it for the largest batch"),
        ((32, 31, 4, 2), "`sorted_weights` is of 31 entries"),
        ((32, 32, 3, 2), "`sorted_expert_ids` is of 3 entries; allowed: at least 4"),
        ((32, 32, 4, 0), "`num_valid_ids` is of 0 entries; allowed: at least 1"),
    ):
        with pytest.raises(ArgumentError) as caught:
            call(*sizes, buffer)
        assert said in str(caught.value)
    with pytest.raises(ArgumentError, match="`moe_buf` is of strides"):
        call(32, 32, 4, 2, torch.zeros(2, 16)[:, ::2])
    with pytest.raises(ArgumentError, match=r"`moe_buf` is of dtype torch\.uint8"):
        call(32, 32, 4, 2, torch.zeros(2, 16, dtype=torch.uint8))


def test_what_dispatch_refuses() -> None:
    with pytest.raises(DispatchError, match="policy must be 0 or 1 or 2, it is 3"):
        ops.moe_sorting(**arguments(dispatch_policy=3))
    with pytest.raises(DispatchError, match="topk must be 1 to 64, it is 0"):
        ops.moe_sorting(**arguments(topk_ids=ints([[], []]), topk_weights=torch.rand(2, 0)))
    refused = dispatch.decide(tables.TABLE, tables.SortProblem(1 << 20, 256), resolve("h100"), Wishes())
    assert refused.row is None and "8388608 pairs of token and slot; allowed: 0 to 4194304 (split tokens)" in str(
        refused
    )


SIGNATURES = {
    ops.moe_sorting: "topk_ids topk_weights num_experts model_dim moebuf_dtype block_size=32 expert_mask=None "
    "num_local_tokens=None dispatch_policy=0 return_local_topk_ids=False accumulate=True flat=False output_aux=False",
    ops.moe_sorting_fwd: "topk_ids topk_weights sorted_token_ids sorted_weights sorted_expert_ids num_valid_ids "
    "moe_buf num_experts unit_size local_expert_mask=None num_local_tokens=None dispatch_policy=0",
    ops.moe_align_block_size: "topk_ids num_experts block_size sorted_token_ids experts_ids token_nums "
    "num_tokens_post_pad",
    moe_sum: "input output",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__name__)
def test_signatures_are_upstream_s(function: Any) -> None:
    found = [
        name if one.default is inspect.Parameter.empty else f"{name}={one.default}"
        for name, one in inspect.signature(function).parameters.items()
    ]
    assert " ".join(found) == SIGNATURES[function]


# Plans ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chip", "problem", "row"),
    [
        ("h100", tables.SortProblem(8, 256), "block"),
        ("h100", tables.SortProblem(9, 256), "blocks"),
        ("h100", tables.SortProblem(256, 256, policy=1), "block"),
        ("mi300x", tables.SortProblem(256, 256), "workgroup"),
        ("h100", tables.SortProblem(1, 256, policy=2), "blocks"),
        ("mi300x", tables.SortProblem(256, 257, policy=1), "workgroup"),
        ("mi300x", tables.SortProblem(257, 257, policy=1), "tiles"),
        ("mi355x", tables.AlignProblem(2049, 1024), "tiles"),
    ],
)
def test_few_pairs_are_sorted_at_once(chip: str, problem: Any, row: str) -> None:
    table = tables.TABLE if isinstance(problem, tables.SortProblem) else tables.ALIGN_TABLE
    decision = dispatch.decide(table, problem, resolve(chip), Wishes())
    assert decision.row is not None and decision.row.name == row
    plan = decision.plan
    assert plan.tiles * plan.threads * plan.steps >= problem.pairs and 1 <= plan.steps <= tables.STEPS
    assert plan.bound >= problem.experts


def test_the_policy_is_told_why_it_is_not_followed() -> None:
    decision = dispatch.decide(tables.TABLE, tables.SortProblem(4096, 256, policy=1), resolve("h100"), Wishes())
    assert "32768 pairs of token and slot are more than 2048, what one workgroup sorts" in str(decision)


def test_tiles_grow_before_their_number_does() -> None:
    chip = resolve("h100")
    for tokens, tiles, steps in ((1024, 8, 1), (16384, 128, 1), (65536, 128, 4), (1 << 18, 256, 8)):
        plan = tables.plan_tiles(tables.SortProblem(tokens, 256), chip)
        assert (plan.tiles, plan.steps) == (tiles, steps)


# Compiled for Hopper, samples -----------------------------------------------------------------------------------------


@pytest.mark.nvcc
def test_kernels_compile_for_hopper_without_spills() -> None:
    chip = resolve("h100")
    asked: list[tuple[Any, Any]] = [(tables.TABLE, tables.SortProblem(8, 256))]
    for experts in (256, 512, 1024):
        asked += [(tables.TABLE, tables.SortProblem(tokens, experts, policy=1)) for tokens in (200, 4096)]
    asked += [(tables.SUM_TABLE, tables.SumProblem(4, 8, 64, dtype)) for dtype in ("bf16", "fp32")]
    units = {k.unit for table, problem in asked for k in dispatch.decide(table, problem, chip, Wishes()).kernels}
    assert len(units) == len(asked)
    for unit in units:
        resources = engine.obtain(unit, build=True).entry.meta["resources"]
        assert set(resources) == set(unit.symbols) and kernel.OVERLAP in unit.defines
        for found in resources.values():
            assert found["spill_store_bytes"] == found["spill_load_bytes"] == found["stack_bytes"] == 0
            # What a launch gets without asking the driver for more.
            assert found.get("shared_bytes", 0) <= 48 << 10


@pytest.mark.parametrize("op", [tables.OP, tables.ALIGN_OP, tables.SUM_OP])
def test_samples_are_right(op: str) -> None:
    with envs.override(AITERLITE_TARGET="cpu"):
        for problem in problems.sweep(TABLES[op]):
            made = sample(op, problem, seed=1)
            assert made.error(made.run()) == 0
