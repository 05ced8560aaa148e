"""The fused mixture of experts on a CPU beside torch and beside reading the experts that were chosen; see `--help`.

One layer with bf16 hidden states and fp8 weights in blocks of 128 x 128, routing given. Contenders take turns in one
process, and each call takes other experts, from more weights than the last-level cache holds. `floor` only reads as
many bytes as the chosen experts have. torch dequantises each of them to float32 and multiplies its tokens by it: by
`Tensor.to`, by a table of all codes, or by moving bits to where a half has them, which is wrong for NaN.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from aiterlite.benchmark import options
from aiterlite.benchmark.floor import read_floor
from aiterlite.benchmark.timing import Contender, compare, copies_for
from aiterlite.dispatch import Decision, Row
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel
from aiterlite.launch import calls as launches
from aiterlite.tables.fused_moe_problem import MoeProblem
from aiterlite.target import host_persona

ARGS = ArgumentStruct("aiterlite_fused_moe_cpu_args", "aiterlite/fused_moe/args.h")
_SYMBOL = "aiterlite_fused_moe_cpu_bf16_e4m3fn"
_OPERANDS = ("x", "w1", "w1_scale", "w2", "w2_scale", "topk_ids", "topk_weights", "out")
BLOCK, CODE = 128, torch.float8_e4m3fn
# Both round the result to bf16, and ours h.
_MOST_ERROR = 5e-3


@dataclass(frozen=True)
class Layer:
    """Weights, of which `bytes` are all of the codes."""

    w1: Tensor
    w2: Tensor
    w1_scale: Tensor
    w2_scale: Tensor
    bytes: Tensor


@dataclass(frozen=True)
class Routed:
    x: Tensor
    ids: Tensor
    weights: Tensor


def layer(experts: int, width: int, inter: int) -> Layer:
    rows = experts * 3 * inter
    codes = torch.randint(0, 256, (rows * width,), dtype=torch.uint8)
    # Neither NaN nor more than 2 in magnitude.
    codes = codes.bitwise_and_(0xBF)
    w1, w2 = codes.view(CODE).split((experts * 2 * inter * width, experts * inter * width))
    blocks = width // BLOCK
    scales = [
        torch.rand(experts, n, k) * 0.02 + 0.01 for n, k in ((2 * inter // BLOCK, blocks), (blocks, inter // BLOCK))
    ]
    return Layer(w1.view(experts, 2 * inter, width), w2.view(experts, width, inter), scales[0], scales[1], codes)


def routed(tokens: int, experts: int, topk: int, width: int, seed: int) -> Routed:
    g = torch.Generator().manual_seed(seed)
    ids = torch.rand(tokens, experts, generator=g).argsort(1)[:, :topk].int().contiguous()
    return Routed(torch.randn(tokens, width, generator=g).bfloat16(), ids, torch.rand(tokens, topk, generator=g))


def ours(
    problem: MoeProblem, layers: list[Layer], calls: list[Routed], outs: list[Tensor], shuffled: bool
) -> Contender:
    persona = host_persona()
    unit = Unit("fused_moe", ("csrc/fused_moe/cpu.cpp",), persona.target, symbols=(_SYMBOL,))
    kernel = Kernel(unit, _SYMBOL, ARGS)
    row = Row("cpu", "host", (), kernels=lambda *_: (kernel,))
    fields = [field.name for field in ARGS.layout().packed]
    sizes: dict[str, int | float] = dict.fromkeys((name for name in fields if name not in _OPERANDS), 0)
    sizes |= {"stride_x": problem.width, "stride_out": problem.width, "stride_ids": problem.topk}
    sizes |= {"stride_weights": problem.topk, "tokens": problem.tokens, "topk": problem.topk, "id_words": 1}
    sizes |= {"experts": problem.experts, "global_experts": problem.experts, "width": problem.width}
    sizes |= {"inter": problem.inter, "gate_step": 1, "up_offset": problem.inter, "quant": 2}
    sizes["shuffled"] = int(shuffled)
    launch = launches.prepare(Decision("fused_moe", problem, persona, row), torch.device("cpu"), _OPERANDS, sizes)

    def call(copy: int) -> None:
        at, given = layers[copy % len(layers)], calls[copy]
        launch(given.x, at.w1, at.w1_scale, at.w2, at.w2_scale, given.ids, given.weights, outs[copy])

    return call


Decode = Callable[[Tensor], Tensor]
_TABLE = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(CODE).float()
# Of a half whose exponent and fraction are a code's.
_BITS_FACTOR = 2.0**8


def by_cast(codes: Tensor) -> Tensor:
    return codes.to(torch.float32)


def by_table(codes: Tensor) -> Tensor:
    return _TABLE.index_select(0, codes.view(torch.uint8).flatten().int()).view(codes.shape)


def by_bits(codes: Tensor) -> Tensor:
    moved = codes.view(torch.int8).to(torch.int16).bitwise_left_shift_(7).bitwise_and_(-0x4080)
    return moved.view(torch.float16).float().mul_(_BITS_FACTOR)


def dequantised(codes: Tensor, scales: Tensor, decode: Decode) -> Tensor:
    rows, columns = codes.shape
    blocks = decode(codes).view(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    return blocks.mul_(scales[:, None, :, None]).view(rows, columns)


def by_torch(layers: list[Layer], calls: list[Routed], outs: list[Tensor], decode: Decode) -> Contender:
    """Only the experts that were chosen, each once for all its tokens."""

    def call(copy: int) -> None:
        at, given = layers[copy % len(layers)], calls[copy]
        sums = torch.zeros(given.x.shape, dtype=torch.float32)
        x = given.x.float()
        for expert in given.ids.unique().tolist():
            tokens, slots = (given.ids == expert).nonzero(as_tuple=True)
            gate, up = (x[tokens] @ dequantised(at.w1[expert], at.w1_scale[expert], decode).T).chunk(2, 1)
            h = torch.nn.functional.silu(gate) * up
            made = h @ dequantised(at.w2[expert], at.w2_scale[expert], decode).T
            sums.index_add_(0, tokens, made * given.weights[tokens, slots].unsqueeze(1))
        outs[copy].copy_(sums)

    return call


def measure(args: argparse.Namespace, layers: list[Layer], tokens: int) -> dict[str, Any]:
    problem = MoeProblem(tokens, args.experts, args.topk, args.width, args.inter, shuffled=args.shuffled)
    copies = max(len(layers), min(args.samples * 4, 64)) // len(layers) * len(layers)
    calls = [routed(tokens, args.experts, args.topk, args.width, seed) for seed in range(copies)]
    outs = [torch.empty(tokens, args.width, dtype=torch.bfloat16) for _ in range(copies)]
    each = layers[0].bytes.nbytes // args.experts
    hits = [len(call.ids.unique()) for call in calls]
    middle = sorted(hits)[copies // 2]
    # Reads as much as a call of the middle number of experts, from where the calls' weights lie.
    parts = [
        layers[copy % len(layers)].bytes[: middle * each].view(torch.bfloat16).view(-1, 128) for copy in range(copies)
    ]
    contenders: dict[str, Contender] = {
        "floor": read_floor(parts),
        "ours": ours(problem, layers, calls, outs, args.shuffled),
        "torch, cast": by_torch(layers, calls, outs, by_cast),
        "torch, table": by_torch(layers, calls, outs, by_table),
        "torch, bits": by_torch(layers, calls, outs, by_bits),
    }
    error = None
    if not args.shuffled:
        contenders["ours"](0)
        made = outs[0].double()
        for peer in ("torch, cast", "torch, table", "torch, bits"):
            contenders[peer](0)
            wanted = outs[0].double()
            error = float((made - wanted).norm() / wanted.norm())
            if not error < _MOST_ERROR:
                raise SystemExit(f"{tokens} tokens: ours differs from {peer} by {error}")
    if args.only:
        contenders = {name: contenders[name] for name in args.only.split("+")}
    timings = compare(contenders, copies, torch.device("cpu"), args.samples)
    us = {name: timing.median * 1e6 for name, timing in timings.items()}
    best = min((us[name] for name in us if name.startswith("torch")), default=None)
    said = {
        "tokens": tokens,
        "experts_hit": middle,
        "megabytes": middle * each * 1e-6,
        "microseconds": us,
        "least": {name: timing.least * 1e6 for name, timing in timings.items()},
        "gigabytes_per_second": middle * each * 1e-3 / us["ours"],
        "share_of_floor": us["floor"] / us["ours"],
        "speedup": None if best is None else best / us["ours"],
        "error": error,
    }
    shown = ", ".join(
        f"{name} {timing.median * 1e6:.0f} ({timing.least * 1e6:.0f})" for name, timing in timings.items()
    )
    speedup = "" if best is None else f", torch / ours {best / us['ours']:.1f}"
    print(
        f"{tokens:>5} tokens, {middle} experts, {middle * each * 1e-6:.0f} MB; us, median (least): {shown}; "
        f"floor / ours {said['share_of_floor']:.2f}{speedup}",
        file=sys.stderr,
    )
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_samples(parser, 21)
    parser.add_argument("--tokens", type=options.counts, default=[1, 2, 4, 8, 16])
    parser.add_argument("--experts", type=options.count, default=64)
    parser.add_argument("--topk", type=options.count, default=8)
    parser.add_argument("--width", type=options.count, default=7168)
    parser.add_argument("--inter", type=options.count, default=256)
    parser.add_argument("--shuffled", action="store_true", help="ours takes weights as shuffle_weight puts them")
    parser.add_argument("--only", help="contenders with + between them")
    options.add_output(parser)
    args = parser.parse_args()
    with torch.no_grad():
        of_one = 3 * args.experts * args.inter * args.width
        made = copies_for(torch.device("cpu"), of_one)
        layers = [layer(args.experts, args.width, args.inter) for _ in range(made)]
        rows = [measure(args, layers, tokens) for tokens in args.tokens]
    threads = torch.get_num_threads()
    data = {"torch": torch.__version__, "persona": asdict(host_persona()), "threads": threads, "rows": rows}
    options.write_output(data, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
