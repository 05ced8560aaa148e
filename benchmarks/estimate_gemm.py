"""Floors and estimates of this package's skinny GEMMs on AMD chips, beside times that AMD published for the same call.

    python benchmarks/estimate_gemm.py [--points FILE] [--call N,M,K]... [--chips C,C] [--all | --choices]

A call has n tokens, weights [m, k] in bf16 and no bias. Both operators that `linear` chooses from run in the emulator,
in HIP and in assembly where there are both; the table has the one of the least estimate, or --all. Published are
the fastest times of ROCm/aiter's bf16 GEMMs of the shape among the points. Nothing in the table was measured here.
--choices holds choices against estimates: which operator `linear` takes, and HIP or assembly, of 8-bit floats too.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from aiterlite import envs  # noqa: E402
from aiterlite.benchmark import calibration as fitting  # noqa: E402
from aiterlite.benchmark import options  # noqa: E402
from aiterlite.cli import words  # noqa: E402
from aiterlite.dispatch import decide  # noqa: E402
from aiterlite.emulator import watching  # noqa: E402
from aiterlite.emulator.calibration import LABEL  # noqa: E402
from aiterlite.emulator.estimate import CANNOT_TELL, Estimate, estimate, faster, floor_us  # noqa: E402
from aiterlite.ops.samples import sample  # noqa: E402
from aiterlite.tables import TABLES  # noqa: E402
from aiterlite.tables.gemm_crossover import verdict  # noqa: E402
from aiterlite.target import resolve  # noqa: E402
from aiterlite.wishes import wishes  # noqa: E402

SAMPLE = ROOT / "tests" / "data" / "amd-points.csv"
CALLS = ((4, 128, 2880), (16, 64, 4096), (64, 256, 6144), (4, 256, 4096), (4, 384, 7168), (4, 2112, 7168))
OPERATORS = ("wvSplitK", "wvSplitKrc")
EIGHT_BITS = "wvSplitKQ"


def estimates(
    call: tuple[int, int, int], chip: str, operators: Sequence[str] = OPERATORS
) -> Iterator[tuple[str, Estimate, float]]:
    """Each operator and back end that serves a call on a chip: its name, estimate and floor."""
    n, m, k = call
    persona = resolve(chip)
    for op in operators:
        for prefer in ("hip", "asm"):
            with envs.override(AITERLITE_TARGET=chip, AITERLITE_PREFER=prefer):
                problem = words.problems_of(TABLES[op], words.read([f"n={n}", f"m={m}", f"k={k}", "dtype=bf16"]))[0]
                decision = decide(TABLES[op], problem, persona, wishes())
                if decision.row is None or decision.row.backend != prefer:
                    continue
                made = sample(op, problem)
                with watching(sanitize=False, counters=True) as seen:
                    made.run()
            yield f"{op}, {prefer}", estimate(seen.counters, persona), floor_us(seen.counters, persona)[0]


def choices(chip: str) -> Counter[str]:
    """How often the estimates say of 27 calls what `linear`'s points say, and which of HIP and assembly is faster."""
    told: Counter[str] = Counter()
    for n, m, k in itertools.product((1, 4, 16), (64, 256, 1024), (1024, 2880, 7168)):
        found = {name: held for name, held, _ in estimates((n, m, k), chip, (*OPERATORS, EIGHT_BITS))}
        one, other = found["wvSplitK, hip"], found["wvSplitKrc, hip"]
        answer = {"A": "wvSplitK", "B": "wvSplitKrc"}.get(faster(one, other), CANNOT_TELL)
        table = verdict(resolve(chip), n, m, k)
        assert table is not None
        same = "linear: agrees" if answer == table.winner else f"linear: {table.winner}, estimates: {answer}"
        told["linear: cannot tell" if answer == CANNOT_TELL else same] += 1
        if answer not in (CANNOT_TELL, table.winner):
            print(f"{chip} at {n}, {m}, {k}: wvSplitK {one.us:.1f} us, wvSplitKrc {other.us:.1f} us")
        for op in ("wvSplitK", EIGHT_BITS):
            told[f"{op}, HIP (A) or assembly (B): {faster(found[f'{op}, hip'], found[f'{op}, asm'])}"] += 1
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=Path, default=SAMPLE, help="a CSV file of points")
    parser.add_argument("--call", action="append", type=options.counts, metavar="N,M,K")
    parser.add_argument("--chips", default="mi308x,mi300x,mi355x")
    parser.add_argument("--all", action="store_true", help="all kernels, not only the one of the least estimate")
    parser.add_argument("--choices", action="store_true", help="hold choices that are made otherwise against estimates")
    asked = parser.parse_args(arguments)
    if asked.choices:
        print(LABEL)
        for chip in asked.chips.split(","):
            print(
                f"{chip}: " + ", ".join(f"{what} {count}" for what, count in sorted(choices(chip).items())), flush=True
            )
        return
    published: dict[tuple[str, tuple[int, ...]], float] = {}
    for point in fitting.possible(fitting.read(asked.points)):
        if point.family == "bf16gemm":
            key = point.chip, point.problem[:3]
            published[key] = min(point.us, published.get(key, point.us))
    print(f"{LABEL}\n")
    print("| n, m, k | chip | kernel | floor us | estimate us | 80 % | limited by | published us |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for call in asked.call or CALLS:
        for chip in asked.chips.split(","):
            time = published.get((chip, tuple(call)))
            rows = sorted(estimates(tuple(call), chip), key=lambda row: row[1].us)
            for name, found, floor in rows if asked.all else rows[:1]:
                print(
                    f"| {', '.join(map(str, call))} | {chip} | {name} | {floor:.1f} | {found.us:.1f} | "
                    f"{found.low:.1f} to {found.high:.1f} | {found.limit} | "
                    f"{f'{time:.1f}' if time else 'none'} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
