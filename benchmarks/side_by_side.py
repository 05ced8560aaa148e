"""What benchmarks of one operator share: ours beside others' calls, all timed in one run, and the command line."""

from __future__ import annotations

import argparse
import functools
import importlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch

from aiterlite import envs
from aiterlite.benchmark.timing import Contender, compare
from aiterlite.jit import engine, jobs
from aiterlite.jit.spec import Unit
from aiterlite.target import persona_for

OURS = "ours"
Call = Callable[[Any], Any]
Measure = Callable[[str, int, torch.device, int], dict[str, Any]]
Said = TypeVar("Said")


@functools.cache
def imported(module: str) -> Any:
    """The module, or None, which is said once."""
    try:
        return importlib.import_module(module)
    except Exception as error:  # an extension that was made for another torch fails in ways of its own
        print(f"{module}: not imported ({type(error).__name__}: {error})", flush=True)
        return None


def tried(
    offered: Mapping[str, Call], trial: Callable[[str, Call], Said], own: Sequence[str] = (OURS,)
) -> tuple[dict[str, Call], dict[str, Said]]:
    """The calls that `trial` could make, and what it says of each. Others' may fail, which is told; ours may not."""
    calls: dict[str, Call] = {}
    said: dict[str, Said] = {}
    for name, call in offered.items():
        try:
            said[name] = trial(name, call)
            calls[name] = call
        except Exception as error:  # another package's, or a compiler's
            if name in own:
                raise
            print(f"{name}: not called ({type(error).__name__}: {str(error).partition(chr(10))[0]})", flush=True)
    return calls, said


def contenders_of(calls: Mapping[str, Call], operands: Sequence[Any]) -> dict[str, Contender]:
    return {name: functools.partial(_at, call, operands) for name, call in calls.items()}


def _at(call: Call, operands: Sequence[Any], copy: int) -> object:
    return call(operands[copy])


def microseconds(
    contenders: Mapping[str, Contender], copies: int, device: torch.device, samples: int
) -> dict[str, float]:
    """Medians of contenders that are timed in turn."""
    return {name: timing.median * 1e6 for name, timing in compare(contenders, copies, device, samples).items()}


def with_plain(
    contenders: Mapping[str, Contender], copies: int, device: torch.device, samples: int
) -> dict[str, float]:
    """The same, and `plain`: ours launched as usual, after the kernel before it has ended, as others are."""
    times = microseconds(contenders, copies, device, samples)
    with envs.override(AITERLITE_OVERLAP="0"):
        return times | microseconds({"plain": contenders[OURS]}, copies, device, samples)


def build(units: Collection[Unit]) -> int:
    """Builds units side by side, since a first call would build each alone; how many were not there."""
    with ThreadPoolExecutor(jobs.count()) as pool:
        return sum(artifact.built for artifact in pool.map(lambda unit: engine.obtain(unit, build=True), units))


def write(path: Path | None, device: torch.device, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as JSON, with the chip and torch's version."""
    if path is not None:
        chip = persona_for(device.type, device.index or 0).chip
        path.write_text(json.dumps({"chip": chip, "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


def show(row: Mapping[str, Any]) -> None:
    times = "  ".join(f"{name} {value:.2f}" for name, value in row["microseconds"].items())
    unlike = "".join(f"  {name}: {share:.4%} equal" for name, share in row["equal"].items() if share < 1)
    share = f" ({row['share_of_copy']:.0%} of a copy)" if "share_of_copy" in row else ""
    print(
        f"{row['kind']:16} {row['n']:>5}  {row['gigabytes_per_second']:6.0f} GB/s{share}  {times}{unlike}", flush=True
    )


def run(description: str | None, kinds: Sequence[str], tokens: Sequence[int], measure: Measure) -> None:
    """The command line of a benchmark of these kinds of calls."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--tokens", nargs="+", type=int, default=tokens)
    parser.add_argument("--samples", type=int, default=11)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    device = torch.device(options.device)
    rows = []
    with torch.no_grad():
        for kind in options.kinds:
            for n in options.tokens:
                rows.append(measure(kind, n, device, options.samples))
                show(rows[-1])
    write(options.json, device, rows)
