"""Device memory that launches of an operator share, one after the other: partial sums, and counters of arrivals.

A launch finds the zeroed part of its workspace zero and leaves it zero, so a workspace may serve one launch after
another, and must never serve two at once. Hence one for each stream, whose launches follow each other; one for each
capture of a graph, whose replays follow each other but not those of another graph; and one for each thread on a CPU.

A capture's workspace comes from the memory pool of the graph and is zeroed by the graph itself, once a replay, so that
a replay depends on nothing that happened before it. It stays reserved in that pool until the stream captures again or
launches eagerly; after that the pool may give it to a later capture that shares the pool. By torch's rules, graphs of
one pool are not replayed at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable

import torch
from torch import Tensor

from aiterlite.kernel import Workspace
from aiterlite.launch import streams

_GRAIN = 1 << 20


def restore(memory: Tensor, need: Workspace) -> None:
    """Zero what a launch that failed may have left otherwise."""
    as_bytes(memory)[: need.zeroed].zero_()


def as_bytes(workspace: Tensor) -> Tensor:
    """A contiguous tensor of any type as its bytes."""
    return workspace.view(-1).view(torch.uint8)


class Pool:
    """Workspaces by who uses them. Kinds are kept apart: one may leave sums where another has its zeroed part."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._eager: dict[Hashable, Tensor] = {}
        self._captured: dict[Hashable, tuple[int, Tensor]] = {}

    def take(self, device: torch.device, stream: int, capture: int | None, need: Workspace) -> Tensor:
        """At least `need.total` bytes for a launch on a stream of a device; `capture` names the capture that the stream
        is under, None without one. The caller launches on that stream, which is torch's current one."""
        key = (device, stream, need.kind)
        with self._lock:
            if capture is not None:
                last, held = self._captured.get(key, (None, None))
                if held is None or last != capture or held.numel() < need.total:
                    held = _zeroed(device, need.total, need.zeroed)
                    self._captured[key] = (capture, held)
                return held
            self._captured.pop(key, None)
            held = self._eager.get(key)
            if held is None or held.numel() < need.total:
                size = -(-need.total // _GRAIN) * _GRAIN
                # Zeroed whole: a later launch of this kind may have a longer zeroed part.
                held = self._eager[key] = _zeroed(device, size, size)
            return held

    def clear(self) -> None:
        """Give all memory back. No launch may be under way."""
        with self._lock:
            self._eager.clear()
            self._captured.clear()


def _zeroed(device: torch.device, size: int, zeroed: int) -> Tensor:
    memory = torch.empty(size, dtype=torch.uint8, device=device)
    memory[:zeroed].zero_()
    return memory


_pool = Pool()
_thread = threading.local()


def on_stream(device: torch.device, stream: int, need: Workspace) -> Tensor:
    """The workspace of a launch on torch's current stream of a GPU, whose raw handle is `stream`."""
    capture = streams.capture_id(stream) if streams.capturing() else None
    return _pool.take(device, stream, capture, need)


def on_thread(need: Workspace) -> Tensor:
    """The workspace of an emulated launch by this thread, which waits for its end."""
    pool: Pool | None = getattr(_thread, "pool", None)
    if pool is None:
        pool = _thread.pool = Pool()
    return pool.take(torch.device("cpu"), 0, None, need)
