"""Options that benchmarks share. A wrong one is an error of the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch

from aiterlite import dispatch
from aiterlite.dispatch import Decision
from aiterlite.errors import ArgumentError
from aiterlite.tables import TABLES
from aiterlite.target import Persona, persona_for
from aiterlite.wishes import wishes


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda or cuda:N"
    )


def add_samples(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--samples", type=count, default=default, metavar="N", help=f"of each time (default: {default})"
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", help="a file for the JSON; else it is printed")


def write_output(data: Any, output: str | None) -> None:
    """As `add_output` says."""
    text = json.dumps(data, indent=1)
    if output:
        with open(output, "w") as file:
            file.write(text + "\n")
    else:
        print(text)


def count(text: str) -> int:
    if not (text.strip().isascii() and text.strip().isdecimal() and len(text) < 10 and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def counts(text: str) -> list[int]:
    return [count(part) for part in text.split(",")]


def pair(names: str) -> Callable[[str], tuple[int, int]]:
    """A parser of two numbers, which its errors call by these names, such as `M,K`."""

    def read(text: str) -> tuple[int, int]:
        numbers = counts(text)
        if len(numbers) != 2:
            raise argparse.ArgumentTypeError(f"{text!r} is not {names}; give two numbers, such as 2112,7168")
        return numbers[0], numbers[1]

    return read


def device(text: str) -> torch.device:
    try:
        found = torch.device(text)
    except RuntimeError:
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{text!r} is no device to measure on; allowed: cpu, cuda, cuda:N")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"{text!r} is not here: torch sees {torch.cuda.device_count()} GPUs")
    return found


def timed_persona(command: str, device: torch.device) -> Persona:
    """The persona of a device. Raises `ArgumentError` where AITERLITE_TARGET makes a CPU emulate a GPU, whose time says
    nothing."""
    persona = persona_for(device.type, device.index)
    if device.type == "cpu" and persona.family != "cpu":
        raise ArgumentError(command, "--device", f"cpu, emulating {persona.chip}", "a device that can be timed")
    return persona


def decision_of(op: str, problem: Any, device: torch.device) -> Decision:
    """The decision that a call of an operator with this problem on this device would take."""
    return dispatch.decide(TABLES[op], problem, persona_for(device.type, device.index), wishes())
