"""MLA decode in assembly (asm/mla/): its kernels, which problems they serve, and how they are launched. Pure.

A workgroup takes rows of q over a piece, in tiles of 16, heads of one token: one tile, or four with 8-bit q and KV.
More are other workgroups', which read KV again.
"""

from __future__ import annotations

import itertools
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
# How waves work together: each on tokens of its own; on its own rows of q and everybody's tokens; on its own tokens'
# scores and its own columns of everybody's values, which gfx950 alone can.
OWN, WIDE, SHARED = "own", "wide", "shared"
# Of a workgroup: 16 KiB a wave; two stages of 32 padded rows, and which of them exist; two stages of V, and of weights.
LDS_BYTES = {OWN: 65536, WIDE: 2 * 32 * 640 + 16, SHARED: 2 * (65536 + 4096) + 32 + 256 + 512}
_ARGS = ArgumentStruct("aiterlite_mla_decode_args", "aiterlite/mla/args.h")
_FP8_OF = {"gfx942": "e4m3fnuz", "gfx950": "e4m3fn"}
# Before compiled kernels where a workgroup has all rows of q of its pieces: a fifth of the issue cycles
# (docs/perf/mla-amd.md). Where several workgroups would share them, compiled kernels read KV less often.
FIRST = 20
# The kernel divides request numbers in float.
MOST_REQUESTS = (1 << 24) - 1


def _suffix(kind: str) -> str:
    """Of the names of kernels and sources."""
    return "" if kind == OWN else f"_{kind}"


def is_one_tile(problem: MlaProblem) -> bool:
    """Whether a kernel of this file takes a call without a plan, of one tile of rows of q a piece."""
    types = (problem.q_dtype, problem.kv_dtype, problem.out_dtype)
    own = types[2] == "bf16" and types[0] == types[1] and types[1] in ("bf16", *_FP8_OF.values())
    return own and not problem.plan_units and problem.q_len * -(-problem.heads // ROWS_OF_TILE) == 1


@dataclass(frozen=True)
class AsmPlan:
    """One launch: `column_groups` workgroups of one tile of rows of q, or of four where they share tokens (`kind`),
    share a piece. A weight is a sum of `parts` numbers."""

    kv_bytes: int
    parts: int
    planned: bool
    kind: str
    column_groups: int
    grid: int

    @property
    def kernel(self) -> str:
        return ("bf16" if self.kv_bytes == 2 else "fp8") + _suffix(self.kind)

    @property
    def variant(self) -> AsmVariant:
        """How it is assembled; the tile of a workgroup is (rows of q, values)."""
        knobs = {"PLANNED": int(self.planned)}
        if self.kind != WIDE:
            knobs |= {"KV": self.kv_bytes, "PARTS": self.parts}
        return AsmVariant(
            defines=tuple((f"AITERLITE_{name}", str(value)) for name, value in sorted(knobs.items())),
            tile=(ROWS_OF_TILE * (4 if self.kind == WIDE else 1), 512),
            waves=_WAVES,
            waves_per_simd=1,
            lds_bytes=LDS_BYTES[self.kind],
        )


def tiles(problem: MlaProblem, persona: Persona) -> int:
    """Tiles of rows of q of a piece."""
    heads = problem.heads
    if problem.plan_units:
        dtypes = (problem.q_dtype, problem.kv_dtype)
        heads = mla_heads.fold(persona.target, problem.heads, *dtypes, problem.q_len).heads
    return problem.q_len * -(-heads // ROWS_OF_TILE)


def plan(problem: MlaProblem, persona: Persona, parts: int = 2) -> AsmPlan:
    count, kv_bytes = tiles(problem, persona), 2 if problem.kv_dtype == "bf16" else 1
    kind = WIDE if kv_bytes == 1 and count > 1 else SHARED if persona.target == "gfx950" else OWN
    groups = -(-count // 4) if kind == WIDE else count
    pieces = problem.plan_units or problem.batch * problem.splits
    return AsmPlan(kv_bytes, parts, problem.plan_units > 0, kind, groups, pieces * groups)


def plan_one_part(problem: MlaProblem, persona: Persona) -> AsmPlan:
    return plan(problem, persona, parts=1)


def _kernel(kv_bytes: int, kind: str, rows: Mapping[str, int]) -> AsmKernel:
    """`rows` that launch it, each with the parts of a weight."""

    def variants(target: str) -> tuple[AsmVariant, ...]:
        knobs = itertools.product(sorted(set(rows.values())), (False, True))
        return tuple(AsmPlan(kv_bytes, parts, planned, kind, 1, 1).variant for parts, planned in knobs)

    name = AsmPlan(kv_bytes, 2, False, kind, 1, 1).kernel
    return AsmKernel(
        name=f"decode_asm_{name}",
        unit=f"mla/decode_asm_{name}",
        symbol=f"aiterlite_mla_decode_{name}",
        source=f"asm/mla/decode{_suffix(kind)}.S",
        targets=("gfx950",) if kind == SHARED else ("gfx942", "gfx950") if kind == WIDE else ("gfx942",),
        arguments=_ARGS,
        dtypes=("bf16",),
        variants=variants,
        rows=tuple(rows),
    )


# The rows that launch them.
BF16, BF16_TILES, FP8, FP8_ONE = "decode_asm_bf16", "decode_asm_bf16_tiles", "decode_asm_fp8", "decode_asm_fp8_one"
_MADE = (
    *(_kernel(2, kind, {BF16: 2, BF16_TILES: 2}) for kind in (OWN, SHARED)),
    *(_kernel(1, kind, {FP8: 2, FP8_ONE: 1}) for kind in (OWN, SHARED)),
    _kernel(1, WIDE, {FP8: 2}),
)
KERNEL_OF: Mapping[str, AsmKernel] = {kernel.name.removeprefix("decode_asm_"): kernel for kernel in _MADE}
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
            count = tiles(problem, persona)
        except mla_heads.NotPlannedError as error:
            return Refusal(error.reason, error.remedy)
        if count == 1:
            return None
        return Refusal(f"a piece has {count} tiles of {ROWS_OF_TILE} rows of q, and each reads KV again")

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
