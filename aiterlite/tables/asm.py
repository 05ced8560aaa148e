"""The manifest of the assembly kernels. Dispatch tables, `aiterlite build --check-asm` and launches read these rows;
nothing else knows which assembly kernels there are, what they take, and what their objects must be.

An argument struct is declared here once more than in C++, because assembly spells its offsets. The host unit that fills
it exports its own layout; `check-asm` and every launch hold the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from aiterlite.amdgpu.kernarg import Argument, KernargLayout
from aiterlite.dispatch import Between, Holds, OneOf, Requirement, Row, Targets
from aiterlite.jit.spec import Unit
from aiterlite.tables.gemm_plan import SHAPES, TILE_ROWS, TOKENS, Tiling, tiling
from aiterlite.target import Persona, launch_target, names, resolve

# Below compiled kernels (0) and above torch: an assembly kernel serves where it is asked for, or where nothing else of
# this package does, until counters show which is better.
PREFERENCE = -1

WAVE_SIZE = 64
_SIMDS = 4
_SIMD_VGPRS = 512
_VGPR_GRANULE = 8
_LARGEST_WORKGROUP = 1024


@dataclass(frozen=True)
class AsmVariant:
    """One set of a kernel's knobs, and what the object that they give must be.

    `tile` is what one workgroup makes; its family says of what. A workgroup has `waves` waves, takes at most
    `lds_bytes` of LDS, and leaves registers for `waves_per_simd` waves on a SIMD. Raises `ValueError` for what no
    object could meet.
    """

    defines: tuple[tuple[str, str], ...]
    tile: tuple[int, ...]
    waves: int
    waves_per_simd: int
    lds_bytes: int

    def __post_init__(self) -> None:
        if not 1 <= self.waves <= _LARGEST_WORKGROUP // WAVE_SIZE:
            raise ValueError(f"waves is {self.waves}; a workgroup has 1 to 16")
        least = -(-self.waves // _SIMDS)
        if not least <= self.waves_per_simd <= 8:
            raise ValueError(
                f"waves_per_simd is {self.waves_per_simd}; a workgroup of {self.waves} waves needs {least}, and a SIMD "
                "holds 8"
            )

    @property
    def block(self) -> int:
        """Threads of a workgroup."""
        return self.waves * WAVE_SIZE

    @property
    def max_vgprs(self) -> int:
        """The registers, arch and accumulation together, that leave room for `waves_per_simd` waves."""
        return _SIMD_VGPRS // self.waves_per_simd // _VGPR_GRANULE * _VGPR_GRANULE


@dataclass(frozen=True)
class AsmKernel:
    """An assembly kernel: its source, what it serves, and how it is called.

    `name` is that of its row in a dispatch table, `unit` that of its units, `symbol` the kernel's in the object.
    `tokens` (a range, both ends included) and `heads` are what problems it takes, None where that does not apply;
    `requires` is what else a problem must be. `vskip` says that it uses s_setvskip. `dtype_define` is the define that
    takes the problem's dtype, of a kernel that is assembled for one of several. `variants` gives those that the check
    assembles for a target: the ones that its family's plan makes of the models' shapes, for each dtype.
    """

    name: str
    unit: str
    symbol: str
    source: str
    targets: tuple[str, ...]
    kernarg: KernargLayout
    dtypes: tuple[str, ...]
    variants: Callable[[str], tuple[AsmVariant, ...]]
    tokens: tuple[int, int] | None = None
    heads: tuple[int, ...] | None = None
    vskip: bool = False
    requires: tuple[Requirement, ...] = ()
    dtype_define: str = ""

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
            kernarg=self.kernarg.digest,
        )


def dispatch_row(
    kernel: AsmKernel,
    common: tuple[Requirement, ...],
    plan: Callable[[Any, Persona], Any],
    variant: Callable[[Any], AsmVariant],
    host_unit: Callable[[str], Unit],
) -> Row:
    """The row of a kernel in its family's dispatch table.

    `common` is what the whole family needs of a problem, `plan` gives the launch of one, `variant` what a plan is
    assembled as, the dtype aside, and `host_unit` what launches it.
    """
    requires: list[Requirement] = [Targets(kernel.targets), OneOf("dtype", kernel.dtypes)]
    if kernel.tokens is not None:
        requires.append(Between("n", *kernel.tokens))
    if kernel.heads is not None:
        requires.append(OneOf("heads", kernel.heads))

    def units(problem: Any, persona: Persona, plan: Any) -> tuple[Unit, ...]:
        chosen = kernel.for_dtype(variant(plan), problem.dtype)
        return kernel.device_unit(chosen, persona.target), host_unit(launch_target())

    return Row(
        name=kernel.name,
        backend="asm",
        requires=(*requires, *kernel.requires, *common),
        preference=PREFERENCE,
        plan=plan,
        units=units,
        vskip=kernel.vskip,
    )


# Argument structs -----------------------------------------------------------------------------------------------------

GEMM_ARGS = KernargLayout(
    "aiterlite_gemm_args",
    80,
    (
        Argument("x", 0, 8, pointer=True),
        Argument("w", 8, 8, pointer=True),
        Argument("bias", 16, 8, pointer=True),
        Argument("y", 24, 8, pointer=True),
        Argument("stride_x", 32, 8),
        Argument("stride_w", 40, 8),
        Argument("stride_bias", 48, 8),
        Argument("stride_y", 56, 8),
        Argument("n", 64, 4),
        Argument("m", 68, 4),
        Argument("k", 72, 4),
        Argument("reserved", 76, 4),
    ),
)

SCALED_GEMM_ARGS = KernargLayout(
    "aiterlite_scaled_gemm_args",
    104,
    (
        Argument("x", 0, 8, pointer=True),
        Argument("w", 8, 8, pointer=True),
        Argument("bias", 16, 8, pointer=True),
        Argument("y", 24, 8, pointer=True),
        Argument("scale_x", 32, 8, pointer=True),
        Argument("scale_w", 40, 8, pointer=True),
        Argument("stride_x", 48, 8),
        Argument("stride_w", 56, 8),
        Argument("stride_bias", 64, 8),
        Argument("stride_y", 72, 8),
        Argument("stride_scale_w", 80, 8),
        Argument("n", 88, 4),
        Argument("m", 92, 4),
        Argument("k", 96, 4),
        Argument("reserved", 100, 4),
    ),
)

# Kernels --------------------------------------------------------------------------------------------------------------


def wv_split_k_variant(cut: Tiling) -> AsmVariant:
    """How a tiling of the skinny GEMM is assembled; the tile of a workgroup is (tokens, weight rows)."""
    defines = {
        "AITERLITE_SLICES": cut.slices,
        "AITERLITE_TILES": cut.tiles,
        "AITERLITE_UNROLL": cut.unroll,
        "AITERLITE_WAVES": cut.waves,
    }
    return AsmVariant(
        defines=tuple((name, str(value)) for name, value in defines.items()),
        tile=(cut.cols // cut.slices, TILE_ROWS * cut.tiles // cut.slices),
        waves=cut.waves,
        waves_per_simd=-(-cut.waves // _SIMDS),
        lds_bytes=1024 * cut.waves * cut.tiles,
    )


def _wv_split_k_variants(target: str, element_bytes: int = 2) -> tuple[AsmVariant, ...]:
    units = sorted({persona.cu_count for persona in map(resolve, names()) if persona.target == target})
    cuts = {
        tiling(target, n, m, k * element_bytes // 2, compute_units, True)
        for (m, k), n, compute_units in product(SHAPES, TOKENS, units)
    }
    return tuple(sorted({wv_split_k_variant(cut) for cut in cuts}, key=lambda variant: variant.defines))


def _wv_split_k_q_variants(target: str) -> tuple[AsmVariant, ...]:
    """Tilings are those of 16-bit elements of which a row has as many bytes."""
    cuts = _wv_split_k_variants(target, element_bytes=1)
    return tuple(WV_SPLIT_K_Q.for_dtype(cut, dtype) for cut, dtype in product(cuts, WV_SPLIT_K_Q.dtypes))


_ALIGNED = Holds("aligned", True, "an operand is not 16-byte aligned", "pad rows and addresses to 16 bytes")

WV_SPLIT_K = AsmKernel(
    name="mfma_asm",
    unit="gemm/wv_split_k_asm",
    symbol="aiterlite_wv_split_k_asm",
    source="asm/gemm/wv_split_k.S",
    targets=("gfx942", "gfx950"),
    kernarg=GEMM_ARGS,
    dtypes=("bf16",),
    variants=_wv_split_k_variants,
    tokens=(1, 16),
    requires=(_ALIGNED,),
)

# dtype is that of the output and of the bias; the 8-bit float of the operands is the matrix unit's.
WV_SPLIT_K_Q = AsmKernel(
    name="mfma_fp8_asm",
    unit="gemm/wv_split_k_q_asm",
    symbol="aiterlite_wv_split_k_q_asm",
    source="asm/gemm/wv_split_k.S",
    targets=("gfx942", "gfx950"),
    kernarg=SCALED_GEMM_ARGS,
    dtypes=("bf16", "fp16"),
    variants=_wv_split_k_q_variants,
    tokens=(1, 16),
    requires=(_ALIGNED,),
    dtype_define="AITERLITE_RESULT",
)

KERNELS: tuple[AsmKernel, ...] = (WV_SPLIT_K, WV_SPLIT_K_Q)
