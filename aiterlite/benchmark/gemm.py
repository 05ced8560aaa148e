"""The skinny-GEMM table: `linear` of this package, `torch.nn.functional.linear`, the kernels of other packages that are
here, and the read floor, in one run."""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aiterlite import __version__, envs
from aiterlite.benchmark import gemm_peers, options, tune
from aiterlite.benchmark.floor import read_floor
from aiterlite.benchmark.timing import Contender, Timing, compare, copies_for
from aiterlite.kernel import overlap_defines
from aiterlite.launch.bare import bare
from aiterlite.ops import linear as operator
from aiterlite.ops import matmul
from aiterlite.reference.gemm import error_bound
from aiterlite.tables import gemm as tables
from aiterlite.tables.gemm_plan import SHAPES, TOKENS
from aiterlite.tables.gemm_rc import RcProblem
from aiterlite.target import Persona, persona_for

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Row:
    """One shape: times in microseconds, and what they mean. On sm_90 `floor_us` is a kernel that is launched as usual,
    and `ours_us` one that starts while its predecessor ends; `overlapped_floor_us` and `plain_us` are the other way
    round. Elsewhere the latter two equal the former two. `peers_us`: other packages' kernels, by name."""

    m: int
    k: int
    n: int
    variant: str
    floor_us: float
    torch_us: float
    ours_us: float
    overlapped_floor_us: float
    plain_us: float
    peers_us: dict[str, float]
    over_floor: float
    speedup: float
    gigabytes_per_second: float
    share_of_floor_bandwidth: float
    error_over_bound: float
    timings: dict[str, Timing]


def measure(
    shapes: list[tuple[int, int]], tokens: list[int], dtype: str, device: torch.device, samples: int
) -> list[Row]:
    """One row for each shape and token count."""
    rows = []
    for m, k in shapes:
        copies = copies_for(device, m * k * 2)
        weights = [_random(m, k, dtype, device) * k**-0.5 for _ in range(copies)]
        floors = {"floor": read_floor(weights)}
        if _overlaps(device):
            floors["overlapped_floor"] = read_floor(weights, overlapped=True)
        for n in tokens:
            rows.append(_row(weights, floors, n, dtype, device, samples))
    return rows


def _overlaps(device: torch.device) -> bool:
    """Whether kernels of this package start while their predecessors end."""
    return device.type == "cuda" and bool(overlap_defines(persona_for(device.type, device.index).target))


def _plain(x: Tensor, weight: Tensor) -> Tensor:
    with envs.override(AITERLITE_OVERLAP="0"):
        return operator.linear(x, weight)


def _random(rows: int, columns: int, dtype: str, device: torch.device) -> Tensor:
    return torch.randn(rows, columns, device=device, dtype=torch.float32).to(_DTYPES[dtype])


def _row(
    weights: list[Tensor], floors: dict[str, Contender], n: int, dtype: str, device: torch.device, samples: int
) -> Row:
    m, k = weights[0].shape
    inputs = [_random(n, k, dtype, device) for _ in weights]
    error = _error_over_bound(inputs[0], weights[0])
    contenders: dict[str, Contender] = {
        **floors,
        "torch": lambda copy: functional.linear(inputs[copy], weights[copy]),
        "ours": lambda copy: operator.linear(inputs[copy], weights[copy]),
    }
    if _overlaps(device):
        contenders["plain"] = lambda copy: _plain(inputs[copy], weights[copy])
    others = gemm_peers.contenders(inputs, weights)
    contenders |= others
    with torch.no_grad():
        timings = compare(contenders, len(weights), device, samples)
    median = {name: timing.median for name, timing in timings.items()}
    problem = RcProblem(n=n, m=m, k=k, dtype=dtype, reduction=envs.GEMM_REDUCTION.get())
    decision = options.decision_of("linear", problem, device)
    moved = 2 * (m * k + n * k + n * m)
    return Row(
        m=m,
        k=k,
        n=n,
        variant=_variant(decision),
        floor_us=median["floor"] * 1e6,
        torch_us=median["torch"] * 1e6,
        ours_us=median["ours"] * 1e6,
        overlapped_floor_us=median.get("overlapped_floor", median["floor"]) * 1e6,
        plain_us=median.get("plain", median["ours"]) * 1e6,
        peers_us={name: median[name] * 1e6 for name in others},
        over_floor=median["ours"] / median["floor"],
        speedup=median["torch"] / median["ours"],
        gigabytes_per_second=moved / median["ours"] * 1e-9,
        share_of_floor_bandwidth=moved / median["ours"] / (2 * m * k / median["floor"]),
        error_over_bound=error,
        timings=timings,
    )


def _variant(decision: Any) -> str:
    plan = decision.plan
    if not isinstance(plan, tables.WvSplitKPlan):
        return str(decision.row.name)
    cut = plan.tiling
    return f"s{cut.slices} w{cut.waves} u{cut.unroll} t{cut.tiles} c{cut.cluster}"


def _error_over_bound(x: Tensor, weight: Tensor) -> float:
    """The worst element's error over its bound; above 1 is wrong."""
    with torch.no_grad():
        y = operator.linear(x, weight)
    exact = x.double().cpu() @ weight.double().cpu().T
    return float(((y.double().cpu() - exact).abs() / error_bound(x.cpu(), weight.cpu(), exact)).max())


def call_overhead_us(device: torch.device, repeats: int = 2000) -> dict[str, float]:
    """Host microseconds of one `linear` call beside torch's, outside graphs, for a shape whose kernel is short."""
    x, weight = _random(1, 256, "bf16", device), _random(64, 256, "bf16", device)

    def host_time(call: Any) -> float:
        best = math.inf
        for _ in range(7):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            started = time.perf_counter()
            for _ in range(repeats):
                call()
            best = min(best, time.perf_counter() - started)
        return best / repeats * 1e6

    with torch.no_grad():
        ours = host_time(lambda: operator.linear(x, weight))
        theirs = host_time(lambda: functional.linear(x, weight))
        y = operator.linear(x, weight)
        bare = host_time(bare_launch(x, weight, y))
    return {"linear": ours, "torch": theirs, "bare_launch": bare, "over_bare_launch": ours - bare}


def bare_launch(x: Tensor, weight: Tensor, y: Tensor) -> Callable[[], int]:
    """The kernel that `wvSplitK` takes for these operands, called with fixed arguments and nothing around it.

    The arguments are addresses: the caller keeps the tensors alive.
    """
    decision = options.decision_of("wvSplitK", matmul.problem_of(x, weight, None), x.device)
    tensors = {"x": x, "weight": weight, "bias": None, "y": y}
    return bare(decision, tensors, matmul.strides(x, weight, None))


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def report(rows: list[Row], overhead: dict[str, float], persona: Persona) -> dict[str, Any]:
    return {
        "aiterlite": __version__,
        "torch": torch.__version__,
        "persona": asdict(persona),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "rows": [asdict(row) for row in rows],
        "absent_peers": gemm_peers.absent(),
        "geometric_mean_speedup": geometric_mean([row.speedup for row in rows]),
        "least_speedup": min(row.speedup for row in rows),
        "worst_over_floor": max(row.over_floor for row in rows),
        "call_overhead_us": overhead,
    }


def to_text(data: dict[str, Any]) -> str:
    if "tables" in data:
        return tune.to_text(data)
    persona = data["persona"]
    lines = [
        f"{persona['chip']} ({persona['target']}), torch {data['torch']}, {data['threads']} threads; microseconds",
        f"{'M':>6} {'K':>6} {'N':>3} {'floor':>8} {'torch':>8} {'ours':>8} {'/floor':>7} {'torch/':>7} "
        f"{'o.floor':>8} {'plain':>8} "
        f"{'GB/s':>7} {'err':>5}  variant",
    ]
    for row in data["rows"]:
        lines.append(
            f"{row['m']:>6} {row['k']:>6} {row['n']:>3} {row['floor_us']:>8.2f} {row['torch_us']:>8.2f} "
            f"{row['ours_us']:>8.2f} {row['over_floor']:>7.2f} {row['speedup']:>7.2f} "
            f"{row['overlapped_floor_us']:>8.2f} {row['plain_us']:>8.2f} "
            f"{row['gigabytes_per_second']:>7.0f} {row['error_over_bound']:>5.2f}  {row['variant']}"
            + "".join(f"  {name} {us:.2f}" for name, us in row["peers_us"].items())
        )
    lines += data["absent_peers"]
    overhead = data["call_overhead_us"]
    lines += [
        f"geometric mean {data['geometric_mean_speedup']:.2f} times torch, least {data['least_speedup']:.2f}; "
        f"worst {data['worst_over_floor']:.2f} times the read floor",
        f"host time of a call: linear {overhead['linear']:.1f} us, torch {overhead['torch']:.1f} us, bare launch "
        f"{overhead['bare_launch']:.1f} us; linear over bare launch {overhead['over_bare_launch']:.1f} us",
    ]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_device(parser)
    shape, tokens = options.pair("M,K"), options.counts
    parser.add_argument("--shape", type=shape, action="append", metavar="M,K", help="repeatable; default: the table's")
    parser.add_argument("--tokens", type=tokens, metavar="N,N", help="default: the table's")
    parser.add_argument("--dtype", choices=sorted(_DTYPES), default="bf16")
    options.add_samples(parser, 31)
    parser.add_argument("--json", metavar="FILE", help="write the result here as JSON")
    tune.add_arguments(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Raises `ArgumentError` for arguments that do not fit together."""
    shapes, tokens, device = arguments.shape or [], arguments.tokens or [], arguments.device
    if tune.wanted(arguments):
        return tune.run(arguments, shapes, tokens)
    persona = options.timed_persona("bench", device)
    rows = measure(shapes or list(SHAPES), tokens or list(TOKENS), arguments.dtype, device, arguments.samples)
    return report(rows, call_overhead_us(device), persona)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    data = run(arguments)
    print(to_text(data))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(data, indent=1) + "\n")
    return 0
