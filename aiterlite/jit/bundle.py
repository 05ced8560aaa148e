"""A cache in one file: export, verify, import.

    index.json                                    format, schema, and name, size and SHA-256 of every other file
    v1/<unit>/<lookup key>/<leaf id>/<artifact>   as in a cache layer
    v1/<unit>/<lookup key>/<leaf id>/meta.json

The file is a plain tar archive with one spelling only: the index first, the rest in sorted order, every header field
that is not a name or a size at a fixed value. Reading therefore does not interpret an archive, it compares one: each
header must be the bytes that writing would have made. A link, a device, an absolute path, a file that the index does
not name, or a byte behind the end is then simply a mismatch.

Digests protect against damage and against edits that do not know of them. Someone who rewrites the whole bundle can
rewrite its digests too; the SHA-256 of the file, which `export` prints and `import --sha256` demands, prevents that.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from aiterlite.errors import BundleError, DamagedArtifactError, JitError
from aiterlite.jit import key as keys
from aiterlite.jit.leaf import check, slug
from aiterlite.jit.spec import Unit
from aiterlite.jit.store import Entry, Store, open_regular, read_verified

FORMAT = "aiterlite-bundle"
INDEX = "index.json"
_BLOCK = 512
_MAX_INDEX = 64 * 2**20
_MAX_FILE = 2 * 2**30
_NAME = re.compile(rf"v{keys.SCHEMA}/[a-z0-9_.]+/[0-9a-f]{{40}}/[0-9a-f]{{24}}/[A-Za-z0-9_.]+")


@dataclass(frozen=True)
class Leaf:
    """One artifact of a bundle, its digests and names checked."""

    unit: Unit
    meta: dict[str, Any]
    key: str
    leaf: str
    data: bytes


@dataclass(frozen=True)
class Imported:
    """An artifact that a bundle held: its unit, where it lies now, and whether it was new there."""

    unit: Unit
    path: Path
    new: bool


@dataclass(frozen=True)
class Exported:
    """What `export` wrote, and what it had to leave out: damaged, or not to be trusted, in every layer that has it."""

    units: list[Unit]
    left_out: list[JitError]


def export(
    store: Store, path: Path, targets: Collection[str] | None = None, names: Collection[str] | None = None
) -> Exported:
    """Write the artifacts of all layers, or those of some targets or unit names, into one file.

    Each is verified on the way. Raises `BundleError`, and writes no file, where no whole artifact matches or the file
    cannot be written.
    """
    files: dict[str, bytes] = {}
    units: dict[str, Unit] = {}
    refused: dict[str, JitError] = {}
    slugs = None if names is None else {slug(name) for name in names}
    for _, directory, found in store.survey():
        folder = _folder(directory)
        if isinstance(found, Entry):
            unit = Unit.from_json(found.meta["unit"])
            if (targets is not None and unit.target not in targets) or (names is not None and unit.name not in names):
                continue
            try:
                data = files.get(f"{folder}/{found.path.name}") or read_verified(found)
            except DamagedArtifactError as error:
                found = error
            else:
                units[folder] = unit
                files[f"{folder}/{unit.artifact_name}"] = data
                files.setdefault(f"{folder}/meta.json", json.dumps(found.meta, indent=1, sort_keys=True).encode())
        # Nobody knows the target of an artifact that cannot be read.
        if isinstance(found, JitError) and (slugs is None or directory.parent.parent.name in slugs):
            refused.setdefault(folder, found)
    left_out = [error for folder, error in refused.items() if folder not in units]
    if not units:
        why = "".join(f"; left out: {error}" for error in left_out[:1])
        raise BundleError(f"no artifact in the cache matches; `aiterlite status` shows what there is{why}")
    _write(path, files)
    return Exported([units[folder] for folder in sorted(units)], left_out)


def verify(source: Path) -> list[Leaf]:
    """Check a bundle whole. Raises `BundleError`."""
    return list(_leaves(source))


def load(store: Store, source: Path, sha256: str | None = None) -> list[Imported]:
    """Check a bundle (a file, or the directory that it was unpacked into) whole, then place its artifacts in the
    writable layer. What lies there already stays. `sha256` is what the file's digest must be.

    Raises `BundleError`, and nothing is placed, where a name, size, digest or key is not what it should be.
    """
    if sha256 is not None and (source.is_dir() or (got := file_digest(source)) != sha256.lower()):
        what = "a directory has no one digest" if source.is_dir() else f"sha256 {got}, expected {sha256}"
        raise BundleError(f"{source}: {what}; nothing was imported")
    # All of it is checked, and staged, before the first artifact is placed.
    staged: list[tuple[Leaf, Path]] = []
    try:
        for leaf in _leaves(source):
            directory = store.staging(leaf.unit.name)
            staged.append((Leaf(leaf.unit, leaf.meta, leaf.key, leaf.leaf, b""), directory))
            (directory / leaf.unit.artifact_name).write_bytes(leaf.data)
        return [_place(store, leaf, directory) for leaf, directory in staged]
    finally:
        for _, directory in staged:
            shutil.rmtree(directory, ignore_errors=True)


def _place(store: Store, leaf: Leaf, directory: Path) -> Imported:
    target = store.writable.leaves / slug(leaf.unit.name) / leaf.key / leaf.leaf
    there = target.is_dir()
    entry = store.publish(directory, leaf.meta, leaf.key, leaf.leaf)
    return Imported(leaf.unit, entry.path, new=not there)


def file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def _folder(directory: Path) -> str:
    return "/".join((f"v{keys.SCHEMA}", *directory.parts[-3:]))


# Writing -------------------------------------------------------------------------------------------------------------


def _index(files: dict[str, bytes]) -> bytes:
    listed = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    return _canonical({"format": FORMAT, "schema": keys.SCHEMA, "files": listed})


def _canonical(index: Any) -> bytes:
    return (json.dumps(index, indent=1, sort_keys=True) + "\n").encode()


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o600
    return info.tobuf(tarfile.USTAR_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _write(path: Path, files: dict[str, bytes]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            for name, data in ((INDEX, _index(files)), *sorted(files.items())):
                file.write(_header(name, len(data)) + data + _padding(len(data)))
            file.write(bytes(2 * _BLOCK))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BundleError(f"cannot write {path}: {error.strerror}") from error


# Reading -------------------------------------------------------------------------------------------------------------


def _leaves(source: Path) -> Iterator[Leaf]:
    """The artifacts of a bundle, each checked before it is given. Raises `BundleError`."""
    try:
        if source.is_dir():
            yield from _checked(source, lambda name, _: _read_unpacked(source, name), _unpacked_names(source))
        else:
            with open_regular(source) as file:
                yield from _checked(source, lambda name, size: _read_member(file, name, size), None)
                if file.read(2 * _BLOCK + 1) != bytes(2 * _BLOCK):
                    raise BundleError(f"{source}: there is more in it than its index names")
    except OSError as error:
        raise BundleError(f"cannot read {error.filename or source}: {error.strerror}") from error
    except (ValueError, RecursionError, DamagedArtifactError) as error:
        raise BundleError(f"{source} is no bundle of this version, or was changed: {error}") from error


def _checked(source: Path, read: Callable[[str, int | None], bytes], present: Collection[str] | None) -> Iterator[Leaf]:
    """Read the files that the index names, in its order, and give the artifacts they are."""
    files = _parse_index(read(INDEX, None))
    if present is not None and set(present) != {INDEX, *files}:
        odd = sorted(set(present) ^ {INDEX, *files})
        raise ValueError(f"{odd[0]} is not both in the index and in the directory")
    folders: dict[str, dict[str, bytes]] = {}
    for name, (size, digest) in files.items():
        data = read(name, size)
        if len(data) != size or hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(f"{name} does not have the size and SHA-256 that the index says")
        folder, _, file = name.rpartition("/")
        folders.setdefault(folder, {})[file] = data
        if len(folders[folder]) == 2:
            yield _leaf(source, folder, folders.pop(folder))
    if folders:
        raise ValueError(f"{next(iter(folders))} holds no artifact with its metadata")


def _parse_index(text: bytes) -> dict[str, tuple[int, str]]:
    index = json.loads(text)
    if not isinstance(index, dict) or set(index) != {"format", "schema", "files"} or text != _canonical(index):
        raise ValueError(f"{INDEX} is not as `export` writes it")
    if index["format"] != FORMAT or index["schema"] != keys.SCHEMA:
        raise ValueError(f"format {index['format']!r} schema {index['schema']!r}, expected {FORMAT} {keys.SCHEMA}")
    files = {}
    listed = index["files"]
    if not listed or not isinstance(listed, dict) or not all(isinstance(facts, dict) for facts in listed.values()):
        raise ValueError(f"{INDEX} lists no files")
    for name, facts in sorted(listed.items()):
        if not _NAME.fullmatch(name) or name.rsplit("/", 1)[-1] in (".", "..") or "/../" in name or "/./" in name:
            raise ValueError(f"{name!r} is no name of a cached file")
        size, digest = facts.get("size"), facts.get("sha256")
        if type(size) is not int or not 0 <= size <= _MAX_FILE or not isinstance(digest, str) or len(facts) != 2:
            raise ValueError(f"{name} has no usable size and SHA-256")
        files[name] = (size, digest)
    return files


def _leaf(source: Path, folder: str, files: dict[str, bytes]) -> Leaf:
    meta = json.loads(files.pop("meta.json", b"null"))
    unit = check(meta, Path(folder))
    name, data = next(iter(files.items()))
    artifact = meta["artifact"]
    facts = (name, len(data), hashlib.sha256(data).hexdigest())
    if facts != (unit.artifact_name, artifact.get("size"), artifact.get("sha256")):
        raise ValueError(f"{folder}/{name} is not the artifact that its metadata describes")
    return Leaf(unit, meta, meta["key"], Path(folder).name, data)


def _read_member(file: BinaryIO, name: str, size: int | None) -> bytes:
    header = file.read(_BLOCK)
    if size is None:
        size = _index_size(header)
    if header != _header(name, size):
        raise ValueError(f"where {name} should begin there is {_describe(header)}")
    data = file.read(size)
    if file.read(len(_padding(size))) != _padding(size):
        raise ValueError(f"it ends within {name}, or the padding behind it is not empty")
    return data


def _index_size(header: bytes) -> int:
    size = _parse_header(header).size
    if size > _MAX_INDEX:
        raise ValueError(f"an index of {size} bytes")
    return size


def _parse_header(header: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise ValueError(f"no tar header ({error})") from None


def _describe(header: bytes) -> str:
    info = _parse_header(header)
    kind = "a file" if info.isreg() else "a link" if info.issym() or info.islnk() else "something that is no file"
    return f"{kind} named {info.name!r} of {info.size} bytes, or attributes that `export` does not write"


def _unpacked_names(root: Path) -> Sequence[str]:
    names = []
    for directory, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(directory, name)
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise ValueError(f"{path} is no plain file or directory")
        names += [Path(directory, name).relative_to(root).as_posix() for name in files]
    return names


def _read_unpacked(root: Path, name: str) -> bytes:
    with open_regular(root / name, os.O_NOFOLLOW) as file:
        if os.fstat(file.fileno()).st_size > _MAX_FILE:
            raise ValueError(f"{name} is no file of a bundle")
        return file.read()
