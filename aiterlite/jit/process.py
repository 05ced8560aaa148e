"""Starting compilers: without a shell, in a clean environment, with a time limit."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Only these reach a compiler. CPATH, LIBRARY_PATH, CXXFLAGS, NVCC_APPEND_FLAGS, TORCH_CUDA_ARCH_LIST and their like
# change what is built without showing in any key, so nothing is passed that is not named here.
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


def run(words: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout: float) -> Finished:
    """Run a command to its end. Past `timeout` seconds, it and all it started are killed."""
    process = subprocess.Popen(
        list(words),
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        encoding="utf-8",
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=timeout)
        return Finished(process.returncode, output)
    except subprocess.TimeoutExpired:
        _kill_session(process)
        output, _ = process.communicate()
        return Finished(None, output)
    except BaseException:
        _kill_session(process)
        process.wait()
        raise


def _kill_session(process: subprocess.Popen[str]) -> None:
    """Kill a command and all that it started.

    ninja gives each compiler a process group of its own, so a signal to the command's group would not reach them; they
    stay in the session that the command leads.
    """
    # The second round is for what was started while the first looked around.
    for _ in range(2):
        for pid in _session(process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _session(leader: int) -> list[int]:
    members = [leader]
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        try:
            if name.isdigit() and int(name) != leader and os.getsid(int(name)) == leader:
                members.append(int(name))
        except ProcessLookupError:
            continue
    return members
