"""Latents of MLA on their way to a paged cache, with their rotary embeddings or without: which kernels serve a call.
One kernel in every case (rope_plan.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Between, OneOf, Refusal, Row, Table, Targets, Wishes, one_axis
from aiterlite.kernel import Kernel, Operand
from aiterlite.tables import rope_plan as plans
from aiterlite.tables.family import Family
from aiterlite.tables.rope import MOST_ROWS, MOST_WIDTH, STYLES, RowsFit, TableFits
from aiterlite.tables.rope_plan import CODES, DTYPES, INDICES, TABLES, Job, RopePlan
from aiterlite.target import Persona

CONCAT, FUSED, CAT = "concat_and_cache_mla", "fused_qk_rope_concat_and_cache_mla", "fused_qk_rope_cat_and_cache_mla"
_SLOTS = INDICES[1:]


@dataclass(frozen=True)
class ConcatProblem:
    """`tokens` rows of `kv_lora_rank` and `rope_dim` elements of `dtype`, side by side in a cache of `cache_dtype`.

    `slots` is the type of slot_mapping. `paged`: blocks of the cache are further apart than their entries. `aligned`:
    every row that is read or written starts at a multiple of 16 bytes, and is one of 16.
    """

    tokens: int
    kv_lora_rank: int = 512
    rope_dim: int = 64
    dtype: str = "bf16"
    cache_dtype: str = "bf16"
    slots: str = "int64"
    paged: bool = False
    aligned: bool = True


@dataclass(frozen=True)
class FusedProblem(ConcatProblem):
    """The same of `kv_heads` heads, rotated before, and `heads` heads of `q_tokens` of q beside it, written as
    `q_dtype`.

    `style` and `half_table` are those of rope. `all_q`: q of tokens without a slot is rotated, too. `scaled`: there is
    a scale, by which a cache of `dtype` is divided, too.
    """

    q_tokens: int = 1
    heads: int = 16
    kv_heads: int = 1
    q_dtype: str = "bf16"
    table_dtype: str = "bf16"
    style: str = "gptj"
    nope_first: bool = True
    half_table: bool = True
    positions: str = "int64"
    all_q: bool = False
    scaled: bool = False


@dataclass(frozen=True)
class OutputsFit:
    """What is written is of the type of what is read, or of an 8-bit one."""

    names: tuple[str, ...]

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        for name in self.names:
            if getattr(problem, name) not in (problem.dtype, *CODES):
                allowed = ", ".join((problem.dtype, *CODES))
                return Refusal(f"{name} is {getattr(problem, name)}; there are {allowed}")
        return None

    def __str__(self) -> str:
        return f"{' and '.join(self.names)} of dtype or {', '.join(CODES)}"


@dataclass(frozen=True)
class PairsFit:
    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        return Refusal(f"rope_dim is {problem.rope_dim}; it must be even") if problem.rope_dim % 2 else None

    def __str__(self) -> str:
        return "an even rope_dim"


def _code(dtype: str) -> str:
    return dtype if dtype in CODES else ""


def _concat_job(problem: ConcatProblem) -> Job:
    code = _code(problem.cache_dtype)
    sources = {"k_nope": Operand("kv_c"), "k_pe": Operand("k_pe"), "k_out": Operand("kv_cache")}
    sources |= {"slots": Operand("slot_mapping")} | ({"k_scale": Operand("k_scale")} if code else {})
    return Job(
        q_tokens=0,
        k_tokens=problem.tokens,
        q_heads=0,
        k_heads=1,
        nope=problem.kv_lora_rank,
        rope=problem.rope_dim,
        element=problem.dtype,
        table=problem.dtype,
        neox=False,
        half_table=True,
        nope_first=True,
        rotates=False,
        positions="none",
        slots=problem.slots,
        paged=problem.paged,
        k_code=code,
        aligned=problem.aligned,
        sources=sources,
    )


def _fused_job(extras: bool) -> Callable[[FusedProblem], Job]:
    def job(problem: FusedProblem) -> Job:
        q_code, k_code = _code(problem.q_dtype), _code(problem.cache_dtype)
        names = {"q_nope": "q_nope", "q_pe": "q_pe", "q_out": "q_out", "cos": "cos", "sin": "sin"}
        names |= {"positions": "positions", "k_nope": "kv_c", "k_pe": "k_pe", "k_out": "kv_cache"}
        names |= {"slots": "slot_mapping"}
        if problem.scaled:
            names |= {"k_scale": "k_scale"}
        if q_code and not extras:
            names |= {"q_scale": "q_scale"}
        if extras:
            names |= {"q_pe_out": "q_pe_out", "q_zeros": "q_zeros", "k_pe_out": "k_pe_out"}
        return Job(
            q_tokens=problem.q_tokens,
            k_tokens=problem.tokens,
            q_heads=problem.heads,
            k_heads=problem.kv_heads,
            nope=problem.kv_lora_rank,
            rope=problem.rope_dim,
            element=problem.dtype,
            table=problem.table_dtype,
            neox=problem.style == "neox",
            half_table=problem.half_table,
            nope_first=problem.nope_first,
            positions=problem.positions,
            slots=problem.slots,
            paged=problem.paged,
            q_needs_slot=not problem.all_q,
            nearest=True,
            extras=extras,
            q_code=q_code,
            k_code=k_code,
            k_scaled=problem.scaled and not k_code,
            aligned=problem.aligned,
            sources={field: Operand(name) for field, name in names.items()},
        )

    return job


_OF_CACHE = (
    OneOf("dtype", DTYPES),
    OutputsFit(("cache_dtype",)),
    OneOf("slots", _SLOTS),
    Between("tokens", 0, MOST_ROWS),
    Between("kv_lora_rank", 1, MOST_WIDTH),
    Between("rope_dim", 2, MOST_WIDTH),
    PairsFit(),
)
_OF_Q = (
    OutputsFit(("q_dtype",)),
    OneOf("table_dtype", TABLES),
    TableFits(),
    OneOf("style", STYLES),
    OneOf("positions", _SLOTS),
    Between("q_tokens", 0, MOST_ROWS),
    Between("heads", 1, MOST_ROWS),
    Between("kv_heads", 1, MOST_ROWS),
    RowsFit((("q_tokens", "heads"), ("tokens", "kv_heads"))),
)


def _table(op: str, problem: type, job: Callable[[Any], Job], *requires: Any) -> Table:
    def planned(problem: Any, persona: Persona) -> RopePlan:
        return plans.plan(job(problem), persona)

    def cpu(problem: Any, persona: Persona, _: Any) -> tuple[Kernel, ...]:
        return plans.cpu_kernels(job(problem), persona)

    def gpu(problem: Any, persona: Persona, plan: RopePlan) -> tuple[Kernel, ...]:
        return plans.gpu_kernels(job(problem), persona, plan)

    def derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
        """All tokens have a q, and everything is of one type, where nothing else is said."""
        dtype = values.get("dtype", "bf16")
        derived = {"cache_dtype": dtype, "aligned": _is_aligned(values), **values}
        if problem is FusedProblem:
            derived = {"q_tokens": values.get("tokens", 1), "q_dtype": dtype, "table_dtype": dtype, **derived}
            derived = {"scaled": derived["cache_dtype"] in CODES, **derived}
            derived = {"all_q": True, **derived} if op == CAT else derived
        return derived

    return Table(
        op,
        problem,
        (
            Row("cpu", "host", (Targets(("cpu-*",)), *requires), kernels=cpu),
            Row("lanes", "hip", (Targets(("gfx942", "gfx950")), *requires), 0, planned, gpu),
            Row("warps", "cuda", (Targets(("sm_90a",)), *requires), 0, planned, gpu),
        ),
        # DeepSeek-R1's, for decode, a batch of it, and prefill.
        (one_axis("tokens", 1, 16, 256, 4096), one_axis("cache_dtype", "bf16", "e4m3fn", "e4m3fnuz")),
        derive,
    )


def _is_aligned(values: Mapping[str, Any]) -> bool:
    return bool(values.get("kv_lora_rank", 512) % 8 == 0 and values.get("rope_dim", 64) % 16 == 0)


CONCAT_TABLE = _table(CONCAT, ConcatProblem, _concat_job, *_OF_CACHE)
FUSED_TABLE = _table(FUSED, FusedProblem, _fused_job(extras=False), *_OF_CACHE, *_OF_Q)
CAT_TABLE = _table(CAT, FusedProblem, _fused_job(extras=True), *_OF_CACHE, *_OF_Q)

FAMILY = Family(
    name="mla_cache",
    tables=(CONCAT_TABLE, FUSED_TABLE, CAT_TABLE),
    ops=("aiterlite.ops.cache_operators",),
    samples="aiterlite.ops.samples.cache",
)
