"""What AMD's own libraries say, in a child process that their own dynamic loader started; prints JSON.

python rocm_child.py hip              the runtime's version and entry points, and how opening it as a driver ends
python rocm_child.py comgr FILE ...   each code object's target, kernels and numbers of arguments, as comgr reads it
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import sys
from typing import Any

from aiterlite.errors import LoadError
from aiterlite.launch import drivers

_EXECUTABLE = 8


def hip() -> dict[str, Any]:
    points = drivers.ENTRY_POINTS["amd"]
    names = [value for field, value in dataclasses.asdict(points).items() if isinstance(value, str) and value]
    library = _open(points.libraries)
    version = ctypes.c_int()
    status = library.hipDriverGetVersion(ctypes.byref(version))
    try:
        drivers.driver("amd")
        error = None
    except LoadError as refused:
        error = str(refused)
    return {
        "library": library._name,
        "missing": [name for name in [*names, "hipGetLastError"] if not hasattr(library, name)],
        "entry_points": len(names),
        "version": version.value if status == 0 else None,
        "error": error,
    }


def _open(names: tuple[str, ...]) -> ctypes.CDLL:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            last = error
    raise last


class _Handle(ctypes.Structure):
    """A data object or a piece of metadata: comgr passes these by value."""

    _fields_ = [("handle", ctypes.c_uint64)]


class Comgr:
    """The library as far as it reads code objects. Raises `RuntimeError` with its own words."""

    def __init__(self) -> None:
        self._library = _open(tuple(f"libamd_comgr.so.{version}" for version in (4, 3, 2)))

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, f"amd_comgr_{name}")(*arguments)
        if status != 0:
            text = ctypes.c_char_p()
            self._library.amd_comgr_status_string(status, ctypes.byref(text))
            raise RuntimeError(f"{name}: {(text.value or b'').decode()}")

    def _text(self, name: str, handle: _Handle) -> str:
        size = ctypes.c_size_t()
        self._call(name, handle, ctypes.byref(size), None)
        buffer = ctypes.create_string_buffer(size.value)
        self._call(name, handle, ctypes.byref(size), buffer)
        return buffer.value.decode()

    def _lookup(self, node: _Handle, key: str) -> _Handle:
        value = _Handle()
        self._call("metadata_lookup", node, key.encode(), ctypes.byref(value))
        return value

    def _list(self, node: _Handle) -> list[_Handle]:
        size = ctypes.c_size_t()
        self._call("get_metadata_list_size", node, ctypes.byref(size))
        items = [_Handle() for _ in range(size.value)]
        for index, item in enumerate(items):
            self._call("index_list_metadata", node, ctypes.c_size_t(index), ctypes.byref(item))
        return items

    def describe(self, image: bytes) -> dict[str, Any]:
        data, root = _Handle(), _Handle()
        self._call("create_data", _EXECUTABLE, ctypes.byref(data))
        self._call("set_data", data, ctypes.c_size_t(len(image)), image)
        isa = self._text("get_data_isa_name", data)
        self._call("get_data_metadata", data, ctypes.byref(root))
        kernels = {}
        for kernel in self._list(self._lookup(root, "amdhsa.kernels")):
            arguments = self._list(self._lookup(kernel, ".args"))
            offsets = [int(self._text("get_metadata_string", self._lookup(item, ".offset"))) for item in arguments]
            kernels[self._text("get_metadata_string", self._lookup(kernel, ".name"))] = offsets
        target = self._text("get_metadata_string", self._lookup(root, "amdhsa.target"))
        return {"isa": isa, "target": target, "kernels": kernels}


def comgr(paths: list[str]) -> list[dict[str, Any]]:
    library, found = Comgr(), []
    for path in paths:
        with open(path, "rb") as file:
            image = file.read()
        try:
            found.append(library.describe(image))
        except RuntimeError as error:
            found.append({"error": str(error)})
    return found


if __name__ == "__main__":
    print(json.dumps(hip() if sys.argv[1] == "hip" else comgr(sys.argv[2:])))
