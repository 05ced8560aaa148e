"""MLA decode on sm_90: how a call is cut for csrc/mla/sm90_decode.hip. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiterlite.jit.spec import Unit
from aiterlite.kernel import overlap_defines
from aiterlite.target import Persona

if TYPE_CHECKING:
    from aiterlite.tables.mla import MlaProblem

KERNEL = "aiterlite_sm90_mla_decode"
# Two warpgroups multiply, two copy.
THREADS = 512
KV_DTYPES = ("bf16", "fp16", "e4m3fn")
_KEY_DIM, _VALUE_DIM, _TOKENS, _PADDING = 576, 512, 64, 16
# Rows of q that a workgroup has.
COLUMNS = (16, 32)
# More stages than this are no faster, and fewer than two leave a warpgroup without a tile.
_MOST_STAGES, _LEAST_STAGES = 4, 2
# Measured on an H200: a token of 16-bit and of 8-bit KV while all multiprocessors read, a piece without its tokens, a
# merge without its parts, a part. Pieces are multiples of so many tokens (mla/work.h).
_TOKEN_US, _PIECE_US, _MERGE_US, _PART_US = (0.036, 0.021), 5.0, 2.0, 0.02
MOST_SPLITS = 64


@dataclass(frozen=True)
class Sm90Plan:
    """One launch: `columns` packed rows of q a workgroup, `column_groups` of those a piece, `stages` tiles of 64 tokens
    in `shared_bytes` of shared memory."""

    columns: int
    column_groups: int
    stages: int
    shared_bytes: int
    grid: int


def shared_bytes(columns: int, stages: int, kv_dtype: str) -> int:
    """The size of the kernel's `Shared`: operands, or what its warpgroups exchange; the tiles."""
    weight_parts = 2 if kv_dtype == "bf16" else 1
    operands = columns * _KEY_DIM * 2 + 2 * weight_parts * columns * _TOKENS * 2
    row = _KEY_DIM * (1 if kv_dtype == "e4m3fn" else 2) + _PADDING
    exchanged = 2 * columns * (_VALUE_DIM // 2 + 4) * 4
    return max(operands, exchanged) + stages * _TOKENS * row


def plan_decode(problem: MlaProblem, persona: Persona) -> Sm90Plan:
    """The fewest columns that hold all rows of a piece, else the most; then as many stages as fit."""
    rows = problem.q_len * problem.heads
    columns = next((count for count in COLUMNS if count >= rows), COLUMNS[-1])
    stages = _MOST_STAGES
    while stages > _LEAST_STAGES and shared_bytes(columns, stages, problem.kv_dtype) > persona.lds_bytes:
        stages -= 1
    groups = -(-rows // columns)
    pieces = problem.plan_units or problem.batch * problem.splits
    return Sm90Plan(columns, groups, stages, shared_bytes(columns, stages, problem.kv_dtype), pieces * groups)


def unasked_splits(cu_count: int, batch: int, rows: int, context: float, kv_dtype: str) -> int:
    """The count of pieces of a request, of `rows` packed rows of q, that is done first by a model of an H200: rounds of
    workgroups, each of which starts, runs over its tokens and ends, and a merge. The lowest of equals."""
    groups = batch * -(-rows // COLUMNS[-1])
    token_us = _TOKEN_US[kv_dtype == "e4m3fn"]

    def microseconds(splits: int) -> float:
        rounds = -(-groups * splits // max(1, cu_count))
        tokens = -(-context // (splits * _TOKENS)) * _TOKENS
        return rounds * (_PIECE_US + tokens * token_us) + (_MERGE_US + splits * _PART_US if splits > 1 else 0.0)

    return min(range(1, MOST_SPLITS + 1), key=microseconds)


def unit(problem: MlaProblem, persona: Persona, plan: Sm90Plan) -> Unit:
    defines = {
        "AITERLITE_COLUMNS": str(plan.columns),
        "AITERLITE_KV": problem.kv_dtype,
        "AITERLITE_OUT": problem.out_dtype,
        "AITERLITE_PLANNED": str(int(problem.plan_units > 0)),
        "AITERLITE_Q": problem.q_dtype,
        "AITERLITE_SHARED_BYTES": str(plan.shared_bytes),
        "AITERLITE_STAGES": str(plan.stages),
        **overlap_defines(persona.target),
    }
    return Unit(
        "mla/sm90_decode", ("csrc/mla/sm90_decode.hip",), persona.target, tuple(defines.items()), symbols=(KERNEL,)
    )
