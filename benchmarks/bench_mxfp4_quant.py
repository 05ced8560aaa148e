"""Quantisation of bf16 rows to MXFP4, beside a copy of as many bytes, and of gates and ups beside the two calls that it
takes the place of.

In one run, graph-timed on a GPU, operands and outputs rotated through more than the L2. `copy` reads and writes half of
the bytes each that a call moves: what memory takes for them. `plain` is ours launched as usual, after the kernel before
it has ended (AITERLITE_OVERLAP=0). `parts` are silu_and_mul, then the quantiser. Prints microseconds; `--json FILE`
writes them. No other package that can be imported quantises to MXFP4 on Hopper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from side_by_side import run, with_plain
from torch import Tensor

from aiterlite import activation
from aiterlite.benchmark.timing import Contender, copies_for
from aiterlite.ops import mxfp4 as ops
from aiterlite.ops.direct import call
from aiterlite.ops.shuffle import padded_scale_shape
from aiterlite.reference import mxfp4 as reference

WIDTH, EVEN = 7168, 2
TOKENS = (1, 16, 256, 4096)
KINDS = ("rows", "columns", "shuffled", "silu")


@dataclass(frozen=True)
class Operands:
    x: Tensor
    made: Tensor
    codes: Tensor
    scales: Tensor
    source: Tensor
    target: Tensor


def moved(kind: str, n: int) -> int:
    """The bytes of a call: elements in, codes and scales out, padding of scales too."""
    blocks = WIDTH // 32
    rows, columns = padded_scale_shape(n, blocks) if kind == "shuffled" else (n, blocks)
    return (4 if kind == "silu" else 2) * n * WIDTH + n * WIDTH // 2 + rows * columns


def operands_of(kind: str, n: int, device: torch.device) -> list[Operands]:
    gated, blocks, half = kind == "silu", WIDTH // 32, moved(kind, n) // 2

    def new(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.uint8, device=device)

    def made() -> Operands:
        x = torch.randn(n, (2 if gated else 1) * WIDTH, device=device).to(torch.bfloat16)
        scales = new(*padded_scale_shape(n, blocks)) if kind == "shuffled" else new(n, blocks)
        scales = new(blocks, n).T if kind == "columns" else scales
        between = torch.empty(n, WIDTH, dtype=torch.bfloat16, device=device) if gated else x
        return Operands(x, between, new(n, WIDTH // 2), scales, new(half), new(half))

    return [made() for _ in range(copies_for(device, moved(kind, n)))]


def quantise(kind: str, o: Operands, x: Tensor) -> None:
    ops.quantise(x, o.codes, o.scales, EVEN, kind == "shuffled")


def ours(kind: str, o: Operands) -> None:
    if kind == "silu":
        call(ops.ACT_QUANT, (o.x, o.codes, o.scales, "silu", EVEN, False), ())
    else:
        quantise(kind, o, o.x)


def parts(kind: str, o: Operands) -> None:
    activation.silu_and_mul(o.made, o.x)
    quantise(kind, o, o.made)


def agreement(kind: str, o: Operands) -> float:
    """The share of codes that equal the reference's, of the activation that the operator for it makes."""
    if kind == "silu":
        activation.silu_and_mul(o.made, o.x)
    ours(kind, o)
    wanted = reference.quantise(o.made if kind == "silu" else o.x, EVEN)[0]
    return float((o.codes == wanted).double().mean())


def measure(kind: str, n: int, device: torch.device, samples: int) -> dict[str, Any]:
    operands = operands_of(kind, n, device)
    equal = {"ours": agreement(kind, operands[0])}
    contenders: dict[str, Contender] = {
        "copy": lambda copy: operands[copy].target.copy_(operands[copy].source),
        "ours": lambda copy: ours(kind, operands[copy]),
    }
    if kind == "silu":
        contenders["parts"] = lambda copy: parts(kind, operands[copy])
    times = with_plain(contenders, len(operands), device, samples)
    return {
        "kind": kind,
        "n": n,
        "k": WIDTH,
        "microseconds": times,
        "gigabytes_per_second": moved(kind, n) / times["ours"] * 1e-3,
        "share_of_copy": times["copy"] / times["ours"],
        "equal": equal,
        "copies": len(operands),
    }


if __name__ == "__main__":
    run(__doc__, KINDS, TOKENS, measure)
