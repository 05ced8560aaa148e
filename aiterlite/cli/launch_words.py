"""A launch in words, for `emulate FILE` and `vet`: kernel, geometry, and arguments, or a file that holds them all."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiterlite.cli import kernel_args
from aiterlite.cli.command import UsageError, path

if TYPE_CHECKING:
    from aiterlite.emulator import Module


@dataclass(frozen=True)
class Launch:
    """What `Module.launch` takes. `tensors` are all that there are, by name; `reached` those that no argument is."""

    kernel: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    lds: int
    args: dict[str, Any] | bytes
    tensors: dict[str, Any]
    reached: dict[str, Any]
    extra: list[Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kernel", metavar="NAME", help="the kernel of FILE; not needed where there is one")
    parser.add_argument("--grid", metavar="X,Y,Z", help="workgroups (default: 1, or what --kernarg says)")
    parser.add_argument("--block", metavar="X,Y,Z", help="work-items of a workgroup (default: 64, or as --grid)")
    parser.add_argument("--lds", type=int, metavar="BYTES", help="dynamic LDS (default: 0, or as --grid)")
    parser.add_argument("--tensor", action="append", default=[], metavar="NAME=SPEC", help="a tensor to be pointed to")
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help="an argument of the kernel")
    parser.add_argument("--kernarg", type=path, metavar="FILE", help="replay a launch that was written to a file")
    parser.add_argument("--data-seed", type=int, default=0, help="draw the contents of tensors from this")
    parser.epilog = kernel_args.__doc__


def launch(args: argparse.Namespace, module: Module) -> Launch:
    """The launch that the words describe. Raises `UsageError`, and `KernelArgumentError` for a file that is wrong."""
    return _stored(args, module) if args.kernarg else _spelled(args, module)


def _spelled(args: argparse.Namespace, module: Module) -> Launch:
    import torch

    generator = torch.Generator().manual_seed(args.data_seed)
    tensors: dict[str, Any] = {}
    for name, text in pairs(args.tensor, "--tensor"):
        tensors[name] = kernel_args.tensor(text, generator, tensors)
    extra = [(t.data_ptr(), t.nbytes, name) for name, t in tensors.items()]
    values = {name: kernel_args.value(text, tensors, name, generator) for name, text in pairs(args.arg, "--arg")}
    return Launch(
        kernel=_kernel(args.kernel, module),
        grid=numbers(args.grid or "1", "--grid"),
        block=numbers(args.block or "64", "--block"),
        lds=args.lds or 0,
        args=values,
        tensors=tensors,
        # Tensors that only a struct or another tensor points to must be restored and compared as well.
        reached={f"&{name}": t for name, t in tensors.items() if values.get(name) is not t},
        extra=extra,
    )


def _stored(args: argparse.Namespace, module: Module) -> Launch:
    from aiterlite.emulator import launch_file

    if args.arg or args.tensor:
        raise UsageError("--kernarg holds all arguments: leave out --arg and --tensor, or change them in its files")
    stored = launch_file.read(args.kernarg)
    return Launch(
        kernel=_kernel(args.kernel or stored.kernel or None, module),
        grid=numbers(args.grid, "--grid") if args.grid else stored.grid,
        block=numbers(args.block, "--block") if args.block else stored.block,
        lds=stored.lds if args.lds is None else args.lds,
        args=stored.kernarg,
        tensors=stored.tensors,
        reached=stored.tensors,
        extra=list(stored.memory),
    )


def _kernel(name: str | None, module: Module) -> str:
    if name is None and len(module.kernels) != 1:
        raise UsageError(f"--kernel names one of {', '.join(sorted(module.kernels))}")
    return name or next(iter(module.kernels))


def saves(words: Sequence[str], tensors: Mapping[str, Any]) -> dict[str, Path]:
    """The files of `NAME=FILE` words, by the tensors that go there; asked for before the run. Raises `UsageError`."""
    named = {name: path(file) for name, file in pairs(words, "--save")}
    for name in named:
        if name not in tensors:
            raise UsageError(f"--save: no tensor {name!r}; there are {', '.join(tensors) or 'none'}")
    return named


def pairs(words: Sequence[str], option: str) -> list[tuple[str, str]]:
    found = [(name, text) for name, equals, text in (word.partition("=") for word in words) if equals and name]
    if len(found) != len(words) or len({name for name, _ in found}) != len(found):
        raise UsageError(f"{option} takes NAME=..., each name once")
    return found


def numbers(text: str, option: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not 1 <= len(parts) <= 3 or not all(part.isdecimal() for part in parts):
        raise UsageError(f"{option} is {text!r}; allowed: one to three whole numbers with commas between")
    return tuple(map(int, parts))
