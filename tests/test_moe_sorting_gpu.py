"""The sorting by experts on a GPU: the definition's results, also captured and on several
streams, and the time they take."""

from __future__ import annotations

import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from moe_sortings import case_of, check, extremes, large, layout_of, run  # noqa: E402
from test_moe_sorting import check_align, check_by_torch  # noqa: E402

from aiterlite.ops import moe_sorting as ops  # noqa: E402

pytestmark = pytest.mark.gpu
BF16 = torch.bfloat16


def test_random_calls() -> None:
    source = random.Random(8)
    for _ in range(60):
        layout = layout_of(source, 3000)
        for _ in range(8):
            case = case_of(source, layout)
            check(case, run(case, "cuda"))


@pytest.mark.parametrize(
    ("tokens", "experts", "topk"), [(1000, 256, 8), (1024, 257, 9), (512, 1024, 16), (900, 600, 5)]
)
@pytest.mark.parametrize("policy", [0, 1, 2])
def test_both_paths_of_every_size(tokens: int, experts: int, topk: int, policy: int) -> None:
    case = large(tokens, experts, topk, policy)
    check(case, run(case, "cuda"))


@pytest.mark.parametrize("policy", [1, 2])
def test_the_largest_blocks_and_the_most_slots(policy: int) -> None:
    for case in extremes(policy):
        check(case, run(case, "cuda"))


def operands_of(tokens: int, experts: int, topk: int, seed: int) -> tuple[Any, Any]:
    generator = torch.Generator("cuda").manual_seed(seed)
    scores = torch.rand(tokens, experts, generator=generator, device="cuda")
    weights, ids = scores.topk(topk, dim=1)
    return ids.int(), weights


@pytest.mark.parametrize(("tokens", "experts", "topk"), [(65536, 256, 8), (65536, 1024, 16), (262144, 64, 4)])
def test_many_tokens(tokens: int, experts: int, topk: int) -> None:
    ids, weights = operands_of(tokens, experts, topk, 1)
    ids[::7, 0] = -1
    for _ in range(3):
        check_by_torch(ids, weights, experts, 32, ops.moe_sorting(ids, weights, experts, 128, BF16))


@pytest.mark.parametrize(("tokens", "policy"), [(1, 0), (200, 0), (3000, 0), (3000, 2)])
def test_a_captured_sorting_follows_its_ids(tokens: int, policy: int) -> None:
    """Replayed on two streams in turn, for other ids and weights each time, beside eager calls on a third."""
    ids, weights = operands_of(tokens, 256, 8, 0)
    other = operands_of(tokens, 256, 8, 99)
    given = (256, 64, BF16, 16)
    made = ops.moe_sorting(ids, weights, *given, dispatch_policy=policy)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = ops.moe_sorting(ids, weights, *given, dispatch_policy=policy)
    streams = [torch.cuda.Stream() for _ in range(3)]
    for turn in range(12):
        again = operands_of(tokens, 256, 8, turn)
        ids.copy_(again[0])
        weights.copy_(again[1])
        for tensor in made:
            tensor.fill_(77)
        torch.cuda.synchronize()
        with torch.cuda.stream(streams[2]):
            eager = ops.moe_sorting(*other, *given, dispatch_policy=policy)
        with torch.cuda.stream(streams[turn % 2]):
            graph.replay()
        torch.cuda.synchronize()
        check_by_torch(ids, weights, 256, 16, made)
        check_by_torch(*other, 256, 16, eager)


def test_the_number_of_tokens_of_a_graph_is_on_the_device() -> None:
    ids, weights = operands_of(512, 64, 4, 5)
    live = torch.zeros(1, dtype=torch.int32, device="cuda")
    ops.moe_sorting(ids, weights, 64, 32, BF16, 8, None, live)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = ops.moe_sorting(ids, weights, 64, 32, BF16, 8, None, live)
    for count in (0, 1, 77, 512, 600, -3):
        live.fill_(count)
        graph.replay()
        used = min(max(count, 0), 512)
        entries = made[0][: made[3][0]]
        assert made[3][1] == used
        assert int(((entries & 0xFFFFFF) < 512).sum()) == used * 4
        assert bool(((entries & 0xFFFFFF) < used).logical_or(entries == (4 << 24 | 512)).all())


def test_places_are_aligned_to_blocks() -> None:
    source = random.Random(9)
    for experts, block_size, count, dtype in (
        (64, 16, 500, torch.int32),
        (1000, 7, 2100, torch.int64),
        (256, 64, 40000, torch.int32),
    ):
        check_align([source.randint(-1, experts) for _ in range(count)], experts, block_size, dtype, "cuda")
