"""A call of an operator that goes through torch's dispatcher only where that would do more than call back."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiterlite.ops import arguments, operands
from aiterlite.ops.operator import OPERATORS, Operator

_is_compiling: Any = torch.compiler.is_compiling
_grad_enabled: Any = torch.is_grad_enabled


def call(operator: Operator, args: tuple[Any, ...], written: tuple[Tensor, ...]) -> None:
    """A call of an operator that returns nothing. The dispatcher takes longer than a kernel takes for some tokens, so
    it is gone through only where it would do more than call back. Autograd learns of what is `written` in either case;
    a tensor that was made for this call need not be named there."""
    form = None if _is_compiling() else _form(operator.name, tuple(map(type, args)))
    if form is None:
        operator(*args)
        return
    tensors = [args[place] for place in form.tensors]
    layouts = operands.plain_layouts(*tensors)
    if layouts is None or (_grad_enabled() and any(tensor.requires_grad for tensor in tensors)):
        operator(*args)
        return
    # 0.0 equals -0.0, and no NaN itself.
    key = (
        form.number,
        layouts,
        tuple([args[place] for place in form.others]),
        tuple([repr(args[place]) for place in form.floats]) if form.floats else (),
    )
    run = operator.prepared.find(key) or operator.prepare_as(key, *args)
    run(*args)
    if written:
        torch.autograd.graph.increment_version(written)


@dataclass(frozen=True)
class _Form:
    """Which arguments of a call are tensors, floats and others (None is one), by their places; `number` is its own."""

    number: int
    tensors: tuple[int, ...]
    floats: tuple[int, ...]
    others: tuple[int, ...]


@functools.lru_cache(1024)
def _form(name: str, kinds: tuple[type, ...]) -> _Form | None:
    """The form of calls with arguments of these types; None where the operator does not take them as they are."""
    if not arguments.fit(OPERATORS[name].overload, kinds):
        return None
    tensors = tuple(place for place, kind in enumerate(kinds) if issubclass(kind, Tensor))
    floats = tuple(place for place, kind in enumerate(kinds) if kind is float)
    others = tuple(place for place in range(len(kinds)) if place not in (*tensors, *floats))
    # Two forms that have the same numbers are the same: a tensor is a 1, a float a 2, by their places.
    number = sum((1 if place in tensors else 2) << 2 * place for place in (*tensors, *floats))
    return _Form(number, tensors, floats, others)
