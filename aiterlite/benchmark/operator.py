"""Any operator, from its samples: its time beside torch's, and its share of what the memory gives.

Nothing here knows a family: problems, operands, results and the call of torch that does the same come from the
operator's table and samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from aiterlite import __version__, dispatch, envs
from aiterlite.benchmark import calibration, options
from aiterlite.benchmark.floor import read_floor
from aiterlite.benchmark.timing import Contender, Timing, compare, copies_for
from aiterlite.dispatch import Table
from aiterlite.errors import ArgumentError
from aiterlite.ops.samples import Sample, Tensors, sample
from aiterlite.target import Persona
from aiterlite.wishes import wishes

# A small problem that would need more copies is measured in the cache, and the row says so.
_MOST_COPIES = 1024
# What the bandwidths are measured with: so many rows of so many 16-bit elements, 64 MiB.
_PROBE = (4096, 8192)


@dataclass(frozen=True)
class Row:
    """One problem. Times are medians in microseconds; `baseline_us` and `speedup` are None where the sample has no call
    of torch. `bytes` are those of the operands and results, each once; shares are of the bandwidths that were measured
    in the same run. `cold`: inputs rotated through more than the last-level cache. `of_bound`: the largest share of its
    error bound that an output uses; above 1 is wrong."""

    op: str
    problem: dict[str, Any]
    row: str
    kernels: list[str]
    ours_us: float
    baseline_us: float | None
    speedup: float | None
    bytes: int
    gigabytes_per_second: float
    share_of_read: float
    share_of_copy: float
    cold: bool
    of_bound: float
    timings: dict[str, Timing]


def run(
    found: Sequence[tuple[Table, Sequence[Any]]], device: torch.device, samples: int, points: Path | None = None
) -> dict[str, Any]:
    """Measure the problems of some operators. Raises `ArgumentError` for a device that cannot be timed, and
    `DispatchError` for a problem that nothing serves. `points` is a file for times and counters of an AMD GPU."""
    persona = options.timed_persona("bench", device)
    if points is not None and persona.family != "amd":
        raise ArgumentError("bench", "--export-points", f"given for {persona}", "an AMD GPU", "Leave it out.")
    for table, problems in found:
        for problem in problems:
            dispatch.require(options.decision_of(table.op, problem, device), wishes())
    with torch.no_grad():
        bandwidth = bandwidths(device, samples)
        rows = [
            measure(table.op, problem, device, samples, bandwidth) for table, problems in found for problem in problems
        ]
    left: list[str] = []
    if points is not None:
        left = export(points, rows, [(table.op, problem) for table, problems in found for problem in problems], persona)
    return {
        "aiterlite": __version__,
        "torch": torch.__version__,
        "points": {"file": str(points) if points else None, "left_out": left},
        "persona": asdict(persona),
        "threads": torch.get_num_threads(),
        "bandwidth": bandwidth,
        "rows": [asdict(row) for row in rows],
    }


def export(file: Path, rows: Sequence[Row], calls: Sequence[tuple[str, Any]], persona: Persona) -> list[str]:
    """Write a point for each call: its time, and the counters of its launches in the emulator, a row each. Returns the
    calls that are no points, and why."""
    from aiterlite.emulator import watching

    made, left = [], []
    for row, (op, problem) in zip(rows, calls, strict=True):
        call = f"{op}({problem})"
        if not row.cold:
            left.append(f"{call}: in the cache")
            continue
        with envs.override(AITERLITE_TARGET=persona.chip), watching(sanitize=False, counters=True) as seen:
            sample(op, problem).run()
        name = " + ".join(row.kernels)
        made += [
            calibration.own_row(op, name, row.ours_us, counted, persona, call, launch)
            for launch, counted in enumerate(seen.counters, 1)
        ]
    about = f"Times of aiterlite {__version__} on a {persona.chip}, by `aiterlite bench`; counters by its emulator."
    calibration.write(file, made, about)
    return left


def bandwidths(device: torch.device, samples: int) -> dict[str, float]:
    """Gigabytes a second: what a kernel that only reads takes in, and what torch's copy reads and writes together."""
    rows, columns = _PROBE
    each = 2 * rows * columns
    # Writing makes the pages exist: memory that was never touched is read from nowhere.
    held = [torch.ones(_PROBE, dtype=torch.bfloat16, device=device) for _ in range(copies_for(device, each))]
    contenders: dict[str, Contender] = {
        "read": read_floor(held),
        "copy": lambda copy: held[(copy + 1) % len(held)].copy_(held[copy]),
    }
    timings = compare(contenders, len(held), device, samples)
    return {"read": each / timings["read"].median * 1e-9, "copy": 2 * each / timings["copy"].median * 1e-9}


def measure(op: str, problem: Any, device: torch.device, samples: int, bandwidth: Mapping[str, float]) -> Row:
    made = sample(op, problem)
    outputs = made.run(device)
    one = made.bind(made.fresh(device))
    held = sum(arg.nbytes for arg in (*one.args, *one.keywords.values()) if isinstance(arg, torch.Tensor))
    wanted = copies_for(device, held)
    copies = min(wanted, _MOST_COPIES)
    given = [made.fresh(device) for _ in range(copies)]
    timings = compare(_contenders(made, given), copies, device, samples)
    ours = timings["ours"].median
    baseline = timings["torch"].median if "torch" in timings else None
    moved = held + sum(made_.nbytes for name, made_ in outputs.items() if name not in made.inputs)
    decision = options.decision_of(op, problem, device)
    rate = moved / ours * 1e-9
    return Row(
        op=op,
        problem=asdict(problem),
        row=decision.row.name if decision.row else "",
        kernels=[kernel.symbol for kernel in decision.kernels],
        ours_us=ours * 1e6,
        baseline_us=None if baseline is None else baseline * 1e6,
        speedup=None if baseline is None else baseline / ours,
        bytes=moved,
        gigabytes_per_second=rate,
        share_of_read=rate / bandwidth["read"],
        share_of_copy=rate / bandwidth["copy"],
        cold=copies == wanted,
        of_bound=made.of_bound(outputs),
        timings=timings,
    )


def _contenders(made: Sample, given: Sequence[Tensors]) -> dict[str, Contender]:
    bound = [made.bind(tensors) for tensors in given]
    found: dict[str, Contender] = {"ours": lambda copy: bound[copy]()}
    baseline = made.baseline
    if baseline is not None:
        found["torch"] = lambda copy: baseline(given[copy])
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_device(parser)
    options.add_samples(parser, 21)
    parser.add_argument(
        "--export-points", type=Path, metavar="FILE", help="on an AMD GPU: write what benchmarks/calibrate.py fits to"
    )


def to_text(data: Mapping[str, Any]) -> str:
    persona, bandwidth = data["persona"], data["bandwidth"]
    lines = [
        f"{persona['chip']} ({persona['target']}), torch {data['torch']}, {data['threads']} threads; microseconds",
        f"measured bandwidth: reading {bandwidth['read']:.0f} GB/s, copying {bandwidth['copy']:.0f} GB/s",
        f"{'ours':>10} {'torch':>10} {'torch/':>7} {'GB/s':>7} {'/read':>6} {'/copy':>6} {'err':>5}  call",
    ]
    for row in data["rows"]:
        shape = ", ".join(f"{name}={value}" for name, value in row["problem"].items())
        baseline = "-" if row["baseline_us"] is None else f"{row['baseline_us']:.2f}"
        speedup = "-" if row["speedup"] is None else f"{row['speedup']:.2f}"
        lines.append(
            f"{row['ours_us']:>10.2f} {baseline:>10} {speedup:>7} {row['gigabytes_per_second']:>7.0f} "
            f"{row['share_of_read']:>6.2f} {row['share_of_copy']:>6.2f} {row['of_bound']:>5.2f}  "
            f"{row['op']}({shape}): {row['row']}{'' if row['cold'] else ', in the cache'}"
        )
    return "\n".join(lines)
