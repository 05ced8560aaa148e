"""RMSNorm of q's and k's latents in one launch, beside two launches, torch and torch.compile.

In one run, graph-timed on a GPU, operands and outputs rotated through more than the L2: 1,536 and 512 columns of a
projection of 2,112, as DeepSeek-R1 has. `group` quantises q by groups of 128, after it was added to a residual.
`parts` are this package's calls of one tensor each. `plain` is ours launched as usual, after the kernel before it has
ended (AITERLITE_OVERLAP=0). Prints microseconds; `--json FILE` writes them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from side_by_side import contenders_of, run, with_plain
from torch import Tensor

from aiterlite import norm
from aiterlite.benchmark.timing import copies_for
from aiterlite.reference import norm as reference

FP8, EPSILON, GROUP, Q, K, ROW = torch.float8_e4m3fn, 1e-6, 128, 1536, 512, 2112
TOKENS = (1, 16, 256, 4096)
KINDS = ("pair", "group")


@dataclass(frozen=True)
class Operands:
    q: Tensor
    k: Tensor
    q_weight: Tensor
    k_weight: Tensor
    residual: Tensor
    total: Tensor
    q_out: Tensor
    codes: Tensor
    scales: Tensor
    k_out: Tensor


Call = Callable[[Operands], object]


def fused(kind: str, o: Operands) -> None:
    if kind == "pair":
        norm._fused_qk_rmsnorm(o.q_out, o.q, o.q_weight, EPSILON, o.k_out, o.k, o.k_weight, EPSILON)
        return
    results = None, o.k_out, o.total, o.k, o.k_weight, EPSILON, o.residual, GROUP
    norm.fused_qk_rmsnorm_group_quant(o.codes, o.scales, o.q, o.q_weight, EPSILON, *results)


def parts(kind: str, o: Operands) -> None:
    norm.rms_norm_cu(o.k_out, o.k, o.k_weight, EPSILON)
    if kind == "pair":
        norm.rms_norm_cu(o.q_out, o.q, o.q_weight, EPSILON)
        return
    scaled = o.scales, o.q_weight, EPSILON, 0, GROUP
    norm.rmsnorm2d_fwd_with_add_dynamicquant(o.codes, o.q, o.residual, o.total, *scaled)


def by_torch(kind: str, o: Operands) -> None:
    functional = torch.nn.functional
    o.k_out.copy_(functional.rms_norm(o.k, o.k_weight.shape, o.k_weight, EPSILON))
    q = o.q if kind == "pair" else o.q + o.residual
    y = functional.rms_norm(q, o.q_weight.shape, o.q_weight, EPSILON)
    if kind == "pair":
        o.q_out.copy_(y)
        return
    o.total.copy_(q)
    codes, scales = reference.quantised(y, FP8, GROUP)
    o.codes.copy_(codes)
    o.scales.copy_(scales)


def operands_of(n: int, device: torch.device) -> list[Operands]:
    weights = [torch.rand(width, device=device).to(torch.bfloat16) for width in (Q, K)]

    def made() -> Operands:
        latents = torch.randn(n, ROW, device=device).to(torch.bfloat16)
        rows = [torch.randn(n, Q, device=device).to(torch.bfloat16) for _ in range(3)]
        coded = torch.empty(n, Q, dtype=FP8, device=device), torch.empty(n, Q // GROUP, device=device)
        k_out = torch.empty(n, K, dtype=torch.bfloat16, device=device)
        return Operands(latents[:, :Q], latents[:, Q : Q + K], *weights, *rows, *coded, k_out)

    return [made() for _ in range(copies_for(device, n * (2 * (Q + K) * 2)))]


def measure(kind: str, n: int, device: torch.device, samples: int) -> dict[str, Any]:
    operands = operands_of(n, device)
    compiled = torch.compile(functools.partial(by_torch, kind), dynamic=False, fullgraph=True)
    calls: dict[str, Call] = {
        "ours": functools.partial(fused, kind),
        "parts": functools.partial(parts, kind),
        "torch": functools.partial(by_torch, kind),
        "compiled": compiled,
    }
    contenders = contenders_of(calls, operands)
    times = with_plain(contenders, len(operands), device, samples)
    moved = n * (4 * (Q + K) if kind == "pair" else 7 * Q + 4 * Q // GROUP + 4 * K)
    return {
        "kind": kind,
        "n": n,
        "microseconds": times,
        "gigabytes_per_second": moved / times["ours"] * 1e-3,
        "equal": {},
        "copies": len(operands),
    }


if __name__ == "__main__":
    run(__doc__, KINDS, TOKENS, measure)
