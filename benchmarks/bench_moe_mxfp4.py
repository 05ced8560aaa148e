"""The fused mixture of experts with weights of MXFP4: time, beside what only reading the experts that were hit takes.

From bf16 hidden states and given routing, 256 experts, 8 a token, 7168 wide. Graph-timed on a GPU; routing and hidden
states differ from call to call, and the weights are many times the L2, so each call reads its experts' from memory. The
floor is the time that codes and scales of the hit experts take at the bandwidth of a kernel which only reads, in the
same run. `stages` are the kernels of the call: what each adds to those before it. `--row` asks for a row of the
table that is not the first choice. The error is against float64 with x and h rounded as the call's are. vLLM's Marlin
kernels are timed beside it where they can be imported. Prints microseconds; `--json FILE` writes them.

`--sweep` times other cuts of row mxfp4_stream instead, or with `--row mxfp4_e4m3` of that one, each held to the same
float64.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from side_by_side import build, microseconds, tried, write
from torch import Tensor

from aiterlite import dispatch
from aiterlite.benchmark import options
from aiterlite.benchmark.floor import read_floor
from aiterlite.benchmark.timing import Contender
from aiterlite.dispatch import Decision
from aiterlite.kernel import Kernel
from aiterlite.launch import calls as launches
from aiterlite.ops import fused_moe as ops
from aiterlite.ops.samples import fused_moe as samples
from aiterlite.ops.shuffle import shuffle_scale, shuffle_weight
from aiterlite.reference import fused_moe as reference
from aiterlite.tables import fused_moe as tables
from aiterlite.tables import fused_moe_mxfp4_e4m3 as eight_bits
from aiterlite.tables import fused_moe_mxfp4_sm90 as stream
from aiterlite.tables.fused_moe_problem import A4W4, PRECISIONS, MoeProblem
from aiterlite.target import persona_for

EXPERTS, TOPK, WIDTH, COPIES = 256, 8, 7168, 8
# Read at once to measure the bandwidth: many times the L2.
_FLOOR_BYTES = 1 << 30
# Relative, by Frobenius norms, as in tests.
_MOST_ERROR = 5e-3


@dataclass(frozen=True)
class Layer:
    """`weights` as the reference takes them; w1, w2 and their scales as calls do."""

    problem: MoeProblem
    weights: reference.Weights
    w1: Tensor
    w2: Tensor
    w1_scale: Tensor
    w2_scale: Tensor
    copies: tuple[tuple[Tensor, Tensor, Tensor], ...]  # hidden states, ids, routing weights

    @property
    def hit(self) -> float:
        return sum(len(ids.unique()) for _, ids, _ in self.copies) / len(self.copies)

    @property
    def floor_bytes(self) -> float:
        return self.hit * 3 * self.problem.inter * self.problem.width * 17 / 32

    def exact(self) -> Tensor:
        """Of the first copy, in float64, on the CPU."""
        (x, ids, routing), kept = self.copies[0], self.copies[0][1].unique().long()
        place = torch.full((EXPERTS,), -1, dtype=torch.int32, device=ids.device)
        place[kept] = torch.arange(len(kept), dtype=torch.int32, device=ids.device)
        given = (self.weights.w1, self.weights.w2, self.weights.w1_scale, self.weights.w2_scale)
        own = reference.Weights(*[None if one is None else one[kept].cpu() for one in given])  # type: ignore[arg-type]
        rounded = samples.rounding_of(self.problem)
        activation = samples.activation_of(self.problem)
        return reference.fused_moe(
            x.cpu(), own, place[ids.long()].cpu(), routing.cpu(), activation, rounded=rounded
        ).out  # fmt: skip


def layers(inter: int, tokens: Sequence[int], precision: str, shuffled: bool, device: torch.device) -> Iterator[Layer]:
    """The same weights for all counts of tokens: any codes, scales that keep h near 1."""
    generator = torch.Generator(device).manual_seed(1)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, dtype=torch.uint8, generator=generator, device=device)

    w1, w2 = draw(0, 256, EXPERTS, 2 * inter, WIDTH // 2), draw(0, 256, EXPERTS, WIDTH, inter // 2)
    first, second = draw(115, 121, EXPERTS, 2 * inter, WIDTH // 32), draw(115, 121, EXPERTS, WIDTH, inter // 32)
    given = (w1, w2, first, second)
    if shuffled:
        given = (shuffle_weight(w1), shuffle_weight(w2), *(shuffle_scale(s.flatten(0, 1)) for s in (first, second)))
    for count in tokens:
        copies = []
        for _ in range(COPIES):
            x = torch.randn(count, WIDTH, generator=generator, device=device).to(torch.bfloat16)
            routing, ids = torch.rand(count, EXPERTS, generator=generator, device=device).topk(TOPK, dim=1)
            copies.append((x, ids.int(), routing / routing.sum(1, keepdim=True)))
        problem = MoeProblem(
            count, EXPERTS, TOPK, WIDTH, inter, code="e2m1", quant="mxfp4", precision=precision, shuffled=shuffled,
            global_experts=EXPERTS,
        )  # fmt: skip
        yield Layer(problem, reference.Weights(w1, w2, first, second), *given, tuple(copies))


def prepared(layer: Layer, decision: Decision, kernels: tuple[Kernel, ...]) -> tuple[Contender, Tensor]:
    """A call of these kernels of a decision, and where it leaves its result."""
    problem, out = layer.problem, torch.full_like(layer.copies[0][0], torch.nan)
    assert decision.row is not None, str(decision)
    row = replace(decision.row, kernels=lambda problem, persona, plan: kernels)
    sizes = {
        **ops.layer_sizes(problem, False),
        **{"global_experts": EXPERTS, "id_words": 1, "limit": inf, "beta": 1.0, "linear_beta": 0.0, "w1_scales": 1},
        **dict.fromkeys(("stride_x", "stride_out"), problem.width),
        **dict.fromkeys(("stride_ids", "stride_weights"), problem.topk),
        **dict.fromkeys(("stride_scale_token", "stride_scale_group"), 0),
    }
    absent = ("x_scale", "expert_mask", "num_local_tokens", "bias1", "bias2")
    launch = launches.prepare(replace(decision, row=row), out.device, ops.OPERANDS, sizes, absent)

    def call(copy: int) -> None:
        x, ids, routing = layer.copies[copy]
        given = (x, None, layer.w1, layer.w1_scale, layer.w2, layer.w2_scale, ids, routing)
        launch(*given, None, None, out, None, None)

    return call, out


def error_of(call: Contender, out: Tensor, exact: Tensor) -> float:
    """Raises where it is too large."""
    out.fill_(torch.nan)
    call(0)
    error = reference.relative_error(out.cpu(), exact)
    if not error <= _MOST_ERROR:
        raise SystemExit(f"the error is {error:.2e}; allowed: at most {_MOST_ERROR:.0e}")
    return error


def marlin(layer: Layer) -> Callable[[int], object]:
    """vLLM's, of weights that it puts in its own order."""
    utils = importlib.import_module("vllm.model_executor.layers.quantization.utils.marlin_utils_fp4")
    module = importlib.import_module("vllm.model_executor.layers.fused_moe.fused_marlin_moe")
    types = importlib.import_module("vllm.scalar_type").scalar_types
    held = torch.nn.Module()
    for name, value in (("w13", layer.weights.w1), ("w2", layer.weights.w2)):
        setattr(held, f"{name}_weight", torch.nn.Parameter(value.clone(), requires_grad=False))
    for name, scale in (("w13", layer.weights.w1_scale), ("w2", layer.weights.w2_scale)):
        assert scale is not None
        setattr(held, f"{name}_weight_scale", torch.nn.Parameter(scale.clone(), requires_grad=False))
    sizes = {"num_experts": EXPERTS, "hidden_size": WIDTH, "intermediate_size_per_partition": layer.problem.inter}
    for name, size in {**sizes, "params_dtype": torch.bfloat16}.items():
        setattr(held, name, size)
    utils.prepare_moe_fp4_layer_for_marlin(held)

    def call(copy: int) -> object:
        x, ids, routing = layer.copies[copy]
        return module.fused_marlin_moe(
            x, held.w13_weight, held.w2_weight, None, None, held.w13_weight_scale, held.w2_weight_scale, None, routing,
            ids, quant_type_id=types.float4_e2m1f.id, global_num_experts=EXPERTS,
        )  # fmt: skip

    return call


def peers(layer: Layer) -> dict[str, Contender]:
    def make(name: str, maker: Callable[[Layer], Contender]) -> Contender:
        call = maker(layer)
        call(0)
        return call

    return tried({"marlin": marlin}, make, own=())[1]


def measure(layer: Layer, decision: Decision, device: torch.device, count: int, read: float) -> dict[str, Any]:
    call, out = prepared(layer, decision, decision.kernels)
    error = error_of(call, out, layer.exact())
    contenders = {
        f"{number} {kernel.symbol.removeprefix('aiterlite_')}": prepared(layer, decision, decision.kernels[:number])[0]
        for number, kernel in enumerate(decision.kernels[:-1], 1)
    }
    others = peers(layer)
    times = microseconds({**contenders, "ours": call, **others}, COPIES, device, count)
    before, stages = 0.0, {}
    last = decision.kernels[-1].symbol.removeprefix("aiterlite_")
    for name, end in [
        *((name, times[name]) for name in contenders),
        (f"{len(decision.kernels)} {last}", times["ours"]),
    ]:
        stages[name], before = end - before, end
    floor, problem = layer.floor_bytes / read * 1e6, layer.problem
    assert decision.row is not None
    return {
        **{"inter": problem.inter, "tokens": problem.tokens, "hit": layer.hit, "row": decision.row.name},
        **{"us": times["ours"], "floor_us": floor, "over_floor": times["ours"] / floor, "error": error},
        **{"stages_us": stages, "peers_us": {name: times[name] for name in others}},
    }


def chosen(problem: MoeProblem, device: torch.device, name: str | None) -> Decision:
    """The table's decision, or that of a table of one row."""
    rows = tuple(row for row in tables.TABLE.rows if name in (None, row.name))
    return dispatch.decide(replace(tables.TABLE, rows=rows), problem, persona_for(device.type, device.index))


# The sweep ------------------------------------------------------------------------------------------------------------


def cuts(problem: MoeProblem, planned: stream.Plan) -> list[stream.Plan]:
    """The plan's, then what differs from it in one way or two, each once."""
    deeper = {"ahead": planned.units}
    of_first = [
        {}, deeper, {"ahead": 2, "resident": 3}, {"tiles": 4}, {"tiles": 4, **deeper}, {"tiles": 2}, {"tiles": 1},
        {"tiles": 1, **deeper}, {"columns": 1}, {"columns": 4}, {"waves": 14, "units": 4, "resident": 1},
        {"waves": 14, "units": 4, "resident": 1, "tiles": 4},
    ]  # fmt: skip
    of_second = [
        {"early": False}, {"down_ahead": 1}, {"down_ahead": 4, "down_resident": 2}, {"down_resident": 2},
        {"down_waves": 4, "down_resident": 6}, {"down_waves": 4, "down_resident": 4}, {"down_tiles": 2},
        {"down_tiles": 4}, {"down_waves": 16, "down_tiles": 2, "down_resident": 1},
    ]  # fmt: skip
    made = [replace(planned, **change) for change in (*of_first, *of_second)]
    fits = [cut for cut in made if stream.gate_up_shared(problem, cut) <= 227 << 10]
    whole, down = planned.waves * planned.units, problem.inter // 128
    return list(dict.fromkeys(cut for cut in fits if cut.waves * cut.units == whole and down % cut.down_ahead == 0))


def eight_bit_cuts(problem: MoeProblem, planned: eight_bits.Plan) -> list[eight_bits.Plan]:
    changes = [
        {}, {"fenced": False}, {"together": True}, {"stages": 3}, {"stages": 3, "resident": 3}, {"cluster": 2},
        {"cluster": 2, "stages": 3, "resident": 3}, {"cluster": 2, "groups": 1, "resident": 4},
        {"stages": 5, "resident": 1}, {"groups": 1, "resident": 4}, {"groups": 4, "resident": 1},
        {"stages": 3, "groups": 3}, {"down_stages": 2}, {"down_groups": 3}, {"down_groups": 5, "down_stages": 2},
        {"down_groups": 6, "down_stages": 2}, {"down_groups": 5, "down_stages": 3}, {"down_rows": 64},
        {"down_groups": 8, "down_stages": 2},
    ]  # fmt: skip
    made = [replace(planned, **change) for change in changes]
    fits = [cut for cut in made if cut.resident * (eight_bits.up_shared(problem, cut) + 1024) <= 227 << 10]
    return list(dict.fromkeys(cut for cut in fits if eight_bits.down_shared(problem, cut) <= 227 << 10))


def swept(layer: Layer, device: torch.device, count: int, read: float, name: str) -> list[dict[str, Any]]:
    problem, persona = layer.problem, persona_for(device.type, device.index)
    decision = chosen(problem, device, name)
    planned: Any = decision.plan
    made: dict[Any, tuple[Kernel, ...]] = {}
    if name == "mxfp4_stream":
        made = {cut: stream.kernels(problem, persona, cut) for cut in cuts(problem, planned)}
    else:
        made = {cut: eight_bits.kernels(problem, persona, cut) for cut in eight_bit_cuts(problem, planned)}
    exact = layer.exact()
    build([kernel.unit for kernels in made.values() for kernel in kernels])
    contenders, errors = {}, {}
    for number, kernels in enumerate(made.values()):
        call, out = prepared(layer, decision, kernels)
        errors[number] = error_of(call, out, exact)
        contenders[f"{number}"] = call
        contenders[f"{number} first"] = prepared(layer, decision, kernels[:-1])[0]
    times = microseconds(contenders, COPIES, device, count)
    floor, rows = layer.floor_bytes / read * 1e6, []
    for number, cut in enumerate(made):
        us, first = times[f"{number}"], times[f"{number} first"]
        changed = {name: value for name, value in asdict(cut).items() if value != asdict(planned)[name]}
        rows.append({"inter": problem.inter, "tokens": problem.tokens, "cut": asdict(cut), "us": us, "first_us": first})
        rows[-1] |= {"floor_us": floor, "error": errors[number]}
        told = " ".join(f"{name}={value}" for name, value in changed.items()) or "planned"
        print(
            f"{problem.inter:5d} {problem.tokens:6d} {us:8.2f} us, to stage 1 {first:7.2f}, {us / floor:5.2f} floors, "
            f"error {errors[number]:.1e}  {told}",
            flush=True,
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_device(parser)
    options.add_samples(parser, 5)
    parser.add_argument("--tokens", type=options.counts, default=[1, 2, 4, 8, 16, 64], help="such as 1,16")
    parser.add_argument("--inter", type=options.counts, default=[256, 512])
    parser.add_argument("--precision", choices=PRECISIONS, default=A4W4)
    parser.add_argument("--shuffled", action="store_true", help="weights as shuffle_weight lays them")
    parser.add_argument("--row", help="of the table, such as mxfp4_mma")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    device = asked.device
    weights = [torch.zeros(_FLOOR_BYTES // 8192, 4096, dtype=torch.bfloat16, device=device) for _ in range(2)]
    read = _FLOOR_BYTES / microseconds({"floor": read_floor(weights)}, 2, device, asked.samples)["floor"] * 1e6
    del weights
    print(f"reading alone: {read / 1e9:.0f} GB/s\ninter tokens experts       us    floor   over     error", flush=True)
    rows: list[dict[str, Any]] = []
    for inter in asked.inter:
        for layer in layers(inter, asked.tokens, asked.precision, asked.shuffled, device):
            if asked.sweep:
                rows += swept(layer, device, asked.samples, read, asked.row or "mxfp4_stream")
                continue
            row = measure(layer, chosen(layer.problem, device, asked.row), device, asked.samples, read)
            rows.append(row)
            parts = ", ".join(f"{name} {us:.2f}" for name, us in (row["stages_us"] | row["peers_us"]).items())
            print(
                f"{inter:5d} {row['tokens']:6d} {row['hit']:7.1f} {row['us']:8.2f} {row['floor_us']:8.2f} "
                f"{row['over_floor']:6.2f} {row['error']:9.1e}  {row['row']}: {parts}",
                flush=True,
            )
    write(asked.json, device, rows)


if __name__ == "__main__":
    main()
