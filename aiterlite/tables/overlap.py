"""Kernels that may start before those ahead of them on their stream have ended: sm_90's programmatic dependent launch.

A unit with `DEFINE` is such a kernel (csrc/include/aiterlite/overlap.h). The launcher reads the same define, so that no
kernel is launched so that does not wait for what it reads.
"""

from __future__ import annotations

from aiterlite.jit.spec import Unit
from aiterlite.target import launch_target

DEFINE = ("AITERLITE_OVERLAP", "1")
_TARGETS = ("sm_90a",)
_SYMBOLS = ("aiterlite_overlap_abi", "aiterlite_overlap_bind", "aiterlite_launch_overlapped")


def defines(target: str) -> dict[str, str]:
    """What a kernel that waits for its predecessors is compiled with for a target."""
    return dict((DEFINE,)) if target in _TARGETS else {}


def overlaps(unit: Unit) -> bool:
    return DEFINE in unit.defines


def host_unit() -> Unit:
    """The host unit of overlapped launches."""
    return Unit("launch", ("csrc/launch/overlap.cpp",), launch_target(), symbols=_SYMBOLS)


def with_launch(units: tuple[Unit, ...]) -> tuple[Unit, ...]:
    """Units of a call, and what launches them overlapped where they can be."""
    return (*units, host_unit()) if any(map(overlaps, units)) else units
