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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cut_sweep
import torch
from side_by_side import contenders_of, imported, tried, with_plain, write
from torch import Tensor

from aiterlite import dispatch, gemm
from aiterlite.benchmark.floor import read_floor
from aiterlite.benchmark.timing import Contender, copies_for
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

    def trial(name: str, call: Call) -> None:
        for one in operands:
            call(one)
        torch.cuda.synchronize()

    own: dict[str, Call] = {"ours": ours, "shuffled": of_shuffled}
    calls, _ = tried({**own, **peers(n, m, k)}, trial, own=tuple(own))
    error = of_bound(operands[0], ours(operands[0]))
    floor = read_floor([o.w.view(torch.int16) for o in operands])
    times = with_plain({**contenders_of(calls, operands), "floor": floor}, len(operands), device, samples)
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


def swept(n: int, m: int, k: int, device: torch.device, samples: int, count: int) -> list[dict[str, Any]]:
    """The plan's choice first; then, of each size of a cluster, the best by the estimate, no two of the same rows."""
    persona = persona_for(device.type, device.index or 0)
    operands = operands_of(n, m, k, device, with_shuffled=False)
    first = operands[0]

    def prepare() -> Contender:
        run = ops.FORWARD.prepare(first.x, first.w, first.x_scale, first.w_scale, DTYPE, False)

        def call(copy: int) -> object:
            o = operands[copy]
            return run(o.x, o.w, o.x_scale, o.w_scale, DTYPE, False)

        return call

    problem = BlockScaleProblem(n, m, k)
    trial = cut_sweep.Trial(sm90, problem, persona, device, len(operands), prepare, functools.partial(of_bound, first))
    planned, ranked, kinds = cut_sweep.ranked(trial, lambda cut: (cut.cluster, cut.share, cut.by_tokens))
    cuts = [planned]
    for of_kind in kinds:
        rows = list(dict.fromkeys(cut.rows for cut in of_kind))[:count]
        cuts += [cut for cut in of_kind if cut.rows in rows]
    # Fetching early is tried of the best two of all.
    cuts += [replace(cut, early=cut.stages) for cut in ranked[:2]]

    def name(cut: sm90.Cut) -> str:
        kind = "t" if cut.by_tokens else "w"
        return f"{kind} {cut.rows}x{cut.cols} c{cut.cluster} s{cut.stages} e{cut.early} x{cut.share}"

    def share(row: Mapping[str, Any]) -> str:
        return f"{m * k / row['us'] * 1e6 / COPY:4.0%} of a copy"

    return cut_sweep.sweep(trial, list(dict.fromkeys(cuts)), name, samples, {}, share)


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
                    rows += swept(n, m, k, device, options.samples, options.sweep)
                else:
                    rows.append(measure(n, m, k, device, options.samples))
                    show(rows[-1])
    write(options.json, device, rows)


if __name__ == "__main__":
    main()
