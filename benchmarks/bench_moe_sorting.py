"""Sorting by experts and the sum over slots beside torch, vLLM and SGLang, where those can be imported; see `--help`.

On a GPU each time is of a graph of many calls. Operands rotate through more than the last-level cache only where they
are that large: ids come from the kernel before, so they are in the cache in use too.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from aiterlite.benchmark import options
from aiterlite.benchmark.timing import Contender, Timing, compare, copies_for
from aiterlite.ops import moe_sorting as ops
from aiterlite.ops.moe_sum import moe_sum
from aiterlite.target import persona_for

# A kernel of another package: its operands are made once, as its callers do.
Peer = Callable[[Tensor, int, int], Contender]


def routing(tokens: int, experts: int, topk: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    weights, ids = torch.rand(tokens, experts, generator=generator).topk(topk, dim=1)
    return ids.int().to(device), weights.to(device)


def by_torch(ids: Tensor, experts: int, block_size: int) -> Contender:
    """What one writes without a kernel: a stable sort, counts, prefix sums, a scatter."""
    entries = ids.numel() + experts * (block_size - 1)
    places = torch.arange(ids.numel(), device=ids.device)

    def run(_: int) -> None:
        flat = ids.flatten().long()
        key, order = torch.sort(flat, stable=True)
        counts = torch.zeros(experts, dtype=torch.long, device=ids.device).scatter_add_(0, flat, torch.ones_like(flat))
        padded = (counts + block_size - 1) // block_size * block_size
        shift = padded.cumsum(0) - padded - counts.cumsum(0) + counts
        out = torch.full((entries,), ids.numel(), dtype=torch.int32, device=ids.device)
        out[places + shift[key]] = order.int()

    return run


def _aligned(ids: Tensor, experts: int, block_size: int) -> tuple[Tensor, Tensor, Tensor]:
    entries = ids.numel() + experts * (block_size - 1)
    blocks = -(-entries // block_size)
    ints: Any = {"dtype": torch.int32, "device": ids.device}
    return torch.empty(entries, **ints), torch.empty(blocks, **ints), torch.empty(1, **ints)


def by_vllm(ids: Tensor, experts: int, block_size: int) -> Contender:
    kernel = importlib.import_module("vllm._custom_ops").moe_align_block_size
    out = _aligned(ids, experts, block_size)
    return lambda _: kernel(ids, experts, block_size, *out)


def by_sglang(ids: Tensor, experts: int, block_size: int) -> Contender:
    kernel = importlib.import_module("sgl_kernel").moe_align_block_size
    # It takes one expert more, which ids of -1 go to.
    out = _aligned(ids, experts + 1, block_size)
    sums = torch.zeros(experts + 2, dtype=torch.int32, device=ids.device)
    return lambda _: kernel(ids, experts + 1, block_size, *out, sums, True)


def sums_by_vllm(given: Sequence[Tensor], out: Tensor) -> Contender:
    kernel = importlib.import_module("vllm._custom_ops").moe_sum
    return lambda copy: kernel(given[copy], out)


def with_peers(
    found: dict[str, Contender], peers: Mapping[str, Callable[[], Contender]], absent: dict[str, str]
) -> None:
    """Add the peers that are there and run; say of others why not."""
    for name, make in peers.items():
        try:
            contender = make()
            contender(0)
        except (ImportError, AttributeError, RuntimeError, TypeError) as error:
            absent[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
        else:
            found[name] = contender


def sort_row(args: argparse.Namespace, tokens: int, absent: dict[str, str]) -> dict[str, Any]:
    device, experts, block_size = args.device, args.experts, args.block_size
    ids, weights = routing(tokens, experts, args.topk, device)
    given = (ids, weights, experts, args.width, torch.bfloat16, block_size)
    out = _aligned(ids, experts, block_size)
    nums = torch.empty_like(out[1])
    found: dict[str, Contender] = {
        "ours": lambda _: ops.moe_sorting(*given, accumulate=False),
        "ours, clearing": lambda _: ops.moe_sorting(*given),
        "ours, one workgroup": lambda _: ops.moe_sorting(*given, dispatch_policy=1, accumulate=False),
        "ours, tiles": lambda _: ops.moe_sorting(*given, dispatch_policy=2, accumulate=False),
        "ours, aligning": lambda _: ops.moe_align_block_size(ids, experts, block_size, *out[:2], nums, out[2]),
        "torch": by_torch(ids, experts, block_size),
    }
    if device.type == "cuda":
        peers: dict[str, Peer] = {"vllm, aligning": by_vllm, "sglang, aligning": by_sglang}
        made = {name: functools.partial(peer, ids, experts, block_size) for name, peer in peers.items()}
        with_peers(found, made, absent)
    return row("sort", args, tokens, compare(found, 1, device, args.samples))


def sum_row(args: argparse.Namespace, tokens: int, absent: dict[str, str]) -> dict[str, Any]:
    shape = (tokens, args.topk, args.width)
    copies = min(64, copies_for(args.device, 2 * tokens * args.topk * args.width))
    given = [torch.randn(shape, device=args.device).bfloat16() for _ in range(copies)]
    out = torch.empty(tokens, args.width, dtype=torch.bfloat16, device=args.device)
    found: dict[str, Contender] = {
        "ours": lambda copy: moe_sum(given[copy], out),
        "torch": lambda copy: torch.sum(given[copy], 1, out=out),
    }
    if args.device.type == "cuda":
        with_peers(found, {"vllm": lambda: sums_by_vllm(given, out)}, absent)
    return row("sum", args, tokens, compare(found, copies, args.device, args.samples))


def row(what: str, args: argparse.Namespace, tokens: int, timings: dict[str, Timing]) -> dict[str, Any]:
    shape = {"tokens": tokens, "experts": args.experts, "topk": args.topk, "block_size": args.block_size}
    said = ", ".join(f"{name} {timing.median * 1e6:.2f}" for name, timing in timings.items())
    print(f"{what} {tokens:>6} tokens, us: {said}", file=sys.stderr)
    return {"what": what, **shape, "width": args.width, "seconds": {n: asdict(t) for n, t in timings.items()}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_device(parser)
    options.add_samples(parser, 21)
    parser.add_argument("--tokens", type=options.counts, default=[1, 4, 16, 64, 256, 512, 1024, 4096, 16384, 65536])
    parser.add_argument("--sum-tokens", type=options.counts, default=[1, 16, 256, 1024])
    parser.add_argument("--experts", type=options.count, default=256)
    parser.add_argument("--topk", type=options.count, default=8)
    parser.add_argument("--block-size", type=options.count, default=32)
    parser.add_argument("--width", type=options.count, default=7168)
    options.add_output(parser)
    args = parser.parse_args()
    absent: dict[str, str] = {}
    rows = [sort_row(args, tokens, absent) for tokens in args.tokens]
    rows += [sum_row(args, tokens, absent) for tokens in args.sum_tokens]
    persona = asdict(persona_for(args.device.type, args.device.index))
    data = {"torch": torch.__version__, "persona": persona, "absent": absent, "rows": rows}
    options.write_output(data, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
