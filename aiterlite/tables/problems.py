"""Problems of a table from plain data: one, or all of a sweep. No family is known here."""

from __future__ import annotations

import itertools
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from aiterlite import dispatch
from aiterlite.dispatch import Axis, Table


def field_types(table: Table) -> dict[str, Any]:
    """The fields of a table's problems, with their types."""
    hints = get_type_hints(table.problem)
    return {field.name: hints[field.name] for field in fields(table.problem)}


def required(table: Table) -> tuple[str, ...]:
    """The fields that have no default."""
    return tuple(f.name for f in fields(table.problem) if f.default is MISSING and f.default_factory is MISSING)


def problem(table: Table, values: Mapping[str, Any]) -> Any:
    """One problem. The table derives fields that `values` lacks, else they have their defaults.

    Raises `ValueError` for a field that the problem lacks, for a value of another type than its field's, and for a
    missing field without default. Lists, which is what JSON makes of tuples, are taken for tuples.
    """
    known = field_types(table)
    unknown = [name for name in values if name not in known]
    if unknown:
        raise ValueError(f"{table.op} has no field {', '.join(unknown)}; it has {', '.join(known)}")
    given = {name: _checked(f"{table.op}: {name}", value, known[name]) for name, value in values.items()}
    # A table derives from fields that are there, so a missing one is reported first.
    missing = [name for name in required(table) if name not in given]
    if missing:
        raise ValueError(f"{table.op} needs {', '.join(missing)}")
    return dispatch.problem_from(table, table.derive(given))


def sweep(table: Table, named: Sequence[Axis] = ()) -> list[Any]:
    """The problems of a table's sweep, each once. `named` axes take the place of those that hold their fields.

    Raises `ValueError` where only a part of an axis is named, and as `problem` does.
    """
    axes = _axes(table, named)
    found = [
        problem(
            table, {name: value for axis, point in zip(axes, points, strict=True) for name, value in _at(axis, point)}
        )
        for points in itertools.product(*(axis.values for axis in axes))
    ]
    return list(dict.fromkeys(found))


def _axes(table: Table, named: Sequence[Axis]) -> list[Axis]:
    """The axes of a sweep, with each named axis in the place of those whose fields it holds."""
    given = {name for axis in named for name in axis.fields}
    axes: list[Axis] = []
    for axis in table.sweep:
        missing = [name for name in axis.fields if name not in given]
        if not missing:
            axes += [other for other in named if other not in axes and set(other.fields) & set(axis.fields)]
        elif len(missing) == len(axis.fields):
            axes.append(axis)
        else:
            here = [name for name in axis.fields if name in given]
            raise ValueError(
                f"{table.op}: {' and '.join(axis.fields)} go together, and {' and '.join(here)} is given without "
                f"{' and '.join(missing)}"
            )
    return axes + [axis for axis in named if axis not in axes]


def _at(axis: Axis, point: Iterable[Any]) -> Iterable[tuple[str, Any]]:
    return zip(axis.fields, point, strict=True)


def _checked(what: str, value: Any, kind: Any) -> Any:
    """The value as its field holds it. Raises `ValueError`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        for part in parts:
            try:
                return _checked(what, value, part)
            except ValueError:
                continue
    elif origin is Literal:
        if any(value == part and type(value) is type(part) for part in parts):
            return value
    elif origin is tuple and isinstance(value, (list, tuple)):
        inner = parts[:1] * len(value) if parts[1:] == (...,) else parts
        if len(inner) == len(value):
            return tuple(_checked(what, item, part) for item, part in zip(value, inner, strict=True))
    elif type(value) is kind or (kind is float and type(value) is int):
        return float(value) if kind is float else value
    raise ValueError(f"{what} is {value!r}, not of type {getattr(kind, '__name__', kind)}")
