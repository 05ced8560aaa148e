"""Calls of operators as lines of JSON: what AITERLITE_LOG_CALLS writes and `aiterlite replay` reads.

A line is one call: the operator, its arguments, the decisions and the environment. A tensor is its dtype, shape,
strides and device, and where it lies in one of the call's storages, so that operands that share memory share it again.
A storage may have its bytes in a file of its own. Nothing in a file is evaluated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FORMAT, SCHEMA = "aiterlite-call", 1
# Bits of a storage's address that a rebuilt one has too: kernels are chosen by alignment.
_ALIGNMENT = 256


class CallFileError(Exception):
    """A line that is no call of this version, or whose tensors cannot be had."""


@dataclass
class Storages:
    """The memory that the tensors of a call lie in: for each storage, by address, the bytes from the first to the last
    that any tensor has."""

    tensors: dict[int, list[Tensor]] = field(default_factory=dict)

    def add(self, tensor: Tensor) -> int:
        """The number of a tensor's storage."""
        address = tensor.untyped_storage().data_ptr()
        self.tensors.setdefault(address, []).append(tensor)
        return list(self.tensors).index(address)

    def ranges(self) -> list[tuple[int, int]]:
        """Of each storage, the first byte that is used and the one behind the last."""
        found = []
        for tensors in self.tensors.values():
            used = [_bytes_of(tensor) for tensor in tensors if tensor.numel()] or [(0, 0)]
            found.append((min(begin for begin, _ in used), max(end for _, end in used)))
        return found

    def bytes_of(self, number: int, begin: int, end: int) -> Tensor:
        """A copy of a range of a storage, on the CPU."""
        tensor = list(self.tensors.values())[number][0]
        whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
        return whole[begin:end].cpu()


def _bytes_of(tensor: Tensor) -> tuple[int, int]:
    """From the first byte of a tensor's storage that it has to behind the last."""
    size, first = tensor.element_size(), int(tensor.storage_offset())
    last = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return first * size, (first + last + 1) * size


def encode(arguments: Sequence[Any], storages: Storages) -> list[Any]:
    """Arguments as JSON has them; storages learn of their tensors."""
    return [_encode(argument, storages) for argument in arguments]


def _encode(argument: Any, storages: Storages) -> Any:
    if isinstance(argument, Tensor):
        return {
            "tensor": str(argument.dtype).removeprefix("torch."),
            "shape": list(argument.shape),
            "stride": list(argument.stride()),
            "offset": argument.storage_offset(),
            "device": argument.device.type,
            "storage": storages.add(argument),
        }
    if isinstance(argument, (list, tuple)):
        return {"list": [_encode(item, storages) for item in argument]}
    if isinstance(argument, torch.dtype):
        return {"dtype": str(argument).removeprefix("torch.")}
    if isinstance(argument, float) and not math.isfinite(argument):
        return {"float": repr(argument)}
    if argument is None or isinstance(argument, (bool, int, float, str)):
        return argument
    return {"other": repr(argument)}


@dataclass(frozen=True)
class Call:
    """One line. `storages` are {"bytes", "begin", "address"} and, where the bytes are kept, "file"."""

    number: int
    process: int
    op: str
    arguments: list[Any]
    keywords: dict[str, Any]
    storages: list[dict[str, Any]]
    decisions: list[str]
    environment: dict[str, str]
    refused: str = ""

    def line(self) -> str:
        return json.dumps({"format": FORMAT, "schema": SCHEMA, **vars(self)}, separators=(",", ":"))

    @classmethod
    def of(cls, line: str) -> Call:
        """Raises `CallFileError`."""
        try:
            data = json.loads(line)
            if data.pop("format") != FORMAT or data.pop("schema") != SCHEMA:
                raise ValueError(f"expected format {FORMAT!r}, schema {SCHEMA}")
            return cls(**data)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CallFileError(f"no call of this version: {error}") from error


def read(path: Path) -> list[Call]:
    """The calls of a file. A last line that a crash cut short is left out. Raises `CallFileError`."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CallFileError(f"cannot read {path}: {error}") from error
    lines = text.split("\n")
    calls = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            calls.append(Call.of(line))
        except CallFileError as error:
            raise CallFileError(f"{path}, line {number}: {error}") from error
    return calls


# Rebuilding -----------------------------------------------------------------------------------------------------------


@dataclass
class Rebuilt:
    """The arguments of a call once more; `made_up` counts the tensors whose values are not the call's."""

    arguments: list[Any]
    keywords: dict[str, Any]
    made_up: int


def rebuild(call: Call, folder: Path, device: str = "cpu", seed: int = 0) -> Rebuilt:
    """New memory for each storage: its bytes from `folder` where the file has them; else normal numbers for floats and
    zeros for integers, which are indices as a rule. Raises `CallFileError`."""
    try:
        memory = [_memory(storage, folder, device) for storage in call.storages]
        built = _Builder(memory, torch.Generator().manual_seed(seed))
        arguments = [built.argument(argument) for argument in call.arguments]
        keywords = {name: built.argument(argument) for name, argument in call.keywords.items()}
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, OSError) as error:
        raise CallFileError(f"call {call.number} of {call.op} cannot be rebuilt: {error}") from error
    return Rebuilt(arguments, keywords, built.made_up)


@dataclass(frozen=True)
class _Memory:
    whole: Tensor  # its bytes
    begin: int
    known: bool


def _memory(storage: Mapping[str, Any], folder: Path, device: str) -> _Memory:
    size, begin = int(storage["bytes"]), int(storage["begin"])
    if size < 0 or begin < 0:
        raise ValueError(f"a storage of {size} bytes from {begin}")
    raw = torch.zeros(size + 2 * _ALIGNMENT, dtype=torch.uint8, device=device)
    shift = (int(storage["address"]) - raw.data_ptr()) % _ALIGNMENT
    whole = raw[shift : shift + size]
    name = storage.get("file")
    if name is not None:
        if Path(name).name != name:
            raise ValueError(f"{name!r} is no plain file name")
        data = (folder / name).read_bytes()
        if len(data) != size:
            raise ValueError(f"{name} has {len(data)} bytes, not {size}")
        if size:
            whole.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    return _Memory(whole, begin, name is not None)


class _Builder:
    def __init__(self, memory: list[_Memory], generator: torch.Generator) -> None:
        self.memory, self.generator = memory, generator
        self.made_up = 0

    def argument(self, argument: Any) -> Any:
        if not isinstance(argument, dict):
            return argument
        if "tensor" in argument:
            return self.tensor(argument)
        if "list" in argument:
            return [self.argument(item) for item in argument["list"]]
        if "dtype" in argument:
            return _dtype(argument["dtype"])
        if "float" in argument:
            return float(argument["float"])
        raise ValueError(f"an argument that is no tensor, number or text: {argument}")

    def tensor(self, described: Mapping[str, Any]) -> Tensor:
        memory, dtype = self.memory[described["storage"]], _dtype(described["tensor"])
        offset = described["offset"] * dtype.itemsize - memory.begin
        shape, stride = described["shape"], described["stride"]
        if not math.prod(shape):
            tensor = torch.empty_strided(shape, stride, dtype=dtype, device=memory.whole.device)
        else:
            last = sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
            elements = memory.whole[offset : offset + (last + 1) * dtype.itemsize].view(dtype)
            tensor = elements.as_strided(shape, stride, elements.storage_offset())
        if not memory.known and tensor.numel():
            self.made_up += 1
            if dtype.is_floating_point:
                tensor.copy_(torch.randn(shape, generator=self.generator))
        return tensor


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is no dtype")
    return dtype
