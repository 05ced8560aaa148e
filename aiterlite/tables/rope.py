"""Rotary embeddings of one or two tensors: which kernels serve a call. One kernel in every case (rope_plan.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Between, OneOf, Refusal, Row, Table, Targets, Wishes, one_axis
from aiterlite.kernel import Kernel, Operand
from aiterlite.tables import rope_plan as plans
from aiterlite.tables.family import Family
from aiterlite.tables.rope_plan import CODES, DTYPES, INDICES, TABLES, Job, RopePlan
from aiterlite.target import Persona

__all__ = ["CODES", "DTYPES", "FAMILY", "ROPE", "STYLES", "RopeProblem"]
OP = "rope"
STYLES = ("neox", "gptj")
MOST_ROWS = 2**30
MOST_WIDTH = 2**16


@dataclass(frozen=True)
class RopeProblem:
    """Rotation of the first (`nope_first`: the last) `rot_dim` of `head_dim` elements of `x_heads` heads of `tokens`,
    and of `y_heads` (0: no second tensor).

    `style`: pairs are halves (neox) or neighbours (gptj). `half_table`: a row of cos has an element a pair. `positions`
    are of a type, or none: a token's number. `inner`: tokens lie in two dimensions that are no single one. `aligned`:
    every row that is read or written, and every row of cos and sin, starts at a multiple of 16 bytes, and is one of 16.
    """

    tokens: int
    x_heads: int = 16
    y_heads: int = 1
    head_dim: int = 64
    rot_dim: int = 64
    dtype: str = "bf16"
    table_dtype: str = "bf16"
    style: str = "gptj"
    nope_first: bool = False
    half_table: bool = True
    in_place: bool = True
    positions: str = "int64"
    with_offsets: bool = False
    inner: bool = False
    aligned: bool = True


@dataclass(frozen=True)
class WidthsFit:
    """Pairs, and not more of them than a head has."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if problem.rot_dim % 2 or not 2 <= problem.rot_dim <= problem.head_dim <= MOST_WIDTH:
            return Refusal(
                f"rot_dim is {problem.rot_dim} of head_dim {problem.head_dim}; it must be even and not larger, and "
                f"head_dim at most {MOST_WIDTH}"
            )
        return None

    def __str__(self) -> str:
        return f"an even rot_dim of a head_dim up to {MOST_WIDTH}"


@dataclass(frozen=True)
class RowsFit:
    """As many rows as kernels can count."""

    names: tuple[tuple[str, str], ...]

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        for tokens, heads in self.names:
            count = getattr(problem, tokens) * getattr(problem, heads)
            if count > MOST_ROWS:
                return Refusal(f"{tokens} times {heads} is {count}, more than {MOST_ROWS}", "split the tokens")
        return None

    def __str__(self) -> str:
        return f"at most {MOST_ROWS} rows"


@dataclass(frozen=True)
class TableFits:
    """cos and sin are of the type of what is rotated, or float32."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if problem.table_dtype in (problem.dtype, "fp32"):
            return None
        return Refusal(f"cos and sin are {problem.table_dtype}; they must be {problem.dtype} or fp32", "convert them")

    def __str__(self) -> str:
        return "cos and sin of dtype or fp32"


def _job(problem: RopeProblem) -> Job:
    nope = 0 if problem.in_place else problem.head_dim - problem.rot_dim
    first = problem.head_dim - problem.rot_dim if problem.nope_first else 0
    sources = {}
    for side, name in (("q", "x"), ("k", "y")):
        if name == "y" and not problem.y_heads:
            continue
        # Elements have two bytes. In place, only what is rotated is written.
        sources[f"{side}_pe"] = Operand(name, 2 * first)
        sources[f"{side}_nope"] = Operand(name, 0 if problem.nope_first else 2 * problem.rot_dim)
        sources[f"{side}_out"] = Operand(f"out_{name}", 2 * first if problem.in_place else 0)
    sources |= {name: Operand(name) for name in ("cos", "sin")}
    if problem.positions != "none":
        sources["positions"] = Operand("positions")
    if problem.with_offsets:
        sources["offsets"] = Operand("offsets")
    return Job(
        q_tokens=problem.tokens,
        k_tokens=problem.tokens if problem.y_heads else 0,
        q_heads=problem.x_heads,
        k_heads=problem.y_heads,
        nope=nope,
        rope=problem.rot_dim,
        element=problem.dtype,
        table=problem.table_dtype,
        neox=problem.style == "neox",
        half_table=problem.half_table,
        nope_first=problem.nope_first,
        positions=problem.positions,
        offsets=problem.with_offsets,
        inner=problem.inner,
        aligned=problem.aligned,
        sources=sources,
    )


def _plan(problem: RopeProblem, persona: Persona) -> RopePlan:
    return plans.plan(_job(problem), persona)


def _cpu(problem: RopeProblem, persona: Persona, _: Any) -> tuple[Kernel, ...]:
    return plans.cpu_kernels(_job(problem), persona)


def _gpu(problem: RopeProblem, persona: Persona, plan: RopePlan) -> tuple[Kernel, ...]:
    return plans.gpu_kernels(_job(problem), persona, plan)


def _derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A head is what is rotated, and tables have the type of the operands, where nothing else is said."""
    derived = dict(values)
    derived.setdefault("head_dim", values.get("rot_dim", 64))
    derived.setdefault("rot_dim", derived["head_dim"])
    derived.setdefault("table_dtype", values.get("dtype", "bf16"))
    aligned = derived["rot_dim"] % 16 == 0 and derived["head_dim"] % 8 == 0
    return {"aligned": aligned, **derived}


_REQUIRES = (
    OneOf("dtype", DTYPES),
    OneOf("table_dtype", TABLES),
    TableFits(),
    OneOf("style", STYLES),
    OneOf("positions", INDICES),
    Between("tokens", 1, MOST_ROWS),
    Between("x_heads", 1, MOST_ROWS),
    Between("y_heads", 0, MOST_ROWS),
    WidthsFit(),
    RowsFit((("tokens", "x_heads"), ("tokens", "y_heads"))),
)

ROPE = Table(
    OP,
    RopeProblem,
    (
        Row("cpu", "host", (Targets(("cpu-*",)), *_REQUIRES), kernels=_cpu),
        Row("lanes", "hip", (Targets(("gfx942", "gfx950")), *_REQUIRES), 0, _plan, _gpu),
        Row("warps", "cuda", (Targets(("sm_90a",)), *_REQUIRES), 0, _plan, _gpu),
    ),
    # DeepSeek-R1's, for decode, a batch of it, and prefill.
    (one_axis("tokens", 1, 16, 256, 4096),),
    _derive,
)

FAMILY = Family(name="rope", tables=(ROPE,), ops=("aiterlite.ops.rope_operator",), samples="aiterlite.ops.samples.rope")
