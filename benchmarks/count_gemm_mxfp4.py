"""What `gemm_afp4wfp4` and `gemm_a16wfp4` of shuffled operands do on gfx942 and gfx950, counted by the emulator;
no time is measured.

Rows of weights are cut to 256, and workgroups with them; the plan is that of the whole problem. Beside each count is
the least that the shape allows. Prints a Markdown table, with all sanitizers on:

    python benchmarks/count_gemm_mxfp4.py

Beside upstream's objects for the same call of `gemm_a4w4`, of all workgroups; these are `hsa/gfx950/f4gemm/*.co` of
github.com/ROCm/aiter, not part of this package. And estimates of calls beside the times that AMD published:

    python benchmarks/count_gemm_mxfp4.py --objects path/to/aiter/hsa [--shapes 2112,7168 ...] [--tokens 1 4 ...]
    python benchmarks/count_gemm_mxfp4.py --estimate [--objects path/to/aiter/hsa]
"""

from __future__ import annotations

import argparse
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import counting
import torch
from torch import Tensor

from aiterlite import dispatch, envs
from aiterlite.benchmark import options
from aiterlite.dispatch import Decision
from aiterlite.emulator import Device
from aiterlite.emulator.calibration import LABEL
from aiterlite.emulator.estimate import estimate
from aiterlite.ops.shuffle import shuffle_scale, shuffle_weight
from aiterlite.reference import gemm_mxfp4 as reference
from aiterlite.reference import mxfp4
from aiterlite.tables import gemm_mxfp4 as tables
from aiterlite.tables.gemm_mxfp4_problem import MxGemmProblem
from aiterlite.target import Persona, resolve
from aiterlite.wishes import wishes

CHIPS, TOKENS, SHAPES, ROWS = ("mi300x", "mi355x"), (1, 16, 64), ((2112, 7168), (7168, 16384)), 256
# A product of 16 x 16 x 128 takes so many cycles of the matrix unit: of codes on gfx950; of bf16 on both.
MATRIX_CYCLES = {("gfx950", "fp4"): 16, ("gfx950", "bf16"): 64, ("gfx942", "fp4"): 128, ("gfx942", "bf16"): 128}
# Beside upstream's, whole workgroups of both.
BESIDE_TOKENS, BESIDE_CHIP, BESIDE_ROWS = (1, 4, 16, 64), "mi355x", 768
BESIDE_SHAPES = ((2112, 7168), (2048, 7168), (7168, 2048), (24576, 1536), (7168, 16384))
# Microseconds that upstream's tuned tables publish, of 1, 4 and 16 tokens where they have them.
PUBLISHED = {(7168, 16384): (24.89, 25.26, 26.49), (2112, 7168): (12.36,), (2048, 7168): (12.30, 12.60, 13.27)}
# The tile of tokens and features that they take of these; of the others, and of what has no row, the first one.
TILE, TILES = (32, 128), {(7168, 2048, 1): (64, 128), (7168, 2048, 4): (96, 128), (24576, 1536, 64): (64, 128)}
HEAD = (
    "chip",
    "x",
    "M, K",
    "N",
    "rows, splits",
    "weights read / once",
    "tokens read / once",
    "workspace",
    "all bytes / least",
    "matrix cycles / least",
    "issue cycles",
    "instructions",
    "VGPRs + AGPRs",
    "scratch",
)
BESIDE = (
    *("M, K", "N", "ours", "matrix cycles", "issue cycles", "bytes", "of these workspace", "VGPRs + AGPRs"),
    *("theirs", "VGPRs + AGPRs of theirs", "findings, ours / theirs"),
)
Counters = counting.Counters


@dataclass(frozen=True)
class Call:
    """n tokens of a kind by m features of K; the scales of packed tokens in rows, or shuffled."""

    kind: str
    m: int
    k: int
    n: int
    x_scale_shuffled: bool = False

    def problem(self, **more: Any) -> MxGemmProblem:
        lays = {"shuffled": True, "w_scale": "shuffled", "x_scale_shuffled": self.x_scale_shuffled}
        return MxGemmProblem(self.n, self.m, self.k, self.kind, **lays, **more)

    def decide(self, persona: Persona) -> Decision:
        return dispatch.decide(tables.TABLE, self.problem(), persona, wishes())


class Operands:
    """Random ones of a call, with as many rows of weights as are wanted."""

    def __init__(self, call: Call, rows: int) -> None:
        n, k, packed = call.n, call.k, call.kind == "fp4"
        random = torch.Generator().manual_seed(0)

        def codes(*shape: int, low: int = 0, high: int = 256) -> Tensor:
            return torch.randint(low, high, shape, generator=random, dtype=torch.uint8)

        self.w, self.w_scale = codes(rows, k // 2), codes(rows, k // 32, low=115, high=123)
        self.x = codes(n, k // 2) if packed else torch.randn(n, k, generator=random).bfloat16()
        self.x_scale = codes(n, k // 32, low=120, high=128) if packed else None
        numbers = self.x if self.x_scale is None else mxfp4.dequantise(self.x, self.x_scale)
        self.exact, self.magnitude = reference.product(numbers, mxfp4.dequantise(self.w, self.w_scale))
        self.y = torch.full((n, rows), float("nan"), dtype=torch.bfloat16)
        tiles = shuffle_scale(self.w_scale)
        assert tiles is not None
        self.shuffled, self.tiles = shuffle_weight(self.w), tiles
        self.x_tiles = self.x_scale
        if call.x_scale_shuffled and self.x_scale is not None:
            self.x_tiles = shuffle_scale(self.x_scale)

    def by_name(self) -> dict[str, Tensor | None]:
        names = ("x", "w", "bias", "y", "x_scale", "w_scale")
        return dict(zip(names, (self.x, self.shuffled, None, self.y, self.x_tiles, self.tiles), strict=True))

    def sizes(self, call: Call) -> dict[str, int | float]:
        sizes: dict[str, int | float] = {f"stride_{name}_batch": 0 for name in self.by_name() if name != "bias"}
        sizes |= {"stride_x": self.x.shape[1], "stride_w": call.k // 2, "stride_y": self.y.shape[1], "stride_bias": 0}
        sizes |= {"stride_w_scale": 32 * self.tiles.shape[1], "stride_w_scale_block": 0, "bias_is_float": 0}
        row = 0 if self.x_tiles is None else self.x_tiles.shape[1] * (32 if call.x_scale_shuffled else 1)
        sizes |= {"stride_x_scale": row, "stride_x_scale_block": 1, "alpha": 1.0, "beta": 0.0, "reserved": 0}
        return sizes

    def check(self) -> None:
        counting.check(self.y, self.exact, reference.error_bound(self.exact, self.magnitude, self.y.dtype))

    @property
    def least(self) -> int:
        return sum(t.nbytes for t in (self.x, self.w, self.x_scale, self.w_scale, self.y) if t is not None)


def ours(call: Call, part: Decision, made: Operands, sanitize: bool = True) -> Counters:
    made.y.fill_(float("nan"))
    counters: Counters = counting.run(part, made.by_name(), made.sizes(call), sanitize)
    made.check()
    return counters


def theirs(call: Call, made: Operands, objects: Path, **options: Any) -> tuple[Any, tuple[int, int]]:
    """The report of upstream's kernel, and its tile: 24 slots of 16 bytes, one for each argument."""
    tokens, features = tile = TILES.get((call.m, call.k, call.n), TILE)
    name = f"f4gemm_bf16_per1x32Fp4_BpreShuffle_{tokens}x{features}.co"
    module = Device(BESIDE_CHIP).load(objects / "gfx950" / "f4gemm" / name)
    (symbol,) = module.kernels
    rows, x_tiles = made.y.shape[1], made.x_tiles
    assert x_tiles is not None
    # A, B and strides count elements; B's rows are features.
    slots: list[Tensor | int | float] = [made.y, 0, made.x, made.shuffled, 1.0, 0.0, rows, 0, rows, 0, call.k, 0]
    slots += [call.k, 0, call.n, rows, call.k, x_tiles, made.tiles, x_tiles.stride(0), 0, made.tiles.stride(0), 0, 0]
    packed = b"".join(_slot(value) for value in slots)
    packed = packed.ljust(module.kernels[symbol].kernarg_bytes, b"\0")[: module.kernels[symbol].kernarg_bytes]
    made.y.fill_(float("nan"))
    grid = (-(-rows // features), -(-call.n // tokens), 1)
    tensors = [value for value in slots if isinstance(value, Tensor)]
    report = module.launch(symbol, grid, 256, packed, extra=tensors, **options)
    made.check()
    return report, tile


def _slot(value: Tensor | int | float) -> bytes:
    if isinstance(value, Tensor):
        return struct.pack("<QQ", value.data_ptr(), 0)
    return struct.pack("<f12x" if isinstance(value, float) else "<I12x", value)


def row(persona: Persona, call: Call) -> list[Any]:
    made, whole = Operands(call, ROWS), call.decide(persona)
    seen = ours(call, counting.part_of(whole, ROWS), made)
    main, arguments = seen[0], seen[0]["arguments"]
    matrix = ROWS // 16 * -(-call.n // 16) * -(-call.k // 128) * MATRIX_CYCLES[persona.target, call.kind]
    return [
        persona.chip,
        call.kind,
        f"{call.m}, {call.k}",
        call.n,
        f"{whole.plan.rows}, {whole.plan.splits}",
        f"{arguments['w']['read'] / made.w.nbytes:.3f}",
        f"{arguments['x']['read'] / made.x.nbytes:.2f}",
        f"{counting.moved(seen, 'workspace'):,}",
        f"{counting.moved(seen) / made.least:.3f}",
        f"{main['matrix_cycles']:,} / {matrix:,}",
        f"{counting.total(seen, 'issue_cycles', 'total'):,}",
        f"{counting.total(seen, 'instructions', 'total'):,}",
        counting.registers(main),
        main["instructions"]["scratch"],
    ]


def beside(call: Call, objects: Path) -> list[Any]:
    """Ours over theirs, of all workgroups; those of some rows are counted."""
    made, whole = Operands(call, BESIDE_ROWS), call.decide(resolve(BESIDE_CHIP))
    part = counting.part_of(whole, BESIDE_ROWS)
    seen, by = ours(call, part, made), counting.shares(whole, part)
    report, tile = theirs(call, made, objects, counters=True)
    found, _ = theirs(call, made, objects, sanitize=True)
    share = [-(-call.m // tile[1]) / -(-BESIDE_ROWS // tile[1])]

    def ratio(*paths: tuple[str, ...]) -> str:
        mine = sum(counting.total(seen, *path, by=by) for path in paths)
        other = sum(counting.total([report.counters], *path, by=share) for path in paths)
        return f"{mine:,} / {other:,} = {mine / other:.3f}"

    traffic = [("bytes", kind, way) for kind in ("global", "scalar") for way in ("read", "written")]
    plan = whole.plan
    return [
        f"{call.m}, {call.k}",
        call.n,
        f"{'assembly' if whole.row and whole.row.backend == 'asm' else 'HIP'}, {plan.tokens} x {plan.rows}, "
        f"{plan.splits} splits, {counting.waves(seen[0])} waves",
        ratio(("matrix_cycles",)),
        ratio(("issue_cycles", "total")),
        ratio(*traffic),
        f"{counting.moved(seen[:1], 'workspace') * by[0] + counting.moved(seen[1:], 'workspace') * by[-1]:,.0f}",
        counting.registers(seen[0]),
        "{} x {}".format(*tile),
        counting.registers(report.counters),
        f"0 / {len(found.findings)}",
    ]


def estimated(call: Call, objects: Path | None) -> list[Any]:
    """Of all launches of the call, none of which is cut, so that what comes from memory is known."""
    persona, made = resolve(BESIDE_CHIP), Operands(call, call.m)
    whole = call.decide(persona)
    mine = estimate(ours(call, whole, made, sanitize=False), persona)
    cells = [f"{call.m}, {call.k}", call.n, f"{whole.plan.rows}, {whole.plan.splits}", f"{mine.us:.1f}"]
    cells += [f"{mine.low:.1f} to {mine.high:.1f}", mine.limit]
    if objects is not None:
        report, _ = theirs(call, made, objects, counters=True)
        cells.append(f"{estimate([report.counters], persona).us:.1f}")
    times = PUBLISHED[call.m, call.k]
    published = times[min(BESIDE_TOKENS.index(call.n), len(times) - 1)]
    return [*cells, published, f"{mine.us / published:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=Path, help="aiter's folder hsa")
    parser.add_argument("--estimate", action="store_true", help="estimates beside published times of one token")
    parser.add_argument("--prefer", choices=("hip", "asm"), help="of ours, instead of what the table says")
    parser.add_argument(
        "--shapes", nargs="+", type=options.pair("M,K"), metavar="M,K", help="with --objects or --estimate"
    )
    parser.add_argument("--tokens", nargs="+", type=int, help="not of the first table")
    given = parser.parse_args()
    with envs.override(AITERLITE_PREFER=given.prefer):
        if given.estimate:
            print(f"{LABEL}\n")
            known = ("theirs, estimated us",) if given.objects else ()
            names = (
                "M, K",
                "N",
                "rows, splits",
                "estimate us",
                "80 %",
                "limited by",
                *known,
                "published us",
            )
            counting.head((*names, "estimate / published"))
            for m, k in given.shapes or PUBLISHED:
                for n in given.tokens or BESIDE_TOKENS[:3]:
                    counting.line(estimated(Call("fp4", m, k, n, True), given.objects))
        elif given.objects:
            counting.head(BESIDE)
            for m, k in given.shapes or BESIDE_SHAPES:
                for n in given.tokens or BESIDE_TOKENS:
                    counting.line(beside(Call("fp4", m, k, n, True), given.objects))
        else:
            counting.head(HEAD)
            for chip in CHIPS:
                for kind in ("fp4", "bf16"):
                    for m, k in SHAPES:
                        for n in TOKENS:
                            counting.line(row(resolve(chip), Call(kind, m, k, n)))


if __name__ == "__main__":
    main()
