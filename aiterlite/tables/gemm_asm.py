"""The assembly kernels of the skinny GEMMs: what each takes, its variants, and what its objects must be."""

from __future__ import annotations

from itertools import product

from aiterlite.dispatch import Holds
from aiterlite.hardware import CHIPS
from aiterlite.tables.asm import SIMDS, AsmKernel, AsmVariant
from aiterlite.tables.gemm_args import GEMM_ARGS, SCALED_GEMM_ARGS
from aiterlite.tables.gemm_plan import SHAPES, TILE_ROWS, TOKENS, Tiling, tiling


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
        waves_per_simd=-(-cut.waves // SIMDS),
        lds_bytes=1024 * cut.waves * cut.tiles,
    )


def _wv_split_k_variants(target: str, element_bytes: int = 2) -> tuple[AsmVariant, ...]:
    units = sorted({chip.compute_units for chip in CHIPS.values() if chip.target == target and chip.compute_units})
    cuts = {
        tiling(target, n, m, k * element_bytes // 2, compute_units, True)
        for (m, k), n, compute_units in product(SHAPES, TOKENS, units)
    }
    return tuple(sorted({wv_split_k_variant(cut) for cut in cuts}, key=lambda variant: variant.defines))


def _wv_split_k_q_variants(target: str) -> tuple[AsmVariant, ...]:
    """The tilings are those of 16-bit elements whose rows have as many bytes."""
    cuts = _wv_split_k_variants(target, element_bytes=1)
    return tuple(WV_SPLIT_K_Q.for_dtype(cut, dtype) for cut, dtype in product(cuts, WV_SPLIT_K_Q.dtypes))


_ALIGNED = Holds("aligned", True, "an operand is not 16-byte aligned", "pad rows and addresses to 16 bytes")

WV_SPLIT_K = AsmKernel(
    name="mfma_asm",
    unit="gemm/wv_split_k_asm",
    symbol="aiterlite_wv_split_k_asm",
    source="asm/gemm/wv_split_k.S",
    targets=("gfx942", "gfx950"),
    arguments=GEMM_ARGS,
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
    arguments=SCALED_GEMM_ARGS,
    dtypes=("bf16", "fp16"),
    variants=_wv_split_k_q_variants,
    tokens=(1, 16),
    requires=(_ALIGNED,),
    dtype_define="AITERLITE_RESULT",
)

KERNELS: tuple[AsmKernel, ...] = (WV_SPLIT_K, WV_SPLIT_K_Q)
