"""The cache on disk: read-only layers under one writable layer.

    <root>/v1/<unit>/<lookup key>/<leaf id>/meta.json     what the artifact is, and the digest of its bytes
    <root>/v1/<unit>/<lookup key>/<leaf id>/<artifact>    library, code object or cubin
    <root>/tmp, locks, failed, toolchains.json            of the writable layer only

A leaf is complete when it appears (it is renamed into place) and never changes after that.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from aiterlite import envs
from aiterlite.errors import CacheDirectoryError, DamagedArtifactError, JitError, UntrustedArtifactError
from aiterlite.jit.key import SCHEMA
from aiterlite.jit.leaf import check, slug

_USED_STAMP_SECONDS = 3600.0
_STALE_STAGING_SECONDS = 24 * 3600.0
_KEPT_FAILURES = 8


@dataclass(frozen=True)
class Layer:
    """One cache directory. `trusted` accepts artifacts that another user owns or may write.

    `private` hides it from other users when it is made. A cache that was named may become the layer of an image, which
    another user serves from: that one is as readable as the umask lets it be, and never writable by others.
    """

    root: Path
    writable: bool = False
    trusted: bool = False
    private: bool = False

    @property
    def leaves(self) -> Path:
        return self.root / f"v{SCHEMA}"

    @property
    def noexec(self) -> str:
        """Why no library can be loaded from here; empty where one can."""
        if not mounted_noexec(self.root):
            return ""
        remedy = "point AITERLITE_CACHE_DIR elsewhere" if self.writable else "put the layer elsewhere"
        return (
            f"{self.root} is on a file system that is mounted noexec, from which no library can be loaded: "
            f"{remedy}, or remount it with exec"
        )


@dataclass(frozen=True)
class Entry:
    """One artifact in one layer, with its parsed metadata."""

    layer: Layer
    directory: Path
    meta: dict[str, Any]

    @property
    def path(self) -> Path:
        return self.directory / str(self.meta["artifact"]["name"])

    @property
    def label(self) -> str:
        return f"{self.meta['unit']['name']} for {self.meta['unit']['target']} ({self.directory.name})"

    def size(self) -> int:
        """Bytes on disk; 0 where another process has just deleted it."""
        try:
            return sum(file.stat().st_size for file in self.directory.iterdir() if file.is_file())
        except FileNotFoundError:
            return 0


class Store:
    """The layers of this process, in the order of lookup."""

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self.layers = layers

    @property
    def writable(self) -> Layer:
        return self.layers[-1]

    def entries(self, unit: str, key: str) -> Iterator[Entry | DamagedArtifactError]:
        """What the layers hold under a lookup key; unreadable metadata is given as the error that it is.

        Raises `UntrustedArtifactError` at a leaf that this user must not trust, and `CacheDirectoryError` for a layer
        that this user may not read.
        """
        for layer in self.layers:
            try:
                directories = _subdirectories(layer.leaves / slug(unit) / key)
            except PermissionError as error:
                raise CacheDirectoryError(f"cannot read the cache {layer.root}: {error.strerror}") from error
            for directory in directories:
                yield read_entry(layer, directory)

    def all_entries(self) -> Iterator[Entry | DamagedArtifactError]:
        for layer in self.layers:
            for leaf in _leaves(layer):
                yield read_entry(layer, leaf)

    def survey(self) -> Iterator[tuple[Layer, Path, Entry | JitError]]:
        """Every leaf of every layer; one that is damaged, not to be trusted or not readable is given as its error."""
        for layer in self.layers:
            try:
                for leaf in _leaves(layer):
                    try:
                        yield layer, leaf, read_entry(layer, leaf)
                    except UntrustedArtifactError as error:
                        yield layer, leaf, error
            except PermissionError as error:
                yield layer, layer.root, CacheDirectoryError(f"cannot read {error.filename}: {error.strerror}")

    def siblings(self, unit: str) -> Iterator[Entry]:
        """Every readable artifact of a unit's name, under any key."""
        for layer in self.layers:
            for key in _subdirectories(layer.leaves / slug(unit)):
                for leaf in _subdirectories(key):
                    try:
                        entry = read_entry(layer, leaf)
                    except UntrustedArtifactError:
                        # Nothing is loaded from a sibling: it only tells how long a build takes, or what changed.
                        continue
                    if isinstance(entry, Entry):
                        yield entry

    def prepare(self) -> Path:
        """Create the writable layer, which nobody else may write. Raises `CacheDirectoryError`."""
        root = self.writable.root
        try:
            root.mkdir(parents=True, exist_ok=True, mode=0o700 if self.writable.private else 0o755)
            self.writable.leaves.mkdir(exist_ok=True, mode=0o755)
            for name in ("tmp", "locks", "failed"):
                (root / name).mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise CacheDirectoryError(
                f"cannot create the cache {root}: {error.strerror}; point AITERLITE_CACHE_DIR at a writable directory"
            ) from error
        if not self.writable.trusted:
            _check_owner(root)
        return root

    def staging(self, unit: str) -> Path:
        """A new private directory on the writable layer's file system."""
        return Path(tempfile.mkdtemp(prefix=f"{slug(unit)}-{os.getpid()}-", dir=self.prepare() / "tmp"))

    def publish(self, staged: Path, meta: dict[str, Any], key: str, leaf: str) -> Entry:
        """Rename a staged artifact into place. `staged` holds the artifact alone; the first publisher wins.

        A leaf that is already there and damaged is replaced.
        """
        layer = self.writable
        (staged / "meta.json").write_text(json.dumps(meta, indent=1, sort_keys=True))
        target = layer.leaves / slug(meta["unit"]["name"]) / key / leaf
        for parent in (target.parent.parent, target.parent):
            parent.mkdir(exist_ok=True, mode=0o755)
        # Staged files are private. A leaf becomes as readable as the umask made its directory: a process of several
        # threads cannot ask for the umask without changing it.
        readable = target.parent.stat().st_mode & 0o055
        for file in staged.iterdir():
            file.chmod(0o600 | readable & 0o044)
            _sync(file)
        staged.chmod(0o700 | readable)
        _sync(staged)
        for _ in range(3):
            try:
                os.rename(staged, target)
                _sync(target.parent)
                return Entry(layer, target, meta)
            except OSError:
                if not target.is_dir():
                    raise
            present = read_entry(layer, target)
            if isinstance(present, Entry) and damage(present) is None:
                shutil.rmtree(staged, ignore_errors=True)
                return present
            self.discard(target)
        raise CacheDirectoryError(f"could not publish into {target}: something keeps recreating a damaged artifact")

    def discard(self, directory: Path) -> None:
        """Take a leaf of the writable layer out of sight at once, then delete it. Other layers are left alone."""
        if not directory.is_relative_to(self.writable.leaves):
            return
        aside = self.prepare() / "tmp" / f"discarded-{os.getpid()}-{time.monotonic_ns()}"
        try:
            os.rename(directory, aside)
        except FileNotFoundError:
            return
        shutil.rmtree(aside, ignore_errors=True)

    def keep_failure(self, staged: Path) -> Path:
        """Move a failed staging directory to where a person can look at it; only the last few are kept."""
        folder = self.prepare() / "failed"
        kept = folder / staged.name
        os.rename(staged, kept)
        old = sorted(_subdirectories(folder), key=_modified, reverse=True)[_KEPT_FAILURES:]
        for path in old:
            shutil.rmtree(path, ignore_errors=True)
        return kept

    def sweep(self) -> int:
        """Delete staging directories that a killed build left behind; returns how many."""
        swept = 0
        for path in _subdirectories(self.writable.root / "tmp"):
            if time.time() - _modified(path) > _STALE_STAGING_SECONDS:
                shutil.rmtree(path, ignore_errors=True)
                swept += 1
        return swept


def read_entry(layer: Layer, directory: Path) -> Entry | DamagedArtifactError:
    """A leaf's metadata. Raises `UntrustedArtifactError`; gives the error for metadata that cannot be used."""
    if not layer.trusted:
        for path in (layer.root, directory.parent.parent, directory.parent, directory, directory / "meta.json"):
            if os.path.exists(path):
                _check_owner(path)
    try:
        meta = json.loads(read_regular(directory / "meta.json"))
        check(meta, directory)
    except DamagedArtifactError as error:
        return error
    except (OSError, ValueError, RecursionError) as error:
        return DamagedArtifactError(f"{directory}: unusable metadata: {error}", str(directory))
    entry = Entry(layer, directory, meta)
    if not layer.trusted and os.path.exists(entry.path):
        _check_owner(entry.path)
    return entry


def open_regular(path: Path, flags: int = 0) -> BinaryIO:
    """Open a regular file to read, else raise `OSError`: opening a pipe would wait for somebody to write to it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return open(descriptor, "rb")


def read_regular(path: Path) -> bytes:
    """A file's bytes. Raises `OSError`, also where it is no regular file."""
    with open_regular(path) as file:
        return file.read()


def read_verified(entry: Entry) -> bytes:
    """The artifact's bytes, once size and SHA-256 match. Raises `DamagedArtifactError`."""
    artifact = entry.meta["artifact"]

    def damaged(what: str) -> DamagedArtifactError:
        return DamagedArtifactError(f"{entry.path}: {what}", str(entry.directory))

    try:
        data = read_regular(entry.path)
    except OSError as error:
        raise damaged(error.strerror or str(error)) from error
    if len(data) != artifact["size"]:
        raise damaged(f"{len(data)} bytes, its metadata says {artifact['size']}")
    digest = hashlib.sha256(data).hexdigest()
    if digest != artifact["sha256"]:
        raise damaged(f"sha256 {digest}, its metadata says {artifact['sha256']}")
    return data


def damage(entry: Entry) -> DamagedArtifactError | None:
    """What is wrong with an artifact's bytes."""
    try:
        read_verified(entry)
    except DamagedArtifactError as error:
        return error
    return None


def mark_used(entry: Entry) -> None:
    """Remember, to the hour, that an artifact was used; `gc` deletes the longest unused first."""
    path = entry.directory / "meta.json"
    if entry.layer.writable and time.time() - path.stat().st_mtime > _USED_STAMP_SECONDS:
        os.utime(path)


def collect(store: Store, max_bytes: int, dry_run: bool = False) -> list[Entry]:
    """Delete the longest unused artifacts of the writable layer until at most `max_bytes` remain.

    Returns them; `dry_run` deletes nothing. Artifacts of other users are left alone.
    """
    kept = []
    for _, _, entry in Store((store.writable,)).survey():
        if isinstance(entry, Entry):
            kept.append((_modified(entry.directory / "meta.json"), entry.size(), entry))
    total = sum(size for _, size, _ in kept)
    deleted = []
    for _, size, entry in sorted(kept, key=lambda item: item[0]):
        if total <= max_bytes:
            break
        if not dry_run:
            store.discard(entry.directory)
        deleted.append(entry)
        total -= size
    if not dry_run:
        store.sweep()
    return deleted


def discard_damaged(store: Store, dry_run: bool = False) -> list[DamagedArtifactError]:
    """Delete what is damaged in the writable layer. Returns what was wrong; `dry_run` deletes nothing."""
    found = []
    for _, directory, entry in Store((store.writable,)).survey():
        wrong = damage(entry) if isinstance(entry, Entry) else entry
        if isinstance(wrong, DamagedArtifactError):
            found.append(wrong)
            if not dry_run:
                store.discard(directory)
    return found


def open_store() -> Store:
    """The layers that the environment names, and the writable one.

    Without AITERLITE_CACHE_DIR the writable layer is the user's cache directory; where that cannot be written, it is
    a private directory under the system's temporary one, and what the user's cache already holds is still read.
    """
    trusted = envs.TRUSTED_LAYERS.get()
    layers = [Layer(Path(path), trusted=path in trusted) for path in envs.CACHE_LAYERS.get()]
    layers += [Layer(Path(path), trusted=True) for path in trusted if path not in envs.CACHE_LAYERS.get()]
    named = envs.CACHE_DIR.get()
    if named:
        return Store((*layers, _writable(Path(named), trusted)))
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    home = Path(base) / "aiterlite"
    # A user whom no password file knows has no home: `~` stays as it is, and would be made in the current directory.
    if os.path.isabs(home):
        if _can_write(home):
            return Store((*layers, _writable(home, trusted, private=True)))
        if os.path.isdir(home):
            layers.append(Layer(home))
    temporary = Path(tempfile.gettempdir()) / f"aiterlite-{os.getuid()}"
    return Store((*layers, _writable(temporary, trusted, private=True)))


def _writable(root: Path, trusted: tuple[str, ...], private: bool = False) -> Layer:
    return Layer(root, writable=True, trusted=str(root) in trusted, private=private)


def mounted_noexec(path: Path) -> bool:
    """Whether libraries cannot be mapped from where a path lies, or from where it would be made."""
    for place in (path, *path.parents):
        try:
            return bool(os.statvfs(place).f_flag & os.ST_NOEXEC)
        except OSError:
            continue
    return False


def _can_write(path: Path) -> bool:
    """Whether a directory may be written. It is made to find out: permissions alone do not tell on every system."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return False
    return os.access(path, os.W_OK | os.X_OK)


def _check_owner(path: Path) -> None:
    status = os.lstat(path)
    # A link counts as what it leads to, unless somebody else made it: root may link, for it may do anything.
    if stat.S_ISLNK(status.st_mode) and status.st_uid in (0, os.geteuid()):
        status = os.stat(path)
    if status.st_uid != os.geteuid():
        reason = f"belongs to user {status.st_uid}, not to user {os.geteuid()}"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        reason = f"may be written by others (mode {stat.S_IMODE(status.st_mode):o})"
    else:
        return
    raise UntrustedArtifactError(
        f"{path} {reason}; nothing is loaded from it. Correct its owner or mode, or name its layer in "
        "AITERLITE_TRUSTED_LAYERS if you trust whoever may write it."
    )


def _leaves(layer: Layer) -> Iterator[Path]:
    for unit in _subdirectories(layer.leaves):
        for key in _subdirectories(unit):
            yield from _subdirectories(key)


def _modified(path: Path) -> float:
    """When a file or directory was changed last; 0 where another process has just deleted it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _subdirectories(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as items:
            return sorted(Path(item.path) for item in items if item.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
