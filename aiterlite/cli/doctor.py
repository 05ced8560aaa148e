"""doctor: what this machine has, what it lacks, and how to get that."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from aiterlite import envs, target
from aiterlite.cli import output, probe
from aiterlite.cli.command import Commands, Report, command
from aiterlite.errors import JitError, ToolchainNotFoundError
from aiterlite.jit import jobs, locks, toolchain
from aiterlite.jit.spec import AMD, CODE_OBJECT_VERSION, CUDA, HOST
from aiterlite.jit.store import Store, open_store
from aiterlite.launch import hints

_COMPILERS = {HOST: "host C++ compiler", AMD: "AMDGPU clang", CUDA: "nvcc"}
_LOW_DISK_BYTES = 2**30
_MOUNT_ADVICE = "point AITERLITE_CACHE_DIR at a file system that is mounted with exec"


@dataclass(frozen=True)
class Check:
    """One finding. `required`: operators do not run on the CPU without it. `advice`: how to get what is missing."""

    name: str
    ok: bool
    required: bool
    detail: str
    advice: str = ""


def add(commands: Commands) -> None:
    command(commands, "doctor", "find compilers, GPUs and limits, and say how to get what is missing", _run)


def _run(args: argparse.Namespace) -> Report:
    checks = gather()
    failed = any(check.required and not check.ok for check in checks)
    data = {"ok": not failed, "checks": [asdict(check) for check in checks]}
    return Report(data, render(data), failed)


def gather() -> list[Check]:
    store = open_store()
    with tempfile.TemporaryDirectory() as scratch:
        compilers = [_compiler(kind, Path(scratch)) for kind in _COMPILERS]
    found = probe.ask()
    return [
        Check("python", True, True, f"{sys.version.split()[0]} ({sys.executable})"),
        _torch(found),
        _ninja(),
        *compilers,
        *_drivers(found),
        _devices(found),
        *_cache(store),
        Check("CPU target", True, True, target.host_persona().target),
        _limits(),
    ]


def _torch(found: Mapping[str, Any]) -> Check:
    if "torch" in found:
        return Check("torch", True, True, str(found["torch"]))
    return Check("torch", False, True, str(found["torch_error"]), "`pip install torch` (2.10 or newer)")


def _ninja() -> Check:
    path = toolchain.find_ninja()
    return Check("ninja", path is not None, True, path or "not found", "" if path else "`pip install ninja`")


def _compiler(kind: str, scratch: Path) -> Check:
    name, required = _COMPILERS[kind], kind == HOST
    try:
        answered = toolchain.probe(kind, scratch)
    except ToolchainNotFoundError as error:
        return Check(name, False, required, output.first_line(error).split(": ")[0], toolchain.how_to_get(kind))
    if kind == AMD:
        return _amdgpu_clang(name, scratch)
    return Check(name, True, required, _compiler_text(answered))


def _amdgpu_clang(name: str, scratch: Path) -> Check:
    """Which clang serves which of our targets: one that does not know a target leaves it to the next."""
    served: dict[str, list[str]] = {}
    missing = []
    for wanted in sorted(
        {persona.target for persona in map(target.resolve, target.names()) if persona.family == "amd"}
    ):
        try:
            text = _compiler_text(toolchain.probe(AMD, scratch, wanted))
            served.setdefault(text, []).append(wanted)
        except ToolchainNotFoundError:
            missing.append(wanted)
    lines = [f"{text} for {', '.join(targets)}" for text, targets in served.items()]
    lines += [f"none for {', '.join(missing)}"] if missing else []
    advice = f"a newer one for {', '.join(missing)}: {toolchain.how_to_get(AMD)}" if missing else ""
    detail = f"{'; '.join(lines)}; code object version {CODE_OBJECT_VERSION}"
    return Check(name, bool(served), False, detail, advice)


def _compiler_text(answered: toolchain.Toolchain) -> str:
    return f"{answered.title} ({' '.join(answered.location.cc)})"


def _drivers(found: Mapping[str, Any]) -> list[Check]:
    """GPU drivers are never required: where there is none, everything runs on the CPU and builds for any target."""
    advice = {
        "cuda": "only needed to run on NVIDIA GPUs: install the NVIDIA driver",
        "amd": "only needed to run on AMD GPUs: install ROCm",
    }
    checks = []
    for family, name in found.get("drivers", {}).items():
        check = Check(f"{family} driver", bool(name), False, name or "not found", "" if name else advice[family])
        version = found.get("hip_version", 0) if family == "amd" and name else 0
        checks.append(_hip_driver(check, version) if version else check)
    return checks


def _hip_driver(check: Check, version: int) -> Check:
    """A HIP runtime with what it reads. It is a failure where it does not read all that is built here."""
    reads = hints.newest_code_object(version)
    detail = f"{check.detail}, HIP {hints.hip_version(version)}, reads code objects up to version {reads}"
    fits = reads >= CODE_OBJECT_VERSION
    advice = "" if fits else f"kernels are built as version {CODE_OBJECT_VERSION}: use ROCm 6.0 or newer"
    return replace(check, ok=fits, detail=detail, advice=advice)


def _devices(found: Mapping[str, Any]) -> Check:
    devices = found.get("devices", [])
    return Check("GPUs", bool(devices), False, "; ".join(devices) or "torch shows none")


def _cache(store: Store) -> list[Check]:
    root = store.writable.root
    try:
        store.prepare()
    except JitError as error:
        return [Check("cache", False, True, str(error), "point AITERLITE_CACHE_DIR at a directory of your own")]
    kind = "trusted by name" if store.writable.trusted else "private to this user"
    lockable = locks.supported(root / "locks")
    noexec = store.writable.noexec
    loading = noexec or "libraries can be loaded from it"
    locking = "supported" if lockable else "not supported: processes may compile the same unit twice"
    free = shutil.disk_usage(root).free
    checks = [
        Check("cache", True, True, f"{root} (writable, {kind})"),
        Check("cache mount", not noexec, True, loading, _MOUNT_ADVICE if noexec else ""),
        Check("cache locks", lockable, False, locking, "" if lockable else "use a cache directory on a local disk"),
        Check("disk space", free >= _LOW_DISK_BYTES, False, f"{output.size(free)} free", _disk_advice(free)),
    ]
    for layer in store.layers[:-1]:
        readable = os.access(layer.root, os.R_OK | os.X_OK)
        detail = f"{layer.root} ({'trusted' if layer.trusted else 'must be your own'})"
        advice = "" if readable else "the directory is missing or not readable: correct AITERLITE_CACHE_LAYERS"
        checks.append(Check("cache layer", readable, False, detail, advice))
    return checks


def _disk_advice(free: int) -> str:
    return "" if free >= _LOW_DISK_BYTES else "`aiterlite gc --max-bytes N`, or another AITERLITE_CACHE_DIR"


def _limits() -> Check:
    limits = jobs.limits()
    quota = "no CPU quota" if limits.cpu_quota is None else f"a CPU quota of {limits.cpu_quota:g}"
    memory = "unknown memory" if limits.memory is None else f"{output.size(limits.memory)} of memory"
    source = "AITERLITE_MAX_JOBS" if envs.MAX_JOBS.get() else "from these limits"
    usable = output.plural(limits.affinity, "usable CPU")
    return Check("build jobs", True, False, f"{jobs.count()} ({source}): {usable}, {quota}, {memory}")


def render(data: Mapping[str, Any]) -> str:
    lines = []
    for check in data["checks"]:
        mark = "ok" if check["ok"] else "MISSING" if check["required"] else "-"
        lines.append(f"{mark:<8}{check['name']:<19}{check['detail']}")
        if check["advice"]:
            lines.append(f"{'':<27}{check['advice']}")
    lines.append("operators can run on this CPU" if data["ok"] else "operators cannot run here: see MISSING above")
    return "\n".join(lines)
