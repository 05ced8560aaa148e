"""A launch in files: a kernel's arguments and the memory behind them, from a GPU or from a call here, to be replayed.

A JSON file names the kernel, its grid (in workgroups), block and dynamic LDS, the file of the bytes of the kernarg
segment, and each buffer that the kernel may touch: a name, the address that it had, and the file of its bytes.

    {"kernel": "scale", "grid": [4, 1, 1], "block": [256, 1, 1], "lds": 0, "kernarg": "scale.kernarg.bin",
     "buffers": [{"name": "x", "address": 139637976727552, "file": "scale.x.bin"}]}

Files lie beside it. A replay puts the buffers elsewhere. So it changes every pointer into one of them: each aligned
8-byte word of the segment that lies in a buffer (or one past its end), or only those at the byte offsets of `pointers`
where that is given; and in a buffer the words at the offsets of its own `pointers`, none by default, all that lie in a
buffer for "pointers": "all". `"writable": false` makes a write to the buffer a `MemoryViolation`, and `"dtype"` and
`"shape"` say what it is to be shown as.
"""

from __future__ import annotations

import ctypes
import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from aiterlite.emulator.arguments import Memory, raw_bytes
from aiterlite.emulator.errors import KernelArgumentError

_FIELDS = {"kernel", "grid", "block", "lds", "kernarg", "buffers", "pointers"}
_BUFFER_FIELDS = {"name", "address", "file", "pointers", "writable", "dtype", "shape"}


@dataclass(frozen=True)
class StoredLaunch:
    """A launch as `Module.launch` takes it. `tensors` are the buffers, `memory` what of them may be written."""

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    lds: int
    kernarg: bytes
    tensors: dict[str, torch.Tensor]
    memory: tuple[Memory, ...]


@dataclass(frozen=True)
class _Buffer:
    name: str
    address: int
    tensor: torch.Tensor  # of bytes
    pointers: Any
    writable: bool
    dtype: torch.dtype
    shape: tuple[int, ...] | None


def read(path: Path) -> StoredLaunch:
    """The launch of a JSON file, its buffers in memory and every pointer to them set. Raises `KernelArgumentError`."""
    raw = _object(path)
    _check_fields(path, raw, _FIELDS, needed=("grid", "block", "kernarg"))
    buffers = [_buffer(path, item) for item in _list(path, raw, "buffers")]
    names = [buffer.name for buffer in buffers]
    if len(set(names)) != len(names):
        raise KernelArgumentError(f"{path}: buffers of one name; give each its own")
    _check_apart(path, buffers)
    segment = bytearray(_bytes(path, raw["kernarg"]))
    _relocate(path, "kernarg", segment, raw.get("pointers", "all"), buffers)
    for buffer in buffers:
        words = bytearray(raw_bytes(buffer.tensor)) if buffer.pointers else bytearray()
        _relocate(path, f"buffer {buffer.name}", words, buffer.pointers, buffers)
        if words:
            buffer.tensor.copy_(torch.frombuffer(words, dtype=torch.uint8))
    return StoredLaunch(
        kernel=str(raw.get("kernel", "")),
        grid=_sizes(path, raw, "grid"),
        block=_sizes(path, raw, "block"),
        lds=int(raw.get("lds", 0)),
        kernarg=bytes(segment),
        tensors={buffer.name: _shown(path, buffer) for buffer in buffers},
        memory=tuple(Memory(b.tensor.data_ptr(), b.tensor.nbytes, b.name, b.writable) for b in buffers),
    )


def write(
    path: Path,
    kernel: str,
    grid: Sequence[int],
    block: Sequence[int],
    lds: int,
    kernarg: bytes,
    memory: Iterable[Memory],
    tensors: Iterable[torch.Tensor] = (),
) -> list[Path]:
    """The launch as it is about to be made, with what its memory holds now; the files that were written.

    All pointers are listed by their places, so that a replay changes nothing else. Raises `OSError`.
    """
    ranges = [item for item in memory if item.size]
    stem = path.with_suffix("").name
    parts = {f"{stem}.kernarg.bin": kernarg}
    shown = {tensor.data_ptr(): tensor for tensor in tensors if tensor.is_contiguous()}
    buffers = []
    for number, item in enumerate(ranges):
        data = ctypes.string_at(item.base, item.size)
        file = f"{stem}.{number}-{''.join(c if c.isalnum() or c in '_-' else '_' for c in item.name)}.bin"
        parts[file] = data
        entry: dict[str, Any] = {"name": item.name, "address": item.base, "file": file, "writable": item.writable}
        entry["pointers"] = _pointers(data, ranges)
        tensor = shown.get(item.base)
        if tensor is not None and tensor.nbytes == item.size:
            entry |= {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        buffers.append(entry)
    whole: dict[str, Any] = {"kernel": kernel, "grid": list(grid), "block": list(block), "lds": lds}
    whole |= {"kernarg": f"{stem}.kernarg.bin", "pointers": _pointers(kernarg, ranges), "buffers": buffers}
    for name, content in parts.items():
        (path.parent / name).write_bytes(content)
    path.write_text(json.dumps(whole, indent=1) + "\n")
    return [path, *(path.parent / name for name in parts)]


def _pointers(data: bytes, ranges: Sequence[Memory]) -> list[int]:
    """The offsets of aligned words of `data` that lie in a range."""
    words = torch.frombuffer(bytearray(data[: len(data) // 8 * 8]), dtype=torch.int64) if len(data) >= 8 else None
    if words is None:
        return []
    found = torch.zeros(words.shape, dtype=torch.bool)
    for item in ranges:
        # One past the end is where loops stop.
        found |= (words >= item.base) & (words <= item.base + item.size)
    return [8 * int(index) for index in found.nonzero().flatten()]


def _relocate(path: Path, what: str, data: bytearray, pointers: Any, buffers: Sequence[_Buffer]) -> None:
    if pointers == "all":
        at = _pointers(bytes(data), [Memory(b.address, b.tensor.nbytes, b.name) for b in buffers])
    elif isinstance(pointers, list) and all(isinstance(n, int) and 0 <= n <= len(data) - 8 for n in pointers):
        at = pointers
    else:
        raise KernelArgumentError(
            f'{path}: pointers of {what} is {pointers!r}; allowed: "all", or a list of byte offsets below {len(data)}'
        )
    for offset in at:
        (address,) = struct.unpack_from("<Q", data, offset)
        into = _holder(address, buffers)
        if into is not None:
            struct.pack_into("<Q", data, offset, address - into.address + into.tensor.data_ptr())
        elif address:
            raise KernelArgumentError(
                f"{path}: the pointer at byte {offset} of {what} is {address:#x}, which lies in no buffer; add the "
                "buffer, or leave the offset out of `pointers`"
            )


def _holder(address: int, buffers: Sequence[_Buffer]) -> _Buffer | None:
    """The buffer that an address lies in, or else the one that it ends."""
    for past in (0, 1):
        for buffer in buffers:
            if buffer.address <= address < buffer.address + buffer.tensor.nbytes + past:
                return buffer
    return None


def _object(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text())
    except OSError as error:
        raise KernelArgumentError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise KernelArgumentError(f"{path} is no JSON: {error}; see `Replay a launch` in docs/emulator.md") from None
    if not isinstance(raw, dict):
        raise KernelArgumentError(
            f"{path} holds a {type(raw).__name__}, where an object with {_names(_FIELDS)} belongs"
        )
    return raw


def _names(fields: Iterable[str]) -> str:
    return ", ".join(sorted(fields))


def _check_fields(path: Path, raw: Any, known: set[str], needed: Sequence[str]) -> None:
    if not isinstance(raw, dict):
        raise KernelArgumentError(f"{path}: a buffer is {raw!r}; it is an object with {_names(known)}")
    missing, unknown = [name for name in needed if name not in raw], sorted(set(raw) - known)
    if missing or unknown:
        wrong = [f"lacks {', '.join(missing)}"] if missing else []
        wrong += [f"has unknown fields {', '.join(unknown)}"] if unknown else []
        raise KernelArgumentError(
            f"{path}: {raw.get('name', 'the launch')} {' and '.join(wrong)}; known: {_names(known)}"
        )


def _list(path: Path, raw: dict[str, Any], field: str) -> list[Any]:
    value = raw.get(field, [])
    if not isinstance(value, list):
        raise KernelArgumentError(f"{path}: {field} is {value!r}; it is a list")
    return value


def _sizes(path: Path, raw: dict[str, Any], field: str) -> tuple[int, ...]:
    value = raw[field]
    sizes = [value] if isinstance(value, int) else value
    if not isinstance(sizes, list) or not 1 <= len(sizes) <= 3 or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise KernelArgumentError(f"{path}: {field} is {value!r}; allowed: one to three positive numbers")
    return tuple(sizes)


def _bytes(path: Path, name: Any) -> bytes:
    try:
        return (path.parent / str(name)).read_bytes()
    except OSError as error:
        raise KernelArgumentError(f"{path} names {name}, which cannot be read: {error.strerror}") from None


def _buffer(path: Path, raw: Any) -> _Buffer:
    _check_fields(path, raw, _BUFFER_FIELDS, needed=("name", "address", "file"))
    if not isinstance(raw["address"], int) or not 0 <= raw["address"] < 1 << 63:
        raise KernelArgumentError(f"{path}: the address of {raw['name']} is {raw['address']!r}; it is a number")
    dtype = getattr(torch, str(raw.get("dtype", "uint8")), None)
    if not isinstance(dtype, torch.dtype):
        raise KernelArgumentError(f"{path}: the dtype of {raw['name']} is {raw['dtype']!r}; allowed: torch's names")
    data = bytearray(_bytes(path, raw["file"]))
    tensor = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    # With the remainder by 256 that the address had: kernels count on the alignment of what is allocated.
    room = torch.empty(len(data) + 256, dtype=torch.uint8)
    start = (raw["address"] - room.data_ptr()) % 256
    place = room[start : start + len(data)]
    place.copy_(tensor)
    shape = tuple(raw["shape"]) if "shape" in raw else None
    return _Buffer(
        str(raw["name"]), raw["address"], place, raw.get("pointers", []), raw.get("writable", True), dtype, shape
    )


def _shown(path: Path, buffer: _Buffer) -> torch.Tensor:
    """The buffer as it is to be shown: the same memory."""
    try:
        typed = buffer.tensor.view(buffer.dtype)
        return typed if buffer.shape is None else typed.view(buffer.shape)
    except (RuntimeError, TypeError) as error:
        what = f"{buffer.tensor.nbytes} bytes cannot be shown as {buffer.dtype} of shape {buffer.shape}"
        raise KernelArgumentError(f"{path}: buffer {buffer.name}: {what}: {error}") from None


def _check_apart(path: Path, buffers: Sequence[_Buffer]) -> None:
    order = sorted((b for b in buffers if b.tensor.nbytes), key=lambda b: b.address)
    for one, two in pairwise(order):
        if one.address + one.tensor.nbytes > two.address:
            raise KernelArgumentError(
                f"{path}: buffers {one.name} and {two.name} overlap at {two.address:#x}; store the memory that they "
                "share as one buffer"
            )
