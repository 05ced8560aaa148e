"""Kernel arguments in words: numbers, tensors, structs, for `emulate FILE` and `vet`.

n=16                         an integer, of the size that the kernel's metadata gives the argument
scale=2.0                    a float of that size; without the point it would be an integer
x=bf16[4,7168]:normal        a pointer to a new tensor: dtype, shape, contents
x=f32[4]:1,-2,0.5,3          the same with these elements; one number fills it
x=fp8[4,128]:@x.bin          the same with the bytes of a file
x=@x.npy                     a tensor that numpy or torch (.pt) has saved
x=&buffer                    a pointer to a tensor that --tensor buffer=... made
pages=ptr[3]:&k,&v+4096,null a pointer to a tensor of pointers
args={&x,null,i64:64,f32:1}  a struct passed by value, packed with C's alignment
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiterlite.cli.command import UsageError

_TENSOR = re.compile(r"(?P<dtype>[a-z0-9_]+)\[(?P<shape>[0-9,]+)\](?::(?P<fill>.+))?")
_SCALARS = {"i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I", "i64": "q", "u64": "Q"}
_FLOATS = {"f16": "e", "f32": "f", "f64": "d"}
_FILLS = ("zeros", "ones", "nan", "normal", "uniform", "arange", "bits")


def _dtypes() -> dict[str, Any]:
    import torch

    return {
        "bf16": torch.bfloat16,
        "f16": torch.float16,
        "fp16": torch.float16,
        "f32": torch.float32,
        "f64": torch.float64,
        "i8": torch.int8,
        "u8": torch.uint8,
        "i16": torch.int16,
        "i32": torch.int32,
        "i64": torch.int64,
        "u16": torch.uint16,
        "u32": torch.uint32,
        "u64": torch.uint64,
        "fp8": torch.float8_e4m3fn,
        "fp8_fnuz": torch.float8_e4m3fnuz,
        "bf8": torch.float8_e5m2,
        "bf8_fnuz": torch.float8_e5m2fnuz,
    }


def tensor(text: str, generator: Any, tensors: Mapping[str, Any] | None = None) -> Any:
    """A CPU tensor from `dtype[shape]:contents`, or from a file; contents are zeros where none are named.

    `tensors` are those that a tensor of pointers may point to. Raises `UsageError`.
    """
    import torch

    if text.startswith("@"):
        return _saved(Path(text[1:]))
    match, dtypes = _TENSOR.fullmatch(text), _dtypes()
    if match is None or match["dtype"] not in {*dtypes, "ptr"}:
        raise UsageError(f"tensor {text!r} is not DTYPE[SHAPE]:CONTENTS, or @FILE; dtypes: {', '.join(dtypes)}, ptr")
    shape = [int(size) for size in match["shape"].split(",") if size]
    count, fill = math.prod(shape), match["fill"] or "zeros"
    if fill.startswith("@"):
        return _raw(Path(fill[1:]), dtypes.get(match["dtype"], torch.int64), shape)
    if match["dtype"] == "ptr":
        return _pointers(text, fill, count, tensors or {}).reshape(shape)
    dtype = dtypes[match["dtype"]]
    if fill not in _FILLS:
        return _elements(text, fill, dtype, count).reshape(shape)
    if fill == "bits":
        bits = torch.randint(0, 256, (*shape, dtype.itemsize), generator=generator, dtype=torch.uint8)
        return bits.view(dtype).reshape(shape)
    if fill == "nan" and not dtype.is_floating_point:
        raise UsageError(f"tensor {text!r}: {match['dtype']} has no nan")
    if fill == "uniform" and not dtype.is_floating_point:
        raise UsageError(f"tensor {text!r}: uniform numbers lie between 0 and 1; for integers take bits or arange")
    values = {
        "zeros": lambda: torch.zeros(count),
        "ones": lambda: torch.ones(count),
        "nan": lambda: torch.full((count,), math.nan),
        "normal": lambda: torch.randn(count, generator=generator),
        "uniform": lambda: torch.rand(count, generator=generator),
        "arange": lambda: torch.arange(count),
    }[fill]()
    return values.to(dtype).reshape(shape)


def _elements(text: str, fill: str, dtype: Any, count: int) -> Any:
    """A tensor of the numbers in `fill`, or of one number."""
    import torch

    found = [number(part) for part in fill.split(",")]
    if None in found or len(found) not in (1, count):
        raise UsageError(
            f"tensor {text!r}: contents are {', '.join(_FILLS)}, @FILE, one number, or {count} numbers with commas "
            "between"
        )
    values = found * (count if len(found) == 1 else 1)
    if dtype.is_floating_point:
        return torch.tensor(values, dtype=torch.float64).to(dtype)
    limits = torch.iinfo(dtype)
    if not all(isinstance(n, int) and limits.min <= n <= limits.max for n in values):
        raise UsageError(f"tensor {text!r}: elements are whole numbers from {limits.min} to {limits.max}")
    raw = b"".join(n.to_bytes(dtype.itemsize, "little", signed=n < 0) for n in values if isinstance(n, int))
    return torch.frombuffer(bytearray(raw), dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _pointers(text: str, fill: str, count: int, tensors: Mapping[str, Any]) -> Any:
    import torch

    parts = ["null"] if fill == "zeros" else fill.split(",")
    if len(parts) not in (1, count):
        raise UsageError(f"tensor {text!r}: {len(parts)} pointers for {count} places; give one, or one for each")
    addresses = [_address(text, part, tensors) for part in parts] * (count if len(parts) == 1 else 1)
    return torch.tensor(addresses, dtype=torch.int64)


def _address(text: str, part: str, tensors: Mapping[str, Any]) -> int:
    if part == "null":
        return 0
    name, _, offset = part.removeprefix("&").partition("+")
    distance = number(offset or "0")
    if not part.startswith("&") or not isinstance(distance, int):
        raise UsageError(f"tensor {text!r}: a pointer is {part!r}; allowed: null, &TENSOR, &TENSOR+BYTES")
    return int(_named(name, tensors).data_ptr()) + distance


def _raw(path: Path, dtype: Any, shape: list[int]) -> Any:
    """The bytes of a file as a tensor."""
    import torch

    data = _content(path)
    if len(data) != math.prod(shape) * dtype.itemsize:
        needed = f"{shape} of {dtype} is {math.prod(shape) * dtype.itemsize}"
        raise UsageError(f"{path} has {len(data)} bytes, and {needed}; of .npy and .pt files leave dtype and shape out")
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(shape) if data else torch.empty(shape, dtype=dtype)


def _saved(path: Path) -> Any:
    """What numpy or torch saved; nothing in the file is executed."""
    import torch

    data = io.BytesIO(_content(path))
    try:
        if path.suffix == ".npy":
            import numpy

            return torch.from_numpy(numpy.load(data, allow_pickle=False))
        if path.suffix == ".pt":
            found = torch.load(data, map_location="cpu", weights_only=True)
            if isinstance(found, torch.Tensor):
                return found
            raise ValueError(f"it holds a {type(found).__name__}, not a tensor")
    except (ValueError, TypeError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"{path} holds no tensor: {why}") from None
    raise UsageError(f"{path}: only .npy and .pt files know dtype and shape; for raw bytes give DTYPE[SHAPE]:@{path}")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def write_tensor(tensor: Any, path: Path) -> None:
    """Save for numpy (.npy), for torch (.pt), or as raw bytes (any other name). Raises `UsageError` and `OSError`."""
    import torch

    from aiterlite.emulator.arguments import raw_bytes

    if path.suffix == ".npy":
        import numpy

        try:
            array = tensor.numpy()
        except TypeError:
            raise UsageError(f"{path}: numpy has no {tensor.dtype}; save it as .pt, or as raw bytes (.bin)") from None
        numpy.save(path, array)
    elif path.suffix == ".pt":
        torch.save(tensor, path)
    else:
        path.write_bytes(raw_bytes(tensor))


def number(text: str) -> int | float | None:
    """A number in C's notation, or None."""
    for kind in (lambda: int(text, 0), lambda: float(text)):
        try:
            return kind()
        except ValueError:
            continue
    return None


def value(text: str, tensors: dict[str, Any], name: str, generator: Any) -> Any:
    """What one argument's text stands for; a tensor that it makes is kept in `tensors` under the argument's name."""
    if text == "null":
        return None
    if text.startswith("&"):
        return _named(text[1:], tensors)
    if text.startswith("{"):
        if not text.endswith("}"):
            raise UsageError(f"argument {name}: {text!r} lacks its closing brace")
        return pack_struct(text[1:-1], tensors)
    found = number(text)
    if found is not None:
        return found
    tensors[name] = tensor(text, generator, tensors)
    return tensors[name]


def pack_struct(text: str, tensors: dict[str, Any]) -> bytes:
    """The bytes of a struct: `&tensor`, `null`, or a typed number such as `i64:7168`, each aligned to its own size."""
    data, largest = bytearray(), 1
    for item in text.split(","):
        raw = _member(item.strip(), tensors)
        largest = max(largest, len(raw))
        data += bytes(-len(data) % len(raw)) + raw
    return bytes(data) + bytes(-len(data) % largest)


def _member(text: str, tensors: dict[str, Any]) -> bytes:
    if text == "null":
        return bytes(8)
    if text.startswith("&"):
        return struct.pack("<Q", _named(text[1:], tensors).data_ptr())
    kind, _, digits = text.partition(":")
    found = number(digits)
    try:
        if kind in _SCALARS and isinstance(found, int):
            return struct.pack("<" + _SCALARS[kind], found)
        if kind in _FLOATS and found is not None:
            return struct.pack("<" + _FLOATS[kind], float(found))
    except (struct.error, OverflowError):
        raise UsageError(f"struct member {text!r}: {digits} does not fit {kind}") from None
    raise UsageError(
        f"struct member {text!r}; allowed: null, &TENSOR, or TYPE:NUMBER with {', '.join((*_SCALARS, *_FLOATS))}"
    )


def _named(name: str, tensors: Mapping[str, Any]) -> Any:
    if name not in tensors:
        raise UsageError(f"no tensor {name!r}; there are {', '.join(tensors) or 'none'}: make it with --tensor")
    return tensors[name]
