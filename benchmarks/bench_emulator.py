"""How fast the emulator executes, per instruction set of the host, with its memory checks on.

Prints wave-instructions and matrix instructions a second on one core, the seconds that two bf16 GEMMs of 512^3 (one
through MFMA, one without) take on all cores and on one, and how much longer launches take with sanitizers and counters.
Runs on one core are timed by that core's clock, so other work on the machine matters less. `--json FILE` writes the
same figures. Each level runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from emulator import cases_matrix, corpus, executor, session  # noqa: E402

from aiterlite import emulator  # noqa: E402
from aiterlite.emulator import Schedule  # noqa: E402
from aiterlite.target import host_persona  # noqa: E402

WAVES = 16  # four workgroups of four waves
ONE = Schedule(threads=1)


WATCHED = {"sanitizers": {"sanitize": True}, "counters": {"counters": True}}


def best(run: Callable[[Schedule], Any], schedule: Schedule, repeats: int) -> tuple[float, Any]:
    """The shortest time of a few runs, after one that is not counted, and what the last one returned."""
    clock = time.process_time if schedule.threads == 1 else time.perf_counter
    result, seconds = run(schedule), []
    for _ in range(repeats):
        started = clock()
        result = run(schedule)
        seconds.append(clock() - started)
    return min(seconds), result


def measure(target: str, repeats: int) -> dict[str, float]:
    """The figures of the library that is open."""
    device = emulator.Device(corpus.PERSONAS[target])
    with tempfile.TemporaryDirectory() as folder:
        speed = device.load(corpus.compile_object("emulator_speed", target, "-O3", Path(folder), include=HERE))
        out = np.zeros(64 * WAVES, np.uint32)
        loop = {"out": out, "turns": 20_000, "scale": np.float32(0.5)}
        seconds, report = best(lambda how: speed.launch("valu_loop", WAVES // 4, 256, loop, schedule=how), ONE, repeats)
        figures = {"wave_instructions_per_second": report.instructions / seconds}
        turns = 4_000
        x = np.random.default_rng(0).integers(0, 0x70, 1024).astype(np.uint8).view(np.int64)
        products = {"x": x, "out": out.view(np.float32), "turns": turns}
        seconds, _ = best(lambda how: speed.launch("mfma_loop", WAVES // 4, 256, products, schedule=how), ONE, repeats)
        figures["mfma_per_second"] = 4 * turns * WAVES / seconds
        short = loop | {"turns": 1_000}
        figures |= watched("valu_loop", lambda **how: speed.launch("valu_loop", WAVES // 4, 256, short, **how), repeats)
        for name in ("gemm_bf16", "gemm_vector"):
            module = device.load(corpus.compile_object(name, target, "-O3", Path(folder)))
            figures |= gemm(module, name, target, repeats)
    return figures


def gemm(module: emulator.Module, name: str, target: str, repeats: int) -> dict[str, float]:
    """Seconds of a GEMM of 512^3, on all cores and on one; its result is checked."""
    work = cases_matrix.gemm_bf16(target, np.random.default_rng(1), 512, 512, 512)
    values, _ = corpus.arrays_of(work)
    figures = {}

    def run(schedule: Schedule) -> emulator.Report:
        return module.launch(name, work.grid, work.block, values, schedule=schedule)

    for label, schedule in (("all_cores", Schedule()), ("one_core", ONE)):
        figures[f"{name}_512_seconds_{label}"], report = best(run, schedule, repeats)
    figures[f"{name}_512_wave_instructions"] = report.instructions
    figures |= watched(name, lambda **how: module.launch(name, work.grid, work.block, values, **how), repeats)
    wrong = corpus.mismatches(work, values)
    if wrong:
        raise SystemExit(f"{name} is wrong: {'; '.join(wrong)}")
    return figures


def watched(name: str, launch: Callable[..., Any], repeats: int) -> dict[str, float]:
    """How many times as long a launch takes on one core when it is watched."""
    plain, _ = best(lambda how: launch(schedule=how), ONE, repeats)
    return {
        f"{name}_times_with_{what}": best(lambda how, options=options: launch(schedule=how, **options), ONE, repeats)[0]
        / plain
        for what, options in WATCHED.items()
    }


def run_level(level: str, target: str, repeats: int) -> dict[str, Any]:
    """The figures of one level, in a child."""
    command = [sys.executable, __file__, "--target", target, "--repeats", str(repeats), "--child", level]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=corpus.TARGETS, default="gfx942")
    parser.add_argument("--level", action="append", choices=executor.LEVELS, help="default: all that this host can run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if session.missing():
        raise SystemExit(session.missing())
    if options.child:
        emulator.use_library(str(executor.library(options.child)))
        print(json.dumps(measure(options.target, options.repeats)))
        return
    host = host_persona().target.removeprefix("cpu-")
    supported = executor.LEVELS[: executor.LEVELS.index(host) + 1] if host in executor.LEVELS else ("",)
    results = {level: run_level(level, options.target, options.repeats) for level in options.level or supported}
    print(f"{options.target}, {os.cpu_count()} cores")
    for level, figures in results.items():
        print(
            f"{level or host:10}  {figures['wave_instructions_per_second'] / 1e6:6.1f} M wave-instructions/s"
            f"  {figures['mfma_per_second'] / 1e6:5.2f} M MFMA/s (both on one core)"
        )
        for name in ("gemm_bf16", "gemm_vector"):
            both = (figures[f"{name}_512_seconds_{cores}"] for cores in ("all_cores", "one_core"))
            print(f"{'':10}  {name} 512^3: {' s on all cores, '.join(f'{s:.3f}' for s in both)} s on one")
        for name in ("valu_loop", "gemm_bf16", "gemm_vector"):
            times = (f"{figures[f'{name}_times_with_{what}']:.2f} times as long with {what}" for what in WATCHED)
            print(f"{'':10}  {name}: {', '.join(times)}")
    if options.json:
        report = {"target": options.target, "cores": os.cpu_count(), "levels": results}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
