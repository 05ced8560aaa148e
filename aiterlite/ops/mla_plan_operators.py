"""The operators that plan MLA decode into buffers and bring a plan forward; what they mean is in `ops/mla_plan.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import arguments, calls, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from aiterlite.tables import mla_heads, mla_plan

_PLAN, _UPDATE = "get_mla_metadata_v1", "decode_update_mla_metadata_v1"
_SIZED = "Make the buffers by get_mla_metadata_info_v1 for at least this batch and these queries."
_INPUTS = ("qo_indptr", "kv_indptr", "kv_last_page_lens")
_BUFFERS = ("work_info_set", "work_indptr", "reduce_indptr", "reduce_final_map", "reduce_partial_map")
_OPERANDS = (*_INPUTS, "work_metadata_ptrs", *_BUFFERS)
_UPDATED = ("kv_indptr", *_BUFFERS, "rejected")


def held_by(rows: Tensor, indptr: Tensor, tiles: Tensor, final: Tensor, partial: Tensor) -> mla_plan.Sizes:
    """What buffers hold."""
    held = min(tiles.numel() - 1, final.numel() // 2)
    return mla_plan.Sizes(indptr.numel() - 1, rows.numel() // mla_heads.ROW_WORDS, held, partial.numel())


def check_held(planner: str, held: mla_plan.Sizes, tiles: int) -> None:
    needs = [("work_indptr", held.units + 1, 2), ("work_info_set", held.work_rows, tiles)]
    needs += [("reduce_indptr, reduce_final_map", held.reduce_tiles, tiles)]
    if planner == "intra":
        needs += [("reduce_partial_map", held.partial_entries, tiles)]
    for name, entries, need in needs:
        if entries < need:
            raise ArgumentError(_PLAN, name, f"for {entries} entries", f"at least {need}", _SIZED)
    if planner == "cost" and held.units > mla_plan.MOST_COST_UNITS:
        remedy = "Plan with fast_mode=True."
        raise ArgumentError(_PLAN, "work_indptr", f"for {held.units} workgroups", f"{mla_plan.MOST_COST_UNITS}", remedy)


def _check(function: str, like: Tensor, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        allowed = (torch.uint64, torch.int64) if name == "work_metadata_ptrs" else (torch.int32,)
        operands.check_dtype(function, name, tensor, allowed)
        operands.check_device(function, name, tensor, like, "kv_indptr")
    arguments.check_contiguous(function, **tensors)
    if tensors["work_info_set"].data_ptr() % 16:
        address = f"at address {tensors['work_info_set'].data_ptr():#x}"
        raise ArgumentError(function, "work_info_set", address, "at a multiple of 16 bytes", "Make it by torch.empty.")


def _prepare(*tensors: Tensor, planner: str, **given: Any) -> Run:
    named = dict(zip(_OPERANDS, tensors, strict=True))
    kv = named["kv_indptr"]
    _check(mla_plan.OP, kv, **named)
    batch = kv.numel() - 1
    for name, least in (("kv_indptr", 1), ("qo_indptr", batch + 1), ("kv_last_page_lens", batch)):
        if named[name].numel() < least:
            raise ArgumentError(mla_plan.OP, name, f"of {named[name].numel()} entries", f"at least {least}")
    if named["work_metadata_ptrs"].numel() < 2:
        raise ArgumentError(mla_plan.OP, "work_metadata_ptrs", f"of {named['work_metadata_ptrs'].numel()} entries", "2")
    held = held_by(*[named[name] for name in _BUFFERS])
    longest = given["uniform_q"] or given["max_q"]
    tiles = batch * given["fold"] * -(-longest // given["tile_tokens"])
    check_held(planner, held, tiles)
    most = mla_plan.most_pieces(planner, held, tiles, 0)
    sizes = {
        **given,
        "batch": batch,
        "trim": int(given["trim"]),
        "units": held.units,
        "splits": max(1, min(given["splits"], most)),
        "work_rows": held.work_rows,
        "reduce_tiles": named["reduce_indptr"].numel() - 1,
        "partial_entries": held.partial_entries,
    }
    problem = mla_plan.PlanProblem(batch, given["heads"], given["fold"], given["max_q"], planner, given["tile_tokens"])
    decision = calls.decide(mla_plan.TABLE, problem, calls.persona_of(mla_plan.OP, kv.device))
    launch = launches.prepare(decision, kv.device, _OPERANDS, sizes)

    def run(*tensors: Tensor, **_: Any) -> None:
        launch(*tensors)

    return run


def _prepare_update(*tensors: Tensor | None, max_q: int) -> Run:
    named = dict(zip(_UPDATED, tensors, strict=True))
    present = {name: tensor for name, tensor in named.items() if tensor is not None}
    kv, rejected = present["kv_indptr"], present.get("rejected")
    _check(mla_plan.UPDATE_OP, kv, **present)
    batch = kv.numel() - 1
    if rejected is not None and rejected.numel() < batch:
        raise ArgumentError(_UPDATE, "num_reject_tokens", f"of {rejected.numel()} entries", f"at least {batch}")
    held = held_by(*[present[name] for name in _BUFFERS])
    sizes = {
        "batch": batch,
        "units": held.units,
        "work_rows": held.work_rows,
        "reduce_tiles": held.reduce_tiles,
        "partial_entries": held.partial_entries,
        "max_q": max_q,
    }
    problem = mla_plan.UpdateProblem(batch, max_q)
    decision = calls.decide(mla_plan.UPDATE_TABLE, problem, calls.persona_of(mla_plan.UPDATE_OP, kv.device))
    launch = launches.prepare(decision, kv.device, _UPDATED, sizes, [] if rejected is not None else ["rejected"])

    def run(*tensors: Tensor | None, **_: Any) -> None:
        launch(*tensors)

    return run


def _fake(*tensors: Tensor | None, **_: Any) -> None:
    return None


PLAN = register(
    "mla_plan(Tensor qo_indptr, Tensor kv_indptr, Tensor kv_last_page_lens, Tensor(a!) work_metadata_ptrs, "
    "Tensor(b!) work_info_set, Tensor(c!) work_indptr, Tensor(d!) reduce_indptr, Tensor(e!) reduce_final_map, "
    "Tensor(f!) reduce_partial_map, *, str planner, int heads, int fold, int tile_tokens, int max_q, int uniform_q, "
    "int page_size, int granularity, bool trim, int splits, int fixed_splits) -> ()",
    _prepare,
    _fake,
)
UPDATE = register(
    "mla_plan_update(Tensor kv_indptr, Tensor(a!) work_info_set, Tensor work_indptr, Tensor reduce_indptr, "
    "Tensor(b!) reduce_final_map, Tensor(c!) reduce_partial_map, Tensor? rejected, *, int max_q) -> ()",
    _prepare_update,
    _fake,
)
