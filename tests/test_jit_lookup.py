"""What lookup finds and refuses, in every mode. The artifacts are made up: no compiler runs."""

from __future__ import annotations

import ctypes
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support import HOST_TARGET, PLAIN_HEADER, SCALE_HEADER, child, edit, publish_fake, toy_unit

import aiterlite
from aiterlite import envs
from aiterlite.errors import (
    CacheDirectoryError,
    CaptureError,
    DamagedArtifactError,
    JitDisabledError,
    JitError,
    LoadError,
    MissingArtifactError,
    SealedError,
    SourceError,
    UntrustedArtifactError,
)
from aiterlite.jit import engine, loader, process, toolchain
from aiterlite.jit.engine import obtain
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.store import Layer, Store, open_store

UNIT = toy_unit("gfx942")


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever starts a process here fails the test."""

    def refuse(words: Any, *rest: Any) -> Any:
        raise AssertionError(f"started {words}")

    monkeypatch.setattr(process, "run", refuse)


@pytest.fixture
def cached(cache_dir: Path, source_tree: SourceTree) -> SourceTree:
    """A tree whose toy unit is in the cache."""
    publish_fake(open_store(), UNIT, source_tree, b"code")
    return source_tree


@pytest.fixture
def layers(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A read-only layer below the writable cache, as the store that may write to it."""
    monkeypatch.setenv("AITERLITE_CACHE_LAYERS", str(tmp_path / "layer"))
    envs.reload()
    return Store((Layer(tmp_path / "layer", writable=True),))


def set_mode(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("AITERLITE_JIT", mode)
    envs.reload()


# Hits -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "require-cache"])
def test_a_hit_is_the_verified_bytes(cached: SourceTree, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    set_mode(monkeypatch, mode)
    artifact = obtain(UNIT, tree=cached)
    assert artifact.data == b"code" and not artifact.built


def test_touching_every_source_changes_nothing(cached: SourceTree) -> None:
    for path in cached.root.rglob("*"):
        path.touch()
    assert not obtain(UNIT, tree=cached, build=False).built


def test_a_moved_checkout_and_a_moved_cache_hit(
    cached: SourceTree, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = SourceTree(tmp_path / "m\u00f6ved checkout")
    shutil.move(cached.root, moved.root)
    shutil.move(cache_dir, tmp_path / "moved cache")
    monkeypatch.setenv("AITERLITE_CACHE_DIR", str(tmp_path / "moved cache"))
    envs.reload()
    assert obtain(UNIT, tree=moved, build=False).data == b"code"


def test_a_changed_header_is_a_miss_that_names_it(cached: SourceTree) -> None:
    edit(cached, PLAIN_HEADER, "7", "8")
    assert obtain(UNIT, tree=cached, build=False).data == b"code"
    edit(cached, SCALE_HEADER, "3", "4")
    with pytest.raises(MissingArtifactError, match=f"{SCALE_HEADER} changed since"):
        obtain(UNIT, tree=cached, build=False)
    edit(cached, SCALE_HEADER, "4", "3")
    assert obtain(UNIT, tree=cached, build=False).data == b"code"


def test_a_removed_header_is_a_miss(cached: SourceTree) -> None:
    (cached.root / SCALE_HEADER).unlink()
    with pytest.raises(MissingArtifactError, match=SCALE_HEADER):
        obtain(UNIT, tree=cached, build=False)


def test_versions_of_a_header_live_side_by_side(cached: SourceTree) -> None:
    edit(cached, SCALE_HEADER, "3", "4")
    publish_fake(open_store(), UNIT, cached, b"four")
    assert obtain(UNIT, tree=cached, build=False).data == b"four"
    edit(cached, SCALE_HEADER, "4", "3")
    assert obtain(UNIT, tree=cached, build=False).data == b"code"


# Modes ----------------------------------------------------------------------------------------------------------------


def test_require_cache_makes_a_miss_an_error_with_the_command(
    cache_dir: Path, source_tree: SourceTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_mode(monkeypatch, "require-cache")
    with pytest.raises(MissingArtifactError) as caught:
        obtain(UNIT, tree=source_tree)
    error = caught.value
    assert error.unit == UNIT.label and error.searched == (str(cache_dir),)
    assert error.command in str(error) and "no artifact under this key" in str(error)
    assert not cache_dir.exists()


def test_off_neither_builds_nor_loads(cached: SourceTree, monkeypatch: pytest.MonkeyPatch) -> None:
    set_mode(monkeypatch, "off")
    with pytest.raises(JitDisabledError, match="AITERLITE_JIT=off"):
        obtain(UNIT, tree=cached)


def test_a_sealed_process_loads_and_does_not_build(cached: SourceTree) -> None:
    aiterlite.seal()
    assert engine.is_sealed()
    assert obtain(UNIT, tree=cached).data == b"code"
    with pytest.raises(SealedError, match="a=1.*seal"):
        obtain(toy_unit("gfx942", A="1"), tree=cached)
    aiterlite.unseal()
    with pytest.raises(AssertionError, match="started"):
        obtain(toy_unit("gfx942", A="1"), tree=cached)


def test_no_build_starts_while_a_graph_is_captured(cached: SourceTree) -> None:
    assert obtain(UNIT, tree=cached, capturing=lambda: True).data == b"code"
    with pytest.raises(CaptureError, match="captured.*aiterlite build"):
        obtain(toy_unit("gfx942", A="1"), tree=cached, capturing=lambda: True)


def test_a_missing_source_is_an_error(cached: SourceTree) -> None:
    (cached.root / UNIT.sources[0]).unlink()
    with pytest.raises(SourceError, match=UNIT.sources[0]):
        obtain(UNIT, tree=cached)


# Toolchains -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a fingerprint the local toolchain's; `on_record` whether its version is known without asking it."""

    def install(fingerprint: str | None, on_record: bool = True) -> None:
        place = toolchain.Location("amd", ("/nonexistent",))
        found = toolchain.Toolchain(place, f"compiler {fingerprint}", "", str(fingerprint)) if fingerprint else None
        monkeypatch.setattr(toolchain, "find", lambda kind: place if found else None)
        monkeypatch.setattr(toolchain, "known", lambda *_: found if on_record else None)
        monkeypatch.setattr(toolchain, "probe", lambda *_: found)

    return install


@pytest.mark.parametrize("mode", ["auto", "require-cache"])
@pytest.mark.parametrize("fingerprint", ["one", "two", None])
def test_another_toolchain_s_artifact_is_a_hit(
    cached: SourceTree, local: Any, monkeypatch: pytest.MonkeyPatch, mode: str, fingerprint: str | None
) -> None:
    local(fingerprint)
    set_mode(monkeypatch, mode)
    assert obtain(UNIT, tree=cached).data == b"code"


@pytest.mark.parametrize("fingerprint", ["one", "two", "three"])
def test_the_local_toolchain_s_artifact_is_preferred(cached: SourceTree, local: Any, fingerprint: str) -> None:
    for index in ("two", "three"):
        publish_fake(open_store(), UNIT, cached, index.encode(), toolchain=index)
    local(fingerprint)
    assert obtain(UNIT, tree=cached, build=False).data == {"one": b"code"}.get(fingerprint, fingerprint.encode())


@pytest.mark.parametrize("on_record", [True, False])
@pytest.mark.parametrize("mode", ["auto", "require-cache"])
def test_exact_accepts_only_the_local_toolchain_s(
    cached: SourceTree, local: Any, monkeypatch: pytest.MonkeyPatch, mode: str, on_record: bool
) -> None:
    set_mode(monkeypatch, mode)
    with envs.override(AITERLITE_TOOLCHAIN="exact"):
        local("one", on_record)
        assert obtain(UNIT, tree=cached).data == b"code"
        local("two", on_record)
        with pytest.raises(MissingArtifactError, match="built by compiler one, and AITERLITE_TOOLCHAIN=exact"):
            obtain(UNIT, tree=cached, build=False)
        local(None)
        with pytest.raises(MissingArtifactError, match="AITERLITE_TOOLCHAIN=exact"):
            obtain(UNIT, tree=cached, build=False)


# Damage and trust -----------------------------------------------------------------------------------------------------


def test_a_damaged_artifact_is_never_a_hit(cached: SourceTree, cache_dir: Path) -> None:
    (path,) = cache_dir.rglob("toy.co")
    path.write_bytes(b"c0de")
    with pytest.raises(DamagedArtifactError, match=str(path)):
        obtain(UNIT, tree=cached, build=False)


def test_a_whole_artifact_in_another_layer_serves_instead(cached: SourceTree, layers: Store) -> None:
    entry = publish_fake(layers, UNIT, cached, b"layer")
    assert obtain(UNIT, tree=cached, build=False).data == b"layer"
    entry.path.write_bytes(b"l4yer")
    assert obtain(UNIT, tree=cached, build=False).data == b"code"
    (entry.directory / "meta.json").write_text("")
    assert obtain(UNIT, tree=cached, build=False).data == b"code"


def test_a_damaged_read_only_artifact_is_an_error_under_require_cache(
    source_tree: SourceTree, layers: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = publish_fake(layers, UNIT, source_tree, b"layer")
    entry.path.write_bytes(b"")
    set_mode(monkeypatch, "require-cache")
    with pytest.raises(DamagedArtifactError, match=str(entry.path)):
        obtain(UNIT, tree=source_tree)


def test_an_artifact_that_others_may_write_is_refused_until_its_layer_is_trusted(
    source_tree: SourceTree, layers: Store, tmp_path: Path
) -> None:
    entry = publish_fake(layers, UNIT, source_tree, b"layer")
    entry.path.chmod(0o666)
    with pytest.raises(UntrustedArtifactError, match=str(entry.path)):
        obtain(UNIT, tree=source_tree)
    assert engine.why_rebuild(UNIT, tree=source_tree)["hit"] is False
    with envs.override(AITERLITE_TRUSTED_LAYERS=str(tmp_path / "layer")):
        assert obtain(UNIT, tree=source_tree).data == b"layer"


# Loading --------------------------------------------------------------------------------------------------------------


def test_a_library_that_cannot_be_loaded_here_is_named(
    source_tree: SourceTree, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of another toolchain may need a newer C library. Under require-cache, that is what the error says."""
    unit = toy_unit(HOST_TARGET)
    monkeypatch.setattr(engine, "package_tree", lambda: source_tree)
    publish_fake(open_store(), unit, source_tree, b"no library")
    set_mode(monkeypatch, "require-cache")
    with pytest.raises(MissingArtifactError, match=r"toy\.so.*(invalid ELF header|file too short)"):
        loader.host_library(unit)
    set_mode(monkeypatch, "auto")
    with pytest.raises(AssertionError, match="started"):
        loader.host_library(unit)


@pytest.mark.parametrize("mode", ["auto", "require-cache"])
def test_a_library_in_a_cache_that_is_mounted_noexec_is_refused_before_any_compile(
    source_tree: SourceTree, noexec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    unit = toy_unit(HOST_TARGET)
    monkeypatch.setattr(engine, "package_tree", lambda: source_tree)
    monkeypatch.setenv("AITERLITE_CACHE_DIR", str(noexec / "cache"))
    set_mode(monkeypatch, mode)
    envs.reload()
    kind = CacheDirectoryError if mode == "auto" else MissingArtifactError
    for _ in range(2):
        with pytest.raises(JitError, match="mounted noexec|no artifact under this key") as caught:
            loader.host_library(unit)
        assert type(caught.value) is kind and (
            kind is MissingArtifactError or "AITERLITE_CACHE_DIR" in str(caught.value)
        )
        publish_fake(open_store(), unit, source_tree, b"a library")
    assert "mounted noexec" in str(caught.value)
    # A driver is given bytes, so code objects may lie there.
    publish_fake(open_store(), UNIT, source_tree, b"code")
    assert loader.device_image(UNIT) == b"code"


def test_a_read_only_layer_that_is_mounted_noexec_is_passed_over(
    source_tree: SourceTree, noexec: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = toy_unit(HOST_TARGET)
    publish_fake(Store((Layer(noexec / "layer", writable=True),)), unit, source_tree, b"in the layer")
    monkeypatch.setenv("AITERLITE_CACHE_LAYERS", str(noexec / "layer"))
    envs.reload()
    found = engine.lookup(engine.wanted(unit, source_tree), open_store())
    assert found.entry is None and "put the layer elsewhere" in found.reasons[0]
    publish_fake(open_store(), unit, source_tree, b"in the cache")
    assert engine.lookup(engine.wanted(unit, source_tree), open_store()).data == b"in the cache"


def test_a_library_without_its_symbols_is_an_error(
    source_tree: SourceTree, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = toy_unit(HOST_TARGET)
    monkeypatch.setattr(engine, "package_tree", lambda: source_tree)
    libc = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc.so" in line)
    publish_fake(open_store(), unit, source_tree, Path(libc).read_bytes())
    monkeypatch.setattr(ctypes, "CDLL", lambda path, mode: ctypes.PyDLL(None))
    with pytest.raises(LoadError, match="toy_scale"):
        loader.host_library(unit)


# Explaining -----------------------------------------------------------------------------------------------------------


def test_a_miss_is_explained_against_the_nearest_artifact(cached: SourceTree) -> None:
    publish_fake(open_store(), toy_unit("gfx950", A="1", B="2"), cached)
    report = engine.why_rebuild(toy_unit("gfx942", A="1"), tree=cached)
    assert report["hit"] is False and "toy/toy for gfx942" in report["nearest"]
    assert "defines.A: (absent) -> 1" in report["difference"]
    edit(cached, SCALE_HEADER, "3", "4")
    report = engine.why_rebuild(UNIT, tree=cached)
    assert report["reasons"] and report["difference"] == [f"header {SCALE_HEADER}: changed since 2026-01-01T00:00:00Z"]


def test_a_hit_is_explained_by_where_it_lies(cached: SourceTree) -> None:
    report = engine.why_rebuild(UNIT, tree=cached)
    assert report["hit"] is True and report["toolchain"] == "compiler one" and report["difference"] == []
    json.dumps(report)


# A fresh process ------------------------------------------------------------------------------------------------------


def test_a_warm_hit_starts_nothing_and_imports_little(cached: SourceTree, cache_dir: Path) -> None:
    code = """
from pathlib import Path
from aiterlite.jit import engine, loader
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.spec import Unit
tree = SourceTree(Path(sys.argv[2]))
engine.package_tree = lambda: tree
result = loader.device_image(Unit.from_json(json.loads(sys.argv[1]))).decode()
"""
    report = child(code, json.dumps(UNIT.to_json()), str(cached.root))
    assert report["result"] == "code" and report["started"] == []
    heavy = {name.split(".")[0] for name in report["imported"]} & {"filelock", "packaging", "rich", "ninja", "torch"}
    assert heavy == set()
    assert not report["environ_changed"]
