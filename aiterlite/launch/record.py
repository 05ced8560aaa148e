"""A record of the last launches that outlives the process: for runtimes that abort it when a kernel faults.

Before ROCm 7.0 a fault on the GPU ends the process with an address and no kernel's name. With
AITERLITE_LAST_LAUNCHES=DIR each process keeps a file there that it has mapped into its memory, and writes a slot of it
before each launch. The pages belong to the file, so they are there after any end of the process but the machine's.

A file is a header and `slots` slots of one size, written in turn. A slot begins and ends with the number of its launch;
the numbers differ where the process ended while it wrote.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
import sys
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import get_ident
from time import time_ns

from aiterlite import envs
from aiterlite.errors import EnvironmentValueError

SLOTS = 64
SUFFIX = ".launches"
_MAGIC = b"AITLNCH1"
# Magic, process, nanoseconds since 1970, slots, bytes of a slot, command line.
_HEADER = struct.Struct("<8sQQII224s")
_KERNEL_BYTES, _DECISION_BYTES, _ARGUMENT_BYTES = 96, 96, 256
# Number, nanoseconds, thread, grid, block, LDS bytes, bytes of the arguments, kernel, decision, arguments, number.
_SLOT = struct.Struct(f"<QQQ3I3III{_KERNEL_BYTES}s{_DECISION_BYTES}s{_ARGUMENT_BYTES}sQ")
# Each has a name of its own, since every launch looks them up.
_FIRST, _SLOT_BYTES, _pack = _HEADER.size, _SLOT.size, _SLOT.pack_into


class LaunchRecord:
    """The file of this process, open for writing. `OSError` is raised where it cannot be made."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open()
        # A child of `fork` shares the pages, and would write over its parent's.
        weak = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _after_fork(weak()))

    def _open(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        now = time_ns()
        self.path = self._directory / f"{os.getpid()}-{now}{SUFFIX}"
        size = _HEADER.size + SLOTS * _SLOT.size
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # A page that the disk has no room for would end the process where it is written.
            os.posix_fallocate(descriptor, 0, size)
            pages = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        command = " ".join(sys.orig_argv).encode("utf-8", "replace")
        _HEADER.pack_into(pages, 0, _MAGIC, os.getpid(), now, SLOTS, _SLOT.size, command)
        self._pages = pages
        # Threads share it; taking the next number is one step of the interpreter.
        self._next = itertools.count(1).__next__

    def _detach(self) -> None:
        self._pages = mmap.mmap(-1, len(self._pages))

    def note(
        self, kernel: str, grid: Sequence[int], block: Sequence[int], lds: int, arguments: bytes, decision: str
    ) -> None:
        """Write down a launch that is about to be made: its kernel, geometry, LDS bytes, argument struct, and which row
        of which table chose it. What does not fit into a slot is cut off; only the size of the arguments is kept whole.
        """
        number = self._next()
        _pack(
            self._pages,
            _FIRST + number % SLOTS * _SLOT_BYTES,
            number,
            time_ns(),
            get_ident(),
            *grid,
            *block,
            lds,
            len(arguments),
            kernel.encode(),
            decision.encode(),
            arguments,
            number,
        )


def _after_fork(record: LaunchRecord | None) -> None:
    if record is None:
        return
    # Whatever comes of the new file, the parent's is left alone.
    record._detach()
    try:
        record._open()
    except OSError as error:
        warnings.warn(f"no record of the launches of process {os.getpid()}: {error}", stacklevel=1)


def open_from_env() -> LaunchRecord | None:
    """The record of this process where AITERLITE_LAST_LAUNCHES names a directory; None where it does not.

    Raises `EnvironmentValueError` where no file can be made there.
    """
    directory = envs.LAST_LAUNCHES.get()
    if not directory:
        return None
    try:
        return LaunchRecord(Path(directory))
    except OSError as error:
        why = f"a directory with room for a file ({error.strerror})"
        raise EnvironmentValueError(envs.LAST_LAUNCHES.name, directory, why) from error


@dataclass(frozen=True)
class Launch:
    """One launch of a record. `arguments` are the first bytes of `argument_bytes`; the rest is not there."""

    number: int
    time_ns: int
    thread: int
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    lds_bytes: int
    argument_bytes: int
    kernel: str
    decision: str
    arguments: bytes


@dataclass(frozen=True)
class Contents:
    """A record as it lies in a file: whose it is, its whole launches in order, and how many slots are torn."""

    process: int
    started_ns: int
    command: str
    launches: tuple[Launch, ...]
    torn: int


def read(path: Path) -> Contents:
    """Raises `ValueError` on a file that is no record, `OSError`."""
    data = path.read_bytes()
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise ValueError(f"{path} is no record of launches")
    _, process, started, slots, size, command = _HEADER.unpack_from(data)
    if size != _SLOT.size or len(data) != _HEADER.size + slots * size:
        raise ValueError(f"{path} is a record of {slots} slots of {size} bytes, in {len(data)} bytes")
    found, torn = [], 0
    for fields in _SLOT.iter_unpack(data[_HEADER.size :]):
        number, when, thread, *rest, end = fields
        gx, gy, gz, bx, by, bz, lds, length, kernel, decision, arguments = rest
        if number != end:
            torn += 1
        elif number:
            found.append(
                Launch(
                    number=number,
                    time_ns=when,
                    thread=thread,
                    grid=(gx, gy, gz),
                    block=(bx, by, bz),
                    lds_bytes=lds,
                    argument_bytes=length,
                    kernel=_text(kernel),
                    decision=_text(decision),
                    arguments=arguments[:length],
                )
            )
    return Contents(process, started, _text(command), tuple(sorted(found, key=lambda launch: launch.number)), torn)


def newest(directory: Path) -> Path | None:
    """The record in a directory whose process started last."""
    records = [(int(parts[1]), path) for path in directory.glob(f"*{SUFFIX}") if len(parts := _parts(path)) == 2]
    return max(records)[1] if records else None


def _parts(path: Path) -> list[str]:
    return [part for part in path.name.removesuffix(SUFFIX).split("-") if part.isdecimal()]


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode("utf-8", "replace")
