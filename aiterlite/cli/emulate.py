"""emulate: run a kernel of this package or of any code object on the host, every memory access checked."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiterlite import envs, target
from aiterlite.cli import kernel_args, output, targets
from aiterlite.cli.command import Commands, Report, UsageError, command
from aiterlite.dispatch import decide
from aiterlite.tables import TABLES

if TYPE_CHECKING:
    from aiterlite.emulator import Schedule

_CHIPS = {"gfx942": "mi300x", "gfx950": "mi355x"}


def add(commands: Commands) -> None:
    parser = command(
        commands, "emulate", "run gfx942 and gfx950 code on this CPU, every memory access checked", _run, rest="take"
    )
    parser.usage = (
        "aiterlite emulate OP n=4 m=64 k=512 [--target T,T] [options]\n"
        "       aiterlite emulate FILE --kernel NAME --grid X[,Y,Z] --block X[,Y,Z] [--arg NAME=VALUE]... [options]\n"
        "       aiterlite emulate --coverage FILE..."
    )
    parser.add_argument("what", nargs="+", help=f"an operator ({', '.join(TABLES)}), or a code object's file")
    targets.add_target_option(parser, "run as on these (default: mi300x, or the chip that the file is for)")
    parser.add_argument("--coverage", action="store_true", help="list the instruction forms of FILEs that cannot run")
    parser.add_argument("--races", action="store_true", help="run under several schedules and compare bit for bit")
    parser.add_argument("--quantum", type=int, default=1, help="instructions of a wave before the next one's turn")
    parser.add_argument("--seed", type=int, default=0, help="draw the order of waves and workgroups from this")
    parser.add_argument("--data-seed", type=int, default=0, help="draw the contents of tensors from this")
    parser.add_argument("--kernel", metavar="NAME", help="the kernel of FILE; not needed where there is one")
    parser.add_argument("--grid", metavar="X,Y,Z", default="1", help="workgroups")
    parser.add_argument("--block", metavar="X,Y,Z", default="64", help="work-items of a workgroup")
    parser.add_argument("--lds", type=int, default=0, metavar="BYTES", help="dynamic LDS")
    parser.add_argument("--tensor", action="append", default=[], metavar="NAME=SPEC", help="make a tensor for a struct")
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help="an argument of the kernel")
    parser.add_argument("--trace", metavar="GROUP,WAVE", help="print what a wave executes, and what it writes")
    parser.add_argument("--trace-lines", type=int, default=1000, metavar="N", help="at most so many (default 1000)")
    parser.epilog = kernel_args.__doc__


def _run(args: argparse.Namespace) -> Report:
    options = [word for word in args.words if word.startswith("-")]
    if options:
        raise UsageError(f"unrecognized arguments: {' '.join(options)}")
    words = [*args.what, *args.words]
    if args.coverage:
        return _coverage(words)
    if words[0] in TABLES and not Path(words[0]).is_file():
        return _operator(args, words[0], words[1:])
    if len(words) != 1:
        raise UsageError(f"give one file, or one operator ({', '.join(TABLES)}) with its shape words")
    return _file(args, Path(words[0]))


def _schedule(args: argparse.Namespace) -> Schedule:
    from aiterlite.emulator import Schedule

    if args.quantum < 1 or args.seed < 0:
        raise UsageError("--quantum must be at least 1, and --seed at least 0")
    return Schedule(quantum=args.quantum, seed=args.seed)


# Operators -----------------------------------------------------------------------------------------------------------


def _operator(args: argparse.Namespace, name: str, words: Sequence[str]) -> Report:
    table = TABLES[name]
    problem = targets.parse_words(table, words)
    named = targets.named_personas(args.target) if args.target else {"mi300x": target.resolve("mi300x")}
    for chip, persona in named.items():
        if persona.family != "amd":
            raise UsageError(f"--target: {chip} is no AMD target; allowed: gfx942, gfx950, mi300x, mi308x, mi355x")
    runs = [_run_operator(args, table, problem, chip, persona) for chip, persona in named.items()]
    failed = any((run["of_bound"] is not None and not run["of_bound"] <= 1) or run["races"] for run in runs)
    return Report({"op": name, "problem": asdict(problem), "runs": runs}, "\n".join(map(_render_run, runs)), failed)


def _run_operator(args: argparse.Namespace, table: Any, problem: Any, chip: str, persona: Any) -> dict[str, Any]:
    from aiterlite import emulator
    from aiterlite.ops.samples import sample

    decision = decide(table, problem, persona, targets.wishes())
    if decision.row is None or decision.row.backend == "torch":
        raise UsageError(f"no kernel of this package serves this problem on {chip}:\n{decision}")
    made = sample(table.op, problem, args.data_seed)
    with envs.override(AITERLITE_TARGET=chip):

        def run(schedule: Schedule) -> tuple[Any, Any]:
            with emulator.watching(sanitize=False, schedule=schedule) as seen:
                return made.call(), seen

        y, seen = run(_schedule(args))
        races = []
        if args.races:
            for schedule in emulator.SCHEDULES:
                other = run(schedule)[0]
                if not _same_bits(y, other):
                    races.append(str(schedule))
    return {
        "target": chip,
        "row": decision.row.name,
        "units": [unit.label for unit in decision.units],
        "instructions": sum(report["instructions"] for report in seen.launches),
        "error": made.error(y),
        "of_bound": made.of_bound(y),
        "races": races,
        "schedules": len(emulator.SCHEDULES) + 1 if args.races else 1,
    }


def _same_bits(a: Any, b: Any) -> bool:
    import torch

    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def _render_run(run: dict[str, Any]) -> str:
    verdict = "within" if run["of_bound"] <= 1 else "NOT WITHIN"
    lines = [
        f"{run['target']}: {run['row']} ({run['units'][0]})",
        f"  {run['instructions']} wave-instructions, every memory access inside the operands",
        f"  largest error {run['error']:.2e}, {verdict} the bound ({run['of_bound']:.2f} of it)",
    ]
    if run["schedules"] > 1:
        same = "the same bits under each" if not run["races"] else "OTHER BITS under " + "; ".join(run["races"])
        lines.append(f"  {run['schedules']} schedules: {same}")
    return "\n".join(lines)


# Code objects --------------------------------------------------------------------------------------------------------


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _file(args: argparse.Namespace, path: Path) -> Report:
    import torch

    from aiterlite import emulator

    data = _read(path)
    described = emulator.describe(data)
    named = targets.named_personas(args.target)
    if len(named) > 1:
        raise UsageError("--target: a file runs on one chip")
    persona = next(iter(named.values()), None) or target.resolve(_CHIPS[described["arch"]])
    module = emulator.Device(persona, _schedule(args)).load(data)
    kernel = args.kernel or (next(iter(module.kernels)) if len(module.kernels) == 1 else None)
    if kernel is None:
        raise UsageError(f"--kernel names one of {', '.join(sorted(module.kernels))}")
    generator = torch.Generator().manual_seed(args.data_seed)
    tensors: dict[str, Any] = {}
    for name, text in _pairs(args.tensor, "--tensor"):
        tensors[name] = kernel_args.tensor(text, generator)
    extra = [(t.data_ptr(), t.nbytes, name) for name, t in tensors.items()]
    values = {name: kernel_args.value(text, tensors, name, generator) for name, text in _pairs(args.arg, "--arg")}
    size = {"grid": _numbers(args.grid, "--grid"), "block": _numbers(args.block, "--block")}
    options: dict[str, Any] = {"extra": extra}
    if args.trace:
        group, wave = (*_numbers(args.trace, "--trace"), 0)[:2]
        options |= {"trace": (group, wave), "trace_lines": args.trace_lines}
    if args.races:
        # Tensors that only a struct points to must be restored and compared as well.
        reached = {f"&{name}": t for name, t in tensors.items() if values.get(name) is not t}
        differences = emulator.find_races(
            module, kernel, size["grid"], size["block"], values, args.lds, reached=reached, extra=extra
        )
    report = module.launch(kernel, size["grid"], size["block"], values, args.lds, **options)
    summaries = {name: _summary(t) for name, t in tensors.items()}
    result = {
        "kernel": kernel,
        "target": persona.chip,
        "instructions": report.instructions,
        "tensors": summaries,
        "races": [asdict(item) for item in differences] if args.races else [],
        "trace": report.trace,
    }
    lines = [report.trace.rstrip()] if report.trace else []
    lines.append(f"{kernel} on {persona.chip}: {report.instructions} wave-instructions, every memory access inside")
    lines += [f"  {name}: {_words(summary)}" for name, summary in summaries.items()]
    if args.races:
        lines += [f"  RACE: {d.argument} differs in {d.bytes_different} bytes under {d.schedule}" for d in differences]
        if not differences:
            lines.append(f"  the same bits under {len(emulator.SCHEDULES) + 1} schedules")
    return Report(result, "\n".join(lines), failed=bool(result["races"]))


def _pairs(words: Sequence[str], option: str) -> list[tuple[str, str]]:
    pairs = [(name, text) for name, equals, text in (word.partition("=") for word in words) if equals and name]
    if len(pairs) != len(words) or len({name for name, _ in pairs}) != len(pairs):
        raise UsageError(f"{option} takes NAME=..., each name once")
    return pairs


def _numbers(text: str, option: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not 1 <= len(parts) <= 3 or not all(part.isdecimal() for part in parts):
        raise UsageError(f"{option} is {text!r}; allowed: one to three whole numbers with commas between")
    return tuple(map(int, parts))


def _summary(tensor: Any) -> dict[str, Any]:
    import hashlib

    import torch

    raw = tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    values = tensor.double()
    finite = values[torch.isfinite(values)]
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "least": float(finite.min()) if finite.numel() else None,
        "most": float(finite.max()) if finite.numel() else None,
        "not_finite": int(tensor.numel() - finite.numel()),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }


def _words(summary: dict[str, Any]) -> str:
    span = "" if summary["least"] is None else f", {summary['least']:g} to {summary['most']:g}"
    odd = f", {summary['not_finite']} not finite" if summary["not_finite"] else ""
    return f"{summary['dtype']}{summary['shape']}{span}{odd}, sha256 {summary['sha256'][:12]}"


# Coverage ------------------------------------------------------------------------------------------------------------


def _coverage(files: Sequence[str]) -> Report:
    from aiterlite.emulator import coverage

    found = {file: coverage(_read(Path(file))) for file in files}
    data = {
        "files": {
            file: {**asdict(item), "unknown": [list(place) for place in item.unknown], "complete": item.complete}
            for file, item in found.items()
        }
    }
    lines = []
    for file, item in found.items():
        lines.append(
            f"{file}: {item.target}, {output.plural(item.functions, 'function')}, "
            f"{output.plural(item.instructions, 'instruction')} in {output.plural(len(item.forms), 'form')}; "
            + ("all supported" if item.complete else f"{len(item.refused)} forms refused, {len(item.unknown)} unknown")
        )
        lines += [
            f"  refused: {form.op} {form.encoding}, {form.count} times, as `{form.example}`: {form.refusal}"
            for form in item.refused
        ]
        lines += [f"  unknown: {function} at {pc:#x}: {reason}" for function, pc, reason in item.unknown]
    return Report(data, "\n".join(lines), failed=not all(item.complete for item in found.values()))
