"""Arguments of no type that an operator takes: what torch's dispatcher lets through, or does not see; and what several
families ask of their operands beside `ops/operands.py`.

The dispatcher converts numbers and refuses other types by an argument's name, but takes None for any tensor; and a
function that looks at its arguments before it calls the operator, or in its place, has no dispatcher before it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from aiterlite.errors import ArgumentError

# Types of which a schema's argument may be without being converted. A tensor of another class is no operand (see
# `operands.plain_layouts`), and one in the place of a number has a value that no key of prepared calls holds.
_TYPES: dict[str, tuple[type, ...]] = {
    "Tensor": (Tensor, Parameter),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "str": (str,),
}
# Which may also be absent.
_TYPES |= {f"Optional[{name}]": (*kinds, type(None)) for name, kinds in list(_TYPES.items())}


def check_tensors(function: str, **given: Any) -> None:
    """Raises `ArgumentError` for the first that is no tensor."""
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise ArgumentError(function, name, _described(value), "a tensor")


def check_ints(function: str, **given: tuple[Any, int, int]) -> None:
    """Raises `ArgumentError` for the first that is no integer, or not between its least and its most. A tensor of one
    is converted by torch."""
    for name, (value, least, most) in given.items():
        try:
            fits = least <= value <= most and not isinstance(value, float)
        except TypeError:
            fits = False
        if not fits:
            got = value if isinstance(value, int) else _described(value)
            raise ArgumentError(function, name, got, f"an integer, {least} to {most}")


def check_contiguous(function: str, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and not tensor.is_contiguous():
            got = f"of strides {list(tensor.stride())}"
            raise ArgumentError(function, name, got, "contiguous", "Call .contiguous() on it.")


def check_apart(function: str, name: str, tensor: Tensor) -> None:
    """No two elements of a tensor that is written to share memory. Its dimensions may lie in any order."""
    reach, pairs = 1, sorted(zip(tensor.stride(), tensor.shape, strict=True))
    for stride, size in pairs if tensor.numel() else ():
        if size > 1:
            if stride < reach:
                got = f"of strides {list(tensor.stride())}"
                raise ArgumentError(function, name, got, "elements that do not overlap", "Call .contiguous() on it.")
            reach += stride * (size - 1)


def check_written(function: str, name: str, tensor: Tensor) -> None:
    """Rows of a tensor [..., K] that is written to: a kernel reaches them by one stride, and they share no memory."""
    if tensor.dim() < 2 or not tensor.numel():
        return
    if not _has_one_stride(tensor):
        got = f"of strides {list(tensor.stride())}"
        raise ArgumentError(function, name, got, "rows that are all as far apart", "Call .contiguous() on it.")
    check_apart(function, name, tensor)


def _has_one_stride(tensor: Tensor) -> bool:
    sizes, strides = tensor.shape[:-1], tensor.stride()[:-1]
    kept = [(size, stride) for size, stride in zip(sizes, strides, strict=True) if size > 1]
    return all(kept[i][1] == kept[i + 1][0] * kept[i + 1][1] for i in range(len(kept) - 1))


def requiring_tensors(
    overload: Any, prepare: Callable[..., Any], fake: Callable[..., Any]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The two functions of an operator, for which None is no tensor unless its schema says so."""
    function = overload._schema.name.partition("::")[2]
    needed = [(place, a.name) for place, a in enumerate(overload._schema.arguments) if str(a.type) == "Tensor"]

    def requiring(asked: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(asked)
        def checked(*args: Any, **kwargs: Any) -> Any:
            for place, name in needed:
                if (args[place] if place < len(args) else kwargs.get(name)) is None:
                    raise ArgumentError(function, name, "None", "a tensor")
            return asked(*args, **kwargs)

        return checked

    return requiring(prepare), requiring(fake)


def fit(overload: Any, kinds: tuple[type, ...]) -> bool:
    """Whether an operator takes arguments of these types as they are."""
    wanted = [str(argument.type) for argument in overload._schema.arguments]
    return all(kind in _TYPES.get(type_, ()) for kind, type_ in zip(kinds, wanted, strict=False))


def _described(value: Any) -> str:
    return "None" if value is None else f"{value!r}, of type {type(value).__name__}"
