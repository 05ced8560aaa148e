"""What all operators do between checking their operands and launching: deciding, and keeping what was prepared."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from aiterlite import dispatch, envs
from aiterlite.dispatch import Decision, Row, Table
from aiterlite.jit import progress, record
from aiterlite.target import Persona
from aiterlite.wishes import wishes

Run = TypeVar("Run")

_MOST = 4096


def decide(table: Table, problem: Any, persona: Persona) -> tuple[Decision, Row]:
    """The decision for a call that is about to be made, and its row: logged, and recorded. Raises `DispatchError`."""
    wished = wishes()
    decision = dispatch.decide(table, problem, persona, wished)
    progress.logger().debug("%s", decision)
    row = dispatch.require(decision, wished)
    record.note_call(table.op, decision.to_json()["problem"])
    return decision, row


class PreparedCalls(Generic[Run]):
    """Closures by what they were prepared for. The environment's snapshot is part of that; beyond a limit, all go."""

    def __init__(self) -> None:
        self._runs: dict[Any, Run] = {}
        self._snapshot: envs.Snapshot | None = None

    def find(self, key: Any) -> Run | None:
        snapshot = envs.snapshot()
        if snapshot is not self._snapshot or len(self._runs) > _MOST:
            self._runs.clear()
            self._snapshot = snapshot
        return self._runs.get(key)

    def keep(self, key: Any, run: Run) -> Run:
        self._runs[key] = run
        return run
