"""The GPU driver of fake_driver.cpp, which keeps a record instead of a GPU: built, opened, and its record read."""

from __future__ import annotations

import ctypes
import dataclasses
import shutil
import subprocess
from pathlib import Path

from aiterlite.launch import drivers

SOURCE = Path(__file__).with_name("fake_driver.cpp")
IMAGE = b"good image of 16"
_BUILDS = {
    "amd": [],
    "cuda": ["-DFAKE_CUDA"],
    "old": ["-DFAKE_CUDA", "-DFAKE_OLD"],
    "old_amd": ["-DFAKE_OLD"],
}


class Record(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int32) for name in ("initialized", "loads", "attribute", "attribute_value", "launches")],
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
        ("function", ctypes.c_uint64),
        ("stream", ctypes.c_uint64),
        ("image", ctypes.c_ubyte * 16),
        ("arguments", ctypes.c_ubyte * 512),
        *[(name, ctypes.c_int32) for name in ("launch_attribute", "launch_attribute_value", "encodes")],
        # Type, rank, interleave, swizzle, promotion, fill of the last encoded map, and one that says nothing.
        ("encoded_as", ctypes.c_int32 * 7),
        # Address, sizes of two dimensions, stride; of three dimensions the last size and stride, else zeros.
        ("encoded", ctypes.c_uint64 * 6),
        ("box", ctypes.c_uint32 * 3),
        ("cluster", ctypes.c_uint32 * 3),
        # What hipGetLastError would give, and launches whose image was not kept.
        *[(name, ctypes.c_int32) for name in ("last_error", "lost_images")],
    ]


def build(folder: Path) -> dict[str, Path]:
    """The fake drivers of both families, and two that are too old."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))))
    built = {name: folder / f"libfake_{name}.so" for name in _BUILDS}
    for name, defines in _BUILDS.items():
        subprocess.run([compiler, "-shared", "-fPIC", *defines, str(SOURCE), "-o", str(built[name])], check=True)
    return built


def points(family: str, *libraries: Path | str) -> drivers.EntryPoints:
    return dataclasses.replace(drivers.ENTRY_POINTS[family], libraries=tuple(map(str, libraries)))


def open_driver(family: str, library: Path) -> tuple[drivers.Driver, Record]:
    """A driver over a fake library, and that library's record, set to zero."""
    loaded = ctypes.CDLL(str(library))
    record = Record.in_dll(loaded, "fake_record")
    ctypes.memset(ctypes.byref(record), 0, ctypes.sizeof(record))
    ctypes.c_int.in_dll(loaded, "fake_initialize_code").value = 0
    ctypes.c_int.in_dll(loaded, "fake_argument_bytes").value = 80
    return drivers.Driver(points(family, library)), record
