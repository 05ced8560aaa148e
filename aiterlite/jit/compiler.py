"""One unit, one staging directory, one artifact."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiterlite import envs
from aiterlite.amdgpu import metadata
from aiterlite.errors import BuildError, BuildTimeoutError, CacheDirectoryError, SourceError, ToolchainNotFoundError
from aiterlite.jit import arguments, depfile, diagnose, jobs, process, progress, ptxas, spec
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.spec import CUDA, HOST, Unit
from aiterlite.jit.toolchain import Toolchain, find_ninja

_FULL_DISK_BYTES = 2**16
_HOST_BUILD = Path(__file__).with_name("host_build.py")
# Beside the artifact in the staging directory, by a relative name, so that no path enters the object.
_GENERATED = "generated"
# As host_build.py names a compiled prelude and its include list.
_PRELUDE, _PRELUDE_DEPENDENCIES = "prelude.h.gch", "prelude.d"
# (steps done, all steps) of a compile that is under way.
Steps = Callable[[], tuple[int, int]]


@dataclass(frozen=True)
class Compiled:
    """What one successful compile made."""

    artifact: Path
    headers: dict[str, str]
    system_headers: int
    resources: dict[str, dict[str, int]]
    commands: tuple[str, ...]
    seconds: float


class _CommandError(Exception):
    """A command of a compile failed; carries what a `BuildError` is made of."""

    def __init__(self, output: str, status: int | None, command: str) -> None:
        self.output, self.status, self.command = output, status, command
        super().__init__(command)


def compile_unit(
    unit: Unit,
    toolchain: Toolchain,
    tree: SourceTree,
    keyed: Mapping[str, str],
    staging: Path,
    tell: Callable[[Steps], None] = lambda steps: None,
) -> Compiled:
    """Compile into `staging`. `keyed` are the digests of the unit's sources that its key was made of; `tell` is given
    what counts the steps of a compile of several, before it starts.

    Raises `BuildError` (whose `log` lies in `staging`) or `SourceError`.
    """
    before = {**tree.snapshot(), **keyed}
    tree.check(unit.sources)
    scratch = staging / "scratch"
    scratch.mkdir()
    started = time.monotonic()
    log: list[str] = []
    try:
        if unit.kind == HOST:
            tell(lambda: host_steps(unit, staging))
            commands, read = _compile_host(unit, toolchain, tree, staging, log)
        else:
            commands, read = _compile_device(unit, toolchain, tree, staging, log)
    except _CommandError as failure:
        raise build_error(unit, failure, staging, log) from None
    seconds = time.monotonic() - started
    headers, system = _classify(unit, tree, staging, read)
    tree.check(headers)
    after = tree.digests({*headers, *unit.sources})
    changed = [name for name, digest in after.items() if before.get(name) != digest]
    if changed:
        raise SourceError(f"{', '.join(changed)} changed while {unit.label} was compiled; run again")
    artifact = staging / unit.artifact_name
    return Compiled(
        artifact=artifact,
        headers={name: after[name] for name in headers},
        system_headers=system,
        resources=_resources(unit, artifact, "\n".join(log)),
        commands=commands,
        seconds=seconds,
    )


def host_steps(unit: Unit, staging: Path) -> tuple[int, int]:
    """How many of the steps of a host unit's compile are done, of how many: the prelude, each source, the link."""
    done = sum(name.endswith((".o", ".gch")) for name in os.listdir(staging))
    return done, len(unit.sources) + bool(unit.prelude) + 1


def _compile_host(
    unit: Unit, toolchain: Toolchain, tree: SourceTree, staging: Path, log: list[str]
) -> tuple[tuple[str, ...], list[str]]:
    name = unit.artifact_name.removesuffix(".so")
    # ninja hands these to a shell, so each is quoted here.
    prefix = shlex.quote(f"-ffile-prefix-map={tree.root}=.")
    request = {
        "name": name,
        "sources": [str(tree.root / source) for source in unit.sources],
        "cflags": [*map(shlex.quote, spec.host_flags(unit)), prefix],
        "ldflags": list(spec.host_link_flags()),
        "include": [str(tree.include)],
        "directory": str(staging),
        "prelude": unit.prelude,
        "symbols": list(unit.symbols),
        "sys_path": [path or str(Path.cwd()) for path in sys.path],
    }
    path = staging / "request.json"
    # Where the locale is not UTF-8, names of files may hold surrogates; as bytes they are right again in the child.
    path.write_bytes(json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogateescape"))
    words = [sys.executable, str(_HOST_BUILD), str(path)]
    # ninja would start a compiler for each source, up to the machine's CPUs, whatever the memory limit.
    extra = {"CXX": toolchain.location.executable, "MAX_JOBS": str(jobs.of_one_build())}
    # torch would put a ccache or sccache of PATH in front: bytes of another cache, which no fingerprint here covers.
    extra["TORCH_NO_COMPILER_WRAPPER"] = "1"
    environment = process.clean_environment(staging / "scratch", extra)
    ninja = find_ninja()
    if ninja is not None:
        environment["PATH"] = os.path.dirname(ninja) + os.pathsep + environment["PATH"]
    repeat = shlex.join([ninja or "ninja", "-C", str(staging), "-v", "-j", extra["MAX_JOBS"]])
    _run(words, staging, environment, repeat, log)
    read = _dependencies(unit, staging / "dependencies.txt", depfile.parse_ninja)
    if (staging / _PRELUDE).exists():
        # Of what is compiled already a compiler need not tell when it compiles the sources.
        read += _dependencies(unit, staging / _PRELUDE_DEPENDENCIES, depfile.parse)
    return (repeat,), read


def _compile_device(
    unit: Unit, toolchain: Toolchain, tree: SourceTree, staging: Path, log: list[str]
) -> tuple[tuple[str, ...], list[str]]:
    location = toolchain.location
    if unit.arguments:
        _generate_arguments(unit, tree, staging)
    if unit.kind == CUDA:
        _check_nvcc_paths(unit, location.ccbin, tree, staging)
    values = {
        "cc": location.cc,
        "lld": location.lld,
        "builtin": toolchain.builtin,
        "ccbin": location.ccbin,
        "src": [str(tree.root / source) for source in unit.sources],
        "include": str(tree.include),
        "generated": _GENERATED,
        "root": str(tree.root),
        "out": unit.artifact_name,
        "target": unit.target,
        "language": "hip",
        "flags": (*spec.define_flags(unit), *unit.flags),
    }
    environment = process.clean_environment(staging / "scratch")
    commands = []
    for template in spec.device_templates(unit):
        words = spec.fill(template, values)
        repeat = f"cd {shlex.quote(str(staging))} && {shlex.join(words)}"
        _run(words, staging, environment, repeat, log)
        commands.append(repeat)
    return tuple(commands), _dependencies(unit, staging / f"{unit.artifact_name}.d", depfile.parse)


def _generate_arguments(unit: Unit, tree: SourceTree, staging: Path) -> None:
    """Write the file that tells an assembly unit of its argument struct; the layout is in the unit's key."""
    path = staging / _GENERATED / arguments.ASSEMBLY_INCLUDE
    path.parent.mkdir(parents=True)
    path.write_text(arguments.assembly(arguments.from_spec(unit.arguments).layout(tree)))


def _check_nvcc_paths(unit: Unit, ccbin: str, tree: SourceTree, staging: Path) -> None:
    """nvcc hands its own commands to a shell, with paths as they are between double quotes: the shell runs a part of
    one such as `$(...)`. It also splits some paths at commas and quotes. Raises an error that says what has to move."""
    for path, forbidden, kind, remedy in (
        (str(staging), '"$`\n', CacheDirectoryError, "point AITERLITE_CACHE_DIR at"),
        (str(tree.root), "\"$`\n',\\", SourceError, "install the package at"),
        (ccbin, '"$`\n', ToolchainNotFoundError, "name with AITERLITE_CXX"),
    ):
        found = sorted(set(path) & set(forbidden))
        if found:
            raise kind(
                f"{unit.label} is not built: nvcc cannot take {' '.join(found)!r} in {path!r}; {remedy} another path"
            )


def _run(words: list[str], cwd: Path, environment: Mapping[str, str], repeat: str, log: list[str]) -> None:
    log.append(f"$ {shlex.join(words)}")
    try:
        finished = process.run(words, cwd, environment, envs.BUILD_TIMEOUT.get())
    except OSError as error:
        raise _CommandError(f"error: cannot start {words[0]}: {error.strerror}", 127, repeat) from error
    log.append(finished.output)
    if finished.status != 0:
        raise _CommandError(finished.output, finished.status, repeat)


def build_error(unit: Unit, failure: _CommandError, staging: Path, log: list[str]) -> BuildError:
    path = staging / "build.log"
    try:
        path.write_text("\n".join(log), encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        # A full disk may be why the compile failed: its own error is the one to show.
        progress.logger().warning("cannot keep the log of %s: %s", unit.label, error)
    if failure.status is None:
        fallback = f"no end after {envs.BUILD_TIMEOUT.get():g} s"
    else:
        fallback = f"the compiler {diagnose.ended(failure.status)}"
    diagnostic = diagnose.first_error(failure.output, fallback)
    kind = BuildTimeoutError if failure.status is None else BuildError
    full = _is_full(staging)
    hint = diagnose.hint(failure.output, failure.status, full)
    made = kind(unit.label, diagnostic, hint, str(path), failure.command)
    made.lasting = diagnose.is_lasting(failure.output, failure.status, full)
    return made


def _is_full(folder: Path) -> bool:
    """Whether a disk has next to no room; not every tool says so when that is why it fails."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    # Some file systems count no inodes at all.
    return disk.f_bavail * disk.f_frsize < _FULL_DISK_BYTES or (disk.f_files > 0 and disk.f_favail == 0)


def _dependencies(unit: Unit, path: Path, parse: Any) -> list[str]:
    """What the compiler says it read. Some compilers accept a dependency flag, exit with 0 and write nothing."""
    try:
        read: list[str] = parse(os.fsdecode(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise SourceError(f"the compiler gave no usable include list for {unit.label} ({error}); not cached") from error
    return read


def _classify(unit: Unit, tree: SourceTree, staging: Path, read: list[str]) -> tuple[list[str], int]:
    """The project headers among what was read, and how many other files there were."""
    lost = [path for path in read if not os.path.exists(staging / path)]
    if lost:
        # A name that this package unescapes wrongly: the file behind it would go untracked.
        raise SourceError(f"the include list of {unit.label} names {lost[0]!r}, which does not exist; not cached")
    names = [tree.relative(path, staging) for path in read]
    project = {name for name in names if name is not None}
    missing = [source for source in unit.sources if source not in project]
    if missing:
        raise SourceError(f"the include list of {unit.label} does not name its own source {missing[0]}; not cached")
    return sorted(project - set(unit.sources)), names.count(None)


def _resources(unit: Unit, artifact: Path, log: str) -> dict[str, dict[str, int]]:
    if unit.kind == HOST:
        return {}
    return ptxas.resources(log) if unit.kind == CUDA else metadata.resources(artifact.read_bytes())
