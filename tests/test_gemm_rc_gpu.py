"""What only a GPU can show of `wvSplitKrc`: streams and graphs that run at once. L2, marked `gpu`."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import aiterlite  # noqa: E402
from aiterlite.tables.gemm_rc_plan import REDUCTIONS  # noqa: E402

pytestmark = pytest.mark.gpu

SHAPES = [(100, 256, 7168), (32, 640, 2880), (128, 2112, 7168), (64, 128, 2880)]


def operands(n: int, m: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, k, device="cuda").bfloat16()
    return x, (torch.randn(m, k, device="cuda") * k**-0.5).bfloat16()


def assert_right(y: torch.Tensor, expected: torch.Tensor, reduction: str) -> None:
    if reduction == "fast":
        torch.testing.assert_close(y.float(), expected.float(), rtol=2e-2, atol=2e-2)
    else:
        assert torch.equal(y, expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_eight_streams_at_once(reduction: str) -> None:
    pairs = [operands(*shape) for shape in SHAPES]
    expected = [aiterlite.wvSplitKrc(*pair, reduction=reduction) for pair in pairs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(8)]
    results = []
    for turn in range(40):
        for index, stream in enumerate(streams):
            number = (turn + index) % len(pairs)
            with torch.cuda.stream(stream):
                results.append((number, aiterlite.wvSplitKrc(*pairs[number], reduction=reduction)))
    torch.cuda.synchronize()
    for number, y in results:
        assert_right(y, expected[number], reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_four_graphs_of_one_stream_replayed_at_once(reduction: str) -> None:
    pairs = [operands(*shape) for shape in SHAPES]
    expected = [aiterlite.wvSplitKrc(*pair, reduction=reduction) for pair in pairs]
    capture_stream = torch.cuda.Stream()
    graphs, results = [], []
    for pair in pairs:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=capture_stream):
            results.append([aiterlite.wvSplitKrc(*pair, reduction=reduction) for _ in range(8)])
        graphs.append(graph)
    streams = [torch.cuda.Stream() for _ in graphs]
    for _ in range(20):
        for graph, stream in zip(graphs, streams, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
        aiterlite.wvSplitKrc(*pairs[0], reduction=reduction)
    torch.cuda.synchronize()
    for many, wanted in zip(results, expected, strict=True):
        for y in many:
            assert_right(y, wanted, reduction)


def test_a_graph_outlives_eager_calls_and_later_captures() -> None:
    """What freed memory would be given to must not matter to a graph that still replays."""
    x, weight = operands(*SHAPES[0])
    expected = aiterlite.wvSplitKrc(x, weight)
    first = torch.cuda.CUDAGraph()
    with torch.cuda.graph(first):
        y = aiterlite.wvSplitKrc(x, weight)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        aiterlite.wvSplitKrc(x, weight)
    noise = [torch.full((1 << 20,), 0x7F, dtype=torch.uint8, device="cuda") for _ in range(64)]
    aiterlite.wvSplitKrc(x, weight)
    for _ in range(3):
        y.zero_()
        first.replay()
        torch.cuda.synchronize()
        assert torch.equal(y, expected) and len(noise) == 64
