"""Starting compilers: without a shell, in a clean environment, with a time limit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiterlite.jit import watch

# Only these reach a compiler. CPATH, LIBRARY_PATH, CXXFLAGS, NVCC_APPEND_FLAGS, TORCH_CUDA_ARCH_LIST and their like
# change what is built without showing in any key, so only what is named here is passed.
_PASSED = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "USER", "LOGNAME", "SYSTEMROOT")


@dataclass(frozen=True)
class Finished:
    """A process that ended: its exit status (negative: a signal; None: killed at the time limit) and its output."""

    status: int | None
    output: str


def clean_environment(scratch: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a compiler whose temporary files go to `scratch`."""
    environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
    environment.setdefault("PATH", os.defpath)
    environment.update(
        LC_ALL="C", TMPDIR=str(scratch), ZIG_LOCAL_CACHE_DIR=str(scratch), ZIG_GLOBAL_CACHE_DIR=str(scratch)
    )
    environment.update(extra or {})
    return environment


class Stopped(KeyboardInterrupt):
    """This process is about to end: a compiler was killed, or none was started."""


_guard = threading.Lock()
_running: set[subprocess.Popen[str]] = set()
_stops = 0


@contextmanager
def stopping() -> Iterator[None]:
    """A scope in which all compilers of this process are killed and none is started; waits for one raise `Stopped`."""
    global _stops
    with _guard:
        _stops += 1
        for process in _running:
            _kill_session(process)
    try:
        yield
    finally:
        with _guard:
            _stops -= 1


def check_stopped() -> None:
    """Raise `Stopped` while this process is stopping, for those that wait for something else than a compiler."""
    if _stops:
        raise Stopped


def run(words: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout: float) -> Finished:
    """Run a command to its end. Past `timeout` seconds, it and all it started are killed; they also end with this
    process, however that ends."""
    # Without -I the folder of the script and PYTHONPATH could stand in for modules; it forbids PYTHONHOME too.
    isolated = () if "PYTHONHOME" in environment else ("-I",)
    watched = (sys.executable, *isolated, "-S", watch.__file__, str(os.getpid())) if sys.executable else ()
    with _guard:
        check_stopped()
        process = subprocess.Popen(
            [*watched, *words],
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
        )
        _running.add(process)
    try:
        output, _ = process.communicate(timeout=timeout)
        check_stopped()
        return Finished(process.returncode, output)
    except subprocess.TimeoutExpired:
        _kill_session(process)
        output, _ = process.communicate()
        return Finished(None, output)
    except BaseException:
        _kill_session(process)
        process.wait()
        raise
    finally:
        with _guard:
            _running.discard(process)


def _kill_session(process: subprocess.Popen[str]) -> None:
    """Kill a command and all that it started."""
    if process.returncode is None:
        watch.kill([process.pid])
        watch.kill_members(process.pid)
