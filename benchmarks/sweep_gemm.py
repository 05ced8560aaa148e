"""Measure many tilings of `wv_split_k` for each shape on this GPU, to check and calibrate the planner.

For each (M, K, N): the planner's choice, and the next best tilings by its own estimate with more and less in flight.
Prints the fastest, and how the planner's choice compares; `--json` keeps all figures. `--compile-only` builds every
variant for `--target` on a machine without a GPU, so that a measuring run only loads them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from side_by_side import build
from torch import Tensor

from aiterlite.benchmark.floor import read_floor
from aiterlite.benchmark.timing import Contender, compare, copies_for
from aiterlite.dispatch import Decision, Row
from aiterlite.launch import calls
from aiterlite.ops import matmul
from aiterlite.reference.gemm import error_bound
from aiterlite.tables import gemm as tables
from aiterlite.tables import gemm_plan as plans
from aiterlite.tables.gemm_plan import SHAPES, TOKENS
from aiterlite.target import Persona, persona_for, resolve


def candidates(persona: Persona, n: int, m: int, k: int, count: int) -> list[plans.Tiling]:
    """The planner's choice first, then other cuts in the order of its estimate, each with three amounts in flight."""
    chip = plans.CHIPS[persona.target]
    found = [plans.tiling(persona.target, n, m, k, persona.cu_count, True)]
    for cut in plans.ranked_cuts(chip, n, m, k, persona.cu_count):
        for factor in (1.0, 0.5, 2.0):
            wanted = dataclasses.replace(chip, flight=int(chip.flight * factor))
            found.append(plans.split_k(wanted, cut, m, k, persona.cu_count))
    return list(dict.fromkeys(tiling for tiling in found if plans.compiles(chip, tiling)))[:count]


def plan_of(problem: tables.GemmProblem, persona: Persona, tiling: plans.Tiling) -> tables.WvSplitKPlan:
    return tables.WvSplitKPlan(tiling, True, tiling.workgroups(problem.m), tiling.waves * persona.wave_size)


def contender(
    problem: tables.GemmProblem, persona: Persona, tiling: plans.Tiling, xs: list[Tensor], ws: list[Tensor], y: Tensor
) -> Contender:
    plan = plan_of(problem, persona, tiling)
    unit = tables.device_unit(problem, persona, plan)
    row = Row(short(tiling), "cuda", (), kernels=lambda *_: tables.launch_of(unit, tables.KERNEL, problem, plan))
    decision = Decision("wvSplitK", problem, persona, row, plan)
    launch = calls.prepare(decision, y.device, matmul.OPERANDS, matmul.strides(xs[0], ws[0], None), ("bias",))
    return lambda copy: launch(xs[copy], ws[copy], None, y)


def short(tiling: plans.Tiling) -> str:
    return "/".join(map(str, dataclasses.astuple(tiling)))


def measure(persona: Persona, m: int, k: int, n: int, arguments: argparse.Namespace) -> dict[str, Any]:
    device = torch.device("cuda")
    copies = copies_for(device, 2 * m * k)
    ws = [torch.randn(m, k, device=device).to(torch.bfloat16) * k**-0.5 for _ in range(copies)]
    xs = [torch.randn(n, k, device=device).to(torch.bfloat16) for _ in range(copies)]
    y = torch.empty(n, m, dtype=torch.bfloat16, device=device)
    problem = tables.GemmProblem(n=n, m=m, k=k)
    exact = xs[0].double() @ ws[0].double().T
    bound = error_bound(xs[0], ws[0], exact)
    contenders: dict[str, Contender] = {"floor": read_floor(ws)}
    for tiling in candidates(persona, n, m, k, arguments.count):
        run = contender(problem, persona, tiling, xs, ws, y)
        y.fill_(float("nan"))
        run(0)
        if not bool(((y.double() - exact).abs() <= bound).all()):
            raise AssertionError(f"{short(tiling)} is wrong at m={m} k={k} n={n}")
        contenders[short(tiling)] = run
    timings = compare(contenders, copies, device, arguments.samples)
    micros = {name: timing.median * 1e6 for name, timing in timings.items()}
    chosen = next(name for name in micros if name != "floor")
    best = min((name for name in micros if name != "floor"), key=micros.__getitem__)
    print(
        f"{m:>6} {k:>6} {n:>3}  floor {micros['floor']:6.2f}  chosen {chosen:<16} {micros[chosen]:6.2f}  "
        f"best {best:<16} {micros[best]:6.2f}  {micros[best] / micros['floor']:.2f} x floor",
        flush=True,
    )
    return {"m": m, "k": k, "n": n, "microseconds": micros}


def compile_all(persona: Persona, arguments: argparse.Namespace) -> int:
    units = {
        tables.device_unit(problem, persona, plan_of(problem, persona, tiling))
        for m, k in SHAPES
        for n in arguments.tokens
        for problem in [tables.GemmProblem(n=n, m=m, k=k)]
        for tiling in candidates(persona, n, m, k, arguments.count)
    }
    print(f"{len(units)} variants for {persona.target}, {build(units)} of them built now")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=12, help="tilings for each shape")
    parser.add_argument("--samples", type=int, default=9)
    parser.add_argument("--tokens", type=lambda text: [int(n) for n in text.split(",")], default=list(TOKENS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--compile-only", action="store_true")
    parser.add_argument("--target", default="h100", help="with --compile-only")
    arguments = parser.parse_args()
    if arguments.compile_only:
        return compile_all(resolve(arguments.target), arguments)
    persona = persona_for("cuda", 0)
    results = [measure(persona, m, k, n, arguments) for m, k in SHAPES for n in arguments.tokens]
    if arguments.json:
        arguments.json.write_text(json.dumps({"persona": dataclasses.asdict(persona), "results": results}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
