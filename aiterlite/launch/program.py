"""From kernels to what the launch unit reads: a program of words, and the packing of their arguments. Pure.

Both are made once for a prepared call. A call then only collects addresses, packs the argument structs of all its
kernels into one new bytes object (so that threads and streams share nothing), and makes one C call.
"""

from __future__ import annotations

import itertools
import operator
import struct
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiterlite.errors import LaunchError
from aiterlite.jit.arguments import Field, Layout
from aiterlite.kernel import Kernel, Operand, TensorMap

# Structs follow each other at multiples of this.
_GRAIN = 64
_MOST_FIELDS = 64
_MOST_RANK = 5
# CUtensorMapDataType and bytes of an element; 8-bit floats travel as bytes.
_MAP_TYPES = {"e4m3fn": (0, 1), "uint8": (0, 1), "int32": (3, 4), "fp16": (6, 2), "fp32": (7, 4), "bf16": (9, 2)}
_MAP_SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}


@dataclass(frozen=True)
class Packing:
    """Fills the argument structs of a call's kernels. `addresses` are the names of what each call brings."""

    addresses: tuple[str, ...]
    offsets: tuple[int, ...]
    pack: Callable[[Iterable[int]], bytes]


def packing(
    kernels: Sequence[Kernel],
    addresses: Sequence[str],
    sizes: Mapping[str, int | float],
    numbers: Sequence[str] = (),
) -> Packing:
    """How to fill the structs of kernels from addresses by name, which differ from call to call, and sizes by name,
    which do not. Those of `numbers` among the addresses are none, but values that differ as well. Raises `LaunchError`
    for a size that does not fit its field, and `ValueError` for a field that nothing is given for."""
    layouts = [kernel.layout for kernel in kernels]
    offsets = _offsets(layouts)
    cells: list[_Cell] = []
    for kernel, layout, offset in zip(kernels, layouts, offsets, strict=True):
        _check_given(kernel, layout)
        for gap, field in zip(layout.gaps, layout.fields, strict=False):
            source = _Constant(0) if field.is_map else _source(kernel, field, addresses, sizes, numbers)
            cells += [_padding(gap)] * bool(gap) + [_Cell(field.code or f"{field.size}x", field.size, source)]
        cells.append(_padding(layout.gaps[-1] + -(offset + layout.size) % _GRAIN))
    return Packing(tuple(addresses), offsets, _packer(cells, list(addresses)))


def _packer(cells: Sequence[_Cell], addresses: list[str]) -> Callable[[Iterable[int]], bytes]:
    """Packs what changes from call to call; what lies behind it is made once."""
    changing = [index for index, cell in enumerate(cells) if not isinstance(cell.source, _Constant)]
    until = changing[-1] + 1 if changing else 0
    tail = _fixed(cells[until:])
    head = [_padding(cell.size) if cell.source == _Constant(0) else cell for cell in cells[:until]]
    pack = struct.Struct("<" + "".join(cell.code for cell in head)).pack
    sources = [cell.source for cell in head if not cell.code.endswith("x")]
    if sources == list(range(len(addresses))):
        return lambda given: pack(*given) + tail
    # Each cell takes one of: the addresses, those with an offset, the constants; in this order.
    shifted = list(dict.fromkeys(source for source in sources if isinstance(source, Operand)))
    constants = tuple(source.value for source in sources if isinstance(source, _Constant))
    following = itertools.count(len(addresses) + len(shifted))
    order = [
        next(following)
        if isinstance(source, _Constant)
        else len(addresses) + shifted.index(source)
        if isinstance(source, Operand)
        else source
        for source in sources
    ]
    pick = operator.itemgetter(*order) if len(order) > 1 else lambda values: (values[order[0]],)
    moved = [(addresses.index(source.name), source.offset) for source in shifted]

    def packed(given: Iterable[int]) -> bytes:
        known = tuple(given)
        return pack(*pick((*known, *[known[i] + offset for i, offset in moved], *constants))) + tail

    return packed


def _fixed(cells: Sequence[_Cell]) -> bytes:
    values = [cell.source.value for cell in cells if isinstance(cell.source, _Constant) and not cell.code.endswith("x")]
    return struct.pack("<" + "".join(cell.code for cell in cells), *values)


def _padding(size: int) -> _Cell:
    return _Cell(f"{size}x", size, _Constant(0))


@dataclass(frozen=True)
class _Constant:
    value: int | float


@dataclass(frozen=True)
class _Cell:
    """A piece of a struct: how `struct` packs it, and where its value comes from; an address by its place."""

    code: str
    size: int
    source: int | Operand | _Constant


def _source(
    kernel: Kernel,
    field: Field,
    addresses: Sequence[str],
    sizes: Mapping[str, int | float],
    numbers: Sequence[str],
) -> int | Operand | _Constant:
    value: Any = kernel.args.get(field.name)
    if value is None:
        if field.is_reserved:
            value = 0
        elif field.name in sizes:
            value = sizes[field.name]
        else:
            value = Operand(field.name)
    if isinstance(value, Operand) and field.pointer and sizes.get(value.name) == 0:
        value = 0  # absent from the call
    if isinstance(value, Operand):
        if not field.pointer and value.name not in numbers:
            raise ValueError(f"{kernel.symbol}: {field.name} is no pointer, and nothing is given for it but an address")
        if field.pointer and value.name in numbers:
            raise ValueError(f"{kernel.symbol}: {field.name} is a pointer, and {value.name} a number")
        if value.offset < 0:
            raise ValueError(f"{kernel.symbol}: {field.name} would point {-value.offset} bytes before {value.name}")
        if value.name not in addresses:
            given = ", ".join((*addresses, *sizes))
            raise ValueError(f"{kernel.symbol}: nothing is given for {value.name}, which fills {field.name}: {given}")
        return value if value.offset else list(addresses).index(value.name)
    try:
        struct.pack(f"<{field.code}", value)
    except (struct.error, OverflowError):
        detail = f"{field.name} = {value} does not fit its field of {8 * field.size} bits"
        raise LaunchError(kernel.symbol, -1, detail, kernel.grid, kernel.block, str(dict(kernel.args))) from None
    return _Constant(value)


def _check_given(kernel: Kernel, layout: Layout) -> None:
    """Whether each value that a plan gives has its field, and each tensor map of the struct what fills it."""
    names, maps = {field.name for field in layout.fields}, {field.name for field in layout.fields if field.is_map}
    unknown = sorted(set(kernel.args) - names)
    if unknown:
        raise ValueError(f"{kernel.symbol}: {', '.join(unknown)}: no field of {layout.name}, which has {sorted(names)}")
    filled = sorted(described.field for described in kernel.maps)
    if not kernel.on_host and filled != sorted(maps):
        raise ValueError(f"{kernel.symbol}: tensor maps are given for {filled}; {layout.name} has {sorted(maps)}")


def _check_geometry(kernel: Kernel) -> None:
    """Check what the launch unit reads in 32 bits. The driver says how much of it a device takes."""
    for name, sizes in (("grid", kernel.grid), ("block", kernel.block)):
        if len(sizes) != 3 or not all(1 <= size < 1 << 31 for size in sizes):
            raise ValueError(f"{kernel.symbol}: {name} is {sizes}; allowed: three sizes from 1 to 2^31 - 1")
    if not 0 <= kernel.lds < 1 << 31 or not 1 <= kernel.cluster < 1 << 31:
        got = f"{kernel.lds} bytes of LDS, clusters of {kernel.cluster}"
        raise ValueError(f"{kernel.symbol}: {got}; allowed: 0 to 2^31 - 1 bytes, clusters of 1 or more")


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
        _check_geometry(kernel)
        layout = kernel.layout
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
    rank = len(described.sizes)
    if not 1 <= rank <= _MOST_RANK or len(described.strides) != rank - 1 or len(described.box) != rank:
        got = f"{rank} sizes, {len(described.strides)} strides and a box of {len(described.box)}"
        raise ValueError(f"{described.field}: {got}; allowed: rank 1 to {_MOST_RANK}, a stride less, a box of the rank")
    if described.dtype not in _MAP_TYPES or described.swizzle_bytes not in _MAP_SWIZZLES:
        got = f"dtype {described.dtype}, swizzle {described.swizzle_bytes}"
        raise ValueError(f"{described.field}: {got}; allowed: {', '.join(_MAP_TYPES)}; {list(_MAP_SWIZZLES)}")
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
