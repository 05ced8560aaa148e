"""The last failed build of each unit: for a person to look at, and for the processes that waited for it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from aiterlite.errors import BuildError, BuildTimeoutError
from aiterlite.jit import progress
from aiterlite.jit.store import Store

_KINDS = {kind.__name__: kind for kind in (BuildError, BuildTimeoutError)}


def _file(root: Path, key: str) -> Path:
    return root / "failed" / f"{key}.json"


def keep(store: Store, key: str, staging: Path, error: BuildError) -> BuildError:
    """Keep a failed build, and its error for those who wait. Gives the error with the paths of what was kept."""
    arguments: Sequence[str] = (error.unit, error.diagnostic, error.hint)
    try:
        kept = store.keep_failure(staging)
        arguments = [text.replace(str(staging), str(kept)) for text in error.arguments]
        # A waiter knows a failure as new because its record is another one; no clock could tell.
        record = {"id": staging.name, "type": type(error).__name__, "arguments": arguments}
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
    if text == before:
        return
    try:
        record = json.loads(text)
        error = _KINDS[record["type"]](*record["arguments"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    raise error
