"""How many compilers run at once, under the limits of made-up control groups."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support import HOST_TARGET, use_compiler, wrap_compiler

from aiterlite import envs
from aiterlite.cli import main
from aiterlite.jit import jobs
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.spec import Unit
from aiterlite.jit.store import Store

GIB = 2**30


def machine(root: Path, files: dict[str, str]) -> jobs.Limits:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return jobs.limits(root)


V2 = {"proc/self/cgroup": "0::/a/b"}
V1 = {"proc/self/cgroup": "4:memory:/a/b\n3:cpu,cpuacct:/a\n0::/"}


@pytest.mark.parametrize(
    ("files", "cpu_quota", "memory"),
    [
        ({}, None, None),
        ({"proc/meminfo": "MemTotal:  4194304 kB"}, None, 4 * GIB),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "150000 100000"}, 1.5, None),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, None, None),
        ({**V2, "sys/fs/cgroup/a/cpu.max": "400000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 4, None),
        ({**V2, "sys/fs/cgroup/a/cpu.max": "200000 100000", "sys/fs/cgroup/a/b/cpu.max": "900000 100000"}, 2, None),
        ({**V2, "sys/fs/cgroup/cpu.max": "300000 100000"}, 3, None),
        ({**V2, "sys/fs/cgroup/unified/a/b/cpu.max": "300000 100000"}, 3, None),
        ({**V2, "sys/fs/cgroup/a/b/memory.max": str(3 * GIB)}, None, 3 * GIB),
        ({**V2, "sys/fs/cgroup/a/b/memory.max": "max"}, None, None),
        ({**V2, "sys/fs/cgroup/memory.max": str(9 * GIB), "proc/meminfo": "MemTotal: 8388608 kB"}, None, 8 * GIB),
        ({**V1, "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": str(5 * GIB)}, None, 5 * GIB),
        ({**V1, "sys/fs/cgroup/memory/memory.limit_in_bytes": str(6 * GIB)}, None, 6 * GIB),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            0.5,
            None,
        ),
        ({**V1, "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000"}, None, None),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
            None,
        ),
    ],
)
def test_limits_are_read_from_both_versions_of_control_groups(
    tmp_path: Path, files: dict[str, str], cpu_quota: float | None, memory: int | None
) -> None:
    found = machine(tmp_path, files)
    assert (found.cpu_quota, found.memory) == (cpu_quota, memory)
    assert found.affinity == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        (jobs.Limits(8, None, None), 8),
        (jobs.Limits(8, 2.9, None), 2),
        (jobs.Limits(8, 0.5, None), 1),
        (jobs.Limits(8, 16.0, 7 * GIB), 3),
        (jobs.Limits(8, None, GIB), 1),
        (jobs.Limits(2, 6.0, 64 * GIB), 2),
    ],
)
def test_the_smallest_limit_counts_and_one_job_always_runs(limits: jobs.Limits, count: int) -> None:
    assert limits.jobs == count


def test_what_the_user_says_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "limits", lambda: jobs.Limits(4, None, None))
    assert jobs.count() == 4
    for text, count in (("7", 7), ("1.5", 1), ("0.2", 1)):
        with envs.override(AITERLITE_MAX_JOBS=text):
            assert jobs.count() == count


def test_compilers_are_shared_by_the_builds_that_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "limits", lambda: jobs.Limits(6, None, None))
    assert jobs.of_one_build() == 6
    for compilers, builds, each in ((8, 2, 4), (8, 3, 2), (2, 2, 1), (1, 5, 1), (4, 0, 4)):
        with jobs.shared(compilers, builds):
            assert jobs.of_one_build() == each
    with envs.override(AITERLITE_MAX_JOBS="2"):
        assert jobs.of_one_build() == 2


# A compiler that leaves a line where it is not alone.
ALONE = """mkdir "{0}/running" 2>/dev/null || echo together >> "{0}/together"; /bin/sleep 0.4"""


@pytest.mark.compile
@pytest.mark.torch
@pytest.mark.parametrize("way", ["variable", "option", "several"])
def test_the_limit_reaches_the_sources_of_one_host_unit(
    source_tree: SourceTree, toy_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """ninja starts a compiler for each source, up to the machine's CPUs, unless it is told otherwise."""
    after = f'rmdir "{tmp_path}/running" 2>/dev/null; echo "$MAX_JOBS" >> "{tmp_path}/jobs"'
    wrapper = wrap_compiler("host", tmp_path / "wrapper", before=ALONE.format(tmp_path), after=after)
    use_compiler(monkeypatch, "host", wrapper.path)
    sources = ("csrc/toy/plain.cpp", "csrc/toy/toy.cpp")
    unit = Unit("toy", sources, HOST_TARGET, symbols=("toy_scale", "plain_value"))
    words = ["--unit", json.dumps(unit.to_json())]
    if way == "variable":
        monkeypatch.setenv("AITERLITE_MAX_JOBS", "1")
    elif way == "option":
        monkeypatch.setenv("AITERLITE_MAX_JOBS", "7")
        words += ["--jobs", "1"]
    else:
        monkeypatch.setenv("AITERLITE_MAX_JOBS", "7")
        words += ["--jobs", "6"]
    envs.reload()
    assert main(["build", *words]) == 0
    assert wrapper.compiles() == 2
    if way == "several":
        assert (tmp_path / "jobs").read_text().split() == ["6", "6"]
    else:
        assert not (tmp_path / "together").exists()


def test_this_machine_has_limits_that_make_sense() -> None:
    found = jobs.limits()
    assert 1 <= found.jobs <= found.affinity
    assert found.memory is None or found.memory > 2**26
