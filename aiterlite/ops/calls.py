"""What operators do between checking their operands and launching: deciding, and keeping what was prepared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from aiterlite import dispatch, envs
from aiterlite.dispatch import Decision, Table
from aiterlite.errors import ArgumentError
from aiterlite.jit import progress, record
from aiterlite.tables import TABLES
from aiterlite.target import Persona, persona_for
from aiterlite.wishes import wishes

# What a call is, once prepared: it takes the operator's arguments and returns its results.
Run = Callable[..., Any]

_MOST = 4096


def decide(table: Table, problem: Any, persona: Persona) -> Decision:
    """The decision for a call that is about to be made: logged, and recorded. Raises `DispatchError`."""
    wished = wishes()
    decision = dispatch.decide(table, problem, persona, wished)
    progress.logger().debug("%s", decision)
    dispatch.require(decision, wished)
    record.note_call(table.op, asdict(problem))
    return decision


def explain(op: str, problem: Any, device: torch.device) -> Decision:
    """The decision that a call of an operator with this problem on this device would take."""
    return dispatch.decide(TABLES[op], problem, persona_for(device.type, device.index), wishes())


def is_unobserved() -> bool:
    """Whether nobody asked to hear of calls that torch serves: no strictness, no recording, no log of decisions."""
    values = envs.snapshot().values
    watched = values[envs.STRICT.name] or values[envs.RECORD.name] or values[envs.LOG.name] == "debug"
    return not (watched or record.is_recording())


def persona_of(function: str, device: torch.device, cu_count: int = 0) -> Persona:
    """The persona of a device, with `cu_count` compute units where that is not 0. A CPU has none."""
    if cu_count < 0:
        raise ArgumentError(function, "cu_count", cu_count, "a number of compute units, or 0 for the device's own")
    persona = persona_for(device.type, device.index)
    return persona.with_compute_units(cu_count) if cu_count and persona.cu_count else persona


class PreparedCalls:
    """Calls by what they were prepared for. The environment's snapshot is part of that.

    Beyond a limit the least recently used are forgotten: calls lie in two halves, and one that is used comes to the
    younger half, which becomes the older one when it is full. (An order of all would cost each hit a second look.)
    """

    def __init__(self, most: int = _MOST) -> None:
        self._half = max(1, most // 2)
        self._kept = _Kept(None)

    def find(self, key: Any) -> Run | None:
        kept = self._kept
        if envs.snapshot() is not kept.snapshot:
            return None
        run = kept.young.get(key)
        if run is None and key in kept.old:
            run = self._keep(kept, key, kept.old[key])
        return run

    def prepare(self, key: Any, prepare: Callable[[], Run]) -> Run:
        """What `prepare` makes, kept under the environment that it was made in, if that is still the one."""
        snapshot = envs.snapshot()
        run = prepare()
        if envs.snapshot() is not snapshot:
            return run
        kept = self._kept
        if kept.snapshot is not snapshot:
            self._kept = kept = _Kept(snapshot)
        return self._keep(kept, key, run)

    def _keep(self, kept: _Kept, key: Any, run: Run) -> Run:
        # Threads may come between any two lines; the worst is a call that is prepared again.
        if len(kept.young) >= self._half:
            kept.young, kept.old = {}, kept.young
        kept.young[key] = run
        return run

    def __len__(self) -> int:
        return len(self._kept.young) + len(self._kept.old)


class _Kept:
    """The calls of one environment. Another thread that replaces it leaves this one whole."""

    def __init__(self, snapshot: envs.Snapshot | None) -> None:
        self.snapshot = snapshot
        self.young: dict[Any, Run] = {}
        self.old: dict[Any, Run] = {}
