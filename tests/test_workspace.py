"""Workspaces: who shares one, who must not, and what is zero. No GPU: streams and captures are numbers here."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from aiterlite.kernel import Workspace  # noqa: E402
from aiterlite.launch import workspace  # noqa: E402
from aiterlite.launch.workspace import Pool  # noqa: E402

CPU, META = torch.device("cpu"), torch.device("meta")
NEED = Workspace("slices", 64, 4096)


def need(zeroed: int, total: int, kind: str = "slices") -> Workspace:
    return Workspace(kind, zeroed, total)


@pytest.fixture(autouse=True)
def _used_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that the allocator gives out has been somebody else's."""
    empty = torch.empty

    def dirty(*shape: object, **options: object) -> torch.Tensor:
        return empty(*shape, **options).fill_(255)

    monkeypatch.setattr(workspace.torch, "empty", dirty)


def address(pool: Pool, stream: int = 1, capture: int | None = None, kind: str = "slices") -> int:
    return pool.take(CPU, stream, capture, replace(NEED, kind=kind)).data_ptr()


def test_a_stream_keeps_its_workspace_and_shares_it_with_nobody() -> None:
    pool = Pool()
    first = address(pool)
    assert address(pool) == first
    others = {address(pool, stream=2), address(pool, kind="atomic"), address(pool, capture=7)}
    assert len(others | {first}) == 4
    assert pool.take(META, 1, None, NEED).device == META


def test_graphs_of_one_stream_do_not_share() -> None:
    pool = Pool()
    one = pool.take(CPU, 1, 7, NEED)
    assert address(pool, capture=7) == one.data_ptr()
    two = pool.take(CPU, 1, 0, NEED)
    assert two.data_ptr() != one.data_ptr()
    assert address(pool, capture=0) == two.data_ptr()


def test_a_capture_ends_with_the_next_eager_launch() -> None:
    pool = Pool()
    captured = pool.take(CPU, 1, 7, NEED)
    assert len(pool._captured) == 1
    pool.take(CPU, 2, None, NEED)
    assert len(pool._captured) == 1
    assert address(pool) != captured.data_ptr()
    assert not pool._captured


def test_more_is_zeroed_where_it_must_be() -> None:
    pool = Pool()
    pool.take(CPU, 1, None, NEED).fill_(255)
    large = need(1 << 21, 3 << 21)
    held = pool.take(CPU, 1, None, large)
    assert held.numel() >= large.total and not bool(held[: large.zeroed].any())
    assert address(pool) == held.data_ptr()
    # A capture gets exactly what it asked for, zeroed by the graph.
    captured = pool.take(CPU, 1, 7, need(4096, 4096, "atomic"))
    assert captured.numel() == 4096 and not bool(captured.any())
    captured = pool.take(CPU, 1, 7, need(8192, 8192, "atomic"))
    assert captured.numel() == 8192 and not bool(captured.any())


def test_a_later_launch_may_have_a_longer_zeroed_part() -> None:
    pool = Pool()
    held = pool.take(CPU, 1, None, need(64, 64, "atomic"))
    assert pool.take(CPU, 1, None, need(4096, 4096, "atomic")).data_ptr() == held.data_ptr()
    assert not bool(held[:4096].any())


def test_restore_zeroes_what_must_be() -> None:
    memory = torch.full((32,), 7, dtype=torch.int32)
    workspace.restore(memory, need(64, 128))
    assert memory.tolist() == [0] * 16 + [7] * 16


def test_clear_gives_everything_back() -> None:
    pool = Pool()
    pool.take(CPU, 1, None, NEED)
    pool.take(CPU, 1, 3, NEED)
    pool.clear()
    assert not pool._eager and not pool._captured


def test_threads_do_not_share() -> None:
    mine = workspace.on_thread(NEED)
    found: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(workspace.on_thread(NEED))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({memory.data_ptr() for memory in (mine, *found)}) == 5
    assert workspace.on_thread(NEED).data_ptr() == mine.data_ptr()


def test_a_capture_is_asked_for_by_the_streams_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(workspace, "_pool", Pool())
    monkeypatch.setattr(workspace.streams, "capturing", lambda: True)
    monkeypatch.setattr(workspace.streams, "capture_id", lambda stream: asked.append(stream) or 5)
    captured = workspace.on_stream(CPU, 11, NEED)
    assert asked == [11]
    monkeypatch.setattr(workspace.streams, "capturing", lambda: False)
    assert workspace.on_stream(CPU, 11, NEED).data_ptr() != captured.data_ptr()
    assert asked == [11]
