"""What `gemm_a8w8_blockscale` does on gfx942 and gfx950, counted by the emulator; no time is measured.

Rows of weights are cut to 256, and workgroups with them; the plan is that of the whole problem. Beside each count is
the least that the shape allows. Prints a Markdown table, with all sanitizers on:

    python benchmarks/count_gemm_a8w8.py
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from aiterlite import dispatch, emulator, envs
from aiterlite.dispatch import Decision
from aiterlite.launch import calls as launches
from aiterlite.ops import operands
from aiterlite.ops.shuffle import shuffle_weight
from aiterlite.reference import gemm_a8w8 as reference
from aiterlite.tables import gemm_a8w8 as tables
from aiterlite.tables import gemm_a8w8_amd as amd
from aiterlite.tables.gemm_a8w8_problem import BlockScaleProblem
from aiterlite.target import Persona, resolve

CHIPS, TOKENS, SHAPES, ROWS = ("mi300x", "mi355x"), (1, 16, 64), ((2112, 7168), (24576, 1536)), 256
# A product of 16 x 16 x 128 takes so many cycles of the matrix unit, however many instructions that is.
MATRIX_CYCLES = {"gfx942": 64, "gfx950": 32}
HEAD = (
    "chip",
    "M, K",
    "N",
    "rows, splits",
    "weights read / once",
    "tokens read / once",
    "workspace",
    "all bytes / least",
    "matrix cycles / least",
    "issue cycles",
    "instructions",
    "LDS conflict cycles",
    "VGPRs + AGPRs",
    "scratch",
)


def decision_of(persona: Persona, m: int, k: int, n: int) -> tuple[amd.Plan, Decision]:
    """The plan of the whole problem, and the decision of the part by that plan."""
    whole = dispatch.decide(tables.BLOCKSCALE_TABLE, BlockScaleProblem(n, m, k, shuffled=True), persona)
    plan: amd.Plan = whole.plan
    grid = plan.grid // -(-m // plan.rows) * -(-ROWS // plan.rows)
    part = dataclasses.replace(plan, grid=grid)
    return plan, dataclasses.replace(whole, problem=dataclasses.replace(whole.problem, m=ROWS), plan=part)


def row(persona: Persona, m: int, k: int, n: int) -> list[Any]:
    fp8, groups = operands.FP8_DTYPES[persona.fp8], k // 128
    x, w = torch.randn(n, k).to(fp8), torch.randn(ROWS, k).to(fp8)
    x_scale, w_scale = torch.rand(n, groups) + 0.5, torch.rand(ROWS // 128, groups) + 0.5
    y, shuffled = torch.zeros(n, ROWS, dtype=torch.bfloat16), shuffle_weight(w)
    plan, decision = decision_of(persona, m, k, n)
    strides = {f"stride_{name}_batch": 0 for name in ("x", "w", "bias", "y", "x_scale", "w_scale")}
    strides |= {"stride_x": k, "stride_w": k, "stride_y": ROWS, "stride_w_scale": groups}
    strides |= {"stride_x_scale": groups, "stride_x_scale_group": 1}
    with envs.override(AITERLITE_TARGET=persona.chip), emulator.watching(sanitize=True, counters=True) as seen:
        launch = launches.prepare(decision, y.device, ("x", "w", "y", "x_scale", "w_scale"), strides, ("bias",))
        launch(x, shuffled, y, x_scale, w_scale)
    if seen.findings:
        raise SystemExit("\n".join(map(str, seen.findings)))
    exact, magnitude = reference.blockscale(x, w, x_scale, w_scale)
    if not bool(((y.double() - exact).abs() <= reference.error_bound(exact, magnitude, k, y.dtype)).all()):
        raise SystemExit("the result is wrong")
    main, *_ = seen.counters
    arguments, workspace = main["arguments"], 0
    moved = 0
    for one in seen.counters:
        for name, value in one["arguments"].items():
            moved += value["read"] + value["written"]
            workspace += (value["read"] + value["written"]) * (name == "workspace")
    least = sum(tensor.nbytes for tensor in (x, w, x_scale, w_scale, y))
    matrix = ROWS // 16 * -(-n // 16) * groups * MATRIX_CYCLES[persona.target]
    return [
        persona.chip,
        f"{m}, {k}",
        n,
        f"{plan.rows}, {plan.splits}",
        f"{arguments['w']['read'] / w.nbytes:.3f}",
        f"{arguments['x']['read'] / x.nbytes:.2f}",
        f"{workspace:,}",
        f"{moved / least:.3f}",
        f"{main['matrix_cycles']:,} / {matrix:,}",
        f"{sum(one['issue_cycles']['total'] for one in seen.counters):,}",
        f"{sum(one['instructions']['total'] for one in seen.counters):,}",
        main["lds"]["conflict_cycles"],
        f"{main['occupancy']['vgprs']} + {main['occupancy']['agprs']}",
        main["instructions"]["scratch"],
    ]


if __name__ == "__main__":
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for chip in CHIPS:
        for m, k in SHAPES:
            for n in TOKENS:
                print(f"| {' | '.join(map(str, row(resolve(chip), m, k, n)))} |", flush=True)
