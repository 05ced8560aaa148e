"""Kernel arguments in words: numbers, made-up tensors, structs, for `emulate FILE`.

n=16                        a number, of the size that the kernel's metadata gives the argument
x=bf16[4,7168]:normal       a pointer to a new tensor: dtype, shape, contents
x=&buffer                   a pointer to a tensor that --tensor buffer=... made
args={&x,null,i64:64,f32:1} a struct passed by value, packed with C's alignment
"""

from __future__ import annotations

import math
import re
import struct
from typing import Any

from aiterlite.cli.command import UsageError

_TENSOR = re.compile(r"(?P<dtype>[a-z0-9_]+)\[(?P<shape>[0-9,]+)\](?::(?P<fill>[a-z]+))?")
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
        "fp8": torch.float8_e4m3fn,
        "fp8_fnuz": torch.float8_e4m3fnuz,
        "bf8": torch.float8_e5m2,
        "bf8_fnuz": torch.float8_e5m2fnuz,
    }


def tensor(text: str, generator: Any) -> Any:
    """A CPU tensor from `dtype[shape]:contents`; contents are zeros where none are named."""
    import torch

    match, dtypes = _TENSOR.fullmatch(text), _dtypes()
    if match is None or match["dtype"] not in dtypes or (match["fill"] or "zeros") not in _FILLS:
        raise UsageError(
            f"tensor {text!r} is not DTYPE[SHAPE]:CONTENTS; dtypes: {', '.join(dtypes)}; contents: {', '.join(_FILLS)}"
        )
    shape = [int(size) for size in match["shape"].split(",") if size]
    dtype, fill = dtypes[match["dtype"]], match["fill"] or "zeros"
    if fill == "bits":
        bits = torch.randint(0, 256, (*shape, dtype.itemsize), generator=generator, dtype=torch.uint8)
        return bits.view(dtype).reshape(shape)
    if fill == "nan" and not dtype.is_floating_point:
        raise UsageError(f"tensor {text!r}: {match['dtype']} has no nan")
    if fill == "uniform" and not dtype.is_floating_point:
        raise UsageError(f"tensor {text!r}: uniform numbers lie between 0 and 1; for integers take bits or arange")
    count = math.prod(shape)
    values = {
        "zeros": lambda: torch.zeros(count),
        "ones": lambda: torch.ones(count),
        "nan": lambda: torch.full((count,), math.nan),
        "normal": lambda: torch.randn(count, generator=generator),
        "uniform": lambda: torch.rand(count, generator=generator),
        "arange": lambda: torch.arange(count),
    }[fill]()
    return values.to(dtype).reshape(shape)


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
    tensors[name] = tensor(text, generator)
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


def _named(name: str, tensors: dict[str, Any]) -> Any:
    if name not in tensors:
        raise UsageError(f"no tensor {name!r}; there are {', '.join(tensors) or 'none'}: make it with --tensor")
    return tensors[name]
