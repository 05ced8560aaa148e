"""What a row of an assembly manifest says, and the dispatch row that it becomes. No family is known here.

A family's manifest is a file of its own (gemm_asm.py). Dispatch tables and `aiterlite build --check-asm` read its rows;
nothing else knows which assembly kernels there are, what they take, and what their objects must be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from aiterlite import hardware
from aiterlite.dispatch import Between, OneOf, Requirement, Row, Targets
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel
from aiterlite.target import Persona

# Below compiled kernels (0) and above torch: an assembly kernel serves where it is asked for, or where nothing else of
# this package does, until counters show which is better.
PREFERENCE = -1

# gfx950 has as many waves, SIMDs and registers as gfx942.
_ARCH = hardware.ARCHITECTURES["gfx942"]
WAVE_SIZE, SIMDS = _ARCH.wave_size, _ARCH.simds


@dataclass(frozen=True)
class AsmVariant:
    """One set of a kernel's knobs, and what the object that they give must be.

    `tile` is what one workgroup makes, in the family's terms. A workgroup has `waves` waves, takes at most `lds_bytes`
    of LDS, and leaves registers for `waves_per_simd` waves on a SIMD. Raises `ValueError` for what no object could
    meet.
    """

    defines: tuple[tuple[str, str], ...]
    tile: tuple[int, ...]
    waves: int
    waves_per_simd: int
    lds_bytes: int

    def __post_init__(self) -> None:
        most = _ARCH.largest_workgroup // WAVE_SIZE
        if not 1 <= self.waves <= most:
            raise ValueError(f"waves is {self.waves}; a workgroup has 1 to {most}")
        least = -(-self.waves // SIMDS)
        if not least <= self.waves_per_simd <= _ARCH.waves_per_simd:
            raise ValueError(
                f"waves_per_simd is {self.waves_per_simd}; a workgroup of {self.waves} waves needs {least}, and a SIMD "
                f"holds {_ARCH.waves_per_simd}"
            )

    @property
    def block(self) -> int:
        """Threads of a workgroup."""
        return self.waves * WAVE_SIZE

    @property
    def max_vgprs(self) -> int:
        """The registers, arch and accumulation together, that leave room for `waves_per_simd` waves."""
        return _ARCH.lane_registers // self.waves_per_simd // _ARCH.register_granule * _ARCH.register_granule


@dataclass(frozen=True)
class AsmKernel:
    """An assembly kernel: its source, what it serves, and how it is called.

    `name` is that of its row in a dispatch table, where `rows` does not name others that launch it; `unit` that of its
    units, `symbol` the kernel's in the object.
    `tokens` (a range, both ends included) and `heads` say what problems it takes, None where that does not apply;
    `requires` is what else a problem must be. `vskip` says that it uses s_setvskip. `dtype_define` is the define that
    takes the problem's dtype, for a kernel that is assembled for one of several. `variants` gives those that the check
    assembles for a target: the ones that its family's plan makes of the models' shapes, for each dtype.
    """

    name: str
    unit: str
    symbol: str
    source: str
    targets: tuple[str, ...]
    arguments: ArgumentStruct
    dtypes: tuple[str, ...]
    variants: Callable[[str], tuple[AsmVariant, ...]]
    tokens: tuple[int, int] | None = None
    heads: tuple[int, ...] | None = None
    vskip: bool = False
    requires: tuple[Requirement, ...] = ()
    dtype_define: str = ""
    rows: tuple[str, ...] = ()

    def for_dtype(self, variant: AsmVariant, dtype: str) -> AsmVariant:
        """A plan's variant as a problem of this dtype needs it."""
        if not self.dtype_define:
            return variant
        return replace(variant, defines=(*variant.defines, (self.dtype_define, dtype)))

    def device_unit(self, variant: AsmVariant, target: str) -> Unit:
        return Unit(
            self.unit,
            (self.source,),
            target,
            defines=variant.defines,
            symbols=(self.symbol,),
            arguments=self.arguments.spec,
        )


def dispatch_row(
    kernel: AsmKernel,
    common: tuple[Requirement, ...],
    plan: Callable[[Any, Persona], Any],
    variant: Callable[[Any], AsmVariant],
    launch: Callable[[Unit, str, Any, Any], tuple[Kernel, ...]],
) -> Row:
    """The row of a kernel in its family's dispatch table.

    `common` is what the whole family needs of a problem, `plan` gives the launch of one, `variant` what a plan is
    assembled as, the dtype aside, and `launch` the launches of (unit, symbol, problem, plan).
    """
    requires: list[Requirement] = [Targets(kernel.targets), OneOf("dtype", kernel.dtypes)]
    if kernel.tokens is not None:
        requires.append(Between("n", *kernel.tokens))
    if kernel.heads is not None:
        requires.append(OneOf("heads", kernel.heads))

    def kernels(problem: Any, persona: Persona, plan: Any) -> tuple[Kernel, ...]:
        chosen = kernel.for_dtype(variant(plan), problem.dtype)
        return launch(kernel.device_unit(chosen, persona.target), kernel.symbol, problem, plan)

    return Row(
        name=kernel.name,
        backend="asm",
        requires=(*requires, *kernel.requires, *common),
        preference=PREFERENCE,
        plan=plan,
        kernels=kernels,
        vskip=kernel.vskip,
    )
