"""Samples of plans of MLA decode: ragged requests, planned into buffers of zeros."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite.ops import mla_plan_operators as operators
from aiterlite.ops import operands
from aiterlite.ops.samples import Exact, Sample
from aiterlite.reference import mla_plan as reference
from aiterlite.reference.mla_plan import PlanCall, Planned
from aiterlite.tables.mla_plan import GFX942_SPLITS, PLANNERS, PlanProblem, Sizes, UpdateProblem, most_pieces

_NAMES = ("work_info_set", "work_indptr", "reduce_indptr", "reduce_final_map", "reduce_partial_map")


def _ints(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def _prefix(lengths: list[int]) -> list[int]:
    return [0, *torch.tensor(lengths, dtype=torch.int64).cumsum(0).tolist()]


def _call(problem: PlanProblem, seed: int) -> tuple[PlanCall, Sizes]:
    """Requests of half to once and a half the problem's KV, every seventh without any."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(problem.kv // 2, problem.kv + problem.kv // 2 + 1, (problem.batch,), generator=generator)
    kv = [0 if request % 7 == 6 else length for request, length in enumerate(drawn.tolist())]
    tiles = problem.batch * problem.folds * reference.up(problem.q_len, problem.tile_tokens)
    rows = tiles + problem.cus - 1 if problem.planner == "fast" else tiles * GFX942_SPLITS
    held = Sizes(problem.cus, rows, tiles, rows)
    call = PlanCall(
        qo_indptr=[request * problem.q_len for request in range(problem.batch + 1)],
        kv_indptr=_prefix(kv),
        kv_last_page_lens=[problem.page_size] * problem.batch,
        heads=problem.heads,
        fold=problem.folds,
        tile_tokens=problem.tile_tokens,
        max_q=problem.q_len,
        uniform_q=problem.q_len,
        page_size=problem.page_size,
        granularity=16,
        trim=problem.page_size == 1,
        units=problem.cus,
        splits=most_pieces(problem.planner, held, tiles, 0),
        fixed_splits=GFX942_SPLITS,
        reduce_tiles=tiles,
    )
    return call, held


def _buffers(held: Sizes, planned: Planned | None = None) -> dict[str, Tensor]:
    """Zeros, and where a plan is given, that."""
    shapes = [(held.work_rows, 8), (held.units + 1,), (held.reduce_tiles + 1,), (held.reduce_tiles, 2)]
    made = {
        name: torch.zeros(shape, dtype=torch.int32)
        for name, shape in zip(_NAMES, [*shapes, (held.partial_entries,)], strict=True)
    }
    if planned is None:
        return made
    for number, row in enumerate(planned.work_info_set):
        made["work_info_set"][number] = _ints(list(row))
    made["work_indptr"].copy_(_ints(planned.work_indptr))
    made["reduce_indptr"].copy_(_ints(planned.reduce_indptr))
    for tile, rows in planned.reduce_final_map.items():
        made["reduce_final_map"][tile] = _ints(list(rows))
    made["reduce_partial_map"][: len(planned.reduce_partial_map)] = _ints(planned.reduce_partial_map)
    return made


def _plan(problem: PlanProblem, seed: int) -> Sample:
    operands.check_choice("sample", "planner", problem.planner, PLANNERS)
    call, held = _call(problem, seed)
    named = ("heads", "fold", "tile_tokens", "max_q", "uniform_q", "page_size", "granularity", "trim", "splits")
    options = {name: getattr(call, name) for name in (*named, "fixed_splits")}
    inputs = {"qo_indptr": _ints(list(call.qo_indptr)), "kv_indptr": _ints(list(call.kv_indptr))}
    inputs["kv_last_page_lens"] = _ints(list(call.kv_last_page_lens))
    inputs |= {"work_metadata_ptrs": torch.zeros(2, dtype=torch.int64), **_buffers(held)}
    wanted = _buffers(held, reference.PLANNERS[problem.planner](call))
    return Sample(
        inputs=inputs,
        bind=lambda given: functools.partial(
            operators.PLAN, *[given[name] for name in inputs], planner=problem.planner, **options
        ),
        results=(),
        # The addresses are those of the call's own tensors.
        outputs={name: Exact(tensor) for name, tensor in wanted.items()},
    )


def _update(problem: UpdateProblem, seed: int) -> Sample:
    """A plan of which every request gets a token and every other one loses it."""
    planned = PlanProblem(problem.batch, 16, q_len=problem.q_len)
    call, held = _call(planned, seed)
    before = reference.fast(call)
    rejected = [request % 2 for request in range(problem.batch)]
    lengths = [after - first for first, after in zip(call.kv_indptr, call.kv_indptr[1:], strict=False)]
    kv = _prefix([length + 1 - less for length, less in zip(lengths, rejected, strict=True)])
    wanted = _buffers(held, reference.brought_forward(call, before, kv, rejected))
    inputs = {"kv_indptr": _ints(kv), **_buffers(held, before), "rejected": _ints(rejected)}
    return Sample(
        inputs=inputs,
        bind=lambda given: functools.partial(operators.UPDATE, *[given[name] for name in inputs], max_q=problem.q_len),
        results=(),
        outputs={name: Exact(wanted[name]) for name in ("work_info_set", "reduce_final_map", "reduce_partial_map")},
    )


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {"mla_plan": _plan, "mla_plan_update": _update}
