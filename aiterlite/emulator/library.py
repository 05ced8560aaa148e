"""The emulator's shared library: a host unit of this package, built at first use, called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import json
from typing import Any

from aiterlite.emulator import interrupt
from aiterlite.emulator.errors import BY_STATUS, INTERRUPTED, CodeObjectError, EmulatorError
from aiterlite.jit import loader
from aiterlite.jit.sources import PACKAGE_ROOT
from aiterlite.jit.spec import Unit
from aiterlite.target import host_persona

_path: str | None = None
# fuzz_main.cpp is a program of its own.
_SOURCES = tuple(
    sorted(
        path.relative_to(PACKAGE_ROOT).as_posix()
        for path in (PACKAGE_ROOT / "csrc" / "emulator").glob("*.cpp")
        if path.stem != "fuzz_main"
    )
)
_QUIET = ("-Wno-uninitialized", "-Wno-maybe-uninitialized", "-Wno-ignored-attributes")


def unit(target: str = "") -> Unit:
    """The emulator for a CPU level; this host's by default.

    Floating-point contraction would round once where the emulated instructions round twice. -O2 executes no faster: the
    vectors are explicit, and what must be inlined is.
    """
    return Unit(
        "emulator",
        _SOURCES,
        target or host_persona().target,
        # g++ forgets in a compiled header which of its own functions may do what it warns of (see level.h).
        flags=("-O1", "-ffp-contract=off", "-fexceptions", "-frtti", *_QUIET),
        symbols=("aiterlite_emulator_launch", "aiterlite_emulator_launch_kernel", "aiterlite_emulator_disassemble"),
        prelude="aiterlite/emulator/prelude.h",
    )


class Range(ctypes.Structure):
    """Memory that a launch may touch."""

    _fields_ = [
        ("base", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("writable", ctypes.c_int32),
        ("elements", ctypes.c_char_p),
    ]


# Base, bytes, name, writable, and a bit for each byte that may be touched (None: all of them).
Named = tuple[int, int, str, bool, bytes | None]


def _table(ranges: list[Named]) -> ctypes.Array[Range]:
    return (Range * len(ranges))(
        *[Range(base, size, name.encode(), writable, elements) for base, size, name, writable, elements in ranges]
    )


class Options(ctypes.Structure):
    """How a launch runs, and on what."""

    _fields_ = [
        ("threads", ctypes.c_int32),
        ("quantum", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
        ("check_memory", ctypes.c_int32),
        ("buffer_findings", ctypes.c_int32),
        ("fill", ctypes.c_uint32),
        ("max_instructions", ctypes.c_uint64),
        ("trace_group", ctypes.c_int64),
        ("trace_wave", ctypes.c_uint32),
        ("trace_lines", ctypes.c_uint64),
        ("sanitize", ctypes.c_uint32),
        ("count", ctypes.c_int32),
        ("compute_units", ctypes.c_uint32),
        ("lds_bytes", ctypes.c_uint32),
        ("xcds", ctypes.c_uint32),
        ("timeline", ctypes.c_int32),
        ("timeline_group", ctypes.c_uint64),
        ("timeline_together", ctypes.c_uint32),
        ("timeline_noted", ctypes.c_uint64),
        ("timeline_events", ctypes.c_uint64),
        ("timings", ctypes.c_double * 6),
        ("only", ctypes.c_uint64),
    ]


def use_library(path: str) -> None:
    """Open this file from now on, instead of the unit of this host."""
    global _path
    _path = path
    open_library.cache_clear()


@functools.cache
def open_library() -> ctypes.CDLL:
    """The shared library, with the signatures of the calls used here."""
    # torch.utils.cpp_extension links every host unit against torch's libraries, which must be loaded before it.
    import torch  # noqa: F401

    library = loader.host_library(unit()) if _path is None else ctypes.CDLL(_path)
    text, size = ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_size_t)
    library.aiterlite_emulator_set_poll.argtypes = [interrupt.POLL]
    library.aiterlite_emulator_set_poll.restype = None
    library.aiterlite_emulator_free.argtypes = [ctypes.c_void_p]
    library.aiterlite_emulator_free.restype = None
    library.aiterlite_emulator_error.restype = ctypes.c_char_p
    library.aiterlite_emulator_load.argtypes = [ctypes.c_char_p, ctypes.c_size_t, text]
    library.aiterlite_emulator_unload.argtypes = [ctypes.c_void_p]
    library.aiterlite_emulator_unload.restype = None
    library.aiterlite_emulator_launch.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_uint32 * 3,
        ctypes.c_uint32 * 3,
        ctypes.c_uint32,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.POINTER(Range),
        ctypes.c_size_t,
        ctypes.POINTER(Options),
        text,
        size,
    ]
    return library


def _take(text: ctypes.c_void_p, size: ctypes.c_size_t) -> str:
    try:
        return ctypes.string_at(text, size.value).decode("latin-1")
    finally:
        open_library().aiterlite_emulator_free(text)


def describe(data: bytes) -> dict[str, Any]:
    """Target, features and kernels of a code object. Raises `CodeObjectError`."""
    result: dict[str, Any] = json.loads(_object_text(open_library().aiterlite_emulator_describe, data))
    return result


def _object_text(call: Any, data: bytes) -> str:
    text, size = ctypes.c_void_p(), ctypes.c_size_t()
    status = call(data, ctypes.c_size_t(len(data)), ctypes.byref(text), ctypes.byref(size))
    answer = _take(text, size)
    if status:
        raise CodeObjectError(answer)
    return answer


def disassemble(data: bytes) -> str:
    """The listing of every function of a code object, as llvm-objdump prints it. Raises `CodeObjectError`."""
    return _object_text(open_library().aiterlite_emulator_disassemble, data)


def coverage(data: bytes) -> dict[str, Any]:
    """The instruction forms of each function, and what cannot be decoded. Raises `CodeObjectError`."""
    result: dict[str, Any] = json.loads(_object_text(open_library().aiterlite_emulator_coverage, data))
    return result


def unallocated_registers(data: bytes) -> list[dict[str, Any]]:
    """Registers that the kernels of a code object name and their descriptors do not allocate: for each kernel and kind
    of register the number of instructions, the first one, and what to do. Raises `CodeObjectError`."""
    result: list[dict[str, Any]] = json.loads(_object_text(open_library().aiterlite_emulator_unallocated, data))
    return result


def refusal(arch: str, code: bytes) -> str:
    """Why the executor cannot run one encoded instruction; empty if it can."""
    text, size = ctypes.c_void_p(), ctypes.c_size_t()
    number = ctypes.c_int(("gfx942", "gfx950").index(arch))
    open_library().aiterlite_emulator_refusal(
        number, code, ctypes.c_size_t(len(code)), ctypes.byref(text), ctypes.byref(size)
    )
    return _take(text, size)


def load(data: bytes) -> ctypes.c_void_p:
    """A handle to the loaded object, to be given to `unload`. Raises `CodeObjectError`."""
    handle = ctypes.c_void_p()
    library = open_library()
    if library.aiterlite_emulator_load(data, len(data), ctypes.byref(handle)):
        raise CodeObjectError(library.aiterlite_emulator_error().decode("latin-1"))
    return handle


def unload(handle: ctypes.c_void_p) -> None:
    open_library().aiterlite_emulator_unload(handle)


def inspect(handle: ctypes.c_void_p) -> list[dict[str, Any]]:
    """Of each kernel of a loaded object its occupancy, and the findings in the straight lines of its code."""
    library = open_library()
    text, size = ctypes.c_void_p(), ctypes.c_size_t()
    if library.aiterlite_emulator_inspect(handle, ctypes.byref(text), ctypes.byref(size)):
        raise EmulatorError(library.aiterlite_emulator_error().decode("latin-1"))
    kernels: list[dict[str, Any]] = json.loads(_take(text, size))["kernels"]
    return kernels


def launch(
    handle: ctypes.c_void_p,
    kernel: str,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    lds: int,
    kernarg: bytes,
    ranges: list[Named],
    options: Options,
) -> dict[str, Any]:
    """Run a kernel to its end and return the report; `ranges` are what it may touch.

    Raises `EmulatorError`, and what the handler of a signal raises meanwhile.
    """
    library = open_library()
    interrupt.watch(library)
    table = _table(ranges)
    text, size = ctypes.c_void_p(), ctypes.c_size_t()
    status = library.aiterlite_emulator_launch(
        handle,
        kernel.encode(),
        (ctypes.c_uint32 * 3)(*grid),
        (ctypes.c_uint32 * 3)(*block),
        lds,
        kernarg,
        len(kernarg),
        table,
        len(ranges),
        ctypes.byref(options),
        ctypes.byref(text),
        ctypes.byref(size),
    )
    report: dict[str, Any] = json.loads(_take(text, size)) if text else {}
    if status == INTERRUPTED:
        raise interrupt.take_raised(library)
    if status:
        message = report.get("message") or library.aiterlite_emulator_error().decode("latin-1")
        raise BY_STATUS.get(status, EmulatorError)(message, report)
    return report


def set_launch(ranges: list[Named], options: Options) -> None:
    """What this thread's launches through the driver-shaped calls may touch, and how they run."""
    library = open_library()
    interrupt.watch(library)
    table = _table(ranges)
    library.aiterlite_emulator_set_options(ctypes.byref(options))
    if library.aiterlite_emulator_set_ranges(table, ctypes.c_size_t(len(ranges))):
        raise EmulatorError(library.aiterlite_emulator_error().decode("latin-1"))


def last_report() -> dict[str, Any]:
    """The report of this thread's last launch through the driver-shaped calls; empty if it never began."""
    library = open_library()
    library.aiterlite_emulator_report.restype = ctypes.c_char_p
    text = library.aiterlite_emulator_report()
    report: dict[str, Any] = json.loads(text.decode("latin-1")) if text else {}
    return report


def last_error(status: int) -> BaseException:
    """The error of this thread's last launch through the driver-shaped calls; what interrupted it, where one did."""
    library = open_library()
    if status == INTERRUPTED:
        return interrupt.take_raised(library)
    report = last_report()
    message = library.aiterlite_emulator_error().decode("latin-1")
    return BY_STATUS.get(status, EmulatorError)(message, report)
