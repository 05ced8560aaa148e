"""The one reader of ELF files: what it reads of a real object, and that damage of any kind is a `ValueError`."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import TOY_TREE, toy_unit

from aiterlite.amdgpu import code_object, elf, metadata
from aiterlite.jit import engine
from aiterlite.jit.sources import SourceTree

pytestmark = pytest.mark.compile

SEGMENTS_AT, SECTIONS_AT, MACHINE = 32, 40, 18
SEGMENT_SIZE, SEGMENT_COUNT, SECTION_SIZE, SECTION_COUNT = 54, 56, 58, 60


@functools.cache
def image() -> bytes:
    return engine.obtain(toy_unit("gfx942"), tree=SourceTree(TOY_TREE)).data


def changed(at: int, form: str, value: int) -> bytes:
    data = bytearray(image())
    struct.pack_into(form, data, at, value)
    return bytes(data)


def number(at: int) -> int:
    """The 64-bit field at an offset of the object."""
    return int(struct.unpack_from("<Q", image(), at)[0])


def section_field(index: int, offset: int) -> int:
    """Where a field of a section's header lies in the file."""
    return number(SECTIONS_AT) + 64 * index + offset


def held() -> list[int]:
    """The sections that take room in the file."""
    return [index for index, section in enumerate(elf.read(image()).sections) if section.contents]


def test_a_compiled_object_is_read_whole() -> None:
    found = elf.read(image())
    assert {"toy", "toy.kd"} <= set(found.symbols)
    assert len(found.contents("toy.kd")) == 64 and len(found.contents("toy")) > 8
    assert [(note.owner, note.kind) for note in found.notes] == [("AMDGPU", 32)]
    with pytest.raises(KeyError):
        found.contents("other")


DAMAGE: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "not a little-endian ELF64 file"),
    "big-endian": (lambda: changed(5, "B", 2), "not a little-endian ELF64 file"),
    "of 32 bits": (lambda: changed(4, "B", 1), "not a little-endian ELF64 file"),
    "half a header": (lambda: image()[:40], "truncated ELF file: 40 bytes"),
    "of an x86": (lambda: changed(MACHINE, "<H", 62), "not an AMDGPU code object: ELF machine 62"),
    "many segments": (lambda: changed(SEGMENT_COUNT, "<H", 0xFFFF), "table of 65535 program headers ends at byte"),
    "many sections": (lambda: changed(SECTION_COUNT, "<H", 0xFFFF), "table of 65535 section headers ends at byte"),
    "segments of no size": (lambda: changed(SEGMENT_SIZE, "<H", 0), "a program header of 0 bytes; it has 56"),
    "sections of no size": (lambda: changed(SECTION_SIZE, "<H", 0), "a section header of 0 bytes; it has 64"),
    "sections beyond what can be addressed": (lambda: changed(SECTIONS_AT + 7, "B", 0x80), "truncated ELF file"),
    "segments beyond the end": (lambda: changed(SEGMENTS_AT, "<Q", len(image())), "truncated ELF file"),
    "segments over the header": (lambda: changed(SEGMENTS_AT, "<Q", 8), "lie over each other from byte 8"),
    "a section beyond the end": (lambda: changed(section_field(held()[0], 24), "<Q", len(image())), "section .* ends"),
    "a section of 2^63 bytes": (lambda: changed(section_field(held()[0], 32), "<Q", 1 << 63), "section .* ends"),
    "a section over the next": (
        lambda: changed(section_field(held()[0], 24), "<Q", number(section_field(held()[1], 24))),
        "lie over each other",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(kind: str) -> None:
    make, said = DAMAGE[kind]
    for reader in (elf.read, code_object.target, code_object.symbols, metadata.read, metadata.resources):
        with pytest.raises(ValueError, match=said):
            reader(make())


def test_a_file_that_is_cut_off_anywhere_is_an_error() -> None:
    """The table of sections comes last, so that nothing shorter than the file can be whole."""
    for size in range(len(image())):
        with pytest.raises(ValueError):
            elf.read(image()[:size])


def symbol_table() -> int:
    return next(index for index, section in enumerate(elf.read(image()).sections) if section.kind == 11)


def test_symbols_that_lead_nowhere_are_errors() -> None:
    index = symbol_table()
    offset, size = number(section_field(index, 24)), number(section_field(index, 32))
    for data, said in (
        (changed(section_field(index, 40), "<I", 99), "names are in section 99"),
        (changed(section_field(index, 32), "<Q", size - 1), f"a symbol table of {size - 1} bytes; a symbol has 24"),
        (changed(offset + 24, "<I", 1 << 31), "a symbol's name lies at byte 2147483648"),
    ):
        with pytest.raises(ValueError, match=said):
            elf.read(data)
    names = list(elf.read(image()).symbols)
    for at, form, value, said in (
        (6, "<H", 0xFFF1, "lies in section 65521"),
        (8, "<Q", 1 << 62, "lies outside its section"),
        (16, "<Q", 1 << 63, "lies outside its section"),
    ):
        damaged = elf.read(changed(offset + 24 + at, form, value))
        with pytest.raises(ValueError, match=said):
            damaged.contents(names[0])


READERS: tuple[Callable[[bytes], object], ...] = (
    elf.read,
    metadata.read,
    metadata.resources,
    code_object.target,
    lambda data: code_object.descriptor(data, "toy"),
    lambda data: code_object.code(data, "toy"),
)


def read_or_refuse(data: bytes) -> None:
    for reader in READERS:
        try:
            reader(data)
        except (ValueError, KeyError) as error:
            # A symbol may be lost; nothing else may be looked up in vain.
            assert not isinstance(error, KeyError) or error.args[0] in ("toy", "toy.kd")


# Numbers that fields are likely to break at.
EDGES = st.sampled_from([0, 1, 7, 63, 64, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1])


@given(st.data())
def test_no_field_of_a_header_or_table_crashes_a_reader(data: st.DataObject) -> None:
    damaged = bytearray(image())
    segments, sections = number(SEGMENTS_AT), number(SECTIONS_AT)
    symbols = number(section_field(symbol_table(), 24))
    note = bytes(damaged).index(b"AMDGPU\0") - 12
    places = [*range(16, 64), *range(segments, segments + 56 * 8), *range(sections, len(damaged) - 8)]
    places += [*range(symbols, symbols + 72), *range(note, note + 64)]
    for _ in range(data.draw(st.integers(1, 3))):
        form = data.draw(st.sampled_from(["<B", "<H", "<I", "<Q"]))
        value = data.draw(EDGES) & (1 << 8 * struct.calcsize(form)) - 1
        struct.pack_into(form, damaged, data.draw(st.sampled_from(places)), value)
    read_or_refuse(bytes(damaged))


@given(st.data())
def test_no_other_damage_crashes_a_reader(data: st.DataObject) -> None:
    damaged = bytearray(image())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(damaged) - 1))
        change = data.draw(st.sampled_from(["byte", "cut", "drop", "double"]))
        if change == "byte":
            damaged[start] = data.draw(st.integers(0, 255))
        elif change == "cut":
            del damaged[max(1, start) :]
        else:
            end = min(len(damaged), start + data.draw(st.integers(1, 64)))
            damaged[start:end] = b"" if change == "drop" else damaged[start:end] * 2
        damaged = damaged or bytearray(1)
    read_or_refuse(bytes(damaged))
