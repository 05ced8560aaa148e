"""RMSNorm of bf16 rows beside torch, torch.compile, and the kernels of vLLM, SGLang and FlashInfer where those can be
imported.

In one run, graph-timed on a GPU, operands and outputs rotated through more than the L2. `torch` is
`torch.nn.functional.rms_norm` (and an addition, and this package's reference of quantisation); `compiled` is
torch.compile's code for the same. `plain` is ours launched as usual, after the kernel before it has ended
(AITERLITE_OVERLAP=0), as theirs are. Calls with a residual write where they read, so values grow from call to call,
which takes no other time. Prints microseconds, and the share of elements that equal the reference's (torch.compile's
code squares sums, and quantises results, that are not rounded); `--json FILE` writes them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from side_by_side import contenders_of, imported, run, tried, with_plain
from torch import Tensor

from aiterlite import norm
from aiterlite.benchmark.timing import copies_for
from aiterlite.reference import norm as reference

FP8, EPSILON, GROUP, WIDTH = torch.float8_e4m3fn, 1e-6, 128, 7168
TOKENS = (1, 16, 256, 4096)
KINDS = ("norm", "add", "token", "group", "add_token", "add_group")


@dataclass(frozen=True)
class Operands:
    x: Tensor
    residual: Tensor
    weight: Tensor
    out: Tensor
    scales: Tensor


Call = Callable[[Operands], object]


def group_of(kind: str) -> int:
    return GROUP if kind.endswith("group") else 0


def ours(kind: str) -> Call:
    if kind == "norm":
        return lambda o: norm.rms_norm_cu(o.out, o.x, o.weight, EPSILON)
    if kind == "add":
        return lambda o: norm.rmsnorm2d_fwd_with_add(o.out, o.x, o.residual, o.residual, o.weight, EPSILON)
    how = 0, group_of(kind)
    if kind.startswith("add"):
        return lambda o: norm.rmsnorm2d_fwd_with_add_dynamicquant(
            o.out, o.x, o.residual, o.residual, o.scales, o.weight, EPSILON, *how
        )
    return lambda o: norm.rmsnorm2d_fwd_with_dynamicquant(o.out, o.x, o.scales, o.weight, EPSILON, *how)


def by_torch(kind: str, x: Tensor, residual: Tensor, weight: Tensor, out: Tensor, scales: Tensor) -> None:
    if kind.startswith("add"):
        x = x + residual
        residual.copy_(x)
    y = torch.nn.functional.rms_norm(x, weight.shape, weight, EPSILON)
    if kind in ("norm", "add"):
        out.copy_(y)
        return
    codes, found = reference.quantised(y, FP8, group_of(kind))
    out.copy_(codes)
    scales.copy_(found)


def of_torch(kind: str, compiled: bool) -> Call:
    function = functools.partial(by_torch, kind)
    if compiled:
        function = torch.compile(function, dynamic=False, fullgraph=True)
    return lambda o: function(o.x, o.residual, o.weight, o.out, o.scales)


def peers(kind: str) -> dict[str, Call]:
    """What other packages have for a kind. Their fused additions write the norm over x."""
    found: dict[str, Call] = {}
    vllm, sglang, flashinfer = (imported(name) for name in ("vllm._custom_ops", "sgl_kernel", "flashinfer.norm"))
    if kind == "norm":
        if vllm is not None:
            found["vllm"] = lambda o: vllm.rms_norm(o.out, o.x, o.weight, EPSILON)
        if sglang is not None:
            found["sglang"] = lambda o: sglang.rmsnorm(o.x, o.weight, EPSILON, out=o.out)
        if flashinfer is not None:
            found["flashinfer"] = lambda o: flashinfer.rmsnorm(o.x, o.weight, EPSILON, out=o.out)
    elif kind == "add":
        if vllm is not None:
            found["vllm"] = lambda o: vllm.fused_add_rms_norm(o.x, o.residual, o.weight, EPSILON)
        if sglang is not None:
            found["sglang"] = lambda o: sglang.fused_add_rmsnorm(o.x, o.residual, o.weight, EPSILON)
        if flashinfer is not None:
            found["flashinfer"] = lambda o: flashinfer.fused_add_rmsnorm(o.x, o.residual, o.weight, EPSILON)
    elif kind in ("token", "add_token") and vllm is not None:
        name = "rms_norm_dynamic_per_token_quant"
        if hasattr(vllm, name):
            call, with_add = getattr(vllm, name), kind == "add_token"
            found["vllm"] = lambda o: call(o.x, o.weight, EPSILON, FP8, residual=o.residual if with_add else None)
    return found


def operands_of(kind: str, n: int, device: torch.device) -> list[Operands]:
    coded, with_add = kind not in ("norm", "add"), kind.startswith("add")
    columns = WIDTH // GROUP if group_of(kind) else 1
    moved = n * WIDTH * (2 + (1 if coded else 2) + 4 * with_add) + 4 * n * columns * coded
    weight = torch.rand(WIDTH, device=device).to(torch.bfloat16)

    def rows() -> Tensor:
        return torch.randn(n, WIDTH, device=device).to(torch.bfloat16)

    def made() -> Operands:
        out = torch.empty(n, WIDTH, dtype=FP8 if coded else torch.bfloat16, device=device)
        return Operands(rows(), rows(), weight, out, torch.ones(n, columns, device=device))

    return [made() for _ in range(copies_for(device, moved))]


def agreement(call: Call, kind: str, given: Operands) -> float:
    """The share of elements that equal the reference's."""
    own = Operands(given.x.clone(), given.residual.clone(), given.weight, given.out, given.scales)
    h = reference.add(own.x, own.residual) if kind.startswith("add") else own.x.clone()
    wanted = reference.rms_norm(h, own.weight, EPSILON)
    if given.out.dtype == FP8:
        wanted = reference.quantised(wanted, FP8, group_of(kind))[0]
    own.out.zero_()
    result = call(own)
    if isinstance(result, tuple):
        found = result[0]
    else:
        # Those that write over x leave `out` as it was.
        found = own.x if kind == "add" and not bool(own.out.view(torch.int16).any()) else own.out
    kinds = torch.uint8 if wanted.dtype == FP8 else torch.int16
    return float((found.view(kinds) == wanted.view(kinds)).double().mean())


def measure(kind: str, n: int, device: torch.device, samples: int) -> dict[str, Any]:
    # Each kind and size is code of its own, of which torch keeps eight.
    torch.compiler.reset()
    operands = operands_of(kind, n, device)
    offered = {"ours": ours(kind), "torch": of_torch(kind, False), "compiled": of_torch(kind, True), **peers(kind)}
    calls, equal = tried(offered, lambda name, call: agreement(call, kind, operands[0]))
    contenders = contenders_of(calls, operands)
    times = with_plain(contenders, len(operands), device, samples)
    coded, with_add = operands[0].out.dtype == FP8, kind.startswith("add")
    moved = n * WIDTH * (2 + (1 if coded else 2) + 4 * with_add) + operands[0].scales.nbytes * coded + 2 * WIDTH
    return {
        "kind": kind,
        "n": n,
        "k": WIDTH,
        "microseconds": times,
        "gigabytes_per_second": moved / times["ours"] * 1e-3,
        "equal": equal,
        "copies": len(operands),
    }


if __name__ == "__main__":
    run(__doc__, KINDS, TOKENS, measure)
