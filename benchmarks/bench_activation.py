"""Gated activations of bf16 rows beside torch, torch.compile, and the kernels of vLLM, SGLang and FlashInfer where
those can be imported.

In one run, graph-timed on a GPU, operands and outputs rotated through more than the L2. Kinds end in the width of the
result: 2,048 is the shared expert of DeepSeek-R1, 18,432 its dense layers. `torch` is torch's activation and a product
(and this package's reference of quantisation); `compiled` is torch.compile's code for the same. `plain` is ours
launched as usual, after the kernel before it has ended (AITERLITE_OVERLAP=0), as theirs are. Prints microseconds, the
share of 4.07 TB/s, which is what a copy reads and writes together on an H200, and the share of elements that equal the
reference's; `--json FILE` writes them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from side_by_side import contenders_of, imported, run, tried, with_plain
from torch import Tensor

from aiterlite import activation
from aiterlite.benchmark.timing import copies_for
from aiterlite.reference import activation as reference

FP8, GROUP = torch.float8_e4m3fn, 128
# Gigabytes a second.
COPY = 4070.0
TOKENS = (1, 16, 256, 4096)
FORMS = ("silu", "gelu", "gelu_tanh", "token", "group", "group_transposed")
KINDS = tuple(f"{form}_{width}" for width in (2048, 18432) for form in FORMS)


@dataclass(frozen=True)
class Operands:
    x: Tensor
    out: Tensor
    scales: Tensor


Call = Callable[[Operands], object]


def ours(form: str, width: int) -> Call:
    plain = {
        "silu": activation.silu_and_mul,
        "gelu": activation.gelu_and_mul,
        "gelu_tanh": activation.gelu_tanh_and_mul,
    }
    if form in plain:
        function = plain[form]
        return lambda o: function(o.out, o.x)
    how = width if form == "token" else GROUP, 0.0, form == "group_transposed"
    return lambda o: activation.silu_and_mul_quant(o.out, o.x, o.scales, *how)


def made(form: str, x: Tensor) -> tuple[Tensor, ...]:
    """The reference's result, or codes and scales."""
    if form in reference.ACTIVATIONS:
        return (reference.act_and_mul(x, form),)
    group = 0 if form == "token" else GROUP
    return reference.quantised(reference.act_and_mul(x), FP8, group, form == "group_transposed")


def by_torch(form: str, x: Tensor, out: Tensor, scales: Tensor) -> None:
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": functools.partial(torch.nn.functional.gelu, approximate="tanh"),
    }
    gate, up = x.chunk(2, -1)
    y = functions.get(form, torch.nn.functional.silu)(gate) * up
    if form in reference.ACTIVATIONS:
        out.copy_(y)
        return
    group = 0 if form == "token" else GROUP
    codes, found = reference.quantised(y, FP8, group, form == "group_transposed")
    out.copy_(codes)
    scales.copy_(found)


def of_torch(form: str, compiled: bool) -> Call:
    function = functools.partial(by_torch, form)
    if compiled:
        function = torch.compile(function, dynamic=False, fullgraph=True)
    return lambda o: function(o.x, o.out, o.scales)


def peers(form: str) -> dict[str, Call]:
    """What other packages have for a form without quantisation."""
    found: dict[str, Call] = {}
    if form not in reference.ACTIVATIONS:
        return found
    name = f"{form}_and_mul"
    if imported("vllm._custom_ops") is not None and hasattr(torch.ops._C, name):
        vllm = getattr(torch.ops._C, name)
        found["vllm"] = lambda o: vllm(o.out, o.x)
    for package, module in (("sglang", "sgl_kernel"), ("flashinfer", "flashinfer.activation")):
        function = getattr(imported(module), name, None)
        if function is not None:
            found[package] = lambda o, function=function: function(o.x, o.out)  # type: ignore[misc]
    return found


def operands_of(form: str, width: int, n: int, device: torch.device) -> list[Operands]:
    coded = form not in reference.ACTIVATIONS
    shape = (n, 1) if form == "token" else (n, width // GROUP)
    shape = shape[::-1] if form == "group_transposed" else shape
    moved = n * width * (5 if coded else 6)
    return [
        Operands(
            torch.randn(n, 2 * width, device=device).to(torch.bfloat16),
            torch.empty(n, width, dtype=FP8 if coded else torch.bfloat16, device=device),
            torch.ones(shape, device=device),
        )
        for _ in range(copies_for(device, moved))
    ]


def agreement(call: Call, form: str, given: Operands) -> float:
    """The share of elements that equal the reference's."""
    kinds = torch.uint8 if given.out.dtype == FP8 else torch.int16
    given.out.zero_()
    call(given)
    return float((given.out.view(kinds) == made(form, given.x)[0].view(kinds)).double().mean())


def measure(kind: str, n: int, device: torch.device, samples: int) -> dict[str, Any]:
    # Each kind and size is code of its own, of which torch keeps eight.
    torch.compiler.reset()
    form, _, given = kind.rpartition("_")
    width = int(given)
    operands = operands_of(form, width, n, device)
    offered = {"ours": ours(form, width), "torch": of_torch(form, False), "compiled": of_torch(form, True)}
    calls, equal = tried({**offered, **peers(form)}, lambda name, call: agreement(call, form, operands[0]))
    contenders = contenders_of(calls, operands)
    times = with_plain(contenders, len(operands), device, samples)
    coded = operands[0].out.dtype == FP8
    moved = n * width * (5 if coded else 6) + operands[0].scales.nbytes * coded
    rate = moved / times["ours"] * 1e-3
    return {
        "kind": kind,
        "n": n,
        "k": width,
        "microseconds": times,
        "gigabytes_per_second": rate,
        "share_of_copy": rate / COPY,
        "equal": equal,
        "copies": len(operands),
    }


if __name__ == "__main__":
    run(__doc__, KINDS, TOKENS, measure)
