"""Refits the estimates of time on AMD chips to published times, and says how far they are off on what is left out.

    python benchmarks/calibrate.py [--points FILE]... [--judge FILE] [--write] [--output FILE] [--svg FILE]

Points are rows of a CSV file (aiterlite/benchmark/calibration.py): a published time, and the emulator's counters of one
workgroup. Without --points they are those of tests/data/amd-points.csv, a sample of what the package's calibration was
fitted to, and of amd-compiled-points.csv beside it, which benchmarks/compiled_points.py makes. Several files are put
together. --judge takes points that no fit sees: families are left out in turn all the
same. --write replaces the calibration file of the package, --sample writes the sample. Takes seconds of one core.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from aiterlite.benchmark import calibration as fitting  # noqa: E402
from aiterlite.benchmark import calibration_report as reporting  # noqa: E402
from aiterlite.emulator.calibration import SHIPPED  # noqa: E402

SAMPLE = ROOT / "tests" / "data" / "amd-points.csv"
COMPILED = ROOT / "tests" / "data" / "amd-compiled-points.csv"
SOURCE = (
    "ROCm/aiter (MIT licence), aiter/configs/**/*.csv, of today and of earlier commits that the points do not name: "
    "times that AMD measured, of kernels in its hsa/gfx942 and hsa/gfx950, and (commit e4048607) of compiled ones, "
    "whose sources were built here; counters by this package's emulator"
)
_OF_KERNEL = 16


def tell(name: str, rows: dict[str, dict[str, float]]) -> list[str]:
    lines = [f"{name:<34}{'points':>7}{'median %':>10}{'p90 %':>7}{'bias':>6}{'in 80 %':>9}"]
    for group, row in rows.items():
        lines.append(
            f"  {group:<32}{row['points']:>7}{row['median']:>10}{row['p90']:>7}{row['bias']:>6}{row['covered']:>9}"
        )
    return lines


def tell_pairs(name: str, row: dict[str, float]) -> str:
    return (
        f"{name}: {row['pairs']} with a gap over 10 %, {row['right']:.1%} right; answered {row['answered']:.1%}, "
        f"of those {row['answered_right']:.1%} right"
    )


def sample(files: Sequence[Path], to: Path) -> int:
    """At most 16 points of each kernel and chip, spread over their times; only what the fit needs of each."""
    rows, seen = [], set()
    for file in files:
        with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as opened:
            for row in csv.DictReader(opened):
                cells = tuple(_short(name, row.get(name) or "") for name in fitting.COLUMNS)
                if cells not in seen:
                    seen.add(cells)
                    rows.append(dict(zip(fitting.COLUMNS, cells, strict=True)))
    kernels: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in sorted(rows, key=lambda row: float(row["us"])):
        kernels.setdefault((row["chip"], row["kernel"]), []).append(row)
    kept = []
    for _, own in sorted(kernels.items()):
        places = {round(i * (len(own) - 1) / (_OF_KERNEL - 1)) for i in range(_OF_KERNEL)}
        kept += [own[place] for place in sorted(places)]
    about = f"{SOURCE}.\nAt most {_OF_KERNEL} points of each kernel and chip: benchmarks/calibrate.py."
    fitting.write(to, kept, about)
    return len(kept)


def _short(name: str, value: str) -> str:
    if name == "kernel":  # mangled: _ZN5aiter<length><name>E
        return value.removeprefix("_ZN5aiter").lstrip("0123456789").removesuffix("E")
    try:
        return f"{float(value):.7g}"
    except ValueError:
        return value


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=Path, action="append", help="a CSV file of points, packed or not")
    parser.add_argument("--judge", type=Path, help="points that no fit sees")
    parser.add_argument("--source", default=SOURCE, help="where the points are from, for the calibration file")
    parser.add_argument("--write", action="store_true", help=f"replace {SHIPPED.name} of the package")
    parser.add_argument("--output", type=Path, help="write a calibration there, of any points")
    parser.add_argument("--sample", type=Path, help="write a sample of the points there")
    parser.add_argument("--svg", type=Path, help="draw estimates of what was left out against published times there")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    files = asked.points or [SAMPLE, COMPILED]
    if asked.sample:
        print(f"{sample(files, asked.sample)} points written to {asked.sample}")
    points = [point for file in files for point in fitting.read(file)]
    own = sorted({point.family for point in points if point.family.startswith(fitting.OWN)})
    if own and asked.write:
        parser.error(f"--write: points of {', '.join(own)}; what is shipped is never fitted to this package's kernels")
    data = reporting.calibrate(points, asked.source, datetime.date.today().isoformat())
    print(f"{data['points']} points of {data['kernels']} kernels, {data['dropped']} dropped as impossible or repeated")
    for chip, row in data["chips"].items():
        print(f"  {chip}: " + ", ".join(f"{name} {value:g}" for name, value in row.items()))
    print("  all: " + ", ".join(f"{name} {value:g}" for name, value in data["shared"].items()))
    print("  80 %: " + ", ".join(f"{name} {low} to {high}" for name, (low, high) in data["intervals"].items()))
    print("\n".join(tell("families left out in turn", data["left_out"]["families"])))
    print("\n".join(tell("fifths of the kernels left out", data["left_out"]["kernels"])))
    print(tell_pairs("pairs", data["left_out"]["pairs"]))
    print(tell_pairs("pairs, a time from 15 us on", data["left_out"]["pairs_from_15_us"]))
    if asked.judge:
        judged = reporting.left_out(
            fitting.possible(points), reporting.by_family, fitting.possible(fitting.read(asked.judge))
        )
        print("\n".join(tell("judged, families left out in turn", reporting.table(judged))))
        print(tell_pairs("pairs", reporting.pairs(judged)))
    for file in ([SHIPPED] if asked.write else []) + ([asked.output] if asked.output else []):
        file.write_text(json.dumps(data, indent=1) + "\n")
    if asked.svg:
        from calibration_plot import draw

        kept = fitting.possible(points)
        asked.svg.write_text(draw(reporting.left_out(kept, reporting.by_family), kept))


if __name__ == "__main__":
    main()
