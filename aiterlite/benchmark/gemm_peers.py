"""Skinny GEMMs of other packages, for the same operands in the same run: what can be imported here, and what cannot.

FlashInfer's tiny GEMM and router GEMM, vLLM's GEMM of DeepSeek's fused q_a and kv_a projections: each takes the shapes
it was made for, bf16, on sm_90 and later. All start while their predecessor ends (PDL), as this package's kernels do.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from aiterlite.benchmark.timing import Contender

FLASHINFER, VLLM = "flashinfer.gemm", "vllm._custom_ops"


@functools.cache
def _imported(module: str) -> tuple[Any, str]:
    """The module and no reason, or none and why."""
    try:
        return importlib.import_module(module), ""
    except Exception as error:  # an extension that was made for another torch fails in ways of its own
        return None, f"{module}: not imported ({type(error).__name__}: {error})"


def absent() -> list[str]:
    """For each package that is not here, why."""
    return [why for _, why in map(_imported, (FLASHINFER, VLLM)) if why]


def _tiny(module: Any, x: Tensor, weight: Tensor, out: Tensor) -> Callable[[], object]:
    bias = torch.zeros(len(weight), dtype=x.dtype, device=x.device)
    return lambda: module.tinygemm_bf16(x, weight, out, bias, use_pdl=True)


def _router(module: Any, x: Tensor, weight: Tensor, out: Tensor) -> Callable[[], object]:
    wide = torch.empty_like(out, dtype=torch.float32)
    return lambda: module.mm_M1_16_K7168_N256(x, weight.t(), wide, launch_with_pdl=True)


def _fused_a(module: Any, x: Tensor, weight: Tensor, out: Tensor) -> Callable[[], object]:
    return lambda: module.dsv3_fused_a_gemm(out, x, weight.t(), enable_pdl=True)


def _fits_tiny(n: int, m: int, k: int) -> bool:
    return k % 64 == 0 and m % 16 == 0


def _fits_router(n: int, m: int, k: int) -> bool:
    return (m, k) == (256, 7168) and n <= 16


def _fits_fused_a(n: int, m: int, k: int) -> bool:
    return (m, k) == (2112, 7168) and n <= 16


_PEERS: Mapping[str, tuple[str, Callable[..., bool], Callable[..., Callable[[], object]]]] = {
    "flashinfer tiny": (FLASHINFER, _fits_tiny, _tiny),
    "flashinfer router": (FLASHINFER, _fits_router, _router),
    "vllm fused a": (VLLM, _fits_fused_a, _fused_a),
}


def contenders(xs: Sequence[Tensor], weights: Sequence[Tensor]) -> dict[str, Contender]:
    """The peers that take these operands and are here; each is called once, and one that raises is left out."""
    (n, k), m = xs[0].shape, len(weights[0])
    if xs[0].device.type != "cuda" or xs[0].dtype != torch.bfloat16 or torch.version.cuda is None:
        return {}
    out = torch.empty(n, m, dtype=torch.bfloat16, device=xs[0].device)
    found: dict[str, Contender] = {}
    for name, (package, fits, make) in _PEERS.items():
        module, why = _imported(package)
        if why or not fits(n, m, k):
            continue
        try:
            calls = [make(module, x, weight, out) for x, weight in zip(xs, weights, strict=True)]
            calls[0]()
        except Exception as error:  # another version has another signature, or no such kernel for this chip
            print(f"{name}: left out at m {m}, k {k}, n {n} ({type(error).__name__}: {error})", flush=True)
            continue
        found[name] = functools.partial(_call, calls)
    return found


def _call(calls: Sequence[Callable[[], object]], copy: int) -> object:
    return calls[copy]()
