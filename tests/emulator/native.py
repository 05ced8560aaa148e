"""Calls the emulator's loader and decoder for tests: `shared_library()`; and builds a program that fuzzes them."""

from __future__ import annotations

import ctypes
import functools
import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator import executor

import aiterlite

CSRC = Path(aiterlite.__file__).resolve().parent / "csrc"
TARGETS = ("gfx942", "gfx950")
_PARTS = ("api_decode", "listing", "elf", "msgpack", "metadata", "descriptor", "names", "decode*", "disasm*", "table_*")
# LoadStatus and DecodeStatus of the headers, in order.
LOAD_STATUS = ("ok", "truncated", "not_elf", "wrong_target", "malformed", "unsupported")
DECODE_STATUS = (
    "ok",
    "truncated",
    "unknown_encoding",
    "unknown_opcode",
    "other_arch",
    "bad_operand",
    "reserved_bits",
)


def compiler() -> str | None:
    return shutil.which("g++") or shutil.which("clang++")


def sources() -> list[Path]:
    found = {path for part in _PARTS for path in (CSRC / "emulator").glob(f"{part}.cpp")}
    return sorted(found)


def build(folder: Path, flags: list[str], link: list[str], extra: list[str], name: str) -> Path:
    """Compiles the parts, two at a time, and links `folder/name`."""
    command = [compiler() or "", "-std=c++20", "-Wall", "-Wextra", "-Werror", f"-I{CSRC / 'include'}", *flags]
    paths = [*sources(), *(CSRC / "emulator" / part for part in extra)]
    objects = [folder / f"{path.stem}.o" for path in paths]

    def compile_one(pair: tuple[Path, Path]) -> None:
        run = subprocess.run([*command, "-c", str(pair[0]), "-o", str(pair[1])], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile_one, zip(paths, objects, strict=True)))
    output = folder / name
    subprocess.run([*command, *link, *map(str, objects), "-o", str(output)], check=True)
    return output


@dataclass(frozen=True)
class Decoded:
    status: str  # one of DECODE_STATUS
    text: str  # the instruction, or what is wrong with the encoding
    size: int  # bytes; 0 if it was refused
    encoding: str  # the format, as far as it was recognised
    op: str  # mnemonic without suffix, empty if it was refused


class LoadError(Exception):
    def __init__(self, status: str, message: str):
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class Library:
    """The C interface of api_decode.cpp."""

    def __init__(self, path: Path):
        self._lib = ctypes.CDLL(str(path))
        self._lib.aiterlite_emulator_free.argtypes = [ctypes.c_void_p]
        self._lib.aiterlite_emulator_free.restype = None
        self._text = ctypes.c_void_p()
        self._size = ctypes.c_size_t()

    def _take(self) -> str:
        text = ctypes.string_at(self._text, self._size.value).decode()
        self._lib.aiterlite_emulator_free(self._text)
        return text

    def _object(self, function: str, data: bytes) -> str:
        call = getattr(self._lib, function)
        status = call(data, ctypes.c_size_t(len(data)), ctypes.byref(self._text), ctypes.byref(self._size))
        text = self._take()
        if status:
            raise LoadError(LOAD_STATUS[status], text)
        return text

    def describe(self, data: bytes) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self._object("aiterlite_emulator_describe", data))
        return result

    def listing(self, data: bytes) -> str:
        return self._object("aiterlite_emulator_disassemble", data)

    def coverage(self, data: bytes) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self._object("aiterlite_emulator_coverage", data))
        return result

    def decode(self, target: str, data: bytes) -> Decoded:
        consumed = ctypes.c_size_t()
        encoding, op = ctypes.c_char_p(), ctypes.c_char_p()
        status = self._lib.aiterlite_emulator_disassemble_one(
            TARGETS.index(target),
            data,
            ctypes.c_size_t(len(data)),
            ctypes.byref(self._text),
            ctypes.byref(self._size),
            ctypes.byref(consumed),
            ctypes.byref(encoding),
            ctypes.byref(op),
        )
        return Decoded(
            DECODE_STATUS[status],
            self._take(),
            consumed.value,
            (encoding.value or b"").decode(),
            (op.value or b"").decode(),
        )

    def explain(self, target: str, data: bytes) -> dict[str, Any]:
        """All fields of a decoded instruction."""
        call = self._lib.aiterlite_emulator_explain_one
        status = call(
            TARGETS.index(target), data, ctypes.c_size_t(len(data)), ctypes.byref(self._text), ctypes.byref(self._size)
        )
        text = self._take()
        assert status == 0, text
        result: dict[str, Any] = json.loads(text)
        return result

    @functools.cached_property
    def mnemonics(self) -> list[str]:
        self._lib.aiterlite_emulator_mnemonics(ctypes.byref(self._text), ctypes.byref(self._size))
        return self._take().split()


@functools.cache
def shared_library() -> Library:
    """The decoder of the emulator's own library, which every test of the session shares."""
    # The unit is linked against torch's libraries, which must be loaded before it.
    import torch  # noqa: F401

    return Library(executor.library())
