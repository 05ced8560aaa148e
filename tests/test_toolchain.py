"""Which compiler serves which target: where ROCm puts its clang, and what happens where it does not know a target."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import ROCM_6, clang_that_answers, toy_unit

from aiterlite import envs
from aiterlite.errors import ToolchainNotFoundError
from aiterlite.jit import engine, rocm, toolchain
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.spec import AMD, HOST


@pytest.fixture(autouse=True)
def _no_rocm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine's own ROCm is not seen."""
    monkeypatch.delenv("ROCM_PATH", raising=False)
    monkeypatch.delenv("ROCM_HOME", raising=False)
    monkeypatch.setattr(rocm, "_SYSTEM_ROOT", str(tmp_path / "opt" / "rocm"))


def without_ziglang(paths: list[str]) -> list[str]:
    return [path for path in paths if not path.endswith("zig")]


# Where clangs are -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["llvm/bin", "lib/llvm/bin"])
@pytest.mark.parametrize("variable", ["ROCM_PATH", "ROCM_HOME"])
def test_both_layouts_of_rocm_are_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, variable: str
) -> None:
    path = clang_that_answers(tmp_path / "rocm" / layout, "gfx942")
    monkeypatch.setenv(variable, str(tmp_path / "rocm"))
    assert without_ziglang(rocm.clangs()) == [str(path)]
    found = toolchain.find(AMD)
    assert found is not None and found.executable == str(path) and found.lld == (str(path.parent / "ld.lld"),)


def test_a_link_from_one_layout_to_the_other_is_one_clang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clang_that_answers(tmp_path / "opt" / "rocm" / "lib" / "llvm" / "bin", "gfx942")
    (tmp_path / "opt" / "rocm" / "llvm").symlink_to("lib/llvm")
    monkeypatch.setenv("ROCM_PATH", str(tmp_path / "opt" / "rocm"))
    assert len(without_ziglang(rocm.clangs())) == 1


@pytest.mark.parametrize("package", ["_rocm_sdk_core", "_rocm_sdk_devel", "_rocm_sdk_core_7_1_0"])
def test_the_rocm_sdk_wheels_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    path = clang_that_answers(tmp_path / "site [packages]" / package / "lib" / "llvm" / "bin", "gfx942", "gfx950")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site [packages]")])
    assert without_ziglang(rocm.clangs()) == [str(path)]


def test_the_order_is_the_user_s_the_environment_s_the_system_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "own", tmp_path / "site" / "_rocm_sdk_core", tmp_path / "opt" / "rocm"]
    folders += [tmp_path / "opt" / name for name in ("rocm-10.0.0", "rocm-7.0.0", "rocm-6.4.3")]
    paths = [str(clang_that_answers(folder / "lib" / "llvm" / "bin", "gfx942")) for folder in folders]
    monkeypatch.setenv("ROCM_PATH", str(folders[0]))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    assert without_ziglang(rocm.clangs()) == paths


# Which serves what ----------------------------------------------------------------------------------------------------


@pytest.mark.compile
def test_a_rocm_that_does_not_know_a_target_does_not_hide_one_that_does(
    source_tree: SourceTree, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clang_that_answers(tmp_path / "rocm" / "llvm" / "bin", "gfx90a", "gfx942", "gfx9-4-generic")
    monkeypatch.setenv("ROCM_PATH", str(tmp_path / "rocm"))
    made = engine.obtain(toy_unit("gfx950"), tree=source_tree)
    assert made.built and made.entry.meta["toolchain"]["title"] != ROCM_6
    assert toolchain.probe(AMD, cache_dir, "gfx942").title == ROCM_6
    assert toolchain.probe(AMD, cache_dir, "gfx950").title == made.entry.meta["toolchain"]["title"]
    # Without a target, as before: the first.
    assert toolchain.probe(AMD, cache_dir).title == ROCM_6


def test_what_a_clang_knows_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    clang_that_answers(tmp_path / "one" / "llvm" / "bin", "gfx942", log=str(log))
    clang_that_answers(tmp_path / "two" / "llvm" / "bin", "gfx950", version="AMD clang version 20.0.0git", log=str(log))
    monkeypatch.setenv("ROCM_PATH", str(tmp_path / "one"))
    monkeypatch.setenv("ROCM_HOME", str(tmp_path / "two"))
    memo = tmp_path / "memo"
    memo.mkdir()
    assert toolchain.known(AMD, memo, "gfx950") is None
    assert toolchain.probe(AMD, memo, "gfx950").title == "AMD clang version 20.0.0git"
    asked = log.read_text().count("--print-supported-cpus")
    assert asked == 2
    for target, version in (("gfx942", "18"), ("gfx950", "20")):
        for found in (toolchain.probe(AMD, memo, target), toolchain.known(AMD, memo, target)):
            assert found is not None and f"version {version}." in found.title
    assert log.read_text().count("--print-supported-cpus") == asked


def test_a_clang_without_a_linker_does_not_hide_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clang_that_answers(tmp_path / "one" / "llvm" / "bin", "gfx942", lld=False)
    second = clang_that_answers(tmp_path / "two" / "llvm" / "bin", "gfx942")
    monkeypatch.setenv("ROCM_PATH", str(tmp_path / "one"))
    monkeypatch.setenv("ROCM_HOME", str(tmp_path / "two"))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = toolchain.find(AMD)
    assert found is not None and found.executable == str(second)


def test_a_clang_that_does_not_start_does_not_hide_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = clang_that_answers(tmp_path / "one" / "llvm" / "bin", "gfx942")
    broken.write_text("#!/bin/sh\nexit 127\n")
    clang_that_answers(tmp_path / "two" / "llvm" / "bin", "gfx942")
    monkeypatch.setenv("ROCM_PATH", str(tmp_path / "one"))
    monkeypatch.setenv("ROCM_HOME", str(tmp_path / "two"))
    assert toolchain.probe(AMD, tmp_path, "gfx942").title == ROCM_6


def test_one_that_names_no_targets_is_taken_at_its_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old clang does not know the question; only a compile would tell."""
    clang_that_answers(tmp_path / "rocm" / "llvm" / "bin")
    monkeypatch.setenv("ROCM_PATH", str(tmp_path / "rocm"))
    assert toolchain.probe(AMD, tmp_path, "gfx950").title == ROCM_6


# What is said ---------------------------------------------------------------------------------------------------------


def test_a_named_clang_that_does_not_know_the_target_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clang_that_answers(tmp_path / "old", "gfx90a", "gfx942")
    monkeypatch.setenv("AITERLITE_AMDGPU_CLANG", str(path))
    envs.reload()
    with pytest.raises(ToolchainNotFoundError) as caught:
        toolchain.probe(AMD, tmp_path, "gfx950")
    assert str(caught.value) == (
        f"no compiler for gfx950: {ROCM_6} ({path}) does not know it. Unset AITERLITE_AMDGPU_CLANG='{path}', so that "
        "others are asked, or name another"
    )


def test_a_named_clang_without_a_linker_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clang_that_answers(tmp_path / "bin", "gfx942", lld=False)
    monkeypatch.setenv("AITERLITE_AMDGPU_CLANG", str(path))
    monkeypatch.setenv("PATH", str(tmp_path))
    envs.reload()
    with pytest.raises(ToolchainNotFoundError, match=r"bin/clang' has no ld\.lld beside it or on PATH"):
        toolchain.require(AMD)


def test_where_none_knows_a_target_all_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clang_that_answers(tmp_path / "rocm" / "llvm" / "bin", "gfx942")
    monkeypatch.setattr(rocm, "clangs", lambda: [str(path)])
    with pytest.raises(
        ToolchainNotFoundError, match=rf"no compiler for gfx1300: {ROCM_6} \(.*\) does not know it"
    ) as e:
        toolchain.probe(AMD, tmp_path, "gfx1300")
    assert "aiterlite[amdgpu]" in str(e.value)


def test_a_host_compiler_is_asked_for_no_targets(tmp_path: Path) -> None:
    found = toolchain.probe(HOST, tmp_path, "cpu-x86-64")
    assert found.targets == () and found.serves("cpu-x86-64-v4")
