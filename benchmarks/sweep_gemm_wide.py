"""Measure many tilings of sm_90's `wv_split_k`, fed by the copy engine, for each shape on this GPU: to check and
calibrate the planner.

For each M x K x N the tilings of the least estimates, of different rows, clusters and sharers, with and without weights
that are fetched early, each right or an error, beside the planner's choice, `wvSplitK` up to 16 tokens, torch, and the
planner's choice launched as usual. Prints the fastest; `--json` keeps all figures. All variants are compiled first, in
parallel: 200 take 40 s on 16 cores, and measuring them 5 s.
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

import aiterlite
from aiterlite import envs
from aiterlite.benchmark.floor import read_floor
from aiterlite.benchmark.timing import Contender, compare, copies_for
from aiterlite.dispatch import Decision, Row
from aiterlite.launch import calls
from aiterlite.ops import matmul
from aiterlite.reference.gemm import error_bound
from aiterlite.tables import gemm, gemm_rc
from aiterlite.tables import gemm_sm90 as tables
from aiterlite.target import Persona, persona_for

# Where another package's kernel, or torch's, was seen to lead.
PROBLEMS = (
    *((128, 2880, n) for n in (16, 32)),
    *((640, 2880, n) for n in (16, 32)),
    *((2880, 2880, n) for n in (16, 32, 64, 128)),
    *((256, 7168, n) for n in (16, 32)),
    *((2112, 7168, n) for n in (8, 16, 32, 64, 128)),
    *((4096, 4096, n) for n in (8, 16, 32, 64, 128)),
    *((7168, 2048, n) for n in (16, 32, 64, 128)),
    *((7168, 2304, n) for n in (64, 128)),
)


def candidates(persona: Persona, m: int, k: int, n: int, count: int) -> list[tables.Sm90Tiling]:
    """The planner's choice first, then the `count` best by the estimate, of different rows, clusters, sharers and token
    tiles; each also with no, half and twice as many weights fetched early."""
    units = persona.cu_count
    found = [tables.tiling(n, m, k, units, False)]
    cols = next(c for c in tables.COLUMNS if c >= n)
    ranked = sorted(tables.candidates(cols, m, k, units), key=lambda cut: tables.estimate(cut, m, k, units))
    apart: dict[tuple[int, ...], tables.Sm90Tiling] = {}
    for cut in ranked:
        apart.setdefault((cut.rows, cut.cluster, cut.share, cut.tiles), cut)
    for cut in (found[0], *list(apart.values())[:count]):
        earlier = (cut.early, 0, cut.early // 2, 2 * cut.early) if not cut.admits_early else (cut.early,)
        found += [dataclasses.replace(cut, early=early) for early in earlier]
    return list(dict.fromkeys(found))


def contender(
    problem: gemm_rc.RcProblem, persona: Persona, cut: tables.Sm90Tiling, xs: list[Tensor], ws: list[Tensor], y: Tensor
) -> Contender:
    row = Row("wgmma", "cuda", (), kernels=tables.kernels)
    decision = Decision("wvSplitKrc", problem, persona, row, tables.plan_of(cut, problem.m))
    launch = calls.prepare(decision, y.device, matmul.OPERANDS, matmul.strides(xs[0], ws[0], None), ("bias",))
    return lambda copy: launch(xs[copy], ws[copy], None, y)


def short(cut: tables.Sm90Tiling) -> str:
    return "/".join(map(str, dataclasses.astuple(cut)))


def measure(persona: Persona, m: int, k: int, n: int, arguments: argparse.Namespace) -> dict[str, Any]:
    device = torch.device("cuda")
    copies = copies_for(device, 2 * m * k)
    ws = [torch.randn(m, k, device=device).to(torch.bfloat16) * k**-0.5 for _ in range(copies)]
    xs = [torch.randn(n, k, device=device).to(torch.bfloat16) for _ in range(copies)]
    y = torch.empty(n, m, dtype=torch.bfloat16, device=device)
    problem = gemm_rc.RcProblem(n, m, k)
    exact = xs[0].double() @ ws[0].double().T
    bound = error_bound(xs[0], ws[0], exact)
    contenders: dict[str, Contender] = {
        "floor": read_floor(ws),
        "torch": lambda copy: torch.nn.functional.linear(xs[copy], ws[copy]),
    }
    cuts = candidates(persona, m, k, n, arguments.count)
    if n <= gemm.MAX_TOKENS:
        contenders["wvSplitK"] = lambda copy: aiterlite.wvSplitK(xs[copy], ws[copy])
    for cut in cuts:
        run = contender(problem, persona, cut, xs, ws, y)
        y.fill_(float("nan"))
        run(0)
        if not bool(((y.double() - exact).abs() <= bound).all()):
            raise AssertionError(f"{short(cut)} is wrong at m={m} k={k} n={n}")
        contenders[short(cut)] = run
    timings = compare(contenders, copies, device, arguments.samples)
    micros = {name: timing.median * 1e6 for name, timing in timings.items()}
    with envs.override(AITERLITE_OVERLAP="0"):
        plain = {"plain": contender(problem, persona, cuts[0], xs, ws, y)}
        micros |= {name: t.median * 1e6 for name, t in compare(plain, copies, device, arguments.samples).items()}
    chosen = short(cuts[0])
    best = min(map(short, cuts), key=micros.__getitem__)
    print(
        f"{m:>6} {k:>6} {n:>3}  floor {micros['floor']:6.2f}  torch {micros['torch']:6.2f}  chosen {chosen:<14}"
        f" {micros[chosen]:6.2f}  plain {micros['plain']:6.2f}  best {best:<14} {micros[best]:6.2f}",
        flush=True,
    )
    return {"m": m, "k": k, "n": n, "microseconds": micros}


def build_all(persona: Persona, problems: list[tuple[int, int, int]], count: int) -> None:
    units = {
        tables.device_unit(gemm_rc.RcProblem(n, m, k), persona, tables.plan_of(cut, m))
        for m, k, n in problems
        for cut in candidates(persona, m, k, n, count)
    }
    print(f"{len(units)} variants for {persona.target}, {build(units)} of them built now")


def problem_of(text: str) -> tuple[int, int, int]:
    m, k, n = map(int, text.split("x"))
    return m, k, n


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", type=problem_of, metavar="MxKxN", help="default: where others lead")
    parser.add_argument("--count", type=int, default=4, help="tilings for each shape, beside their variants")
    parser.add_argument("--samples", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    persona = persona_for("cuda", 0)
    problems = arguments.problems or list(PROBLEMS)
    build_all(persona, problems, arguments.count)
    results = [measure(persona, m, k, n, arguments) for m, k, n in problems]
    if arguments.json:
        arguments.json.write_text(json.dumps({"persona": dataclasses.asdict(persona), "results": results}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
