"""`emulate FILE`: one kernel of any gfx942 or gfx950 code object."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiterlite import target
from aiterlite.cli import emulate_watch as watch
from aiterlite.cli import kernel_args, targets
from aiterlite.cli.command import Report, UsageError


def read(path: Path) -> bytes:
    """The bytes of a file. Raises `UsageError`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def run(args: argparse.Namespace, path: Path) -> Report:
    """Run one kernel of a code object on arguments given in words."""
    import torch

    from aiterlite import emulator

    data = read(path)
    described = emulator.describe(data)
    named = targets.named_personas(args.target)
    if len(named) > 1:
        raise UsageError("--target: a file runs on one chip")
    persona = next(iter(named.values()), None) or target.resolve(described["arch"])
    module = emulator.Device(persona, watch.schedule(args)).load(data)
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
    options: dict[str, Any] = {"extra": extra, "sanitize": watch.checks(args), "counters": args.counters}
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
        "findings": [asdict(finding) for finding in report.findings],
        "counters": report.counters,
        "trace": report.trace,
    }
    lines = [report.trace.rstrip()] if report.trace else []
    lines.append(f"{kernel} on {persona.chip}: {report.instructions} wave-instructions, every memory access inside")
    lines += [f"  {name}: {_words(summary)}" for name, summary in summaries.items()]
    if args.races:
        lines += [f"  RACE: {d.argument} differs in {d.bytes_different} bytes under {d.schedule}" for d in differences]
        if not differences:
            lines.append(f"  the same bits under {len(emulator.SCHEDULES) + 1} schedules")
    lines += watch.lines(args, report.findings, [report.counters] if args.counters else [], persona)
    return Report(result, "\n".join(lines), failed=bool(result["races"] or report.findings))


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
