"""Looking for races: the same launch under different schedules must leave the same bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiterlite.emulator.arguments import raw_bytes
from aiterlite.emulator.device import Module, Size
from aiterlite.emulator.schedule import SCHEDULES, Schedule


@dataclass(frozen=True)
class Difference:
    """A tensor that a schedule left with other bits than the default schedule did."""

    schedule: Schedule
    argument: str
    bytes_different: int
    first: int  # byte offset of the first difference


def find_races(
    module: Module,
    kernel: str,
    grid: Size,
    block: Size,
    args: Mapping[str, Any] | Sequence[Any] | bytes,
    lds: int = 0,
    schedules: Sequence[Schedule] = SCHEDULES,
    reached: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[Difference]:
    """Run a launch under several schedules, from the same inputs, and compare every tensor bit for bit.

    `reached` are tensors that the kernel gets to through pointers in memory or in a struct; name them in `extra` too.
    The tensors are left as the default schedule leaves them. Kernels that add floats atomically differ without being
    wrong. Raises what `Module.launch` raises.
    """
    if isinstance(args, Mapping):
        given = dict(args)
    else:
        given = {} if isinstance(args, (bytes, bytearray)) else {f"#{at}": value for at, value in enumerate(args)}
    tensors = {name: value for name, value in given.items() if hasattr(value, "data_ptr")} | dict(reached or {})
    before = {name: value.clone() for name, value in tensors.items()}

    def run(schedule: Schedule) -> dict[str, bytes]:
        for name, value in tensors.items():
            value.copy_(before[name])
        module.launch(kernel, grid, block, args, lds, schedule=schedule, **options)
        return {name: raw_bytes(value) for name, value in tensors.items()}

    expected = run(module.device.schedule)
    found = []
    for schedule in schedules:
        for name, got in run(schedule).items():
            want = expected[name]
            if got != want:
                wrong = [i for i, (a, b) in enumerate(zip(want, got, strict=True)) if a != b]
                found.append(Difference(schedule, name, len(wrong), wrong[0]))
    run(module.device.schedule)
    return found
