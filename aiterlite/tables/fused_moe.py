"""The fused mixture of experts: what its calls must be, the rows of the CPU, and the tables that all rows make up.

Rows of GPUs live in a file a back end, which gives `ROWS` of `fused_moe`, and `FMOE_ROWS` of
`fmoe_fp8_blockscale_g1u1`; `_BACK_ENDS` joins them. What every call must be is asked here, of each row.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiterlite.dispatch import Axis, Between, OneOf, Refusal, Row, Table, Targets, Wishes, one_axis, with_native_floats
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Value
from aiterlite.tables import fused_moe_amd as amd
from aiterlite.tables import fused_moe_asm as asm
from aiterlite.tables import fused_moe_crossover as crossover
from aiterlite.tables import fused_moe_mxfp4 as mxfp4
from aiterlite.tables import fused_moe_mxfp4_e4m3 as mxfp4_e4m3
from aiterlite.tables import fused_moe_mxfp4_sm90 as mxfp4_sm90
from aiterlite.tables import fused_moe_sm90 as sm90
from aiterlite.tables.family import Family
from aiterlite.tables.fused_moe_problem import (
    A4W4,
    A8W4,
    A16W4,
    ACTIVATIONS,
    BLOCK,
    FMOE_OP,
    MX_CODE,
    NATIVE,
    OP,
    PRECISIONS,
    QUANTS,
    FmoeProblem,
    MoeProblem,
    on,
)
from aiterlite.tables.moe_sorting import MOST_BLOCK, MOST_EXPERTS, MOST_PAIRS, MOST_TOPK, POLICIES, PairsFit
from aiterlite.tables.mx_types import BLOCK as MX_BLOCK
from aiterlite.target import Persona

__all__ = ["CODES", "DTYPES", "FAMILY", "FMOE_TABLE", "MOST_BLOCK", "MOST_TOPK", "POLICIES", "TABLE"]

DTYPES = ("bf16", "fp16")
CODES = ("e4m3fn", "e4m3fnuz")
_MOST_WIDTH = 1 << 20
CPU_ARGS = ArgumentStruct("aiterlite_fused_moe_cpu_args", "aiterlite/fused_moe/args.h")

# What every call must be ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CodesFit:
    """Weights are of the problem's dtype where they have no scales, and else codes of an e4m3 type."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        allowed = {"none": ("",), "mxfp4": (MX_CODE,)}.get(problem.quant, (*CODES, NATIVE))
        if problem.code in allowed:
            return self._precision(problem)
        given = f"code is {problem.code or 'empty'} with quant={problem.quant}"
        return Refusal(f"{given}; allowed: {', '.join(code or 'empty' for code in allowed)}")

    @staticmethod
    def _precision(problem: Any) -> Refusal | None:
        allowed = PRECISIONS if problem.is_mx else ("",)
        if problem.precision not in allowed:
            given = f"precision is {problem.precision or 'empty'} with quant={problem.quant}"
            return Refusal(f"{given}; allowed: {', '.join(name or 'empty' for name in allowed)}")
        if problem.precision == A16W4 and problem.quantised:
            return Refusal("hidden states are quantised, and precision is a16w4", "precision=a4w4, or a8w4")
        return None

    def __str__(self) -> str:
        return f"weights of dtype, {' or '.join(CODES)} with scales, or MXFP4 and a precision"


@dataclass(frozen=True)
class LayerFits:
    """Width and inter are whole blocks of scales where there are such, and whole tiles of shuffled weights."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        quant = getattr(problem, "quant", "block")
        step = BLOCK if quant == "block" else 32 if problem.shuffled else 1
        if quant == "mxfp4":
            step = 2 * MX_BLOCK if problem.shuffled else MX_BLOCK
        if problem.width % step == 0 and problem.inter % step == 0:
            return None
        return Refusal(f"width and inter must be multiples of {step}, they are {problem.width} and {problem.inter}")

    def __str__(self) -> str:
        return f"width and inter of whole blocks of {BLOCK}, where scales are of blocks"


_SIZES = (
    OneOf("dtype", DTYPES),
    Between("tokens", 1, MOST_PAIRS),
    Between("topk", 1, MOST_TOPK),
    Between("experts", 1, MOST_EXPERTS),
    Between("width", 1, _MOST_WIDTH),
    Between("inter", 1, _MOST_WIDTH),
    PairsFit(MOST_PAIRS),
    LayerFits(),
)
_MOE = (
    OneOf("quant", QUANTS),
    OneOf("activation", ACTIVATIONS),
    CodesFit(),
    Between("global_experts", 0, MOST_EXPERTS, "split the experts that ids name"),
    *_SIZES,
)
_FMOE = (
    OneOf("activation", ACTIVATIONS[:2], "call fused_moe, which has swiglu"),
    OneOf("code", (*CODES, NATIVE)),
    Between("block_size", 1, MOST_BLOCK),
    *_SIZES,
)

# CPU ------------------------------------------------------------------------------------------------------------------

_CPU_SYMBOL = "aiterlite_fused_moe_cpu_{dtype}_{code}"
# What x and h become, as the kernel of MXFP4 numbers it.
_ROUNDED = {A4W4: 1, A8W4: 2}
_MX_SYMBOLS = tuple(_CPU_SYMBOL.format(dtype=dtype, code=MX_CODE) for dtype in DTYPES)
# What GPU kernels of several launches leave for each other; the CPU's is one, and sorts by itself.
_BETWEEN = ("local_topk_ids", "h", "h_scale", "slots")
_SORTED = ("sorted_ids", "sorted_weights", "sorted_expert_ids", "num_valid_ids")


def host_unit(target: str) -> Unit:
    """The family's CPU implementation, a symbol for each pair of types."""
    symbols = [_CPU_SYMBOL.format(dtype=dtype, code=code) for dtype in DTYPES for code in ("none", *CODES)]
    return Unit("fused_moe", ("csrc/fused_moe/cpu.cpp",), target, symbols=tuple(symbols))


def mxfp4_unit(target: str) -> Unit:
    """The same of MXFP4 weights, a symbol for each type of hidden states."""
    return Unit("fused_moe/mxfp4", ("csrc/fused_moe/mxfp4_cpu.cpp",), target, symbols=_MX_SYMBOLS)


def _cpu_kernel(problem: Any, persona: Persona, **args: Value) -> tuple[Kernel, ...]:
    symbol = _CPU_SYMBOL.format(dtype=problem.dtype, code=problem.code or "none")
    given = {**dict.fromkeys(_BETWEEN, 0), "activation": ACTIVATIONS.index(problem.activation), **args}
    unit = mxfp4_unit(persona.target) if symbol in _MX_SYMBOLS else host_unit(persona.target)
    return (Kernel(unit, symbol, CPU_ARGS, args=given),)


def _cpu(problem: MoeProblem, persona: Persona, plan: None) -> tuple[Kernel, ...]:
    return _cpu_kernel(
        problem,
        persona,
        **dict.fromkeys((*_SORTED, "block_size", "add"), 0),
        quant=QUANTS.index(problem.quant),
        shuffled=int(problem.shuffled),
        weighted_input=int(problem.weighted_input),
        quantised=int(problem.quantised),
        rounded=_ROUNDED.get(problem.precision, 0),
        by_slots=int(problem.by_slots),
    )


def _fmoe_cpu(problem: FmoeProblem, persona: Persona, plan: None) -> tuple[Kernel, ...]:
    of_call = {"quant": QUANTS.index("block"), "shuffled": 1, "quantised": 1, "add": 1}
    return _cpu_kernel(problem, persona, **of_call, **dict.fromkeys(("weighted_input", "rounded", "by_slots"), 0))


_CPU = Targets(("cpu-*",))
ROWS = (Row("cpu", "host", (_CPU,), kernels=_cpu),)
FMOE_ROWS = (Row("cpu", "host", (_CPU,), kernels=_fmoe_cpu),)

# The tables -----------------------------------------------------------------------------------------------------------

# (rows of fused_moe, rows of fmoe_fp8_blockscale_g1u1), a line a back end. The order decides between equal preferences.
_BACK_ENDS: tuple[tuple[tuple[Row, ...], tuple[Row, ...]], ...] = (
    (ROWS, FMOE_ROWS),
    (amd.ROWS, amd.FMOE_ROWS),
    (asm.ROWS, asm.FMOE_ROWS),
    (sm90.ROWS, sm90.FMOE_ROWS),
    (mxfp4.ROWS, ()),
    (mxfp4.SM90_ROWS, ()),
    (mxfp4_sm90.ROWS, ()),
    (mxfp4_e4m3.ROWS, ()),
)


def _asking(rows: tuple[Row, ...], common: tuple[Any, ...]) -> tuple[Row, ...]:
    """The rows, each with what every row asks, what it asks already asked once; and with problems as its target has
    them."""
    return tuple(
        replace(
            row,
            requires=(*row.requires, *[asked for asked in common if asked not in row.requires]),
            plan=_of_target(row.plan),
            kernels=_of_target(row.kernels),
            workspace=_of_target(row.workspace),
        )
        for row in rows
    )


def _measured(row: Row) -> Row:
    """The row, which measured points go before its preference and estimates for."""

    def favour(problem: MoeProblem, persona: Persona) -> int:
        named = crossover.fastest_row(problem, persona)
        return crossover.FAVOUR if named == row.name else row.favoured(problem, persona)

    def by(problem: MoeProblem, persona: Persona) -> str:
        measured = crossover.fastest_row(problem, persona) == row.name
        return crossover.WHY if measured else row.why_favoured(problem, persona)

    return replace(row, favour=favour, favoured_by=by)


def _of_target(function: Callable[..., Any] | None) -> Callable[..., Any] | None:
    if function is None:
        return None

    @functools.wraps(function)
    def of_target(problem: Any, persona: Persona, *more: Any) -> Any:
        return function(on(problem, persona), persona, *more)

    return of_target


def derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Ids name the experts that are here, weights have the target's code, or without scales none, or that of MXFP4,
    which hidden states become too, or MXFP8 where gates take turns; and contiguous operands are aligned as their rows
    are long."""
    quant = values.get("quant", "block")
    bits = {"none": 16, "mxfp4": 4}.get(quant, 8)
    rows = [values.get(name, default) for name, default in (("width", 7168), ("inter", 256))]
    return {
        "global_experts": values["experts"],
        "code": {"none": "", "mxfp4": MX_CODE}.get(quant, NATIVE),
        "precision": "" if quant != "mxfp4" else A8W4 if values.get("interleaved") else A4W4,
        "aligned": all(row * bits % 128 == 0 for row in rows),
        **values,
    }


def elsewhere(problem: MoeProblem, persona: Persona) -> list[MoeProblem]:
    """Weights as they lie, or as `shuffle_weight` puts them: a model loads them as its target wants them."""
    return [
        replace(one, shuffled=shuffled) for one in with_native_floats(problem, persona) for shuffled in (False, True)
    ]


# A layer that is small enough to try anywhere, then DeepSeek-R1's over 8 ranks: parts of each expert, or whole ones.
_LAYERS = Axis(("experts", "topk", "width", "inter"), ((16, 4, 512, 256), (256, 8, 7168, 256), (32, 8, 7168, 2048)))
_TOKENS = one_axis("tokens", 1, 4, 16, 64, 256, 1024)
_MOE_ROWS = tuple(_measured(row) for rows, _ in _BACK_ENDS for row in _asking(rows, _MOE))
_FMOE_ROWS = tuple(row for _, rows in _BACK_ENDS for row in _asking(rows, _FMOE))
TABLE = Table(OP, MoeProblem, _MOE_ROWS, (_LAYERS, _TOKENS), derive, elsewhere)
FMOE_TABLE = Table(FMOE_OP, FmoeProblem, _FMOE_ROWS, (_LAYERS, _TOKENS), lambda values: {"code": NATIVE, **values})

FAMILY = Family(
    name="fused_moe",
    tables=(TABLE, FMOE_TABLE),
    ops=("aiterlite.ops.fused_moe", "aiterlite.ops.fmoe"),
    samples="aiterlite.ops.samples.fused_moe",
    asm=asm.KERNELS,
)
