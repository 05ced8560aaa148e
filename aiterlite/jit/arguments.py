"""Argument structs of kernels, declared once: in a C header, from which the rest follows. Pure but for reading it.

Kernels in C++ include the header. All else that needs the layout is derived from its text here: how Python fills the
struct, what assembly spells of it (generated when an assembly unit is built), and what that unit's key holds.

The grammar is small on purpose, so that a layout is the same for every compiler and can be told without one: fields of
the types of `_TYPES`, pointers, structs of the same kind, and no gap between them; only the end of a struct may be
padded. A header whose text the preprocessor changes, beyond includes and names of its own, is refused.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aiterlite.errors import SourceError
from aiterlite.jit.sources import SourceTree, package_tree

# Size, and the code of Python's `struct`; each is aligned to its size.
_TYPES = {
    "int8_t": (1, "b"),
    "uint8_t": (1, "B"),
    "int16_t": (2, "h"),
    "uint16_t": (2, "H"),
    "int32_t": (4, "i"),
    "uint32_t": (4, "I"),
    "float": (4, "f"),
    "int64_t": (8, "q"),
    "uint64_t": (8, "Q"),
    "double": (8, "d"),
}
_POINTER = (8, "Q")
# A CUtensorMap of the CUDA driver, which the launch fills in.
TENSOR_MAP = "aiterlite_tensor_map"
TENSOR_MAP_BYTES, _TENSOR_MAP_ALIGNMENT = 128, 64
_RESERVED = "reserved"
# What assembly includes; the compiler writes it for each unit (`assembly`).
ASSEMBLY_INCLUDE = "aiterlite/asm/arguments.inc"
# The drivers take no more for one kernel.
MOST_BYTES = 4096

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_INCLUDE = re.compile(r"^\s*#\s*include\s*<(aiterlite/[A-Za-z0-9_/]+\.h)>", re.MULTILINE)
_DIRECTIVE = re.compile(r"^[ \t]*#[ \t]*(?P<line>[^\n]*)", re.MULTILINE)
_HARMLESS = re.compile(r"pragma once|include\s.*|define AITERLITE_\w+ [\w.]+")
_STRUCT = r"\bstruct\s+{name}\s*\{{(?P<body>[^{{}}]*)\}}\s*;"
_DECLARATION = re.compile(r"(?:const\s+)?(?:struct\s+)?(?P<type>\w+)\s*(?P<star>\*?)\s*(?P<names>\w+(?:\s*,\s*\w+)*)")


@dataclass(frozen=True)
class Field:
    """One field of a struct: where it lies, in bytes, and how `struct` packs it (empty for a tensor map)."""

    name: str
    offset: int
    size: int
    code: str
    pointer: bool = False

    @property
    def kind(self) -> str:
        """What code-object metadata calls it."""
        return "global_buffer" if self.pointer else "by_value"

    @property
    def is_map(self) -> bool:
        return not self.code

    @property
    def is_reserved(self) -> bool:
        """Whether it only fills the struct up; it is always 0."""
        return self.name.startswith(_RESERVED)


@dataclass(frozen=True)
class Layout:
    """A struct as every compiler lays it out: its fields by offset, nested ones in the place of their struct."""

    name: str
    size: int
    alignment: int
    fields: tuple[Field, ...]

    @property
    def text(self) -> str:
        """The whole layout in one line, for the key of a unit that does not read it from its header."""
        fields = [f"{f.name} {'*' if f.pointer else f.code or 'map'} {f.offset}+{f.size}" for f in self.fields]
        return f"{self.name} of {self.size} bytes: {', '.join(fields)}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def packer(self) -> struct.Struct:
        """Packs the values of `packed` in order; tensor maps and the padded end are zeros."""
        cells = [f"{gap}x{field.code or f'{field.size}x'}" for gap, field in zip(self.gaps, self.fields, strict=False)]
        return struct.Struct("<" + "".join(cells) + f"{self.gaps[-1]}x")

    @property
    def gaps(self) -> tuple[int, ...]:
        """The unused bytes before each field, which the padded end of a nested struct leaves, and behind the last."""
        ends = [0, *[field.offset + field.size for field in self.fields]]
        starts = [*[field.offset for field in self.fields], self.size]
        return tuple(start - end for start, end in zip(starts, ends, strict=True))

    @property
    def packed(self) -> tuple[Field, ...]:
        """The fields that `packer` takes values of."""
        return tuple(field for field in self.fields if not field.is_map)


@dataclass(frozen=True)
class ArgumentStruct:
    """The argument struct of a kernel: its name in C, and the header under the include root that declares it."""

    name: str
    header: str

    def layout(self, tree: SourceTree | None = None) -> Layout:
        """The layout as the header has it now. Raises `SourceError` where it declares none of this kind."""
        return _layout(self, tree or package_tree(), ())

    @property
    def spec(self) -> str:
        """`header:name`, what a unit says of the struct that it reads."""
        return f"{self.header}:{self.name}"


def from_spec(spec: str) -> ArgumentStruct:
    header, _, name = spec.partition(":")
    return ArgumentStruct(name, header)


def _layout(wanted: ArgumentStruct, tree: SourceTree, outer: tuple[str, ...]) -> Layout:
    path = f"csrc/include/{wanted.header}"
    return _parsed(wanted, tree.read(path).decode("utf-8", "replace"), tree, outer)


def _parsed(wanted: ArgumentStruct, text: str, tree: SourceTree, outer: tuple[str, ...]) -> Layout:
    text = _plain(wanted.header, text)
    declared = list(re.finditer(_STRUCT.format(name=re.escape(wanted.name)), text))
    if not declared:
        raise SourceError(f"{wanted.header} declares no struct {wanted.name}")
    if len(declared) > 1:
        raise SourceError(f"{wanted.header} declares {wanted.name} {len(declared)} times; declare it once")
    found = declared[0]
    if wanted.name in outer:
        raise SourceError(f"{wanted.header}: {wanted.name} contains itself")
    fields: list[Field] = []
    end, alignment = 0, 1
    for declaration in filter(None, map(str.strip, found["body"].split(";"))):
        match = _DECLARATION.fullmatch(declaration)
        if match is None:
            raise _refused(wanted, declaration, "a field is `type name`, `type* name`, or several names of one type")
        for name in re.split(r"\s*,\s*", match["names"]):
            added, size, aligned = _field(wanted, match, name, text, tree, outer)
            if end % aligned:
                raise _refused(
                    wanted,
                    declaration,
                    f"{name} would lie {-end % aligned} bytes behind the field before it; order "
                    f"fields by size, or add a field `{_RESERVED}...`",
                )
            fields += [Field(f.name, end + f.offset, f.size, f.code, f.pointer) for f in added]
            end, alignment = end + size, max(alignment, aligned)
    if not fields:
        raise SourceError(f"{wanted.header}: {wanted.name} has no fields")
    twice = sorted({f.name for f in fields if sum(f.name == other.name for other in fields) > 1})
    if twice:
        raise SourceError(f"{wanted.header}: {wanted.name} has {', '.join(twice)} twice, nested structs included")
    size = -(-end // alignment) * alignment
    if size > MOST_BYTES:
        raise SourceError(f"{wanted.header}: {wanted.name} has {size} bytes; a kernel takes at most {MOST_BYTES}")
    return Layout(wanted.name, size, alignment, tuple(fields))


def _plain(header: str, text: str) -> str:
    """The text without comments. Raises `SourceError` where a compiler would read something else than stands there."""
    text = text.replace("\r\n", "\n")
    if "\r" in text or "\\\n" in text:
        raise SourceError(f"{header}: lines that end in a backslash or a lone carriage return are read otherwise in C")
    text = _COMMENT.sub(" ", text)
    for directive in _DIRECTIVE.finditer(text):
        line = directive["line"].strip()
        if not _HARMLESS.fullmatch(line):
            allowed = "`#pragma once`, `#include`, and `#define AITERLITE_...` of one value"
            raise SourceError(f"{header}: `#{line}` may change a struct; a header of arguments may have {allowed}")
    return text


def _field(
    wanted: ArgumentStruct, match: re.Match[str], name: str, text: str, tree: SourceTree, outer: tuple[str, ...]
) -> tuple[Sequence[Field], int, int]:
    """The fields that a declared name adds, at offsets from its own; its size; its alignment."""
    kind = match["type"]
    if match["star"]:
        if "," in match["names"]:
            raise _refused(wanted, match[0], "declare one pointer at a time")
        return (Field(name, 0, *_POINTER, pointer=True),), 8, 8
    if kind in _TYPES:
        size, code = _TYPES[kind]
        return (Field(name, 0, size, code),), size, size
    if kind == TENSOR_MAP:
        return (Field(name, 0, TENSOR_MAP_BYTES, ""),), TENSOR_MAP_BYTES, _TENSOR_MAP_ALIGNMENT
    for header in (wanted.header, *_INCLUDE.findall(text)):
        inner = ArgumentStruct(kind, header)
        try:
            layout = _layout(inner, tree, (*outer, wanted.name))
        except SourceError as error:
            if "declares no struct" in str(error):
                continue
            raise
        return layout.fields, layout.size, layout.alignment
    allowed = f"a pointer, {', '.join(_TYPES)}, {TENSOR_MAP}, or a struct of this header or one that it includes"
    raise _refused(wanted, match[0], f"{kind} is no type of an argument; allowed: {allowed}")


def _refused(wanted: ArgumentStruct, declaration: str, why: str) -> SourceError:
    return SourceError(f"{wanted.header}: {wanted.name}: `{' '.join(declaration.split())}`: {why}")


# Assembly -------------------------------------------------------------------------------------------------------------


def assembly(layout: Layout) -> str:
    """The include file that tells assembly of a struct: `ARGS_<field>` for each offset, `ARGS_BYTES`, and
    `AITERLITE_KERNEL_ARGS` as code-object metadata lists the fields."""
    lines = [f"// struct {layout.name}, generated from its header: where its fields lie, and how metadata lists them."]
    lines += [f".set ARGS_{field.name}, {field.offset}" for field in layout.fields]
    lines.append(f".set ARGS_BYTES, {layout.size}")
    listed = ", ".join(map(_metadata, layout.fields))
    lines.append(f"#define AITERLITE_KERNEL_ARGS [{listed}]")
    return "\n".join(lines) + "\n"


def _metadata(field: Field) -> str:
    # `!str`: to some YAML readers a bare y or n is a boolean.
    kind = f"{field.kind}, .address_space: global" if field.pointer else field.kind
    return f"{{.name: !str {field.name}, .offset: {field.offset}, .size: {field.size}, .value_kind: {kind}}}"


def differences(declared: Iterable[Field], found: Iterable[Field]) -> list[tuple[str, str, str]]:
    """(argument, found, declared) of each argument in which two lists differ; arguments are matched by name."""
    wanted, given = {f.name: _words(f) for f in declared}, {f.name: _words(f) for f in found}
    names = [*wanted, *(name for name in given if name not in wanted)]
    result = [
        (name, given.get(name, "none"), wanted.get(name, "none"))
        for name in names
        if given.get(name) != wanted.get(name)
    ]
    if not result and list(wanted) != list(given):
        result.append(("order", ", ".join(given), ", ".join(wanted)))
    return result


def _words(field: Field) -> str:
    return f"{field.size} bytes at {field.offset}, {field.kind}"
