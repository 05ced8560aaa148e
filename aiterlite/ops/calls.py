"""What operators do between checking their operands and launching: deciding, and keeping what was prepared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from aiterlite import dispatch, envs
from aiterlite.dispatch import Decision, Table
from aiterlite.errors import ArgumentError
from aiterlite.jit import progress, record
from aiterlite.ops import call_log
from aiterlite.target import Persona, persona_for
from aiterlite.wishes import wishes

# What a call is, once prepared: it takes the operator's arguments and returns its results.
Run = Callable[..., Any]
# An environment, and the younger and the older calls prepared in it.
_Kept = tuple[envs.Snapshot | None, dict[Any, Run], dict[Any, Run]]


# Those who collect decisions of calls that will not be made.
_collectors: list[list[Decision]] = []


@contextmanager
def collecting() -> Iterator[list[Decision]]:
    """What is decided in this scope, in order, as for runs elsewhere: neither logged nor recorded. For one thread that
    makes no other calls meanwhile."""
    found: list[Decision] = []
    _collectors.append(found)
    try:
        yield found
    finally:
        _collectors[:] = [other for other in _collectors if other is not found]


def decide(table: Table, problem: Any, persona: Persona) -> Decision:
    """The decision for a call that is about to be made: logged, and recorded. Raises `DispatchError`."""
    if _collectors:
        planned = dispatch.decide(table, problem, persona, wished := wishes(building=True))
        _collectors[-1].append(planned)
        dispatch.require(planned, wished)
        return planned
    wished = wishes()
    decision = dispatch.decide(table, problem, persona, wished)
    progress.logger().debug("%s", decision)
    dispatch.require(decision, wished)
    call_log.note_decision(decision)
    record.note_call(table.op, asdict(problem))
    return decision


def is_unobserved() -> bool:
    """Whether nobody asked to hear of calls that torch serves: no strictness, no recording, no log of calls or
    decisions, nobody who collects these."""
    values = envs.snapshot().values
    asked = (values[variable.name] for variable in (envs.STRICT, envs.RECORD, envs.LOG_CALLS))
    watched = any(asked) or values[envs.LOG.name] == "debug"
    return not (watched or record.is_recording() or _collectors)


def persona_of(function: str, device: torch.device, cu_count: int = 0) -> Persona:
    """The persona of a device, with `cu_count` compute units where that is not 0. A CPU has none."""
    if cu_count < 0:
        raise ArgumentError(function, "cu_count", cu_count, "a number of compute units, or 0 for the device's own")
    persona = persona_for(device.type, device.index)
    return persona.with_compute_units(cu_count) if cu_count and persona.cu_count else persona


def fp8_of(device: torch.device) -> str:
    """The e4m3 type of a device's target. A tracer takes the answer for a constant."""
    return persona_for(device.type, device.index).fp8


# What torch.compiler.assume_constant_result does, which imports torch's compiler.
fp8_of._dynamo_marked_constant = True  # type: ignore[attr-defined]


class PreparedCalls:
    """Calls by what they were prepared for. The environment's snapshot is part of that.

    Beyond a limit the least recently used are forgotten: calls lie in two halves, and one that is used comes to the
    younger half, which becomes the older one when it is full. (Keeping all in order would cost each hit more.)
    """

    def __init__(self, most: int = 4096) -> None:
        self._half = max(1, most // 2)
        self._kept: _Kept = (None, {}, {})

    def find(self, key: Any) -> Run | None:
        snapshot, young, old = kept = self._kept
        if envs.snapshot() is not snapshot:
            return None
        return young.get(key) or (self._keep(kept, key, old[key]) if key in old else None)

    def prepare(self, key: Any, prepare: Callable[[], Run]) -> Run:
        """What `prepare` makes, kept under the environment that it was made in, if that is still the one."""
        snapshot = envs.snapshot()
        run = prepare()
        if envs.snapshot() is not snapshot:
            return run
        if self._kept[0] is not snapshot:
            self._kept = snapshot, {}, {}
        return self._keep(self._kept, key, run)

    def _keep(self, kept: _Kept, key: Any, run: Run) -> Run:
        # Threads may come between any two lines; the worst is a call that is prepared again.
        snapshot, young, old = kept
        if len(young) >= self._half:
            young, old = {}, young
            self._kept = snapshot, young, old
        young[key] = run
        return run
