"""From kernels to what the launch unit reads: a program of words, and the packing of their arguments. Pure.

Both are made once for a prepared call. A call then only collects addresses, packs the argument structs of all its
kernels into one new bytes object (so that threads and streams share nothing), and makes one C call.
"""

from __future__ import annotations

import operator
import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiterlite.errors import LaunchError
from aiterlite.jit.arguments import Field, Layout
from aiterlite.kernel import Kernel, Operand, TensorMap

# Structs follow each other at multiples of this.
_GRAIN = 64
_MOST_FIELDS = 64
# CUtensorMapDataType and bytes of an element; 8-bit floats travel as bytes.
_MAP_TYPES = {"e4m3fn": (0, 1), "uint8": (0, 1), "int32": (3, 4), "fp16": (6, 2), "fp32": (7, 4), "bf16": (9, 2)}
_MAP_SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}


@dataclass(frozen=True)
class Packing:
    """Fills the argument structs of a call's kernels. `addresses` are the names of those that each call brings."""

    addresses: tuple[str, ...]
    offsets: tuple[int, ...]
    pack: Callable[[tuple[int, ...]], bytes]


def packing(kernels: Sequence[Kernel], addresses: Sequence[str], sizes: Mapping[str, int | float]) -> Packing:
    """How to fill the structs of kernels from addresses by name, which differ from call to call, and sizes by name,
    which do not. Raises `LaunchError` for a size that does not fit its field, and `ValueError` for a field that nothing
    is given for."""
    layouts = [kernel.arguments.layout() for kernel in kernels]
    offsets = _offsets(layouts)
    formats = []
    # Each packed field takes one of: the addresses, those with an offset, the constants; in this order.
    sources: list[int | Operand | _Constant] = []
    for kernel, layout, offset in zip(kernels, layouts, offsets, strict=True):
        end = offset + layout.size
        formats.append(layout.packer.format.removeprefix("<") + f"{-end % _GRAIN}x")
        sources += [_source(kernel, field, addresses, sizes) for field in layout.packed]
    packer = struct.Struct("<" + "".join(formats))
    shifted = list(dict.fromkeys(source for source in sources if isinstance(source, Operand)))
    constants = [source.value for source in sources if isinstance(source, _Constant)]
    first_constant = len(addresses) + len(shifted)
    order, constant = [], first_constant
    for source in sources:
        if isinstance(source, _Constant):
            order.append(constant)
            constant += 1
        else:
            order.append(len(addresses) + shifted.index(source) if isinstance(source, Operand) else source)
    return Packing(
        tuple(addresses),
        offsets,
        _pack(packer, order, [(list(addresses).index(s.name), s.offset) for s in shifted], tuple(constants)),
    )


@dataclass(frozen=True)
class _Constant:
    value: int | float


def _source(
    kernel: Kernel, field: Field, addresses: Sequence[str], sizes: Mapping[str, int | float]
) -> int | Operand | _Constant:
    value: Any = kernel.args.get(field.name)
    if value is None:
        if field.is_reserved:
            value = 0
        elif field.name in sizes:
            value = sizes[field.name]
        else:
            value = Operand(field.name)
    if isinstance(value, Operand):
        if value.name not in addresses:
            given = ", ".join((*addresses, *sizes))
            raise ValueError(f"{kernel.symbol}: nothing is given for {value.name}, which fills {field.name}: {given}")
        return value if value.offset else list(addresses).index(value.name)
    try:
        struct.pack(f"<{field.code}", value)
    except struct.error:
        detail = f"{field.name} = {value} does not fit its field of {8 * field.size} bits"
        raise LaunchError(kernel.symbol, -1, detail, kernel.grid, kernel.block, str(dict(kernel.args))) from None
    return _Constant(value)


def _pack(
    packer: struct.Struct, order: list[int], shifted: list[tuple[int, int]], constants: tuple[int | float, ...]
) -> Callable[[tuple[int, ...]], bytes]:
    pick: Any = operator.itemgetter(*order) if len(order) > 1 else lambda values: (values[order[0]],)
    pack = packer.pack
    if not shifted:
        return lambda addresses: pack(*pick(addresses + constants))

    def pack_shifted(addresses: tuple[int, ...]) -> bytes:
        return pack(*pick((*addresses, *[addresses[i] + offset for i, offset in shifted], *constants)))

    return pack_shifted


def _offsets(layouts: Sequence[Layout]) -> tuple[int, ...]:
    offsets, end = [], 0
    for layout in layouts:
        offsets.append(end)
        end += -(-layout.size // _GRAIN) * _GRAIN
    return tuple(offsets)


def words(
    kernels: Sequence[Kernel],
    functions: Sequence[int],
    launch_words: tuple[int, int, int],
    overlap: bool,
    offsets: Sequence[int],
    sizes: Mapping[str, int | float],
) -> array[int]:
    """The program of csrc/launch/launch.cpp for kernels with these handles. `launch_words` are the addresses of the
    driver's functions; `overlap` says whether kernels that may overlap shall."""
    program = [*launch_words, len(kernels)]
    for kernel, function, offset in zip(kernels, functions, offsets, strict=True):
        layout = kernel.arguments.layout()
        if len(layout.fields) > _MOST_FIELDS:
            raise ValueError(f"{layout.name} has {len(layout.fields)} fields; a launch takes {_MOST_FIELDS}")
        overlapped = int(overlap and kernel.overlaps)
        program += [function, *kernel.grid, *kernel.block, kernel.lds, overlapped, kernel.cluster]
        program += [offset, layout.size, len(layout.fields), len(kernel.maps)]
        program += [field.offset for field in layout.fields]
        for tensor_map in kernel.maps:
            program += _map_words(tensor_map, layout, {**sizes, **kernel.args})
    return array("q", [word - (1 << 64) if word >> 63 else word for word in program])


def _map_words(described: TensorMap, layout: Layout, values: Mapping[str, Any]) -> list[int]:
    at = {field.name: field.offset for field in layout.fields}
    number, element = _MAP_TYPES[described.dtype]
    sizes = [values[size] if isinstance(size, str) else size for size in described.sizes]
    given = [values[stride] if isinstance(stride, str) else stride for stride in described.strides]
    strides: list[int] = []
    inner = sizes[0] * element
    for size, stride in zip(sizes[1:], given, strict=True):
        # The driver checks also the stride of a dimension that is never stepped along.
        strides.append(stride * element if size > 1 else -(-inner // 16) * 16)
        inner = strides[-1] * size
    head = [at[described.field], at[described.address], number, len(sizes), _MAP_SWIZZLES[described.swizzle_bytes]]
    return [*head, *sizes, *strides, *described.box]
