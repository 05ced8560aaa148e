"""Every AMDGPU clang of this machine compiles what the package ships, to objects that runtimes since ROCm 6.0 read.

ROCm's clang is preferred where there is one, and may be any from LLVM 17 on: it would fail on what only the newest
accepts.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from pathlib import Path

import pytest
from support import AMD_TARGET, TOY_TREE, toy_unit

from aiterlite import dispatch, envs, tables
from aiterlite.amdgpu import code_object, metadata
from aiterlite.jit import engine, rocm, toolchain
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.spec import AMD, CODE_OBJECT_VERSION, Unit
from aiterlite.tables import FAMILIES, gemm, gemm_fp8, problems
from aiterlite.tables.asm import AsmVariant
from aiterlite.tables.asm_check import check
from aiterlite.target import resolve

pytestmark = pytest.mark.compile

TARGETS = ("gfx942", "gfx950")
CHIPS = {"gfx942": "mi300x", "gfx950": "mi355x"}


def installed() -> list[str]:
    """The clangs that `toolchain` would ask, and those of the distribution (clang-19)."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    names = {path.name for folder in folders if folder for path in Path(folder).glob("clang-*")}
    versioned = sorted(name for name in names if re.fullmatch(r"clang-\d+", name))
    found = [*rocm.clangs(), *filter(None, map(shutil.which, versioned))]
    return [path for path in found if toolchain._amd_location(path)]


@functools.cache
def served(path: str, scratch: Path) -> tuple[str, ...]:
    """Those of our targets that a clang knows."""
    with envs.override(AITERLITE_AMDGPU_CLANG=path):
        found = toolchain.probe(AMD, scratch)
    return tuple(target for target in TARGETS if target in found.targets)


@pytest.fixture(params=[pytest.param(path, id=path.strip("/").replace("/", ".")) for path in installed()])
def clang(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: str = request.param
    if not served(path, tmp_path_factory.getbasetemp()):
        pytest.skip(f"{path} knows none of {', '.join(TARGETS)}")
    # What the clang of all other tests compiled, for them or for these, is compiled once.
    if toolchain._amd_location(path) != toolchain.find(AMD):
        request.getfixturevalue("cache_dir")
    return path


def build(clang: str, units: list[Unit]) -> dict[Unit, bytes]:
    with envs.override(AITERLITE_AMDGPU_CLANG=clang, AITERLITE_TOOLCHAIN="exact"):
        return {unit: engine.obtain(unit, build=True).data for unit in units}


def covering(variants: tuple[AsmVariant, ...]) -> list[AsmVariant]:
    """Few variants with every value that any of their defines takes."""
    seen: set[tuple[str, str]] = set()
    chosen = []
    for variant in variants:
        if not seen.issuperset(variant.defines):
            seen.update(variant.defines)
            chosen.append(variant)
    return chosen


@pytest.mark.slow
def test_each_assembly_kernel_assembles(clang: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    for kernel in tables.asm_kernels():
        for target in set(kernel.targets) & set(served(clang, tmp_path_factory.getbasetemp())):
            for variant in covering(kernel.variants(target)):
                unit = kernel.device_unit(variant, target)
                assert list(map(str, check(kernel, variant, target, build(clang, [unit])[unit]))) == [], unit.label


def test_each_hip_kernel_compiles(clang: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    units = set()
    for target in served(clang, tmp_path_factory.getbasetemp()):
        persona = resolve(CHIPS[target])
        gemms = (*FAMILIES["gemm"].tables, gemm.WV_SPLIT_K, gemm_fp8.WV_SPLIT_K_Q)
        asked = [(table, table.problem(4, 256, 7168)) for table in gemms]
        others = [table for name in ("mla", "moe_sorting") for table in FAMILIES[name].tables]
        asked += [(table, problems.sweep(table)[0]) for table in others]
        for table, problem in asked:
            decision = dispatch.decide(table, problem, persona)
            units |= {unit for unit in decision.units if unit.kind == AMD and not unit.is_assembly}
    assert units
    for unit, image in build(clang, sorted(units, key=lambda unit: unit.label)).items():
        assert code_object.version(image) == CODE_OBJECT_VERSION, unit.label
        assert code_object.target(image) == unit.target
        assert {kernel["name"] for kernel in metadata.kernels(image)} >= set(unit.symbols)


def test_a_clang_says_which_targets_it_knows(clang: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What it does not name, it does not compile: a compile would fail with an error that names no remedy."""
    known = served(clang, tmp_path_factory.getbasetemp())
    with envs.override(AITERLITE_AMDGPU_CLANG=clang):
        for target in TARGETS:
            try:
                engine.obtain(toy_unit(target), tree=SourceTree(TOY_TREE), build=True)
                assert target in known
            except toolchain.ToolchainNotFoundError as error:
                assert target not in known and f"no compiler for {target}" in str(error)


def test_the_compiler_s_own_choice_of_a_version_does_not_matter(clang: str) -> None:
    """Clang 22 writes 6 unless it is told, clang 18 to 21 write 5, ROCm's 4 or 5 or 6 by its release."""
    unit = toy_unit(AMD_TARGET)
    with envs.override(AITERLITE_AMDGPU_CLANG=clang):
        image = engine.obtain(unit, tree=SourceTree(TOY_TREE), build=True).data
    assert code_object.version(image) == CODE_OBJECT_VERSION == 5
