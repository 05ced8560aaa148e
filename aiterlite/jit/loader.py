"""From a verified artifact to callable code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

from aiterlite.errors import LoadError
from aiterlite.jit import engine, record
from aiterlite.jit.spec import Unit

_libraries: dict[Unit, ctypes.CDLL] = {}


def host_library(unit: Unit, capturing: Callable[[], bool] = lambda: False) -> ctypes.CDLL:
    """The shared library of a host unit, once per process. Raises `JitError`; `capturing` as for `engine.obtain`.

    An artifact of another toolchain may need a newer C library than this machine has; it is then rebuilt here.
    """
    library = _libraries.get(unit)
    if library is not None:
        return library
    excluded: dict[Path, str] = {}
    while True:
        artifact = engine.obtain(unit, excluded=excluded, capturing=capturing)
        try:
            library = ctypes.CDLL(str(artifact.entry.path), mode=ctypes.DEFAULT_MODE)
            break
        except OSError as error:
            if artifact.built:
                raise LoadError(f"{unit.label} was built here and cannot be loaded: {error}") from error
            excluded[artifact.entry.directory] = f"cannot be loaded here: {error}"
    missing = [symbol for symbol in unit.symbols if not hasattr(library, symbol)]
    if missing:
        raise LoadError(f"{artifact.entry.path} does not export {', '.join(missing)}")
    _libraries[unit] = library
    record.note_unit(unit)
    return library


def require_abi(library: ctypes.CDLL, query: str, wanted: int) -> None:
    """Raise `LoadError` where a host unit speaks another ABI than this package; its function `query` says which."""
    spoken = getattr(library, query)()
    if spoken != wanted:
        raise LoadError(f"{library._name} speaks ABI {spoken}, this package {wanted}")


def device_image(unit: Unit) -> bytes:
    """The verified bytes of a code object or cubin. Raises `JitError`."""
    data = engine.obtain(unit).data
    record.note_unit(unit)
    return data
