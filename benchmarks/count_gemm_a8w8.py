"""What `gemm_a8w8_blockscale` does on gfx942 and gfx950, counted by the emulator; no time is measured.

Rows of weights are cut to 256, and workgroups with them; the plan is that of the whole problem. Beside each count is
the least that the shape allows. Prints a Markdown table, with all sanitizers on:

    python benchmarks/count_gemm_a8w8.py
"""

from __future__ import annotations

from typing import Any

import counting
import torch
from torch import Tensor

from aiterlite import dispatch
from aiterlite.ops import operands
from aiterlite.ops.shuffle import shuffle_weight
from aiterlite.reference import gemm_a8w8 as reference
from aiterlite.tables import gemm_a8w8 as tables
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


def row(persona: Persona, m: int, k: int, n: int) -> list[Any]:
    fp8, groups = operands.FP8_DTYPES[persona.fp8], k // 128
    x, w = torch.randn(n, k).to(fp8), torch.randn(ROWS, k).to(fp8)
    x_scale, w_scale = torch.rand(n, groups) + 0.5, torch.rand(ROWS // 128, groups) + 0.5
    y, shuffled = torch.zeros(n, ROWS, dtype=torch.bfloat16), shuffle_weight(w)
    whole = dispatch.decide(tables.BLOCKSCALE_TABLE, BlockScaleProblem(n, m, k, shuffled=True), persona)
    plan = whole.plan
    strides = {f"stride_{name}_batch": 0 for name in ("x", "w", "bias", "y", "x_scale", "w_scale")}
    strides |= {"stride_x": k, "stride_w": k, "stride_y": ROWS, "stride_w_scale": groups}
    strides |= {"stride_x_scale": groups, "stride_x_scale_group": 1}
    made: dict[str, Tensor | None] = {"x": x, "w": shuffled, "y": y, "x_scale": x_scale, "w_scale": w_scale}
    seen = counting.run(counting.part_of(whole, ROWS), {**made, "bias": None}, strides)
    exact, magnitude = reference.blockscale(x, w, x_scale, w_scale)
    counting.check(y, exact, reference.error_bound(exact, magnitude, k, y.dtype))
    main, arguments = seen[0], seen[0]["arguments"]
    least = sum(tensor.nbytes for tensor in (x, w, x_scale, w_scale, y))
    matrix = ROWS // 16 * -(-n // 16) * groups * MATRIX_CYCLES[persona.target]
    return [
        persona.chip,
        f"{m}, {k}",
        n,
        f"{plan.rows}, {plan.splits}",
        f"{arguments['w']['read'] / w.nbytes:.3f}",
        f"{arguments['x']['read'] / x.nbytes:.2f}",
        f"{counting.moved(seen, 'workspace'):,}",
        f"{counting.moved(seen) / least:.3f}",
        f"{main['matrix_cycles']:,} / {matrix:,}",
        f"{counting.total(seen, 'issue_cycles', 'total'):,}",
        f"{counting.total(seen, 'instructions', 'total'):,}",
        main["lds"]["conflict_cycles"],
        counting.registers(main),
        main["instructions"]["scratch"],
    ]


if __name__ == "__main__":
    counting.head(HEAD)
    for chip in CHIPS:
        for m, k in SHAPES:
            for n in TOKENS:
                counting.line(row(resolve(chip), m, k, n))
