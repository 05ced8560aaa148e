"""What several test files share: the toy units, child processes, and compilers that misbehave."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import aiterlite
from aiterlite import envs
from aiterlite.jit import engine, key, toolchain
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.spec import Unit
from aiterlite.jit.store import Entry, Store
from aiterlite.jit.toolchain import Location, find

PACKAGE_PARENT = Path(aiterlite.__file__).resolve().parent.parent
TOY_TREE = Path(__file__).with_name("toy_tree")
SCALE_HEADER = "csrc/include/aiterlite/deep/scale.h"
PLAIN_HEADER = "csrc/include/aiterlite/plain.h"
HOST_TARGET = "cpu-x86-64" if os.uname().machine == "x86_64" else "cpu-aarch64"
AMD_TARGET = "gfx942"
ROCM_6 = "AMD clang version 18.0.0git"
# One target of each kind of compiler, for tests that all three must pass.
DEVICE_TARGETS = [
    pytest.param(AMD_TARGET, id="amd"),
    pytest.param("sm_90a", id="cuda", marks=pytest.mark.nvcc),
]
TARGETS = [*DEVICE_TARGETS, pytest.param(HOST_TARGET, id="host", marks=pytest.mark.torch)]


def toy_unit(target: str, **defines: str) -> Unit:
    """A unit that reads a header which another header includes; it exports `toy_scale` or `toy`."""
    pairs = tuple(defines.items())
    if target.startswith("cpu"):
        return Unit("toy", ("csrc/toy/toy.cpp",), target, pairs, symbols=("toy_scale",))
    return Unit("toy/toy", ("csrc/toy/toy.hip",), target, pairs, symbols=("toy",))


def plain_unit(target: str) -> Unit:
    """A unit that does not read that header."""
    if target.startswith("cpu"):
        return Unit("plain", ("csrc/toy/plain.cpp",), target, symbols=("plain_value",))
    return Unit("toy/plain", ("csrc/toy/plain.hip",), target, symbols=("plain",))


def assembly_unit() -> Unit:
    return Unit("toy/toy_gfx942", ("asm/toy/toy_gfx942.S",), "gfx942", symbols=("toy",))


def edit(tree: SourceTree, relative: str, old: str, new: str) -> None:
    path = tree.root / relative
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def append(tree: SourceTree, relative: str, text: str) -> None:
    path = tree.root / relative
    path.write_text(path.read_text() + text)


# Child processes ------------------------------------------------------------------------------------------------------

# Prints one JSON line: what the process started, imported and returned. `result` is set by the test's code.
_CHILD_PROLOGUE = """
import json, os, sys, time
started = []
def _audit(event, arguments):
    if event in ("subprocess.Popen", "os.system", "os.posix_spawn", "os.fork", "os.exec", "os.forkpty", "os.spawn"):
        started.append([event, repr(arguments[1] if event == "subprocess.Popen" else arguments)])
sys.addaudithook(_audit)
before = set(sys.modules)
environ = dict(os.environ)
result = None
"""
_CHILD_EPILOGUE = """
print(json.dumps({
    "result": result, "started": started, "imported": sorted(set(sys.modules) - before),
    "environ_changed": environ != dict(os.environ),
}))
"""


def environment(**changes: str | None) -> dict[str, str]:
    """This process's environment for a child that must import the same package; None removes a variable."""
    merged: dict[str, str | None] = {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT), "AITERLITE_LOG": "warning"}
    inherited = os.environ.get("PYTHONPATH")
    if inherited:
        merged["PYTHONPATH"] = f"{PACKAGE_PARENT}{os.pathsep}{inherited}"
    merged.update(changes)
    return {name: value for name, value in merged.items() if value is not None}


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(code: str, *arguments: str, **changes: str | None) -> subprocess.Popen[str]:
    """A Python child that runs `code`, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD_PROLOGUE + code + _CHILD_EPILOGUE, *arguments],
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job ignores interrupts, what nohup starts ignores hang-ups, and so would their children.
        preexec_fn=_heed_interrupts,
    )


def finish(process: subprocess.Popen[str], timeout: float = 120) -> dict[str, Any]:
    """The report of a child; fails with its output where it did not end well."""
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, f"child ended with {process.returncode}:\n{output}\n{errors}"
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    report["stderr"] = errors
    return report


def child(code: str, *arguments: str, **changes: str | None) -> dict[str, Any]:
    return finish(start(code, *arguments, **changes))


def is_running(pid: int) -> bool:
    """Whether a process lives. One that ended and that nobody has waited for yet is still listed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


# Obtains the unit given as JSON from the tree given as path; `result` tells what came of it.
OBTAIN = """
from pathlib import Path
from aiterlite.jit import engine
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.spec import Unit
unit, tree = Unit.from_json(json.loads(sys.argv[1])), SourceTree(Path(sys.argv[2]))
artifact = engine.obtain(unit, tree=tree)
digest = artifact.entry.meta["artifact"]["sha256"]
result = {"built": artifact.built, "sha256": digest, "path": str(artifact.entry.path)}
"""


def obtain_arguments(unit: Unit, tree: SourceTree) -> tuple[str, str]:
    return json.dumps(unit.to_json()), str(tree.root)


# Compilers that misbehave ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wrapper:
    """A script in front of a compiler, and the log in which it leaves a line for each compile."""

    path: Path
    log: Path

    def compiles(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0


def _is_zig(location: Location) -> bool:
    return location.cc[1:] == ("clang",)


def wrap_compiler(
    kind: str, folder: Path, before: str = ":", after: str = ":", arguments: str = '"$@"', version: str = ""
) -> Wrapper:
    """A shell script that stands for the compiler of a kind.

    `before` and `after` run around each compile, `arguments` are what is passed on, and `version` answers --version.
    """
    # The script is called as ziglang's program is, also on a machine whose own ROCm goes before it.
    real = next(filter(_is_zig, toolchain._amd_locations())) if kind == "amd" else find(kind)
    assert isinstance(real, Location)
    folder.mkdir(parents=True)
    log = folder / "compiles.log"
    executable = os.path.realpath(real.executable) if kind == "amd" else real.executable
    name = {"amd": "zig", "cuda": "nvcc", "host": "c++"}[kind]
    if kind == "amd":
        (folder / "lib").symlink_to(Path(executable).parent / "lib")
    answer = f"echo '{version}'; exit 0" if version else f'exec "{executable}" "$@"'
    # A compile names an output that is no linked library; linking and questions pass through.
    path = folder / name
    path.write_text(
        f"""#!/bin/sh
case "$*" in
*--version*) {answer} ;;
*-dumpmachine*|*-dumpfullversion*|*-print*|*ld.lld*) exec "{executable}" "$@" ;;
*.hip*|*.S*|*" -c "*) ;;
*) exec "{executable}" "$@" ;;
esac
echo compile >> "{log}"
{before}
"{executable}" {arguments}
status=$?
{after}
exit $status
"""
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Wrapper(path, log)


def use_compiler(monkeypatch: pytest.MonkeyPatch, kind: str, path: Path) -> None:
    """Name the compiler of a kind in the environment."""
    variable = {"amd": "AITERLITE_AMDGPU_CLANG", "cuda": "AITERLITE_NVCC", "host": "AITERLITE_CXX"}[kind]
    monkeypatch.setenv(variable, str(path))
    envs.reload()


def clang_that_answers(
    folder: Path, *targets: str, version: str = ROCM_6, lld: bool = True, log: str = "/dev/null"
) -> Path:
    """A clang that answers questions and compiles nothing."""
    folder.mkdir(parents=True)
    known = "".join(f"\t{target}\n" for target in targets)
    (folder / "clang").write_text(f"""#!/bin/sh
echo "$*" >> "{log}"
case "$*" in
*--version*) echo "{version}"; echo "Target: x86_64"; echo "InstalledDir: {folder}" ;;
*--print-supported-cpus*) printf 'Available CPUs:\\n{known}\\nUse -mcpu\\n' ;;
*-print-resource-dir*) echo "{folder}/resources" ;;
*) echo "fatal error: cannot compile" >&2; exit 1 ;;
esac
""")
    names = ["clang", *(["ld.lld"] if lld else [])]
    if lld:
        (folder / "ld.lld").write_text("#!/bin/sh\nexit 1\n")
    for name in names:
        (folder / name).chmod(0o755)
    return folder / "clang"


# Without the flags by which a compiler is told to list what it read; it succeeds all the same.
NO_DEPENDENCY_FLAGS = (
    """$(for word in "$@"; do case "$word" in -MMD|-MD|-MF|*.d) ;; *) printf '%s ' "$word" ;; esac; done)"""
)


# ELF ------------------------------------------------------------------------------------------------------------------


def needed_libraries(image: bytes) -> list[str]:
    """The DT_NEEDED entries of a little-endian ELF64 shared library."""
    assert image[:6] == b"\x7fELF\x02\x01"
    offset, size, count = struct.unpack_from("<Q", image, 32)[0], *struct.unpack_from("<HH", image, 54)
    segments = [struct.unpack_from("<IIQQQQ", image, offset + index * size) for index in range(count)]

    def file_offset(address: int) -> int:
        for kind, _, start, virtual, _, length in segments:
            if kind == 1 and virtual <= address < virtual + length:
                return int(start + address - virtual)
        raise AssertionError(f"no segment holds address {address:#x}")

    dynamic = next(segment for segment in segments if segment[0] == 2)
    entries = list(struct.iter_unpack("<qQ", image[dynamic[2] : dynamic[2] + dynamic[5]]))
    names = file_offset(next(value for tag, value in entries if tag == 5))
    needed = (names + value for tag, value in entries if tag == 1)
    return [image[start : image.index(b"\0", start)].decode() for start in needed]


# Artifacts that no compiler made --------------------------------------------------------------------------------------


def fake_meta(unit: Unit, tree: SourceTree, data: bytes, headers: dict[str, str], toolchain: str) -> dict[str, Any]:
    want = engine.wanted(unit, tree)
    return {
        "schema": key.SCHEMA,
        "unit": unit.to_json(),
        "key": want.key,
        "key_parts": want.parts,
        "artifact": {"name": unit.artifact_name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        "headers": headers,
        "system_headers": 0,
        "toolchain": {"title": f"compiler {toolchain}", "fingerprint": toolchain},
        "resources": {},
        "build_seconds": 1.0,
        "built_at": "2026-01-01T00:00:00Z",
    }


def publish_fake(
    store: Store,
    unit: Unit,
    tree: SourceTree,
    data: bytes = b"bytes",
    headers: tuple[str, ...] = (SCALE_HEADER,),
    toolchain: str = "one",
) -> Entry:
    """Publish bytes as if `toolchain` had compiled them from a unit that read `headers`."""
    digests = tree.digests(headers)
    meta = fake_meta(unit, tree, data, digests, toolchain)
    staged = store.staging(unit.name)
    (staged / unit.artifact_name).write_bytes(data)
    return store.publish(staged, meta, meta["key"], key.leaf_id(meta["key"], digests, toolchain))
