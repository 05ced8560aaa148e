"""Timing contenders against each other in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# Inputs rotate through this many times the last-level cache, so that no contender finds its weights in it.
_CACHE_MULTIPLE = 4
_GRAPH_LAUNCHES = 64

Contender = Callable[[int], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median, least and most of `samples` samples."""

    median: float
    least: float
    most: float
    samples: int

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        return cls(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


def last_level_cache_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        size: int = torch.cuda.get_device_properties(device).L2_cache_size
        return size
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text[:-1]) * {"K": 1024, "M": 1024**2}[text[-1]])
    return max(sizes, default=64 * 1024**2)


def copies_for(device: torch.device, bytes_each: int) -> int:
    """How many copies of an input to rotate through."""
    return max(2, -(-_CACHE_MULTIPLE * last_level_cache_bytes(device) // max(1, bytes_each)))


def compare(
    contenders: Mapping[str, Contender], copies: int, device: torch.device, samples: int = 21
) -> dict[str, Timing]:
    """Time contenders in turn, sample by sample, so that a drift of the machine meets all alike.

    A contender is called with the number of the copy to use. On a GPU each sample replays a captured graph of many
    calls; on a CPU it is one call.
    """
    if device.type == "cuda":
        return _compare_graphs(contenders, copies, device, samples)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender(0)
    # Every call takes the next copy, whoever makes it: what one contender read is as cold for all others.
    call = 0
    for _ in range(samples):
        for name, contender in contenders.items():
            started = time.perf_counter()
            contender(call % copies)
            seconds[name].append(time.perf_counter() - started)
            call += 1
    return {name: Timing.of(values) for name, values in seconds.items()}


def _compare_graphs(
    contenders: Mapping[str, Contender], copies: int, device: torch.device, samples: int
) -> dict[str, Timing]:
    launches = max(copies, _GRAPH_LAUNCHES)
    graphs = {name: _capture(contender, copies, launches, device) for name, contender in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    make_event: Any = torch.cuda.Event
    begin, end = make_event(enable_timing=True), make_event(enable_timing=True)
    for _ in range(samples):
        for name, graph in graphs.items():
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            seconds[name].append(begin.elapsed_time(end) * 1e-3 / launches)
    return {name: Timing.of(values) for name, values in seconds.items()}


def _capture(contender: Contender, copies: int, launches: int, device: torch.device) -> torch.cuda.CUDAGraph:
    make_stream: Any = torch.cuda.Stream
    side = make_stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for copy in range(min(copies, 3)):
            contender(copy)
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for launch in range(launches):
            contender(launch % copies)
    graph.replay()
    torch.cuda.synchronize(device)
    return graph
