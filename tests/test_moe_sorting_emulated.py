"""The sorting by experts on gfx942 and gfx950, emulated with all sanitizers: both paths, every size of kernel, and the
same bits under other schedules."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import AMD, on  # noqa: E402
from moe_sortings import Case, Layout, case_of, check, extremes, large, layout_of, run  # noqa: E402
from test_moe_sorting import check_align, check_by_torch  # noqa: E402

from aiterlite.emulator.observe import Recording, watching  # noqa: E402
from aiterlite.emulator.schedule import SCHEDULES  # noqa: E402
from aiterlite.jit import toolchain  # noqa: E402
from aiterlite.ops import moe_sorting as ops  # noqa: E402
from aiterlite.ops.operator import OPERATORS  # noqa: E402
from aiterlite.tables import moe_sorting as tables  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.compile,
    pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd")),
]
each_target = pytest.mark.parametrize("target", AMD)


@each_target
def test_random_calls(target: str, sanitized: Recording) -> None:
    source = random.Random(target)
    with on(target):
        for number in range(24):
            layout = replace(layout_of(source, 120, 300), policy=1 + number % 2)
            case = case_of(source, layout)
            check(case, run(case))
    assert {report["kernel"].rpartition("_")[2] for report in sanitized.launches} == {"once", "count", "place"}


@pytest.fixture
def few_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """So that a tile is of several steps without a million of pairs."""
    monkeypatch.setattr(tables, "_TILES", 2)
    for operator in OPERATORS.values():
        operator.prepared._kept = (None, {}, {})
    yield
    for operator in OPERATORS.values():
        operator.prepared._kept = (None, {}, {})


@each_target
@pytest.mark.parametrize(
    ("tokens", "experts", "topk", "policy"),
    [(256, 256, 8, 1), (300, 257, 9, 2), (128, 1024, 16, 1), (450, 600, 5, 2), (31, 1000, 8, 0), (227, 300, 9, 1)],
)
def test_more_pairs_than_threads(
    target: str, tokens: int, experts: int, topk: int, policy: int, few_tiles: None, sanitized: Recording
) -> None:
    """Several pairs a lane, and several experts a thread."""
    case = large(tokens, experts, topk, policy, seed=tokens)
    with on(target):
        check(case, run(case))


@each_target
def test_many_tiles(target: str, sanitized: Recording) -> None:
    case = large(1100, 64, 4, 2)
    with on(target):
        check(case, run(case))
    assert [report["kernel"] for report in sanitized.launches] == [tables.COUNT, tables.PLACE]


@each_target
@pytest.mark.parametrize(("tokens", "experts", "topk"), [(65536, 256, 8), (8192, 1024, 16)])
def test_many_tokens(target: str, tokens: int, experts: int, topk: int, sanitized: Recording) -> None:
    """As many tiles as there may be, each of several steps."""
    generator = torch.Generator().manual_seed(experts)
    ids = torch.randint(-1, experts + 1, (tokens, topk), generator=generator).int()
    weights = torch.rand(tokens, topk, generator=generator)
    with on(target):
        made = ops.moe_sorting(ids, weights, experts, 8, torch.bfloat16, 32)
    check_by_torch(ids, weights, experts, 32, made)


@each_target
@pytest.mark.parametrize("policy", [1, 2])
def test_the_largest_blocks_and_the_most_slots(target: str, policy: int, sanitized: Recording) -> None:
    with on(target):
        for case in extremes(policy):
            check(case, run(case))


@each_target
@pytest.mark.parametrize("policy", [1, 2])
def test_schedules_leave_the_same_bits(target: str, policy: int) -> None:
    """Waves far apart and in other orders, workgroups too, and memory that does not start as zero."""
    layout = Layout(150, 8, 256, 4, policy, masked=True, local=True, buffer=(64, torch.bfloat16))
    case = case_of(random.Random(5), layout)
    expected = case.expected()
    for schedule in SCHEDULES:
        with on(target), watching(schedule=schedule) as seen:
            check(case, run(case), expected)
        assert not seen.findings


@each_target
def test_ids_that_are_noise_write_nothing_outside(target: str, sanitized: Recording) -> None:
    """As those of a graph that is captured before anything is in them; and a mask and a number of tokens that are."""
    source = random.Random(6)
    with on(target):
        for policy in (1, 2):
            layout = Layout(40, 8, 60, 16, policy, masked=True, counted=True, local=True)
            noise = [[source.randint(-(2**31), 2**31 - 1) for _ in range(8)] for _ in range(40)]
            mask = [source.randint(-(2**31), 2**31 - 1) for _ in range(60)]
            for live in (2**31 - 1, -(2**31)):
                case = Case(layout, noise, [[float("nan")] * 8] * 40, mask, live)
                check(case, run(case))


@each_target
def test_places_are_aligned_to_blocks(target: str, sanitized: Recording) -> None:
    source = random.Random(7)
    with on(target):
        for experts, block_size, count, dtype in ((64, 16, 500, torch.int32), (1000, 7, 2100, torch.int64)):
            ids = [source.randint(-1, experts) for _ in range(count)]
            check_align(ids, experts, block_size, dtype)
