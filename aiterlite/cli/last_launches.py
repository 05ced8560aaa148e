"""last-launches: what a process launched before it ended, from the record that AITERLITE_LAST_LAUNCHES keeps."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiterlite import envs
from aiterlite.cli import output
from aiterlite.cli.command import Commands, Report, UsageError, command
from aiterlite.launch import record

_HEADERS = ("launch", "before the last", "kernel", "grid", "block", "LDS", "chosen by")


def add(commands: Commands) -> None:
    parser = command(commands, "last-launches", "show what a process launched last, from the record that it left", _run)
    parser.add_argument(
        "file",
        nargs="?",
        default="",
        help="a record, or a directory, whose newest record it is then (default: AITERLITE_LAST_LAUNCHES)",
    )
    parser.add_argument("--last", type=int, default=0, metavar="N", help="only the last N launches (default: all)")


def _run(args: argparse.Namespace) -> Report:
    if args.last < 0:
        raise UsageError(f"--last is {args.last}; allowed: 0 (all) and more")
    path = _path(args.file or envs.LAST_LAUNCHES.get())
    try:
        contents = record.read(path)
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    data = gather(path, contents, args.last)
    return Report(data, render(data))


def _path(text: str) -> Path:
    if not text:
        raise UsageError("name a record or its directory, or set AITERLITE_LAST_LAUNCHES to that directory")
    path = Path(text)
    if not path.exists():
        remedy = f"a process that launches GPU kernels with AITERLITE_LAST_LAUNCHES={path} makes it"
        raise UsageError(f"{path} does not exist; {remedy}")
    if not path.is_dir():
        return path
    newest = record.newest(path)
    if newest is None:
        raise UsageError(f"{path} holds no record; run the process with AITERLITE_LAST_LAUNCHES={path}")
    return newest


def gather(path: Path, contents: record.Contents, last: int) -> dict[str, Any]:
    launches = contents.launches[-last:] if last else contents.launches
    return {
        "file": str(path),
        "process": contents.process,
        "command": contents.command,
        "started": _utc(contents.started_ns),
        "torn": contents.torn,
        "launches": [
            {
                "number": launch.number,
                "time": _utc(launch.time_ns),
                "seconds_before_last": (contents.launches[-1].time_ns - launch.time_ns) / 1e9,
                "thread": launch.thread,
                "kernel": launch.kernel,
                "grid": list(launch.grid),
                "block": list(launch.block),
                "lds_bytes": launch.lds_bytes,
                "decision": launch.decision,
                "argument_bytes": launch.argument_bytes,
                "arguments": launch.arguments.hex(),
            }
            for launch in launches
        ],
    }


def _utc(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest // 1000:06d}Z"


def render(data: Mapping[str, Any]) -> str:
    lines = [f"process {data['process']}, started {data['started']}: {data['command']}"]
    if not data["launches"]:
        return "\n".join([*lines, "it launched nothing", *_torn(data)])
    rows = [
        (
            str(item["number"]),
            f"{item['seconds_before_last'] * 1000:.3f} ms",
            item["kernel"],
            _triple(item["grid"]),
            _triple(item["block"]),
            f"{item['lds_bytes']} B",
            item["decision"],
        )
        for item in data["launches"]
    ]
    lines += ["", output.table(_HEADERS, rows, right=("launch", "before the last")), ""]
    item = data["launches"][-1]
    shown = len(item["arguments"]) // 2
    cut = f", the first {shown}" if shown < item["argument_bytes"] else ""
    lines += [f"arguments of launch {item['number']} ({output.plural(item['argument_bytes'], 'byte')}{cut}):"]
    lines += [f"  {at:#05x}  {_words(bytes.fromhex(item['arguments'])[at : at + 32])}" for at in range(0, shown, 32)]
    lines += ["", "launches are asynchronous: the one that faulted is the last or one of those before it", *_torn(data)]
    return "\n".join(lines)


def _torn(data: Mapping[str, Any]) -> list[str]:
    count = data["torn"]
    return [f"{output.plural(count, 'slot')} torn: the process ended while it wrote there"] if count else []


def _triple(sizes: list[int]) -> str:
    return " x ".join(map(str, sizes))


def _words(data: bytes) -> str:
    """As 8-byte numbers, which addresses are."""
    return " ".join(f"{int.from_bytes(data[at : at + 8], 'little'):016x}" for at in range(0, len(data), 8))
