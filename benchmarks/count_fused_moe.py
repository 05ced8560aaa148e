"""What the assembly mixture of experts spends beside aiter's own object for the same call, counted by the emulator
while it executes both; no time is measured, and no AMD GPU is involved.

aiter's objects are not part of this package. They are `hsa/<target>/fmoe/silu/*.co` of github.com/ROCm/aiter:

    python benchmarks/count_fused_moe.py path/to/aiter/hsa
    python benchmarks/count_fused_moe.py path/to/aiter/hsa --tokens 32 --experts 8 --topk 2 --width 7168
"""

from __future__ import annotations

import argparse
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from aiterlite.emulator import Device, Report
from aiterlite.jit import engine
from aiterlite.ops.shuffle import shuffle_weight
from aiterlite.reference import moe_sorting
from aiterlite.tables.fused_moe_asm import KERNEL_OF, OneStagePlan

CHIPS = {"gfx942": ("mi300x", torch.float8_e4m3fnuz), "gfx950": ("mi355x", torch.float8_e4m3fn)}
BLOCK, COLUMNS = 32, 256
POINTERS = ("out", "x", "w1", "num_valid_ids", "w2", "x_scale", "w1_scale", "w2_scale")
SORTED = ("sorted_ids", "sorted_weights", "sorted_expert_ids")


@dataclass
class Call:
    tokens: int
    experts: int
    topk: int
    width: int
    inter: int
    operands: dict[str, torch.Tensor] = field(default_factory=dict)

    def make(self, code: torch.dtype) -> None:
        """Random operands; each token names experts in turn, so that all have as many."""
        torch.manual_seed(0)
        tokens, experts, width, inter = self.tokens, self.experts, self.width, self.inter
        ids = [[(token + slot) % experts for slot in range(self.topk)] for token in range(tokens)]
        order = moe_sorting.moe_sorting(ids, torch.rand(tokens, self.topk).tolist(), experts, BLOCK)

        def scales(*shape: int) -> torch.Tensor:
            return torch.rand(*shape) * 0.03 + 0.01

        self.operands = {
            "out": torch.zeros(tokens, width, dtype=torch.bfloat16),
            "x": (torch.randn(tokens, width) * 4).to(code),
            "w1": shuffle_weight((torch.randn(experts, 2 * inter, width) * 4).to(code)),
            "w2": shuffle_weight((torch.randn(experts, width, inter) * 4).to(code)),
            "x_scale": scales(width // 128, tokens),
            "w1_scale": scales(experts, 2 * inter // 128, width // 128),
            "w2_scale": scales(experts, width // 128, inter // 128),
            "sorted_ids": torch.tensor(order.sorted_ids, dtype=torch.int32),
            "sorted_weights": torch.tensor(order.sorted_weights),
            "sorted_expert_ids": torch.tensor(order.sorted_expert_ids, dtype=torch.int32),
            "num_valid_ids": torch.tensor(order.num_valid_ids, dtype=torch.int32),
        }

    @property
    def items(self) -> int:
        return len(self.operands["sorted_expert_ids"]) * self.inter // COLUMNS

    def arguments(self) -> dict[str, Any]:
        """This package's, by name."""
        absent = (
            *("topk_ids", "topk_weights", "expert_mask", "num_local_tokens"),
            *("local_topk_ids", "h", "h_scale", "slots", "bias1", "bias2"),
        )
        zeros = (
            *("stride_ids", "stride_weights", "global_experts", "id_words"),
            *("beta", "linear_beta", "limit", "w1_scales"),
        )
        sizes = {name: getattr(self, name) for name in ("tokens", "experts", "topk", "width", "inter")}
        strides = {"stride_x": self.width, "stride_out": self.width}
        strides |= {"stride_scale_token": 1, "stride_scale_group": self.tokens}
        more = {"block_size": BLOCK, "gate_step": 1, "up_offset": self.inter}
        more["sorted_entries"] = self.operands["sorted_ids"].numel()
        return {**dict.fromkeys(absent), **dict.fromkeys(zeros, 0), **self.operands, **sizes, **strides, **more}

    def kernarg(self, grid: int, size: int) -> bytes:
        """aiter's: a slot of 16 bytes each; the smooth-quantisation operand is not there."""
        width, inter, operands = self.width, self.inter, self.operands
        pointers = [operands[name].data_ptr() for name in POINTERS]
        pointers += [0, *(operands[name].data_ptr() for name in SORTED)]
        parts = inter // COLUMNS
        numbers = [width, inter, self.tokens, self.experts, width, width, inter, 2 * width, 2 * width * inter]
        numbers += [width * inter, 4 * operands["w1_scale"].stride(0), 4 * operands["w2_scale"].stride(0), 4 * inter]
        numbers += [self.topk, grid // parts * parts, parts]
        packed = b"".join(struct.pack("<QQ", pointer, 0) for pointer in pointers)
        return (packed + b"".join(struct.pack("<4I", number, 0, 0, 0) for number in numbers)).ljust(size, b"\0")


def ours(call: Call, target: str, vskip: bool, **options: Any) -> Report:
    plan = OneStagePlan("silu", "atomic", 1, vskip, False, 0, call.items)
    kernel = KERNEL_OF[vskip, "silu"]
    module = Device(CHIPS[target][0]).load(engine.obtain(kernel.device_unit(plan.variant, target)).entry.path)
    return module.launch(kernel.symbol, plan.grid, 256, call.arguments(), **options)


def theirs(call: Call, target: str, vskip: bool, objects: Path, **options: Any) -> Report:
    name = f"fmoe_bf16_blockscaleFp8_g1u1_{'vs' if vskip else 'novs'}_silu_1tg_ps_32x256.co"
    module = Device(CHIPS[target][0]).load(objects / target / "fmoe" / "silu" / name)
    (symbol,) = module.kernels
    packed = call.kernarg(call.items, module.kernels[symbol].kernarg_bytes)
    return module.launch(symbol, call.items, 256, packed, extra=list(call.operands.values()), **options)


def measures(report: Report) -> dict[str, int]:
    counted = report.counters
    return {
        "matrix cycles": counted["matrix_cycles"],
        "issue cycles": counted["issue_cycles"]["total"],
        "instructions": counted["instructions"]["total"],
        "bytes": sum(counted["bytes"][kind][way] for kind in ("global", "scalar") for way in ("read", "written")),
        "LDS cycles": counted["lds"]["cycles"],
    }


def row(call: Call, target: str, vskip: bool, objects: Path) -> list[Any]:
    results, counts, findings = [], [], []
    for run in (ours, theirs):
        call.operands["out"].zero_()
        given = {} if run is ours else {"objects": objects}
        report = run(call, target, vskip, counters=True, **given)
        results.append(call.operands["out"].double())
        counts.append(measures(report))
        watched = run(call, target, vskip, sanitize=True, **given)
        findings.append(len(watched.findings))
    apart = float((results[0] - results[1]).norm() / results[1].norm())
    cells = [f"{a:,} / {b:,} = {a / b:.3f}" for a, b in zip(counts[0].values(), counts[1].values(), strict=True)]
    return [target, "vs" if vskip else "novs", *cells, f"{apart:.1e}", f"{findings[0]} / {findings[1]}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("objects", type=Path, help="aiter's folder hsa")
    for name, value in (("tokens", 32), ("experts", 8), ("topk", 8), ("width", 7168), ("inter", 256)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    call = Call(given.tokens, given.experts, given.topk, given.width, given.inter)
    names = ("matrix cycles", "issue cycles", "instructions", "bytes", "LDS cycles")
    print(f"| target | kernel | {' | '.join(names)} | results apart | findings |\n|{' --- |' * 9}")
    for target, (_, code) in CHIPS.items():
        call.make(code)
        for vskip in (False, True):
            print(f"| {' | '.join(map(str, row(call, target, vskip, given.objects)))} |", flush=True)


if __name__ == "__main__":
    main()
