"""What one launch is: a kernel, its geometry, and what its argument struct holds. Pure.

A dispatch decision carries the kernels of its call in launch order. `explain`, `build`, the recorded manifest, the
emulator, the counters and the launch all read that one list.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiterlite.jit.arguments import ArgumentStruct, Layout
from aiterlite.jit.spec import HOST, Unit
from aiterlite.target import launch_target

Three = tuple[int, int, int]
# The operand that names a call's workspace.
WORKSPACE = "workspace"


@dataclass(frozen=True)
class Operand:
    """An address that a call brings: that of the tensor of this name, or `offset` bytes behind it."""

    name: str
    offset: int = 0


Value = int | float | Operand


@dataclass(frozen=True)
class TensorMap:
    """A tensor as sm_90's copy engine sees it, in the field `field` of an argument struct.

    `address` is the field that holds the tensor's address. `sizes`, and the `box` that one copy takes, are in elements,
    innermost dimension first; `strides` are in elements too, one for each outer dimension. Sizes and strides are
    numbers, or names of what the call brings. The stride of a dimension of one element may be anything.
    """

    field: str
    address: str
    dtype: str
    sizes: tuple[int | str, ...]
    strides: tuple[int | str, ...]
    box: tuple[int, ...]
    swizzle_bytes: int = 128


@dataclass(frozen=True)
class Workspace:
    """Device memory that a call needs besides its operands.

    It has `total` bytes, the first `zeroed` of which are zero when the first kernel begins and when the last one ends.
    `kind` keeps apart calls whose zeroed parts differ in meaning.
    """

    kind: str
    zeroed: int
    total: int


@dataclass(frozen=True)
class Kernel:
    """One launch of a call.

    `symbol` is the kernel's name in `unit`. `grid` counts workgroups and `block` work-items of one, both empty for a
    kernel that runs on the CPU; `lds` is dynamic shared memory in bytes, `cluster` the workgroups of a cluster along x.
    `args` are fields of the struct and what the plan puts there; every other field takes what the call brings under the
    field's own name: an operand's address, or a size.
    """

    unit: Unit
    symbol: str
    arguments: ArgumentStruct
    grid: Three | tuple[()] = ()
    block: Three | tuple[()] = ()
    lds: int = 0
    cluster: int = 1
    args: Mapping[str, Value] = field(default_factory=dict)
    maps: tuple[TensorMap, ...] = ()

    @functools.cached_property
    def layout(self) -> Layout:
        """The layout of its argument struct, read from the header once."""
        return self.arguments.layout()

    @property
    def on_host(self) -> bool:
        return self.unit.kind == HOST

    @property
    def overlaps(self) -> bool:
        """Whether it may start before those ahead of it on its stream have ended."""
        return OVERLAP in self.unit.defines

    def to_json(self) -> dict[str, Any]:
        return {
            "unit": self.unit.label,
            "symbol": self.symbol,
            "grid": list(self.grid),
            "block": list(self.block),
            "lds": self.lds,
            "cluster": self.cluster,
        }

    def __str__(self) -> str:
        if self.on_host:
            return f"{self.symbol} on the CPU"
        lds = f", {self.lds} bytes of LDS" if self.lds else ""
        cluster = f", clusters of {self.cluster}" if self.cluster > 1 else ""
        return f"{self.symbol} grid {_by(self.grid)}, block {_by(self.block)}{lds}{cluster}"


def _by(sizes: tuple[int, ...]) -> str:
    """`304` or `16 x 8 x 2`: trailing ones say nothing."""
    shown = list(sizes)
    while len(shown) > 1 and shown[-1] == 1:
        shown.pop()
    return " x ".join(map(str, shown))


def along_x(count: int) -> Three:
    """A grid or block of one dimension."""
    return count, 1, 1


# A kernel with this define may start before those ahead of it on its stream have ended: sm_90's programmatic dependent
# launch. The define makes it wait for what it reads (csrc/include/aiterlite/overlap.h), and the launch checks the same
# define, so only a kernel that waits starts early.
OVERLAP = ("AITERLITE_OVERLAP", "1")
_OVERLAP_TARGETS = ("sm_90a",)


def overlap_defines(target: str) -> dict[str, str]:
    """The defines that make a kernel wait for its predecessors on a target."""
    return dict((OVERLAP,)) if target in _OVERLAP_TARGETS else {}


LAUNCH_SYMBOL = "aiterlite_launch"


def launch_unit() -> Unit:
    """The host unit that launches every GPU kernel."""
    return Unit("launch", ("csrc/launch/launch.cpp",), launch_target(), symbols=(LAUNCH_SYMBOL,))


def units_of(kernels: Iterable[Kernel]) -> tuple[Unit, ...]:
    """What must be built for kernels to be launched, each once."""
    units = dict.fromkeys(kernel.unit for kernel in kernels)
    if any(unit.kind != HOST for unit in units):
        units[launch_unit()] = None
    return tuple(units)
