"""Routing of tokens to experts on this machine: ours, plain torch, and the kernels of vLLM, SGLang and FlashInfer where
they can be imported.

On a GPU each sample replays a graph in which every launch has operands of its own, behind a read of more than the L2:
so nothing is in the L2 when it is read. On a CPU a sample is one call, and operands rotate. Prints microseconds a
launch; `--json FILE` writes them. A peer that is not there, or refuses a shape, is told with the reason.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from side_by_side import write
from torch import Tensor

from aiterlite.benchmark.timing import compare, copies_for, last_level_cache_bytes
from aiterlite.ops.samples import Sample, sample
from aiterlite.ops.samples.routing import SCALE
from aiterlite.tables import TABLES
from aiterlite.tables.problems import problem as problem_of
from aiterlite.tables.routing import RoutingProblem

# op and the fields that are not tokens: DeepSeek-R1, Kimi-K2, Qwen3.
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("biased_grouped_topk", {"experts": 256, "groups": 8, "topk_groups": 4, "topk": 8}),
    ("biased_grouped_topk", {"experts": 384, "topk": 8}),
    ("topk_softmax", {"experts": 128, "topk": 8}),
)
TOKENS = (1, 16, 256, 4096)
MOST_LAUNCHES, MOST_BYTES = 256, 1 << 28
Given = Mapping[str, Tensor]
Call = Callable[[Given], Any]
# Of operands a call that takes nothing more.
Bind = Callable[[Given], Callable[[], Any]]


def peers(op: str, made: RoutingProblem) -> dict[str, Call | str]:
    """Calls of other packages that do the same, or why there is none."""

    def loaded(module: str, name: str) -> Any:
        return getattr(importlib.import_module(module), name)

    groups = made.groups, made.topk_groups

    def vllm_grouped() -> Call:
        function = loaded("vllm._custom_ops", "grouped_topk")
        return lambda g: function(
            g["gating_output"], *groups, made.topk, made.renorm, SCALE, g["correction_bias"], scoring_func=1
        )

    def sglang_grouped() -> Call:
        function = loaded("sgl_kernel", "moe_fused_gate")
        scaling = {"routed_scaling_factor": SCALE, "apply_routed_scaling_factor_on_output": True}
        return lambda g: function(g["gating_output"], g["correction_bias"], *groups, made.topk, **scaling)

    def sglang_k2() -> Call:
        function = loaded("sgl_kernel", "kimi_k2_moe_fused_gate")
        scaling = {"routed_scaling_factor": SCALE, "apply_routed_scaling_factor_on_output": True}
        return lambda g: function(g["gating_output"], g["correction_bias"], made.topk, made.renorm, **scaling)

    def flashinfer_grouped() -> Call:
        function = loaded("flashinfer.fused_moe", "fused_topk_deepseek")
        return lambda g: function(
            *(g["gating_output"], g["correction_bias"], *groups, made.topk, SCALE),
            *(g["topk_weights"], g["topk_ids"]),
        )

    def vllm_softmax() -> Call:
        function = loaded("vllm._custom_ops", "topk_softmax")
        return lambda g: function(
            *(g["topk_weights"], g["topk_indices"], g["token_expert_indices"], g["gating_output"], made.renorm)
        )

    def sglang_softmax() -> Call:
        function = loaded("sgl_kernel", "topk_softmax")
        return lambda g: function(g["topk_weights"], g["topk_indices"], g["gating_output"], made.renorm)

    makers: dict[str, Callable[[], Call]] = {"vllm": vllm_softmax, "sglang": sglang_softmax}
    if op == "biased_grouped_topk":
        makers = {"vllm": vllm_grouped, "sglang": sglang_grouped, "flashinfer": flashinfer_grouped}
        if made.groups == 1:
            makers["sglang k2"] = sglang_k2
    found: dict[str, Call | str] = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except (ImportError, AttributeError, OSError) as error:
            found[name] = f"not there: {error}"
    return found


def contenders(
    op: str, made: RoutingProblem, drawn: Sample, device: torch.device
) -> tuple[dict[str, Bind], dict[str, str]]:
    """What is measured, each after a trial, and why others are not."""
    baseline = drawn.baseline
    assert baseline is not None
    binds: dict[str, Bind] = {"ours": drawn.bind, "torch": functools.partial(functools.partial, baseline)}
    missing: dict[str, str] = {}
    for name, call in (peers(op, made) if device.type == "cuda" else {}).items():
        if isinstance(call, str):
            missing[name] = call
            continue
        try:
            call(drawn.fresh(device))
            torch.cuda.synchronize(device)
            binds[name] = functools.partial(functools.partial, call)
        except Exception as error:
            # A peer's refusal is of any type, and is what the row then says.
            missing[name] = f"refuses: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return binds, missing


def capture(bound: list[Callable[[], Any]]) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in bound[:3]:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in bound:
            call()
    return graph


def measure_cold(binds: Mapping[str, Bind], drawn: Sample, device: torch.device, samples: int) -> dict[str, float]:
    """Microseconds a launch, of graphs of launches on operands of their own, in turn."""
    each = sum(tensor.nbytes for tensor in drawn.inputs.values())
    launches = max(16, min(MOST_LAUNCHES, MOST_BYTES // each))
    given = [drawn.fresh(device) for _ in range(launches)]
    # Read, not written: what a launch then displaces need not go back to memory.
    flush = torch.zeros(last_level_cache_bytes(device), dtype=torch.float32, device=device)
    graphs = {name: capture([bind(one) for one in given]) for name, bind in binds.items()}
    times: dict[str, list[float]] = {name: [] for name in graphs}
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(samples):
        for name, graph in graphs.items():
            flush.sum()
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[name].append(begin.elapsed_time(end) * 1e3 / launches)
    return {name: statistics.median(values) for name, values in times.items()}


def measure_cpu(binds: Mapping[str, Bind], drawn: Sample, device: torch.device, samples: int) -> dict[str, float]:
    copies = min(64, copies_for(device, sum(tensor.nbytes for tensor in drawn.inputs.values())))
    given = [drawn.fresh(device) for _ in range(copies)]
    bound = {name: [bind(one) for one in given] for name, bind in binds.items()}
    called = {name: (lambda copy, of=of: of[copy]()) for name, of in bound.items()}
    return {name: timing.median * 1e6 for name, timing in compare(called, copies, device, samples).items()}


def measure(op: str, fields: Mapping[str, Any], device: torch.device, samples: int) -> dict[str, Any]:
    made: RoutingProblem = problem_of(TABLES[op], fields)
    drawn = sample(op, made)
    of_bound = drawn.of_bound(drawn.run(device))
    binds, missing = contenders(op, made, drawn, device)
    timed = measure_cold if device.type == "cuda" else measure_cpu
    times = timed(binds, drawn, device, samples)
    return {"op": op, "problem": vars(made), "of_bound": of_bound, "microseconds": times, "missing": missing}


def show(row: Mapping[str, Any]) -> None:
    made = row["problem"]
    shape = f"{made['experts']}/{made['groups']}/{made['topk_groups']}/{made['topk']} {made['dtype']}"
    times = "  ".join(f"{name} {value:8.2f}" for name, value in row["microseconds"].items())
    right = "" if row["of_bound"] <= 1 else "  WRONG"
    print(f"{row['op']:20} {shape:20} {made['num_tokens']:>5}  {times}{right}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--dtypes", nargs="+", default=["fp32"], choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--samples", type=int, default=21)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    device = torch.device(options.device)
    rows = []
    with torch.no_grad():
        for op, fields in CASES:
            for dtype in options.dtypes:
                for tokens in options.tokens:
                    rows.append(measure(op, {**fields, "num_tokens": tokens, "dtype": dtype}, device, options.samples))
                    show(rows[-1])
    for name, why in sorted({(name, why) for row in rows for name, why in row["missing"].items()}):
        print(f"{name}: {why}")
    write(options.json, device, rows)


if __name__ == "__main__":
    main()
