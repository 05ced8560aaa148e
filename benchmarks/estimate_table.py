"""This package's kernels on AMD chips, estimated, beside times that AMD published for the same call, as a table.

    python benchmarks/estimate_table.py --points FILE [--points FILE]... [--chips C,C]

Of `linear`, the GEMM of 8-bit floats with scales of blocks, the fused mixture of experts and MLA decode: what the
tables take runs in the emulator, and each row has the floor of its counters, the estimate with its interval, and the
least time that AMD published for such a call on that chip, by its own objects, its compiled kernels or its library.
Published times of the mixture of experts are of the fused kernel; ours are of all launches, sorting and quantisation
too. Nothing in the table was measured by this project.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from estimate_choices import decode, moe_call  # noqa: E402
from estimate_linear import read_times  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import envs, gemm  # noqa: E402
from aiterlite.benchmark import calibration as fitting  # noqa: E402
from aiterlite.emulator import watching  # noqa: E402
from aiterlite.emulator.calibration import LABEL  # noqa: E402
from aiterlite.emulator.estimate import estimate, floor_us  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

CHIPS = ("mi300x", "mi308x", "mi355x")
# n tokens, weights [m, k].
BF16 = ((1, 256, 7168), (1, 64, 4096), (16, 256, 6144), (64, 256, 6144), (16, 2112, 7168), (16, 8192, 7168))
FP8 = ((16, 128, 7168), (64, 128, 7168), (64, 4608, 7168), (208, 7168, 2048))
# Tokens, (experts, topk, width, inter).
MOE = ((2, (256, 8, 7168, 128)), (8, (256, 8, 7168, 128)), (32, (256, 8, 7168, 256)), (128, (256, 8, 7168, 256)))
# Heads, tokens of one request; bf16, pieces as the table takes them.
MLA = ((16, 4096), (16, 16384), (128, 4096))
Counters = Sequence[Mapping[str, Any]]


def watched(chip: str, call: Callable[[], Any]) -> Counters:
    with envs.override(AITERLITE_TARGET=chip), watching(sanitize=False, counters=True) as seen:
        call()
    return seen.counters


def linear(chip: str, n: int, m: int, k: int) -> Counters:
    x, w = (torch.zeros(rows, k, dtype=torch.bfloat16) for rows in (n, m))
    return watched(chip, lambda: aiterlite.linear(x, w))


def blockscale(chip: str, n: int, m: int, k: int) -> Counters:
    dtype = torch.float8_e4m3fnuz if resolve(chip).fp8 == "e4m3fnuz" else torch.float8_e4m3fn
    x, w = (torch.zeros(rows, k, dtype=torch.uint8).view(dtype) for rows in (n, m))
    x_scale, w_scale = torch.ones(n, k // 128), torch.ones(-(-m // 128), k // 128)
    return watched(chip, lambda: gemm.gemm_a8w8_blockscale(x, w, x_scale, w_scale))


def rows(chip: str, published: Mapping[tuple[Any, ...], float]) -> Iterator[tuple[str, Counters, float | None]]:
    for n, m, k in BF16:
        yield f"linear, bf16, {n} x [{m}, {k}]", linear(chip, n, m, k), published.get(("bf16", chip, n, m, k))
    for n, m, k in FP8:
        name = f"gemm_a8w8_blockscale, {n} x [{m}, {k}]"
        yield name, blockscale(chip, n, m, k), published.get(("fp8", chip, n, m, k))
    for tokens, layer in MOE:
        experts, topk, width, inter = layer
        name = f"fused_moe, fp8, {tokens} tokens, {topk} of {experts} experts, {width} x {inter}"
        counted = watched(chip, moe_call(chip, tokens, layer))
        yield name, counted, published.get(("fmoe", chip, tokens, inter, width, experts, topk))
    for heads, context in MLA:
        yield (
            f"mla_decode_fwd, bf16, {heads} heads, 1 x {context}",
            decode(chip, "bf16", heads, context, None, None),
            None,
        )


def published_times(files: Sequence[Path]) -> dict[tuple[Any, ...], float]:
    """The least published time of each call: of bf16 and fp8 GEMMs, and of mixtures of experts."""
    found: dict[tuple[Any, ...], float] = {("bf16", *shape): us for shape, us in read_times().items()}
    kinds = {"bf16gemm": "bf16", "opus_bf16": "bf16", "skinny": "bf16", "fp8gemm_blockscale": "fp8", "opus_fp8": "fp8"}
    for point in fitting.possible([point for file in files for point in fitting.read(file)]):
        kind = kinds.get(point.family, point.family)
        problem = point.problem if kind == "fmoe" else point.problem[:3]
        key = (kind, point.chip, *problem)
        found[key] = min(point.us, found.get(key, point.us))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=Path, action="append", help="CSV files of points (default: tests/data)")
    parser.add_argument("--chips", default=",".join(CHIPS))
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data = ROOT / "tests" / "data"
    published = published_times(asked.points or [data / "amd-points.csv", data / "amd-compiled-points.csv"])
    print(f"{LABEL}\n")
    print("| call | chip | floor us | estimate us | 80 % | class | limited by | published us |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    lines: list[tuple[str, str]] = []
    for chip in asked.chips.split(","):
        for name, counted, us in rows(chip, published):
            held, floor = estimate(counted, resolve(chip)), floor_us(counted, resolve(chip))[0]
            lines.append(
                (
                    name,
                    f"| {chip} | {floor:.1f} | {held.us:.1f} | {held.low:.1f} to {held.high:.1f} | {held.kind} | "
                    f"{held.limit} | {f'{us:.1f}' if us else 'none'} |",
                )
            )
    order = {name: place for place, name in enumerate(dict.fromkeys(name for name, _ in lines))}
    for name, line in sorted(lines, key=lambda item: order[item[0]]):
        print(f"| {name} {line}")


if __name__ == "__main__":
    main()
