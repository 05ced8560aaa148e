"""What the hardware reads of a code object: its target, its kernels' descriptors and their code. Pure.

Compilers write these and the metadata from one source; in assembly a person writes each, and they may disagree.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from aiterlite.amdgpu import elf

# The low byte of e_flags (LLVM's AMDGPU user guide, table of EF_AMDGPU_MACH).
_MACHINES = {0x4C: "gfx942", 0x4F: "gfx950"}
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


def target(image: bytes) -> str:
    """The target that a code object's header names, or its number. Raises `ValueError` on bytes that are none."""
    machine = elf.read(image).flags & 0xFF
    return _MACHINES.get(machine, f"machine {machine:#x}")


def version(image: bytes) -> int:
    """The code object version of the header, of which its 64 bytes are enough: EI_ABIVERSION 0 to 4 are 2 to 6.

    Raises `ValueError` on bytes that are no code object.
    """
    if image[:6] != b"\x7fELF\x02\x01" or len(image) < 64 or struct.unpack_from("<H", image, 18)[0] != 224:
        raise ValueError("not an AMDGPU code object")
    return image[8] + 2


def symbols(image: bytes) -> set[str]:
    """The names that a code object exports. Raises `ValueError`."""
    return set(elf.read(image).symbols)


def descriptor(image: bytes, kernel: str) -> Descriptor:
    """The descriptor of a kernel. Raises `KeyError` where none is exported, `ValueError` on a damaged file."""
    data = elf.read(image).contents(f"{kernel}.kd")
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
    return elf.read(image).contents(kernel)
