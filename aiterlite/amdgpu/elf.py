"""The ELF container of an AMDGPU code object: sections, symbols and notes. Pure.

Whatever a file says of itself is checked before it is followed: a table or section that is cut off, lies over another,
or counts more than the file holds is a `ValueError` that names it, and so is another byte order or another machine.
Layouts: the ELF-64 object file format; LLVM's AMDGPU user guide, chapter on code objects.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

_MACHINE_AMDGPU = 224
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_NOTE = struct.Struct("<III")
_PT_NOTE = 4
_SHT_NULL, _SHT_NOBITS, _SHT_DYNSYM = 0, 8, 11


@dataclass(frozen=True)
class Section:
    """`contents` is empty for a section that takes no room in the file, whatever its `size` in memory."""

    kind: int
    address: int
    size: int
    link: int
    contents: bytes


@dataclass(frozen=True)
class Symbol:
    name: str
    section: int
    address: int
    size: int


@dataclass(frozen=True)
class Note:
    owner: str
    kind: int
    contents: bytes


@dataclass(frozen=True)
class CodeObject:
    """A code object's tables, all of them checked."""

    flags: int
    sections: tuple[Section, ...]
    symbols: dict[str, Symbol]
    notes: tuple[Note, ...]

    def contents(self, symbol: str) -> bytes:
        """What an exported symbol names. Raises `KeyError` where there is none, `ValueError` where it is nowhere."""
        found = self.symbols[symbol]
        if found.section >= len(self.sections):
            raise ValueError(f"{symbol} lies in section {found.section}, and there are {len(self.sections)}")
        section = self.sections[found.section]
        start = found.address - section.address
        if not 0 <= start <= len(section.contents) - found.size:
            raise ValueError(f"{symbol} lies outside its section")
        return section.contents[start : start + found.size]


def read(image: bytes) -> CodeObject:
    """The code object that these bytes are. Raises `ValueError`."""
    if image[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a little-endian ELF64 file")
    if len(image) < _HEADER.size:
        raise ValueError(f"truncated ELF file: {len(image)} bytes, its header has {_HEADER.size}")
    header = _HEADER.unpack_from(image)
    _, _, machine, _, _, segments_at, sections_at, flags = header[:8]
    _, segment_size, segment_count, section_size, section_count, _ = header[8:]
    if machine != _MACHINE_AMDGPU:
        raise ValueError(f"not an AMDGPU code object: ELF machine {machine}")
    segments = list(_table(image, "program header", _SEGMENT, segments_at, segment_size, segment_count))
    rows = list(_table(image, "section header", _SECTION, sections_at, section_size, section_count))
    taken = [("the ELF header", 0, _HEADER.size)]
    taken += [("the program headers", segments_at, segment_count * segment_size)]
    taken += [("the section headers", sections_at, section_count * section_size)]
    sections = []
    for index, (_, kind, _, address, offset, size, link, *_) in enumerate(rows):
        held = 0 if kind in (_SHT_NULL, _SHT_NOBITS) else size
        sections.append(Section(kind, address, size, link, _part(image, f"section {index}", offset, held)))
        taken.append((f"section {index}", offset, held))
    _check_apart(taken)
    notes = tuple(
        note
        for index, (kind, _, offset, _, _, size, *_) in enumerate(segments)
        if kind == _PT_NOTE
        for note in _notes(_part(image, f"segment {index}", offset, size))
    )
    return CodeObject(flags, tuple(sections), _symbols(sections), notes)


def _table(
    image: bytes, what: str, row: struct.Struct, offset: int, size: int, count: int
) -> Iterator[tuple[int, ...]]:
    if count == 0:
        return iter(())
    if size != row.size:
        raise ValueError(f"a {what} of {size} bytes; it has {row.size}")
    return row.iter_unpack(_part(image, f"the table of {count} {what}s", offset, count * size))


def _part(image: bytes, what: str, offset: int, size: int) -> bytes:
    if size and offset + size > len(image):
        raise ValueError(f"truncated ELF file: {what} ends at byte {offset + size} of {len(image)}")
    return image[offset : offset + size] if size else b""


def _check_apart(taken: list[tuple[str, int, int]]) -> None:
    ranges = sorted((offset, offset + size, what) for what, offset, size in taken if size)
    for (_, end, first), (start, _, second) in pairwise(ranges):
        if start < end:
            raise ValueError(f"{first} and {second} lie over each other from byte {start} of the ELF file")


def _symbols(sections: list[Section]) -> dict[str, Symbol]:
    """Those that are exported and defined."""
    found = {}
    for section in sections:
        if section.kind != _SHT_DYNSYM:
            continue
        if section.link >= len(sections):
            raise ValueError(f"the symbol table's names are in section {section.link}, and there are {len(sections)}")
        if len(section.contents) % _SYMBOL.size:
            raise ValueError(f"a symbol table of {len(section.contents)} bytes; a symbol has {_SYMBOL.size}")
        names = sections[section.link].contents
        for start, _, _, where, address, size in _SYMBOL.iter_unpack(section.contents):
            end = names.find(b"\0", start)
            if start >= len(names) or end < 0:
                raise ValueError(f"a symbol's name lies at byte {start} of a string table of {len(names)}")
            name = names[start:end].decode("utf-8", "replace")
            if name and where:
                found[name] = Symbol(name, where, address, size)
    return found


def _notes(segment: bytes) -> Iterator[Note]:
    position = 0
    while position + _NOTE.size <= len(segment):
        owner_size, size, kind = _NOTE.unpack_from(segment, position)
        owner = position + _NOTE.size
        start = owner + (owner_size + 3) // 4 * 4
        if start + size > len(segment):
            raise ValueError(f"truncated ELF note: it ends at byte {start + size} of a segment of {len(segment)}")
        name = segment[owner : owner + owner_size].rstrip(b"\0").decode("utf-8", "replace")
        yield Note(name, kind, segment[start : start + size])
        position = start + (size + 3) // 4 * 4
