"""Quantisation to 8-bit numbers: which kernels serve a call, and how they are cut.

Rows, or groups of their elements, are one kernel that holds what shares a scale in registers; only rows that these do
not hold are read twice. A tensor with one scale is two kernels, or one where the scale is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiterlite.dispatch import Between, OneOf, Refusal, Row, Table, Targets, Wishes, one_axis
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import WORKSPACE, Kernel, Operand, Value, Workspace, along_x, overlap_defines
from aiterlite.tables import quant_plan as plans
from aiterlite.tables.quant_plan import QuantProblem
from aiterlite.target import Persona

_HEADER = "aiterlite/quant/args.h"
ROWS_ARGS = ArgumentStruct("aiterlite_quant_rows_args", _HEADER)
TENSOR_ARGS = ArgumentStruct("aiterlite_quant_tensor_args", _HEADER)
DTYPES = ("bf16", "fp16")
CODES = ("e4m3fn", "e4m3fnuz", "int8")
GROUPS = (32, 64, 128)
_INT32_MAX = 2**31 - 1
# Kernels divide numbers of groups below 2^31; half of that leaves room for tiles and workgroups that are not full.
MOST_GROUPS = 2**30


@dataclass(frozen=True)
class FormatsFit:
    """The output and its scales are of formats that kernels are made for."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        code, scale = problem.out_dtype, problem.scale_dtype
        if code in CODES and scale == "fp32":
            return None
        if code == "e2m1":
            return Refusal("the output is e2m1, MXFP4, which is another operator's", "call quant_mxfp4")
        if scale == "e8m0":
            given = f"{code} with scales of {scale}: MXFP8 has no kernel"
            return Refusal(given, "quantise per_1x128 to an e4m3 type, whose scales are float32")
        return Refusal(f"the output is {code} with scales of {scale}; there are {', '.join(CODES)} with fp32")

    def __str__(self) -> str:
        return f"{', '.join(CODES)} with fp32 scales"


@dataclass(frozen=True)
class GroupsFit:
    """Rows are whole groups, of a size that kernels are made for, and as many as they can count."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if problem.group_size not in GROUPS:
            return Refusal(f"group_size is {problem.group_size}; there are {', '.join(map(str, GROUPS))}")
        if problem.row_width % problem.group_size:
            return Refusal(
                f"row_width, {problem.row_width}, is no multiple of the group, {problem.group_size}", "pad the rows"
            )
        if problem.row_count * problem.groups > MOST_GROUPS:
            return Refusal(
                f"{problem.row_count} rows of {problem.groups} groups are more than 2^30 groups", "split the rows"
            )
        return None

    def __str__(self) -> str:
        return f"rows of whole groups of {', '.join(map(str, GROUPS))}"


@dataclass(frozen=True)
class OneGroup:
    """A group is a whole row (0: the whole tensor)."""

    whole: bool

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        wanted = 0 if self.whole else problem.row_width
        if problem.group_size == wanted and not problem.transposed:
            return None
        given = f"group_size is {problem.group_size}{', transposed' if problem.transposed else ''}"
        return Refusal(f"{given}; a scale of this operator is for {wanted or 'all'} elements", "quantise by groups")

    def __str__(self) -> str:
        return "one scale" if self.whole else "a scale a row"


# CPU ------------------------------------------------------------------------------------------------------------------

_CPU = "aiterlite_quant_{kind}_cpu_{dtype}_{code}"
_KINDS = ("rows", "tensor", "static")


def host_unit(target: str) -> Unit:
    """The family's CPU implementation, a symbol for each kind and pair of types."""
    symbols = [_CPU.format(kind=k, dtype=d, code=c) for k in _KINDS for d in DTYPES for c in CODES]
    return Unit("quant", ("csrc/quant/quant.cpp",), target, symbols=tuple(symbols))


def _cpu(kind: str, problem: QuantProblem, persona: Persona) -> Kernel:
    symbol = _CPU.format(kind=kind, dtype=problem.dtype, code=problem.out_dtype)
    if kind == "rows":
        return Kernel(host_unit(persona.target), symbol, ROWS_ARGS, args=_rows_args(problem))
    args: dict[str, Value] = {"partial": 0, "partials": 0}
    return Kernel(host_unit(persona.target), symbol, TENSOR_ARGS, args=args)


def _rows_args(problem: QuantProblem) -> dict[str, Value]:
    return {
        "rows": problem.row_count,
        "width": problem.row_width,
        "group": problem.group_size,
        "groups": problem.groups,
        "transposed": int(problem.transposed),
        **plans.division(problem.groups * (plans.TILE_ROWS if problem.transposed else 1)),
    }


# GPUs -----------------------------------------------------------------------------------------------------------------

ROWS_KERNEL = "aiterlite_quant_rows"
STATIC_KERNEL, MAXIMA_KERNEL, TENSOR_KERNEL = (f"aiterlite_quant_{name}" for name in ("static", "maxima", "tensor"))


def _defines(problem: QuantProblem, persona: Persona, **plan: int) -> tuple[tuple[str, str], ...]:
    defines = {
        "AITERLITE_ALIGNED": str(int(problem.aligned)),
        "AITERLITE_CODE": problem.out_dtype,
        "AITERLITE_ELEMENT": problem.dtype,
        **{f"AITERLITE_{name.upper()}": str(value) for name, value in plan.items()},
        **overlap_defines(persona.target),
    }
    return tuple(defines.items())


def _rows_kernels(problem: QuantProblem, persona: Persona, plan: plans.RowsPlan) -> tuple[Kernel, ...]:
    of_plan = {name: getattr(plan, name) for name in ("threads", "lanes", "units", "batch", "passes", "resident")}
    # Elsewhere nothing overlaps, and one kernel serves both.
    early = plan.early and bool(overlap_defines(persona.target))
    defines = _defines(problem, persona, **of_plan, transposed=int(problem.transposed), early=int(early))
    unit = Unit("quant/rows", ("csrc/quant/rows.hip",), persona.target, defines, symbols=(ROWS_KERNEL,))
    args = _rows_args(problem)
    return (Kernel(unit, ROWS_KERNEL, ROWS_ARGS, along_x(plan.grid), along_x(plan.threads), args=args),)


def rows_within(problem: QuantProblem, persona: Persona, results: Mapping[str, Value]) -> tuple[Kernel, ...]:
    """The kernels that quantise rows as a part of another operator's call, for a GPU. `results` says where each of
    their fields lies that the call does not bring under the field's name."""
    kernels = _rows_kernels(problem, persona, plans.plan_rows(problem, persona))
    return tuple(replace(kernel, args={**kernel.args, **results}) for kernel in kernels)


def _tensor_kernels(problem: QuantProblem, persona: Persona, plan: plans.TensorPlan) -> tuple[Kernel, ...]:
    static = plan.maxima == 0
    symbols = (STATIC_KERNEL,) if static else (MAXIMA_KERNEL, TENSOR_KERNEL)
    defines = _defines(
        problem, persona, threads=plan.threads, units=plan.units, resident=plan.resident, static=int(static)
    )
    unit = Unit("quant/tensor", ("csrc/quant/tensor.hip",), persona.target, defines, symbols=symbols)
    args: dict[str, Value] = {"partial": 0 if static else Operand(WORKSPACE), "partials": plan.maxima}
    grids = {MAXIMA_KERNEL: plan.maxima}
    return tuple(
        Kernel(unit, name, TENSOR_ARGS, along_x(grids.get(name, plan.grid)), along_x(plan.threads), args=args)
        for name in symbols
    )


def _tensor_workspace(problem: QuantProblem, persona: Persona, plan: plans.TensorPlan) -> Workspace:
    return Workspace("quant_maxima", 0, 4 * plan.maxima)


# The tables -----------------------------------------------------------------------------------------------------------

_FORMATS = (
    OneOf("dtype", DTYPES),
    FormatsFit(),
    Between("row_count", 1, _INT32_MAX),
    Between("row_width", 1, _INT32_MAX),
)
_AMD, _HOPPER = Targets(("gfx942", "gfx950")), Targets(("sm_90a",))
# DeepSeek-R1's hidden size, for decode, a batch of it, and prefill.
_ROWS, _WIDTH = one_axis("row_count", 1, 16, 256, 4096), one_axis("row_width", 7168)


def _rows_table(op: str, extra: Any, group: int) -> Table:
    requires = (*_FORMATS, extra)

    def derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
        k = values.get("row_width", 0)
        return {"group_size": group or k, "aligned": k % plans.PIECE == 0, **values}

    return Table(
        op,
        QuantProblem,
        (
            Row("cpu", "host", (Targets(("cpu-*",)), *requires), kernels=lambda p, c, _: (_cpu("rows", p, c),)),
            Row("lanes", "hip", (_AMD, *requires), 0, plans.plan_rows, _rows_kernels),
            Row("warps", "cuda", (_HOPPER, *requires), 0, plans.plan_rows, _rows_kernels),
        ),
        (_ROWS, _WIDTH),
        derive,
    )


def _tensor_table(op: str, kind: str, plan: Any, workspace: Any) -> Table:
    requires = (*_FORMATS, OneGroup(True))

    def derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
        count = values.get("row_count", 0) * values.get("row_width", 0)
        return {"group_size": 0, "aligned": count % plans.PIECE == 0, **values}

    return Table(
        op,
        QuantProblem,
        (
            Row("cpu", "host", (Targets(("cpu-*",)), *requires), kernels=lambda p, c, _: (_cpu(kind, p, c),)),
            Row("lanes", "hip", (_AMD, *requires), 0, plan, _tensor_kernels, workspace),
            Row("warps", "cuda", (_HOPPER, *requires), 0, plan, _tensor_kernels, workspace),
        ),
        (_ROWS, _WIDTH),
        derive,
    )


GROUP = _rows_table("dynamic_per_group_scaled_quant", GroupsFit(), 128)
TOKEN = _rows_table("dynamic_per_token_scaled_quant", OneGroup(False), 0)
TENSOR = _tensor_table("dynamic_per_tensor_quant", "tensor", plans.plan_tensor, _tensor_workspace)
STATIC = _tensor_table("static_per_tensor_quant", "static", plans.plan_static, None)
