"""MLA decode in assembly (asm/mla/decode.S): its kernels, which problems they serve, and how they are launched. Pure.

A workgroup takes 16 rows of q, heads of one token, over a piece; more rows are other workgroups', which read KV again.
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
LDS_BYTES = 65536
_ARGS = ArgumentStruct("aiterlite_mla_decode_args", "aiterlite/mla/args.h")
FP8 = {"gfx942": "e4m3fnuz", "gfx950": "e4m3fn"}
# Before compiled kernels where a workgroup has all rows of q of its pieces: a fifth of the issue cycles
# (docs/perf/mla-amd.md). Where several workgroups would share them, compiled kernels read KV less often.
FIRST = 20
# The kernel divides request numbers in float.
MOST_REQUESTS = (1 << 24) - 1


@dataclass(frozen=True)
class AsmPlan:
    """One launch: `column_groups` workgroups of 16 rows of q share a piece."""

    kv_bytes: int
    planned: bool
    column_groups: int
    grid: int

    @property
    def variant(self) -> AsmVariant:
        return variant(self.kv_bytes, self.planned)


def variant(kv_bytes: int, planned: bool) -> AsmVariant:
    """How it is assembled; the tile of a workgroup is (rows of q, values). A weight of bf16 is a sum of two."""
    knobs = {"KV": kv_bytes, "PARTS": kv_bytes, "PLANNED": int(planned)}
    defines = tuple((f"AITERLITE_{name}", str(value)) for name, value in knobs.items())
    return AsmVariant(defines, (ROWS_OF_TILE, 512), _WAVES, waves_per_simd=1, lds_bytes=LDS_BYTES)


def _column_groups(problem: MlaProblem, persona: Persona) -> int:
    """Workgroups for the rows of q of a piece."""
    heads = problem.heads
    if problem.plan_units:
        dtypes = (problem.q_dtype, problem.kv_dtype)
        heads = mla_heads.fold(persona.target, problem.heads, *dtypes, problem.q_len).heads
    return problem.q_len * -(-heads // ROWS_OF_TILE)


def plan(problem: MlaProblem, persona: Persona) -> AsmPlan:
    groups = _column_groups(problem, persona)
    pieces = problem.plan_units or problem.batch * problem.splits
    return AsmPlan(2 if problem.kv_dtype == "bf16" else 1, problem.plan_units > 0, groups, pieces * groups)


def _kernel(name: str, kv_bytes: int) -> AsmKernel:
    return AsmKernel(
        name=f"decode_asm_{name}",
        unit=f"mla/decode_asm_{name}",
        symbol=f"aiterlite_mla_decode_{name}",
        source="asm/mla/decode.S",
        targets=("gfx942", "gfx950"),
        arguments=_ARGS,
        dtypes=("bf16",),
        variants=lambda target: tuple(variant(kv_bytes, planned) for planned in (False, True)),
        rows=("decode_asm_bf16", "decode_asm_bf16_tiles") if kv_bytes == 2 else (),
    )


KERNEL_OF: Mapping[int, AsmKernel] = {2: _kernel("bf16", 2), 1: _kernel("fp8", 1)}
KERNELS = tuple(KERNEL_OF.values())


def unit(persona: Persona, plan: AsmPlan) -> tuple[Unit, str]:
    kernel = KERNEL_OF[plan.kv_bytes]
    return kernel.device_unit(plan.variant, persona.target), kernel.symbol


@dataclass(frozen=True)
class TypesFit:
    """q, KV and o are bf16, or q and KV the target's 8-bit type and o bf16."""

    kv_bytes: int

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        both = "bf16" if self.kv_bytes == 2 else FP8.get(persona.target, "")
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
            groups = _column_groups(problem, persona)
        except mla_heads.NotPlannedError as error:
            return Refusal(error.reason, error.remedy)
        if groups == 1:
            return None
        return Refusal(f"a piece has {groups} tiles of {ROWS_OF_TILE} rows of q, and each reads KV again")

    def __str__(self) -> str:
        return f"at most {ROWS_OF_TILE} rows of q a piece"
