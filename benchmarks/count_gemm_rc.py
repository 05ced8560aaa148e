"""What `wvSplitKrc` does on gfx942 and gfx950 at (M, K) = (2112, 7168), counted by the emulator; no time is measured.

M is cut to a few compute units' worth of rows and the number of compute units with it, so that the plan is that of the
whole problem. Beside each count stands the least that the shape allows. Prints a Markdown table:

    python benchmarks/count_gemm_rc.py
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

import aiterlite
from aiterlite import dispatch, emulator, envs
from aiterlite.tables import gemm_rc as tables
from aiterlite.tables.gemm_rc_plan import REDUCTIONS
from aiterlite.target import Persona, resolve

WHOLE, ROWS, K = 2112, 128, 7168
CHIPS = ("mi300x", "mi355x")
HEAD = (
    "chip",
    "N",
    "reduction",
    "shards",
    "weights read / once",
    "tokens read / once",
    "workspace read + written",
    "MFMA / least",
    "vector loads / least for weights",
    "64-byte segments / least",
    "LDS conflict cycles",
    "VGPRs + AGPRs",
    "scratch",
)


def row(persona: Persona, n: int, reduction: str) -> list[Any]:
    x, weight = torch.randn(n, K).bfloat16(), torch.randn(ROWS, K).bfloat16()
    part = dataclasses.replace(persona, cu_count=max(1, persona.cu_count * ROWS // WHOLE))
    with (
        envs.override(AITERLITE_TARGET=persona.chip),
        emulator.watching(sanitize=True, counters=True) as seen,
    ):
        aiterlite.wvSplitKrc(x, weight, reduction=reduction, cu_count=part.cu_count)
    (counters,) = seen.counters
    if seen.findings:
        raise SystemExit("\n".join(map(str, seen.findings)))
    decision = dispatch.decide(tables.WV_SPLIT_K_RC, tables.RcProblem(n, ROWS, K, reduction=reduction), part)
    arguments, instructions = counters["arguments"], counters["instructions"]
    per_tile = 2 if persona.target == "gfx942" else 1
    least_mfma = per_tile * (ROWS // 16) * -(-n // 16) * (K // 32)
    workspace = arguments.get("workspace", {"read": 0, "written": 0})
    loads, occupancy = counters["coalescing"]["load"], counters["occupancy"]
    return [
        persona.chip,
        n,
        reduction,
        decision.plan.shards,
        f"{arguments['weight']['read'] / weight.nbytes:.3f}",
        f"{arguments['x']['read'] / x.nbytes:.2f}",
        f"{workspace['read'] + workspace['written']:,}",
        f"{instructions['mfma']:,} / {least_mfma:,}",
        f"{instructions['vmem_load']:,} / {weight.nbytes // 1024:,}",
        f"{loads['segments64']:,} / {loads['minimum64']:,}",
        counters["lds"]["conflict_cycles"],
        f"{occupancy['vgprs']} + {occupancy['agprs']}",
        instructions["scratch"],
    ]


def main() -> None:
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for chip in CHIPS:
        for n in (1, 4, 16, 64, 128):
            for reduction in REDUCTIONS:
                print(f"| {' | '.join(map(str, row(resolve(chip), n, reduction)))} |", flush=True)


if __name__ == "__main__":
    main()
