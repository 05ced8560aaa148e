"""reserve(op, problems): the workspaces of calls to come, taken before somebody else takes the memory.

The first call of a stream that needs a workspace, or a larger one, allocates it. An engine that sizes its KV cache by
what is free must have it allocated by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from aiterlite import dispatch
from aiterlite.errors import ArgumentError, CaptureError
from aiterlite.kernel import Workspace
from aiterlite.launch import streams as devices
from aiterlite.launch import workspace as workspaces
from aiterlite.tables import TABLES
from aiterlite.tables import problems as plain
from aiterlite.target import Persona, persona_for
from aiterlite.wishes import wishes


def reserve(
    op: str,
    problems: Iterable[Mapping[str, Any]],
    device: torch.device | str = "cuda",
    streams: Sequence[torch.cuda.Stream] | None = None,
) -> int:
    """Take the workspaces that eager calls of an operator will need, and keep them.

    Args:
        op: an operator, by the name of its table: "wvSplitKrc", "linear", ...
        problems: the calls to come, as fields of the table's problem: `{"n": 128, "m": 7168, "k": 2048}`. Fields that
            are not given have the command line's defaults; the reduction is AITERLITE_GEMM_REDUCTION's.
        device: where the calls will run, planned as for its own compute units.
        streams: the streams that they will be made on; None for the current one. On a CPU, where the emulator runs GPU
            kernels, a workspace is this thread's.

    Returns the bytes that are held for these calls from now on, the same where they were held already. Calls of the
    problems then allocate nothing but their results on these streams. A graph capture takes its workspace from the
    graph's pool all the same (docs/wvsplitkrc.md).
    Raises `ArgumentError`, `ValueError` for what is no problem of the table, `DispatchError` for one that nothing
    serves, and `CaptureError` while a graph is captured.
    """
    where = torch.device(device)
    if op not in TABLES:
        raise ArgumentError("reserve", "op", repr(op), ", ".join(TABLES))
    if where.type == "cpu":
        if streams is not None:
            raise ArgumentError("reserve", "streams", f"given for {where}", "None: a CPU has no streams")
        return sum(workspaces.on_thread(need).numel() for need in _needs(op, problems, persona_for("cpu", None)))
    index = torch.cuda.current_device() if where.index is None else where.index
    where = torch.device(where.type, index)
    needs = _needs(op, problems, persona_for(where.type, index))
    given = [torch.cuda.current_stream(where)] if streams is None else streams
    for stream in given:
        if stream.device != where:
            raise ArgumentError("reserve", "streams", f"one on {stream.device}", f"streams of {where}, the device")
    held = 0
    for handle, stream in {stream.cuda_stream: stream for stream in given}.items():
        with torch.cuda.stream(stream):
            if devices.capturing():
                raise CaptureError("reserve takes memory for eager calls; call it before a graph is captured")
            held += sum(workspaces.on_stream(where, handle, need).numel() for need in needs)
    return held


def _needs(op: str, problems: Iterable[Mapping[str, Any]], persona: Persona) -> list[Workspace]:
    """The largest workspace of each kind, so that none is allocated only to be outgrown."""
    largest: dict[str, Workspace] = {}
    wished = wishes()
    for values in problems:
        decision = dispatch.decide(TABLES[op], plain.problem(TABLES[op], values), persona, wished)
        dispatch.require(decision, wished)
        need = decision.workspace
        if need is not None and (need.kind not in largest or largest[need.kind].total < need.total):
            largest[need.kind] = need
    return list(largest.values())
