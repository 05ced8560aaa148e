"""replay: calls that AITERLITE_LOG_CALLS wrote down, run again and held against the kernels for CPUs."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiterlite.cli import output, targets
from aiterlite.cli.command import Commands, Report, UsageError, command, path

if TYPE_CHECKING:
    from aiterlite.replay import Outcome

_TOLERANCE = 0.02


def add(commands: Commands) -> None:
    parser = command(commands, "replay", "run logged calls again, and hold them against the kernels for CPUs", _run)
    parser.add_argument("file", type=path, help="what AITERLITE_LOG_CALLS wrote")
    parser.add_argument("--last", type=int, default=0, metavar="N", help="only the last N calls (default: all)")
    parser.add_argument("--call", type=int, default=0, metavar="NUMBER", help="only the call of this number")
    parser.add_argument("--op", default="", help="only calls of this operator")
    parser.add_argument(
        "--target", default="", help="run them as this target: an AMD chip is emulated (default: as on this device)"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where operands lie")
    parser.add_argument("--no-sanitize", action="store_true", help="emulate without the sanitizers")
    parser.add_argument(
        "--tolerance",
        type=_share,
        default=_TOLERANCE,
        help=f"relative difference of an output that is still right (default: {_TOLERANCE})",
    )
    parser.add_argument("--list", action="store_true", help="only list the calls")


def _run(args: argparse.Namespace) -> Report:
    from aiterlite.ops import call_file, call_log
    from aiterlite.replay import replay

    if args.last < 0 or args.call < 0:
        raise UsageError("--last and --call are numbers from 1; 0 is all")
    target = _target(args.target, args.device)
    try:
        calls = call_file.read(Path(args.file))
        calls = [c for c in calls if args.call in (0, c.number) and args.op in ("", c.op)][-args.last :]
        if not calls:
            raise UsageError(f"{args.file} has no such call")
        if args.list:
            data = {"file": str(args.file), "calls": [{"number": c.number, "op": c.op, **_shown(c)} for c in calls]}
            return Report(data, _list(calls))
        _check_device(args.device)
        folder = call_log.folder_of(Path(args.file))
        outcomes = [replay(call, folder, target, args.device, not args.no_sanitize) for call in calls]
    except call_file.CallFileError as error:
        raise UsageError(str(error)) from error
    right = [outcome.is_right(args.tolerance) for outcome in outcomes]
    data = {
        "file": str(args.file),
        "target": target,
        "calls": [_data(*item) for item in zip(outcomes, right, strict=True)],
    }
    return Report(data, _text(outcomes, right), not all(right))


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; allowed: 0 and more, such as {_TOLERANCE}")
    return share


def _target(text: str, device: str) -> str:
    """The target to run as; empty: as the device."""
    if not text:
        return ""
    found = targets.named_personas([text])
    if len(found) > 1:
        raise UsageError(f"--target names {', '.join(found)}; calls are replayed as one: replay them once for each")
    name, persona = next(iter(found.items()))
    where = {"amd": "cpu", "cpu": "cpu", "cuda": "cuda"}.get(persona.family, device)
    if where != device:
        how = "only a GPU runs its code: --device cuda" if where == "cuda" else "it runs on CPU tensors: --device cpu"
        raise UsageError(f"--target {name} beside --device {device}; {how}")
    return name


def _check_device(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no GPU here; --device cpu replays on CPU tensors")


def _shown(call: Any) -> dict[str, Any]:
    return {"process": call.process, "decisions": call.decisions, "refused": call.refused, "operands": _operands(call)}


def _operands(call: Any) -> str:
    """`bf16`-like words for each tensor: `bfloat16[4, 7168]`."""
    items = [*call.arguments, *call.keywords.values()]
    return " ".join(f"{i['tensor']}{i['shape']}" for i in items if isinstance(i, dict) and "tensor" in i)


def _list(calls: list[Any]) -> str:
    rows = [(str(c.number), str(c.process), c.op, _operands(c), "; ".join(c.decisions) or c.refused) for c in calls]
    return output.table(("call", "process", "operator", "operands", "decided"), rows, right=("call",))


def _data(outcome: Outcome, right: bool) -> dict[str, Any]:
    return {
        "number": outcome.call.number,
        "op": outcome.call.op,
        "right": right,
        "made_up": outcome.made_up,
        "refused": outcome.refused,
        "failed": outcome.failed,
        "differences": {name: asdict(difference) for name, difference in outcome.differences.items()},
        "findings": [asdict(finding) for finding in outcome.findings],
    }


def _text(outcomes: list[Outcome], right: list[bool]) -> str:
    from aiterlite.emulator import grouping

    lines = []
    for outcome, is_right in zip(outcomes, right, strict=True):
        call = outcome.call
        lines.append(f"{call.number} {call.op} {_operands(call)}: {'right' if is_right else 'WRONG'}")
        lines += [f"  {outcome.failed}"] if outcome.failed else []
        lines += [f"  refused, as it was: {outcome.refused}"] if outcome.refused else []
        for name, difference in outcome.differences.items():
            said = (
                "the same" if not difference.unlike else f"{difference.unlike} unlike, {difference.relative:.1e} apart"
            )
            lines.append(f"  {name}: {said}{', NaN or infinity in one of the two' if difference.broken else ''}")
        if outcome.made_up:
            lines.append(
                f"  values of {output.plural(outcome.made_up, 'operand')} made up (AITERLITE_LOG_TENSORS keeps them)"
            )
        if outcome.findings:
            lines.append(f"  FOUND {grouping.summary(outcome.findings)}")
            lines += ["  " + line for line in grouping.lines(outcome.findings, 20, grouping.WIDTH - 2)]
    return "\n".join(lines)
