"""Makes code objects from Python values, so that the loader can be shown whatever a file may hold.

The layout follows what lld writes: one read-only segment (note, dynamic symbols, hash, strings, descriptors), one of
code, one writable (dynamic table, data), and section headers for .symtab.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

PAGE = 0x1000
TEXT = 0x1000
DATA = 0x2000
S_ENDPGM = struct.pack("<I", 0xBF810000)


def msgpack(value: Any) -> bytes:
    """The subset that metadata uses; long forms where the short ones do not fit."""
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        if 0 <= value < 128:
            return bytes([value])
        return b"\xce" + struct.pack(">I", value) if value < 1 << 32 else b"\xcf" + struct.pack(">Q", value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, str):
        data = value.encode()
        return (bytes([0xA0 | len(data)]) if len(data) < 32 else b"\xd9" + bytes([len(data)])) + data
    if isinstance(value, list):
        head = bytes([0x90 | len(value)]) if len(value) < 16 else b"\xdc" + struct.pack(">H", len(value))
        return head + b"".join(map(msgpack, value))
    assert isinstance(value, dict)
    head = bytes([0x80 | len(value)]) if len(value) < 16 else b"\xde" + struct.pack(">H", len(value))
    return head + b"".join(msgpack(key) + msgpack(item) for key, item in value.items())


@dataclass
class Descriptor:
    group_segment_size: int = 0
    private_segment_size: int = 0
    kernarg_size: int = 16
    entry_offset: int | None = None  # from the descriptor; None puts it at the code
    rsrc3: int = 1
    rsrc1: int = 0x00AC0000
    rsrc2: int = 0x84
    properties: int = 8
    preload: int = 0

    def pack(self, address: int, entry: int) -> bytes:
        offset = entry - address if self.entry_offset is None else self.entry_offset
        return struct.pack(
            "<III4xq20xIIIHH4x",
            self.group_segment_size,
            self.private_segment_size,
            self.kernarg_size,
            offset,
            self.rsrc3,
            self.rsrc1,
            self.rsrc2,
            self.properties,
            self.preload,
        )


@dataclass
class Builder:
    """A code object with one kernel `k`; tests change fields before build(), or bytes after it."""

    mach: int = 0x4C
    features: int = 0x500
    machine: int = 224
    osabi: int = 64
    abi_version: int = 4
    kind: int = 3
    code: bytes = S_ENDPGM
    descriptor: Descriptor = field(default_factory=Descriptor)
    descriptor_size: int = 64
    metadata: bytes | None = None
    notes: int = 1  # how often the metadata note is there
    symbols: list[tuple[str, int, int, int, int]] | None = None  # name, info, section, value, size
    relocations: list[tuple[int, int, int, int]] = field(default_factory=list)  # address, type, symbol, addend
    data: bytes = bytes(64)
    bss: int = 0
    extra_dynamic: list[tuple[int, int]] = field(default_factory=list)
    section_headers: bool = True
    offsets: dict[str, int] = field(default_factory=dict)  # where the parts went, by name

    def default_metadata(self) -> dict[str, Any]:
        arg = {".name": "x", ".offset": 0, ".size": 8, ".value_kind": "global_buffer", ".address_space": "global"}
        return {
            "amdhsa.kernels": [
                {
                    ".name": "k",
                    ".symbol": "k.kd",
                    ".args": [arg, {".offset": 8, ".size": 4, ".value_kind": "by_value"}],
                    ".kernarg_segment_size": 16,
                    ".kernarg_segment_align": 8,
                    ".max_flat_workgroup_size": 256,
                    ".wavefront_size": 64,
                    ".sgpr_count": 10,
                    ".vgpr_count": 3,
                    ".agpr_count": 0,
                    ".sgpr_spill_count": 0,
                    ".vgpr_spill_count": 0,
                    ".uniform_work_group_size": 1,
                    ".uses_dynamic_stack": False,
                }
            ],
            "amdhsa.target": "amdgcn-amd-amdhsa--gfx942",
            "amdhsa.version": [1, 2],
        }

    def build(self) -> bytes:
        header_bytes = 64 + 5 * 56
        payload = msgpack(self.default_metadata()) if self.metadata is None else self.metadata
        note = struct.pack("<III", 7, len(payload), 32) + b"AMDGPU\0\0" + payload + bytes(-len(payload) % 4)
        note *= self.notes

        descriptor_at = (header_bytes + len(note) + 63) // 64 * 64
        symbols = self.symbols
        if symbols is None:
            symbols = [("k", 0x12, 7, TEXT, len(self.code)), ("k.kd", 0x11, 6, descriptor_at, self.descriptor_size)]
        strings = b"\0"
        table = bytes(24)
        places: dict[str, int] = {}
        for name, info, section, value, size in symbols:
            if name not in places:
                places[name] = len(strings)
                strings += name.encode() + b"\0"
            table += struct.pack("<IBBHQQ", places[name], info, 3, section, value, size)
        count = len(symbols) + 1
        table_at = descriptor_at + 64
        hash_at = table_at + len(table)
        hashes = struct.pack("<III", 1, count, 0) + struct.pack(f"<{count}I", *range(count))
        strings_at = hash_at + len(hashes)
        rela_at = (strings_at + len(strings) + 7) // 8 * 8
        rela = b"".join(struct.pack("<QIIq", at, kind, symbol, addend) for at, kind, symbol, addend in self.relocations)
        read_only_end = rela_at + len(rela)
        assert read_only_end <= TEXT

        dynamic = [(6, table_at), (11, 24), (5, strings_at), (10, len(strings)), (4, hash_at), *self.extra_dynamic]
        if rela:
            dynamic += [(7, rela_at), (8, len(rela)), (9, 24)]
        dynamic_bytes = b"".join(struct.pack("<QQ", *entry) for entry in [*dynamic, (0, 0)])
        writable = self.data + dynamic_bytes
        dynamic_at = DATA + len(self.data)

        def program(kind: int, flags: int, at: int, size: int, memory: int | None = None) -> bytes:
            return struct.pack("<IIQQQQQQ", kind, flags, at, at, at, size, size if memory is None else memory, 4)

        programs = [
            program(1, 4, 0, read_only_end),
            program(1, 5, TEXT, len(self.code)),
            program(1, 6, DATA, len(writable), len(writable) + self.bss),
            program(2, 6, dynamic_at, len(dynamic_bytes)),
            program(4, 4, header_bytes, len(note)),
        ]
        image = bytearray(DATA + len(writable))
        sections_at = len(image) if self.section_headers else 0
        ident = b"\x7fELF" + bytes([2, 1, 1, self.osabi, self.abi_version]) + bytes(7)
        image[0:64] = ident + struct.pack(
            "<HHIQQQIHHHHHH",
            *(self.kind, self.machine, 1, 0, 64, sections_at, self.mach | self.features, 64, 56, len(programs), 64),
            *((3, 0) if self.section_headers else (0, 0)),
        )
        image[64:header_bytes] = b"".join(programs)
        image[header_bytes : header_bytes + len(note)] = note
        image[descriptor_at : descriptor_at + 64] = self.descriptor.pack(descriptor_at, TEXT)
        image[table_at : table_at + len(table)] = table
        image[hash_at : hash_at + len(hashes)] = hashes
        image[strings_at : strings_at + len(strings)] = strings
        image[rela_at:read_only_end] = rela
        image[TEXT : TEXT + len(self.code)] = self.code
        image[DATA:] = writable
        if self.section_headers:
            # The null section, .symtab (a copy of .dynsym) and its strings.
            def section_header(kind: int, at: int, size: int, link: int) -> bytes:
                return struct.pack("<IIQQQQIIQQ", 0, kind, 0, 0, at, size, link, 0, 8, 24)

            image += (
                bytes(64) + section_header(2, table_at, len(table), 2) + section_header(3, strings_at, len(strings), 0)
            )
        self.offsets = {
            "program_headers": 64,
            "note": header_bytes,
            "descriptor": descriptor_at,
            "symbols": table_at,
            "hash": hash_at,
            "strings": strings_at,
            "rela": rela_at,
            "dynamic": dynamic_at,
            "sections": sections_at,
        }
        return bytes(image)
