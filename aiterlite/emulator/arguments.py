"""Kernel arguments: checked against the code object's metadata, packed, and the memory they point to."""

from __future__ import annotations

import ctypes
import math
import numbers
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aiterlite.emulator.errors import KernelArgumentError

# Bytes of a strided tensor up to which its padding is told apart: it takes an eighth of that, and for a moment as much.
MOST_TOLD_APART = 1 << 28
_POINTERS = ("global_buffer", "dynamic_shared_pointer")
_FLOATS = {2: "<e", 4: "<f", 8: "<d"}
# Hand-written kernels declare what lies between their arguments, each piece by such a name.
_PADDING = re.compile(r"_*(pad|padding|reserved|unused)_*\d*_*", re.IGNORECASE)


@dataclass(frozen=True)
class Argument:
    """One explicit argument of a kernel, as its metadata has it."""

    name: str
    kind: str
    offset: int
    size: int

    @property
    def is_pointer(self) -> bool:
        return self.kind in _POINTERS

    @property
    def is_padding(self) -> bool:
        """Whether nothing is lost when it is 0."""
        return not self.is_pointer and _PADDING.fullmatch(self.name) is not None


@dataclass(frozen=True)
class Memory:
    """Bytes that a kernel may touch."""

    base: int
    size: int
    name: str
    writable: bool = True
    # A bit for each byte that may be touched, lowest first; None where that is all of them.
    elements: bytes | None = None
    # The elements have padding between them that is too long to be told apart, and may be touched.
    with_padding: bool = False


def memory_of(value: Any, name: str, writable: bool = True) -> Memory | None:
    """The bytes of a tensor's or array's elements, or None for anything else.

    Rows that do not lie side by side leave padding between them, which is no part of it. Elements that overlap, or that
    are the same one (broadcast), count once.
    """
    where = span(value)
    if where is None:
        return None
    import torch

    base, size = where
    item = value.element_size() if hasattr(value, "data_ptr") else value.itemsize
    strides = [n * item for n in value.stride()] if hasattr(value, "data_ptr") else value.strides
    # From the lowest address on, the direction of a dimension plays no part.
    dims = [(n, abs(stride)) for n, stride in zip(value.shape, strides, strict=True) if n > 1 and stride]
    if not size or not _has_padding(dims, item):
        return Memory(base, size, name, writable)
    if max(size, math.prod(n for n, _ in dims) * item) > MOST_TOLD_APART:
        return Memory(base, size, name, writable, with_padding=True)
    touched = torch.zeros(size, dtype=torch.uint8)
    touched.as_strided((*(n for n, _ in dims), item), (*(stride for _, stride in dims), 1)).fill_(1)
    return Memory(base, size, name, writable, _packed(touched))


def _has_padding(dims: Iterable[tuple[int, int]], item: int) -> bool:
    """Whether blocks of elements that lie side by side are further apart than they are long."""
    block = item
    for n, stride in sorted(dims, key=lambda dim: dim[1]):
        if stride > block:
            return True
        block += (n - 1) * stride
    return False


def _packed(touched: Any) -> bytes | None:
    """A bit for each byte of 0 or 1; None where all are 1."""
    import torch

    if touched.all():
        return None
    rows = torch.nn.functional.pad(touched, (0, -touched.numel() % 8)).view(-1, 8)
    bits = torch.zeros(rows.shape[0], dtype=torch.uint8)
    for bit in range(8):
        bits |= rows[:, bit] << bit
    return ctypes.string_at(bits.data_ptr(), bits.numel())


def span(value: Any) -> tuple[int, int] | None:
    """Address and bytes from the first to the last element of a tensor or array, or None for anything else."""
    if hasattr(value, "data_ptr"):
        if value.device.type != "cpu":
            raise KernelArgumentError(f"a tensor on {value.device}; the emulator takes CPU tensors")
        if value.numel() == 0:
            return value.data_ptr(), 0
        last = sum((n - 1) * stride for n, stride in zip(value.shape, value.stride(), strict=True))
        return value.data_ptr(), (last + 1) * value.element_size()
    interface = getattr(value, "__array_interface__", None)
    if interface is None:
        return None
    base = interface["data"][0]
    if value.size == 0:
        return base, 0
    low = sum(min(0, (n - 1) * stride) for n, stride in zip(value.shape, value.strides, strict=True))
    high = sum(max(0, (n - 1) * stride) for n, stride in zip(value.shape, value.strides, strict=True))
    return base + low, high - low + value.itemsize


def raw_bytes(tensor: Any) -> bytes:
    """The elements of a CPU tensor, row-major, as bytes; torch's own way to them needs numpy."""
    whole = tensor.contiguous()
    return ctypes.string_at(whole.data_ptr(), whole.nbytes) if whole.numel() else b""


def _is_read_only(value: Any) -> bool:
    interface = getattr(value, "__array_interface__", None) if not hasattr(value, "data_ptr") else None
    return bool(interface and interface["data"][1])


def merge(memory: Iterable[Memory]) -> list[Memory]:
    """Disjoint ranges: those that overlap (views of one tensor) become one."""
    merged: list[Memory] = []
    for item in sorted(memory, key=lambda m: m.base):
        if not item.size:
            continue
        if merged and item.base < merged[-1].base + merged[-1].size:
            last = merged[-1]
            names = last.name if item.name in last.name.split("+") else f"{last.name}+{item.name}"
            size = max(last.base + last.size, item.base + item.size) - last.base
            elements = _both(last, item, size) if last.elements or item.elements else None
            padding = last.with_padding or item.with_padding
            merged[-1] = Memory(last.base, size, names, last.writable or item.writable, elements, padding)
        else:
            merged.append(item)
    return merged


def _both(a: Memory, b: Memory, size: int) -> bytes | None:
    """The elements of either, in the `size` bytes from the first one's base on."""
    import torch

    touched = torch.zeros(size, dtype=torch.uint8)
    for item in (a, b):
        part = touched[item.base - a.base :][: item.size]
        if item.elements is None:
            part.fill_(1)
            continue
        bits = torch.frombuffer(bytearray(item.elements), dtype=torch.uint8)
        for bit in range(8):
            part[bit::8] |= (bits >> bit & 1)[: part[bit::8].numel()]
    return _packed(touched)


def _pack_scalar(kernel: str, argument: Argument, value: Any) -> bytes:
    size = argument.size
    if isinstance(value, (bytes, bytearray)):
        if len(value) != size:
            raise KernelArgumentError(f"{kernel}: argument `{argument.name}` takes {size} bytes, not {len(value)}")
        return bytes(value)
    if hasattr(value, "dtype") and hasattr(value, "tobytes") and getattr(value, "ndim", 1) == 0:
        raw: bytes = value.tobytes()
        if len(raw) != size:
            raise KernelArgumentError(
                f"{kernel}: argument `{argument.name}` takes {size} bytes, {value.dtype} has {len(raw)}"
            )
        return raw
    if isinstance(value, numbers.Integral):
        number = int(value)
        if size > 8 or not -(1 << (8 * size - 1)) <= number < 1 << (8 * size):
            raise KernelArgumentError(f"{kernel}: argument `{argument.name}` takes {size} bytes, {number} does not fit")
        return (number & ((1 << (8 * size)) - 1)).to_bytes(size, "little")
    if isinstance(value, numbers.Real):
        if size not in _FLOATS:
            raise KernelArgumentError(f"{kernel}: argument `{argument.name}` takes {size} bytes, which is no float")
        return struct.pack(_FLOATS[size], float(value))
    raise KernelArgumentError(
        f"{kernel}: argument `{argument.name}` is passed by value in {size} bytes and cannot be "
        f"{type(value).__name__}; "
        "allowed: int, float, a numpy scalar of that size, bytes of that length"
    )


def _pack_pointer(kernel: str, argument: Argument, value: Any) -> tuple[bytes, Memory | None]:
    if value is None:
        return bytes(argument.size), None
    if isinstance(value, numbers.Integral):
        return int(value).to_bytes(argument.size, "little"), None
    memory = memory_of(value, argument.name, not _is_read_only(value))
    if memory is None:
        raise KernelArgumentError(
            f"{kernel}: argument `{argument.name}` is a pointer and cannot be {type(value).__name__}; allowed: a CPU "
            "tensor, a numpy array, an address as int, None"
        )
    pointer = value.data_ptr() if hasattr(value, "data_ptr") else value.__array_interface__["data"][0]
    return pointer.to_bytes(argument.size, "little"), memory


def signature(arguments: Sequence[Argument]) -> str:
    """`(D, C, alpha, and 4 of padding, 0 by default)`: the names in their order, padding counted."""
    names = [argument.name for argument in arguments if not argument.is_padding]
    padding = len(arguments) - len(names)
    return f"({', '.join([*names, *([f'and {padding} of padding, 0 by default'] if padding else [])])})"


def pack(
    kernel: str, arguments: Sequence[Argument], values: Mapping[str, Any] | Sequence[Any], size: int
) -> tuple[bytes, list[Memory]]:
    """The kernel argument segment, `size` bytes, and the memory that its pointers name. Raises `KernelArgumentError`.

    An object compiled without argument names (HIP's are) takes a mapping in its order; its keys then are the names.
    Padding (`Argument.is_padding`) is 0 where it is not given.
    """
    if isinstance(values, Mapping) and not any(a.name for a in arguments) and len(values) == len(arguments):
        arguments = [replace(a, name=str(name)) for a, name in zip(arguments, values, strict=True)]
    arguments = [a if a.name else replace(a, name=f"#{number}") for number, a in enumerate(arguments)]
    if isinstance(values, Mapping):
        known = {argument.name for argument in arguments}
        missing = [a.name for a in arguments if a.name not in values and not a.is_padding]
        extra = [name for name in values if name not in known]
        if missing or extra:
            parts = [f"missing {', '.join(missing)}"] if missing else []
            parts += [f"unknown {', '.join(map(str, extra))}"] if extra else []
            raise KernelArgumentError(f"{kernel} takes {signature(arguments)}: {'; '.join(parts)}")
        ordered = [values.get(argument.name, bytes(argument.size)) for argument in arguments]
    else:
        ordered = list(values)
        needed = sum(not argument.is_padding for argument in arguments)
        if len(ordered) == needed != len(arguments):
            given = iter(ordered)
            ordered = [bytes(a.size) if a.is_padding else next(given) for a in arguments]
        if len(ordered) != len(arguments):
            count = f"{len(arguments)}" if needed == len(arguments) else f"{needed}, or with padding {len(arguments)},"
            raise KernelArgumentError(f"{kernel} takes {count} arguments {signature(arguments)}, {len(ordered)} given")
    segment = bytearray(size)
    memory: list[Memory] = []
    for argument, value in zip(arguments, ordered, strict=True):
        if argument.is_pointer:
            raw, named = _pack_pointer(kernel, argument, value)
            if named is not None:
                memory.append(named)
        else:
            if span(value) is not None and getattr(value, "ndim", 1) != 0:
                raise KernelArgumentError(
                    f"{kernel}: argument `{argument.name}` is passed by value in {argument.size} bytes and cannot be a "
                    f"{type(value).__name__}"
                )
            raw = _pack_scalar(kernel, argument, value)
        segment[argument.offset : argument.offset + argument.size] = raw
    return bytes(segment), memory
