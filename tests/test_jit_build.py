"""Units through real compilers: what rebuilds what, what no compiler may do, and errors for people."""

from __future__ import annotations

import errno
import importlib.machinery
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import (
    AMD_TARGET,
    HOST_TARGET,
    PLAIN_HEADER,
    SCALE_HEADER,
    TARGETS,
    append,
    assembly_unit,
    edit,
    is_running,
    plain_unit,
    publish_fake,
    toy_unit,
    use_compiler,
    wait_for,
    wrap_compiler,
)

from aiterlite import envs
from aiterlite.errors import (
    BuildError,
    BuildTimeoutError,
    LockTimeoutError,
    MissingArtifactError,
    ToolchainNotFoundError,
)
from aiterlite.jit import compiler, engine, locks, toolchain
from aiterlite.jit.engine import obtain
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.store import Layer, Store, open_store

pytestmark = [pytest.mark.compile, pytest.mark.usefixtures("cache_dir")]

# What rebuilds what ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_a_unit_rebuilds_when_its_bytes_may_change_and_only_then(
    source_tree: SourceTree, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """Touch all: nothing. A nested header: its unit and no other. Back again, moved checkout, moved cache: nothing."""
    toy, plain = toy_unit(target), plain_unit(target)
    files = sorted(source_tree.root.rglob("*"))
    first = obtain(toy, tree=source_tree)
    assert first.built and obtain(plain, tree=source_tree).built
    assert first.entry.meta["headers"].keys() >= {SCALE_HEADER, "csrc/include/aiterlite/toy.h"}
    assert PLAIN_HEADER not in first.entry.meta["headers"]

    for path in source_tree.root.rglob("*"):
        path.touch()
    assert not obtain(toy, tree=source_tree).built and not obtain(plain, tree=source_tree).built
    assert sorted(source_tree.root.rglob("*")) == files  # an installed package may be read-only

    edit(source_tree, SCALE_HEADER, "3", "4")
    changed = obtain(toy, tree=source_tree)
    assert changed.built and changed.data != first.data
    assert not obtain(plain, tree=source_tree).built

    edit(source_tree, SCALE_HEADER, "4", "3")
    assert obtain(toy, tree=source_tree).data == first.data

    moved = SourceTree(tmp_path / "another place" / "tr\u00e9e")
    shutil.copytree(source_tree.root, moved.root)
    shutil.move(cache_dir, tmp_path / "another cache")
    with envs.override(AITERLITE_CACHE_DIR=str(tmp_path / "another cache")):
        assert obtain(toy, tree=moved, build=False).data == first.data

    # A cold build of a copy elsewhere, into a cache elsewhere, with awkward names: the same bytes.
    with envs.override(AITERLITE_CACHE_DIR=str(tmp_path / "c\u00e4che with spaces")):
        again = obtain(toy, tree=moved)
        assert again.built and again.data == first.data
        assert again.entry.meta["headers"] == first.entry.meta["headers"]


def test_assembly_rebuilds_when_its_shared_header_changes(source_tree: SourceTree) -> None:
    unit = assembly_unit()
    first = obtain(unit, tree=source_tree)
    assert not obtain(unit, tree=source_tree).built
    edit(source_tree, SCALE_HEADER, "3", "4")
    assert obtain(unit, tree=source_tree).data != first.data


def test_assembly_has_one_include_root_too(source_tree: SourceTree) -> None:
    """With two, a new file in the first would shadow one in the second, and every cached artifact would still fit."""
    (source_tree.root / "asm/include/aiterlite").mkdir(parents=True)
    (source_tree.root / "asm/include/aiterlite/only_here.h").write_text("")
    edit(source_tree, "asm/toy/toy_gfx942.S", "#include <aiterlite/kernel_asm.inc>", "#include <aiterlite/only_here.h>")
    with pytest.raises(BuildError, match=r"only_here\.h.*file not found"):
        obtain(assembly_unit(), tree=source_tree)


@pytest.mark.parametrize("link", ["header", "folder", "checkout"])
def test_a_checkout_made_of_links_is_a_checkout(source_tree: SourceTree, tmp_path: Path, link: str) -> None:
    """Some installers link each file, or a folder, into a store elsewhere."""
    tree = source_tree
    if link == "checkout":
        tree = SourceTree(tmp_path / "link")
        tree.root.symlink_to(source_tree.root)
    else:
        place = source_tree.root / (SCALE_HEADER if link == "header" else "csrc")
        shutil.move(place, tmp_path / "store")
        place.symlink_to(tmp_path / "store")
    first = obtain(toy_unit(AMD_TARGET), tree=tree)
    assert SCALE_HEADER in first.entry.meta["headers"]
    edit(tree, SCALE_HEADER, "3", "4")
    assert obtain(toy_unit(AMD_TARGET), tree=tree).data != first.data


def test_a_header_of_any_name_is_tracked(source_tree: SourceTree) -> None:
    (source_tree.root / "csrc/include/aiterlite/table.def").write_text("#define TABLE 5\n")
    edit(source_tree, "csrc/toy/toy.hip", "TOY_FACTOR", "TABLE")
    edit(source_tree, "csrc/toy/toy.hip", "toy.h>", "toy.h>\n#include <aiterlite/table.def>")
    first = obtain(toy_unit(AMD_TARGET), tree=source_tree)
    edit(source_tree, "csrc/include/aiterlite/table.def", "5", "6")
    assert obtain(toy_unit(AMD_TARGET), tree=source_tree).data != first.data


def test_an_editor_s_dangling_lock_link_is_no_source(source_tree: SourceTree) -> None:
    (source_tree.root / "csrc/toy/.#toy.hip").symlink_to("user@host.1234:567")
    assert obtain(toy_unit(AMD_TARGET), tree=source_tree).built


# Preludes -------------------------------------------------------------------------------------------------------------

PRELUDE = replace(toy_unit(HOST_TARGET), prelude="aiterlite/plain.h")
HOST_COMPILERS = [path for name in ("g++", "clang++", "clang++-19") if (path := shutil.which(name))]


def compiler_that(folder: Path, real: str, on_prelude: str = ":", on_source: str = ":") -> Path:
    """A host compiler that first runs a line of shell where it compiles a prelude, or what begins with one, and logs
    each of these commands."""
    folder.mkdir()
    path = folder / "c++"
    path.write_text(
        f"""#!/bin/sh
case "$*" in
*c++-header*) echo "prelude" >> {folder}/log; "{real}" "$@" && {{ {on_prelude}; }} ;;
*" prelude.h "*) echo "source" >> {folder}/log; {on_source}; exec "{real}" "$@" ;;
*) exec "{real}" "$@" ;;
esac
"""
    )
    path.chmod(0o755)
    return path


@pytest.mark.torch
@pytest.mark.parametrize("real", HOST_COMPILERS)
def test_a_prelude_is_compiled_once_and_tracked(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real: str
) -> None:
    """Each source takes the compiled form: its text is gone by then, where the compiler does not hold it against it.
    It counts as a header that the unit reads, though no source includes it."""
    gone = "echo '#error read again' > prelude.h" if "clang" not in real else ":"
    use_compiler(monkeypatch, "host", compiler_that(tmp_path / "real", real, on_prelude=gone))
    unit = replace(PRELUDE, sources=(*PRELUDE.sources, "csrc/toy/plain.cpp"), symbols=("toy_scale", "plain_value"))
    first = obtain(unit, tree=source_tree)
    assert first.built and {PLAIN_HEADER, SCALE_HEADER} <= first.entry.meta["headers"].keys()
    assert sorted((tmp_path / "real" / "log").read_text().split()) == ["prelude", "source", "source", "source"]
    assert not obtain(unit, tree=source_tree).built
    append(source_tree, PLAIN_HEADER, "#define PLAIN_OTHER 8\n")
    assert obtain(unit, tree=source_tree).built


@pytest.mark.torch
@pytest.mark.parametrize(
    "trouble",
    [
        {"on_prelude": "exit 1"},
        {"on_source": 'if [ -e prelude.h.gch ]; then echo "fatal error: had to relocate PCH"; exit 1; fi'},
    ],
    ids=["not compiled", "not usable"],
)
def test_a_unit_is_built_where_its_prelude_cannot_be_compiled(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: dict[str, str]
) -> None:
    real = toolchain.find("host")
    assert isinstance(real, toolchain.Location)
    use_compiler(monkeypatch, "host", compiler_that(tmp_path / "real", real.executable, **trouble))
    assert PLAIN_HEADER in obtain(PRELUDE, tree=source_tree).entry.meta["headers"]


@pytest.mark.torch
def test_an_error_in_a_prelude_is_told_as_any_other(source_tree: SourceTree) -> None:
    append(source_tree, PLAIN_HEADER, "#error no such thing\n")
    with pytest.raises(BuildError, match=r"plain\.h:3:2: error: #error no such thing"):
        obtain(PRELUDE, tree=source_tree)


@pytest.mark.torch
def test_the_steps_of_a_host_unit_are_counted(source_tree: SourceTree, tmp_path: Path) -> None:
    """The prelude, each source, and the link."""
    staging = tmp_path / "staging"
    staging.mkdir()
    told: list[compiler.Steps] = []
    local = toolchain.probe("host", tmp_path)
    digests = source_tree.digests(PRELUDE.sources)
    compiler.compile_unit(PRELUDE, local, source_tree, digests, staging, told.append)
    assert told[0]() == (2, 3) and compiler.host_steps(PRELUDE, tmp_path) == (0, 3)


# Toolchains -----------------------------------------------------------------------------------------------------------


def test_a_cache_built_by_one_toolchain_serves_another_and_none(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = toy_unit(AMD_TARGET)
    first = obtain(unit, tree=source_tree)
    other = wrap_compiler("amd", tmp_path / "other", version="clang version 99.1")
    with monkeypatch.context() as patch:
        use_compiler(patch, "amd", other.path)
        with envs.override(AITERLITE_JIT="require-cache"):
            assert obtain(unit, tree=source_tree).data == first.data
        assert not obtain(unit, tree=source_tree).built
        with envs.override(AITERLITE_TOOLCHAIN="exact"):
            with envs.override(AITERLITE_JIT="require-cache"), pytest.raises(MissingArtifactError, match="exact"):
                obtain(unit, tree=source_tree)
            assert obtain(unit, tree=source_tree).built and other.compiles() == 1
        # Two fit now: the local toolchain's own is preferred.
        found = obtain(unit, tree=source_tree, build=False)
        assert found.entry.meta["toolchain"]["title"] == "clang version 99.1"
    envs.reload()
    assert obtain(unit, tree=source_tree).entry.directory == first.entry.directory
    with monkeypatch.context() as patch:
        use_compiler(patch, "amd", tmp_path / "nothing")
        with envs.override(AITERLITE_JIT="require-cache"):
            assert not obtain(unit, tree=source_tree).built
        with pytest.raises(ToolchainNotFoundError, match=r"AITERLITE_AMDGPU_CLANG.*aiterlite\[amdgpu\]"):
            obtain(toy_unit(AMD_TARGET, A="1"), tree=source_tree)


def test_a_compiler_s_version_is_asked_once(
    source_tree: SourceTree, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = wrap_compiler("amd", tmp_path / "wrapper", version="clang version 99.1")
    use_compiler(monkeypatch, "amd", wrapper.path)
    obtain(toy_unit(AMD_TARGET), tree=source_tree)
    with monkeypatch.context() as patch:
        patch.setattr(toolchain, "_ask", lambda *_: pytest.fail("asked again"))
        obtain(toy_unit(AMD_TARGET, A="1"), tree=source_tree)
    # Another file at the same path is another compiler.
    text = wrapper.path.read_text().replace("99.1", "99.2")
    wrapper.path.unlink()
    wrapper.path.write_text(text)
    wrapper.path.chmod(0o755)
    assert (
        obtain(toy_unit(AMD_TARGET, A="2"), tree=source_tree).entry.meta["toolchain"]["title"] == "clang version 99.2"
    )


@pytest.mark.parametrize(
    "memo", ["", "{", "[]", '{"x": 5}', "\xff", "[" * 100000, "right keys, wrong values"], ids=lambda memo: memo[:20]
)
def test_a_spoiled_memo_of_versions_is_ignored(source_tree: SourceTree, cache_dir: Path, memo: str) -> None:
    first = obtain(toy_unit(AMD_TARGET), tree=source_tree)
    path = cache_dir / toolchain._MEMO
    if memo.startswith("right"):
        text = path.read_text()
        title = first.entry.meta["toolchain"]["title"]
        assert title in text
        path.write_text(text.replace(f'"{title}"', "5"))
    else:
        path.write_bytes(memo.encode("latin-1"))
    assert (
        obtain(toy_unit(AMD_TARGET, A="1"), tree=source_tree).entry.meta["toolchain"] == first.entry.meta["toolchain"]
    )


@pytest.mark.nvcc
def test_nvcc_without_a_host_compiler_says_which_is_missing(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_compiler(monkeypatch, "host", tmp_path / "nothing")
    with pytest.raises(ToolchainNotFoundError, match=r"C\+\+ compiler"):
        obtain(toy_unit("sm_90a"), tree=source_tree)


# Damage ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "metadata emptied", "metadata spoiled"])
def test_a_damaged_artifact_is_rebuilt_once_and_healed(source_tree: SourceTree, damage: str) -> None:
    first = obtain(toy_unit(AMD_TARGET), tree=source_tree)
    meta = first.entry.directory / "meta.json"
    if damage == "truncated":
        first.entry.path.write_bytes(first.data[:-1])
    elif damage == "flipped":
        first.entry.path.write_bytes(first.data[:100] + bytes([first.data[100] ^ 1]) + first.data[101:])
    elif damage == "emptied":
        first.entry.path.write_bytes(b"")
    else:
        meta.write_text("" if damage == "metadata emptied" else '{"artifact": 5}')
    healed = obtain(toy_unit(AMD_TARGET), tree=source_tree)
    assert healed.built and healed.data == first.data
    assert not obtain(toy_unit(AMD_TARGET), tree=source_tree).built
    assert [entry.path for entry in open_store().all_entries()] == [first.entry.path]


@pytest.mark.parametrize("file", ["toy.co", "meta.json"])
def test_a_damaged_artifact_of_another_toolchain_is_healed_too(source_tree: SourceTree, file: str) -> None:
    other = publish_fake(open_store(), toy_unit(AMD_TARGET), source_tree, b"other")
    (other.directory / file).write_text("")
    first = obtain(toy_unit(AMD_TARGET), tree=source_tree)
    assert first.built and first.entry.directory != other.directory
    assert [entry.path for entry in open_store().all_entries()] == [first.entry.path]


def test_what_another_process_healed_meanwhile_is_left_alone(
    source_tree: SourceTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a look at a damaged artifact and the lock, its healthy successor may take its place."""
    first = obtain(toy_unit(AMD_TARGET), tree=source_tree)
    first.entry.path.write_bytes(b"")
    lookup = engine.lookup

    def look_then_heal(*arguments: Any) -> engine.Lookup:
        found = lookup(*arguments)
        if found.damaged:
            monkeypatch.setattr(engine, "lookup", lookup)
            assert obtain(toy_unit(AMD_TARGET), tree=source_tree).built
        return found

    monkeypatch.setattr(engine, "lookup", look_then_heal)
    assert not obtain(toy_unit(AMD_TARGET), tree=source_tree).built
    assert list((open_store().writable.root / "tmp").iterdir()) == []


def test_a_damaged_read_only_artifact_is_shadowed(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = publish_fake(
        Store((Layer(tmp_path / "layer", writable=True),)), toy_unit(AMD_TARGET), source_tree, b"layer"
    )
    damaged.path.write_bytes(b"l4yer")
    with envs.override(AITERLITE_CACHE_LAYERS=str(tmp_path / "layer")):
        assert obtain(toy_unit(AMD_TARGET), tree=source_tree).built
        assert not obtain(toy_unit(AMD_TARGET), tree=source_tree, build=False).built
    assert damaged.path.read_bytes() == b"l4yer"


# Errors for people ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_a_failed_compile_names_its_first_error_and_how_to_repeat_it(
    source_tree: SourceTree, tmp_path: Path, target: str
) -> None:
    source = toy_unit(target).sources[0]
    append(source_tree, source, "/* \u6a21 */ int broken = first_problem;\nint more = second_problem;\n")
    with envs.override(AITERLITE_CACHE_DIR=str(tmp_path / "c\u00e4che dir")), pytest.raises(BuildError) as caught:
        obtain(toy_unit(target), tree=source_tree)
    error = caught.value
    line = len((source_tree.root / source).read_text().splitlines()) - 1
    assert "first_problem" in error.diagnostic and "second_problem" not in error.diagnostic
    assert f"{source}:{line}" in error.diagnostic or f"{source}({line})" in error.diagnostic
    assert "second_problem" in Path(error.log).read_text(encoding="utf-8")
    for text in (error.diagnostic, error.log, error.command):
        assert text in str(error)
    bare = {"PATH": str(tmp_path)}
    repeated = subprocess.run(error.command, shell=True, capture_output=True, text=True, env=bare, timeout=60)
    assert repeated.returncode != 0 and "first_problem" in repeated.stdout + repeated.stderr


@pytest.mark.parametrize("packaged", [True, False])
def test_ninja_is_the_package_s_where_its_program_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packaged: bool
) -> None:
    """The package can be importable while its program belongs to another environment; PATH has the last word then."""
    for folder in ("package", "path"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ninja").write_text("")
        (tmp_path / folder / "ninja").chmod(0o755)
    fake = types.ModuleType("ninja")
    fake.__spec__ = importlib.machinery.ModuleSpec("ninja", None)
    vars(fake)["BIN_DIR"] = str(tmp_path / "package") if packaged else ""
    monkeypatch.setitem(sys.modules, "ninja", fake)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert toolchain.find_ninja() == str(tmp_path / ("package" if packaged else "path") / "ninja")
    if packaged:
        (tmp_path / "package" / "ninja").unlink()
        assert toolchain.find_ninja() == str(tmp_path / "path" / "ninja")


def test_what_a_kernel_cannot_link_has_a_hint(source_tree: SourceTree) -> None:
    append(source_tree, "csrc/toy/toy.hip", '\nextern "C" __attribute__((device)) float tanhf(float);\n')
    edit(source_tree, "csrc/toy/toy.hip", "TOY_FACTOR;", "tanhf(out[1]);")
    text = (source_tree.root / "csrc/toy/toy.hip").read_text().splitlines(keepends=True)
    (source_tree.root / "csrc/toy/toy.hip").write_text("".join([*text[:3], text[-1], *text[3:-1]]))
    with pytest.raises(BuildError, match="undefined hidden symbol: tanhf") as caught:
        obtain(toy_unit(AMD_TARGET), tree=source_tree)
    assert "device library" in caught.value.hint


# What goes wrong without a line of a source to name, and words of the diagnostic and of the hint.
UNLOCATED = {
    "killed": ({"before": "kill -9 $$"}, "was killed by SIGKILL", "AITERLITE_MAX_JOBS"),
    "oom": (
        {"before": 'echo "c++: fatal error: Killed signal terminated program cc1plus" >&2; exit 1'},
        "Killed signal terminated",
        "AITERLITE_MAX_JOBS",
    ),
    "flag": ({"arguments": '"$@" -fno-such-flag'}, "-fno-such-flag", "does not know a flag"),
    "silent": ({"before": "exit 3"}, "ended with status 3 and named no error", "^$"),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("fault", UNLOCATED)
def test_what_names_no_line_of_a_source_is_told_as_it_is(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, fault: str
) -> None:
    settings, said, hint = UNLOCATED[fault]
    kind = toy_unit(target).kind
    use_compiler(monkeypatch, kind, wrap_compiler(kind, tmp_path / "wrapper", **settings).path)
    with pytest.raises(BuildError, match=said) as caught:
        obtain(toy_unit(target), tree=source_tree)
    assert "Error building extension" not in caught.value.diagnostic and "\n" not in caught.value.diagnostic
    assert re.search(hint, caught.value.hint)


@pytest.mark.torch
def test_a_linker_s_error_is_the_diagnostic(source_tree: SourceTree) -> None:
    append(source_tree, "csrc/toy/toy.cpp", 'int elsewhere();\nextern "C" int more() { return elsewhere(); }\n')
    with pytest.raises(BuildError, match=r"undefined reference to `elsewhere\(\)'"):
        obtain(toy_unit(HOST_TARGET), tree=source_tree)


@pytest.mark.parametrize("target", TARGETS)
def test_a_disk_that_is_full_when_it_is_linked_has_a_hint(
    source_tree: SourceTree, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """lld dies of a bus error, nvcc fails to preprocess something; neither says why."""
    kind = toy_unit(target).kind
    fill = f'cat /dev/zero > "{small_disk}/fill" 2> /dev/null || :'
    when = {"before": fill} if kind == "cuda" else {"after": fill}
    use_compiler(monkeypatch, kind, wrap_compiler(kind, tmp_path / "wrapper", **when).path)
    with envs.override(AITERLITE_CACHE_DIR=str(small_disk / "cache")), pytest.raises(BuildError) as caught:
        obtain(toy_unit(target), tree=source_tree)
    assert "disk is full" in caught.value.hint, caught.value


@pytest.mark.torch
def test_a_symbol_that_a_library_does_not_export_fails_its_build(source_tree: SourceTree) -> None:
    edit(source_tree, "csrc/toy/toy.cpp", '__attribute__((visibility("default"))) ', "")
    with pytest.raises(BuildError, match="does not export toy_scale"):
        obtain(toy_unit(HOST_TARGET), tree=source_tree)


@pytest.mark.parametrize("broken", ["log", "record", "staging", "publish"])
def test_a_full_disk_is_an_error_of_this_package_with_a_hint(
    source_tree: SourceTree, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    if broken in ("log", "record"):
        append(source_tree, "csrc/toy/toy.hip", "#error No space left on device\n")
    if broken == "log":
        monkeypatch.setattr(Path, "write_text", full)
    else:
        monkeypatch.setattr(Store, {"record": "keep_failure"}.get(broken, broken), full)
    with pytest.raises(BuildError, match="No space left on device") as caught:
        obtain(toy_unit(AMD_TARGET), tree=source_tree)
    assert "disk is full" in caught.value.hint


@pytest.mark.torch
def test_a_hung_compiler_is_killed_with_all_it_started(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ninja gives each compiler a process group of its own, which a signal to the child's group does not reach."""
    wrapper = wrap_compiler("host", tmp_path / "wrapper", before=f'echo $$ > "{tmp_path}/pid"; /bin/sleep 300')
    use_compiler(monkeypatch, "host", wrapper.path)
    monkeypatch.setenv("AITERLITE_BUILD_TIMEOUT", "12")
    envs.reload()
    with pytest.raises(BuildTimeoutError, match="12 s") as caught:
        obtain(toy_unit(HOST_TARGET), tree=source_tree)
    assert "AITERLITE_BUILD_TIMEOUT" in caught.value.hint
    wait_for(lambda: not is_running(int((tmp_path / "pid").read_text())), 60)


# Threads --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_locks", [True, False])
def test_eight_threads_compile_once(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file_locks: bool
) -> None:
    """Also where the file system has no locks: within a process they are not needed."""
    if not file_locks:
        monkeypatch.setattr(locks, "supported", lambda directory: False)
    wrapper = wrap_compiler("amd", tmp_path / "wrapper", before="/bin/sleep 0.3")
    use_compiler(monkeypatch, "amd", wrapper.path)
    barrier = threading.Barrier(8)

    def work(_: int) -> engine.Artifact:
        barrier.wait()
        return obtain(toy_unit(AMD_TARGET), tree=source_tree)

    with ThreadPoolExecutor(8) as pool:
        artifacts = list(pool.map(work, range(8)))
    assert wrapper.compiles() == 1
    assert sum(artifact.built for artifact in artifacts) == 1
    assert len({artifact.data for artifact in artifacts}) == 1


def test_waiting_threads_get_the_builder_s_error(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = wrap_compiler("amd", tmp_path / "wrapper", before="/bin/sleep 0.3")
    use_compiler(monkeypatch, "amd", wrapper.path)
    append(source_tree, "csrc/toy/toy.hip", "int broken = problem;\n")
    barrier = threading.Barrier(8)

    def work(_: int) -> str:
        barrier.wait()
        with pytest.raises(BuildError) as caught:
            obtain(toy_unit(AMD_TARGET), tree=source_tree)
        return str(caught.value)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(work, range(8)))) == 1
    assert wrapper.compiles() == 1


def test_a_waiting_thread_has_a_time_out(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = wrap_compiler("amd", tmp_path / "wrapper", before="/bin/sleep 1.5")
    use_compiler(monkeypatch, "amd", wrapper.path)
    monkeypatch.setenv("AITERLITE_LOCK_TIMEOUT", "0.3")
    envs.reload()
    with ThreadPoolExecutor(1) as pool:
        builder = pool.submit(obtain, toy_unit(AMD_TARGET), tree=source_tree)
        while not wrapper.compiles():
            time.sleep(0.01)
        with pytest.raises(LockTimeoutError, match=f"waited 0.3 s.*process {os.getpid()}"):
            obtain(toy_unit(AMD_TARGET), tree=source_tree)
        assert builder.result().built


def test_compiled_is_what_the_compiler_said(source_tree: SourceTree, tmp_path: Path) -> None:
    """The description that is kept with an artifact."""
    meta = obtain(toy_unit(AMD_TARGET, TOY_FACTOR="2"), tree=source_tree).entry.meta
    assert meta["unit"] == toy_unit(AMD_TARGET, TOY_FACTOR="2").to_json()
    assert meta["artifact"]["name"] == "toy.co" and len(meta["artifact"]["sha256"]) == 64
    assert meta["key_parts"]["defines"] == {"TOY_FACTOR": "2"}
    assert meta["resources"]["toy"]["vgprs"] > 0 and meta["build_seconds"] > 0
    assert "clang" in meta["toolchain"]["title"] and str(tmp_path) not in str(meta["key_parts"])
    assert compiler.Compiled.__doc__
