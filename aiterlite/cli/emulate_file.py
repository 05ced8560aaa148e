"""`emulate FILE`: one kernel of any gfx942 or gfx950 code object."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiterlite import target
from aiterlite.cli import emulate_show as show
from aiterlite.cli import emulate_watch as watch
from aiterlite.cli import estimates, kernel_args, launch_words, targets
from aiterlite.cli.command import Report, UsageError


def read(path: Path) -> bytes:
    """The bytes of a file. Raises `UsageError`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def run(args: argparse.Namespace, path: Path) -> Report:
    """Run one kernel of a code object on arguments given in words."""
    from aiterlite import emulator

    data = read(path)
    described = emulator.describe(data)
    named = targets.named_personas(args.target)
    if len(named) > 1:
        raise UsageError("--target: a file runs on one chip")
    persona = next(iter(named.values()), None) or target.resolve(described["arch"])
    module = emulator.Device(persona, watch.schedule(args)).load(data)
    made = launch_words.launch(args, module)
    saves = launch_words.saves(args.save, made.tensors)
    options: dict[str, Any] = {
        "extra": made.extra,
        "sanitize": watch.checks(args),
        "counters": show.counts(args),
        "timeline": show.workgroup(args),
        "only": args.only,
    }
    if args.trace:
        group, wave = (*launch_words.numbers(args.trace, "--trace"), 0)[:2]
        options |= {"trace": (group, wave), "trace_lines": args.trace_lines}
    where = (made.kernel, made.grid, made.block, made.args, made.lds)
    if args.dump_kernarg:
        options["dump"] = args.dump_kernarg
    if args.races:
        before = {name: tensor.clone() for name, tensor in made.tensors.items()}
        differences = emulator.find_races(module, *where, reached=made.reached, extra=made.extra)
        for name, tensor in made.tensors.items():
            tensor.copy_(before[name])
    report = module.launch(*where, **options)
    for name, file in saves.items():
        kernel_args.write_tensor(made.tensors[name], file)
    found = watch.judge(args, report.findings)
    estimate, told = estimates.of_run(args, [report.counters] if args.estimate else [], persona)
    shown = {"kernel": made.kernel, "counters": report.counters, "timeline": report.timeline}
    told += show.write(args, f"{path.name}: {made.kernel}", persona, [shown], report.findings)
    summaries = {name: _summary(t) for name, t in made.tensors.items()}
    result = {
        "kernel": made.kernel,
        "target": persona.chip,
        "instructions": report.instructions,
        "tensors": summaries,
        "races": [asdict(item) for item in differences] if args.races else [],
        **watch.data(found),
        "notes": list(report.notes),
        "counters": report.counters,
        "estimate": estimate,
        "trace": report.trace,
        "saved": {name: str(file) for name, file in saves.items()},
    }
    lines = [report.trace.rstrip()] if report.trace else []
    lines.append(
        f"{made.kernel} on {persona.chip}: {report.instructions} wave-instructions, every memory access inside"
    )
    if args.only:
        lines.append(f"  at most {args.only} workgroups ran: what the tensors hold is not the launch's result")
    lines += [f"  {name}: {_words(summary)}" for name, summary in summaries.items()]
    lines += [f"  {name} saved as {file}" for name, file in saves.items()]
    lines += [f"  launch written to {args.dump_kernarg}"] if args.dump_kernarg else []
    if args.races:
        lines += [f"  RACE: {d.argument} differs in {d.bytes_different} bytes under {d.schedule}" for d in differences]
        if not differences:
            lines.append(f"  the same bits under {len(emulator.SCHEDULES) + 1} schedules")
    lines += [f"  {line}" for line in told]
    lines += watch.lines(args, found, [report.counters] if args.counters else [], persona, report.notes)
    return Report(result, "\n".join(lines), failed=bool(result["races"] or found.new))


def _summary(tensor: Any) -> dict[str, Any]:
    import hashlib

    import torch

    from aiterlite.emulator.arguments import raw_bytes

    values = tensor.double()
    finite = values[torch.isfinite(values)]
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "least": float(finite.min()) if finite.numel() else None,
        "most": float(finite.max()) if finite.numel() else None,
        "not_finite": int(tensor.numel() - finite.numel()),
        "sha256": hashlib.sha256(raw_bytes(tensor)).hexdigest(),
    }


def _words(summary: dict[str, Any]) -> str:
    span = "" if summary["least"] is None else f", {summary['least']:g} to {summary['most']:g}"
    odd = f", {summary['not_finite']} not finite" if summary["not_finite"] else ""
    return f"{summary['dtype']}{summary['shape']}{span}{odd}, sha256 {summary['sha256'][:12]}"
