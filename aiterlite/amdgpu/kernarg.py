"""Layouts of kernel arguments: what a host unit writes and an assembly kernel reads. Pure."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiterlite.errors import LoadError


@dataclass(frozen=True)
class Argument:
    """One field of an argument struct: where it lies, in bytes, and whether it is a pointer to global memory."""

    name: str
    offset: int
    size: int
    pointer: bool = False

    @property
    def kind(self) -> str:
        """What code-object metadata calls it."""
        return "global_buffer" if self.pointer else "by_value"


@dataclass(frozen=True)
class KernargLayout:
    """An argument struct: its name in C++, its size in bytes, and its fields in the order of their offsets."""

    name: str
    size: int
    arguments: tuple[Argument, ...]

    @property
    def text(self) -> str:
        """The whole layout in one line; `digest` is made of it."""
        fields = ", ".join(f"{a.name} {a.kind} {a.offset}+{a.size}" for a in self.arguments)
        return f"{self.name} of {self.size} bytes: {fields}"

    @property
    def digest(self) -> str:
        """What enters the key of a unit that reads this struct."""
        return hashlib.sha256(self.text.encode()).hexdigest()


class _Field(ctypes.Structure):
    """`aiterlite_kernarg_field` of aiterlite/kernarg.h."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("offset", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("pointer", ctypes.c_uint32),
    ]


def symbol(struct: str) -> str:
    """The function of a host unit that tells how the host fills a struct."""
    return f"{struct}_layout"


def read(library: ctypes.CDLL, struct: str) -> KernargLayout:
    """The layout of a struct as a host unit was compiled with it."""
    table = getattr(library, symbol(struct))
    table.restype = ctypes.POINTER(_Field)
    rows: Any = table()
    fields: list[Argument] = []
    # The first row is the struct itself; a row without a name ends the table.
    while rows[1 + len(fields)].name is not None:
        row = rows[1 + len(fields)]
        fields.append(Argument(row.name.decode(), row.offset, row.size, bool(row.pointer)))
    return KernargLayout(rows[0].name.decode(), rows[0].size, tuple(fields))


def require(library: ctypes.CDLL, struct: str, digest: str) -> None:
    """Raises `LoadError` where a host unit fills a struct otherwise than the layout of this digest."""
    filled = read(library, struct)
    if filled.digest != digest:
        raise LoadError(
            f"an assembly kernel was assembled for a struct of digest {digest[:12]}, and {library._name} fills one "
            f"of digest {filled.digest[:12]}: {filled.text}. Make the kernel, its manifest (aiterlite/tables/*_asm.py) "
            "and the C++ struct agree; `aiterlite build --check-asm` names the fields that do not"
        )


def differences(declared: Sequence[Argument], found: Sequence[Argument]) -> list[tuple[str, str, str]]:
    """(argument, found, declared) of each argument in which two lists differ; arguments are told by their names."""
    wanted, given = {a.name: a for a in declared}, {a.name: a for a in found}
    result = []
    for name in [*wanted, *(name for name in given if name not in wanted)]:
        left, right = wanted.get(name), given.get(name)
        if left != right:
            result.append((name, _words(right), _words(left)))
    if not result and [a.name for a in declared] != [a.name for a in found]:
        result.append(("order", ", ".join(given), ", ".join(wanted)))
    return result


def _words(argument: Argument | None) -> str:
    return "none" if argument is None else f"{argument.size} bytes at {argument.offset}, {argument.kind}"
