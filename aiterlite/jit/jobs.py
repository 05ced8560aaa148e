"""How many compilers may run at once: what the CPU and memory limits of this process allow."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiterlite import envs

# A C++ or CUDA compiler of one unit stays below this; two that do not fit get each other killed.
BYTES_PER_JOB = 2 * 2**30
# How many compilers each of the builds that run at once may start; 0 where no scope says.
_each = 0


@dataclass(frozen=True)
class Limits:
    """What this process may use: CPUs that it may be scheduled on, CPUs' worth of time, and bytes of memory.

    `cpu_quota` and `memory` are None where nothing limits them. `memory` is never more than the machine has.
    """

    affinity: int
    cpu_quota: float | None
    memory: int | None

    @property
    def jobs(self) -> int:
        most = float(self.affinity)
        if self.cpu_quota is not None:
            most = min(most, self.cpu_quota)
        if self.memory is not None:
            most = min(most, self.memory / BYTES_PER_JOB)
        return max(1, int(most))


def count() -> int:
    """AITERLITE_MAX_JOBS, else what the limits allow; at least 1."""
    asked = envs.MAX_JOBS.get()
    return max(1, int(asked)) if asked else limits().jobs


@contextmanager
def shared(compilers: int, builds: int) -> Iterator[None]:
    """A scope in which `builds` units are built at once, with `compilers` between them."""
    global _each
    before = _each
    _each = max(1, compilers // max(1, builds))
    try:
        yield
    finally:
        _each = before


def of_one_build() -> int:
    """How many compilers may compile the sources of one unit at once."""
    return _each or count()


def limits(root: Path = Path("/")) -> Limits:
    """The limits of this process. `root` is where /proc and /sys lie."""
    quotas = [quota for folder in _groups(root, "cpu") if (quota := _quota(folder)) is not None]
    memories = [size for folder in _groups(root, "memory") if (size := _memory(folder)) is not None]
    total = _machine_memory(root)
    if total is not None:
        memories.append(total)
    return Limits(
        affinity=len(os.sched_getaffinity(0)),
        cpu_quota=min(quotas, default=None),
        memory=min(memories, default=None),
    )


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The control group of this process for a controller, and those above it, in both cgroup versions.

    Inside a container the path that the kernel names may be the host's, of which only the mounted top is visible.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            tops = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            tops = [root / "sys/fs/cgroup" / controllers, root / "sys/fs/cgroup" / controller]
        else:
            continue
        for top in tops:
            folder = top / path.lstrip("/")
            while folder != top:
                yield folder
                folder = folder.parent
            yield top


def _quota(folder: Path) -> float | None:
    if words := _read(folder / "cpu.max").split():
        return int(words[0]) / int(words[1]) if words[0].isdigit() else None
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period else None


def _memory(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        size = _number(folder / name)
        if size is not None:
            return size
    return None


def _number(path: Path) -> int | None:
    """A file's number; None for a missing file, `max` and -1."""
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _machine_memory(root: Path) -> int | None:
    match = re.search(r"^MemTotal:\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return int(match.group(1)) * 1024 if match else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
