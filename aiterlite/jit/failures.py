"""The last failed build of each unit: for a person to look at, for the processes that waited for it, and for those that
would compile the same again.

A failure is remembered where the compiler named what is wrong with the sources: all of them, the compiler and torch are
then what it depends on, and while these are the same, the same error is raised without a compile. Anything else (a full
disk, a killed compiler, a missing file of the system, a time limit) may be over by the next call, which tries again.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiterlite.errors import BuildError, BuildTimeoutError
from aiterlite.jit import progress
from aiterlite.jit import toolchain as toolchains
from aiterlite.jit.sources import SourceTree, digest_bytes
from aiterlite.jit.spec import HOST, Unit
from aiterlite.jit.store import Store

_KINDS = {kind.__name__: kind for kind in (BuildError, BuildTimeoutError)}


def _file(root: Path, key: str) -> Path:
    return root / "failed" / f"{key}.json"


def state(unit: Unit, tree: SourceTree, fingerprint: str) -> dict[str, str]:
    """All that the outcome of a compile depends on beside the unit's key: a compile that failed gives no list of what
    it included."""
    found = {"tree": digest_bytes(json.dumps(tree.snapshot(), sort_keys=True).encode()), "toolchain": fingerprint}
    if unit.kind == HOST:
        # torch's own code starts the compiler.
        try:
            found["torch"] = importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            found["torch"] = "a checkout"
    return found


def forget(root: Path, key: str) -> None:
    _file(root, key).unlink(missing_ok=True)


def raise_remembered(root: Path, key: str, unit: Unit, tree: SourceTree) -> None:
    """Raise the error of the last build, where it would end the same again. Starts no process."""
    record = _read(last(root, key))
    if not isinstance(record.get("state"), dict):
        return
    local = toolchains.known(unit.kind, root, unit.target)
    if local is None or record["state"] != state(unit, tree, local.fingerprint):
        return
    error = _error(record)
    if error is not None:
        progress.logger().info(
            "%s failed to build on %s, and nothing that it is made of has changed: not compiled again "
            "(aiterlite build --retry does)",
            unit.label,
            record.get("at", "a day that is not known"),
        )
        raise error


def keep(store: Store, key: str, staging: Path, error: BuildError, lasting: dict[str, str] | None) -> BuildError:
    """Keep a failed build, and its error for those who wait; with `lasting`, the `state` it came of, for those who come
    later too. Gives the error with the paths of what was kept."""
    arguments: Sequence[str] = (error.unit, error.diagnostic, error.hint)
    try:
        kept = store.keep_failure(staging)
        arguments = [text.replace(str(staging), str(kept)) for text in error.arguments]
        # A waiter knows a failure as new because its record is another one; no clock could tell.
        record: dict[str, Any] = {"id": staging.name, "type": type(error).__name__, "arguments": arguments}
        record |= {"state": lasting, "at": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())}
        path = _file(store.writable.root, key)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(record))
        os.replace(temporary, path)
    except OSError as problem:
        # Without a record each waiter compiles for itself, and fails by itself.
        progress.logger().warning("cannot keep the failed build of %s: %s", error.unit, problem)
    return type(error)(*arguments)


def last(root: Path, key: str) -> bytes:
    """The record of a unit's last failed build, to be compared with a later one; empty where there is none."""
    try:
        return _file(root, key).read_bytes()
    except OSError:
        return b""


def raise_new(root: Path, key: str, before: bytes) -> None:
    """Raise the error of a build that failed since `before` was the last record."""
    text = last(root, key)
    error = _error(_read(text)) if text != before else None
    if error is not None:
        raise error


def _read(text: bytes) -> dict[str, Any]:
    """Empty where it is no record."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _error(record: dict[str, Any]) -> BuildError | None:
    try:
        return _KINDS[record["type"]](*record["arguments"])
    except (KeyError, TypeError):
        return None
