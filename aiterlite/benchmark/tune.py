"""`aiterlite bench --tune`: who is fastest of wvSplitK, wvSplitKrc and torch, as a table that `linear` goes by; with
--ops fused_moe, which kernels of the mixture of experts are (tune_moe.py).

It measures this device; with --target, it asks the plans' own cost models about AMD chips that are not here. These know
nothing of torch, so there wvSplitK competes only with wvSplitKrc, up to the 128 tokens that the latter takes. What
benchmarks/estimate_linear.py has corrected in a file of tables stays.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aiterlite import __version__, target
from aiterlite.benchmark import tune_moe
from aiterlite.benchmark.options import timed_persona
from aiterlite.benchmark.timing import Contender, compare, copies_for
from aiterlite.errors import ArgumentError
from aiterlite.ops import gemm, gemm_rc
from aiterlite.tables import gemm_crossover as crossover
from aiterlite.tables import gemm_plan, gemm_rc_plan
from aiterlite.tables.gemm import MAX_TOKENS
from aiterlite.tables.gemm_crossover import BUCKETS, CrossoverFormatError, CrossoverTable, Point
from aiterlite.target import Persona

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_COMMAND = "bench --tune"
OPERATORS = ("linear", "fused_moe")
# The (M, K) to measure where none is given: projections of DeepSeek-R1 and gpt-oss on one rank, and squares.
SHAPES = (*gemm_plan.SHAPES, (128, 2880), (640, 2880), (2880, 2880), (1024, 1024), (8192, 8192))
# A cost model is asked about these, which takes no time.
_ROWS = (64, 128, 256, 384, 576, 768, 1024, 1536, 2112, 2880, 4096, 7168, 12288, 16384, 32768, 129280)
_DEPTHS = (256, 512, 1024, 1536, 2048, 2880, 4096, 7168, 12288, 16384)
ESTIMATED_SHAPES = tuple((m, k) for m in _ROWS for k in _DEPTHS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tune", action="store_true", help="find out what an operator should take, for each shape")
    parser.add_argument("--ops", choices=OPERATORS, help="with --tune, what to tune (default: linear)")
    parser.add_argument(
        "--layer", type=tune_moe.layer, action="append", metavar="E,K,D,I", help="with --ops fused_moe; repeatable"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="with --tune, the crossover file to write or renew")
    parser.add_argument("--target", metavar="T,T", help="with --tune, AMD chips to estimate instead of measuring here")


def wanted(arguments: argparse.Namespace) -> bool:
    """Whether --tune is given. Raises `ArgumentError` for options that belong to it where it is not."""
    given = [f"--{name}" for name in ("ops", "write", "target", "layer") if getattr(arguments, name)]
    if given and not arguments.tune:
        raise ArgumentError(_COMMAND, given[0], "given without --tune", "with --tune only")
    other = "shape" if arguments.ops == "fused_moe" else "layer"
    if arguments.tune and getattr(arguments, other):
        allowed = "with --ops fused_moe only" if other == "layer" else "not with --ops fused_moe, which takes --layer"
        raise ArgumentError(_COMMAND, f"--{other}", "given", allowed)
    return bool(arguments.tune)


def run(arguments: argparse.Namespace, shapes: Sequence[tuple[int, int]], tokens: Sequence[int]) -> dict[str, Any]:
    """The tables, with the microseconds behind each point; written into --write too. Raises `ArgumentError`."""
    if arguments.ops == "fused_moe":
        return tune_moe.run(arguments, tokens)
    strange = [n for n in tokens if n not in BUCKETS]
    if strange:
        raise ArgumentError(_COMMAND, "--tokens", strange[0], f"the buckets, {', '.join(map(str, BUCKETS))}")
    kept = _kept(arguments.write)
    buckets = sorted(set(tokens)) or BUCKETS
    if arguments.target:
        made = [_estimated(persona, shapes or ESTIMATED_SHAPES, buckets) for persona in _amd(arguments.target)]
    else:
        made = [_measured(arguments.device, shapes or SHAPES, buckets, arguments.dtype, arguments.samples)]
    tables = []
    for persona, source, how, times in made:
        points = tuple(Point(*key, crossover.fastest(found)) for key, found in times.items())
        fresh = CrossoverTable(persona.target, persona.chip, persona.cu_count, source, how, points)
        if source == crossover.ESTIMATED:
            fresh = crossover.corrected(fresh, kept)
        kept = crossover.merged(kept, fresh)
        tables.append({**asdict(fresh), "points": [_row(point, times) for point in points]})
    if arguments.write:
        arguments.write.write_text(crossover.dump(kept))
    return {"aiterlite": __version__, "tables": tables, "written": str(arguments.write or "")}


def _kept(path: Path | None) -> tuple[CrossoverTable, ...]:
    """The tables that a file to be renewed holds already."""
    if path is None or not path.exists():
        return ()
    try:
        return crossover.load(path)
    except CrossoverFormatError as error:
        allowed = "a file that does not exist yet, or one that --tune wrote"
        raise ArgumentError(_COMMAND, "--write", path, allowed, str(error)) from None


Times = dict[tuple[int, int, int], dict[str, float]]  # microseconds by (m, k, bucket) and contender
Made = tuple[Persona, str, str, Times]


def _row(point: Point, times: Times) -> dict[str, Any]:
    return {**point._asdict(), "microseconds": times[point.m, point.k, point.bucket]}


def _measured(
    device: torch.device, shapes: Sequence[tuple[int, int]], buckets: Sequence[int], dtype: str, samples: int
) -> Made:
    persona = timed_persona(_COMMAND, device)
    times: Times = {}
    with torch.no_grad():
        for m, k in shapes:
            copies = copies_for(device, m * k * 2)
            weights = [(torch.randn(m, k, device=device) * k**-0.5).to(_DTYPES[dtype]) for _ in range(copies)]
            for bucket in buckets:
                inputs = [torch.randn(bucket, k, device=device).to(_DTYPES[dtype]) for _ in weights]
                times[m, k, bucket] = _compete(inputs, weights, samples)
    how = f"aiterlite {__version__} bench --tune, torch {torch.__version__}, {dtype}, medians of {samples} samples"
    return persona, crossover.MEASURED, how, times


def _compete(inputs: list[Tensor], weights: list[Tensor], samples: int) -> dict[str, float]:
    contenders: dict[str, Contender] = {
        "wvSplitKrc": lambda copy: gemm_rc.wvSplitKrc(inputs[copy], weights[copy], reduction="deterministic"),
        "torch": lambda copy: functional.linear(inputs[copy], weights[copy]),
    }
    if inputs[0].shape[0] <= MAX_TOKENS:
        contenders["wvSplitK"] = lambda copy: gemm.wvSplitK(inputs[copy], weights[copy])
    timings = compare(contenders, len(weights), weights[0].device, samples)
    return {name: timing.median * 1e6 for name, timing in timings.items()}


def _amd(text: str) -> tuple[Persona, ...]:
    personas = target.resolve_list(text)
    for persona in personas:
        if persona.family != "amd" or persona.target not in gemm_plan.CHIPS:
            allowed = "AMD chips, of targets with a cost model and no more; others are measured where they are"
            raise ArgumentError(_COMMAND, "--target", persona.chip, allowed)
    return personas


def estimated_table(persona: Persona) -> CrossoverTable:
    """What the cost models alone say of an AMD chip, as a table; `how` says what may have corrected it."""
    _, source, how, times = _estimated(persona, ESTIMATED_SHAPES, BUCKETS)
    points = tuple(Point(*key, crossover.fastest(found)) for key, found in times.items())
    return CrossoverTable(persona.target, persona.chip, persona.cu_count, source, how, points)


def _estimated(persona: Persona, shapes: Sequence[tuple[int, int]], buckets: Sequence[int]) -> Made:
    times: Times = {}
    where = (persona.target, persona.cu_count)
    for m, k in shapes:
        for n in buckets:
            found = {"wvSplitKrc": gemm_rc_plan.estimated_time(where[0], n, m, k, where[1], "deterministic")}
            if n <= MAX_TOKENS:
                found["wvSplitK"] = gemm_plan.estimated_time(where[0], n, m, k, where[1])
            times[m, k, n] = found
    how = (
        f"aiterlite {__version__} bench --tune --target {persona.chip}; small letters: benchmarks/estimate_linear.py, "
        "estimates that can tell, and torch where AMD published its library's time (ROCm/aiter e4048607, MIT licence), "
        "which takes no part elsewhere"
    )
    return persona, crossover.ESTIMATED, how, times


def to_text(data: dict[str, Any]) -> str:
    if data.get("operator") == "fused_moe":
        return tune_moe.to_text(data)
    lines = []
    for table in data["tables"]:
        lines.append(f"{table['chip']} ({table['target']}, {table['compute_units']} compute units): {table['source']}")
        lines.append(f"  {table['how']}; microseconds")
        lines.append(f"{'M':>8} {'K':>6} {'N':>4} {'wvSplitK':>11} {'wvSplitKrc':>11} {'torch':>11}  fastest")
        for point in table["points"]:
            times = [point["microseconds"].get(name) for name in ("wvSplitK", "wvSplitKrc", "torch")]
            told = " ".join(f"{'-' if time is None else format(time, '.2f'):>11}" for time in times)
            lines.append(f"{point['m']:>8} {point['k']:>6} {point['bucket']:>4} {told}  {point['winner']}")
    if data["written"]:
        lines.append(f"written: {data['written']}")
    return "\n".join(lines)
