"""`linear` and `wvSplitKrc`, in each of its reductions, for 8 to 128 tokens, and `wvSplitKQ` for 1 to 4, on this GPU.

Against `torch.nn.functional.linear`, other packages' kernels that are here, and the read floor of the weights, in one
run, graph-timed, inputs rotated through more than the L2. Prints microseconds; `--json FILE` writes them.
"""

from __future__ import annotations

import argparse
import functools
import math
from pathlib import Path
from typing import Any

import torch
from side_by_side import build, write
from torch import Tensor
from torch.nn import functional

import aiterlite
from aiterlite import dispatch
from aiterlite.benchmark import gemm_peers
from aiterlite.benchmark.floor import read_floor
from aiterlite.benchmark.timing import Contender, compare, copies_for
from aiterlite.tables import gemm, gemm_rc
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
    (4096, 4096),
)
TOKENS = (8, 16, 32, 64, 128)
SCALED_TOKENS = (1, 2, 4)
DEVICE = torch.device("cuda")


def microseconds(contenders: dict[str, Contender], copies: int, samples: int) -> dict[str, float]:
    return {name: t.median * 1e6 for name, t in compare(contenders, copies, DEVICE, samples).items()}


def reduced(xs: list[Tensor], ws: list[Tensor], reduction: str, copy: int) -> Tensor:
    return aiterlite.wvSplitKrc(xs[copy], ws[copy], reduction=reduction)


def build_all(tokens: list[int], reductions: list[str]) -> None:
    """Every kernel of `wide`, in parallel: one after the other they take minutes."""
    persona, units = persona_for("cuda", 0), set()
    for m, k in SHAPES:
        for n in tokens:
            problems: list[tuple[Any, Any]] = [
                (gemm_rc.WV_SPLIT_K_RC, gemm_rc.RcProblem(n, m, k, reduction=name)) for name in reductions
            ]
            problems += [(gemm.WV_SPLIT_K, gemm.GemmProblem(n, m, k))] if n <= gemm.MAX_TOKENS else []
            for table, problem in problems:
                decision = dispatch.decide(table, problem, persona)
                if decision.row is not None and decision.row.kernels is not None:
                    units |= {kernel.unit for kernel in decision.row.kernels(problem, persona, decision.plan)}
    build(units)


def wide(m: int, k: int, n: int, samples: int, reductions: list[str]) -> dict[str, Any]:
    copies = copies_for(DEVICE, 2 * m * k)
    ws = [torch.randn(m, k, device=DEVICE).to(torch.bfloat16) * k**-0.5 for _ in range(copies)]
    xs = [torch.randn(n, k, device=DEVICE).to(torch.bfloat16) for _ in range(copies)]
    contenders: dict[str, Contender] = {
        "floor": read_floor(ws),
        "torch": lambda copy: functional.linear(xs[copy], ws[copy]),
        "linear": lambda copy: aiterlite.linear(xs[copy], ws[copy]),
    }
    for reduction in reductions:
        contenders[reduction] = functools.partial(reduced, xs, ws, reduction)
    contenders |= gemm_peers.contenders(xs, ws)
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
    for name in [name for name in ("linear", *REDUCTIONS) if name in wide_rows[0]["microseconds"]]:
        for n in sorted({row["n"] for row in wide_rows}):
            of = [row for row in wide_rows if row["n"] == n]
            least = min(row["microseconds"]["torch"] / row["microseconds"][name] for row in of)
            lines.append(f"{name}, {n} tokens: {mean_ratio(of, 'torch', name):.2f} times torch, least {least:.2f}")
    if "fast" in wide_rows[0]["microseconds"]:
        lines.append(f"deterministic over fast: {mean_ratio(wide_rows, 'deterministic', 'fast'):.3f}")
    if not scaled_rows:
        return lines
    worst = max(row["microseconds"]["wvSplitKQ"] / row["microseconds"]["floor"] for row in scaled_rows)
    lines.append(f"wvSplitKQ: {mean_ratio(scaled_rows, 'wvSplitKQ', 'floor'):.3f} times the floor, worst {worst:.3f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=11)
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS), help="of wvSplitKrc and linear")
    parser.add_argument("--reductions", nargs="+", choices=REDUCTIONS, default=list(REDUCTIONS))
    parser.add_argument("--no-scaled", action="store_true", help="without wvSplitKQ")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = []
    with torch.no_grad():
        build_all(options.tokens, options.reductions)
        for m, k in SHAPES:
            for n in options.tokens:
                rows.append(wide(m, k, n, options.samples, options.reductions))
                show(rows[-1])
        for m, k in () if options.no_scaled else SHAPES:
            for n in SCALED_TOKENS:
                rows.append(scaled(m, k, n, options.samples))
                show(rows[-1])
    for text in (*summary(rows), *gemm_peers.absent()):
        print(text)
    write(options.json, DEVICE, rows)


if __name__ == "__main__":
    main()
