"""What an AMDGPU code object says of itself: target, registers, LDS, spills, kernel arguments. Pure."""

from __future__ import annotations

import struct
from typing import Any

from aiterlite.amdgpu import elf

_NT_AMDGPU_METADATA = 32
# Of a kernel, those that this package calculates with.
_NUMBERS_OF_A_KERNEL = (
    "vgpr_count",
    "agpr_count",
    "sgpr_count",
    "vgpr_spill_count",
    "sgpr_spill_count",
    "group_segment_fixed_size",
    "private_segment_fixed_size",
    "kernarg_segment_size",
    "max_flat_workgroup_size",
    "wavefront_size",
)


def kernels(image: bytes) -> list[dict[str, Any]]:
    """The kernels of an AMDGPU code object, as its metadata note (code object v3 and later) describes them.

    Raises `ValueError` on bytes that are no AMDGPU ELF file.
    """
    return read(image)[1]


def read(image: bytes) -> tuple[str, list[dict[str, Any]]]:
    """The target that the metadata note of an AMDGPU code object names, and its kernels. Raises `ValueError`."""
    try:
        for note in elf.read(image).notes:
            if (note.owner, note.kind) != ("AMDGPU", _NT_AMDGPU_METADATA):
                continue
            metadata = _MsgPack(note.contents).value()
            described = [_plain(kernel) for kernel in metadata.get("amdhsa.kernels", [])]
            return str(metadata.get("amdhsa.target", "")), described
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"AMDGPU metadata of an unknown form: {error}") from None
    raise ValueError("no AMDGPU metadata note")


def resources(image: bytes) -> dict[str, dict[str, int]]:
    """Registers, LDS, scratch and spills of each kernel of a code object. Raises `ValueError` like `kernels`."""
    fields = {
        "vgprs": "vgpr_count",
        "agprs": "agpr_count",
        "sgprs": "sgpr_count",
        "lds_bytes": "group_segment_fixed_size",
        "scratch_bytes": "private_segment_fixed_size",
        "vgpr_spills": "vgpr_spill_count",
        "sgpr_spills": "sgpr_spill_count",
        "kernarg_bytes": "kernarg_segment_size",
        "max_workgroup": "max_flat_workgroup_size",
    }
    return {
        kernel["name"]: {ours: kernel.get(theirs, 0) for ours, theirs in fields.items()} for kernel in kernels(image)
    }


def _check_whole(item: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        value = item.get(name, 0)
        if type(value) is not int or value < 0:
            raise ValueError(f"AMDGPU metadata holds {value!r} as .{name}, where a number belongs")


def _plain(kernel: dict[str, Any]) -> dict[str, Any]:
    """A kernel's metadata with the leading dots of its field names removed."""
    plain = {key.lstrip("."): value for key, value in kernel.items()}
    plain["name"] = str(plain["name"])
    plain["args"] = [{key.lstrip("."): value for key, value in arg.items()} for arg in plain.get("args", [])]
    _check_whole(plain, _NUMBERS_OF_A_KERNEL)
    for argument in plain["args"]:
        _check_whole(argument, ("offset", "size"))
    return plain


_SIZES = {0xC4: "B", 0xC5: ">H", 0xC6: ">I", 0xD9: "B", 0xDA: ">H", 0xDB: ">I"}
_ARRAYS = {0xDC: ">H", 0xDD: ">I"}
_MAPS = {0xDE: ">H", 0xDF: ">I"}
_NUMBERS = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: "B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: "b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class _MsgPack:
    """The part of MessagePack that code-object metadata uses. Raises `ValueError` on anything else."""

    def __init__(self, data: bytes) -> None:
        self._data, self._position = data, 0

    def value(self) -> Any:
        tag = self._number("B")
        if tag <= 0x7F:
            return tag
        if tag <= 0x8F:
            return self._map(tag & 0xF)
        if tag <= 0x9F:
            return self._array(tag & 0xF)
        if tag <= 0xBF:
            return self._text(tag & 0x1F)
        if tag >= 0xE0:
            return tag - 256
        if tag in _CONSTANTS:
            return _CONSTANTS[tag]
        if tag in _NUMBERS:
            return self._number(_NUMBERS[tag])
        if tag in _SIZES:
            return self._text(self._number(_SIZES[tag]))
        if tag in _ARRAYS:
            return self._array(self._number(_ARRAYS[tag]))
        if tag in _MAPS:
            return self._map(self._number(_MAPS[tag]))
        raise ValueError(f"unknown MessagePack tag {tag:#x}")

    def _number(self, form: str) -> Any:
        size = struct.calcsize(form)
        return struct.unpack(form, self._bytes(size))[0]

    def _bytes(self, size: int) -> bytes:
        part = self._data[self._position : self._position + size]
        if len(part) != size:
            raise ValueError("truncated MessagePack data")
        self._position += size
        return part

    def _text(self, size: int) -> str:
        return self._bytes(size).decode("utf-8", "replace")

    def _array(self, size: int) -> list[Any]:
        return [self.value() for _ in range(size)]

    def _map(self, size: int) -> dict[str, Any]:
        return {str(self.value()): self.value() for _ in range(size)}
