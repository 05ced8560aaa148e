"""demo: a small DeepSeek model generates tokens here, beside plain torch, and as AMD machine code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from aiterlite import demo
from aiterlite.cli import output
from aiterlite.cli.command import Commands, Report, UsageError, command
from aiterlite.cli.targets import add_target_option, named_personas


def add(commands: Commands) -> None:
    parser = command(commands, "demo", "generate tokens with a small random DeepSeek model, beside plain torch", _run)
    add_target_option(parser, "make one decode step as machine code of these too, in the emulator")


def _run(args: argparse.Namespace) -> Report:
    named = named_personas(args.target)
    for name, persona in named.items():
        if persona.family != "amd":
            raise UsageError(f"--target {name}: the emulator runs the code of gfx942 and gfx950 and their chips")
    data = demo.run(list(named), lambda said: output.emit(f"aiterlite: {said}", sys.stderr))
    return Report(data, render(data), failed=not data["ok"])


def render(data: Mapping[str, Any]) -> str:
    lines = [_units(data)]
    if "rates" in data:
        lines += ["", *_rates(data)]
    lines += [f"FAILED: {error}" for error in data["errors"]]
    return "\n".join(lines)


def _units(data: Mapping[str, Any]) -> str:
    rows = []
    for item in data["units"]:
        built = "cached" if item["seconds"] is None else f"{item['seconds']:.2f} s"
        served: dict[str, None] = dict.fromkeys(text.partition(": ")[2] or text for text in item["serves"])
        rows.append((item["unit"].split("[")[0], item["target"], built, _some(list(served))))
    return output.pretty_table(("unit", "target", "built", "serves"), rows, right=("built",))


def _some(served: list[str]) -> str:
    """The library that launches all kernels would list them all."""
    return ", ".join(served) if len(served) <= 4 else f"{len(served)} operators and rows"


def _rates(data: Mapping[str, Any]) -> list[str]:
    model, apart = data["model"], data["distance"]
    rows = [
        (name, *(f"{data[kind][key]:.0f}" for kind in ("prompt_rates", "rates")))
        for name, key in (("aiterlite", "aiterlite"), ("plain torch, same weights", "torch"))
    ]
    lines = [
        f"DeepSeek-V3 of {model['num_hidden_layers']} layers, {model['hidden_size']} wide, {model['n_routed_experts']} "
        f"experts, random weights; {data['requests']} requests of {data['prompt']} on {data['persona']}, "
        f"{output.plural(data['threads'], 'thread')}",
        output.pretty_table(("", "prompt, 1/s", "generated, 1/s"), rows, right=("prompt, 1/s", "generated, 1/s")),
        f"generates {data['speedup']:.1f} times as fast; {apart['agreement']:.1%} of the likeliest words are plain "
        f"torch's, log-probabilities {apart['mean_difference']:.4f} apart on average",
        f"the first request: {' '.join(map(str, data['tokens'][0][:12]))} ...",
    ]
    for item in data["emulated"]:
        found = item["distance"]
        lines.append(
            f"one step as {item['target']} machine code: {found['agreement']:.0%} of the likeliest words are as here, "
            f"log-probabilities at most {found['largest_difference']:.4f} apart; emulated in {item['seconds']:.1f} s, "
            "which says nothing of a GPU"
        )
    return lines
