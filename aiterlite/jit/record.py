"""The manifest of what a run used: a file that `aiterlite build --from` turns into a complete cache.

It holds the units that were loaded, and the calls that led to them as problems, so that it can be built for other
targets than the one that recorded it. It is data: nothing in it is evaluated.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiterlite import envs
from aiterlite.errors import BundleError, JitError
from aiterlite.jit.spec import Unit

FORMAT = "aiterlite-manifest"
_SCHEMA = 1


@dataclass
class Manifest:
    """Units and calls, each once, in a canonical order when written."""

    units: dict[str, Unit] = field(default_factory=dict)
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add_unit(self, unit: Unit) -> bool:
        name = json.dumps(unit.to_json(), sort_keys=True)
        new = name not in self.units
        self.units[name] = unit
        return new

    def add_call(self, call: dict[str, Any]) -> bool:
        name = json.dumps(call, sort_keys=True)
        new = name not in self.calls
        self.calls[name] = call
        return new

    def merge(self, other: Manifest) -> None:
        self.units.update(other.units)
        self.calls.update(other.calls)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "schema": _SCHEMA,
            "units": [self.units[name].to_json() for name in sorted(self.units)],
            "calls": [self.calls[name] for name in sorted(self.calls)],
        }


def read(path: str | Path) -> Manifest:
    """Raises `BundleError` on a file that is no manifest."""
    try:
        data = json.loads(Path(path).read_text())
        if data["format"] != FORMAT or data["schema"] != _SCHEMA:
            raise ValueError(f"expected format {FORMAT!r}, schema {_SCHEMA}")
        manifest = Manifest()
        for item in data["units"]:
            manifest.add_unit(Unit.from_json(item))
        for call in data["calls"]:
            if not isinstance(call["op"], str) or not isinstance(call["problem"], dict):
                raise ValueError("a call has `op` and `problem`")
            manifest.add_call(call)
    except OSError as error:
        raise BundleError(f"cannot read manifest {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{path} is no manifest of this version: {error}") from error
    return manifest


def write(manifest: Manifest, path: str | Path) -> None:
    """Merge into what the file already holds: the ranks of one server record into one file. Raises `BundleError`."""
    from aiterlite.jit import locks

    target = Path(path)
    try:
        if target.exists() and not stat.S_ISREG(target.stat().st_mode):
            raise BundleError(f"cannot write manifest {target}: it is no regular file")
        target.parent.mkdir(parents=True, exist_ok=True)
        with locks.build_lock(target.parent, f".{target.name}", f"manifest {target}"):
            merged = read(target) if target.exists() else Manifest()
            merged.merge(manifest)
            temporary = target.with_name(f".{target.name}.{os.getpid()}")
            temporary.write_text(json.dumps(merged.to_json(), indent=1) + "\n")
            os.replace(temporary, target)
    except OSError as error:
        raise BundleError(f"cannot write manifest {target}: {error.strerror}") from error


_lock = threading.Lock()
_run = Manifest()
_scopes: list[tuple[Manifest, Path]] = []
_warned: set[str] = set()


def note_unit(unit: Unit) -> None:
    """A unit was loaded in this process."""
    _note(lambda manifest: manifest.add_unit(unit))


def note_call(op: str, problem: dict[str, Any]) -> None:
    """A problem was dispatched for the first time in this process."""
    _note(lambda manifest: manifest.add_call({"op": op, "problem": problem}))


def is_recording() -> bool:
    """Whether a scope of `recording` is open."""
    return bool(_scopes)


def _note(add: Callable[[Manifest], bool]) -> None:
    with _lock:
        new = add(_run)
        for manifest, path in _scopes:
            if add(manifest):
                _try_to_write(manifest, path)
        # Written as it grows, so that a server that is killed leaves a whole file.
        if new and envs.RECORD.get():
            _try_to_write(_run, envs.RECORD.get())


def _try_to_write(manifest: Manifest, path: str | Path) -> None:
    """Write, or warn once: the call that was recorded is right without its record."""
    from aiterlite.jit import progress

    try:
        write(manifest, path)
    except JitError as error:
        if str(error) not in _warned:
            _warned.add(str(error))
            progress.logger().warning("not recorded: %s", error)


@contextmanager
def recording(path: str | Path) -> Iterator[Manifest]:
    """Record the units and calls of a scope into `path`; the API twin of AITERLITE_RECORD.

    The scope notes only what this process loads or dispatches for the first time, so start it before the first call
    that you want recorded. Raises `BundleError` where the file cannot be written at the start or the end of the scope;
    in between that is a warning.
    """
    try:
        target = Path(envs.absolute(str(path)))
    except ValueError as error:
        raise BundleError(f"cannot write manifest {path}: {error}") from None
    scope = (Manifest(), target)
    write(*scope)
    with _lock:
        _scopes.append(scope)
    try:
        yield scope[0]
    except BaseException:
        with _lock:
            _try_to_write(*scope)
        raise
    else:
        with _lock:
            write(*scope)
    finally:
        with _lock:
            _scopes[:] = [other for other in _scopes if other is not scope]
