"""obtain(unit): the verified artifact of a unit, from a layer or from a compiler."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from aiterlite import envs
from aiterlite.errors import (
    BuildError,
    CacheDirectoryError,
    CaptureError,
    DamagedArtifactError,
    JitDisabledError,
    LockTimeoutError,
    MissingArtifactError,
    SealedError,
    SourceError,
    UntrustedArtifactError,
)
from aiterlite.jit import arguments
from aiterlite.jit import key as keys
from aiterlite.jit import toolchain as toolchains
from aiterlite.jit.sources import SourceTree, digest_bytes, package_tree
from aiterlite.jit.spec import HOST, Unit, refusal
from aiterlite.jit.store import Entry, Layer, Store, mark_used, open_store, read_verified
from aiterlite.jit.text import one_line

if TYPE_CHECKING:
    from aiterlite.jit.compiler import Compiled


@dataclass(frozen=True)
class Artifact:
    """A verified artifact: where it lies, its bytes, and whether this process built it."""

    unit: Unit
    entry: Entry
    data: bytes
    built: bool


@dataclass(frozen=True)
class Wanted:
    """A unit and what it is looked up by."""

    unit: Unit
    tree: SourceTree
    parts: dict[str, Any]
    key: str


@dataclass
class Lookup:
    """What a lookup found: the chosen artifact, or why there is none."""

    entry: Entry | None = None
    data: bytes = b""
    reasons: list[str] = field(default_factory=list)
    damaged: list[DamagedArtifactError] = field(default_factory=list)


_sealed = False
_thread_locks: dict[str, threading.Lock] = {}
_guard = threading.Lock()


def seal() -> None:
    """Make every later build in this process an error (`SealedError`). Loading from the cache stays allowed."""
    global _sealed
    _sealed = True


def unseal() -> None:
    """Undo `seal()`."""
    global _sealed
    _sealed = False


def is_sealed() -> bool:
    return _sealed


def wanted(unit: Unit, tree: SourceTree | None = None) -> Wanted:
    tree = tree or package_tree()
    layout = arguments.from_spec(unit.arguments).layout(tree).text if unit.arguments else ""
    parts = keys.key_parts(unit, tree.digests(unit.sources), layout)
    return Wanted(unit, tree, parts, keys.lookup_key(parts))


def lookup(want: Wanted, store: Store, excluded: Mapping[Path, str] = MappingProxyType({})) -> Lookup:
    """Search the layers. Starts no process, except a compiler's `--version` once under AITERLITE_TOOLCHAIN=exact.

    Raises `UntrustedArtifactError` where a layer holds an artifact that this user must not load.
    """
    result = Lookup()
    fitting: list[Entry] = []
    digests: dict[str, str | None] = {}
    for entry in store.entries(want.unit.name, want.key):
        if isinstance(entry, DamagedArtifactError):
            result.damaged.append(entry)
        elif entry.directory in excluded:
            result.reasons.append(f"{entry.label}: {excluded[entry.directory]}")
        elif want.unit.kind == HOST and (why := entry.layer.noexec):
            result.reasons.append(f"{entry.label}: {why}")
        else:
            changed = changed_headers(want.tree, entry.meta["headers"], digests)
            if changed:
                result.reasons.append(f"{entry.label}: {', '.join(changed)} changed since")
            else:
                fitting.append(entry)
    exact = envs.TOOLCHAIN.get() == "exact"
    for entry in _ranked(want.unit, store, fitting, exact, result):
        try:
            result.data = read_verified(entry)
            result.entry = entry
            return result
        except DamagedArtifactError as error:
            result.damaged.append(error)
    if not result.reasons and not result.damaged:
        result.reasons.append("no artifact under this key")
    result.reasons += [str(error) for error in result.damaged]
    return result


def changed_headers(tree: SourceTree, headers: dict[str, str], digests: dict[str, str | None]) -> list[str]:
    """The headers whose digests are not those of the tree; `digests` remembers what was read."""
    changed = []
    for name, digest in headers.items():
        if name not in digests:
            try:
                digests[name] = tree.digest(name)
            except SourceError:
                digests[name] = None
        if digests[name] != digest:
            changed.append(name)
    return changed


def _ranked(unit: Unit, store: Store, fitting: list[Entry], exact: bool, result: Lookup) -> list[Entry]:
    """The local toolchain's artifacts first; under `exact`, no others."""
    if not exact and len(fitting) < 2:
        return fitting
    directory = store.writable.root
    local = toolchains.known(unit.kind, directory, unit.target)
    if local is None and exact and fitting and toolchains.find(unit.kind):
        local = toolchains.probe(unit.kind, store.prepare(), unit.target)
    fingerprint = local.fingerprint if local else None

    def is_local(entry: Entry) -> bool:
        return bool(entry.meta["toolchain"]["fingerprint"] == fingerprint)

    if exact:
        for entry in fitting:
            if not is_local(entry):
                result.reasons.append(
                    f"{entry.label}: built by {entry.meta['toolchain']['title']}, and AITERLITE_TOOLCHAIN=exact"
                )
        return [entry for entry in fitting if is_local(entry)]
    return sorted(fitting, key=lambda entry: not is_local(entry))


def obtain(
    unit: Unit,
    *,
    tree: SourceTree | None = None,
    store: Store | None = None,
    capturing: Callable[[], bool] = lambda: False,
    excluded: Mapping[Path, str] = MappingProxyType({}),
    build: bool | None = None,
    retry: bool = False,
) -> Artifact:
    """The verified artifact of a unit; built here if no layer has it and the mode allows that.

    `capturing` tells whether a GPU graph is being captured, where a build is refused. `build` overrides the mode of
    AITERLITE_JIT: True builds what is missing, False never does. `excluded` are leaves that must not serve, each with
    the reason. `retry` compiles also what failed before and would fail the same again. Raises a `JitError`.
    """
    mode = envs.JIT.get()
    if build is None:
        if mode == "off":
            raise JitDisabledError(f"{unit.label} is needed, and AITERLITE_JIT=off forbids to build or load kernels")
        build = mode == "auto"
    store = store or open_store()
    want = wanted(unit, tree)
    found = lookup(want, store, excluded)
    if found.entry is not None:
        return _hit(unit, found)
    if not build:
        if found.damaged:
            raise found.damaged[0]
        searched = [str(layer.root) for layer in store.layers]
        raise MissingArtifactError(unit.label, searched, prebuild_command(unit), "; ".join(found.reasons))
    if _sealed:
        raise SealedError(f"{unit.label} would be built after seal(): {'; '.join(found.reasons)}")
    if capturing():
        raise CaptureError(
            f"{unit.label} would be built while a graph is captured; call the operator once before the capture, or "
            f"prebuild: {prebuild_command(unit)}"
        )
    return _build(want, store, excluded, retry)


def _hit(unit: Unit, found: Lookup) -> Artifact:
    assert found.entry is not None
    try:
        mark_used(found.entry)
    except OSError:
        # A cache directory that turned read-only still serves hits; only its age order for `gc` stays behind.
        pass
    return Artifact(unit, found.entry, found.data, built=False)


def prebuild_command(unit: Unit) -> str:
    """The command that builds exactly this unit."""
    text = json.dumps(unit.to_json(), separators=(",", ":"))
    return f"{shlex.quote(sys.executable)} -m aiterlite build --unit {shlex.quote(text)}"


def _build(want: Wanted, store: Store, excluded: Mapping[Path, str], retry: bool) -> Artifact:
    from aiterlite.jit import failures, locks, progress

    # A unit that cannot be read back would end `export`, `verify` and a recording much later, far from its author.
    if why := refusal(want.unit):
        raise SourceError(f"{want.unit.label} is not built: {why}; jit/spec.py says what a unit may hold")
    if want.unit.kind == HOST and (why := store.writable.noexec):
        raise CacheDirectoryError(f"{want.unit.label} is not built: {why}")
    root = store.prepare()
    if not retry:
        failures.raise_remembered(root, want.key, want.unit, want.tree)
    failed_before = failures.last(root, want.key)
    with _thread_turn(want), locks.build_lock(root / "locks", want.key, want.unit.label):
        found = lookup(want, store, excluded)
        if found.entry is not None:
            return _hit(want.unit, found)
        failures.raise_new(root, want.key, failed_before)
        # Not before the lock is held: what looked damaged may have been healed meanwhile.
        for damage in found.damaged:
            progress.logger().warning("%s; it is built anew", damage)
            store.discard(Path(damage.directory))
        local = toolchains.probe(want.unit.kind, root, want.unit.target)
        with progress.announce(want.unit.label, "; ".join(found.reasons), _expected(store, want.unit)) as tell:
            return _compile_and_publish(want, local, store, tell)


@contextmanager
def _thread_turn(want: Wanted) -> Iterator[None]:
    """One thread of this process at a time, for each unit: file locks are only between processes."""
    from aiterlite.jit import locks, process

    with _guard:
        turn = _thread_locks.setdefault(want.key, threading.Lock())
    limit = envs.LOCK_TIMEOUT.get()
    deadline = time.monotonic() + limit
    while not turn.acquire(timeout=min(locks.STOP_SECONDS, max(0.0, deadline - time.monotonic()))):
        process.check_stopped()
        if time.monotonic() < deadline:
            continue
        raise LockTimeoutError(
            f"waited {limit:g} s for the build of {want.unit.label} by another thread of process {os.getpid()}. Raise "
            "AITERLITE_LOCK_TIMEOUT, or lower AITERLITE_BUILD_TIMEOUT."
        )
    try:
        yield
    finally:
        turn.release()


def _compile_and_publish(
    want: Wanted, local: toolchains.Toolchain, store: Store, tell: Callable[[Callable[[], tuple[int, int]]], None]
) -> Artifact:
    from aiterlite.jit import compiler, diagnose, failures

    store.sweep()
    made_in: list[Path] = []
    before = failures.state(want.unit, want.tree, local.fingerprint)
    try:
        made_in += [store.staging(want.unit.name), store.staging(want.unit.name)]
        staging, leaf = made_in
        made = compiler.compile_unit(want.unit, local, want.tree, want.parts["sources"], staging, tell)
        data = made.artifact.read_bytes()
        os.rename(made.artifact, leaf / want.unit.artifact_name)
        meta = _describe(want, local, made, data)
        entry = store.publish(leaf, meta, want.key, keys.leaf_id(want.key, made.headers, local.fingerprint))
    except BuildError as error:
        same = before == failures.state(want.unit, want.tree, local.fingerprint)
        raise failures.keep(store, want.key, made_in[0], error, before if same and error.lasting else None) from None
    except OSError as error:
        raise BuildError(want.unit.label, str(error), diagnose.hint(str(error), 1)) from error
    finally:
        for directory in made_in:
            shutil.rmtree(directory, ignore_errors=True)
    failures.forget(store.writable.root, want.key)
    # The first publisher wins: these may be another process's bytes, so they are verified like any hit.
    return Artifact(want.unit, entry, read_verified(entry), built=True)


def _describe(want: Wanted, local: toolchains.Toolchain, made: Compiled, data: bytes) -> dict[str, Any]:
    """What `meta.json` says of an artifact."""
    return {
        "schema": keys.SCHEMA,
        "unit": want.unit.to_json(),
        "key": want.key,
        "key_parts": want.parts,
        "artifact": {"name": want.unit.artifact_name, "size": len(data), "sha256": digest_bytes(data)},
        "headers": made.headers,
        "system_headers": made.system_headers,
        "toolchain": {"title": one_line(local.title), "fingerprint": local.fingerprint},
        "resources": made.resources,
        "build_seconds": round(made.seconds, 3),
        "built_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _expected(store: Store, unit: Unit) -> float | None:
    seconds = [entry.meta.get("build_seconds") for entry in Store((store.writable,)).siblings(unit.name)]
    numbers = [float(value) for value in seconds if isinstance(value, (int, float))]
    return max(numbers, default=None)


def why_rebuild(unit: Unit, store: Store | None = None, tree: SourceTree | None = None) -> dict[str, Any]:
    """Whether a call would compile this unit, and the difference against the nearest artifact."""
    store = store or open_store()
    want = wanted(unit, tree)
    try:
        found = lookup(want, store)
    except UntrustedArtifactError as error:
        return {"unit": unit.label, "key": want.key, "hit": False, "reasons": [str(error)], "difference": []}
    report: dict[str, Any] = {
        "unit": unit.label,
        "key": want.key,
        "hit": found.entry is not None,
        "artifact": str(found.entry.path) if found.entry else None,
        "toolchain": found.entry.meta["toolchain"]["title"] if found.entry else None,
        "reasons": found.reasons if found.entry is None else [],
        "difference": [],
        "nearest": None,
    }
    if found.entry is None:
        nearest = _nearest(want, store)
        if nearest is not None:
            report["nearest"] = nearest.label
            report["difference"] = keys.difference(want.parts, nearest.meta["key_parts"])
            report["difference"] += _header_difference(want.tree, nearest)
    return report


def _nearest(want: Wanted, store: Store) -> Entry | None:
    def distance(entry: Entry) -> int:
        parts = keys.difference(want.parts, entry.meta.get("key_parts"))
        return len(parts) + len(_header_difference(want.tree, entry))

    return min(store.siblings(want.unit.name), key=distance, default=None)


def _header_difference(tree: SourceTree, entry: Entry) -> list[str]:
    changed = changed_headers(tree, entry.meta["headers"], {})
    return [f"header {name}: changed since {entry.meta.get('built_at')}" for name in changed]


__all__ = [
    "Artifact",
    "Layer",
    "Lookup",
    "changed_headers",
    "is_sealed",
    "lookup",
    "obtain",
    "prebuild_command",
    "seal",
    "unseal",
    "wanted",
    "why_rebuild",
]
