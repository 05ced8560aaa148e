"""AMD's own libraries against what this package calls and builds, with no AMD GPU.

`scripts/rocm_libraries.sh DIR` unpacks them beside the system; ROCM_LIBRARIES=DIR says where they are. A child process
that their own dynamic loader starts opens the HIP runtime as the launcher does, and reads code objects as it would.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rocm_child
from support import PACKAGE_PARENT, environment

from aiterlite import dispatch, tables
from aiterlite.amdgpu import code_object, metadata
from aiterlite.jit import engine
from aiterlite.jit.spec import AMD, CODE_OBJECT_VERSION, Unit
from aiterlite.launch.hints import hip_version, newest_code_object
from aiterlite.tables import FAMILIES, problems
from aiterlite.target import resolve

# Imported here too, so that what it imports is known to be there also where the libraries are not.
CHILD = Path(rocm_child.__file__)
CHIPS = ("mi300x", "mi308x", "mi355x")


@functools.cache
def libraries() -> tuple[str, str]:
    """The dynamic loader and the folder of the libraries; skips the test where there are none."""
    named = os.environ.get("ROCM_LIBRARIES", "")
    if not named:
        pytest.skip("no AMD libraries: run scripts/rocm_libraries.sh DIR and set ROCM_LIBRARIES=DIR")
    for folder in Path(named).resolve().glob("usr/lib/*-linux-gnu"):
        loaders = sorted(folder.glob("ld-linux-*.so.*"))
        if loaders and any(folder.glob("libamdhip64.so.*")):
            return str(loaders[0]), str(folder)
    pytest.fail(f"ROCM_LIBRARIES={named} holds no libamdhip64: run scripts/rocm_libraries.sh {named}")


def ask(*words: str) -> Any:
    loader, folder = libraries()
    command = [loader, "--library-path", folder, "--argv0", sys.executable, sys.executable, str(CHILD), *words]
    path = os.pathsep.join([str(PACKAGE_PARENT), *(item for item in sys.path if item)])
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment(PYTHONPATH=path))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@functools.cache
def hip() -> dict[str, Any]:
    found: dict[str, Any] = ask("hip")
    return found


def test_the_runtime_has_every_entry_point_that_is_called() -> None:
    found = hip()
    assert found["missing"] == [] and found["entry_points"] >= 7


def test_a_machine_without_a_gpu_is_a_typed_error() -> None:
    """hipInit's own answer, on which everything that follows depends."""
    if Path("/dev/kfd").exists():
        pytest.skip("this machine has an AMD GPU")
    error = hip()["error"]
    assert error is not None and error.startswith("hipInit failed: no ROCm-capable device is detected (code 100)")


def test_the_runtime_s_version_is_read_without_a_gpu() -> None:
    version = hip()["version"]
    assert version >= 60000000 and int(hip_version(version).partition(".")[0]) == version // 10**7
    assert newest_code_object(version) >= CODE_OBJECT_VERSION


def units() -> list[Unit]:
    """Every assembly object of the manifest, and the HIP kernels that dispatch takes for a few problems."""
    found = {
        kernel.device_unit(variant, target)
        for kernel in tables.asm_kernels()
        for target in kernel.targets
        for variant in kernel.variants(target)
    }
    for chip in CHIPS:
        asked = [(table, table.problem(n, 256, 7168)) for table in FAMILIES["gemm"].tables for n in (1, 4, 16, 64)]
        others = [table for name in ("mla", "moe_sorting") for table in FAMILIES[name].tables]
        asked += [(table, problems.sweep(table)[0]) for table in others]
        for table, problem in asked:
            decision = dispatch.decide(table, problem, resolve(chip))
            found |= {unit for unit in decision.units if unit.kind == AMD}
    return sorted(found, key=lambda unit: unit.label)


@pytest.mark.compile
@pytest.mark.slow
def test_comgr_reads_every_object_as_this_package_does() -> None:
    libraries()
    artifacts = [engine.obtain(unit, build=True) for unit in units()]
    answers = ask("comgr", *(str(artifact.entry.path) for artifact in artifacts))
    assert len(answers) == len(artifacts) > 100
    for artifact, found in zip(artifacts, answers, strict=True):
        unit = artifact.unit
        name = f"amdgcn-amd-amdhsa--{unit.target}"
        assert (found.get("isa"), found.get("target"), found.get("error")) == (name, name, None), unit.label
        kernels = {item["name"]: item["args"] for item in metadata.kernels(artifact.data)}
        assert set(found["kernels"]) == set(kernels) >= set(unit.symbols)
        for kernel, offsets in found["kernels"].items():
            assert offsets == [argument["offset"] for argument in kernels[kernel]], f"{unit.label}: {kernel}"


@pytest.mark.compile
def test_comgr_refuses_a_version_that_it_does_not_know(tmp_path: Path) -> None:
    """So that its agreement above is one."""
    libraries()
    unit = tables.asm_kernels()[0].device_unit(tables.asm_kernels()[0].variants("gfx942")[0], "gfx942")
    image = bytearray(engine.obtain(unit, build=True).data)
    image[8] = 9
    assert code_object.version(bytes(image)) == 11
    (tmp_path / "new.co").write_bytes(image)
    (found,) = ask("comgr", str(tmp_path / "new.co"))
    assert "get_data_isa_name" in found["error"]
