"""This package under an engine, in each of its processes, where AITERLITE_ENGINES=1 asks for it.

vLLM and SGLang call the entry points of `pyproject.toml` in every process they start, workers too. Each engine has
two: one for plug-ins, which it calls before it makes a model, and one for platforms, which it calls when something
first asks what it runs on. That is the earlier one, and vLLM looks for `aiter` once, right behind it; so `aiter` is
answered to from there on. None of these is a platform, and says so by None.

Nothing here raises: an engine would end for it. What could not be put in place is a line of the log.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from aiterlite import envs
from aiterlite.errors import ShadowError
from aiterlite.jit import progress

_CUSTOM_OPS, _LAYERS, _ROCM, _AITER = (
    "vllm._custom_ops",
    "vllm.model_executor.layers.utils",
    "vllm.platforms.rocm",
    "vllm._aiter_ops",
)
# The skinny GEMMs of `vllm._custom_ops`, and what every unquantised linear layer of vLLM calls on AMD.
_SKINNY, _GEMM = ("LLMM1", "wvSplitK", "wvSplitKrc", "wvSplitKQ"), "rocm_unquantized_gemm"

# What vLLM takes for granted where it finds an aiter, and this package does not offer: TP ranks' sums, which are then
# vLLM's own. vLLM reads it right after `early`; who sets it otherwise is left to it.
_UNASKED = {"VLLM_ROCM_USE_AITER_CUSTOM_AR": "0"}

# What was in the place of what is there now.
_replaced: dict[tuple[str, str], Any] = {}
_told: set[str] = set()


def vllm() -> None:
    """vLLM's plug-in (`vllm.general_plugins`)."""
    if not envs.ENGINES.get():
        return
    done = [_answer_to_aiter()]
    try:
        rocm = importlib.import_module(_ROCM)
        is_mi3xx, is_gfx950 = rocm.on_mi3xx(), rocm.on_gfx950()
    except (ImportError, AttributeError) as error:
        _tell("vLLM", [*done, f"no GEMM is replaced, since its ROCm platform says no chip ({error})"])
        return
    if not is_mi3xx:
        done.append("no GEMM is replaced, on a chip that is none of MI300 and MI350")
    else:
        done += [_replace_operators(), *([] if is_gfx950 else [_replace_gemm()])]
    found = sys.modules.get(_AITER)
    if found is not None and not getattr(found, "IS_AITER_FOUND", True):
        done.append(f"{_AITER} was imported before, and found no aiter: it stays without")
    _tell("vLLM", done)


def sglang() -> None:
    """SGLang's plug-in (`sglang.srt.plugins`)."""
    if envs.ENGINES.get():
        _tell("SGLang", [_answer_to_aiter()])


def early() -> None:
    """What both call while they look for a platform: `aiter` is answered to, and this is none."""
    if envs.ENGINES.get():
        _answer_to_aiter()


def restore() -> None:
    """Puts back what was replaced in vLLM. The name `aiter` stays: `aiterlite.compat.aiter.uninstall` gives it back."""
    for (module, name), before in _replaced.items():
        setattr(sys.modules[module], name, before)
    _replaced.clear()
    _told.clear()


def _answer_to_aiter() -> str:
    try:
        # The import is the act; once it was made, it is made again by name.
        importlib.import_module("aiterlite.compat.aiter").install()
    except ShadowError as error:
        return f"the name aiter is left to the one that is there ({error})"
    for name, value in _UNASKED.items():
        os.environ.setdefault(name, value)
    return "answers to the name aiter"


def _replace_operators() -> str:
    from aiterlite.compat import vllm_ops

    try:
        module = importlib.import_module(_CUSTOM_OPS)
    except ImportError as error:
        return f"no operator of {_CUSTOM_OPS} is replaced ({error})"
    names = [name for name in _SKINNY if hasattr(module, name)]
    for name in names:
        _put(module, name, getattr(vllm_ops, name))
    return f"{', '.join(names) or 'nothing'} of {_CUSTOM_OPS}"


def _replace_gemm() -> str:
    """vLLM gives `wvSplitKrc` to gfx950 alone, and `wvSplitK` at most five tokens. Its own choice lies within an
    operator that was registered; what calls that is looked up by each layer that is made."""
    from vllm import envs as settings  # type: ignore[import-not-found]

    if not getattr(settings, "VLLM_ROCM_USE_SKINNY_GEMM", True):
        return "no GEMM of layers is replaced, as VLLM_ROCM_USE_SKINNY_GEMM=0 asks"
    if getattr(settings, "VLLM_BATCH_INVARIANT", False):
        # vLLM's own gives a token the same bits in each batch; which kernel serves it here depends on the batch.
        return "no GEMM of layers is replaced, as VLLM_BATCH_INVARIANT=1 asks"
    try:
        module = importlib.import_module(_LAYERS)
        getattr(module, _GEMM)
    except (ImportError, AttributeError) as error:
        return f"no GEMM of layers is replaced ({error})"
    _put(module, _GEMM, _unquantized_gemm)
    return f"{_GEMM} of {_LAYERS} by wvSplitK (up to 16 tokens), wvSplitKrc (up to 128) or torch"


def _unquantized_gemm(layer: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    from aiterlite.ops.linear import linear

    return linear(x, weight, bias)


def _put(module: Any, name: str, function: Callable[..., Any]) -> None:
    before = getattr(module, name)
    if before is not function:
        _replaced.setdefault((module.__name__, name), before)
        setattr(module, name, function)


def _tell(engine: str, done: list[str]) -> None:
    """Once a process, however often it is loaded."""
    text = f"in {engine}: {'; '.join(done)}"
    if text not in _told:
        _told.add(text)
        progress.logger().info(text)
