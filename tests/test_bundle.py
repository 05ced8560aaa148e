"""Bundles: what one holds, and everything that must keep one from being imported."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import TOY_TREE, plain_unit, publish_fake, toy_unit

from aiterlite.cli import main
from aiterlite.errors import BundleError, DamagedArtifactError, UntrustedArtifactError
from aiterlite.jit import bundle, engine, key
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.store import Entry, Layer, Store
from aiterlite.target import launch_target

UNITS = [toy_unit("gfx942"), toy_unit("sm_90a", TOY_FACTOR="2"), plain_unit(launch_target())]
Files = dict[str, bytes]


def new_store(root: Path) -> Store:
    return Store((Layer(root, writable=True),))


def fill(store: Store) -> Store:
    """Three artifacts, of odd sizes."""
    for index, unit in enumerate(UNITS):
        publish_fake(store, unit, SourceTree(TOY_TREE), data=bytes(range(7 + 500 * index % 256)) * 3)
    return store


@pytest.fixture
def full(tmp_path: Path) -> Store:
    return fill(new_store(tmp_path / "full"))


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("bundled")
    bundle.export(fill(new_store(folder / "cache")), folder / "bundle.tar")
    return (folder / "bundle.tar").read_bytes()


@pytest.fixture
def packed(bundled: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "bundle.tar"
    path.write_bytes(bundled)
    return path


@pytest.fixture
def empty(tmp_path: Path) -> Store:
    return new_store(tmp_path / "empty")


def leaves(store: Store) -> set[str]:
    """What a store holds, as paths below its root, and whether anything was left behind in its staging folder."""
    root = store.writable.root
    assert not root.exists() or list((root / "tmp").iterdir()) == []
    return {str(entry.directory.relative_to(root)) for entry in store.all_entries() if isinstance(entry, Entry)}


def refused(store: Store, source: Path, **arguments: Any) -> str:
    """The message with which an import is refused; nothing was placed, and checking alone refuses it too."""
    with pytest.raises(BundleError) as caught:
        bundle.load(store, source, **arguments)
    assert leaves(store) == set()
    if not arguments:
        with pytest.raises(BundleError):
            bundle.verify(source)
    return str(caught.value)


# There and back -------------------------------------------------------------------------------------------------------


def test_what_goes_in_comes_out(full: Store, packed: Path, empty: Store) -> None:
    placed = bundle.load(empty, packed)
    assert all(item.new for item in placed) and {item.unit for item in placed} == set(UNITS)
    assert leaves(empty) == leaves(full) and len(leaves(full)) == 3
    for unit in UNITS:
        want = engine.wanted(unit, SourceTree(TOY_TREE))
        found, original = engine.lookup(want, empty), engine.lookup(want, full)
        assert found.entry is not None and original.entry is not None
        assert found.data == original.data and found.entry.meta == original.entry.meta


def test_the_same_artifacts_give_the_same_bytes(
    packed: Path, empty: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle.load(empty, packed)
    for path in empty.writable.root.rglob("*"):
        os.utime(path, (1, 1))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    again = tmp_path / "again.tar"
    again.write_text("an older file")
    bundle.export(empty, again)
    assert again.read_bytes() == packed.read_bytes()


def test_tar_reads_it(packed: Path) -> None:
    with tarfile.open(packed) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == ["index.json", *sorted(member.name for member in members[1:])]
    assert len(members) == 1 + 2 * 3
    owners = {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in members}
    assert owners == {(0, 0, 0, "", 0o600)}


def test_a_bundle_that_was_unpacked_is_taken(packed: Path, full: Store, empty: Store, tmp_path: Path) -> None:
    folder = unpack(packed, tmp_path / "unpacked")
    assert len(bundle.load(empty, folder)) == 3
    assert leaves(empty) == leaves(full)


def test_imports_merge(full: Store, empty: Store, tmp_path: Path) -> None:
    first, second = tmp_path / "1.tar", tmp_path / "2.tar"
    assert bundle.export(full, first, targets={"gfx942", launch_target()}).units != []
    bundle.export(full, second, targets={"gfx942", "sm_90a"})
    assert [item.new for item in bundle.load(empty, first)] == [True, True]
    assert sorted(item.new for item in bundle.load(empty, second)) == [False, True]
    assert leaves(empty) == leaves(full)


@pytest.mark.parametrize(
    ("targets", "names", "chosen"),
    [
        (None, None, UNITS),
        ({"gfx942"}, None, UNITS[:1]),
        (None, {"plain"}, UNITS[2:]),
        ({"gfx942", "sm_90a"}, {"toy/toy", "plain"}, UNITS[:2]),
    ],
)
def test_export_chooses(full: Store, tmp_path: Path, targets: Any, names: Any, chosen: list[Any]) -> None:
    path = tmp_path / "some.tar"
    exported = bundle.export(full, path, targets, names)
    assert set(exported.units) == set(chosen) and exported.left_out == []
    assert {leaf.unit for leaf in bundle.verify(path)} == set(chosen)


def test_export_of_nothing_is_an_error(full: Store, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no artifact in the cache matches"):
        bundle.export(full, tmp_path / "none.tar", {"gfx950"})
    assert not (tmp_path / "none.tar").exists()


@pytest.mark.parametrize("name", ["missing/b.tar", "folder"])
def test_a_file_that_cannot_be_written_is_an_error(full: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    before = set(tmp_path.iterdir())
    with pytest.raises(BundleError, match=f"cannot write {tmp_path / name}"):
        bundle.export(full, tmp_path / name)
    assert set(tmp_path.iterdir()) == before


def test_every_layer_is_exported_once(full: Store, tmp_path: Path) -> None:
    other = new_store(tmp_path / "other")
    publish_fake(other, UNITS[0], SourceTree(TOY_TREE))
    publish_fake(other, toy_unit("gfx950"), SourceTree(TOY_TREE))
    both = Store((Layer(full.writable.root), other.writable))
    units = bundle.export(both, tmp_path / "both.tar").units
    assert sorted(unit.target for unit in units) == sorted([*(unit.target for unit in UNITS), "gfx950"])


def foreign(entry: Entry) -> None:
    entry.directory.chmod(0o777)


def changed(entry: Entry) -> None:
    entry.path.write_bytes(b"changed")


def without_metadata(entry: Entry) -> None:
    (entry.directory / "meta.json").write_text("{}")


def under_another_key(entry: Entry) -> None:
    entry.directory.parent.rename(entry.directory.parent.with_name("0" * 40))


def a_pipe(entry: Entry) -> None:
    entry.path.unlink()
    os.mkfifo(entry.path)


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (foreign, UntrustedArtifactError),
        (changed, DamagedArtifactError),
        (without_metadata, DamagedArtifactError),
        (under_another_key, DamagedArtifactError),
        (a_pipe, DamagedArtifactError),
    ],
)
def test_a_damaged_or_foreign_artifact_is_left_out_and_named(
    full: Store, tmp_path: Path, harm: Callable[[Entry], None], kind: type
) -> None:
    entry = next(iter(full.siblings("toy/toy")))
    unit = entry.meta["unit"]
    harm(entry)
    path = tmp_path / "some.tar"
    exported = bundle.export(full, path)
    assert [type(error) for error in exported.left_out] == [kind]
    assert "toy.toy" in str(exported.left_out[0])
    assert len(exported.units) == 2 and unit not in [other.to_json() for other in exported.units]
    assert [leaf.unit for leaf in bundle.verify(path)] == exported.units
    # Other names than its own are not disturbed, and its own alone is an error that says why.
    assert bundle.export(full, path, names={"plain"}).left_out == []
    with pytest.raises(BundleError, match=r"no artifact in the cache matches.*left out: .*toy\.toy"):
        bundle.export(full, tmp_path / "none.tar", targets={unit["target"]}, names={"toy/toy"})
    assert not (tmp_path / "none.tar").exists() and list(tmp_path.glob(".*")) == []


def test_a_damaged_artifact_that_another_layer_has_whole_is_exported(full: Store, tmp_path: Path) -> None:
    other = new_store(tmp_path / "other")
    publish_fake(other, UNITS[0], SourceTree(TOY_TREE), data=b"whole")
    both = Store((Layer(full.writable.root), other.writable))
    changed(next(entry for entry in full.siblings("toy/toy") if entry.meta["unit"]["target"] == "gfx942"))
    exported = bundle.export(both, tmp_path / "both.tar")
    assert len(exported.units) == 3 and exported.left_out == []
    assert b"whole" in {leaf.data for leaf in bundle.verify(tmp_path / "both.tar")}


def test_an_incomplete_export_as_a_command(
    full: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiterlite import envs

    monkeypatch.setenv("AITERLITE_CACHE_DIR", str(full.writable.root))
    envs.reload()
    entry = next(iter(full.siblings("toy/toy")))
    changed(entry)
    path = tmp_path / "some.tar"
    assert main(["export", str(path)]) == 1
    text = capsys.readouterr().out
    assert "exported 2 artifacts" in text and f"left out: {entry.path}: " in text and "aiterlite gc" in text
    assert len(bundle.verify(path)) == 2
    assert main(["export", str(path), "--json"]) == 1
    assert [item["kind"] for item in json.loads(capsys.readouterr().out)["left_out"]] == ["DamagedArtifactError"]
    assert main(["gc", "--max-bytes", "1G"]) == 0 and not entry.directory.exists()
    assert main(["export", str(path)]) == 0


def test_a_damaged_artifact_is_healed_by_an_import(full: Store, packed: Path) -> None:
    entry = next(iter(full.siblings("toy/toy")))
    whole = entry.path.read_bytes()
    entry.path.write_bytes(b"changed")
    bundle.load(full, packed)
    assert entry.path.read_bytes() == whole


# What is refused ------------------------------------------------------------------------------------------------------


def test_no_byte_of_a_bundle_can_change(packed: Path, empty: Store) -> None:
    original = packed.read_bytes()
    # Every byte of the first header and the index, and some of everything else.
    positions = [*range(0, 1536), *range(1536, len(original), 13), len(original) - 1]
    with open(packed, "r+b", buffering=0) as file:
        for position in positions:
            file.seek(position)
            file.write(bytes([original[position] ^ 0x20]))
            with pytest.raises(BundleError):
                bundle.verify(packed)
            file.seek(position)
            file.write(original[position : position + 1])
        bundle.verify(packed)
        file.seek(position)
        file.write(b"\1")
    refused(empty, packed)


def test_no_part_of_a_bundle_is_a_bundle(packed: Path, empty: Store, tmp_path: Path) -> None:
    original = packed.read_bytes()
    part = tmp_path / "part.tar"
    for end in [*range(0, len(original), 97), len(original) - 1, len(original) - 512, len(original) - 1024]:
        part.write_bytes(original[:end])
        with pytest.raises(BundleError):
            bundle.verify(part)
    part.write_bytes(original[: len(original) // 2])
    refused(empty, part)
    part.write_bytes(original + b"\0")
    assert "more in it" in refused(empty, part)
    part.write_bytes(original + original)
    refused(empty, part)


def test_a_missing_file_is_named(empty: Store, tmp_path: Path) -> None:
    assert "cannot read" in refused(empty, tmp_path / "missing.tar")
    os.mkfifo(tmp_path / "pipe.tar")
    assert "it is no regular file" in refused(empty, tmp_path / "pipe.tar")
    assert "it is no regular file" in refused(empty, tmp_path / "pipe.tar", sha256="0" * 64)
    assert "it is no regular file" in refused(empty, Path("/dev/zero"))
    (tmp_path / "not.tar").write_text("hello")
    assert "no bundle of this version" in refused(empty, tmp_path / "not.tar")


def contents(packed: Path) -> Files:
    with tarfile.open(packed) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive.getmembers()[1:]}  # type: ignore[union-attr]


def index_of(files: Files) -> dict[str, Any]:
    listed = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    return {"format": bundle.FORMAT, "schema": key.SCHEMA, "files": listed}


def forge(
    path: Path, files: Files, index: Any = None, members: list[tuple[tarfile.TarInfo, bytes]] | None = None
) -> Path:
    """A bundle whose digests are right, by someone who knows the format, around contents that are not."""
    text = (json.dumps(index_of(files) if index is None else index, indent=1, sort_keys=True) + "\n").encode()
    if members is None:
        members = [(tarfile.TarInfo(name), data) for name, data in sorted(files.items())]
    with open(path, "wb") as file:
        for info, data in [(tarfile.TarInfo("index.json"), text), *members]:
            info.size, info.mode = len(data), 0o600
            file.write(info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512))
        file.write(bytes(1024))
    return path


def test_a_forged_bundle_without_a_fault_is_taken(packed: Path, empty: Store, tmp_path: Path) -> None:
    """So that what the next tests see refused is refused for its fault."""
    assert forge(tmp_path / "f.tar", contents(packed)).read_bytes() == packed.read_bytes()
    assert len(bundle.load(empty, tmp_path / "f.tar")) == 3


def renamed(files: Files, old: str, new: str) -> Files:
    return {name.replace(old, new): data for name, data in files.items()}


def first(files: Files, ending: str) -> str:
    return next(name for name in sorted(files) if name.endswith(ending))


NAMES: dict[str, Callable[[Files], Files]] = {
    "absolute": lambda files: {**files, "/etc/cron.d/x": b"x"},
    "parent": lambda files: {**files, "v1/../../x": b"x"},
    "parent as unit": lambda files: {**files, f"v1/../{'0' * 40}/{'0' * 24}/x.co": b"x"},
    "parent as file": lambda files: {**files, f"v1/x/{'0' * 40}/{'0' * 24}/..": b"x"},
    "beside the leaves": lambda files: {**files, "toolchains.json": b"{}"},
    "another schema": lambda files: renamed(files, "v1/", "v2/"),
    "a backslash": lambda files: renamed(files, "toy.co", "toy\\.co"),
    "a newline": lambda files: renamed(files, "toy.co", "toy.co\n"),
    "an alien file in a leaf": lambda files: {**files, first(files, "meta.json").replace("meta.json", "x.so"): b"x"},
    "no metadata": lambda files: {n: d for n, d in files.items() if n != first(files, "meta.json")},
    "no artifact": lambda files: {n: d for n, d in files.items() if n != first(files, ".co")},
    "another key": lambda files: renamed(files, first(files, ".co").split("/")[2], "0" * 40),
    "another leaf": lambda files: renamed(files, first(files, ".co").split("/")[3], "0" * 24),
    "another unit": lambda files: renamed(files, "v1/toy.toy/", "v1/toy.other/"),
    "another artifact name": lambda files: renamed(files, "toy.co", "boy.co"),
    "another artifact": lambda files: {**files, first(files, ".co"): b"evil"},
}


@pytest.mark.parametrize("fault", NAMES)
def test_a_name_or_file_that_does_not_belong_is_refused(packed: Path, empty: Store, tmp_path: Path, fault: str) -> None:
    before = {str(path) for path in tmp_path.rglob("*")}
    refused(empty, forge(tmp_path / "f.tar", NAMES[fault](contents(packed))))
    new = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if str(path) not in before}
    assert all(name == "f.tar" or name.startswith("empty") for name in new)


def alter(meta: Any, path: str, value: Any) -> None:
    *parents, last = path.split("/")
    for name in parents:
        meta = meta[name]
    meta[last] = value


METADATA: dict[str, tuple[str, Any]] = {
    "key": ("key", "0" * 40),
    "schema": ("schema", 2),
    "key parts": ("key_parts/build_text", "other"),
    "defines": ("unit/defines", [["TOY_FACTOR", "9"]]),
    "target": ("unit/target", "gfx950"),
    "unit name": ("unit/name", ".."),
    "unit path": ("unit/name", "../../x"),
    "flags": ("unit/flags", ["-fplugin=/tmp/x.so"]),
    "sources": ("unit/sources", ["../x.hip"]),
    "other sources": ("unit/sources", ["csrc/toy/plain.hip"]),
    "symbols": ("unit/symbols", ["other"]),
    "headers": ("headers", {"a.h": "0" * 64}),
    "headers type": ("headers", {"a.h": 1}),
    "toolchain": ("toolchain/fingerprint", "other"),
    "title": ("toolchain/title", 7),
    "artifact name": ("artifact/name", "../x.co"),
    "artifact size": ("artifact/size", 1),
    "artifact digest": ("artifact/sha256", "0" * 64),
    "resources": ("resources", {"toy": {"vgprs": "many"}}),
    "built at": ("built_at", None),
    "arguments": ("unit/arguments", "aiterlite/other_args.h:other"),
    "a plugin": ("unit/flags", ["-fpass-plugin"]),
    "a terminal's words": ("toolchain/title", "clang \x1b[2J"),
    "another direction of reading": ("toolchain/title", "clang \u202e"),
    "a terminal's words in a name": ("resources", {"\x9b2J": {"vgprs": 1}}),
    "a truth for a number": ("build_seconds", True),
    "unit": ("unit", None),
    "artifact": ("artifact", "x"),
}


@pytest.mark.parametrize("fault", METADATA)
def test_metadata_that_does_not_agree_with_itself_is_refused(
    packed: Path, empty: Store, tmp_path: Path, fault: str
) -> None:
    files = contents(packed)
    name = first({n: d for n, d in files.items() if "toy.toy" in n and b'"gfx942"' in d}, "meta.json")
    meta = json.loads(files[name])
    alter(meta, *METADATA[fault])
    files[name] = json.dumps(meta, indent=1, sort_keys=True).encode()
    refused(empty, forge(tmp_path / "f.tar", files))


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000])
def test_metadata_that_is_none_is_refused(packed: Path, empty: Store, tmp_path: Path, text: bytes) -> None:
    files = contents(packed)
    files[first(files, "meta.json")] = text
    refused(empty, forge(tmp_path / "f.tar", files))


def test_an_index_that_says_something_else_is_refused(packed: Path, empty: Store, tmp_path: Path) -> None:
    files = contents(packed)
    good = index_of(files)
    name = first(files, ".co")
    faults: list[Any] = [
        {**good, "format": "other"},
        {**good, "schema": 2},
        {**good, "more": 1},
        {"format": good["format"], "schema": good["schema"]},
        {**good, "files": {}},
        {**good, "files": []},
        {**good, "files": {**good["files"], name: [1, 2]}},
        {**good, "files": {n: f for n, f in good["files"].items() if n != name}},
        [],
        "x",
    ]
    for change in (
        {"size": 1},
        {"size": -1},
        {"size": True},
        {"size": 2**40},
        {"sha256": "0" * 64},
        {"sha256": 1},
        {"x": 1},
    ):
        faults.append({**good, "files": {**good["files"], name: {**good["files"][name], **change}}})
    for fault in faults:
        refused(empty, forge(tmp_path / "f.tar", files, index=fault))


@pytest.mark.parametrize("indent", [None, 2])
def test_an_index_in_another_spelling_is_refused(
    packed: Path, empty: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None
) -> None:
    files = contents(packed)
    spell = json.dumps
    monkeypatch.setattr(json, "dumps", lambda data, **_: spell(data, indent=indent, sort_keys=True))
    path = forge(tmp_path / "f.tar", files)
    monkeypatch.undo()
    assert "not as `export` writes it" in refused(empty, path)


def test_a_bundle_without_artifacts_is_refused(empty: Store, tmp_path: Path) -> None:
    refused(empty, forge(tmp_path / "f.tar", {}))


def member(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    "fields",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "index.json"},
        {"type": tarfile.CHRTYPE},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.DIRTYPE},
        {"type": tarfile.GNUTYPE_SPARSE},
        {"uid": 1},
        {"mtime": 1},
        {"uname": "root"},
    ],
    ids=str,
)
def test_a_member_that_is_no_plain_file_is_refused(
    packed: Path, empty: Store, tmp_path: Path, fields: dict[str, Any]
) -> None:
    files = contents(packed)
    name = first(files, ".co")
    members = [(member(n, **(fields if n == name else {})), data) for n, data in sorted(files.items())]
    message = refused(empty, forge(tmp_path / "f.tar", files, members=members))
    assert f"where {name} should begin" in message


def test_members_that_the_index_does_not_name_are_refused(packed: Path, empty: Store, tmp_path: Path) -> None:
    files = contents(packed)
    members = [(tarfile.TarInfo(name), data) for name, data in sorted(files.items())]
    alien = (tarfile.TarInfo("v1/x"), b"x")
    for position in (0, 3, len(members)):
        changed = [*members[:position], alien, *members[position:]]
        refused(empty, forge(tmp_path / "f.tar", files, members=changed))
    refused(empty, forge(tmp_path / "f.tar", files, members=[*members, members[0]]))
    refused(empty, forge(tmp_path / "f.tar", files, members=[members[1], members[0], *members[2:]]))


def test_a_compressed_bundle_is_refused(packed: Path, empty: Store, tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "f.tar.gz"
    path.write_bytes(gzip.compress(packed.read_bytes()))
    refused(empty, path)


def test_a_huge_index_is_not_read(empty: Store, tmp_path: Path) -> None:
    info = member("index.json", size=2**32, mode=0o600)
    path = tmp_path / "f.tar"
    with open(path, "wb") as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(2**32)
    assert "an index of 4294967296 bytes" in refused(empty, path)


def unpack(packed: Path, folder: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(packed.read_bytes())) as archive:
        for info in archive.getmembers():
            path = folder / info.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.extractfile(info).read())  # type: ignore[union-attr]
    return folder


@pytest.mark.parametrize(
    "fault", ["link", "folder link", "link to elsewhere", "pipe", "unknown", "missing", "changed", "no index"]
)
def test_a_folder_that_is_no_bundle_is_refused(packed: Path, empty: Store, tmp_path: Path, fault: str) -> None:
    folder = unpack(packed, tmp_path / "unpacked")
    victim = next(folder.rglob("*.co"))
    if fault == "link":
        victim.rename(tmp_path / "moved")
        victim.symlink_to(tmp_path / "moved")
    elif fault == "folder link":
        (folder / "v1").rename(tmp_path / "moved")
        (folder / "v1").symlink_to(tmp_path / "moved")
    elif fault == "link to elsewhere":
        (folder / "more").symlink_to("/")
    elif fault == "pipe":
        os.mkfifo(folder / "pipe")
    elif fault == "unknown":
        (folder / "more").write_text("x")
    elif fault == "missing":
        victim.unlink()
    elif fault == "changed":
        victim.write_bytes(b"x")
    else:
        (folder / "index.json").unlink()
    refused(empty, folder)


def test_the_digest_of_the_file_can_be_demanded(packed: Path, empty: Store, tmp_path: Path) -> None:
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    assert f"sha256 {digest}, expected {'0' * 64}" in refused(empty, packed, sha256="0" * 64)
    folder = unpack(packed, tmp_path / "unpacked")
    assert "directory" in refused(empty, folder, sha256=digest)
    assert len(bundle.load(empty, packed, sha256=digest.upper())) == 3


# The commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.installed
def test_export_and_import_as_commands(
    cache_dir: Path, source_tree: SourceTree, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    from aiterlite import envs

    store = new_store(cache_dir)
    for unit in UNITS:
        publish_fake(store, unit, source_tree)
    path = tmp_path / "b.tar"

    def run(*argv: str) -> tuple[list[str], Any]:
        assert main(argv) == 0
        text = capsys.readouterr().out.splitlines()
        assert main([*argv, "--json"]) == 0
        return text, json.loads(capsys.readouterr().out)

    text, data = run("export", str(path), "--target", "mi300x")
    labels = sorted([UNITS[0].label, UNITS[2].label])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert sorted(text[:2]) == labels and text[3] == f"sha256 {digest}"
    assert sorted(item["unit"] for item in data["artifacts"]) == labels
    assert (data["sha256"], data["bytes"]) == (digest, path.stat().st_size)
    text, data = run("export", "--check", str(path))
    assert sorted(text[:2]) == labels and text[2] == f"{path}: 2 artifacts verified"
    assert sorted(item["unit"] for item in data["artifacts"]) == labels

    monkeypatch.setenv("AITERLITE_CACHE_DIR", str(tmp_path / "target"))
    envs.reload()
    assert main(["import", str(path), "--sha256", "0" * 64]) == 1
    assert "expected 000" in capsys.readouterr().err
    assert main(["import", str(path), "--sha256", digest]) == 0
    text = capsys.readouterr().out.splitlines()
    assert sorted(text[:2]) == [f"placed  {label}" for label in labels]
    assert text[2] == f"2 artifacts placed, 0 already there, in {tmp_path / 'target'}"
    text, data = run("import", str(path))
    assert text[2] == f"0 artifacts placed, 2 already there, in {tmp_path / 'target'}"
    assert (data["new"], data["present"]) == (0, 2)
    assert {item["unit"]: item["new"] for item in data["artifacts"]} == dict.fromkeys(labels, False)


def test_a_changed_bundle_as_a_command(packed: Path, cache_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = bytearray(packed.read_bytes())
    changed[-2000] ^= 1
    packed.write_bytes(changed)
    for argv in (["import", str(packed)], ["export", "--check", str(packed)]):
        assert main(argv) == 1
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith(f"aiterlite: {packed} is no bundle of this version")
    assert leaves(new_store(cache_dir)) == set()
