"""Quantisation of bf16 rows to e4m3fn, beside the kernels of vLLM and SGLang where they can be imported.

In one run, graph-timed on a GPU, operands and outputs rotated through more than the L2. `cast` is torch's conversion to
the same type without a scale: as many bytes, and nothing to find out. `plain` is ours launched as usual, after the
kernel before it has ended (AITERLITE_OVERLAP=0), as theirs are. FlashInfer quantises to 8 bits with scales of 32
elements (MXFP8), which is another operator. Prints microseconds; `--json FILE` writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from side_by_side import contenders_of, imported, run, tried, with_plain
from torch import Tensor

from aiterlite import quant
from aiterlite.benchmark.timing import Contender, copies_for
from aiterlite.reference import quant as reference

FP8, LARGEST, LEAST = torch.float8_e4m3fn, 448.0, 1e-10
GROUP, WIDTH = 128, 7168
TOKENS = (1, 16, 256, 4096)
KINDS = ("group", "group_transposed", "token", "tensor", "static")


@dataclass(frozen=True)
class Operands:
    x: Tensor
    out: Tensor
    scales: Tensor


Call = Callable[[Operands], object]


def ours(kind: str) -> Call:
    if kind.startswith("group"):
        transposed = kind == "group_transposed"
        return lambda o: quant.dynamic_per_group_scaled_quant(o.out, o.x, o.scales, GROUP, transposed)
    if kind == "token":
        return lambda o: quant.dynamic_per_token_scaled_quant(o.out, o.x, o.scales)
    of_tensor = quant.dynamic_per_tensor_quant if kind == "tensor" else quant.static_per_tensor_quant
    return lambda o: of_tensor(o.out, o.x, o.scales)


# What other packages name the arguments that are not a call's tensors, in any of their versions.
_SETTINGS: dict[str, object] = {
    "group_size": GROUP,
    "eps": LEAST,
    **dict.fromkeys(("fp8_min", "min_8bit", "min_value"), -LARGEST),
    **dict.fromkeys(("fp8_max", "max_8bit", "max_value"), LARGEST),
}
_TENSORS = {
    **dict.fromkeys(("input", "x"), "x"),
    **dict.fromkeys(("out", "result", "output", "output_q"), "out"),
    **dict.fromkeys(("scale", "scales", "output_s"), "scales"),
}


def by_schema(overload: Any, **settings: object) -> Call:
    """A call of another package's operator by the names in its schema, which differ from version to version. What is
    named nowhere here has its default, or is off."""
    arguments = overload._schema.arguments
    known = {**_SETTINGS, **settings}

    def value(argument: Any, operands: Operands) -> object:
        if argument.name in _TENSORS:
            return getattr(operands, _TENSORS[argument.name])
        if argument.name in known:
            return known[argument.name]
        if argument.has_default_value():
            return argument.default_value
        return False if str(argument.type) == "bool" else None

    return lambda operands: overload(*[value(argument, operands) for argument in arguments])


_PEERS: dict[str, dict[str, tuple[str, str, tuple[str, ...], dict[str, object]]]] = {
    "vllm": {
        "group": ("vllm._custom_ops", "_C", ("per_token_group_fp8_quant",), {}),
        "token": ("vllm._custom_ops", "_C", ("dynamic_per_token_scaled_fp8_quant",), {}),
        "tensor": ("vllm._custom_ops", "_C", ("dynamic_scaled_fp8_quant",), {}),
        "static": ("vllm._custom_ops", "_C", ("static_scaled_fp8_quant",), {}),
    },
    "sglang": {
        "group": ("sgl_kernel", "sgl_kernel", ("sgl_per_token_group_quant_8bit", "sgl_per_token_group_quant_fp8"), {}),
        "group v2": ("sgl_kernel", "sgl_kernel", ("sgl_per_token_group_quant_8bit_v2",), {}),
        "token": ("sgl_kernel", "sgl_kernel", ("sgl_per_token_quant_fp8",), {}),
        "tensor": ("sgl_kernel", "sgl_kernel", ("sgl_per_tensor_quant_fp8",), {"is_static": False}),
        "static": ("sgl_kernel", "sgl_kernel", ("sgl_per_tensor_quant_fp8",), {"is_static": True}),
    },
}


def peers(kind: str) -> dict[str, Call]:
    """The calls of other packages that do the same; what cannot be imported or registers no such operator is absent."""
    found = {}
    for package, calls in _PEERS.items():
        for name, (module, namespace, operators, settings) in calls.items():
            if name.split()[0] != kind:
                continue
            if imported(module) is None:
                continue
            packets = [getattr(getattr(torch.ops, namespace), operator, None) for operator in operators]
            packet = next((packet for packet in packets if packet is not None), None)
            if packet is not None:
                found[name.replace(kind, package)] = by_schema(packet.default, **settings)
    if kind == "group":
        found |= triton_of_sglang()
    return found


def triton_of_sglang() -> dict[str, Call]:
    """SGLang's Triton kernel, which allocates its results."""
    module = imported("sglang.srt.layers.quantization.fp8_kernel")
    function = getattr(module, "per_token_group_quant_fp8", None)
    return {} if function is None else {"sglang triton": lambda o: function(o.x, GROUP, eps=LEAST)}


def scales_of(kind: str, n: int) -> tuple[int, ...]:
    return {"group": (n, WIDTH // GROUP), "token": (n, 1)}.get(kind.partition("_")[0], (1,))


def operands_of(kind: str, n: int, device: torch.device) -> list[Operands]:
    shape = scales_of(kind, n)
    scales = 4
    for size in shape:
        scales *= size
    copies = copies_for(device, 3 * n * WIDTH + scales)
    return [
        Operands(
            torch.randn(n, WIDTH, device=device).to(torch.bfloat16),
            torch.empty(n, WIDTH, dtype=FP8, device=device),
            torch.full(shape, 0.0625, device=device),
        )
        for _ in range(copies)
    ]


def agreement(call: Call, kind: str, operands: Operands) -> float:
    """The share of codes that equal the reference's, by scales of the same kind."""
    operands.out.zero_()
    result = call(operands)
    codes = result[0] if isinstance(result, tuple) else operands.out
    x = operands.x
    if kind == "static":
        wanted = reference.static(x, FP8, operands.scales)
    elif kind == "tensor":
        wanted = reference.per_tensor(x, FP8)[0]
    else:
        wanted = reference.per_group(x, FP8, WIDTH if kind == "token" else GROUP)[0]
    return float((codes.view(torch.uint8) == wanted.view(torch.uint8)).double().mean())


def measure(kind: str, n: int, device: torch.device, samples: int) -> dict[str, Any]:
    operands = operands_of(kind, n, device)
    offered = {"ours": ours(kind), **peers(kind)}
    calls, equal = tried(offered, lambda name, call: agreement(call, kind, operands[0]))
    contenders: dict[str, Contender] = {
        "cast": lambda copy: operands[copy].out.copy_(operands[copy].x),
        **contenders_of(calls, operands),
    }
    times = with_plain(contenders, len(operands), device, samples)
    moved = 3 * n * WIDTH + operands[0].scales.nbytes + (2 * n * WIDTH if kind == "tensor" else 0)
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
