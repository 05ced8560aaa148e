"""The demonstration: DeepSeek-R1's router projection and its q_a/kv_a projection, for 1, 4 and 16 tokens.

On the CPU they are built, run and checked; for gfx942 they are compiled, and the machine code is run and checked in the
emulator. Each target is built into a fresh cache, so that the cold figure is truly cold, and loaded again by a fresh
process, so that the warm one is truly warm. The emulator itself is a tool here, and lies in the user's own cache.

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
from aiterlite.tables import TABLES
from aiterlite.tables.problems import problem

# What is demonstrated: DeepSeek-R1's router projection and its q_a/kv_a projection, (M, K), for N tokens. The rest of
# this module knows an operator, problems and seeds.
OP = "wvSplitK"
CALLS = tuple(({"n": n, "m": m, "k": k}, n * m) for m, k in ((256, 7168), (2112, 7168)) for n in (1, 4, 16))
FIELDS = ("n", "m", "k")
# The defines in which variants of its kernel differ between shapes.
KNOBS = ("AITERLITE_COLS", "AITERLITE_SLICES", "AITERLITE_WAVES", "AITERLITE_UNROLL")

_EMULATED = "gfx942"
TARGETS = ("cpu", _EMULATED)
_RUN_SECONDS = 0.2
_FEWEST_RUNS = 5
# Each of these would make the fresh process do something else than load this cache.
_UNSET = ("AITERLITE_TARGET", "AITERLITE_CACHE_LAYERS", "AITERLITE_TRUSTED_LAYERS", "AITERLITE_RECORD")


def run() -> dict[str, Any]:
    """Build, load, run and check. Returns the rows of the table, the units that GPU rows share, and what failed.

    `ok` is false where a build or a run failed, or an output is further from float64 than the bound allows.
    """
    decisions = {(name, index): _decision(index, name) for name in TARGETS for index in range(len(CALLS))}
    with tempfile.TemporaryDirectory(prefix="aiterlite-demo-") as folder:
        cache = Path(folder) / "cache"
        store = Store((Layer(cache, writable=True),))
        units = dict.fromkeys(unit for decision in decisions.values() for unit in decision.units)
        cold, errors = _build(list(units), store)
        emulator = _emulator_path(errors) if any(unit.kind == AMD for unit in cold) else ""
        warm = _fresh_process(cache, [unit for unit in units if unit in cold], emulator, errors)
    rows = [_row(index, decision, cold, warm) for (_, index), decision in decisions.items()]
    errors += [_too_far(row) for row in rows if row["of_bound"] is not None and not row["of_bound"] <= 1]
    own = {decision.units[0] for decision in decisions.values()}
    shared = [{"unit": unit.label, "cold_s": cold.get(unit)} for unit in units if unit not in own]
    return {"fields": list(FIELDS), "rows": rows, "shared": shared, "errors": errors, "ok": not errors}


def _decision(index: int, name: str) -> Decision:
    """What dispatch chooses on a target for a call that is demonstrated."""
    table = TABLES[OP]
    return decide(table, problem(table, CALLS[index][0]), target.resolve(name))


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


def _row(index: int, decision: Decision, cold: dict[Unit, float], warm: dict[str, Any]) -> dict[str, Any]:
    unit = decision.units[0]
    measured = warm.get("runs", {}).get(_key(unit.kind, index), {})
    emulated = "emulated" if measured else "compiled"
    return {
        "target": unit.target,
        **{name: getattr(decision.problem, name) for name in FIELDS},
        "variant": f"{decision.row.name if decision.row else ''} {_knobs(unit)}".strip(),
        "state": "failed" if unit not in cold else emulated if unit.kind != HOST else "ran" if measured else "failed",
        "cold_s": cold.get(unit),
        "warm_s": warm.get("loads", {}).get(unit.label),
        "run_s": measured.get("run_s"),
        "error": measured.get("error"),
        "of_bound": measured.get("of_bound"),
    }


def _key(kind: str, index: int) -> str:
    return f"{kind},{index}"


def _knobs(unit: Unit) -> str:
    defines = dict(unit.defines)
    return " ".join(f"{name.removeprefix('AITERLITE_').lower()}={defines[name]}" for name in KNOBS if name in defines)


def _too_far(row: dict[str, Any]) -> str:
    shape = " ".join(f"{name.upper()} {row[name]}" for name in FIELDS)
    return f"{row['target']} {shape}: an output uses {row['of_bound']:.2f} of the error bound"


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
    # A caller's process has imported torch long before: host units link against its libraries.
    import torch  # noqa: F401

    loads = {}
    for unit in units:
        load: Callable[[Unit], Any] = loader.host_library if unit.kind == HOST else loader.device_image
        started = time.perf_counter()
        load(unit)
        loads[unit.label] = time.perf_counter() - started
    host = target.host_persona().target
    runs: dict[str, Any] = {}
    if any(unit.target == host for unit in units):
        runs.update({_key(HOST, index): _measure(index) for index in range(len(CALLS))})
    if asked["emulator"]:
        use_library(asked["emulator"])
        built = {unit for unit in units if unit.kind == AMD}
        for index in range(len(CALLS)):
            if built.issuperset(unit for unit in _decision(index, _EMULATED).units if unit.kind == AMD):
                runs[_key(AMD, index)] = _emulate(index)
    return {"loads": loads, "runs": runs}


def _sample(index: int) -> Any:
    from aiterlite.ops.samples import sample

    values, seed = CALLS[index]
    return sample(OP, problem(TABLES[OP], values), seed)


def _measure(index: int) -> dict[str, float]:
    """Median seconds of a call, and its errors."""
    made = _sample(index)
    outputs = made.run()
    call = made.bind(made.fresh())
    times: list[float] = []
    while len(times) < _FEWEST_RUNS or sum(times) < _RUN_SECONDS:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return {"run_s": statistics.median(times), "error": made.error(outputs), "of_bound": made.of_bound(outputs)}


def _emulate(index: int) -> dict[str, Any]:
    """The errors of a call whose gfx942 code the emulator runs. Its time says nothing of the hardware's."""
    made = _sample(index)
    with envs.override(AITERLITE_TARGET=_EMULATED):
        outputs = made.run()
    return {"run_s": None, "error": made.error(outputs), "of_bound": made.of_bound(outputs)}


if __name__ == "__main__":
    print(json.dumps(_child(sys.argv[1])))
