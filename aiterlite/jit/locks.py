"""One builder of a unit at a time, where the file system allows it.

A lock only saves duplicate work: publishing is atomic, so everything stays right without one. Where locks are not
supported the builder goes on without.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aiterlite import envs
from aiterlite.errors import LockTimeoutError
from aiterlite.jit import process, progress

if TYPE_CHECKING:
    from filelock import BaseFileLock

_WAIT_NOTICE_SECONDS = 10.0
# How long a waiting thread may not notice that its process is stopping.
STOP_SECONDS = 0.25
_unsupported: set[str] = set()


@contextmanager
def build_lock(directory: Path, name: str, what: str) -> Iterator[bool]:
    """Hold the lock of a unit; gives whether it is really held.

    Freed by the operating system when its owner dies. Raises `LockTimeoutError`, which names the owner, after
    AITERLITE_LOCK_TIMEOUT seconds.
    """
    path = directory / f"{name}.lock"
    lock = _acquire(path, what) if supported(directory) else None
    if lock is None:
        yield False
        return
    owner = _owner_file(path)
    _write_owner(owner, what)
    try:
        yield True
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def supported(directory: Path) -> bool:
    """Whether flock works in a directory; asked once per process, since filelock may wait out its time-out instead."""
    key = str(directory)
    if key in _unsupported:
        return False
    import fcntl

    probe = directory / f".probe-{os.getpid()}-{time.monotonic_ns()}"
    try:
        descriptor = os.open(probe, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)
            os.unlink(probe)
    except OSError as error:
        _give_up(key, error)
        return False
    return True


def _give_up(key: str, error: BaseException) -> None:
    _unsupported.add(key)
    progress.logger().warning(
        "no file locks in %s (%s): building without, so processes may compile the same unit twice", key, error
    )


def _acquire(path: Path, what: str) -> BaseFileLock | None:
    import filelock

    lock = filelock.FileLock(str(path), mode=0o600)
    limit = envs.LOCK_TIMEOUT.get()
    started = noticed = time.monotonic()
    while True:
        process.check_stopped()
        waited = time.monotonic() - started
        try:
            lock.acquire(timeout=max(0.0, min(STOP_SECONDS, limit - waited)), poll_interval=0.02)
            return lock
        except filelock.Timeout:
            if time.monotonic() - started >= limit:
                raise LockTimeoutError(
                    f"waited {limit:g} s for the build of {what}, held by {describe_owner(path)}; lock file {path}. "
                    "Raise AITERLITE_LOCK_TIMEOUT, or end that process: its lock frees itself."
                ) from None
            if time.monotonic() - noticed >= _WAIT_NOTICE_SECONDS:
                noticed = time.monotonic()
                progress.logger().info("waiting for %s, built by %s", what, describe_owner(path))
        except (OSError, NotImplementedError) as error:
            _give_up(str(path.parent), error)
            return None


def _owner_file(path: Path) -> Path:
    # Beside the lock file, not in it: some versions of filelock truncate the file when they try to lock it.
    return path.with_suffix(".owner")


def _write_owner(owner: Path, what: str) -> None:
    record = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time(), "what": what}
    temporary = owner.with_suffix(f".owner-{os.getpid()}")
    try:
        temporary.write_text(json.dumps(record))
        os.replace(temporary, owner)
    except OSError as error:
        progress.logger().debug("no owner file for %s: %s", what, error)


def describe_owner(path: Path) -> str:
    """Who holds a lock, as far as its side file tells."""
    try:
        record = json.loads(_owner_file(path).read_text())
        age = time.time() - record["since"]
        return f"process {record['pid']} on {record['host']} for {age:.0f} s"
    except (OSError, ValueError, KeyError, TypeError):
        return "an unknown process"
