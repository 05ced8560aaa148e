"""Shape words: `field=v,v`, and `field:field=v:v,v:v` for fields that vary together.

Words take the place of the axes of a table's sweep that hold their fields; fields of no axis are set. The table says
what fields there are, which go together and what is tried where none is named: no field is known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin

from aiterlite.cli.command import UsageError, near
from aiterlite.dispatch import Axis, Table
from aiterlite.tables import problems

_FLAGS = {"1": True, "true": True, "0": False, "false": False}
# The most values of an axis that a usage line shows.
_SHOWN = 3
HELP = "FIELD=V,V or FIELD:FIELD=V:V,V:V"


@dataclass(frozen=True)
class Word:
    """A word, its fields, and their values as text."""

    text: str
    fields: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    def fits(self, table: Table) -> bool:
        """Whether the table's problems have its fields."""
        return set(self.fields) <= {field.name for field in fields(table.problem)}


def read(texts: Iterable[str]) -> list[Word]:
    """Words as they are written. Raises `UsageError` for options, and for what is no word."""
    texts = list(texts)
    options = [text for text in texts if text.startswith("-")]
    if options:
        raise UsageError(f"unrecognized arguments: {' '.join(options)}")
    found: list[Word] = []
    for text in texts:
        name, equals, rest = text.partition("=")
        names = tuple(part.strip() for part in name.split(":"))
        if not equals or not all(names):
            raise UsageError(f"{text!r} is no shape word; give {HELP}")
        # One field's values may hold colons.
        values = tuple(tuple(item.split(":")) if len(names) > 1 else (item,) for item in rest.split(","))
        wrong = [":".join(value) for value in values if len(value) != len(names) or not all(value)]
        if wrong:
            raise UsageError(f"{text!r} has {wrong[0]!r} for {':'.join(names)}; give {HELP}")
        twice = [name for name in names if names.count(name) > 1 or any(name in word.fields for word in found)]
        if twice:
            raise UsageError(f"{text!r} names {twice[0]} again; give several values as {twice[0]}=V,V")
        found.append(Word(text, names, values))
    return found


def problems_of(table: Table, words: Sequence[Word]) -> list[Any]:
    """The problems of one operator that words describe; those of its sweep where there are none."""
    for word in words:
        if not word.fits(table):
            known = f"the shape words of {table.op} are {usage(table)}"
            raise UsageError(f"shape word {word.text!r} is not taken; {known}{_meant(word, [table])}")
    kinds = problems.field_types(table)
    axes = [
        Axis(
            word.fields,
            tuple(
                tuple(_parse(name, text, kinds[name]) for name, text in zip(word.fields, value, strict=True))
                for value in word.values
            ),
        )
        for word in words
    ]
    try:
        return problems.sweep(table, axes)
    except ValueError as error:
        raise UsageError(f"{error}; the shape words are {usage(table)}") from None


def problems_of_all(
    tables: Sequence[Table], words: Sequence[Word], named: bool = False
) -> list[tuple[Table, list[Any]]]:
    """The problems of several operators. A word goes to those that have its fields, and one of them must.

    Where the operators were not `named`, those that can make nothing of the words are left out.
    """
    if len(tables) == 1:
        return [(tables[0], problems_of(tables[0], words))]
    for word in words:
        if not any(word.fits(table) for table in tables):
            known = "; ".join(f"{table.op}: {usage(table)}" for table in tables)
            raise UsageError(f"shape word {word.text!r} is not taken; there are {known}{_meant(word, tables)}")
    found: list[tuple[Table, list[Any]]] = []
    refused: list[UsageError] = []
    for table in tables:
        own = [word for word in words if word.fits(table)]
        if words and not own and not named:
            continue
        try:
            found.append((table, problems_of(table, own)))
        except UsageError as error:
            refused.append(error)
    if refused and (named or not found):
        raise refused[0]
    return found


def _meant(word: Word, tables: Sequence[Table]) -> str:
    """For a word with a field that no table has: what it may have meant."""
    known = {field.name for table in tables for field in fields(table.problem)}
    return next((near(name, sorted(known)) for name in word.fields if name not in known), "")


def usage(table: Table) -> str:
    """The shape words of an operator: `[m:k=256:7168,...] [n=1,4,16] [bias=0]`; brackets mark what may be left out."""
    words = [f"[{':'.join(axis.fields)}={_values(axis)}]" for axis in table.sweep]
    swept = {name for axis in table.sweep for name in axis.fields}
    needed = problems.required(table)
    for field in fields(table.problem):
        if field.name in needed and field.name not in swept:
            words.append(f"{field.name}=...")
        elif field.name not in swept:
            words.append(f"[{field.name}={_text(field.default)}]")
    return " ".join(words)


def _values(axis: Axis) -> str:
    shown = [":".join(map(_text, value)) for value in axis.values[:_SHOWN]]
    return ",".join(shown if len(axis.values) <= _SHOWN else [*shown, "..."])


def _text(value: Any) -> str:
    """A value as a word gives it."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _parse(name: str, text: str, kind: Any) -> Any:
    if kind is bool:
        if text.lower() not in _FLAGS:
            raise UsageError(f"{name} is {text!r}; allowed: {', '.join(sorted(_FLAGS))}")
        return _FLAGS[text.lower()]
    if kind is int:
        # Python itself reads no more digits than 4300.
        if not (text.isascii() and text.isdecimal() and len(text) < 100):
            raise UsageError(f"{name} is {text!r}; allowed: a whole number of at least 0")
        return int(text)
    if kind is float:
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"{name} is {text!r}; allowed: a number") from None
    if get_origin(kind) is Literal:
        allowed = {_text(value): value for value in get_args(kind)}
        if text not in allowed:
            raise UsageError(f"{name} is {text!r}; allowed: {', '.join(allowed)}")
        return allowed[text]
    if kind is str:
        return text
    raise UsageError(f"{name} is of type {kind}, which words cannot give; allowed: numbers, flags and names")
