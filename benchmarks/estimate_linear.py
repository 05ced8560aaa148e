"""What `linear` takes on AMD chips by estimates and by AMD's published times of its library: points of the crossover.

    python benchmarks/estimate_linear.py --work FILE [--chips C,C] [--most N] [--write]
    python benchmarks/estimate_linear.py --times path/to/aiter/configs --commit C     # renews the published times

For each point (m, k, tokens) that the cost model has an opinion on, wvSplitK and wvSplitKrc run in the emulator, and
their estimates (aiterlite/emulator/estimate.py) say which takes less time, or that they cannot tell. For each time that
AMD published for its GEMM library (tests/data/amd-library-times.csv: `torch` rows of upstream's bf16 tables) both run
at its shape, and torch is the faster one where that time lies below both intervals. Nothing here was measured by this
project.

Between two published token counts of a shape the longer of their times stands for it. Beyond them, and at other shapes,
the library's time is not published, and torch takes no part.

--work keeps all counters, a JSON object a line: what is there is not run again. --most bounds m * k of the points.
--write puts what was told into aiterlite/tables/gemm_crossover.json: lower-case letters, where the cost model's stay
capital ones. Takes some 20 minutes of one core.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from aiterlite import envs  # noqa: E402
from aiterlite.benchmark import tune  # noqa: E402
from aiterlite.emulator import watching  # noqa: E402
from aiterlite.emulator.calibration import LABEL, shipped  # noqa: E402
from aiterlite.emulator.estimate import CANNOT_TELL, Estimate, estimate, faster  # noqa: E402
from aiterlite.hardware import CHIPS  # noqa: E402
from aiterlite.ops import gemm, gemm_rc  # noqa: E402
from aiterlite.tables import gemm_crossover as crossover  # noqa: E402
from aiterlite.tables.gemm import MAX_TOKENS  # noqa: E402
from aiterlite.tables.gemm_crossover import CrossoverTable, Point  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

K, R, TORCH = "wvSplitK", "wvSplitKrc", "torch"
LIBRARY = ("torch", "hipblaslt")
TIMES = ROOT / "tests" / "data" / "amd-library-times.csv"
_COLUMNS = ("chip", "n", "m", "k", "us")
# Token counts that bound what may be read between two of them.
_MOST_TOKENS = 256


class Shape(NamedTuple):
    """n tokens, weights [m, k] in bf16, on a chip."""

    chip: str
    n: int
    m: int
    k: int


class Estimates:
    """Estimates of both operators, of counters that a file keeps."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[tuple[str, Shape], list[dict[str, Any]]] = {}
        for line in file.read_text().splitlines() if file.exists() else ():
            row = json.loads(line)
            self._known[row["op"], Shape(*row["shape"])] = row["counters"]

    def of(self, op: str, shape: Shape) -> Estimate:
        if (op, shape) not in self._known:
            self._known[op, shape] = found = _counters(op, shape)
            with self._file.open("a") as file:
                file.write(json.dumps({"op": op, "shape": shape, "counters": found}) + "\n")
        return estimate(self._known[op, shape], resolve(shape.chip))


def _counters(op: str, shape: Shape) -> list[dict[str, Any]]:
    """The counters of a call depend on no number that it multiplies."""
    x, w = (torch.zeros(rows, shape.k, dtype=torch.bfloat16) for rows in (shape.n, shape.m))
    with envs.override(AITERLITE_TARGET=shape.chip), watching(sanitize=False, counters=True) as seen:
        if op == K:
            gemm.wvSplitK(x, w)
        else:
            gemm_rc.wvSplitKrc(x, w, reduction="deterministic")
    return seen.counters


def contenders(n: int) -> tuple[str, ...]:
    return (K, R) if n <= MAX_TOKENS else (R,)


def library_rows(configs: Path) -> dict[Shape, float]:
    """The library's times in upstream's bf16 tables, without bias, of bf16 results."""
    chips = {(row.target, row.compute_units): name for name, row in CHIPS.items() if name in shipped().chips}
    found: dict[Shape, float] = {}
    for file in sorted(configs.rglob("*bf16_tuned_gemm*.csv")):
        for row in csv.DictReader(file.open()):
            chip = chips.get((row["gfx"], int(row["cu_num"])))
            plain = (row["bias"], row["dtype"], row["outdtype"], row["scaleAB"], row["bpreshuffle"])
            if chip is None or row["libtype"] not in LIBRARY or int(row["M"]) > _MOST_TOKENS:
                continue
            if plain == ("False", "torch.bfloat16", "torch.bfloat16", "False", "False"):
                shape = Shape(chip, int(row["M"]), int(row["N"]), int(row["K"]))
                found[shape] = min(float(row["us"]), found.get(shape, float("inf")))
    return found


def write_times(found: dict[Shape, float], commit: str) -> None:
    head = (
        f"# ROCm/aiter (MIT licence), commit {commit}, aiter/configs/**/*bf16_tuned_gemm*.csv: the rows of AMD's GEMM\n"
        f"# library (libtype torch), bf16, without bias, up to {_MOST_TOKENS} tokens. n tokens, weights [m, k], times\n"
        "# in microseconds that AMD measured. Written by benchmarks/estimate_linear.py.\n"
    )
    with TIMES.open("w", newline="") as file:
        file.write(head)
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows((*shape, us) for shape, us in sorted(found.items()))


def read_times() -> dict[Shape, float]:
    lines = [line for line in TIMES.read_text().splitlines() if not line.startswith("#")]
    return {
        Shape(row["chip"], int(row["n"]), int(row["m"]), int(row["k"])): float(row["us"])
        for row in csv.DictReader(lines)
    }


def library_us(times: Mapping[Shape, float], shape: Shape) -> float | None:
    """The published time at a shape, or the longer one of the nearest token counts about it; None beyond them."""
    if shape in times:
        return times[shape]
    own = {held.n: us for held, us in times.items() if held == shape._replace(n=held.n)}
    below, above = [n for n in own if n < shape.n], [n for n in own if n > shape.n]
    return max(own[max(below)], own[min(above)]) if below and above else None


def told(estimates: Estimates, shape: Shape) -> str:
    """The faster operator of ours, or that the estimates cannot tell."""
    return {"A": K, "B": R}.get(faster(estimates.of(K, shape), estimates.of(R, shape)), CANNOT_TELL)


def against_library(estimates: Estimates, shape: Shape, us: float) -> str:
    """torch where its time lies below the intervals of ours, "ours" where it lies above one, else CANNOT_TELL."""
    ours = [estimates.of(op, shape) for op in contenders(shape.n)]
    if us < min(held.low for held in ours):
        return TORCH
    return "ours" if us > min(ours, key=lambda held: held.us).high else CANNOT_TELL


def by_estimates(table: CrossoverTable, estimates: Estimates, most: int) -> Iterator[tuple[Point, str]]:
    """The points of a cost model at which two operators compete, with what the estimates say."""
    for point in table.points:
        if point.bucket <= MAX_TOKENS and point.m * point.k <= most:
            yield point, told(estimates, Shape(table.chip, point.bucket, point.m, point.k))


def by_library(chip: str, estimates: Estimates, times: Mapping[Shape, float]) -> Iterator[tuple[Shape, float, str]]:
    """Each shape and token bucket that a time of the library is published for, with what it says."""
    for m, k in sorted({(shape.m, shape.k) for shape in times if shape.chip == chip}):
        for bucket in crossover.BUCKETS:
            shape = Shape(chip, bucket, m, k)
            us = library_us(times, shape)
            if us is not None:
                yield shape, us, against_library(estimates, shape, us)


def corrected(table: CrossoverTable, estimates: Estimates, times: Mapping[Shape, float], most: int) -> CrossoverTable:
    """A table of the cost model's with what was told in place of what it says."""
    found = {(point.m, point.k, point.bucket): point for point in table.points}
    says: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for point, answer in by_estimates(table, estimates, most):
        same = "the same" if answer == point.winner else "another one"
        says["estimates"][CANNOT_TELL if answer == CANNOT_TELL else same] += 1
        if answer != CANNOT_TELL:
            found[point[:3]] = point._replace(winner=answer, ground=crossover.CALIBRATED)
    for shape, us, answer in by_library(table.chip, estimates, times):
        says["library"][answer] += 1
        ours = min((estimates.of(op, shape) for op in contenders(shape.n)), key=lambda held: held.us)
        print(
            f"  {table.chip} n {shape.n}, m {shape.m}, k {shape.k}: library {us:.1f} us published, ours {ours.us:.1f} "
            f"({ours.low:.1f} to {ours.high:.1f}) estimated: {answer}"
        )
        if answer == TORCH:
            key = (shape.m, shape.k, shape.n)
            found[key] = Point(*key, TORCH, crossover.PUBLISHED)
    for what, counts in says.items():
        print(f"{table.chip}, {what}: " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    return replace(table, points=tuple(found[key] for key in sorted(found)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--times", type=Path, help="aiter/configs of a checkout of ROCm/aiter: renew the published times"
    )
    parser.add_argument("--commit", default="", help="with --times: of that checkout")
    parser.add_argument("--work", type=Path, help="where estimates are kept")
    parser.add_argument("--chips", default=",".join(sorted(shipped().chips)))
    parser.add_argument("--most", type=int, default=1 << 27, help="of m * k of a point")
    parser.add_argument("--write", action="store_true", help=f"into {crossover.SHIPPED.name}")
    asked = parser.parse_args(arguments)
    if asked.times:
        write_times(library_rows(asked.times), asked.commit)
    if not asked.work:
        return
    torch.set_num_threads(1)
    estimates, times, chips = Estimates(asked.work), read_times(), asked.chips.split(",")
    print(LABEL)
    made = []
    for table in crossover.shipped():
        if table.chip in chips:
            plain = tune.estimated_table(resolve(table.chip))
            made.append(corrected(plain, estimates, times, asked.most))
        else:
            made.append(table)
    if asked.write:
        crossover.SHIPPED.write_text(crossover.dump(made))


if __name__ == "__main__":
    main()
