"""build: prebuild what runs will need, on a machine that need not run it."""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from aiterlite.cli import check_asm, model, output, plan, words
from aiterlite.cli.command import Commands, Report, UsageError, command, path
from aiterlite.cli.targets import add_target_option, named_personas, personas, personas_or_default
from aiterlite.errors import AiterliteError
from aiterlite.jit import engine, jobs, process, progress, record
from aiterlite.jit.spec import Unit
from aiterlite.jit.store import Entry, Store, open_store
from aiterlite.tables import default_ops

_HEADERS = ("unit", "target", "result", "seconds", "size", "resources")


@dataclass(frozen=True)
class Outcome:
    """What became of one unit: "built", "cached", "missing" or "failed"."""

    result: str
    seconds: float = 0.0
    entry: Entry | None = None
    error: str = ""


def add(commands: Commands) -> None:
    parser = command(
        commands, "build", "build kernels into the cache, for any target, without a GPU", _run, rest="take"
    )
    parser.usage = (
        f"aiterlite build [--target T,T] [--ops OP,OP] [{words.HELP}]... [options]\n"
        "       aiterlite build (--from FILE [--target T,T] | --unit JSON... | --check-asm) [options]\n"
        "       aiterlite build --model FILE [--tp N] [--ep N] [--max-batch N] [--target T,T] [--check [--from FILE]]\n"
        "       aiterlite build --emulator [--target T,T] [options]"
    )
    parser.epilog = (
        "Words say for which problems; `aiterlite list` shows the fields of each operator and their defaults."
    )
    add_target_option(parser, "what to build for (default: AITERLITE_TARGET, else this CPU)")
    default = ", ".join(default_ops())
    parser.add_argument("--ops", type=_names, default=[], metavar="OP,OP", help=f"operators (default: {default})")
    parser.add_argument("--from", dest="manifest", type=path, metavar="FILE", help="what a run recorded")
    parser.add_argument("--unit", type=_unit, action="append", metavar="JSON", help="exactly this unit; repeatable")
    parser.add_argument(
        "--emulator", action="store_true", help="the emulator too, for the CPUs of --target, else for this one"
    )
    parser.add_argument("--check", action="store_true", help="build nothing; exit 1 if anything would be built")
    parser.add_argument(
        "--retry", action="store_true", help="compile also what failed before, though nothing changed since"
    )
    parser.add_argument(
        "--check-asm", action="store_true", help="assemble every assembly kernel and compare it with its declaration"
    )
    model.add_options(parser)
    parser.add_argument("--jobs", type=_count, metavar="N", help="compilers at once (default: AITERLITE_MAX_JOBS)")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _count(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _unit(text: str) -> Unit:
    try:
        return Unit.from_json(json.loads(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"no unit: {error}") from None


def _run(args: argparse.Namespace) -> Report:
    if args.check_asm:
        others = (args.check, args.manifest, args.unit, args.ops, args.words, args.jobs, args.emulator, args.model)
        if any(others) or args.retry:
            raise UsageError("--check-asm takes --target only: it assembles every row of the manifest")
        return check_asm.run({persona.target for persona in personas(args.target)})
    if not args.model and (alone := model.given(args)):
        raise UsageError(f"{alone[0]} is of a model: give --model")
    if args.model and args.manifest:
        return _compare(args)
    todo = _plan(args)
    store = open_store()
    count = args.jobs or jobs.count()
    started = time.monotonic()
    build = functools.partial(_build, retry=True) if args.retry else _build
    act: Callable[[Unit], Outcome] = (lambda unit: _check(unit, store)) if args.check else build
    # The longest first, or it would run alone at the end.
    units = sorted(todo.units, key=lambda unit: -len(unit.sources))
    workers = 1 if args.check else max(1, min(count, len(units)))
    with jobs.shared(count, workers):
        outcomes = _each("checking" if args.check else "building", units, act, workers)
    outcomes = {unit: outcomes[unit] for unit in todo.units}
    data = _gather(todo, outcomes)
    data.update(check=args.check, jobs=count, seconds=round(time.monotonic() - started, 3))
    failed = data["counts"]["failed"] + data["counts"]["missing"] + len(todo.unserved)
    return Report(data, render(data), failed=bool(failed))


def _plan(args: argparse.Namespace) -> plan.Plan:
    shape = words.read(args.words)
    asked = args.manifest or args.unit or args.ops or shape or args.model
    if not args.emulator:
        return _operators(args, shape)
    # Alone it is all that is built, with GPUs among the targets what these bring.
    named = {} if args.unit else named_personas(args.target)
    gpus = [persona for persona in named.values() if persona.family != "cpu"]
    todo = _operators(args, shape) if asked else plan.from_problems((), gpus)
    plan.add_emulator(todo, [persona for persona in named.values() if persona.family == "cpu"])
    return todo


def _compare(args: argparse.Namespace) -> Report:
    """Whether the plan of a model holds all that a recorded run of it used."""
    if not args.check or args.unit or args.ops or args.words or args.emulator:
        raise UsageError("--model with --from compares a plan with a recorded run: give --check, and nothing to build")
    personas = model.names_of(args.target)
    todo = model.planned(model.server_of(args), list(personas))
    data = model.compared(todo, record.read(args.manifest), personas)
    return Report(data, model.render_comparison(data), failed=bool(data["unplanned"]))


def _operators(args: argparse.Namespace, shape: Sequence[words.Word]) -> plan.Plan:
    ways = [bool(args.manifest), bool(args.unit), bool(args.ops or shape), bool(args.model)]
    if sum(ways) > 1 or (args.unit and args.target):
        raise UsageError("give one of --from, --model, --unit, or operators and shape words; a unit has its own target")
    if args.model:
        return model.planned(model.server_of(args), list(model.names_of(args.target)))
    if args.manifest:
        return plan.from_manifest(record.read(args.manifest), named_personas(args.target))
    if args.unit:
        todo = plan.Plan()
        for unit in args.unit:
            todo.add(unit, "--unit")
        return todo
    return plan.from_problems(args.ops, personas_or_default(args.target), shape)


def _each(title: str, units: list[Unit], act: Callable[[Unit], Outcome], workers: int) -> dict[Unit, Outcome]:
    """Act on all units, some at once; compilers are child processes, so threads are enough."""
    done = {}
    pool = ThreadPoolExecutor(workers)
    with progress.bar(title, len(units)) as step:
        futures = {pool.submit(act, unit): unit for unit in units}
        try:
            for future in as_completed(futures):
                done[futures[future]] = future.result()
                step(futures[future].name)
        except BaseException:
            # Nothing else would end a compiler that a thread waits for; with it the thread ends, and cleans up.
            with process.stopping():
                pool.shutdown(cancel_futures=True)
            raise
    pool.shutdown()
    return done


def _build(unit: Unit, retry: bool = False) -> Outcome:
    started = time.monotonic()
    try:
        artifact = engine.obtain(unit, build=True, retry=retry)
    except (AiterliteError, OSError) as error:
        return Outcome("failed", time.monotonic() - started, error=str(error))
    return Outcome("built" if artifact.built else "cached", time.monotonic() - started, artifact.entry)


def _check(unit: Unit, store: Store) -> Outcome:
    try:
        found = engine.lookup(engine.wanted(unit), store)
    except (AiterliteError, OSError) as error:
        return Outcome("failed", error=str(error))
    if found.entry is None:
        return Outcome("missing", error="; ".join(found.reasons))
    return Outcome("cached", entry=found.entry)


def _gather(todo: plan.Plan, outcomes: Mapping[Unit, Outcome]) -> dict[str, Any]:
    units = []
    for unit, outcome in outcomes.items():
        entry = outcome.entry
        units.append(
            {
                "unit": unit.label,
                "name": unit.name,
                "target": unit.target,
                "result": outcome.result,
                "seconds": round(outcome.seconds, 3),
                "size": entry.size() if entry else None,
                "resources": entry.meta["resources"] if entry else {},
                "path": str(entry.path) if entry else None,
                "error": outcome.error,
                "asked_by": todo.units[unit],
            }
        )
    results = [item["result"] for item in units]
    counts = {name: results.count(name) for name in ("built", "cached", "missing", "failed")}
    return {"units": units, "counts": counts, "unserved": todo.unserved, "without_kernel": todo.torch}


def render(data: Mapping[str, Any]) -> str:
    lines = []
    if data["units"] and not data["check"]:
        lines += [output.table(_HEADERS, [_row(item) for item in data["units"]], right=("seconds", "size"))]
    for item in data["units"]:
        if item["result"] in ("missing", "failed"):
            lines.append(f"{item['result']}: {item['unit']}: {item['error']}")
    lines += [f"failed: {call}" for call in data["unserved"]]
    lines += [f"nothing to build: {call}" for call in data["without_kernel"]]
    counts = data["counts"]
    words = [f"{count} {name}" for name, count in counts.items() if count]
    words += [f"{len(data['unserved'])} without any row"] if data["unserved"] else []
    done = f"{output.plural(len(data['units']), 'unit')}: {', '.join(words) or 'nothing to do'}"
    lines.append(done if data["check"] else f"{done}; {data['seconds']:.1f} s, up to {data['jobs']} at once")
    return "\n".join(lines)


def _row(item: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        item["unit"].removesuffix(f" for {item['target']}"),
        item["target"],
        item["result"],
        f"{item['seconds']:.2f}",
        "-" if item["size"] is None else output.size(item["size"]),
        output.resources(item["resources"]),
    )
