"""What `gemm_afp4wfp4` and `gemm_a16wfp4` of shuffled operands do on gfx942 and gfx950, counted by the emulator;
no time is measured.

Rows of weights are cut to 256, and workgroups with them; the plan is that of the whole problem. Beside each count is
the least that the shape allows. Prints a Markdown table, with all sanitizers on:

    python benchmarks/count_gemm_mxfp4.py
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from aiterlite import dispatch, emulator, envs
from aiterlite.launch import calls as launches
from aiterlite.ops.shuffle import shuffle_scale, shuffle_weight
from aiterlite.reference import gemm_mxfp4 as reference
from aiterlite.reference import mxfp4
from aiterlite.tables import gemm_mxfp4 as tables
from aiterlite.tables import gemm_mxfp4_amd as amd
from aiterlite.tables.gemm_mxfp4_problem import MxGemmProblem
from aiterlite.target import Persona, resolve

CHIPS, TOKENS, SHAPES, ROWS = ("mi300x", "mi355x"), (1, 16, 64), ((2112, 7168), (7168, 16384)), 256
# A product of 16 x 16 x 128 takes so many cycles of the matrix unit: of codes on gfx950; of bf16 on both.
MATRIX_CYCLES = {("gfx950", "fp4"): 16, ("gfx950", "bf16"): 64, ("gfx942", "fp4"): 128, ("gfx942", "bf16"): 128}
HEAD = (
    "chip",
    "x",
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
    "VGPRs + AGPRs",
    "scratch",
)


def row(persona: Persona, kind: str, m: int, k: int, n: int) -> list[Any]:
    blocks = k // 32
    w = torch.randint(0, 256, (ROWS, k // 2), dtype=torch.uint8)
    w_scale = torch.randint(115, 123, (ROWS, blocks), dtype=torch.uint8)
    packed = kind == "fp4"
    x = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8) if packed else torch.randn(n, k).bfloat16()
    x_scale = torch.randint(120, 128, (n, blocks), dtype=torch.uint8) if packed else None
    numbers = x if x_scale is None else mxfp4.dequantise(x, x_scale)
    y, shuffled, tiles = torch.zeros(n, ROWS, dtype=torch.bfloat16), shuffle_weight(w), shuffle_scale(w_scale)
    assert tiles is not None
    problem = MxGemmProblem(n, m, k, kind, shuffled=True, w_scale="shuffled")
    whole = dispatch.decide(tables.TABLE, problem, persona)
    plan: amd.Plan = whole.plan
    part = dataclasses.replace(plan, grid=plan.grid // -(-m // plan.rows) * -(-ROWS // plan.rows))
    decision = dataclasses.replace(whole, problem=dataclasses.replace(problem, m=ROWS), plan=part)
    names = ("x", "w", "bias", "y", "x_scale", "w_scale")
    sizes: dict[str, int | float] = {f"stride_{name}_batch": 0 for name in names if name != "bias"}
    sizes |= {"stride_x": x.shape[1], "stride_w": k // 2, "stride_y": ROWS, "stride_bias": 0, "bias_is_float": 0}
    sizes |= {
        "stride_w_scale": 32 * tiles.shape[1],
        "stride_w_scale_block": 0,
        "alpha": 1.0,
        "beta": 0.0,
        "reserved": 0,
    }
    sizes |= {"stride_x_scale": blocks if packed else 0, "stride_x_scale_block": 1}
    absent = ("bias",) if packed else ("bias", "x_scale")
    with envs.override(AITERLITE_TARGET=persona.chip), emulator.watching(sanitize=True, counters=True) as seen:
        launch = launches.prepare(decision, y.device, names, sizes, absent)
        launch(x, shuffled, None, y, x_scale, tiles)
    if seen.findings:
        raise SystemExit("\n".join(map(str, seen.findings)))
    exact, magnitude = reference.product(numbers, mxfp4.dequantise(w, w_scale))
    if not bool(((y.double() - exact).abs() <= reference.error_bound(exact, magnitude, y.dtype)).all()):
        raise SystemExit("the result is wrong")
    main, *_ = seen.counters
    arguments, workspace, moved = main["arguments"], 0, 0
    for one in seen.counters:
        for name, value in one["arguments"].items():
            moved += value["read"] + value["written"]
            workspace += (value["read"] + value["written"]) * (name == "workspace")
    least = sum(t.nbytes for t in (x, w, x_scale, w_scale, y) if t is not None)
    matrix = ROWS // 16 * -(-n // 16) * -(-k // 128) * MATRIX_CYCLES[persona.target, kind]
    return [
        persona.chip,
        kind,
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
        f"{main['occupancy']['vgprs']} + {main['occupancy']['agprs']}",
        main["instructions"]["scratch"],
    ]


if __name__ == "__main__":
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for chip in CHIPS:
        for kind in ("fp4", "bf16"):
            for m, k in SHAPES:
                for n in TOKENS:
                    print(f"| {' | '.join(map(str, row(resolve(chip), kind, m, k, n)))} |", flush=True)
