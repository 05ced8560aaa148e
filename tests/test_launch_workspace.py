"""Launches on a GPU that need a workspace, against a driver that records what it is asked: no GPU."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from aiterlite import dispatch  # noqa: E402
from aiterlite.dispatch import Decision  # noqa: E402
from aiterlite.errors import ArgumentError, LaunchError  # noqa: E402
from aiterlite.launch import calls, drivers, functions, streams, workspace  # noqa: E402
from aiterlite.ops import matmul  # noqa: E402
from aiterlite.tables import gemm_rc as tables  # noqa: E402
from aiterlite.tables.gemm_rc_plan import COUNTERS, REDUCE_ATOMIC  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = pytest.mark.compile

CPU = torch.device("cpu")
N, M, K, STREAM = 100, 40, 4096, 0x70
LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    *[ctypes.c_uint] * 7,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)


class Arguments(ctypes.Structure):
    """aiterlite_gemm_reduce_args, written down once more."""

    _fields_ = [
        *[(name, ctypes.c_uint64) for name in ("x", "weight", "bias", "y")],
        *[(name, ctypes.c_int64) for name in ("stride_x", "stride_w", "stride_bias", "stride_y")],
        *[(name, ctypes.c_int32) for name in ("n", "m", "k", "reserved")],
        *[(name, ctypes.c_uint64) for name in ("counters", "partials")],
        *[(name, ctypes.c_int32) for name in ("shards", "shard_k")],
    ]


class Driver:
    """Launches nothing; each launch leaves `dirt` in the first counter and answers `code`."""

    def __init__(self) -> None:
        self.launches: list[tuple[Any, ...]] = []
        self.code, self.dirt = 0, 0
        self.entry = LAUNCH(self._launch)
        self.launch_words = (ctypes.cast(self.entry, ctypes.c_void_p).value or 0, 0, 0)

    def _launch(self, function: int, *call: Any) -> int:
        grid, block, shared, stream, parameters = call[0:3], call[3:6], call[6], call[7], call[8]
        arguments = Arguments.from_buffer_copy(ctypes.string_at(parameters[0], ctypes.sizeof(Arguments)))
        self.launches.append((function, grid, block, shared, stream, arguments))
        if arguments.counters:
            ctypes.c_uint32.from_address(arguments.counters).value = self.dirt
        return self.code

    def error_text(self, code: int) -> str:
        return "unspecified launch failure"

    def forget_error(self) -> None:
        self.forgotten = True


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: STREAM, raising=False)
    monkeypatch.setattr(streams, "is_ready", lambda index: True)
    monkeypatch.setattr(streams, "capturing", lambda: False)
    monkeypatch.setattr(functions, "find", lambda kernel, persona, device: 0x123)
    monkeypatch.setattr(drivers, "driver", lambda family: driver)
    monkeypatch.setattr(workspace, "_pool", workspace.Pool())
    return driver


def prepared(reduction: str, chip: str = "a100") -> tuple[Any, Decision, tuple[torch.Tensor, ...]]:
    x, weight = torch.randn(N, K + 8).bfloat16()[:, :K], torch.randn(M, K).bfloat16()
    bias, y = torch.randn(M).bfloat16(), torch.empty(N, M).bfloat16()
    problem = tables.RcProblem(N, M, K, bias=True, reduction=reduction)
    decision = dispatch.decide(tables.WV_SPLIT_K_RC, problem, resolve(chip))
    run = calls._device(decision, CPU, list(matmul.OPERANDS), tuple, matmul.strides(x, weight, bias))
    return run, decision, (x, weight, bias, y)


@pytest.mark.parametrize("chip", ["a100", "mi300x"])
@pytest.mark.parametrize("reduction", ["deterministic", "fast"])
def test_what_a_launch_says(reduction: str, chip: str, driver: Driver) -> None:
    run, decision, operands = prepared(reduction, chip)
    plan = decision.plan
    run(*operands)
    ((function, grid, block, shared, stream, arguments),) = driver.launches
    assert (function, grid, block, shared, stream) == (0x123, (plan.grid, 1, 1), (plan.block, 1, 1), 0, STREAM)
    said = {name: getattr(arguments, name) for name, _ in Arguments._fields_}
    held = workspace._pool.take(torch.device("cpu", 0), STREAM, None, decision.workspace)
    assert held.numel() >= plan.workspace > 4 * COUNTERS and plan.shards > 1
    x, weight, bias, y = (tensor.data_ptr() for tensor in operands)
    assert said == {
        **{"x": x, "weight": weight, "bias": bias, "y": y},
        **{"stride_x": K + 8, "stride_w": K, "stride_bias": 0, "stride_y": M},
        **{"n": N, "m": M, "k": K, "reserved": 0},
        **{"counters": held.data_ptr(), "partials": held.data_ptr() + 4 * COUNTERS},
        **{"shards": plan.shards, "shard_k": plan.shard_k},
    }


def test_a_number_is_that_of_each_launch(driver: Driver) -> None:
    _, decision, operands = prepared("deterministic")
    sizes = {**matmul.strides(*operands[:3]), "stride_w": 5}
    del sizes["stride_x"]
    run = calls._device(decision, CPU, [*matmul.OPERANDS, "stride_x"], tuple, sizes, ("stride_x",))
    for stride in (K + 8, 0, 1 << 40):
        run(*operands, stride)
        said = driver.launches[-1][-1]
        assert (said.stride_x, said.stride_w, said.y) == (stride, 5, operands[3].data_ptr())


@pytest.mark.parametrize("reduction", ["deterministic", "fast"])
@pytest.mark.parametrize("own", [False, True])
def test_a_refused_launch_leaves_the_workspace_zero(own: bool, reduction: str, driver: Driver) -> None:
    run, decision, operands = prepared(reduction)
    plan, need = decision.plan, decision.workspace
    assert need is not None
    mine = torch.zeros(plan.workspace, dtype=torch.uint8) if own else None
    run(*operands, workspace=mine)
    held = mine if mine is not None else workspace.on_stream(torch.device("cpu", 0), STREAM, need)
    assert driver.launches[-1][-1].counters == held.data_ptr()
    held[4 * COUNTERS] = 7
    driver.code, driver.dirt = 719, 3
    with pytest.raises(LaunchError, match=tables.KERNEL) as caught:
        run(*operands, workspace=mine)
    assert driver.forgotten
    assert caught.value.code == 719 and caught.value.grid == (plan.grid, 1, 1)
    assert not bool(held[: 4 * COUNTERS].any())
    assert int(held[4 * COUNTERS]) == (0 if plan.reduce == REDUCE_ATOMIC else 7)


def test_a_small_workspace_of_the_caller_s_launches_nothing(driver: Driver) -> None:
    run, decision, operands = prepared("deterministic")
    need = decision.plan.workspace
    with pytest.raises(ArgumentError, match=f"at least {need} bytes"):
        run(*operands, workspace=torch.zeros(need - 1, dtype=torch.uint8))
    assert driver.launches == []


def test_captures_get_workspaces_of_their_own(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _, operands = prepared("deterministic")
    run(*operands)
    monkeypatch.setattr(streams, "capturing", lambda: True)
    # Kept, as a graph keeps its pool.
    kept = []
    for capture in (1, 1, 2):
        monkeypatch.setattr(streams, "capture_id", lambda stream, capture=capture: capture)
        run(*operands)
        kept.append(workspace._pool._captured.copy())
    eager, first, again, second = [launch[-1].counters for launch in driver.launches]
    assert first == again and len({eager, first, second}) == 3 and len(kept) == 3
