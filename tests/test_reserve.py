"""`aiterlite.reserve`: calls to come find their workspaces there. L2: emulated, against a fake driver, on a GPU."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import on  # noqa: E402
from test_launch_workspace import Driver, K, M, N, driver, prepared  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite.errors import ArgumentError, CaptureError, DispatchError  # noqa: E402
from aiterlite.launch import calls, streams, workspace  # noqa: E402
from aiterlite.launch import reserve as module  # noqa: E402
from aiterlite.ops import matmul  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

__all__ = ["driver"]

PROBLEMS = [{"n": n, "m": m, "k": K} for n, m in ((100, 40), (128, 40), (17, 300))]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each workspace that is allocated from here on; there is none yet, and memory is the CPU's."""
    found: list[int] = []
    zeroed = workspace._zeroed

    def counting(device: torch.device, size: int, part: int) -> torch.Tensor:
        found.append(size)
        return zeroed(torch.device("cpu"), size, part)

    monkeypatch.setattr(workspace, "_zeroed", counting)
    monkeypatch.setattr(workspace, "_thread", threading.local())
    return found


def operands(n: int, m: int, k: int, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, k, device=device).bfloat16(), torch.randn(m, k, device=device).bfloat16()


@pytest.mark.emulated
@pytest.mark.parametrize("reduction", ["deterministic", "fast", "batch_invariant"])
def test_calls_of_reserved_problems_allocate_no_workspace(reduction: str, taken: list[int]) -> None:
    problems = [{**problem, "reduction": reduction} for problem in PROBLEMS]
    with on("mi300x"):
        needs = [
            aiterlite.wvSplitKrc_workspace_size(p["n"], p["m"], p["k"], reduction=reduction, device="cpu")
            for p in PROBLEMS
        ]
        held = aiterlite.reserve("wvSplitKrc", problems, "cpu")
        assert min(needs) > 0 and held >= max(needs) and taken == [held]
        assert aiterlite.reserve("wvSplitKrc", reversed(problems), "cpu") == held and taken == [held]
        for problem in PROBLEMS:
            x, weight = operands(**problem)
            y = aiterlite.wvSplitKrc(x, weight, reduction=reduction)
            torch.testing.assert_close(y.double(), x.double() @ weight.double().T, rtol=2e-2, atol=1e-1)
        assert taken == [held]
        # What nobody reserved is allocated by its call: the negative control.
        aiterlite.wvSplitKrc(*operands(128, 2300, K), reduction=reduction)
        assert len(taken) == 2 and taken[1] > held


@pytest.mark.emulated
def test_fields_that_are_not_given_are_those_of_the_command_line(taken: list[int]) -> None:
    """Among them the reduction, which the environment says; `linear` takes wvSplitKrc then, and its workspace."""
    (problem,) = PROBLEMS[:1]
    with on("mi300x", AITERLITE_GEMM_REDUCTION="fast"):
        assert aiterlite.reserve("wvSplitKrc", [problem], "cpu") > 0
        aiterlite.wvSplitKrc(*operands(**problem))
        assert len(taken) == 1
    with on("mi300x", AITERLITE_GEMM_REDUCTION="batch_invariant"):
        assert aiterlite.reserve("linear", [problem], "cpu") > 0
        aiterlite.linear(*operands(**problem))
        assert len(taken) == 2
        assert aiterlite.reserve("wvSplitK", [{"n": 4, "m": 40, "k": K}], "cpu") == 0
    with on("cpu"):
        assert aiterlite.reserve("wvSplitKrc", PROBLEMS, "cpu") == 0 and len(taken) == 2


def test_what_is_no_problem_is_refused() -> None:
    with pytest.raises(ArgumentError, match="argument `op` is 'wvSplit'; allowed: .*wvSplitKrc"):
        aiterlite.reserve("wvSplit", [], "cpu")
    with pytest.raises(ArgumentError, match="argument `streams` is given for cpu"):
        aiterlite.reserve("wvSplitKrc", [], "cpu", [])
    with pytest.raises(ValueError, match="wvSplitKrc needs m, k"):
        aiterlite.reserve("wvSplitKrc", [{"n": 1}], "cpu")
    with pytest.raises(DispatchError, match="n must be 1 to 128, it is 129"):
        aiterlite.reserve("wvSplitKrc", [{"n": 129, "m": 8, "k": 8}], "cpu")


class Stream:
    def __init__(self, handle: int, index: int = 0) -> None:
        self.cuda_stream, self.device = handle, torch.device("cuda", index)


@pytest.fixture
def current(driver: Driver, taken: list[int], monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """A GPU whose current stream is the last one of this list."""
    entered = [Stream(1)]

    @contextlib.contextmanager
    def enter(stream: Stream) -> Iterator[None]:
        entered.append(stream)
        yield
        entered.pop()

    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: entered[-1].cuda_stream)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: entered[-1])
    monkeypatch.setattr(torch.cuda, "stream", enter)
    monkeypatch.setattr(module, "persona_for", lambda kind, index: resolve("a100"))
    return entered


@pytest.mark.compile
def test_each_stream_has_its_own(current: list[Stream], driver: Driver, taken: list[int]) -> None:
    _, decision, tensors = prepared("deterministic")
    run: Any = calls._device(
        decision, torch.device("cuda", 0), list(matmul.OPERANDS), tuple, matmul.strides(*tensors[:3])
    )
    problem = {"n": N, "m": M, "k": K, "bias": True}
    two, three = Stream(2), Stream(3)
    held = aiterlite.reserve("wvSplitKrc", [problem], streams=[two, three, two])
    assert decision.workspace is not None
    assert held == sum(taken) and len(taken) == 2 and taken[0] >= decision.workspace.total
    for stream in (two, three):
        with torch.cuda.stream(stream):
            run(*tensors)
    assert len(taken) == 2 and len({launch[-1].counters for launch in driver.launches}) == 2
    # The current stream is none of them.
    run(*tensors)
    assert len(taken) == 3
    assert aiterlite.reserve("wvSplitKrc", [problem]) == taken[2] and len(taken) == 3


def test_streams_of_another_device_and_captures(
    current: list[Stream], taken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArgumentError, match="argument `streams` is one on cuda:1; allowed: streams of cuda:0"):
        aiterlite.reserve("wvSplitKrc", PROBLEMS, streams=[Stream(2, 1)])
    monkeypatch.setattr(streams, "capturing", lambda: True)
    with pytest.raises(CaptureError, match="before a graph is captured"):
        aiterlite.reserve("wvSplitKrc", PROBLEMS)
    assert taken == []


@pytest.mark.gpu
@pytest.mark.parametrize("reduction", ["deterministic", "fast", "batch_invariant"])
def test_on_a_gpu_only_results_are_allocated(reduction: str) -> None:
    """Rows that are not aligned, which take a workspace on every GPU."""
    workspace._pool.clear()
    n, m, k = 128, 640, 7168
    x = torch.randn(n, k + 1, device="cuda").bfloat16()[:, :k]
    weight = torch.randn(m, k, device="cuda").bfloat16()
    problem = {"n": n, "m": m, "k": k, "aligned": False, "reduction": reduction}
    used = [torch.cuda.Stream() for _ in range(3)]
    before = torch.cuda.memory_allocated()
    held = aiterlite.reserve("wvSplitKrc", [problem], streams=used)
    assert held > 0 and torch.cuda.memory_allocated() - before == held
    results = []
    for stream in used:
        with torch.cuda.stream(stream):
            results.append(aiterlite.wvSplitKrc(x, weight, reduction=reduction))
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() - before == held + sum(y.nbytes for y in results)
    aiterlite.wvSplitKrc(x, weight, reduction=reduction)
    assert torch.cuda.memory_allocated() - before > held + sum(y.nbytes for y in results)
