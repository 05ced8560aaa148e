"""Planning MLA decode: sizes of a plan's buffers, what bounds its pieces, and the kernels that make and update one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Axis, Between, OneOf, Row, Table, Targets, one_axis
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, along_x, overlap_defines
from aiterlite.tables import mla_heads
from aiterlite.target import Persona

OP, UPDATE_OP = "mla_plan", "mla_plan_update"
PLANNERS = ("fast", "intra", "cost")
_HEADER = "aiterlite/mla/plan_args.h"
PLAN_ARGS = ArgumentStruct("aiterlite_mla_plan_args", _HEADER)
UPDATE_ARGS = ArgumentStruct("aiterlite_mla_plan_update_args", _HEADER)
_PREFIX = "aiterlite_mla_plan_"
# One workgroup makes a plan (csrc/mla/plan.hip).
THREADS = 512
# The planner `cost` holds the workgroups' costs in registers (csrc/include/aiterlite/mla/plan_cost.h).
MOST_COST_UNITS = 512
# `intra` on gfx942 cuts every tile into so many pieces, where buffers and the call allow them.
GFX942_SPLITS = 16


@dataclass(frozen=True)
class Sizes:
    """Entries of a plan's buffers: workgroups, rows of work_info_set, tiles, entries of reduce_partial_map."""

    units: int
    work_rows: int
    reduce_tiles: int
    partial_entries: int


def sizes(
    persona: Persona,
    batch: int,
    q_len: int,
    heads: int,
    q_dtype: str,
    kv_dtype: str,
    *,
    sparse: bool = False,
    planner: str = "fast",
    num_kv_splits: int = 32,
    max_split_per_batch: int = -1,
) -> Sizes:
    """What holds a plan of every batch up to `batch` and every query length up to `q_len`. Raises `ValueError`."""
    units = mla_heads.compute_units(persona)
    batch, q_len = (batch * q_len, 1) if sparse else (batch, q_len)
    each = mla_heads.most_tiles(persona.target, heads, q_dtype, kv_dtype, q_len)
    tiles = batch * each
    if planner == "fast":
        rows = (batch + units - 1) * each
        entries = min(batch + units - 1, 2 * (units - 1)) * each
    else:
        rows = entries = tiles * units
    if max_split_per_batch > 0:
        entries = max(entries, tiles + min(units, max_split_per_batch * batch))
    if planner == "intra":
        rows = entries = tiles * num_kv_splits
    return Sizes(units, rows, tiles, entries)


def most_pieces(planner: str, held: Sizes, tiles: int, most: int) -> int:
    """What bounds the pieces of a plan of so many tiles, so that they fit buffers of the sizes `held`.

    Of `fast` it is the number of budgets that the work is divided by: with n of them there are at most tiles + n - 1
    pieces, n - 1 cuts, and so at most 2 * (n - 1) partial results. Of the others, the pieces of a tile. `most` is what
    the call asks for, 0 where it does not say.
    """
    tiles = max(1, tiles)
    asked = min(held.units, most) if most else held.units
    if planner == "fast":
        entries = max(held.partial_entries // 2 + 1, held.partial_entries - tiles + 1)
        return max(1, min(asked, held.work_rows - tiles + 1, entries))
    fits = min(held.work_rows, held.partial_entries) // tiles
    if planner == "cost":
        return max(1, min(asked, fits))
    return max(1, min(most, fits) if most else fits)


@dataclass(frozen=True)
class PlanProblem:
    """A plan of `batch` requests, each in `folds` parts of `heads` heads, for the workgroups of `cus` compute units.
    Kernels differ by `planner` alone; the rest is what samples are made of: q tiles of at most `tile_tokens`, about
    `kv` entries of KV a request, in pages of `page_size`."""

    batch: int
    heads: int
    folds: int = 1
    q_len: int = 1
    planner: str = "fast"
    tile_tokens: int = 8
    kv: int = 1024
    page_size: int = 1
    cus: int = 132


@dataclass(frozen=True)
class UpdateProblem:
    """A plan of `batch` requests, of queries of `q_len` tokens, brought forward."""

    batch: int
    q_len: int = 1


def device_unit(persona: Persona) -> Unit:
    return Unit(
        "mla/plan",
        ("csrc/mla/plan.hip",),
        persona.target,
        tuple(overlap_defines(persona.target).items()),
        symbols=tuple(f"{_PREFIX}{name}" for name in (*PLANNERS, "update")),
    )


def host_unit(target: str) -> Unit:
    symbols = tuple(f"{_PREFIX}{name}_cpu" for name in (*PLANNERS, "update"))
    return Unit("mla_plan", ("csrc/mla/plan.cpp",), target, symbols=symbols)


def _gpu(problem: PlanProblem | UpdateProblem, persona: Persona, plan: None) -> tuple[Kernel, ...]:
    name, struct = _of(problem)
    return (Kernel(device_unit(persona), f"{_PREFIX}{name}", struct, along_x(1), along_x(THREADS)),)


def _cpu(problem: PlanProblem | UpdateProblem, persona: Persona, plan: None) -> tuple[Kernel, ...]:
    name, struct = _of(problem)
    return (Kernel(host_unit(persona.target), f"{_PREFIX}{name}_cpu", struct),)


def _of(problem: PlanProblem | UpdateProblem) -> tuple[str, ArgumentStruct]:
    return (problem.planner, PLAN_ARGS) if isinstance(problem, PlanProblem) else ("update", UPDATE_ARGS)


def derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A q tile holds what 128 rows do."""
    return {"tile_tokens": max(1, 128 // max(1, values["heads"])), **values}


_BATCH = Between("batch", 0, 1 << 20)
_PLAN = (_BATCH, OneOf("planner", PLANNERS))
_AMD, _HOPPER = Targets(("gfx942", "gfx950")), Targets(("sm_90a",))
# DeepSeek-R1 at tensor parallel 1, 2, 4 and 8: 128 heads, native and as eight times 16, to 16 heads.
_SWEEP = (
    Axis(("heads", "folds"), ((128, 1), (16, 8), (64, 1), (16, 4), (32, 1), (16, 2), (16, 1))),
    one_axis("batch", 1, 128),
    one_axis("planner", "fast", "intra"),
)
TABLE = Table(
    OP,
    PlanProblem,
    (
        Row("cpu", "host", (Targets(("cpu-*",)), *_PLAN), kernels=_cpu),
        Row("workgroup", "hip", (_AMD, *_PLAN), kernels=_gpu),
        Row("block", "cuda", (_HOPPER, *_PLAN), kernels=_gpu),
    ),
    _SWEEP,
    derive,
)
UPDATE_TABLE = Table(
    UPDATE_OP,
    UpdateProblem,
    (
        Row("cpu", "host", (Targets(("cpu-*",)), _BATCH), kernels=_cpu),
        Row("workgroup", "hip", (_AMD, _BATCH), kernels=_gpu),
        Row("block", "cuda", (_HOPPER, _BATCH), kernels=_gpu),
    ),
    (one_axis("batch", 1, 128), one_axis("q_len", 1, 4)),
)
