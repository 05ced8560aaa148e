"""The plug-ins of vLLM and SGLang, loaded as those load them, by packages that have the same module shapes."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from support import child  # noqa: E402

from aiterlite import envs  # noqa: E402
from aiterlite.compat import engines  # noqa: E402

Engine = Callable[..., tuple[dict[str, Any], str]]
ROOT = Path(__file__).parent.parent

# What the modules of vLLM look like that are asked or replaced; how it loads plug-ins; what it decides.
VLLM = {
    "__init__": "",
    "envs": """
import os
VLLM_ROCM_USE_SKINNY_GEMM = os.environ.get("VLLM_ROCM_USE_SKINNY_GEMM", "1") == "1"
VLLM_BATCH_INVARIANT = os.environ.get("VLLM_BATCH_INVARIANT", "0") == "1"
""",
    "plugins/__init__": """
from importlib.metadata import entry_points
loaded = False
def load_plugins_by_group(group):
    return {plugin.name: plugin.load() for plugin in entry_points(group=group)}
def load_general_plugins():
    global loaded
    if not loaded:
        loaded = True
        for function in load_plugins_by_group("vllm.general_plugins").values():
            function()
""",
    "platforms/__init__": """
_platform = None
def __getattr__(name):
    global _platform
    if name != "current_platform":
        raise AttributeError(name)
    if _platform is None:
        from vllm.plugins import load_plugins_by_group
        found = [function() for function in load_plugins_by_group("vllm.platform_plugins").values()]
        assert all(item is None for item in found), found
        _platform = "rocm"
    return _platform
""",
    "platforms/rocm": """
import os
_ARCH = os.environ["STAND_IN_ARCH"]
def on_mi3xx(): return _ARCH in ("gfx942", "gfx950")
def on_gfx950(): return _ARCH == "gfx950"
""",
    "_aiter_ops": """
import os
from vllm.platforms import current_platform
from importlib.util import find_spec
IS_AITER_FOUND = find_spec("aiter") is not None
SUMS_BY_AITER = IS_AITER_FOUND and os.environ.get("VLLM_ROCM_USE_AITER_CUSTOM_AR", "True").lower() in ("true", "1")
""",
    "_custom_ops": """
from vllm.platforms import current_platform
def LLMM1(a, b, rows_per_block): return "vllm"
def wvSplitK(a, b, cu_count, bias=None): return "vllm"
def wvSplitKrc(a, b, cu_count, bias=None, fast_skinny_gemm=False): return "vllm"
def wvSplitKQ(a, b, out_dtype, scale_a, scale_b, cu_count, bias=None): return "vllm"
def rms_norm(out, input, weight, epsilon): return "vllm"
""",
    "model_executor/__init__": "",
    "model_executor/layers/__init__": "",
    "model_executor/layers/utils": """
from vllm import _custom_ops as ops
from vllm import envs
from vllm._aiter_ops import IS_AITER_FOUND
def rocm_unquantized_gemm(layer, x, weight, bias=None): return "vllm"
def dispatch_unquantized_gemm(): return rocm_unquantized_gemm
""",
    # A layer keeps the function by its name, as vLLM's linear layers do.
    "model_executor/layers/linear": """
from vllm.model_executor.layers.utils import dispatch_unquantized_gemm
def apply(x, weight, bias=None): return dispatch_unquantized_gemm()(None, x, weight, bias)
""",
}
SGLANG = {
    "__init__": "",
    "srt/__init__": "",
    "srt/plugins/__init__": """
from importlib.metadata import entry_points
def load_plugins():
    for plugin in entry_points(group="sglang.srt.plugins"):
        plugin.load()()
""",
}
# A worker as engines start them: a new process that imports the engine and loads plug-ins first.
WORKER = """
import multiprocessing, sys

def state():
    import torch
    from vllm.plugins import load_general_plugins
    load_general_plugins()
    from aiterlite import envs
    from aiterlite.ops.planning import Planner
    from vllm import _aiter_ops, _custom_ops
    from vllm.model_executor.layers import linear
    found = {"aiter": _aiter_ops.IS_AITER_FOUND, "norm": _custom_ops.rms_norm(0, 0, 0, 0)}
    found["sums by aiter"] = _aiter_ops.SUMS_BY_AITER
    ours = [name for name, value in vars(_custom_ops).items() if "aiterlite" in getattr(value, "__module__", "")]
    found["operators"] = sorted(ours)
    rows = {}
    with envs.override(AITERLITE_TARGET="mi300x"):
        weight = torch.empty(2112, 7168, dtype=torch.bfloat16, device="meta")
        for tokens in (1, 5, 8, 64, 512):
            with Planner() as planner:
                made = linear.apply(torch.empty(tokens, 7168, dtype=torch.bfloat16, device="meta"), weight)
            chosen = [kernel.unit.name for d in planner.decisions for kernel in d.kernels] or ["torch"]
            rows[str(tokens)] = made if isinstance(made, str) else chosen[0]
    return {**found, "rows": rows}

def work(queue):
    queue.put(state())

def in_a_worker():
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    process = spawn.Process(target=work, args=(queue,))
    process.start()
    found = queue.get(timeout=100)
    process.join()
    return found
"""
SKINNY = ["LLMM1", "wvSplitK", "wvSplitKQ", "wvSplitKrc"]


@pytest.fixture
def site(tmp_path: Path) -> str:
    """A folder of the engines, and of the entry points that the installed package has."""
    for package, modules in (("vllm", VLLM), ("sglang", SGLANG)):
        for name, text in modules.items():
            path = tmp_path / package / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    (tmp_path / "stand_in.py").write_text(WORKER)
    info = tmp_path / "aiterlite_here-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aiterlite-here\nVersion: 1.0\n")
    groups = re.findall(
        r'^\[project\.entry-points\."(.+)"\]\n(\w+) = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M
    )
    assert len(groups) == 4
    (info / "entry_points.txt").write_text("".join(f"[{group}]\n{name} = {value}\n" for group, name, value in groups))
    return str(tmp_path)


@pytest.fixture
def engine(site: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Loads plug-ins in this process; gives what was then found, and the lines of the log."""
    said: list[str] = []
    # What is set here is gone behind a test, and so is what plug-ins set.
    monkeypatch.setenv("VLLM_ROCM_USE_AITER_CUSTOM_AR", "0")
    monkeypatch.delenv("VLLM_ROCM_USE_AITER_CUSTOM_AR")
    monkeypatch.setattr(engines, "progress", SimpleNamespace(logger=lambda: SimpleNamespace(info=said.append)))
    monkeypatch.syspath_prepend(site)

    def forget() -> None:
        engines.restore()
        if "aiterlite.compat.aiter" in sys.modules:
            sys.modules["aiterlite.compat.aiter"].uninstall()
        for name in [name for name in sys.modules if name.partition(".")[0] in ("vllm", "stand_in", "aiter")]:
            del sys.modules[name]

    def load(arch: str = "gfx942", before: str = "", skinny: str = "1") -> tuple[dict[str, Any], str]:
        monkeypatch.setenv("STAND_IN_ARCH", arch)
        monkeypatch.setenv("VLLM_ROCM_USE_SKINNY_GEMM", skinny)
        with envs.override(AITERLITE_ENGINES="1"):
            if before:
                importlib.import_module(before)
            return importlib.import_module("stand_in").state(), "\n".join(said)

    forget()
    yield load
    forget()


def test_vllm_on_mi300x_gets_both_gemms_and_aiter_in_its_workers_too(site: str) -> None:
    """In a process of its own, and in one that it spawns."""
    found = child(
        f"sys.path.insert(0, {site!r})\nimport stand_in\nresult = [stand_in.state(), stand_in.in_a_worker()]\n",
        PYTHONPATH=os.pathsep.join(filter(None, (site, *sys.path))),
        STAND_IN_ARCH="gfx942",
        AITERLITE_ENGINES="1",
        AITERLITE_LOG="info",
    )
    rows = {"1": "gemm/wv_split_k", "5": "gemm/wv_split_k", "8": "gemm/wv_split_k", "64": "gemm/wv_split_k_reduce"}
    expected = {"aiter": True, "norm": "vllm", "operators": SKINNY, "rows": {**rows, "512": "torch"}}
    # It asks for no all-reduce of aiter's, which is not offered, where nobody else said.
    expected["sums by aiter"] = False
    assert found["result"] == [expected, expected]
    lines = [line for line in found["stderr"].splitlines() if "aiterlite: in vLLM: " in line]
    assert len(lines) == 2 and len(set(lines)) == 1
    assert "answers to the name aiter" in lines[0] and "LLMM1, wvSplitK, wvSplitKrc" in lines[0]
    assert "rocm_unquantized_gemm of vllm.model_executor.layers.utils" in lines[0]


def test_unasked_nothing_happens(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envs, "override", lambda **_: contextlib.nullcontext())
    found, said = engine()
    assert found["operators"] == [] and not found["aiter"] and said == ""
    assert set(found["rows"].values()) == {"vllm"}
    assert engines.early() is None and importlib.util.find_spec("aiter") is None


@pytest.mark.parametrize(
    ("arch", "skinny", "operators", "said"),
    [
        ("gfx950", "1", SKINNY, "wvSplitKQ of vllm._custom_ops"),
        ("gfx942", "0", SKINNY, "as VLLM_ROCM_USE_SKINNY_GEMM=0 asks"),
        ("gfx1100", "1", [], "none of MI300 and MI350"),
    ],
)
def test_elsewhere_vllm_chooses(engine: Engine, arch: str, skinny: str, operators: list[str], said: str) -> None:
    found, log = engine(arch, skinny=skinny)
    assert found["aiter"] and found["operators"] == operators and set(found["rows"].values()) == {"vllm"}
    assert said in log


def test_where_each_token_shall_have_the_same_bits_vllm_chooses(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_BATCH_INVARIANT", "1")
    found, log = engine()
    assert found["operators"] == SKINNY and set(found["rows"].values()) == {"vllm"}
    assert "as VLLM_BATCH_INVARIANT=1 asks" in log


def test_all_reduces_stay_vllms_unless_someone_asks(site: str, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not engine()[0]["sums by aiter"] and os.environ["VLLM_ROCM_USE_AITER_CUSTOM_AR"] == "0"
    monkeypatch.setenv("VLLM_ROCM_USE_AITER_CUSTOM_AR", "1")
    engines.early()
    assert os.environ["VLLM_ROCM_USE_AITER_CUSTOM_AR"] == "1"


def test_a_vllm_of_other_modules_is_left_alone_and_told_of(site: str, engine: Engine) -> None:
    (Path(site) / "vllm" / "platforms" / "rocm.py").write_text("")
    found, said = engine()
    assert found["operators"] == [] and set(found["rows"].values()) == {"vllm"}
    assert "its ROCm platform says no chip" in said


def test_an_aiter_that_is_there_is_left_in_place(site: str, engine: Engine) -> None:
    (Path(site) / "aiter.py").write_text("mine = True\n")
    found, said = engine()
    assert importlib.import_module("aiter").mine and found["operators"] == SKINNY and found["sums by aiter"]
    assert "the name aiter is left to the one that is there" in said


def test_a_vllm_that_looked_for_aiter_before_is_told_of(site: str, engine: Engine) -> None:
    """One without plug-ins of platforms."""
    (Path(site) / "vllm" / "platforms" / "__init__.py").write_text("current_platform = 'rocm'\n")
    found, said = engine(before="vllm._aiter_ops")
    assert not found["aiter"] and "was imported before, and found no aiter" in said


def test_what_was_replaced_can_be_put_back(engine: Engine) -> None:
    assert engine()[0]["operators"] == SKINNY
    engines.restore()
    found, said = engine()
    assert found["operators"] == [] and set(found["rows"].values()) == {"vllm"}
    assert said.count("in vLLM") == 1


def test_sglang_finds_aiter(engine: Engine) -> None:
    with envs.override(AITERLITE_ENGINES="1"):
        importlib.import_module("sglang.srt.plugins").load_plugins()
        assert importlib.import_module("aiter.mla").mla_decode_fwd.__module__.startswith("aiterlite.")


def test_the_line_for_engines_without_plug_ins(site: str) -> None:
    """docs/engines.md: a .pth file, which every process of an environment reads."""
    (line,) = re.findall(r"^import os; .*$", (ROOT / "docs" / "engines.md").read_text(), re.M)
    (Path(site) / "aiterlite_engines.pth").write_text(line + "\n")
    code = f"""
import os, site
from importlib.util import find_spec
site.addsitedir({site!r})
result = [find_spec("aiter") is not None]
os.environ["AITERLITE_ENGINES"] = "1"
site.addsitedir({site!r})
result.append(find_spec("aiter") is not None)
"""
    assert child(code)["result"] == [False, True]
