"""`doctor`: what it finds, and what it says of what is missing."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiterlite import envs
from aiterlite.cli import doctor
from aiterlite.jit import toolchain
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
        assert re.search(rf"^(ok|-) +{re.escape(check['name'])} +{re.escape(check['detail'])}$", text, re.MULTILINE)
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
