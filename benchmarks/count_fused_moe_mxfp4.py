"""What experts with MXFP4 weights and activations spend on gfx950 beside aiter's own object for the same
call, counted by the emulator while it executes both; no time is measured, and no AMD GPU is involved.

Ours are the two stages, and the sum over slots where it is a kernel of its own; aiter's is one kernel that adds results
as bf16. Neither the sorting nor the quantisation of hidden states is counted. aiter's objects are not part of this
package; they are
`hsa/gfx950/fmoe/silu/*.co` of github.com/ROCm/aiter:

    python benchmarks/count_fused_moe_mxfp4.py path/to/aiter/hsa [--tokens 4 16] [--inter 512] [--experts 8] [--topk 8]
"""

from __future__ import annotations

import argparse
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import counting
import torch
from torch import Tensor

from aiterlite import envs
from aiterlite.emulator import Device, Report, watching
from aiterlite.mxfp4 import mxfp4_moe_sort_fwd
from aiterlite.ops import fused_moe as ops
from aiterlite.ops.samples import fused_moe as samples
from aiterlite.reference import fused_moe as reference
from aiterlite.reference import moe_sorting, mxfp4
from aiterlite.tables import fused_moe as tables
from aiterlite.tables.fused_moe_problem import MoeProblem
from aiterlite.tables.quant_types import ActivationType, QuantType

CHIP, BLOCK = "mi355x", 32
# Up to so many tokens the table takes the row that does not sort; the other one is counted too.
FEW_TOKENS = 4
# By the width of a layer, an object that divides it, and columns of h that a workgroup of it makes.
OBJECTS = {
    256: ("fmoe_bf16_pertokenMXfp4_g1u1_novs_silu_2tg_32x256", 256),
    512: ("fmoe_bf16_pertokenMXfp4_g1u1_novs_silu_1tg_32x512", 512),
    1024: ("fmoe_bf16_pertokenMXfp4_g1u1_novs_silu_1tg_32x512", 512),
}
HEAD = (
    *("ours", "tokens, experts, topk", "D, I", "matrix cycles, ours / theirs", "issue cycles", "instructions", "bytes"),
    *("registers", "of theirs", "error, ours / theirs", "findings, ours / theirs"),
)
TRAFFIC = [("bytes", kind, way) for kind in ("global", "scalar") for way in ("read", "written")]


def ours(problem: MoeProblem, made: samples.Operands, row: str, **options: Any) -> tuple[Tensor, Any]:
    """The result, and what was seen of its launches, by a row of the table."""
    out = torch.full((problem.tokens, problem.width), float("nan"), dtype=torch.bfloat16)
    only = replace(tables.TABLE, rows=tuple(one for one in tables.TABLE.rows if one.name == row))
    fresh = mock.patch.object(tables, "TABLE", only), mock.patch.object(ops.OPERATOR.prepared, "find", lambda _: None)
    with envs.override(AITERLITE_TARGET=CHIP), fresh[0], fresh[1], watching(**options) as seen:
        ops.OPERATOR(
            *(made.x, made.w1, made.w2, made.routing, made.ids, out, None, None),
            *(made.w1_scale, made.w2_scale, made.x_scale, ActivationType.Silu, QuantType.per_1x32, False),
            *("separated", True, None, None, None, True, problem.precision),
        )
    return out, seen


def theirs(problem: MoeProblem, made: samples.Operands, objects: Path, **options: Any) -> tuple[Tensor, Report]:
    """aiter's kernel: a slot of 16 bytes for each argument; the smooth-quantisation operand is not there."""
    tokens, experts, width, inter = problem.tokens, problem.experts, problem.width, problem.inter
    name, columns = OBJECTS[inter]
    module = Device(CHIP).load(objects / "gfx950" / "fmoe" / "silu" / f"{name}.co")
    (symbol,) = module.kernels
    order = moe_sorting.moe_sorting(made.ids.tolist(), made.routing.tolist(), experts, BLOCK)
    ids = torch.tensor(order.sorted_ids, dtype=torch.int32)
    valid = torch.tensor(order.num_valid_ids, dtype=torch.int32)
    weights, blocks = torch.tensor(order.sorted_weights), torch.tensor(order.sorted_expert_ids, dtype=torch.int32)
    assert made.w1_scale is not None and made.w2_scale is not None
    codes, plain = mxfp4.quantise(made.x)
    x_scale = mxfp4_moe_sort_fwd(plain, ids, valid, tokens, width)
    out = torch.zeros(tokens, width, dtype=torch.bfloat16)
    pointers = [out, codes, made.w1, valid, made.w2, x_scale, made.w1_scale, made.w2_scale, None, ids, weights, blocks]
    numbers = [width, inter, tokens, experts, width // 2, width // 2, inter // 2, 2 * width, width * inter]
    numbers += [width * inter // 2, 2 * inter * width // 32, inter * width // 32, 4 * inter, problem.topk]
    numbers += [0, inter // columns]
    packed = b"".join(struct.pack("<QQ", 0 if t is None else t.data_ptr(), 0) for t in pointers)
    packed += b"".join(struct.pack("<4I", number, 0, 0, 0) for number in numbers)
    packed = packed.ljust(module.kernels[symbol].kernarg_bytes, b"\0")
    held = [t for t in pointers if t is not None]
    grid = (inter // columns, len(order.sorted_expert_ids), 1)
    return out, module.launch(symbol, grid, 256, packed, extra=held, **options)


def row(problem: MoeProblem, name: str, objects: Path) -> list[Any]:
    # Each token names experts in turn, so that all have as many.
    ids = [[(token + slot) % problem.experts for slot in range(problem.topk)] for token in range(problem.tokens)]
    made = samples.make(problem, 0, torch.tensor(ids, dtype=torch.int32))
    layer = reference.fused_moe(
        *(made.x, made.weights, made.ids, made.routing, samples.activation_of(problem)),
        *(made.x_scale, made.mask, None, False, reference.MXFP4),
    )
    got, seen = ours(problem, made, name, sanitize=True, counters=True)
    other, report = theirs(problem, made, objects, counters=True)
    _, watched = theirs(problem, made, objects, sanitize=True)
    stages = [one for one in seen.counters if "stage" in one["kernel"] or "sum" in one["kernel"]]
    assert len(stages) in (2, 3), [one["kernel"] for one in seen.counters]

    def ratio(*paths: tuple[str, ...]) -> str:
        a = sum(counting.total(stages, *path) for path in paths)
        b = sum(counting.total([report.counters], *path) for path in paths)
        return f"{a:,} / {b:,} = {a / b:.3f}"

    errors = [reference.relative_error(result, layer.out) for result in (got, other)]
    return [
        name,
        f"{problem.tokens}, {problem.experts}, {problem.topk}",
        f"{problem.width}, {problem.inter}",
        ratio(("matrix_cycles",)),
        ratio(("issue_cycles", "total")),
        ratio(("instructions", "total")),
        ratio(*TRAFFIC),
        ", ".join(map(counting.registers, stages[:2])),
        counting.registers(report.counters),
        " / ".join(f"{error:.4f}" for error in errors),
        f"{len(seen.findings)} / {len(watched.findings)}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("objects", type=Path, help="aiter's folder hsa")
    parser.add_argument("--tokens", nargs="+", type=int, default=(1, 4, 8, 16, 32, 64))
    parser.add_argument("--inter", nargs="+", type=int, choices=tuple(OBJECTS), default=tuple(OBJECTS))
    for name, value in (("experts", 8), ("topk", 8), ("width", 7168)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    counting.head(HEAD)
    for inter in given.inter:
        for tokens in given.tokens:
            sizes = {"experts": given.experts, "topk": given.topk, "width": given.width, "inter": inter}
            sizes |= {"global_experts": given.experts}
            how = {"quant": "mxfp4", "code": "e2m1", "precision": "a4w4", "shuffled": True}
            problem = MoeProblem(tokens=tokens, **sizes, **how)
            for name in ("mxfp4_few", "mxfp4")[0 if tokens <= FEW_TOKENS else 1 :]:
                counting.line(row(problem, name, given.objects))


if __name__ == "__main__":
    main()
