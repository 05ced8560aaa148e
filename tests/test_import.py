"""What importing costs and does: nothing is built, started or written, and torch comes only with the operators."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import child

pytestmark = pytest.mark.installed

HEAVY = {"torch", "numpy", "filelock", "packaging", "rich", "ninja", "ziglang", "subprocess", "logging", "ctypes"}


def tops(modules: list[str]) -> set[str]:
    return {name.split(".")[0] for name in modules}


def test_the_package_imports_nothing_but_itself(tmp_path: Path) -> None:
    report = child("import aiterlite", HOME=str(tmp_path), AITERLITE_CACHE_DIR=None)
    assert report["started"] == [] and not report["environ_changed"]
    assert tops(report["imported"]) & HEAVY == set()
    assert {name for name in report["imported"] if name.startswith("aiterlite")} == {"aiterlite"}
    assert list(tmp_path.iterdir()) == []


def test_what_answers_without_torch_imports_without_it(cache_dir: Path) -> None:
    """Dispatch, targets, the JIT and its cache answer on a machine that has no torch."""
    code = """
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "numpy"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
from aiterlite import dispatch, envs, errors, kernel, tables, target
from aiterlite.launch import drivers, functions, program
from aiterlite.jit import bundle, compiler, engine, jobs, loader, locks, record, toolchain
decision = dispatch.decide(tables.TABLES["linear"], tables.gemm_rc.RcProblem(1, 256, 7168), target.resolve("mi300x"))
result = [decision.row.name, engine.why_rebuild(decision.units[0])["hit"]]
"""
    report = child(code)
    assert report["result"] == ["mfma", False]
    assert report["started"] == [] and not report["environ_changed"]
    assert tops(report["imported"]) & {"torch", "numpy", "filelock", "packaging", "rich", "ninja"} == set()


@pytest.mark.torch
def test_the_operators_import_little_beyond_torch(tmp_path: Path) -> None:
    """Nothing is started, no cache is made, no GPU is touched, and torch's own compiler front ends stay out."""
    code = """
import torch
with_torch = set(sys.modules)
began = time.perf_counter()
import aiterlite.ops.gemm
result = {
    "ms": 1000 * (time.perf_counter() - began),
    "beyond": sorted(set(sys.modules) - with_torch),
    "cuda": torch.cuda.is_initialized(),
}
"""
    environ = dict(os.environ)
    report = child(code, HOME=str(tmp_path), AITERLITE_CACHE_DIR=None)
    beyond = report["result"]["beyond"]
    assert report["started"] == [] and not report["environ_changed"] and environ == dict(os.environ)
    assert not report["result"]["cuda"]
    assert tops(beyond) & {"filelock", "packaging", "rich", "ninja", "ziglang", "setuptools"} == set()
    # Each of these costs 0.1 s or more.
    assert {"torch.utils.cpp_extension", "torch._dynamo", "torch._inductor", "sympy"} & set(beyond) == set()
    assert "aiterlite.ops.gemm" in beyond and "aiterlite.jit.compiler" not in beyond
    assert not (tmp_path / ".cache" / "aiterlite").exists()


def test_public_names_are_found_when_first_used() -> None:
    code = """
import aiterlite
result = [sorted(aiterlite.__all__), sorted(set(aiterlite.__all__) - set(dir(aiterlite)))]
try:
    aiterlite.nonsense
except AttributeError as error:
    result.append(str(error))
"""
    names, missing, text = child(code)["result"]
    operators = ["LLMM1", "linear", "wvSplitK", "wvSplitKQ", "wvSplitKrc", "wvSplitKrc_workspace_size"]
    kinds = ["ActivationType", "MxScaleRoundMode", "QuantType"]
    assert names == sorted([*operators, *kinds, "recording", "reserve", "seal", "unseal"]) and missing == []
    assert "nonsense" in text
