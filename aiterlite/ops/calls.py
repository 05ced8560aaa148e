"""What all operators do between checking their operands and launching: deciding, and keeping what was prepared."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

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


_PLAIN = (Tensor, torch.nn.Parameter)
_dispatch_modes: Any = torch._C._len_torch_dispatch_stack
_function_modes: Any = torch._C._is_torch_function_mode_enabled
_transforms: Any = torch._C._functorch.peek_interpreter_stack
_profiled: Any = torch._C._autograd._profiler_enabled


def is_plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether torch's dispatcher would do nothing for a call but call this package's function, which takes it some
    microseconds: ordinary tensors of a CPU or GPU, and nothing that compiles, traces, transforms, intercepts or
    profiles operators."""
    return (
        not torch.compiler.is_compiling()
        and type(x) in _PLAIN
        and type(weight) in _PLAIN
        and (bias is None or type(bias) in _PLAIN)
        and (x.is_cuda or x.is_cpu)
        and not _dispatch_modes()
        and not _function_modes()
        and _transforms() is None
        and torch._C._get_tracing_state() is None
        and not _profiled()
    )


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
