"""`gemm_a8w8_blockscale` at DeepSeek-R1's projections, beside DeepGEMM and torch._scaled_mm where those can be called.

In one run, graph-timed on a GPU, operands rotated through more than the L2. `plain` is ours launched as usual, after
the kernel before it has ended (AITERLITE_OVERLAP=0), as theirs are; `shuffled` has weights shuffled (16, 16); `floor`
only reads the weights. `torch rows` has a scale a token and one a row: less work. Prints microseconds, the weights'
bytes a second over a copy's, 4.07 TB/s, and the error over its bound; `--json FILE` writes them.

`--sweep N` measures cuts instead, which is what the plan's estimate is fitted to: for each shape, of each size of a
cluster, of each that shares tokens, and of both formulations, the N that it thinks best, and two with weights that are
fetched early. `--fit FILE` prints weights for that, of a sweep's JSON, and needs no GPU.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from bench_quant import at, imported
from torch import Tensor

from aiterlite import dispatch, envs, gemm
from aiterlite.benchmark.floor import read_floor
from aiterlite.benchmark.timing import Contender, compare, copies_for
from aiterlite.jit import engine
from aiterlite.ops import gemm_a8w8 as ops
from aiterlite.ops.shuffle import shuffle_weight
from aiterlite.reference import gemm_a8w8 as reference
from aiterlite.tables import gemm_a8w8 as tables
from aiterlite.tables import gemm_a8w8_sm90 as sm90
from aiterlite.tables.gemm_a8w8_problem import BlockScaleProblem
from aiterlite.target import persona_for

FP8, DTYPE, COPY = torch.float8_e4m3fn, torch.bfloat16, 4.07e12
SHAPES = ("2112x7168", "7168x2048", "24576x1536", "4096x7168")
TOKENS = (1, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Operands:
    x: Tensor
    w: Tensor
    x_scale: Tensor
    w_scale: Tensor
    shuffled: Tensor
    y: Tensor


Call = Callable[[Operands], Any]


def operands_of(n: int, m: int, k: int, device: torch.device, with_shuffled: bool = True) -> list[Operands]:
    def made() -> Operands:
        w = torch.randn(m, k, device=device).to(FP8)
        return Operands(
            torch.randn(n, k, device=device).to(FP8),
            w,
            torch.rand(n, k // 128, device=device) + 0.5,
            torch.rand(-(-m // 128), k // 128, device=device) + 0.5,
            shuffle_weight(w) if with_shuffled else w,
            torch.empty(n, m, dtype=DTYPE, device=device),
        )

    return [made() for _ in range(copies_for(device, m * k))]


def peers(n: int, m: int, k: int) -> dict[str, Call]:
    found: dict[str, Call] = {}
    deep = imported("deep_gemm")
    if deep is not None:
        name = next((name for name in ("fp8_gemm_nt", "gemm_fp8_fp8_bf16_nt") if hasattr(deep, name)), "")
        if name:
            call = getattr(deep, name)
            found["deep_gemm"] = lambda o: call((o.x, _columns(deep, o.x_scale)), (o.w, o.w_scale), o.y)
    scaled_mm: Any = torch._scaled_mm
    found["torch blocks"] = lambda o: scaled_mm(
        o.x, o.w.t(), _transposed(o.x_scale), o.w_scale.t(), out_dtype=DTYPE, use_fast_accum=False
    )
    found["torch rows"] = lambda o: scaled_mm(
        o.x, o.w.t(), o.x_scale[:, :1].contiguous(), _row_scales(m, o.w.device), out_dtype=DTYPE, use_fast_accum=True
    )
    return found


_prepared: dict[Any, Tensor] = {}


def _columns(deep: Any, scale: Tensor) -> Tensor:
    """Scales as DeepGEMM's copy engine reads them, made once."""
    names = ("get_mn_major_tma_aligned_tensor", "get_col_major_tma_aligned_tensor")
    convert = next((getattr(deep, name) for name in names if hasattr(deep, name)), None)
    key = ("deep", scale.data_ptr())
    if key not in _prepared:
        _prepared[key] = scale if convert is None else convert(scale)
    return _prepared[key]


def _transposed(scale: Tensor) -> Tensor:
    key = ("columns", scale.data_ptr())
    if key not in _prepared:
        _prepared[key] = scale.t().contiguous().t()
    return _prepared[key]


def _row_scales(m: int, device: torch.device) -> Tensor:
    if ("rows", m) not in _prepared:
        _prepared["rows", m] = torch.ones(1, m, device=device)
    return _prepared["rows", m]


def ours(o: Operands) -> Tensor:
    return gemm.gemm_a8w8_blockscale(o.x, o.w, o.x_scale, o.w_scale, DTYPE)


def of_shuffled(o: Operands) -> Tensor:
    return gemm.gemm_a8w8_blockscale(o.x, o.shuffled, o.x_scale, o.w_scale, DTYPE, isBpreshuffled=True)


def of_bound(o: Operands, got: Tensor) -> float:
    exact, magnitude = reference.blockscale(o.x, o.w, o.x_scale, o.w_scale)
    bound = reference.error_bound(exact, magnitude, o.x.shape[1], DTYPE, reference.HOPPER_DROPS)
    return float(((got.double() - exact).abs() / bound).max())


def measure(n: int, m: int, k: int, device: torch.device, samples: int) -> dict[str, Any]:
    _prepared.clear()
    operands = operands_of(n, m, k, device)
    calls: dict[str, Call] = {}
    for name, call in {"ours": ours, "shuffled": of_shuffled, **peers(n, m, k)}.items():
        try:
            for one in operands:
                call(one)
            torch.cuda.synchronize()
            calls[name] = call
        except Exception as error:  # another package's
            if name in ("ours", "shuffled"):
                raise
            print(f"{name}: not called ({type(error).__name__}: {str(error).partition(chr(10))[0]})", flush=True)
    error = of_bound(operands[0], ours(operands[0]))
    contenders: dict[str, Contender] = {name: functools.partial(at, call, operands) for name, call in calls.items()}
    contenders["floor"] = read_floor([o.w.view(torch.int16) for o in operands])
    times = {name: t.median * 1e6 for name, t in compare(contenders, len(operands), device, samples).items()}
    with envs.override(AITERLITE_OVERLAP="0"):
        plain: dict[str, Contender] = {"plain": contenders["ours"]}
        times |= {name: t.median * 1e6 for name, t in compare(plain, len(operands), device, samples).items()}
    decision = dispatch.decide(
        tables.BLOCKSCALE_TABLE, BlockScaleProblem(n, m, k), persona_for(device.type, device.index or 0)
    )
    return {
        "n": n,
        "m": m,
        "k": k,
        "microseconds": times,
        "of_copy": m * k / times["ours"] * 1e6 / COPY,
        "of_bound": error,
        "plan": asdict(decision.plan) if decision.plan is not None else None,
        "copies": len(operands),
    }


def show(row: dict[str, Any]) -> None:
    times = "  ".join(f"{name} {value:.2f}" for name, value in row["microseconds"].items())
    cut = row["plan"]["cut"] if row["plan"] else {}
    head = f"({row['m']}, {row['k']}) {row['n']:>4}  {row['of_copy']:4.0%} of a copy"
    print(f"{head}  {times}  error {row['of_bound']:.2f} of its bound  {cut}", flush=True)


# The sweep ------------------------------------------------------------------------------------------------------------


def chosen(n: int, m: int, k: int, units: int, count: int) -> list[sm90.Cut]:
    """The plan's choice first; then, of each size of a cluster, the best by the estimate, no two of the same rows."""
    problem = BlockScaleProblem(n, m, k)
    first = sm90.cut_for(problem, units)
    tiles = -(-n // first.cols)
    ranked = sorted(sm90.candidates(first.cols, m, k), key=lambda cut: sm90.estimate(cut, tiles, m, k, 1, units))
    found = [first]
    kinds = dict.fromkeys((cut.cluster, cut.share, cut.by_tokens) for cut in ranked)
    for kind in kinds:
        of_kind = [cut for cut in ranked if (cut.cluster, cut.share, cut.by_tokens) == kind]
        rows = list(dict.fromkeys(cut.rows for cut in of_kind))[:count]
        found += [cut for cut in of_kind if cut.rows in rows]
    # Fetching early is tried of the best two of all.
    early = [replace(cut, early=cut.stages) for cut in ranked[:2]]
    return list(dict.fromkeys((*found, *early)))


def sweep(n: int, m: int, k: int, device: torch.device, samples: int, count: int) -> list[dict[str, Any]]:
    persona = persona_for(device.type, device.index or 0)
    problem, planned = BlockScaleProblem(n, m, k), sm90.cut_for
    cuts = chosen(n, m, k, persona.cu_count, count)
    units = [sm90.kernels(problem, persona, sm90.plan_of(cut, problem))[0].unit for cut in cuts]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(engine.obtain, units))
    operands = operands_of(n, m, k, device, with_shuffled=False)
    contenders: dict[str, Contender] = {}
    errors: dict[str, float] = {}
    for cut in cuts:
        sm90.cut_for = lambda *_, cut=cut: cut  # type: ignore[misc]
        first = operands[0]
        run = ops.FORWARD.prepare(first.x, first.w, first.x_scale, first.w_scale, DTYPE, False)
        sm90.cut_for = planned
        kind = "t" if cut.by_tokens else "w"
        name = f"{kind} {cut.rows}x{cut.cols} c{cut.cluster} s{cut.stages} e{cut.early} x{cut.share}"

        def call(copy: int, run: Any = run) -> object:
            o = operands[copy]
            return run(o.x, o.w, o.x_scale, o.w_scale, DTYPE, False)

        contenders[name] = call
        errors[name] = of_bound(first, run(first.x, first.w, first.x_scale, first.w_scale, DTYPE, False))
    times = {name: t.median * 1e6 for name, t in compare(contenders, len(operands), device, samples).items()}
    rows = []
    for cut, name in zip(cuts, contenders, strict=True):
        expected = sm90.estimate(cut, -(-n // cut.cols), m, k, 1, persona.cu_count)
        row = {"n": n, "m": m, "k": k, "cut": asdict(cut), "us": times[name], "expected": expected}
        rows.append({**row, "of_bound": errors[name]})
        share = m * k / times[name] * 1e6 / COPY
        print(
            f"({m}, {k}) {n:>4} {name:24} {times[name]:6.2f} us, expected {expected:6.2f}, {share:4.0%}, "
            f"error {errors[name]:.2f}{'  planned' if cut == cuts[0] else ''}",
            flush=True,
        )
    return rows


# The fit --------------------------------------------------------------------------------------------------------------


def fit(rows: list[dict[str, Any]], units: int) -> None:
    """Prints weights of the estimate by which it is nearest to a sweep, and how far the cuts that it then chooses are
    from the fastest ones. A search along one weight after the other."""
    timed = [(sm90.Cut(**row["cut"]), row) for row in rows if row["cut"]["early"] == 0]

    def expected(cut: sm90.Cut, row: dict[str, Any], cost: sm90.Cost) -> float:
        return sm90.estimate(cut, -(-row["n"] // cut.cols), row["m"], row["k"], 1, units, cost)

    def apart(cost: sm90.Cost) -> float:
        return sum(abs(math.log(expected(cut, row, cost) / row["us"])) for cut, row in timed) / len(timed)

    cost, step = sm90.Cost(), 0.3
    while step > 0.005:
        tried = [
            replace(cost, **{name: value * (1 + change)})
            for name, value in asdict(cost).items()
            for change in (-step, step)
        ]
        best = min(tried, key=apart)
        cost, step = (best, step) if apart(best) < apart(cost) else (cost, step / 2)
    behind = []
    for point in dict.fromkeys((row["n"], row["m"], row["k"]) for _, row in timed):
        here = [(cut, row) for cut, row in timed if (row["n"], row["m"], row["k"]) == point]
        chosen = min(here, key=lambda item: expected(*item, cost))[1]["us"]
        behind.append(chosen / min(row["us"] for _, row in here))
        print(f"{point}: chosen {chosen:.2f} us, {behind[-1] - 1:.1%} behind the fastest cut", flush=True)
    print(f"{apart(cost):.1%} apart; {math.exp(sum(map(math.log, behind)) / len(behind)) - 1:.1%} behind; {cost}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="NxK")
    parser.add_argument("--tokens", nargs="+", type=int, default=TOKENS)
    parser.add_argument("--samples", type=int, default=11)
    parser.add_argument("--sweep", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--fit", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.fit:
        fit(json.loads(options.fit.read_text())["rows"], 132)
        return
    device = torch.device(options.device)
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for shape in options.shapes:
            m, k = map(int, shape.split("x"))
            for n in options.tokens:
                if options.sweep:
                    rows += sweep(n, m, k, device, options.samples, options.sweep)
                else:
                    rows.append(measure(n, m, k, device, options.samples))
                    show(rows[-1])
    if options.json:
        chip = persona_for(device.type, device.index or 0).chip
        options.json.write_text(json.dumps({"chip": chip, "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
