"""MLA decode in assembly (asm/mla/): its kernels, which problems they serve, and how they are launched. Pure.

A workgroup takes rows of q over a piece, in tiles of 16, heads of one token: one tile, or four with 8-bit q and KV.
More are other workgroups', which read KV again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiterlite.dispatch import Refusal, Wishes
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.tables import mla_heads
from aiterlite.tables.asm import AsmKernel, AsmVariant
from aiterlite.target import Persona

if TYPE_CHECKING:
    from aiterlite.tables.mla import MlaProblem

ROWS_OF_TILE, _WAVES = 16, 4
# Of a workgroup: a wave's own 16 KiB, or two stages of 32 padded rows, and which of them exist.
LDS_BYTES, WIDE_LDS_BYTES = 65536, 2 * 32 * 640 + 16
_ARGS = ArgumentStruct("aiterlite_mla_decode_args", "aiterlite/mla/args.h")
_FP8_OF = {"gfx942": "e4m3fnuz", "gfx950": "e4m3fn"}
# Before compiled kernels where a workgroup has all rows of q of its pieces: a fifth of the issue cycles
# (docs/perf/mla-amd.md). Where several workgroups would share them, compiled kernels read KV less often.
FIRST = 20
# The kernel divides request numbers in float.
MOST_REQUESTS = (1 << 24) - 1


@dataclass(frozen=True)
class AsmPlan:
    """One launch: `column_groups` workgroups of one tile of rows of q, or of four (`wide`), share a piece. A weight is
    a sum of `parts` numbers."""

    kv_bytes: int
    parts: int
    planned: bool
    wide: bool
    column_groups: int
    grid: int

    @property
    def kernel(self) -> str:
        return "fp8_wide" if self.wide else "bf16" if self.kv_bytes == 2 else "fp8"

    @property
    def variant(self) -> AsmVariant:
        """How it is assembled; the tile of a workgroup is (rows of q, values)."""
        knobs = {"PLANNED": int(self.planned)}
        if not self.wide:
            knobs |= {"KV": self.kv_bytes, "PARTS": self.parts}
        return AsmVariant(
            defines=tuple((f"AITERLITE_{name}", str(value)) for name, value in sorted(knobs.items())),
            tile=(ROWS_OF_TILE * (4 if self.wide else 1), 512),
            waves=_WAVES,
            waves_per_simd=1,
            lds_bytes=WIDE_LDS_BYTES if self.wide else LDS_BYTES,
        )


def _tiles(problem: MlaProblem, persona: Persona) -> int:
    """Tiles of rows of q of a piece."""
    heads = problem.heads
    if problem.plan_units:
        dtypes = (problem.q_dtype, problem.kv_dtype)
        heads = mla_heads.fold(persona.target, problem.heads, *dtypes, problem.q_len).heads
    return problem.q_len * -(-heads // ROWS_OF_TILE)


def plan(problem: MlaProblem, persona: Persona, parts: int = 2) -> AsmPlan:
    tiles, kv_bytes = _tiles(problem, persona), 2 if problem.kv_dtype == "bf16" else 1
    wide = kv_bytes == 1 and tiles > 1
    groups = -(-tiles // 4) if wide else tiles
    pieces = problem.plan_units or problem.batch * problem.splits
    return AsmPlan(kv_bytes, parts, problem.plan_units > 0, wide, groups, pieces * groups)


def plan_one_part(problem: MlaProblem, persona: Persona) -> AsmPlan:
    return plan(problem, persona, parts=1)


def _kernel(name: str, kv_bytes: int, wide: bool, rows: Mapping[str, int]) -> AsmKernel:
    """`rows` that launch it, each with the parts of a weight."""

    def variants(target: str) -> tuple[AsmVariant, ...]:
        plans = [
            AsmPlan(kv_bytes, parts, planned, wide, 1, 1) for parts in set(rows.values()) for planned in (False, True)
        ]
        return tuple(sorted((made.variant for made in plans), key=lambda variant: variant.defines))

    return AsmKernel(
        name=f"decode_asm_{name}",
        unit=f"mla/decode_asm_{name}",
        symbol=f"aiterlite_mla_decode_{name}",
        source="asm/mla/decode_wide.S" if wide else "asm/mla/decode.S",
        targets=("gfx942", "gfx950"),
        arguments=_ARGS,
        dtypes=("bf16",),
        variants=variants,
        rows=tuple(rows),
    )


# The rows that launch them.
BF16, BF16_TILES, FP8, FP8_ONE = "decode_asm_bf16", "decode_asm_bf16_tiles", "decode_asm_fp8", "decode_asm_fp8_one"
KERNEL_OF: Mapping[str, AsmKernel] = {
    "bf16": _kernel("bf16", 2, False, {BF16: 2, BF16_TILES: 2}),
    "fp8": _kernel("fp8", 1, False, {FP8: 2, FP8_ONE: 1}),
    "fp8_wide": _kernel("fp8_wide", 1, True, {FP8: 2}),
}
KERNELS = tuple(KERNEL_OF.values())


def unit(persona: Persona, plan: AsmPlan) -> tuple[Unit, str]:
    kernel = KERNEL_OF[plan.kernel]
    return kernel.device_unit(plan.variant, persona.target), kernel.symbol


@dataclass(frozen=True)
class TypesFit:
    """q, KV and o are bf16, or q and KV the target's 8-bit type and o bf16."""

    kv_bytes: int

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        both = "bf16" if self.kv_bytes == 2 else _FP8_OF.get(persona.target, "")
        given = (problem.q_dtype, problem.kv_dtype, problem.out_dtype)
        if given == (both, both, "bf16"):
            return None
        return Refusal(f"q/KV/o are {'/'.join(given)}; allowed: {both}/{both}/bf16")

    def __str__(self) -> str:
        return "bf16 q, KV and o" if self.kv_bytes == 2 else "8-bit q and KV of the target, o of bf16"


@dataclass(frozen=True)
class PagesFit:
    """A page has a power of two of tokens: it is found by a shift."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        size = problem.page_size
        return None if size & (size - 1) == 0 else Refusal(f"page_size is {size}; allowed: powers of two")

    def __str__(self) -> str:
        return "a power of two of tokens a page"


@dataclass(frozen=True)
class OneTile:
    """A piece has rows of q for one workgroup: at most 16 heads, which a plan may have folded, of one token."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        try:
            tiles = _tiles(problem, persona)
        except mla_heads.NotPlannedError as error:
            return Refusal(error.reason, error.remedy)
        if tiles == 1:
            return None
        return Refusal(f"a piece has {tiles} tiles of {ROWS_OF_TILE} rows of q, and each reads KV again")

    def __str__(self) -> str:
        return f"at most {ROWS_OF_TILE} rows of q a piece"


@dataclass(frozen=True)
class NotAskedFor:
    """Where assembly is asked for, and a piece has one tile of rows, a weight of 8 bits has one number, as upstream's
    has: half of the products for values, and a wider class of accuracy."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if wishes.prefer != "asm" or OneTile().refuse(problem, persona, wishes) is not None:
            return None
        return Refusal(f"assembly is asked for: {FP8_ONE}, which rounds weights as upstream does")

    def __str__(self) -> str:
        return f"more than {ROWS_OF_TILE} rows of q a piece where AITERLITE_PREFER=asm"
