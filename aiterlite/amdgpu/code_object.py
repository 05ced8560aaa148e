"""What the hardware reads of a code object: its target, its kernels' descriptors and their code. Pure.

Compilers write these and the metadata from one source; in assembly a person writes each, and they may disagree.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

# The low byte of e_flags (LLVM's AMDGPU user guide, table of EF_AMDGPU_MACH).
_MACHINES = {0x4C: "gfx942", 0x4F: "gfx950"}
_MACHINE_AMDGPU = 224
_SHT_DYNSYM = 11
_DESCRIPTOR_BYTES = 64


@dataclass(frozen=True)
class Descriptor:
    """A kernel descriptor (code object v3 and later, gfx90a and later).

    `vgprs` is what a wave is given, arch and accumulation registers together; the latter begin at `accum_offset`.
    """

    lds_bytes: int
    scratch_bytes: int
    kernarg_bytes: int
    vgprs: int
    accum_offset: int
    sgprs: int
    wave_size: int


@dataclass(frozen=True)
class _Section:
    kind: int
    address: int
    offset: int
    size: int
    link: int


def target(image: bytes) -> str:
    """The target that a code object's header names, or its number. Raises `ValueError` on bytes that are none."""
    _check(image)
    machine = struct.unpack_from("<I", image, 48)[0] & 0xFF
    return _MACHINES.get(machine, f"machine {machine:#x}")


def symbols(image: bytes) -> set[str]:
    """The names that a code object exports. Raises `ValueError`."""
    return set(_symbols(image))


def descriptor(image: bytes, kernel: str) -> Descriptor:
    """The descriptor of a kernel. Raises `KeyError` where none is exported, `ValueError` on a damaged file."""
    data = _contents(image, f"{kernel}.kd")
    if len(data) != _DESCRIPTOR_BYTES:
        raise ValueError(f"{kernel}.kd is {len(data)} bytes, a kernel descriptor {_DESCRIPTOR_BYTES}")
    lds, scratch, kernarg = struct.unpack_from("<III", data, 0)
    rsrc3, rsrc1, _, properties = struct.unpack_from("<IIIH", data, 44)
    return Descriptor(
        lds_bytes=lds,
        scratch_bytes=scratch,
        kernarg_bytes=kernarg,
        vgprs=8 * ((rsrc1 & 0x3F) + 1),
        accum_offset=4 * ((rsrc3 & 0x3F) + 1),
        sgprs=16 * ((rsrc1 >> 6 & 0xF) // 2 + 1),
        wave_size=32 if properties >> 10 & 1 else 64,
    )


def code(image: bytes, kernel: str) -> bytes:
    """The machine code of a kernel. Raises `KeyError` where its symbol is not exported, `ValueError`."""
    return _contents(image, kernel)


def _check(image: bytes) -> None:
    if image[:6] != b"\x7fELF\x02\x01" or len(image) < 64:
        raise ValueError("not a little-endian ELF64 file")
    if struct.unpack_from("<H", image, 18)[0] != _MACHINE_AMDGPU:
        raise ValueError("not an AMDGPU code object")


def _sections(image: bytes) -> list[_Section]:
    _check(image)
    (table,) = struct.unpack_from("<Q", image, 40)
    size, count = struct.unpack_from("<HH", image, 58)
    found = []
    try:
        for index in range(count):
            _, kind, _, address, offset, length, link = struct.unpack_from("<IIQQQQI", image, table + index * size)
            found.append(_Section(kind, address, offset, length, link))
    except (struct.error, OverflowError) as error:
        raise ValueError(f"truncated ELF file: {error}") from None
    return found


def _symbols(image: bytes) -> dict[str, tuple[int, int, int]]:
    """(section, address, size) of each exported symbol."""
    sections = _sections(image)
    found = {}
    for section in sections:
        if section.kind != _SHT_DYNSYM:
            continue
        if section.link >= len(sections):
            raise ValueError("the symbol table names no string table")
        names = sections[section.link]
        try:
            for at in range(section.offset, section.offset + section.size, 24):
                name, _, _, where, address, size = struct.unpack_from("<IBBHQQ", image, at)
                start = names.offset + name
                text = image[start : image.index(b"\0", start)].decode("utf-8", "replace")
                if text and where:
                    found[text] = (where, address, size)
        except (struct.error, OverflowError) as error:
            raise ValueError(f"truncated symbol table: {error}") from None
    return found


def _contents(image: bytes, symbol: str) -> bytes:
    index, address, size = _symbols(image)[symbol]
    sections = _sections(image)
    if index >= len(sections):
        raise ValueError(f"{symbol} lies in section {index}, and there are {len(sections)}")
    section = sections[index]
    if not 0 <= address - section.address <= section.size - size:
        raise ValueError(f"{symbol} lies outside its section")
    start = section.offset + address - section.address
    return image[start : start + size]
