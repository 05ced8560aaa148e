"""The cache on disk: publishing, verifying, trust, and where it lies."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pwd
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from support import TOY_TREE, child, fake_meta, publish_fake, toy_unit

from aiterlite import envs
from aiterlite.cli import main
from aiterlite.errors import CacheDirectoryError, DamagedArtifactError, UntrustedArtifactError
from aiterlite.jit import bundle, engine, store
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.store import Entry, Layer, Store

UNIT = toy_unit("gfx942")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


@pytest.fixture
def cache(tmp_path: Path) -> Store:
    return Store((Layer(tmp_path / "cache", writable=True),))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def entries(cache: Store, tree: SourceTree) -> list[Entry | DamagedArtifactError]:
    return list(cache.entries(UNIT.name, engine.wanted(UNIT, tree).key))


# Publishing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("umask", "private", "root", "leaf"),
    [
        (0o000, False, 0o755, 0o644),
        (0o022, False, 0o755, 0o644),
        (0o027, False, 0o750, 0o640),
        (0o077, False, 0o700, 0o600),
        (0o022, True, 0o700, 0o644),
        (0o077, True, 0o700, 0o600),
    ],
)
def test_a_published_artifact_is_whole_and_only_its_owner_may_write_it(
    tmp_path: Path, source_tree: SourceTree, umask: int, private: bool, root: int, leaf: int
) -> None:
    """A named cache may become a layer that another user serves from; the user's own cache is hidden at its root."""
    cache = Store((Layer(tmp_path / "cache", writable=True, private=private),))
    before = os.umask(umask)
    try:
        entry = publish_fake(cache, UNIT, source_tree, b"code")
    finally:
        os.umask(before)
    assert store.read_verified(entry) == b"code"
    assert [found.path for found in entries(cache, source_tree) if isinstance(found, Entry)] == [entry.path]
    assert mode(cache.writable.root) == root
    assert {mode(path) for path in entry.directory.iterdir()} == {leaf}
    for path in cache.writable.root.rglob("*"):
        assert mode(path) & 0o022 == 0, path
    for name in ("tmp", "locks", "failed"):
        assert mode(cache.writable.root / name) == 0o700
    assert list((cache.writable.root / "tmp").iterdir()) == []


def test_the_first_publisher_wins(cache: Store, source_tree: SourceTree) -> None:
    first = publish_fake(cache, UNIT, source_tree, b"first")
    second = publish_fake(cache, UNIT, source_tree, b"second")
    assert second.path == first.path
    assert store.read_verified(second) == b"first"
    assert list((cache.writable.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("damage", ["artifact", "metadata", "missing", "empty"])
def test_a_damaged_leaf_is_replaced(cache: Store, source_tree: SourceTree, damage: str) -> None:
    first = publish_fake(cache, UNIT, source_tree, b"first")
    if damage == "artifact":
        first.path.write_bytes(b"fir5t")
    elif damage == "metadata":
        (first.directory / "meta.json").write_text("{")
    elif damage == "missing":
        first.path.unlink()
    else:
        for file in first.directory.iterdir():
            file.unlink()
    second = publish_fake(cache, UNIT, source_tree, b"second")
    assert second.directory == first.directory
    assert store.read_verified(second) == b"second"


def test_what_cannot_be_published_is_an_error(cache: Store, source_tree: SourceTree, monkeypatch: Any) -> None:
    def refuse(old: Any, new: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="No space"):
        publish_fake(cache, UNIT, source_tree)
    assert entries(cache, source_tree) == []


# Verifying ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"cod", b"codf", b"code\0", b"\0" * 4])
def test_bytes_that_do_not_match_their_digest_are_never_returned(
    cache: Store, source_tree: SourceTree, data: bytes
) -> None:
    entry = publish_fake(cache, UNIT, source_tree, b"code")
    entry.path.write_bytes(data)
    assert isinstance(store.damage(entry), DamagedArtifactError)
    with pytest.raises(DamagedArtifactError, match=entry.path.name):
        store.read_verified(entry)


BAD_META: list[Any] = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b"5",
    b"null",
    b"[" * 100000,
    {"artifact": None},
    {"artifact": {"name": "../../x.co", "size": 4, "sha256": "0" * 64}},
    {"artifact": {"name": "..", "size": 4, "sha256": "0" * 64}},
    {"artifact": {"name": "", "size": 4, "sha256": "0" * 64}},
    {"artifact": {"name": "x\0y", "size": 4, "sha256": "0" * 64}},
    {"artifact": {"name": "toy.co", "size": "4", "sha256": "0" * 64}},
    {"artifact": {"name": "toy.co", "size": 4, "sha256": 0}},
    {"headers": None},
    {"headers": ["csrc/include/aiterlite/toy.h"]},
    {"headers": {"csrc/include/aiterlite/toy.h": 5}},
    {"toolchain": {}},
    {"toolchain": {"fingerprint": "one"}},
    {"toolchain": {"fingerprint": "one", "title": 5}},
    {"unit": {"name": "toy/toy"}},
    {"unit": "toy/toy"},
    {"unit": {**UNIT.to_json(), "target": "gfx950"}},
    {"unit": {**UNIT.to_json(), "flags": ["-fpass-plugin"]}},
    {"key": "0" * 40},
    {"key_parts": {}},
    {"resources": None},
    {"resources": {"toy": 5}},
    {"resources": {"toy": {"vgprs": "many"}}},
    {"build_seconds": "long"},
    {"build_seconds": None},
    {"built_at": 5},
    {"toolchain": {"fingerprint": "one", "title": "clang \x1b]0;x\x07"}},
]


@pytest.mark.parametrize("bad", BAD_META, ids=lambda bad: repr(bad)[:60])
def test_metadata_of_another_form_is_damage_and_nothing_worse(cache: Store, source_tree: SourceTree, bad: Any) -> None:
    entry = publish_fake(cache, UNIT, source_tree, b"code")
    text = bad if isinstance(bad, bytes) else json.dumps({**entry.meta, **bad}).encode()
    (entry.directory / "meta.json").write_bytes(text)
    (found,) = entries(cache, source_tree)
    assert isinstance(found, DamagedArtifactError) and str(entry.directory) in str(found)
    result = engine.lookup(engine.wanted(UNIT, source_tree), cache)
    assert result.entry is None and len(result.damaged) == 1


@pytest.mark.parametrize("place", ["key", "leaf", "unit"])
def test_a_leaf_that_was_copied_elsewhere_is_no_hit_there(cache: Store, source_tree: SourceTree, place: str) -> None:
    """Its bytes are another kernel's: under `A=2` a call would run what was built for `A=1`."""
    one, two = toy_unit("gfx942", A="1"), toy_unit("gfx942", A="2")
    entry = publish_fake(cache, one, source_tree, b"built for A=1")
    want = engine.wanted(two, source_tree)
    target = entry.directory.parent.with_name(want.key) / entry.directory.name
    if place == "leaf":
        want = engine.wanted(one, source_tree)
        target = entry.directory.with_name("0" * 24)
    elif place == "unit":
        other = dataclasses.replace(one, name="toy/other")
        want = engine.wanted(other, source_tree)
        target = cache.writable.leaves / "toy.other" / want.key / entry.directory.name
    shutil.copytree(entry.directory, target)
    if place == "leaf":
        shutil.rmtree(entry.directory)
    found = engine.lookup(want, cache)
    assert found.entry is None and "it belongs at toy.toy/" in str(found.damaged[0])


@pytest.mark.parametrize("name", ["meta.json", "toy.co"])
def test_a_pipe_in_a_leaf_is_damage_and_is_not_waited_for(cache: Store, source_tree: SourceTree, name: str) -> None:
    entry = publish_fake(cache, UNIT, source_tree)
    (entry.directory / name).unlink()
    os.mkfifo(entry.directory / name)
    found = engine.lookup(engine.wanted(UNIT, source_tree), cache)
    assert found.entry is None and "it is no regular file" in str(found.damaged[0])


# Layers and trust -----------------------------------------------------------------------------------------------------


def layered(tmp_path: Path, **settings: bool) -> tuple[Store, Store]:
    """A store of one layer, and a store in which that layer is read-only under a writable one."""
    below = Store((Layer(tmp_path / "layer", writable=True),))
    return below, Store((Layer(tmp_path / "layer", **settings), Layer(tmp_path / "cache", writable=True)))


def test_read_only_layers_come_first_and_are_never_written(tmp_path: Path, source_tree: SourceTree) -> None:
    below, both = layered(tmp_path)
    in_layer = publish_fake(below, UNIT, source_tree, b"layer")
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "layer").rglob("*"))
    publish_fake(both, UNIT, source_tree, b"local")
    found = [store.read_verified(entry) for entry in entries(both, source_tree) if isinstance(entry, Entry)]
    assert found == [b"layer", b"local"]
    both.discard(in_layer.directory)
    store.collect(both, 0)
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "layer").rglob("*")) == before
    assert [entry.layer.root.name for entry in entries(both, source_tree) if isinstance(entry, Entry)] == ["layer"]


UNTRUSTED = ["layer", "layer/v1/toy.toy", "key", "leaf", "leaf/meta.json", "leaf/toy.co"]


def path_in(name: str, layer: Path, entry: Entry) -> Path:
    if name.startswith("leaf"):
        return entry.directory / name[5:]
    return entry.directory.parent if name == "key" else layer.parent / name


@pytest.mark.parametrize("name", UNTRUSTED)
@pytest.mark.parametrize("bits", [0o020, 0o002])
def test_what_others_may_write_is_refused(tmp_path: Path, source_tree: SourceTree, name: str, bits: int) -> None:
    below, both = layered(tmp_path)
    entry = publish_fake(below, UNIT, source_tree)
    path = path_in(name, tmp_path / "layer", entry)
    path.chmod(mode(path) | bits)
    with pytest.raises(UntrustedArtifactError, match="may be written by others.*AITERLITE_TRUSTED_LAYERS"):
        entries(both, source_tree)
    _, trusting = layered(tmp_path, trusted=True)
    assert isinstance(entries(trusting, source_tree)[0], Entry)


@as_root
@pytest.mark.parametrize("name", UNTRUSTED)
def test_what_belongs_to_another_user_is_refused(tmp_path: Path, source_tree: SourceTree, name: str) -> None:
    below, both = layered(tmp_path)
    entry = publish_fake(below, UNIT, source_tree)
    os.chown(path_in(name, tmp_path / "layer", entry), 12345, -1)
    with pytest.raises(UntrustedArtifactError, match="belongs to user 12345"):
        entries(both, source_tree)
    _, trusting = layered(tmp_path, trusted=True)
    assert isinstance(entries(trusting, source_tree)[0], Entry)


@as_root
def test_a_link_that_another_user_made_is_refused(tmp_path: Path, source_tree: SourceTree) -> None:
    """In a shared temporary directory another user can put a link to a directory of the victim's own."""
    below, _ = layered(tmp_path)
    publish_fake(below, UNIT, source_tree)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "layer")
    linked = Store((Layer(link, writable=True),))
    assert isinstance(entries(linked, source_tree)[0], Entry)
    os.chown(link, 12345, -1, follow_symlinks=False)
    with pytest.raises(UntrustedArtifactError, match="12345"):
        entries(linked, source_tree)
    with pytest.raises(UntrustedArtifactError, match="12345"):
        linked.prepare()


def test_a_writable_cache_that_others_may_write_is_refused(cache: Store) -> None:
    root = cache.writable.root
    root.mkdir(mode=0o777)
    root.chmod(0o777)
    with pytest.raises(UntrustedArtifactError, match="mode 777"):
        cache.prepare()


def test_an_untrusted_relative_does_not_hide_the_others(cache: Store, source_tree: SourceTree) -> None:
    good = publish_fake(cache, toy_unit("gfx942", A="1"), source_tree)
    bad = publish_fake(cache, toy_unit("gfx942", A="2"), source_tree)
    bad.path.chmod(0o666)
    assert [entry.path for entry in cache.siblings(UNIT.name)] == [good.path]


def test_the_environment_names_trusted_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = (str(tmp_path / name) for name in ("one", "two", "three"))
    monkeypatch.setenv("AITERLITE_CACHE_LAYERS", f"{one}:{two}")
    monkeypatch.setenv("AITERLITE_TRUSTED_LAYERS", f"{two}:{three}")
    monkeypatch.setenv("AITERLITE_CACHE_DIR", str(tmp_path / "cache"))
    envs.reload()
    opened = [(str(layer.root), layer.trusted, layer.writable) for layer in store.open_store().layers]
    assert opened == [
        (one, False, False),
        (two, True, False),
        (three, True, False),
        (str(tmp_path / "cache"), False, True),
    ]


# Where the writable layer lies ----------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Opens the store with this HOME and no named cache; temporary files lie under tmp_path."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for name in ("AITERLITE_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def open_with(path: str | None, **variables: str) -> Store:
        if path is None:
            monkeypatch.delenv("HOME", raising=False)
        else:
            monkeypatch.setenv("HOME", path)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        envs.reload()
        return store.open_store()

    return open_with


def fallback(tmp_path: Path) -> Path:
    return tmp_path / "temporary" / f"aiterlite-{os.getuid()}"


def test_the_user_s_cache_directory_is_the_default(tmp_path: Path, home: Any) -> None:
    assert home(str(tmp_path)).prepare() == tmp_path / ".cache" / "aiterlite"
    assert home(str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "xdg")).prepare() == tmp_path / "xdg" / "aiterlite"


@pytest.mark.parametrize("path", ["/proc/nonexistent", "/dev/null", "/proc/self/fdinfo"])
def test_a_home_that_cannot_be_written_falls_back_to_a_private_temporary_directory(
    tmp_path: Path, home: Any, path: str
) -> None:
    root = home(path).prepare()
    assert root == fallback(tmp_path)
    assert mode(root) == 0o700


def test_a_user_without_a_home_falls_back_too(tmp_path: Path, home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> Any:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    assert home(None).prepare() == fallback(tmp_path)
    assert not (tmp_path / "~").exists()


def test_a_relative_cache_home_is_ignored(tmp_path: Path, home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert home(str(tmp_path), XDG_CACHE_HOME="relative").writable.root == tmp_path / ".cache" / "aiterlite"


@as_root
def test_a_home_of_another_user_falls_back_too(tmp_path: Path) -> None:
    """Containers run as some user with HOME=/root, of which that user may not even know what is in it."""
    code = """
import pwd
from pathlib import Path
from aiterlite.jit.store import open_store
os.setgid(12345); os.setuid(12345)
root = open_store().prepare()
result = [str(root), [str(layer.root) for layer in open_store().layers]]
"""
    (tmp_path / ".cache" / "aiterlite").mkdir(parents=True)
    tmp_path.chmod(0o700)
    with tempfile.TemporaryDirectory() as shared:
        os.chmod(shared, 0o777)
        report = child(code, HOME=str(tmp_path), TMPDIR=shared, AITERLITE_CACHE_DIR=None, XDG_CACHE_HOME=None)
        assert report["result"] == [f"{shared}/aiterlite-12345", [f"{shared}/aiterlite-12345"]]


def test_an_unreadable_layer_is_an_error_of_this_package(
    tmp_path: Path, source_tree: SourceTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    below, both = layered(tmp_path)
    publish_fake(below, UNIT, source_tree)

    def refuse(path: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CacheDirectoryError, match=f"{tmp_path / 'layer'}.*Permission denied"):
        entries(both, source_tree)


def test_a_read_only_home_cache_is_still_read(
    tmp_path: Path, home: Any, source_tree: SourceTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_fake(home(str(tmp_path)), UNIT, source_tree, b"from home")
    read_only = tmp_path / ".cache" / "aiterlite"
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, how: Path(path) != read_only and access(path, how))
    opened = home(str(tmp_path))
    assert [layer.root for layer in opened.layers] == [read_only, fallback(tmp_path)]
    assert [store.read_verified(entry) for entry in entries(opened, source_tree) if isinstance(entry, Entry)] == [
        b"from home"
    ]


def test_a_named_cache_that_cannot_be_made_is_an_error() -> None:
    expected = pytest.raises(CacheDirectoryError, match="/proc/nonexistent/cache.*AITERLITE_CACHE_DIR")
    with envs.override(AITERLITE_CACHE_DIR="/proc/nonexistent/cache"), expected:
        store.open_store().prepare()


def test_opening_a_store_makes_no_named_directory(tmp_path: Path) -> None:
    with envs.override(AITERLITE_CACHE_DIR=str(tmp_path / "cache")):
        list(store.open_store().all_entries())
    assert not (tmp_path / "cache").exists()


# A layer that root made -----------------------------------------------------------------------------------------------

SERVE = """
from pathlib import Path
from aiterlite import target
from aiterlite.cli import main
from aiterlite.errors import JitError
from aiterlite.jit import engine
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.spec import Unit
os.setgid(12345); os.setuid(12345)
try:
    artifact = engine.obtain(Unit.from_json(json.loads(sys.argv[1])), tree=SourceTree(Path(sys.argv[2])))
    result = [artifact.data.decode(), str(artifact.entry.layer.root), main(["verify"])]
except JitError as error:
    result = str(error)
"""


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A directory that every user may read, under the umask of an image build."""
    before = os.umask(0o022)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
    os.umask(before)


@as_root
@pytest.mark.parametrize("how", ["import", "build"])
def test_what_root_places_in_an_image_serves_another_user(
    shared: Path, monkeypatch: pytest.MonkeyPatch, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe of docs/prebuild.md, down to the user who serves."""
    shutil.copytree(TOY_TREE, shared / "tree")
    tree = SourceTree(shared / "tree")
    publish_fake(Store((Layer(shared / "ci", writable=True),)), UNIT, tree, b"code")
    if how == "import":
        bundle.export(Store((Layer(shared / "ci"),)), shared / "kernels.tar")
        monkeypatch.setenv("AITERLITE_CACHE_DIR", str(shared / "layer"))
        envs.reload()
        assert main(["import", str(shared / "kernels.tar")]) == 0
    else:
        publish_fake(Store((Layer(shared / "layer", writable=True),)), UNIT, tree, b"code")
    served = {"AITERLITE_JIT": "require-cache", "HOME": "/nonexistent", "AITERLITE_CACHE_DIR": None}
    trusted = {"AITERLITE_TRUSTED_LAYERS": str(shared / "layer"), **served}
    arguments = json.dumps(UNIT.to_json()), str(tree.root)
    assert child(SERVE, *arguments, **trusted)["result"] == ["code", str(shared / "layer"), 0]
    untrusted = {"AITERLITE_CACHE_LAYERS": str(shared / "layer"), **served}
    assert "belongs to user 0, not to user 12345" in child(SERVE, *arguments, **untrusted)["result"]


# A file system from which nothing may be executed ---------------------------------------------------------------------


def test_a_mount_without_exec_is_told_from_others(noexec: Path, tmp_path: Path) -> None:
    for path in (noexec, noexec / "not there" / "yet"):
        assert store.mounted_noexec(path)
    assert not store.mounted_noexec(tmp_path)
    layer = Layer(noexec / "cache", writable=True)
    assert "noexec" in layer.noexec and "AITERLITE_CACHE_DIR" in layer.noexec
    assert Layer(tmp_path).noexec == ""


# Collecting and sweeping ----------------------------------------------------------------------------------------------


def test_the_longest_unused_artifacts_are_collected_first(cache: Store, source_tree: SourceTree) -> None:
    made = [publish_fake(cache, toy_unit("gfx942", A=str(index)), source_tree, b"x" * 1000) for index in range(3)]
    for age, entry in zip((3, 1, 2), made, strict=True):
        os.utime(entry.directory / "meta.json", (time.time() - age * 7200,) * 2)
    store.mark_used(made[0])
    deleted = store.collect(cache, made[0].size() + 10)
    assert [entry.path for entry in deleted] == [made[2].path, made[1].path]
    assert made[0].path.exists() and not made[1].directory.exists()
    assert store.collect(cache, 10**9) == []


def test_a_use_is_remembered_to_the_hour(cache: Store, source_tree: SourceTree) -> None:
    entry = publish_fake(cache, UNIT, source_tree)
    path = entry.directory / "meta.json"
    recent = time.time() - 60
    os.utime(path, (recent, recent))
    store.mark_used(entry)
    assert path.stat().st_mtime == pytest.approx(recent, abs=1)


def test_an_artifact_that_another_process_collects_is_no_error(cache: Store, source_tree: SourceTree) -> None:
    entry = publish_fake(cache, UNIT, source_tree)
    cache.discard(entry.directory)
    cache.discard(entry.directory)
    assert entries(cache, source_tree) == []


def test_only_old_staging_directories_are_swept(cache: Store) -> None:
    old, new = cache.staging("toy"), cache.staging("toy")
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    assert cache.sweep() == 1
    assert new.exists() and not old.exists()


def test_what_vanishes_while_it_is_looked_at_is_no_error(
    cache: Store, source_tree: SourceTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process sweeps, collects or keeps failures at the same time."""
    entry = publish_fake(cache, UNIT, source_tree)
    staged = cache.staging("toy")
    gone = cache.writable.root / "gone"
    monkeypatch.setattr(store, "_subdirectories", lambda path: [gone] if path.name in ("tmp", "failed") else [])
    vanished = Entry(entry.layer, gone, entry.meta)
    monkeypatch.setattr(Store, "survey", lambda self: [(entry.layer, gone, vanished)])
    assert cache.keep_failure(staged).exists()
    cache.sweep()
    store.collect(cache, 0)
    store.discard_damaged(cache)


def test_a_build_sweeps_what_killed_ones_left(cache: Store, source_tree: SourceTree) -> None:
    old = cache.staging("toy")
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    engine.obtain(UNIT, tree=source_tree, store=cache)
    assert not old.exists()


def test_only_the_last_failures_are_kept(cache: Store) -> None:
    kept = []
    for index in range(store._KEPT_FAILURES + 3):
        staged = cache.staging("toy")
        os.utime(staged, (index, index))
        kept.append(cache.keep_failure(staged))
    assert [path.exists() for path in kept] == [False] * 3 + [True] * store._KEPT_FAILURES


def test_metadata_is_written_as_ascii_whatever_the_locale(tmp_path: Path, source_tree: SourceTree) -> None:
    meta = fake_meta(UNIT, source_tree, b"x", {"csrc/h\u00e4der.h": "0"}, "one")
    meta["toolchain"]["title"] = "\u6a21 compiler"
    code = """
from pathlib import Path
from aiterlite.jit.store import Layer, Store, read_entry
store = Store((Layer(Path(sys.argv[1]), writable=True),))
staged = store.staging("toy")
(staged / "toy.co").write_bytes(b"x")
result = store.publish(staged, json.loads(sys.argv[2]), "k", "l").meta["toolchain"]["title"]
"""
    report = child(
        code, str(tmp_path / "c\u00e4che"), json.dumps(meta), LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    )
    assert report["result"] == "\u6a21 compiler"
