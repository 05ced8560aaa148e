"""What MLA decode of AMD spends for each token of KV, compiled and in assembly, beside aiter's own objects for the same
call, counted by the emulator while it executes them; no time is measured, and no AMD GPU is involved.

aiter's objects are not part of this package. They are `hsa/<target>/mla/*.co` of github.com/ROCm/aiter:

    python benchmarks/count_mla.py path/to/aiter/hsa
    python benchmarks/count_mla.py path/to/aiter/hsa --heads 64 --context 512 --targets gfx942
"""

from __future__ import annotations

import argparse
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aiterlite import envs
from aiterlite.emulator import Device, watching
from aiterlite.mla import mla_decode_fwd
from aiterlite.reference import mla as reference
from aiterlite.tables import mla_heads
from aiterlite.target import resolve

CHIPS = {"gfx942": "mi300x", "gfx950": "mi355x"}
FP8 = {"gfx942": torch.float8_e4m3fnuz, "gfx950": torch.float8_e4m3fn}
STAMP = 0x4D4C0000
# What it takes for a call without a plan, which is cut into equal splits.
UNPLANNED = {
    ("gfx942", 2, 16): "mla_dec_stage1_bf16_a16w16_subQ16_mqa16",
    ("gfx942", 1, 16): "mla_a8w8_qh16_qseqlen1_gqaratio16",
}
UNPLANNED |= {("gfx950", *key[1:]): name for key, name in UNPLANNED.items()}
# By target, bytes of an element and heads, what aiter takes for a planned call of one token.
PLANNED = {
    ("gfx942", 2, 16): "mla_a16w16_qh16_m16x4_n16x1_coex0_mask1_ps",
    ("gfx942", 1, 16): "mla_a8w8_qh16_qseqlen1_gqaratio16_ps",
    ("gfx942", 1, 64): "mla_a8w8_qh64_qseqlen1_gqaratio64_v3_ps",
    ("gfx950", 2, 16): "mla_a16w16_qh64_qseqlen1_gqaratio64_v3_ps",
    ("gfx950", 1, 16): "mla_a8w8_qh16_qseqlen1_gqaratio16_ps",
}


@dataclass
class Call:
    """A call of one token a request: planned, a piece for each request and fold, unsplit; or cut into `splits`."""

    target: str
    element_bytes: int
    heads: int
    batch: int
    context: int
    page_size: int
    splits: int = 0

    def __post_init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        dtype = torch.bfloat16 if self.element_bytes == 2 else FP8[self.target]
        pages = -(-self.context // self.page_size)
        used = self.batch * pages
        name = "bf16" if self.element_bytes == 2 else "fp8"
        self.fold = 1 if self.splits else mla_heads.fold(self.target, self.heads, name, name, 1).fold

        def ints(*values: Any) -> Tensor:
            return torch.tensor(values, dtype=torch.int32)

        self.q = torch.randn(self.batch, self.heads, 576, generator=random).to(dtype)
        self.kv = torch.randn(used, self.page_size, 1, 576, generator=random).to(dtype)
        self.qo_indptr = torch.arange(self.batch + 1, dtype=torch.int32)
        self.kv_indptr = torch.arange(self.batch + 1, dtype=torch.int32) * pages
        self.kv_indices = torch.randperm(used, generator=random).int()
        self.last = torch.full((self.batch,), (self.context - 1) % self.page_size + 1, dtype=torch.int32)
        self.q_scale, self.kv_scale = torch.ones(1), torch.ones(1)
        rows = [
            (piece, -1, piece, piece + 1, request * pages, (request + 1) * pages, 0, STAMP | self.fold)
            for request in range(self.batch)
            for piece in range(request * self.fold, (request + 1) * self.fold)
        ]
        self.work_info = ints(*rows)
        self.work_indptr = torch.arange(len(rows) + 1, dtype=torch.int32)
        self.out = torch.zeros(self.batch, self.heads, 512, dtype=torch.bfloat16)

    @property
    def tokens(self) -> int:
        return self.batch * self.context

    @property
    def kv_bytes(self) -> int:
        """Read once for each workgroup that needs it: one of a fold."""
        return self.tokens * 576 * self.element_bytes * self.fold

    def scales(self) -> dict[str, Tensor | None]:
        return {"q_scale": self.q_scale, "kv_scale": self.kv_scale} if self.element_bytes == 1 else {}

    def exact(self) -> Tensor:
        pages = (self.qo_indptr, self.kv_indptr, self.kv_indices, self.last)
        return reference.decode(self.q, self.kv, *pages, **self.scales()).out


def ours(call: Call, prefer: str | None, **options: Any) -> tuple[Mapping[str, Any], list[Any]]:
    """The counters of the decode kernel, and the findings."""
    ints = {"dtype": torch.int32}
    plan: dict[str, Any] = {
        "work_meta_data": torch.zeros(2, dtype=torch.uint64),
        "work_indptr": call.work_indptr,
        "work_info_set": call.work_info,
        "reduce_indptr": torch.zeros(call.batch * call.fold + 1, **ints),
        "reduce_final_map": torch.zeros(call.batch * call.fold, 2, **ints),
        "reduce_partial_map": torch.zeros(1, **ints),
    }
    pages = (call.qo_indptr, call.kv_indptr, call.kv_indices, call.last)
    if call.splits:
        plan = {"num_kv_splits": call.splits}
    call.out.zero_()
    with envs.override(AITERLITE_TARGET=CHIPS[call.target], AITERLITE_PREFER=prefer), watching(**options) as seen:
        mla_decode_fwd(
            *(call.q, call.kv, call.out, *pages, 1), page_size=call.page_size, return_lse=True, **call.scales(), **plan
        )
    counted = [item for item in seen.counters if "decode" in item["kernel"]]
    return (counted[0] if counted else {}), [item for item in seen.findings if "decode" in item.kernel]


def theirs(call: Call, objects: Path, **options: Any) -> tuple[Mapping[str, Any], list[Any]]:
    """aiter's kernel: a slot of 16 bytes for each argument."""
    name = (UNPLANNED if call.splits else PLANNED)[call.target, call.element_bytes, call.heads]
    module = Device(CHIPS[call.target]).load(objects / call.target / "mla" / f"{name}.co")
    (symbol,) = module.kernels
    meta = torch.tensor([call.work_indptr.data_ptr(), call.work_info.data_ptr(), *[0] * 8], dtype=torch.int64)
    parts = (call.batch, call.splits) if call.splits else (4,)
    partial, partial_lse = torch.zeros(*parts, call.heads, 512), torch.zeros(*parts, call.heads)
    if call.splits:
        meta = torch.arange(call.batch + 1, dtype=torch.int32) * call.splits
    lse = torch.zeros(call.batch, call.heads)
    call.out.zero_()
    size = call.element_bytes
    slots: list[Tensor | int | float] = [partial, partial_lse, call.q, call.kv, call.kv_indptr, call.kv_indices]
    slots += [call.last, 576**-0.5, call.heads, call.splits or 1, call.heads * 576 * size, 576 * size * call.page_size]
    slots += [call.page_size.bit_length() - 1, call.qo_indptr, meta, 0 if call.splits else call.out]
    slots += [call.q_scale, call.kv_scale] if size == 1 else [0, 0]
    slots += [0 if call.splits else 1, 0, 0, 1, 0]
    packed = b"".join(_slot(value) for value in slots)
    packed = packed.ljust(module.kernels[symbol].kernarg_bytes, b"\0")[: module.kernels[symbol].kernarg_bytes]
    touched = [value for value in (*slots, lse, call.work_info, call.work_indptr) if isinstance(value, Tensor)]
    grid = (1, call.batch, call.splits) if call.splits else len(call.work_info)
    report = module.launch(symbol, grid, 256, packed, extra=touched, **options)
    if call.splits:
        merged, _ = reference.merge(partial.transpose(0, 1), partial_lse.transpose(0, 1))
        call.out.copy_(merged)
    return report.counters or {}, list(report.findings)


def _slot(value: Tensor | int | float) -> bytes:
    if isinstance(value, Tensor):
        return struct.pack("<QQ", value.data_ptr(), 0)
    return struct.pack("<f12x" if isinstance(value, float) else "<I12x", value)


def measures(counted: Mapping[str, Any], call: Call) -> dict[str, float]:
    read = counted["bytes"]["global"]["read"] + counted["bytes"]["scalar"]["read"]
    cycles = counted["issue_cycles"]
    each = {
        "matrix cycles": counted["matrix_cycles"],
        "VALU cycles": cycles["valu"],
        "issue cycles": cycles["total"],
        "LDS cycles": counted["lds"]["cycles"],
        "of these conflicts": counted["lds"]["conflict_cycles"],
        "bytes read": read,
    }
    return {name: value / call.tokens for name, value in each.items()} | {"read over KV": read / call.kv_bytes}


def report(call: Call, objects: Path | None) -> None:
    exact, rows = call.exact(), {}
    runs: dict[str, Any] = {"compiled": (ours, "hip"), "assembly": (ours, None)}
    if call.element_bytes == 1 and call.heads <= 16:
        runs["assembly, weights of one number"] = (ours, "asm")
    known = UNPLANNED if call.splits else PLANNED
    if objects is not None and (call.target, call.element_bytes, call.heads) in known:
        runs["aiter"] = (theirs, objects)
    for name, (run, given) in runs.items():
        counted, _ = run(call, given, sanitize=False, counters=True)
        apart = float((call.out.double() - exact).norm() / exact.norm())
        _, findings = run(call, given, sanitize=True)
        rows[name] = {**measures(counted, call), "error": apart, "findings": float(len(findings))}
    kind = "bf16" if call.element_bytes == 2 else "fp8"
    print(
        f"\n{call.target}, {kind}, {call.heads} heads, {call.batch} x {call.context}, pages of {call.page_size}, "
        f"{f'{call.splits} splits' if call.splits else 'planned'}\n"
    )
    for label in [name for name in rows if name.startswith("assembly") and "aiter" in rows]:
        rows[f"{label} / aiter"] = {
            key: rows[label][key] / value if value else float("nan") for key, value in rows["aiter"].items()
        }
    names = list(rows["compiled"])
    print(f"| for each token | {' | '.join(names)} |\n|{' --- |' * (len(names) + 1)}")
    for label, row in rows.items():
        print(f"| {label} | {' | '.join(f'{row[name]:.4g}' for name in names)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("objects", type=Path, nargs="?", help="aiter's folder hsa")
    for name, value in (("heads", 16), ("batch", 2), ("context", 1024), ("page-size", 1), ("splits", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--targets", default=",".join(CHIPS))
    parser.add_argument("--bytes", type=int, choices=(1, 2))
    given = parser.parse_args()
    for target in given.targets.split(","):
        for element_bytes in (given.bytes,) if given.bytes else (2, 1):
            resolve(target)
            sizes = (given.heads, given.batch, given.context, given.page_size, given.splits)
            report(Call(target, element_bytes, *sizes), given.objects)


if __name__ == "__main__":
    main()
