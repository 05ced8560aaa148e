"""Finding compilers, and knowing their versions without starting them twice."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from aiterlite import envs
from aiterlite.errors import ToolchainNotFoundError
from aiterlite.jit import rocm
from aiterlite.jit.key import digest_json
from aiterlite.jit.spec import AMD, CUDA, HOST

_HOW_TO_GET = {
    HOST: "install a C++ compiler (Debian, Ubuntu: `apt-get install g++`) or name one with AITERLITE_CXX",
    AMD: "`pip install aiterlite[amdgpu]` (the ziglang package), or install ROCm, or name a clang with the AMDGPU "
    "back end with AITERLITE_AMDGPU_CLANG",
    CUDA: "install the CUDA toolkit and set CUDA_HOME, or name nvcc with AITERLITE_NVCC",
}
_NAMED_BY = {HOST: envs.CXX, AMD: envs.AMDGPU_CLANG, CUDA: envs.NVCC}
_MEMO = "toolchains.json"


@dataclass(frozen=True)
class Location:
    """Where a compiler was found: the command's words, its linker, and the package or root it belongs to."""

    kind: str
    cc: tuple[str, ...]
    lld: tuple[str, ...] = ()
    builtin: str = ""
    ccbin: str = ""

    @property
    def executable(self) -> str:
        return self.cc[0]


@dataclass(frozen=True)
class Toolchain:
    """A compiler that answered: where it is, what it calls itself, and the digest that stands for its version.

    `targets` are the AMD targets that an AMDGPU clang names as its own; empty where none are named.
    """

    location: Location
    title: str
    builtin: str
    fingerprint: str
    targets: tuple[str, ...] = ()

    def serves(self, target: str) -> bool:
        """Whether it compiles for a target; True also where only a compile would tell."""
        return not (target and self.targets) or target in self.targets


def find(kind: str) -> Location | None:
    """Where the compiler of a kind is, without starting anything. None where there is none."""
    return {HOST: _find_host, AMD: _find_amd, CUDA: _find_cuda}[kind]()


def require(kind: str) -> Location:
    location = find(kind)
    if location is None and kind == CUDA and _find_nvcc():
        raise ToolchainNotFoundError(f"no host C++ compiler, which nvcc needs: {_HOW_TO_GET[HOST]}")
    if location is None:
        named = _NAMED_BY[kind]
        # A program that is there is refused only as an AMDGPU clang without its linker.
        lacks = "has no ld.lld beside it or on PATH" if shutil.which(named.get()) else "is no executable"
        asked = f" ({named.name}={named.get()!r} {lacks})" if named.get() else ""
        raise ToolchainNotFoundError(f"no compiler for {kind} units{asked}: {_HOW_TO_GET[kind]}")
    return location


def find_ninja() -> str | None:
    """The ninja that builds host units: the Python package's, else the one in PATH.

    The package may be importable without its program (a path file that names another environment's packages).
    """
    if importlib.util.find_spec("ninja") is not None:
        import ninja

        program = shutil.which("ninja", path=ninja.BIN_DIR) if ninja.BIN_DIR else None
        if program is not None:
            return program
    return shutil.which("ninja")


def how_to_get(kind: str) -> str:
    return _HOW_TO_GET[kind]


def _find_host() -> Location | None:
    named = envs.CXX.get()
    for name in (named,) if named else ("c++", "g++", "clang++"):
        path = shutil.which(name)
        if path:
            return Location(HOST, (path,))
    return None


def _find_cuda() -> Location | None:
    path, host = _find_nvcc(), _find_host()
    return Location(CUDA, (path,), ccbin=host.executable) if path and host else None


def _find_nvcc() -> str | None:
    named = envs.NVCC.get()
    candidates = [named] if named else []
    if not named:
        homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"))
        candidates = [os.path.join(home, "bin", "nvcc") for home in homes if home]
        candidates += ["nvcc", "/usr/local/cuda/bin/nvcc"]
    return next((path for path in map(shutil.which, candidates) if path), None)


def _find_amd() -> Location | None:
    return next(iter(_amd_locations()), None)


def _amd_locations() -> list[Location]:
    """All that can compile and link, the one to ask first in front; where one is named, that one alone."""
    named = envs.AMDGPU_CLANG.get()
    paths = [shutil.which(named)] if named else rocm.clangs()
    return [location for path in paths if path and (location := _amd_location(path))]


def _amd_location(path: str) -> Location | None:
    if os.path.basename(path).startswith("zig"):
        include = os.path.join(os.path.dirname(os.path.realpath(path)), "lib", "include")
        return Location(AMD, (path, "clang"), (path, "ld.lld"), include)
    beside = os.path.join(os.path.dirname(os.path.realpath(path)), "ld.lld")
    linker = beside if os.access(beside, os.X_OK) else shutil.which("ld.lld")
    return Location(AMD, (path,), (linker,)) if linker else None


def identity(location: Location) -> str:
    """What changes when a compiler is exchanged: its real path, inode, size and modification time, and its host's."""
    parts = []
    for path in (location.executable, location.ccbin):
        if path:
            real = os.path.realpath(path)
            status = os.stat(real)
            parts.append(f"{real}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}")
    return "|".join(parts)


def known(kind: str, memo_directory: Path, target: str = "") -> Toolchain | None:
    """The local toolchain of a kind, and for a target where one is given, if its version is on record; nothing is
    started."""
    memo = _read_memo(memo_directory)
    for location in _locations(kind):
        entry = memo.get(identity(location))
        if entry is None:
            return None
        found = _from_entry(location, entry)
        if found.serves(target):
            return found
    return None


def probe(kind: str, memo_directory: Path, target: str = "") -> Toolchain:
    """The local toolchain of a kind, and for a target where one is given: the first that knows it. A compiler whose
    version is not on record is asked.

    Raises `ToolchainNotFoundError` where there is none, none answers, or none knows the target.
    """
    require(kind)
    failures = []
    for location in _locations(kind):
        try:
            found = _from_entry(location, _entry(location, memo_directory))
        except ToolchainNotFoundError as error:
            failures.append(str(error))
            continue
        if found.serves(target):
            return found
        failures.append(f"{found.title} ({' '.join(location.cc)}) does not know it")
    if not target:
        raise ToolchainNotFoundError("; ".join(failures))
    raise ToolchainNotFoundError(f"no compiler for {target}: {'; '.join(failures)}. {_how_to_get_newer(kind)}")


def _locations(kind: str) -> list[Location]:
    if kind == AMD:
        return _amd_locations()
    location = find(kind)
    return [location] if location else []


def _how_to_get_newer(kind: str) -> str:
    named = _NAMED_BY[kind]
    if named.get():
        return f"Unset {named.name}={named.get()!r}, so that others are asked, or name another"
    return f"Get one that does: {_HOW_TO_GET[kind]}"


def _entry(location: Location, memo_directory: Path) -> dict[str, str]:
    key = identity(location)
    memo = _read_memo(memo_directory)
    if key not in memo:
        memo[key] = _ask(location, memo_directory)
        _write_memo(memo_directory, memo)
    return memo[key]


def _from_entry(location: Location, entry: dict[str, str]) -> Toolchain:
    targets = tuple(entry["targets"].split())
    return Toolchain(location, entry["title"], entry["builtin"], entry["fingerprint"], targets)


def _ask(location: Location, scratch: Path) -> dict[str, str]:
    version = _version_lines((*location.cc, "--version"), scratch)
    if not version:
        raise ToolchainNotFoundError(f"{' '.join(location.cc)} --version gave no answer: {how_to_get(location.kind)}")
    facts = {"kind": location.kind, "version": version}
    builtin = location.builtin
    if location.kind == AMD and not builtin:
        resource = _version_lines((*location.cc, "-print-resource-dir"), scratch)
        builtin = os.path.join(resource[0], "include") if resource else ""
    if location.kind == HOST:
        facts["machine"] = _version_lines((*location.cc, "-dumpmachine"), scratch)
        facts["libc"] = _libc_version()
    if location.kind == CUDA:
        facts["host"] = _version_lines((location.ccbin, "--version"), scratch)
    title = next((line for line in version if re.search(r"\d+\.\d+", line)), version[0])
    targets = " ".join(_amd_targets(location, scratch)) if location.kind == AMD else ""
    return {"title": title, "builtin": builtin, "fingerprint": digest_json(facts)[:24], "targets": targets}


def _amd_targets(location: Location, scratch: Path) -> list[str]:
    # Without -nogpulib, a clang that finds no ROCm beside it answers with that alone.
    words = (*location.cc, "--target=amdgcn-amd-amdhsa", "-nogpulib", "--print-supported-cpus")
    return [line for line in _version_lines(words, scratch) if re.fullmatch(r"gfx[0-9a-z-]+", line)]


def _libc_version() -> list[str]:
    """Stands for the C library's headers, which are not hashed."""
    try:
        return [os.confstr("CS_GNU_LIBC_VERSION") or ""]
    except (ValueError, OSError):
        return []


def _version_lines(words: tuple[str, ...], scratch: Path) -> list[str]:
    from aiterlite.jit import process

    try:
        finished = process.run(words, scratch, process.clean_environment(scratch), 60)
    except OSError:
        return []
    if finished.status != 0:
        return []
    lines = [line.strip() for line in finished.output.splitlines() if line.strip()]
    # The installation's place is no part of a version.
    return [line for line in lines if not line.startswith("InstalledDir:")]


def _read_memo(directory: Path) -> dict[str, dict[str, str]]:
    try:
        data = json.loads((directory / _MEMO).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    fields = {"title", "builtin", "fingerprint", "targets"}
    if not isinstance(data, dict):
        return {}
    return {
        key: entry
        for key, entry in data.items()
        if isinstance(entry, dict) and set(entry) == fields and all(isinstance(text, str) for text in entry.values())
    }


def _write_memo(directory: Path, memo: dict[str, dict[str, str]]) -> None:
    temporary = directory / f"{_MEMO}.{os.getpid()}"
    try:
        temporary.write_text(json.dumps(memo, indent=1))
        os.replace(temporary, directory / _MEMO)
    except OSError:
        # The memo only saves a `--version` call; a cache that cannot hold it still works.
        temporary.unlink(missing_ok=True)
