"""A call of an operator that goes through torch's dispatcher only where that would do more than call back."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from aiterlite.ops import arguments, operands
from aiterlite.ops.operator import OPERATORS, Operator


def call(operator: Operator, args: tuple[Any, ...], written: tuple[Tensor, ...]) -> None:
    """A call of an operator that returns nothing. The dispatcher takes longer than a kernel takes for some tokens, so
    it is gone through only where it would do more than call back. Autograd learns of what is `written` in either
    case."""
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    layouts = operands.plain_layouts(*tensors)
    plain = layouts is not None and _fit(operator.name, tuple(map(type, args)))
    if not plain or any(tensor.requires_grad for tensor in tensors):
        operator(*args)
        return
    # In the places of the arguments, so that it is known which are absent. 0.0 equals -0.0, and no NaN itself.
    each = iter(layouts or ())
    key = tuple([next(each) if isinstance(arg, Tensor) else repr(arg) if type(arg) is float else arg for arg in args])
    run = operator.prepared.find(key) or operator.prepare_as(key, *args)
    run(*args)
    torch.autograd.graph.increment_version(written)


@functools.lru_cache(1024)
def _fit(name: str, kinds: tuple[type, ...]) -> bool:
    return arguments.fit(OPERATORS[name].overload, kinds)
