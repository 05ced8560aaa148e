"""Traps: what compilers were seen to do silently, and what would make a cached artifact a lie."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support import (
    AMD_TARGET,
    DEVICE_TARGETS,
    HOST_TARGET,
    NO_DEPENDENCY_FLAGS,
    SCALE_HEADER,
    TARGETS,
    append,
    edit,
    needed_libraries,
    toy_unit,
    use_compiler,
    wrap_compiler,
)

from aiterlite import envs
from aiterlite.errors import BuildError, JitError, SourceError
from aiterlite.jit import toolchain
from aiterlite.jit.engine import obtain
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.store import open_store

pytestmark = [pytest.mark.compile, pytest.mark.usefixtures("cache_dir")]


@pytest.mark.parametrize("target", TARGETS)
def test_a_compiler_that_lists_nothing_is_not_believed(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """The trap: a dependency flag that is accepted, a status of 0, and no list. Cached, it would never rebuild."""
    elsewhere = '"$@" -Xclang -dependency-file -Xclang /dev/null'
    arguments = elsewhere if target == AMD_TARGET else NO_DEPENDENCY_FLAGS
    wrapper = wrap_compiler(toy_unit(target).kind, tmp_path / "wrapper", arguments=arguments)
    use_compiler(monkeypatch, toy_unit(target).kind, wrapper.path)
    with pytest.raises(SourceError, match="no usable include list.*not cached"):
        obtain(toy_unit(target), tree=source_tree)
    assert wrapper.compiles() == 1
    assert list(open_store().all_entries()) == []


def test_a_list_without_the_unit_s_own_source_is_not_believed(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = f'echo "toy.co: {source_tree.root}/csrc/include/aiterlite/toy.h" > toy.co.d'
    wrapper = wrap_compiler("amd", tmp_path / "wrapper", after=listed)
    use_compiler(monkeypatch, "amd", wrapper.path)
    with pytest.raises(SourceError, match=r"does not name its own source csrc/toy/toy\.hip; not cached"):
        obtain(toy_unit(AMD_TARGET), tree=source_tree)


@pytest.mark.parametrize("target", DEVICE_TARGETS)
def test_a_list_that_was_misread_is_not_believed(source_tree: SourceTree, tmp_path: Path, target: str) -> None:
    """Compilers disagree on how a backslash in a path is written; a header that is not found would go untracked."""
    awkward = SourceTree(tmp_path / "back\\slash")
    shutil.copytree(source_tree.root, awkward.root)
    with pytest.raises(SourceError, match="not cached" if target == AMD_TARGET else "nvcc cannot take"):
        obtain(toy_unit(target), tree=awkward)


@pytest.mark.parametrize("header", ["vector", "stdio.h", "cstdint", "string.h"])
def test_a_host_header_is_not_taken_for_an_amd_unit(source_tree: SourceTree, header: str) -> None:
    edit(
        source_tree,
        "csrc/toy/toy.hip",
        "#include <aiterlite/toy.h>",
        f"#include <aiterlite/toy.h>\n#include <{header}>",
    )
    with pytest.raises(BuildError, match=f"fatal error: '{header}' file not found") as caught:
        obtain(toy_unit(AMD_TARGET), tree=source_tree)
    assert "freestanding" in caught.value.hint


def poison(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets what was seen to leak into compiles; each would fail the compile or change its result."""
    for name in ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "OBJC_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH"):
        monkeypatch.setenv(name, str(folder))
    (folder / "aiterlite/deep").mkdir(parents=True)
    for header in ("stdint.h", "aiterlite/kernel.h", "aiterlite/deep/scale.h", "crt/host_config.h"):
        (folder / header).parent.mkdir(exist_ok=True)
        (folder / header).write_text("#error poisoned\n")
    for library in ("libc.so", "libm.so", "libstdc++.so", "libgcc_s.so"):
        (folder / library).write_text("poisoned")
    for tool in ("ld", "as", "cc1plus"):
        (folder / tool).write_text("#!/bin/sh\nexit 3\n")
        (folder / tool).chmod(0o755)
    monkeypatch.setenv("CXX", "/bin/false")
    monkeypatch.setenv("CC", "/bin/false")
    for name in ("CXXFLAGS", "CFLAGS", "CPPFLAGS", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "LDFLAGS"):
        monkeypatch.setenv(name, "-DTOY_FACTOR=99 -include stdint.h")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "nonsense")
    monkeypatch.setenv("DEPENDENCIES_OUTPUT", str(folder / "leaked.d"))
    monkeypatch.setenv("NVCC_CCBIN", "/bin/false")


@pytest.mark.parametrize("target", TARGETS)
def test_the_environment_does_not_leak_into_a_compile(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    clean = obtain(toy_unit(target), tree=source_tree)
    poison(tmp_path / "poison", monkeypatch)
    with envs.override(AITERLITE_CACHE_DIR=str(tmp_path / "poisoned cache")):
        poisoned = obtain(toy_unit(target), tree=source_tree)
    assert poisoned.built and poisoned.data == clean.data
    assert poisoned.entry.meta["headers"] == clean.entry.meta["headers"]
    assert not (tmp_path / "poison/leaked.d").exists()


@pytest.mark.torch
def test_no_compiler_cache_of_path_stands_in_front_of_the_compiler(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the key nor the toolchain's fingerprint would know of it, and it hides what killed a compiler."""
    for name in ("ccache", "sccache"):
        (tmp_path / name).write_text(f'#!/bin/sh\ntouch "{tmp_path}/used"\nexec "$@"\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert obtain(toy_unit(HOST_TARGET), tree=source_tree).built
    assert not (tmp_path / "used").exists()


@pytest.mark.torch
def test_a_host_unit_is_plain_c(source_tree: SourceTree) -> None:
    """It links nothing of torch or Python, so that it survives their upgrades."""
    needed = needed_libraries(obtain(toy_unit(HOST_TARGET), tree=source_tree).data)
    assert all(name.split(".so")[0] in ("libc", "libm", "libstdc++", "libgcc_s", "ld-linux-x86-64") for name in needed)
    edit(source_tree, "csrc/toy/toy.cpp", "#include <aiterlite/toy.h>", "#include <torch/library.h>")
    with pytest.raises(SourceError, match="no torch"):
        obtain(toy_unit(HOST_TARGET), tree=source_tree)


def test_a_header_that_breaks_a_rule_is_not_cached(source_tree: SourceTree) -> None:
    append(source_tree, SCALE_HEADER, "#if __has_include(<aiterlite/other.h>)\n#endif\n")
    with pytest.raises(SourceError, match=f"{SCALE_HEADER}:3: .*__has_include"):
        obtain(toy_unit(AMD_TARGET), tree=source_tree)
    assert list(open_store().all_entries()) == []


@pytest.mark.parametrize("relative", [SCALE_HEADER, "csrc/toy/toy.hip"])
def test_a_file_edited_while_it_compiles_is_not_cached(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: str
) -> None:
    wrapper = wrap_compiler("amd", tmp_path / "wrapper", after=f'echo "// edited" >> "{source_tree.root / relative}"')
    use_compiler(monkeypatch, "amd", wrapper.path)
    with pytest.raises(SourceError, match=f"{relative} changed while"):
        obtain(toy_unit(AMD_TARGET), tree=source_tree)
    assert list(open_store().all_entries()) == [] and list((open_store().writable.root / "tmp").iterdir()) == []
    monkeypatch.delenv("AITERLITE_AMDGPU_CLANG")
    envs.reload()
    assert obtain(toy_unit(AMD_TARGET), tree=source_tree).built


def test_a_source_edited_between_its_key_and_its_compile_is_not_cached(
    source_tree: SourceTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a process waits for a lock its source may change: the new bytes must not lie under the old key."""
    probe = toolchain.probe

    def edit_and_probe(*arguments: Any) -> Any:
        edit(source_tree, "csrc/toy/toy.hip", "TOY_FACTOR;", "TOY_FACTOR + 1;")
        return probe(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(toolchain, "probe", edit_and_probe)
        with pytest.raises(SourceError, match=r"csrc/toy/toy\.hip changed"):
            obtain(toy_unit(AMD_TARGET), tree=source_tree)
    assert list(open_store().all_entries()) == []


def test_compilers_are_started_without_a_shell_and_without_input(
    source_tree: SourceTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    popen = subprocess.Popen

    def watched(words: Any, *rest: Any, **options: Any) -> Any:
        started.append((words, options))
        return popen(words, *rest, **options)

    monkeypatch.setattr(subprocess, "Popen", watched)
    with pytest.raises(SourceError, match="no define value that a unit may have"):
        obtain(toy_unit(AMD_TARGET, TOY_FACTOR="1;touch${IFS}injected"), tree=source_tree)
    assert started == []
    obtain(toy_unit(AMD_TARGET), tree=source_tree)
    assert started
    for words, options in started:
        assert isinstance(words, list) and not options.get("shell")
        assert options["stdin"] == subprocess.DEVNULL
    assert not list(source_tree.root.rglob("injected")) and not list(open_store().writable.root.rglob("injected"))


EVIL = [
    '"',
    "$",
    "$(touch injected)",
    "`touch injected`",
    '"; touch injected; "',
    "'",
    ",",
    "\\",
    ";touch injected;",
    "&",
]


@pytest.mark.parametrize(
    ("target", "evil"),
    [
        *(pytest.param("sm_90a", evil, marks=pytest.mark.nvcc) for evil in EVIL),
        *((AMD_TARGET, evil) for evil in EVIL),
        *(pytest.param(HOST_TARGET, evil, marks=pytest.mark.torch) for evil in EVIL[2:5]),
    ],
)
def test_no_part_of_a_path_is_run_by_a_shell(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, evil: str
) -> None:
    """nvcc puts paths between double quotes of a shell's command line. What cannot be built is refused."""
    folder = tmp_path / f"a{evil}b"
    shutil.copytree(source_tree.root, folder / "tree")
    refused = []
    for cache, tree in ((folder / "cache", source_tree), (tmp_path / "cache", SourceTree(folder / "tree"))):
        with envs.override(AITERLITE_CACHE_DIR=str(cache)):
            try:
                assert obtain(toy_unit(target), tree=tree).built
            except JitError as error:
                refused.append(str(error))
                assert target == "sm_90a" or tree is not source_tree
                remedy = "nvcc cannot take .*(AITERLITE_CACHE_DIR|install the package) .*another path"
                assert target != "sm_90a" or re.search(remedy, str(error))
    assert list(tmp_path.rglob("injected")) == [] and not Path("injected").exists()
    if target == "sm_90a":
        assert len(refused) == {"'": 1, ",": 1, "\\": 1, ";touch injected;": 0, "&": 0}.get(evil, 2)
