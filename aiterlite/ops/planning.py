"""What calls would run on a target, found out by making them on tensors without memory (meta).

Within a `Planner`, each operator of this package checks and prepares a call as ever, up to the launch, for the target
that AITERLITE_TARGET names; so what is found is what a run finds, and no second list of operators says it again. What
torch does itself between those calls is noted too where it moves much.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from aiterlite.dispatch import Decision
from aiterlite.errors import DispatchError
from aiterlite.ops import calls
from aiterlite.ops.operator import BY_OVERLOAD, Operator, key_of

_aten: Any = torch.ops.aten
# What torch does in a model that is more than moving a few rows.
_LIBRARY: tuple[Any, ...] = (
    _aten.linear,
    _aten.mm,
    _aten.bmm,
    _aten.addmm,
    _aten.embedding,
    _aten._scaled_dot_product_flash_attention,
)
_LIBRARY = (*_LIBRARY, _aten._scaled_dot_product_flash_attention_for_cpu)


@dataclass(frozen=True)
class Planned:
    """A call: its operator, or torch's function, the shapes of its tensors, and what it decided; `tensors` are its
    operands by the operator's names for them, its results as `result`."""

    op: str
    tensors: Mapping[str, Tensor]
    decisions: tuple[Decision, ...] = ()
    operator: Operator | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


class Planner(TorchDispatchMode):
    """Notes `calls`, each kind once, in order: those of the same layouts are one. `unserved`: the decisions without a
    row."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: dict[Any, Planned] = {}
        self.unserved: list[Decision] = []
        self._open = ExitStack()

    def __enter__(self) -> Planner:
        self._decided = self._open.enter_context(calls.collecting())
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._open.close()

    @property
    def decisions(self) -> list[Decision]:
        return [decision for call in self.calls.values() for decision in call.decisions]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = BY_OVERLOAD.get(func)
        if operator is None and func.overloadpacket not in _LIBRARY:
            return func(*args, **kwargs)
        key = _key(func, operator, args, kwargs)
        if key in self.calls:
            return func(*args, **kwargs)
        decisions = self._prepare(operator, args, kwargs) if operator else ()
        result = func(*args, **kwargs)
        name = operator.name if operator else func.overloadpacket.__name__
        self.calls[key] = Planned(name, _named(func, args, kwargs, result), decisions, operator, args, kwargs)
        return result

    def again(self, since: int, old: Tensor, new: Tensor) -> None:
        """Plans once more the operators' calls from this number on that had `old`, with `new` in its place."""
        for call in list(itertools.islice(self.calls.values(), since, None)):
            if call.operator is None or not any(arg is old for arg in (*call.args, *call.kwargs.values())):
                continue
            args = tuple(new if arg is old else arg for arg in call.args)
            kwargs = {name: new if arg is old else arg for name, arg in call.kwargs.items()}
            key = _key(call.operator.overload, call.operator, args, kwargs)
            if key not in self.calls:
                tensors = {name: new if tensor is old else tensor for name, tensor in call.tensors.items()}
                decisions = self._prepare(call.operator, args, kwargs)
                self.calls[key] = Planned(call.op, tensors, decisions, call.operator, args, kwargs)

    def _prepare(self, operator: Operator, args: Any, kwargs: Any) -> tuple[Decision, ...]:
        self._decided.clear()
        try:
            operator.prepare(*args, **kwargs)
        except DispatchError as error:
            self.unserved.append(error.decision)
        return tuple(self._decided)


def _key(func: Any, operator: Operator | None, args: Any, kwargs: Any) -> Any:
    return func, operator.key_of(args) if operator else key_of(args), key_of(tuple(kwargs.items()))


def _named(func: Any, args: Any, kwargs: Any, result: Any) -> dict[str, Tensor]:
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    results = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
    given |= {f"result{place or ''}": tensor for place, tensor in enumerate(results)}
    return {name: value for name, value in given.items() if isinstance(value, Tensor)}
