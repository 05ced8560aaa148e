"""`doctor`: what it finds, and what it says of what is missing."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_driver
import pytest
from support import clang_that_answers

from aiterlite import envs
from aiterlite.cli import doctor
from aiterlite.jit import rocm, toolchain
from aiterlite.jit.store import Store

Both = Callable[..., tuple[str, Any, int]]


FOUND = {"drivers": {"cuda": "libcuda.so.1", "amd": ""}, "torch": "2.13.0", "devices": ["H100: h100 (sm_90a)"]}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, toy_store: Store) -> dict[str, Any]:
    """A machine with torch and a host compiler; a test takes away what it needs to."""
    facts: dict[str, Any] = {**FOUND}
    monkeypatch.setattr(doctor.probe, "ask", lambda: facts)
    monkeypatch.setenv("AITERLITE_CXX", sys.executable)
    envs.reload()
    return facts


def checks(data: Any) -> dict[str, Any]:
    return {check["name"]: check for check in data["checks"]}


def test_doctor_of_a_whole_machine(machine: dict[str, Any], both: Both, toy_store: Store) -> None:
    text, data, code = both("doctor")
    found = checks(data)
    assert code == 0 and data["ok"] and text.endswith("operators can run on this CPU")
    assert found["torch"]["detail"] == "2.13.0"
    assert found["host C++ compiler"]["detail"].endswith(f"({sys.executable})")
    assert found["cuda driver"]["ok"] and not found["amd driver"]["ok"]
    assert found["GPUs"]["detail"] == "H100: h100 (sm_90a)"
    assert str(toy_store.writable.root) in found["cache"]["detail"] and found["cache locks"]["ok"]
    assert {"disk space", "CPU target", "build jobs", "ninja"} <= set(found)
    for check in data["checks"]:
        # Text and data are of two runs, between which space on the disk may change.
        detail = r"[\d.]+ \w+ free" if check["name"] == "disk space" else re.escape(check["detail"])
        assert re.search(rf"^(ok|-) +{re.escape(check['name'])} +{detail}$", text, re.MULTILINE)
        assert check["advice"] in text


@pytest.mark.parametrize(
    ("lost", "name", "advice"),
    [
        ("torch", "torch", "`pip install torch`"),
        ("compiler", "host C++ compiler", "apt-get install g++"),
        ("ninja", "ninja", "`pip install ninja`"),
        ("cache", "cache", "AITERLITE_CACHE_DIR"),
        ("private", "cache", "AITERLITE_CACHE_DIR"),
    ],
)
def test_doctor_says_how_to_get_what_is_missing(
    machine: dict[str, Any],
    both: Both,
    toy_store: Store,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    lost: str,
    name: str,
    advice: str,
) -> None:
    if lost == "torch":
        machine.update(torch_error="ImportError: libc10.so")
        del machine["torch"]
    elif lost == "compiler":
        monkeypatch.setenv("AITERLITE_CXX", "/nonexistent/c++")
    elif lost == "ninja":
        monkeypatch.setattr(toolchain, "find_ninja", lambda: None)
    elif lost == "cache":
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("AITERLITE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    else:
        toy_store.prepare().chmod(0o777)
    envs.reload()
    text, data, code = both("doctor")
    check = checks(data)[name]
    assert code == 1 and not data["ok"] and not check["ok"]
    assert advice in check["advice"] and check["advice"] in text
    assert re.search(rf"^MISSING +{re.escape(name)} ", text, re.MULTILINE)


@pytest.mark.parametrize("flag", [False, True])
def test_doctor_finds_a_cache_that_is_mounted_noexec(
    machine: dict[str, Any], both: Both, monkeypatch: pytest.MonkeyPatch, flag: bool
) -> None:
    real, flags = os.statvfs, os.ST_NOEXEC if flag else 0
    free = {"f_bavail": 2**30, "f_frsize": 1, "f_blocks": 2**31, "f_bfree": 2**30}
    answer = lambda path: SimpleNamespace(f_flag=real(path).f_flag & ~os.ST_NOEXEC | flags, **free)  # noqa: E731
    monkeypatch.setattr(os, "statvfs", answer)
    text, data, code = both("doctor")
    check = checks(data)["cache mount"]
    assert code == int(flag) and check["ok"] is not flag
    assert ("AITERLITE_CACHE_DIR" in check["advice"] and "noexec" in check["detail"]) is flag
    assert bool(re.search("^MISSING +cache mount", text, re.MULTILINE)) is flag


def test_doctor_needs_no_gpu_and_no_gpu_compiler(
    machine: dict[str, Any], both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.update(drivers={"cuda": "", "amd": ""}, devices=[])
    monkeypatch.setenv("AITERLITE_NVCC", "/nonexistent/nvcc")
    monkeypatch.setenv("AITERLITE_AMDGPU_CLANG", "/nonexistent/clang")
    envs.reload()
    _, data, code = both("doctor")
    found = checks(data)
    assert code == 0 and not found["nvcc"]["ok"] and not found["AMDGPU clang"]["ok"] and not found["GPUs"]["ok"]
    assert "pip install aiterlite[amdgpu]" in found["AMDGPU clang"]["advice"]
    assert "CUDA_HOME" in found["nvcc"]["advice"]


def test_doctor_says_which_clang_serves_which_target(
    machine: dict[str, Any], both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = clang_that_answers(tmp_path / "old", "gfx942")
    new = clang_that_answers(tmp_path / "new", "gfx942", "gfx950", version="AMD clang version 20.0.0git")
    monkeypatch.setattr(rocm, "clangs", lambda: [str(old), str(new)])
    _, data, _ = both("doctor")
    assert checks(data)["AMDGPU clang"]["detail"] == (
        f"AMD clang version 18.0.0git ({old}) for gfx942; AMD clang version 20.0.0git ({new}) for gfx950; code object "
        "version 5"
    )
    monkeypatch.setattr(rocm, "clangs", lambda: [str(old)])
    _, data, _ = both("doctor")
    check = checks(data)["AMDGPU clang"]
    assert f"({old}) for gfx942; none for gfx950; code" in check["detail"] and check["ok"]
    assert check["advice"].startswith("a newer one for gfx950: `pip install aiterlite[amdgpu]`")


@pytest.mark.parametrize(("version", "reads", "ok"), [(60140091, 5, True), (70051831, 6, True), (50200000, 4, False)])
def test_doctor_says_which_code_objects_the_runtime_reads(
    machine: dict[str, Any], both: Both, version: int, reads: int, ok: bool
) -> None:
    machine.update(drivers={"cuda": "", "amd": "libamdhip64.so.6"}, hip_version=version)
    text, data, code = both("doctor")
    check = checks(data)["amd driver"]
    assert code == 0 and check["ok"] == ok and bool(check["advice"]) != ok
    number = f"{version // 10**7}.{version // 10**5 % 100}.{version % 10**5}"
    assert check["detail"] == f"libamdhip64.so.6, HIP {number}, reads code objects up to version {reads}"
    assert check["detail"] in text


@pytest.mark.torch
def test_the_child_process_of_doctor_finds_torch() -> None:
    import torch

    found = doctor.probe.ask()
    assert found["torch"] == torch.__version__
    assert set(found["drivers"]) == {"cuda", "amd"} and isinstance(found["devices"], list)


def test_doctor_survives_a_torch_that_ends_its_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import os\nos._exit(7)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = doctor.probe.ask()
    assert found["torch_error"] == "the process that imports torch ended with status 7"
    assert set(found["drivers"]) == {"cuda", "amd"}


TORCH = """
import ctypes
opened = [line for line in open("/proc/self/maps") if "libamdhip64" in line or "libcuda" in line]
if opened:
    raise ImportError(f"a driver was opened before torch opened its own: {opened[0]}")
ctypes.CDLL(OWN)
__version__ = "9.9"
class cuda:
    device_count = staticmethod(lambda: 0)
"""


@pytest.mark.compile
def test_doctor_lets_torch_open_its_driver_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """torch's wheel for ROCm brings a runtime. The system's, opened before it, would be the one that torch binds to."""
    built = fake_driver.build(tmp_path)["amd"]
    for folder, name in (("system", "libamdhip64.so"), ("wheel", "libamdhip64.so.7")):
        (tmp_path / folder).mkdir()
        shutil.copy(built, tmp_path / folder / name)
    own = tmp_path / "wheel" / "libamdhip64.so.7"
    (tmp_path / "wheel" / "torch.py").write_text(TORCH.replace("OWN", repr(str(own))))
    before = os.environ.get("LD_LIBRARY_PATH", "")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path / 'system'}{os.pathsep}{before}")
    monkeypatch.syspath_prepend(str(tmp_path / "wheel"))
    found = doctor.probe.ask()
    assert (found.get("torch"), found.get("torch_error")) == ("9.9", None)
    assert found["drivers"]["amd"] == str(own) and found["hip_version"] == 70051831
    # Without torch, it is the system's.
    (tmp_path / "wheel" / "torch.py").write_text("raise ImportError('none')")
    assert doctor.probe.ask()["drivers"]["amd"] == "libamdhip64.so"
