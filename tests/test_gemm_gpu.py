"""What only a GPU can show: streams, threads, graphs, refused launches. L2, marked `gpu`."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

import aiterlite  # noqa: E402
from aiterlite import dispatch  # noqa: E402
from aiterlite.errors import ArgumentError, CaptureError, LaunchError  # noqa: E402
from aiterlite.launch import calls as launches  # noqa: E402
from aiterlite.ops import matmul  # noqa: E402
from aiterlite.tables import gemm as tables  # noqa: E402
from aiterlite.target import persona_for  # noqa: E402

pytestmark = pytest.mark.gpu


def operands(n: int, m: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(n, k, device="cuda").bfloat16()
    return x, torch.randn(m, k, device="cuda").bfloat16() * k**-0.5


def assert_right(y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> None:
    torch.testing.assert_close(y.float(), x.float() @ weight.float().T, rtol=2e-2, atol=2e-2)


def test_launches_on_the_current_stream() -> None:
    """The side stream makes x only after a long wait; a launch on another stream would read what was there before."""
    x, weight = operands(4, 256, 1024)
    late = torch.zeros_like(x)
    aiterlite.linear(late, weight)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        late.copy_(x)
        y = aiterlite.linear(late, weight)
    stream.synchronize()
    assert_right(y, x, weight)


def test_new_threads_may_launch() -> None:
    x, weight = operands(2, 128, 512)
    expected = aiterlite.linear(x, weight)
    results: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(aiterlite.linear(x, weight))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.cuda.synchronize()
    assert len(results) == 4 and all(torch.equal(result, expected) for result in results)


def test_graph_replay_reads_new_inputs() -> None:
    x, weight = operands(8, 2112, 7168)
    aiterlite.linear(x, weight)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = aiterlite.linear(x, weight)
    for _ in range(3):
        x.copy_(torch.randn_like(x.float()).bfloat16())
        graph.replay()
        torch.cuda.synchronize()
        assert_right(y, x, weight)


def test_first_load_under_capture_is_refused() -> None:
    # A shape whose variant nothing else in this process loads.
    x, weight = operands(3, 8, 40)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(CaptureError, match="before the capture"), torch.cuda.graph(graph):
        aiterlite.linear(x, weight)
    torch.cuda.synchronize()
    assert_right(aiterlite.linear(x, weight), x, weight)


def test_operands_on_two_devices_are_named() -> None:
    x, weight = operands(2, 16, 64)
    with pytest.raises(ArgumentError, match="cpu"):
        aiterlite.wvSplitK(x, weight.cpu())


def test_a_refused_launch_names_kernel_and_geometry() -> None:
    x, weight = operands(2, 128, 512)
    y = aiterlite.wvSplitK(x, weight)
    persona = persona_for("cuda", 0)
    problem = tables.GemmProblem(n=2, m=128, k=512)
    decision = dispatch.decide(tables.WV_SPLIT_K, problem, persona)
    assert decision.row is not None
    (kernel,) = decision.kernels
    too_many = replace(kernel, block=(2048, 1, 1))
    refused = replace(decision, row=replace(decision.row, kernels=lambda *_: (too_many,)))
    launch = launches.prepare(refused, x.device, matmul.OPERANDS, matmul.strides(x, weight, None), ("bias",))
    with pytest.raises(LaunchError, match=tables.KERNEL) as caught:
        launch(x, weight, None, y)
    assert caught.value.grid == (decision.plan.grid, 1, 1) and "k=512" in str(caught.value)
