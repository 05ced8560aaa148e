"""The fused mixture of experts of DeepSeek-R1 over 8 ranks beside public kernels, in one run: time, error, stages.

From bf16 hidden states and given routing (256 experts, 8 a token, 7168 wide, 256 inner), weights of e4m3fn with a scale
for each 128 x 128. Graph-timed on a GPU; routing and hidden states differ from call to call, and the weights are many
times the L2, so each call reads its experts' from memory. `stages` are the kernels of the call: what each adds to those
before it. The floor is the time that the bytes of the hit experts take at the bandwidth that a kernel which only reads
reaches in the same run. `--shuffled` passes weights as `shuffle_weight` lays them. SGLang's, vLLM's and FlashInfer's
kernels are timed beside it where they can be imported. Prints microseconds; `--json` and `--svg` write files.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf, log2
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aiterlite import dispatch, moe
from aiterlite.benchmark import options
from aiterlite.benchmark.floor import read_floor
from aiterlite.benchmark.timing import Contender, compare
from aiterlite.launch import calls as launches
from aiterlite.ops import fused_moe as ops
from aiterlite.ops.samples import fused_moe as samples
from aiterlite.reference import fused_moe as reference
from aiterlite.tables import fused_moe as tables
from aiterlite.tables.fused_moe_problem import MoeProblem
from aiterlite.tables.quant_types import QuantType
from aiterlite.target import persona_for

TOKENS = (1, 4, 16, 64, 256, 1024)
# Calls that differ in hidden states and routing.
COPIES = 16
# Read at once to measure the bandwidth: many times the L2.
_FLOOR_BYTES = 1 << 30


@dataclass(frozen=True)
class Row:
    """Medians in microseconds. Errors are relative, by Frobenius norms: against a reference that rounds activations to
    8 bits in groups of 128, and against one that does not."""

    tokens: int
    experts_hit: int
    row: str
    us: float
    floor_us: float
    over_floor: float
    error_rounded: float
    error_exact: float
    stages_us: dict[str, float]
    peers_us: dict[str, float]


@dataclass(frozen=True)
class Layer:
    """A layer's weights, and what calls bring."""

    problem: MoeProblem
    made: samples.Operands
    copies: tuple[tuple[Tensor, Tensor, Tensor], ...]  # hidden states, ids, routing weights

    def call(self, number: int) -> Tensor:
        x, ids, routing = self.copies[number]
        weights = self.made.weights
        return moe.fused_moe(
            x, self.made.w1, self.made.w2, routing, ids, quant_type=QuantType.per_1x128,
            w1_scale=weights.w1_scale, w2_scale=weights.w2_scale,
        )  # fmt: skip

    @property
    def hit(self) -> int:
        """Experts that a call has, in the mean."""
        return round(sum(len(ids.unique()) for _, ids, _ in self.copies) / len(self.copies))

    @property
    def weight_bytes(self) -> int:
        """Of the experts that a call has, scales left out."""
        return self.hit * 3 * self.problem.inter * self.problem.width


def layers(shuffled: bool, tokens: Sequence[int], device: torch.device) -> list[Layer]:
    """The same weights for all counts of tokens."""
    problem = MoeProblem(max(tokens), 256, global_experts=256, shuffled=shuffled)
    weights = samples.make(replace(problem, tokens=1), 0, None, device)
    generator = torch.Generator(device).manual_seed(1)
    made = []
    for count in tokens:
        copies = []
        for _ in range(COPIES):
            x = torch.randn(count, problem.width, generator=generator, device=device).to(torch.bfloat16)
            scores = torch.rand(count, problem.experts, generator=generator, device=device)
            routing, ids = scores.topk(problem.topk, dim=1)
            copies.append((x, ids.int(), routing / routing.sum(1, keepdim=True)))
        made.append(Layer(replace(problem, tokens=count), weights, tuple(copies)))
    return made


def errors(layer: Layer) -> tuple[float, float]:
    x, ids, routing = layer.copies[0]
    got = layer.call(0)
    made = replace(layer.made, x=x, ids=ids, routing=routing)
    rounded, exact = (samples.layer_of(layer.problem, made, code).out for code in (torch.float8_e4m3fn, None))
    return reference.relative_error(got, rounded), reference.relative_error(got, exact)


def stages(layer: Layer, device: torch.device, count: int) -> dict[str, float]:
    """What each kernel of the call adds to those before it."""
    decision = dispatch.decide(tables.TABLE, layer.problem, persona_for(device.type, device.index))
    assert decision.row is not None, str(decision)
    out = torch.empty_like(layer.copies[0][0])
    weights, absent = layer.made.weights, ("x_scale", "expert_mask", "num_local_tokens", "bias1", "bias2")
    sizes = {
        **ops.layer_sizes(layer.problem, False),
        **{"global_experts": layer.problem.experts, "id_words": 1, "limit": inf, "beta": 1.0, "linear_beta": 0.0},
        **{"stride_x": layer.problem.width, "stride_out": layer.problem.width},
        **dict.fromkeys(("stride_ids", "stride_weights"), layer.problem.topk),
        **dict.fromkeys(("stride_scale_token", "stride_scale_group"), 0),
    }
    contenders: dict[str, Contender] = {}
    for number, kernel in enumerate(decision.kernels, 1):
        kept = decision.kernels[:number]
        row = replace(decision.row, kernels=lambda problem, persona, plan, kept=kept: kept)
        launch = launches.prepare(replace(decision, row=row), device, ops.OPERANDS, sizes, absent)

        def call(copy: int, launch: Any = launch) -> None:
            x, ids, routing = layer.copies[copy]
            made = layer.made
            given = (x, None, made.w1, weights.w1_scale, made.w2, weights.w2_scale, ids, routing, None, None, out)
            launch(*given, None, None)

        contenders[f"{number} {kernel.symbol.removeprefix('aiterlite_').removeprefix('sm90_moe_')}"] = call
    ends = {name: timing.median * 1e6 for name, timing in compare(contenders, COPIES, device, count).items()}
    before, made = 0.0, {}
    for name, end in ends.items():
        made[name], before = end - before, end
    return made


# Other packages -------------------------------------------------------------------------------------------------------


def _by_name(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Of these arguments those that the function takes: their names differ from version to version."""
    return {name: value for name, value in given.items() if name in inspect.signature(function).parameters}


def _vllm(layer: Layer) -> Contender:
    function = importlib.import_module("vllm.model_executor.layers.fused_moe").fused_experts
    given = _fp8_arguments(layer)
    try:
        config = importlib.import_module("vllm.model_executor.layers.fused_moe.config").fp8_w8a8_moe_quant_config
        given["quant_config"] = config(**_by_name(config, {**given, "block_shape": [128, 128]}))
    except (ImportError, AttributeError):
        given["use_fp8_w8a8"] = True
    return _experts(function, layer, given)


def _sglang(layer: Layer) -> Contender:
    module = importlib.import_module("sglang.srt.layers.moe.fused_moe_triton.fused_moe")
    given = {**_fp8_arguments(layer), "use_fp8_w8a8": True}
    function = getattr(module, "fused_experts_impl", None) or module.fused_experts
    return _experts(function, layer, given)


def _fp8_arguments(layer: Layer) -> dict[str, Any]:
    weights = layer.made.weights
    return {"w1_scale": weights.w1_scale, "w2_scale": weights.w2_scale, "block_shape": [128, 128], "inplace": False}


def _experts(function: Callable[..., Any], layer: Layer, given: dict[str, Any]) -> Contender:
    made, kept = layer.made.weights, _by_name(function, given)

    def call(copy: int) -> None:
        x, ids, routing = layer.copies[copy]
        function(x, made.w1, made.w2, routing, ids, **kept)

    return call


def _flashinfer(layer: Layer) -> Contender:
    function = importlib.import_module("flashinfer.fused_moe").cutlass_fused_moe
    made = layer.made.weights

    def call(copy: int) -> None:
        x, ids, routing = layer.copies[copy]
        function(
            x, ids, routing, made.w1, made.w2, torch.bfloat16, quant_scales=[made.w1_scale, made.w2_scale],
            use_deepseek_fp8_block_scale=True,
        )  # fmt: skip

    return call


_PEERS = {"sglang": _sglang, "vllm": _vllm, "flashinfer": _flashinfer}
_told: set[str] = set()


def peers(layer: Layer) -> dict[str, Contender]:
    """What can be imported and runs; what cannot is said once."""
    found = {}
    for name, make in _PEERS.items():
        try:
            contender = make(layer)
            contender(0)
        except Exception as error:  # a package of another version fails in ways of its own
            if name not in _told:
                print(f"{name}: left out ({type(error).__name__}: {str(error).splitlines()[:1]})", flush=True)
                _told.add(name)
        else:
            found[name] = contender
    return found


# Measuring ------------------------------------------------------------------------------------------------------------


def bandwidth(device: torch.device, count: int) -> float:
    """Bytes a second that a kernel reads which does nothing else."""
    weights = [torch.zeros(_FLOOR_BYTES // 8192, 4096, dtype=torch.bfloat16, device=device) for _ in range(2)]
    return _FLOOR_BYTES / compare({"floor": read_floor(weights)}, 2, device, count)["floor"].median


def measure(layer: Layer, device: torch.device, count: int, read: float) -> Row:
    rounded, exact = errors(layer)
    others = peers(layer)
    timed = compare({"ours": layer.call, **others}, COPIES, device, count)
    us = {name: timing.median * 1e6 for name, timing in timed.items()}
    decision = dispatch.decide(tables.TABLE, layer.problem, persona_for(device.type, device.index))
    floor = layer.weight_bytes / read * 1e6
    return Row(
        layer.problem.tokens, layer.hit, decision.row.name if decision.row else "", us["ours"], floor,
        us["ours"] / floor, rounded, exact, stages(layer, device, count), {name: us[name] for name in others},
    )  # fmt: skip


def describe(row: Row) -> str:
    parts = ", ".join(f"{name.partition(' ')[2]} {us:.1f}" for name, us in row.stages_us.items())
    others = "".join(f", {name} {us:.1f}" for name, us in row.peers_us.items())
    return (
        f"{row.tokens:6d} {row.experts_hit:7d} {row.us:8.1f} {row.floor_us:8.1f} {row.over_floor:6.2f} "
        f"{row.error_rounded:9.1e} {row.error_exact:9.1e}  {row.row}: {parts}{others}"
    )


def draw(rows: Sequence[Row]) -> str:
    """Microseconds against tokens, both by powers of two: ours, the floor, and each peer."""
    lines = {"ours": [row.us for row in rows], "floor": [row.floor_us for row in rows]}
    for name in sorted({name for row in rows for name in row.peers_us}):
        lines[name] = [row.peers_us.get(name, float("nan")) for row in rows]
    high = max(log2(us) for line in lines.values() for us in line if us == us)
    low = min(log2(us) for line in lines.values() for us in line if us == us)
    width, height, edge = 640, 400, 60
    colours = ("#1f77b4", "#888888", "#d62728", "#2ca02c", "#9467bd")

    def x_of(row: Row) -> float:
        span = max(1.0, log2(rows[-1].tokens / rows[0].tokens))
        return edge + log2(row.tokens / rows[0].tokens) / span * (width - 2 * edge)

    def y_of(us: float) -> float:
        return height - edge - (log2(us) - low) / max(1e-9, high - low) * (height - 2 * edge)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">']
    parts.append(f'<text x="{edge}" y="24" font-size="13">fused mixture of experts: us, by tokens</text>')
    for row in rows:
        parts.append(f'<text x="{x_of(row):.0f}" y="{height - edge + 20}" font-size="11">{row.tokens}</text>')
    for number, (name, line) in enumerate(lines.items()):
        points = " ".join(f"{x_of(r):.1f},{y_of(us):.1f}" for r, us in zip(rows, line, strict=True) if us == us)
        colour = colours[number % len(colours)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(
            f'<text x="{width - edge + 4}" y="{40 + 16 * number}" font-size="11" fill="{colour}">{name}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_device(parser)
    options.add_samples(parser, 11)
    parser.add_argument("--tokens", type=options.counts, default=list(TOKENS), help="such as 1,16,256")
    parser.add_argument("--shuffled", action="store_true", help="weights as shuffle_weight lays them")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--svg", type=Path, help="draw them there")
    asked = parser.parse_args(arguments)
    read = bandwidth(asked.device, asked.samples)
    print(f"reading alone: {read / 1e9:.0f} GB/s")
    print("tokens experts       us    floor   over   rounded     exact  row: stages, peers", flush=True)
    rows = []
    for layer in layers(asked.shuffled, asked.tokens, asked.device):
        rows.append(measure(layer, asked.device, asked.samples, read))
        print(describe(rows[-1]), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps({"read_bytes_per_s": read, "rows": [asdict(row) for row in rows]}, indent=1))
    if asked.svg:
        asked.svg.write_text(draw(rows))


if __name__ == "__main__":
    main()
