"""In which order things run that the hardware leaves open."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """How a launch is run.

    `quantum` is how many instructions a wave runs before the next one's turn: 1 keeps the waves of a workgroup as close
    as hardware does. With a `seed` it is the most, and both it and the order of workgroups are drawn. `threads` 0 means
    all host cores, or one where the order of workgroups shows in the result (float or returning atomics). `fill` is the
    value that registers, LDS and scratch start with.
    """

    quantum: int = 1
    seed: int = 0
    threads: int = 0
    fill: int = 0


# Waves further apart than by default, workgroups in other orders, memory that starts as something else than zero.
SCHEDULES = (
    Schedule(quantum=16),
    Schedule(quantum=64),
    Schedule(quantum=1 << 20),
    Schedule(quantum=16, seed=1),
    Schedule(quantum=256, seed=2),
    Schedule(quantum=7, seed=3, fill=0x7FC0_5A5A),
)
