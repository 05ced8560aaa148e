"""AITERLITE_LOG_CALLS: each operator call in a file before it is launched, so that the last line of a process that died
is the call that killed it.

For that a call waits for the device before its line is written: what an earlier one broke shows there. Calls that a
graph captures do not wait, replays of a graph are no calls, and what torch does itself is not logged. Lines are
appended whole, so that ranks may share a file.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from aiterlite import envs
from aiterlite.dispatch import Decision
from aiterlite.emulator.arguments import raw_bytes
from aiterlite.jit import progress
from aiterlite.ops.call_file import Call, Storages, encode

_local = threading.local()
_lock = threading.Lock()
_numbers: dict[str, int] = {}
_failed: set[str] = set()


def is_on() -> bool:
    return bool(envs.LOG_CALLS.get())


def note_decision(decision: Decision) -> None:
    """A decision was made for the call that this thread prepares."""
    notes: list[str] | None = getattr(_local, "notes", None)
    if notes is not None and decision.row is not None:
        kernels = "; ".join(map(str, decision.kernels)) or "torch"
        notes.append(f"{decision.op} on {decision.persona.target}: {decision.row.name}: {kernels}")


@contextmanager
def _noting() -> Iterator[list[str]]:
    before = getattr(_local, "notes", None)
    notes: list[str] = []
    _local.notes = notes
    try:
        yield notes
    finally:
        _local.notes = before


def observed(op: str, prepare: Callable[..., Callable[..., Any]], args: Any, kwargs: Any) -> Callable[..., Any]:
    """What `prepare` makes for such arguments, whose calls write their lines. A call that is refused has a line too."""
    with _noting() as notes:
        try:
            run = prepare(*args, **kwargs)
        except Exception as error:
            _write(op, args, kwargs, notes, f"{type(error).__name__}: {error}")
            raise

    # What a call was prepared for and need not bring again.
    prepared = dict(kwargs)

    def logged(*args: Any, **kwargs: Any) -> Any:
        _write(op, args, {**prepared, **kwargs}, notes, "")
        return run(*args, **kwargs)

    return logged


def _write(op: str, args: Any, kwargs: Any, decisions: list[str], refused: str) -> None:
    path = Path(envs.LOG_CALLS.get())
    storages = Storages()
    arguments = encode(args, storages)
    keywords = dict(zip(kwargs, encode(list(kwargs.values()), storages), strict=True))
    capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    for device in {tensor.device for tensors in storages.tensors.values() for tensor in tensors}:
        if device.type == "cuda" and not capturing:
            torch.cuda.synchronize(device)
    with _lock:
        number = _numbers[str(path)] = _numbers.get(str(path), 0) + 1
    try:
        ranges = storages.ranges()
        kept = [] if capturing else _keep(storages, ranges, path, number)
        described: list[dict[str, Any]] = [
            {"bytes": end - begin, "begin": begin, "address": address + begin}
            for address, (begin, end) in zip(storages.tensors, ranges, strict=True)
        ]
        for at, name in kept:
            described[at]["file"] = name
        values = envs.snapshot().values
        registry = envs.registry().items()
        environment = {name: _text(values[name]) for name, v in registry if values[name] != v.default}
        call = Call(number, os.getpid(), op, arguments, keywords, described, decisions, environment, refused)
        _append(path, call.line() + "\n")
    except OSError as error:
        # The call is right without its line; said once.
        if str(path) not in _failed:
            _failed.add(str(path))
            progress.logger().warning("AITERLITE_LOG_CALLS: cannot write %s: %s", path, error.strerror)


def _text(value: Any) -> str:
    """As the environment has it."""
    if isinstance(value, bool):
        return str(int(value))
    return os.pathsep.join(value) if isinstance(value, tuple) else str(value)


def _keep(storages: Storages, ranges: list[tuple[int, int]], path: Path, number: int) -> list[tuple[int, str]]:
    """Writes the storages that are small enough beside the log; their numbers and files."""
    most, kept = envs.LOG_TENSORS.get(), []
    for at, (begin, end) in enumerate(ranges):
        if 0 < end - begin <= most:
            name = f"{os.getpid()}-{number}-{at}.bin"
            folder = folder_of(path)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(raw_bytes(storages.bytes_of(at, begin, end)))
            kept.append((at, name))
    return kept


def folder_of(path: Path) -> Path:
    """Where the tensors of a log lie."""
    return path.with_name(path.name + ".tensors")


def _append(path: Path, text: str) -> None:
    """In one write: a line of another process is before or behind it."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        data = text.encode()
        while data:
            data = data[os.write(file, data) :]
    finally:
        os.close(file)
