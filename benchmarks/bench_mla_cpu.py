"""MLA decode on a CPU beside plain torch and beside reading the pages, in one process; see `--help`.

One batch of equally long requests, one row of q each, bf16. Contenders take turns, and each call takes another copy of
q and KV, from more of them than the last-level cache holds. `floor` only reads KV. torch gathers the pages and makes
two products and a softmax: in bf16, or with the pages converted to float32 first. `kernels` is what `ours` launches,
prepared as the floor is: decode and merge, without the operator's checks and torch's dispatch.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from aiterlite.benchmark import options
from aiterlite.benchmark.floor import read_floor
from aiterlite.benchmark.timing import Contender, compare, copies_for
from aiterlite.mla import mla_decode_fwd
from aiterlite.ops import mla
from aiterlite.reference import mla as reference
from aiterlite.target import host_persona

KEY_DIM, VALUE_DIM = 576, 512
_MOST_ERROR = 2e-3
_PAGES = ("qo_indptr", "kv_indptr", "kv_indices", "kv_last_page_lens")


def operands(heads: int, batch: int, context: int, page: int, copies: int) -> list[dict[str, Tensor]]:
    """Copies of a batch whose pages lie in an order of their own."""
    if context % page:
        raise SystemExit(f"a context of {context} is not whole pages of {page}")
    pages = context // page
    starts = torch.arange(batch + 1, dtype=torch.int32)
    numbers = torch.randn(batch * pages, page, 1, KEY_DIM).bfloat16()
    return [
        {
            "q": torch.randn(batch, heads, KEY_DIM).bfloat16(),
            "kv_buffer": numbers.roll(copy, 0),
            "o": torch.empty(batch, heads, VALUE_DIM, dtype=torch.bfloat16),
            "qo_indptr": starts,
            "kv_indptr": starts * pages,
            "kv_indices": torch.randperm(batch * pages).int(),
            "kv_last_page_lens": torch.full((batch,), page, dtype=torch.int32),
        }
        for copy in range(copies)
    ]


def by_torch(made: dict[str, Tensor], batch: int, dtype: torch.dtype) -> Tensor:
    rows = made["kv_buffer"][made["kv_indices"].long()].view(batch, -1, KEY_DIM).to(dtype)
    scores = (made["q"].to(dtype) @ rows.transpose(1, 2)).float() * KEY_DIM**-0.5
    return (scores.softmax(-1).to(dtype) @ rows[..., :VALUE_DIM]).bfloat16()


def contenders(made: list[dict[str, Tensor]], batch: int, page: int, splits: int | None) -> dict[str, Contender]:
    def ours(copy: int) -> None:
        given = made[copy]
        mla_decode_fwd(
            *(given[name] for name in ("q", "kv_buffer", "o", *_PAGES)), 1, page_size=page, num_kv_splits=splits
        )

    def arguments(given: dict[str, Tensor]) -> tuple[Any, ...]:
        named = {name: given[name] for name in ("q", "kv_buffer", "o", *_PAGES)}
        call = mla._Call(**named, max_seqlen_q=1, page_size=page, num_kv_splits=splits)
        return tuple(getattr(call, name) for name in mla._FIELDS)

    every = [arguments(given) for given in made]
    prepared = mla._prepare(*every[0])
    return {
        "floor": read_floor([given["kv_buffer"].view(-1, KEY_DIM) for given in made]),
        "kernels": lambda copy: prepared(*every[copy]),
        "ours": ours,
        "torch, float32": lambda copy: by_torch(made[copy], batch, torch.float32),
        "torch, bf16": lambda copy: by_torch(made[copy], batch, torch.bfloat16),
    }


def measure(args: argparse.Namespace, context: int) -> dict[str, Any]:
    size = 2 * args.batch * context * KEY_DIM
    copies = copies_for(torch.device("cpu"), size)
    made = operands(args.heads, args.batch, context, args.page, copies)
    named = contenders(made, args.batch, args.page, args.splits)
    named["ours"](0)
    exact = reference.decode(made[0]["q"], made[0]["kv_buffer"], *(made[0][name] for name in _PAGES)).out
    error = float((made[0]["o"].double() - exact).norm() / exact.norm())
    if not error < _MOST_ERROR:
        raise SystemExit(f"context {context}: a relative error of {error}")
    if args.only:
        named = {name: named[name] for name in args.only.split("+")}
    timings = compare(named, copies, torch.device("cpu"), args.samples)
    medians = {name: timing.median * 1e6 for name, timing in timings.items()}
    least = {name: timing.least * 1e6 for name, timing in timings.items()}
    shown = ", ".join(f"{name} {medians[name]:.0f} ({least[name]:.0f})" for name in timings)
    said = "".join(
        f"; {other} / {name} {medians[other] / medians[name]:.2f} ({least[other] / least[name]:.2f})"
        for name in ("kernels", "ours")
        for other in timings
        if name in timings and other not in ("kernels", "ours")
    )
    print(f"context {context}, {size * 1e-6:.1f} MB; us, median (least): {shown}{said}", file=sys.stderr)
    return {"context": context, "bytes": size, "microseconds": medians, "least": least, "error": error}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_samples(parser, 61)
    parser.add_argument("--context", type=options.counts, default=[4096])
    parser.add_argument("--batch", type=options.count, default=1)
    parser.add_argument("--heads", type=options.count, default=16)
    parser.add_argument("--page", type=options.count, default=64)
    parser.add_argument("--splits", type=options.count, help="num_kv_splits; else the call chooses")
    parser.add_argument("--only", help="contenders with + between them")
    options.add_output(parser)
    args = parser.parse_args()
    with torch.no_grad():
        rows = [measure(args, context) for context in args.context]
    given = {name: getattr(args, name) for name in ("batch", "heads", "page", "splits")}
    threads = torch.get_num_threads()
    data = {"torch": torch.__version__, "persona": asdict(host_persona()), "threads": threads, **given, "rows": rows}
    options.write_output(data, args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
