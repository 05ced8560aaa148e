"""What a fresh process pays before and at its first `linear`, with every unit in the cache.

Each process imports torch, makes operands and runs torch's own `linear` on them once, and only then times, in
milliseconds: the import of the package, the import of the operator's modules, the first call and the second one. It
counts the garbage collections of the first call, which would stall it. `cpu_ms` of the first call is this thread's own
time, which other work on the machine changes less. Prints the medians of all processes; `--json FILE` writes every one.

The first process of a cache builds what is missing and is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

CHILD = """
import gc, json, sys, time
import torch

device, n, m, k = sys.argv[1], *map(int, sys.argv[2:])
x, weight = torch.randn(n, k, device=device).bfloat16(), torch.randn(m, k, device=device).bfloat16()
torch.nn.functional.linear(x, weight)
wait = torch.cuda.synchronize if device == "cuda" else lambda: None
wait()
marks = [time.perf_counter()]
import aiterlite
marks.append(time.perf_counter())
import aiterlite.ops.linear
marks.append(time.perf_counter())
collected, own = sum(g["collections"] for g in gc.get_stats()), time.thread_time()
for call in range(2):
    aiterlite.linear(x, weight)
    if call == 0:
        own, collected = time.thread_time() - own, sum(g["collections"] for g in gc.get_stats()) - collected
    wait()
    marks.append(time.perf_counter())
names = ("package_ms", "operator_ms", "first_ms", "second_ms")
figures = {name: 1e3 * (after - before) for name, before, after in zip(names, marks, marks[1:])}
print(json.dumps({**figures, "cpu_ms": 1e3 * own, "collections": collected}))
"""


def start(device: str, shape: tuple[int, int, int]) -> dict[str, float]:
    words = [sys.executable, "-c", CHILD, device, *map(str, shape)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).resolve().parent.parent)
    if done.returncode:
        sys.exit(done.stderr)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--processes", type=int, default=15)
    parser.add_argument("--shape", type=int, nargs=3, default=(4, 256, 7168), metavar=("N", "M", "K"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    start(args.device, tuple(args.shape))
    found = [start(args.device, tuple(args.shape)) for _ in range(args.processes)]
    medians = {name: statistics.median(one[name] for one in found) for name in found[0]}
    for name, value in medians.items():
        print(f"{name:>12} {value:9.3f}   most {max(one[name] for one in found):9.3f}")
    if args.json:
        args.json.write_text(json.dumps({"device": args.device, "medians": medians, "processes": found}, indent=1))


if __name__ == "__main__":
    main()
