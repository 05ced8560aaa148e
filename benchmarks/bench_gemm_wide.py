"""`linear` and `wvSplitKrc`, in each of its reductions, for 16 to 128 tokens, and `wvSplitKQ` for 1 to 4, on this GPU.

Against `torch.nn.functional.linear` and the read floor of the weights, in one run, graph-timed, inputs rotated through
more than the L2. Prints microseconds; `--json FILE` writes them.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import aiterlite
from aiterlite.benchmark.floor import read_floor
from aiterlite.benchmark.timing import Contender, compare, copies_for
from aiterlite.tables.gemm_rc_plan import REDUCTIONS
from aiterlite.target import persona_for

SHAPES = (
    (128, 2880),
    (640, 2880),
    (2880, 2880),
    (256, 7168),
    (576, 7168),
    (2112, 7168),
    (7168, 2048),
    (7168, 2304),
)
TOKENS = (16, 32, 64, 128)
SCALED_TOKENS = (1, 2, 4)
DEVICE = torch.device("cuda")


def microseconds(contenders: dict[str, Contender], copies: int, samples: int) -> dict[str, float]:
    return {name: t.median * 1e6 for name, t in compare(contenders, copies, DEVICE, samples).items()}


def reduced(xs: list[Tensor], ws: list[Tensor], reduction: str, copy: int) -> Tensor:
    return aiterlite.wvSplitKrc(xs[copy], ws[copy], reduction=reduction)


def wide(m: int, k: int, n: int, samples: int) -> dict[str, Any]:
    copies = copies_for(DEVICE, 2 * m * k)
    ws = [torch.randn(m, k, device=DEVICE).to(torch.bfloat16) * k**-0.5 for _ in range(copies)]
    xs = [torch.randn(n, k, device=DEVICE).to(torch.bfloat16) for _ in range(copies)]
    contenders: dict[str, Contender] = {
        "floor": read_floor(ws),
        "torch": lambda copy: functional.linear(xs[copy], ws[copy]),
        "linear": lambda copy: aiterlite.linear(xs[copy], ws[copy]),
    }
    for reduction in REDUCTIONS:
        contenders[reduction] = functools.partial(reduced, xs, ws, reduction)
    return {"op": "wvSplitKrc", "m": m, "k": k, "n": n, "microseconds": microseconds(contenders, copies, samples)}


def scaled(m: int, k: int, n: int, samples: int) -> dict[str, Any]:
    copies = copies_for(DEVICE, m * k)
    ws = [torch.randn(m, k, device=DEVICE).to(torch.float8_e4m3fn) for _ in range(copies)]
    xs = [torch.randn(n, k, device=DEVICE).to(torch.float8_e4m3fn) for _ in range(copies)]
    one = torch.ones(1, device=DEVICE)
    contenders: dict[str, Contender] = {
        # The floor counts 16-bit elements.
        "floor": read_floor([w.view(torch.bfloat16) for w in ws]),
        "wvSplitKQ": lambda copy: aiterlite.wvSplitKQ(xs[copy], ws[copy], torch.bfloat16, one, one),
    }
    return {"op": "wvSplitKQ", "m": m, "k": k, "n": n, "microseconds": microseconds(contenders, copies, samples)}


def show(row: dict[str, Any]) -> None:
    times = row["microseconds"]
    text = "  ".join(f"{name} {value:6.2f}" for name, value in times.items())
    print(f"{row['op']:10} {row['m']:>5} {row['k']:>5} {row['n']:>4}  {text}", flush=True)


def mean_ratio(rows: list[dict[str, Any]], over: str, under: str) -> float:
    """The geometric mean of one contender's time over another's."""
    logs = [math.log(row["microseconds"][over] / row["microseconds"][under]) for row in rows]
    return math.exp(sum(logs) / len(logs))


def summary(rows: list[dict[str, Any]]) -> list[str]:
    wide_rows = [row for row in rows if row["op"] == "wvSplitKrc"]
    scaled_rows = [row for row in rows if row["op"] == "wvSplitKQ"]
    lines = []
    for name in ("linear", *REDUCTIONS):
        few, many = ([row for row in wide_rows if (row["n"] <= 64) == small] for small in (True, False))
        least = min(row["microseconds"]["torch"] / row["microseconds"][name] for row in wide_rows)
        lines.append(
            f"{name}: {mean_ratio(few, 'torch', name):.2f} times torch at 16 to 64 tokens, "
            f"{mean_ratio(many, 'torch', name):.2f} at 128, least {least:.2f}"
        )
    lines.append(f"deterministic over fast: {mean_ratio(wide_rows, 'deterministic', 'fast'):.3f}")
    worst = max(row["microseconds"]["wvSplitKQ"] / row["microseconds"]["floor"] for row in scaled_rows)
    lines.append(f"wvSplitKQ: {mean_ratio(scaled_rows, 'wvSplitKQ', 'floor'):.3f} times the floor, worst {worst:.3f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=11)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = []
    with torch.no_grad():
        for measure, tokens in ((wide, TOKENS), (scaled, SCALED_TOKENS)):
            for m, k in SHAPES:
                for n in tokens:
                    rows.append(measure(m, k, n, options.samples))
                    show(rows[-1])
    for text in summary(rows):
        print(text)
    if options.json:
        data = {"chip": persona_for("cuda", 0).chip, "torch": torch.__version__, "rows": rows}
        options.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
