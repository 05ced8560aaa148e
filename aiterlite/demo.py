"""The demonstration: DeepSeek-R1's router projection and its q_a/kv_a projection, for 1, 4 and 16 tokens.

On the CPU they are built, run and checked; for gfx942 they are compiled, and the machine code is run and checked in the
emulator. Each target is built into a fresh cache, so that the cold figure is one, and loaded again by a fresh process,
so that the warm figure is one. The emulator itself is a tool here, and lies in the user's own cache.

Run as a script with a request file, this module is that fresh process.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiterlite import envs, target
from aiterlite.dispatch import Decision, decide
from aiterlite.emulator import library, use_library
from aiterlite.errors import AiterliteError, BuildError
from aiterlite.jit import engine, loader
from aiterlite.jit.spec import AMD, HOST, Unit
from aiterlite.jit.store import Layer, Store
from aiterlite.tables.gemm import WV_SPLIT_K, GemmProblem

# (M, K) of DeepSeek-R1's router projection and of its q_a/kv_a projection; `build` takes them as its default too.
SHAPES = ((256, 7168), (2112, 7168))
TOKENS = (1, 4, 16)
_EMULATED = "gfx942"
TARGETS = ("cpu", _EMULATED)
_RUN_SECONDS = 0.2
_FEWEST_RUNS = 5
# What would make the fresh process do something else than load this cache.
_UNSET = ("AITERLITE_TARGET", "AITERLITE_CACHE_LAYERS", "AITERLITE_TRUSTED_LAYERS", "AITERLITE_RECORD")


def run() -> dict[str, Any]:
    """Build, load, run and check. Returns the rows of the table, the units that GPU rows share, and what failed.

    `ok` is false where a build or a run failed, or an output is further from float64 than the bound allows.
    """
    decisions = [
        decide(WV_SPLIT_K, GemmProblem(n, m, k), target.resolve(name))
        for name in TARGETS
        for m, k in SHAPES
        for n in TOKENS
    ]
    with tempfile.TemporaryDirectory(prefix="aiterlite-demo-") as folder:
        cache = Path(folder) / "cache"
        store = Store((Layer(cache, writable=True),))
        units = dict.fromkeys(unit for decision in decisions for unit in decision.units)
        cold, errors = _build(list(units), store)
        emulator = _emulator_path(errors) if any(unit.kind == AMD for unit in cold) else ""
        warm = _fresh_process(cache, [unit for unit in units if unit in cold], emulator, errors)
    rows = [_row(decision, cold, warm) for decision in decisions]
    errors += [_too_far(row) for row in rows if row["of_bound"] is not None and not row["of_bound"] <= 1]
    own = {decision.units[0] for decision in decisions}
    shared = [{"unit": unit.label, "cold_s": cold.get(unit)} for unit in units if unit not in own]
    return {"rows": rows, "shared": shared, "errors": errors, "ok": not errors}


def _build(units: list[Unit], store: Store) -> tuple[dict[Unit, float], list[str]]:
    """Seconds of each build, and what failed."""
    cold: dict[Unit, float] = {}
    errors: list[str] = []
    for unit in units:
        started = time.perf_counter()
        try:
            engine.obtain(unit, store=store, build=True)
        except BuildError as error:
            # Its log goes with this cache; a build into the user's own keeps one.
            again = f"`aiterlite build --target {unit.target}` keeps the log"
            errors.append(
                f"building {unit.label} failed: {'; '.join(filter(None, (error.diagnostic, error.hint, again)))}"
            )
        except AiterliteError as error:
            if str(error) not in errors:
                errors.append(str(error))
        else:
            cold[unit] = time.perf_counter() - started
    return cold, errors


def _emulator_path(errors: list[str]) -> str:
    """The emulator's library, built if need be; empty, with the reason in `errors`, where it cannot be."""
    try:
        return str(engine.obtain(library.unit(), build=True).entry.path)
    except AiterliteError as error:
        errors.append(f"the emulator: {error}")
        return ""


def _row(decision: Decision, cold: dict[Unit, float], warm: dict[str, Any]) -> dict[str, Any]:
    problem, unit = decision.problem, decision.units[0]
    measured = warm.get("runs", {}).get(_key(unit.kind, problem.m, problem.n), {})
    emulated = "emulated" if measured else "compiled"
    return {
        "target": unit.target,
        "n": problem.n,
        "m": problem.m,
        "k": problem.k,
        "variant": f"{decision.row.name if decision.row else ''} {_knobs(unit)}".strip(),
        "state": "failed" if unit not in cold else emulated if unit.kind != HOST else "ran" if measured else "failed",
        "cold_s": cold.get(unit),
        "warm_s": warm.get("loads", {}).get(unit.label),
        "run_s": measured.get("run_s"),
        "error": measured.get("error"),
        "of_bound": measured.get("of_bound"),
    }


def _key(kind: str, m: int, n: int) -> str:
    return f"{kind},{m},{n}"


def _knobs(unit: Unit) -> str:
    """The defines in which variants of one kernel differ between shapes."""
    shown = ("AITERLITE_COLS", "AITERLITE_SLICES", "AITERLITE_WAVES", "AITERLITE_UNROLL")
    defines = dict(unit.defines)
    return " ".join(f"{name.removeprefix('AITERLITE_').lower()}={defines[name]}" for name in shown if name in defines)


def _too_far(row: dict[str, Any]) -> str:
    return f"{row['target']} N {row['n']} M {row['m']}: an output uses {row['of_bound']:.2f} of the error bound"


# The fresh process ---------------------------------------------------------------------------------------------------


def _fresh_process(cache: Path, units: list[Unit], emulator: str, errors: list[str]) -> dict[str, Any]:
    request = cache.parent / "request.json"
    request.write_text(json.dumps({"units": [unit.to_json() for unit in units], "emulator": emulator}))
    environment = {name: value for name, value in os.environ.items() if name not in _UNSET}
    environment.update(
        AITERLITE_CACHE_DIR=str(cache),
        AITERLITE_JIT="require-cache",
        AITERLITE_TOOLCHAIN="any",
        PYTHONPATH=os.pathsep.join(path or os.getcwd() for path in sys.path),
    )
    words = [sys.executable, "-m", "aiterlite.demo", str(request)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        errors.append(f"the process that loads and runs the kernels ended with {done.returncode}:\n{done.stderr}")
        return {}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _child(request: str) -> dict[str, Any]:
    asked = json.loads(Path(request).read_text())
    units = [Unit.from_json(data) for data in asked["units"]]
    # What a caller's process has done long before: host units link against torch's libraries.
    import torch  # noqa: F401

    loads = {}
    for unit in units:
        load: Callable[[Unit], Any] = loader.host_library if unit.kind == HOST else loader.device_image
        started = time.perf_counter()
        load(unit)
        loads[unit.label] = time.perf_counter() - started
    host = target.host_persona().target
    shapes = [(n, m, k) for m, k in SHAPES for n in TOKENS]
    runs = {}
    if any(unit.target == host for unit in units):
        runs = {_key(HOST, m, n): _measure(n, m, k) for n, m, k in shapes}
    if asked["emulator"]:
        use_library(asked["emulator"])
        built = {unit for unit in units if unit.kind == AMD}
        for n, m, k in shapes:
            decision = decide(WV_SPLIT_K, GemmProblem(n, m, k), target.resolve(_EMULATED))
            if built.issuperset(unit for unit in decision.units if unit.kind == AMD):
                runs[_key(AMD, m, n)] = _emulate(n, m, k)
    return {"loads": loads, "runs": runs}


def _measure(n: int, m: int, k: int) -> dict[str, float]:
    """Median seconds of a call, and its errors."""
    from aiterlite.ops.samples import sample

    made = sample(WV_SPLIT_K.op, GemmProblem(n, m, k), seed=n * m)
    y = made.call()
    times: list[float] = []
    while len(times) < _FEWEST_RUNS or sum(times) < _RUN_SECONDS:
        started = time.perf_counter()
        made.call()
        times.append(time.perf_counter() - started)
    return {"run_s": statistics.median(times), "error": made.error(y), "of_bound": made.of_bound(y)}


def _emulate(n: int, m: int, k: int) -> dict[str, Any]:
    """The errors of a call whose gfx942 code the emulator runs. Its time says nothing of the hardware's."""
    from aiterlite.ops.samples import sample

    made = sample(WV_SPLIT_K.op, GemmProblem(n, m, k), seed=n * m)
    with envs.override(AITERLITE_TARGET=_EMULATED):
        y = made.call()
    return {"run_s": None, "error": made.error(y), "of_bound": made.of_bound(y)}


if __name__ == "__main__":
    print(json.dumps(_child(sys.argv[1])))
