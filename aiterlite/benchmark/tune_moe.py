"""`aiterlite bench --tune --ops fused_moe`: the fastest rows of the fused mixture of experts' table, by tokens.

Every row that serves a call on this device is timed, for each layer and bucket of tokens, from hidden states and given
routing. Routing and hidden states differ from call to call, so each call reads its experts' weights from memory.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aiterlite import __version__, dispatch
from aiterlite.benchmark.options import counts, timed_persona
from aiterlite.benchmark.timing import Contender, compare, copies_for
from aiterlite.dispatch import Decision
from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import fused_moe as ops
from aiterlite.ops.samples import fused_moe as samples
from aiterlite.tables import fused_moe as tables
from aiterlite.tables import fused_moe_crossover as crossover
from aiterlite.tables import problems
from aiterlite.tables.fused_moe_crossover import BUCKETS, Layer, MoeCrossover, MoeCrossoverFormatError, Point
from aiterlite.tables.fused_moe_problem import MoeProblem
from aiterlite.target import Persona

_COMMAND = "bench --tune"
# Measured where none is given: DeepSeek-R1's, whose experts are cut into 8 parts.
LAYERS = (Layer(256, 8, 7168, 256),)
# Calls that differ in hidden states and routing.
_CALLS = 16


def layer(text: str) -> Layer:
    """experts, topk, width, inter."""
    numbers = counts(text)
    if len(numbers) != 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not E,K,D,I; give four numbers, such as 256,8,7168,256")
    experts, topk, width, inter = numbers
    return Layer(experts, topk, width, inter)


def run(arguments: argparse.Namespace, tokens: Sequence[int]) -> dict[str, Any]:
    """The chip's table, with the microseconds behind each point; written into --write too. Raises `ArgumentError`."""
    strange = [count for count in tokens if count not in BUCKETS]
    if strange:
        raise ArgumentError(_COMMAND, "--tokens", strange[0], f"the buckets, {', '.join(map(str, BUCKETS))}")
    if arguments.target:
        remedy = "Choices on AMD chips are estimated by benchmarks/estimate_choices.py."
        raise ArgumentError(_COMMAND, "--target", arguments.target, "nothing with --ops fused_moe", remedy)
    kept = _kept(arguments.write)
    persona = timed_persona(_COMMAND, arguments.device)
    times: dict[tuple[Layer, int], dict[str, float]] = {}
    for wanted in arguments.layer or LAYERS:
        for bucket in sorted(set(tokens)) or BUCKETS:
            times[wanted, bucket] = _measured(persona, arguments.device, wanted, bucket, arguments)
    how = (
        f"aiterlite {__version__} bench --tune --ops fused_moe, torch {torch.__version__}, {arguments.dtype}, "
        f"medians of {arguments.samples} samples"
    )
    points = tuple(Point(*key, min(found, key=found.__getitem__)) for key, found in times.items())
    fresh = MoeCrossover(persona.target, persona.chip, persona.cu_count, how, points)
    if arguments.write:
        arguments.write.write_text(crossover.dump(crossover.merged(kept, fresh)))
    rows = [
        {**point.layer._asdict(), "bucket": point.bucket, "row": point.row, "microseconds": times[point[:2]]}
        for point in points
    ]
    return {
        "aiterlite": __version__,
        "operator": tables.TABLE.op,
        "tables": [{**asdict(fresh), "points": rows}],
        "written": str(arguments.write or ""),
    }


def _kept(path: Path | None) -> tuple[MoeCrossover, ...]:
    """The tables that a file to be renewed holds already."""
    if path is None or not path.exists():
        return ()
    try:
        return crossover.load(path)
    except MoeCrossoverFormatError as error:
        allowed = "a file that does not exist yet, or one that --tune --ops fused_moe wrote"
        raise ArgumentError(_COMMAND, "--write", path, allowed, str(error)) from None


def decisions(problem: MoeProblem, persona: Persona) -> dict[str, Decision]:
    """Of each row that serves a problem, what a call would launch if there were no other."""
    found = {}
    for row in tables.TABLE.rows:
        decision = dispatch.decide(replace(tables.TABLE, rows=(row,)), problem, persona)
        if decision.row is not None:
            found[row.name] = decision
    return found


def _measured(
    persona: Persona, device: torch.device, wanted: Layer, tokens: int, arguments: argparse.Namespace
) -> dict[str, float]:
    """Microseconds by rows."""
    shuffled = persona.family == "amd"
    given = {**wanted._asdict(), "tokens": tokens, "dtype": arguments.dtype, "shuffled": shuffled}
    problem = problems.problem(tables.TABLE, given)
    assert isinstance(problem, MoeProblem)
    open_rows = decisions(problem, persona)
    if not open_rows:
        raise ArgumentError(
            _COMMAND, "--layer", ",".join(map(str, wanted[:4])), f"layers that a row serves on {persona.chip}"
        )
    contenders = _contenders(problem, open_rows, device)
    timings = compare(contenders, _CALLS, device, arguments.samples)
    return {name: timing.median * 1e6 for name, timing in timings.items()}


def _contenders(problem: MoeProblem, rows: dict[str, Decision], device: torch.device) -> dict[str, Contender]:
    """A call of each row; calls differ in hidden states and routing, and in weights where a cache would hold them."""
    sets = min(_CALLS, copies_for(device, 3 * problem.experts * problem.width * problem.inter))
    weights = [samples.make(replace(problem, tokens=1), seed, None, device) for seed in range(sets)]
    generator = torch.Generator(device).manual_seed(1)
    brought = []
    for _ in range(_CALLS):
        x = torch.randn(problem.tokens, problem.width, generator=generator, device=device).to(weights[0].x.dtype)
        scores = torch.rand(problem.tokens, problem.experts, generator=generator, device=device)
        routing, ids = scores.topk(problem.topk, dim=1)
        brought.append((x, ids.int(), routing / routing.sum(1, keepdim=True)))
    out = torch.empty_like(brought[0][0])
    sizes = {
        **ops.layer_sizes(problem, problem.interleaved),
        **{"global_experts": problem.experts, "id_words": 1, "limit": math.inf, "beta": 1.0, "linear_beta": 0.0},
        **{"stride_x": problem.width, "stride_out": problem.width},
        **dict.fromkeys(("stride_ids", "stride_weights"), problem.topk),
        **dict.fromkeys(("stride_scale_token", "stride_scale_group"), 0),
    }

    def operands(copy: int) -> dict[str, Tensor | None]:
        (x, ids, routing), made = brought[copy], weights[copy % sets]
        given = {"x": x, "topk_ids": ids, "topk_weights": routing, "out": out, "w1": made.w1, "w2": made.w2}
        given |= {name: scale for name in ("w1_scale", "w2_scale") if (scale := getattr(made, name)) is not None}
        return {name: given.get(name) for name in ops.OPERANDS}

    def contender(decision: Decision) -> Contender:
        bring = [operands(copy) for copy in range(_CALLS)]
        absent = [name for name, tensor in bring[0].items() if tensor is None]
        launch = launches.prepare(decision, device, ops.OPERANDS, sizes, absent)

        def call(copy: int) -> None:
            launch(*bring[copy].values())

        return call

    return {name: contender(decision) for name, decision in rows.items()}


def to_text(data: dict[str, Any]) -> str:
    (table,) = data["tables"]
    lines = [
        f"{table['chip']} ({table['target']}, {table['compute_units']} compute units): measured",
        f"  {table['how']}; microseconds",
        f"{'experts':>8} {'topk':>5} {'width':>6} {'inter':>6} {'tokens':>6}  fastest first",
    ]
    for point in table["points"]:
        told = ", ".join(
            f"{name} {us:.1f}" for name, us in sorted(point["microseconds"].items(), key=lambda item: item[1])
        )
        numbers = (point[name] for name in ("experts", "topk", "width", "inter", "bucket"))
        lines.append("{:>8} {:>5} {:>6} {:>6} {:>6}  ".format(*numbers) + told)
    if data["written"]:
        lines.append(f"written: {data['written']}")
    return "\n".join(lines)
