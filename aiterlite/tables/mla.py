"""MLA decode, prefill and merge: which kernels serve a call, and how they are cut.

A call is one kernel over pieces of KV, and behind it, where a row of q may have several pieces, one that merges them.
Pieces are a plan's (for `plan_units` workgroups) or equal `splits` of each request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiterlite.dispatch import (
    Between,
    OneOf,
    Refusal,
    Requirement,
    Row,
    Table,
    Targets,
    Wishes,
    one_axis,
    with_native_floats,
)
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Value, along_x, overlap_defines
from aiterlite.tables import asm, estimated, mla_accuracy, mla_asm, mla_heads, mla_sm90
from aiterlite.target import Persona

_HEADER = "aiterlite/mla/args.h"
DECODE_ARGS = ArgumentStruct("aiterlite_mla_decode_args", _HEADER)
REDUCE_ARGS = ArgumentStruct("aiterlite_mla_reduce_args", _HEADER)
KEY_DIM, VALUE_DIM = 576, 512
EIGHT_BITS = ("e4m3fn", "e4m3fnuz")
# (q, KV, o): a 16-bit q gives its type to o, and to KV where that is not 8-bit.
TYPES = (
    ("bf16", "bf16", "bf16"),
    ("fp16", "fp16", "fp16"),
    *((q, kv, q) for q in ("bf16", "fp16") for kv in EIGHT_BITS),
    *((fp8, fp8, o) for fp8 in EIGHT_BITS for o in ("bf16", "fp16")),
)
MOST_HEADS, MOST_SPLITS = 128, mla_sm90.MOST_SPLITS
MERGED_DIMS = (64, 128, 512)
# Splits where a call names none: of what a compute unit has to do, the share of it that starting costs, in tokens.
_OVERHEAD_TOKENS, _MOST_UNASKED = 84.1, 16
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class MlaProblem:
    """q[batch * q_len, heads, 576] over `context` tokens of paged KV a request, on average.

    `splits`: pieces of each request; 0 where a plan for `plan_units` workgroups makes them. `lse`: the log-sums are a
    result too. `causal`: row i of a request's n sees all tokens but the last n - 1 - i. `pages_exist`: KV has a page.
    """

    batch: int
    heads: int
    context: int
    q_len: int = 1
    page_size: int = 1
    q_dtype: str = "bf16"
    kv_dtype: str = "bf16"
    out_dtype: str = "bf16"
    splits: int = 1
    plan_units: int = 0
    lse: bool = True
    causal: bool = True
    pages_exist: bool = True

    @property
    def dtype(self) -> str:
        """The result's, by which manifests of assembly name what a kernel takes."""
        return self.out_dtype


@dataclass(frozen=True)
class MergeProblem:
    """`pieces` of each of `batch` tiles of at most q_len rows, [heads, head_dim] a row."""

    batch: int
    heads: int
    head_dim: int = VALUE_DIM
    q_len: int = 1
    pieces: int = 2
    out_dtype: str = "bf16"
    lse: bool = True


@dataclass(frozen=True)
class TypesFit:
    """The types of q, KV and o are among those that kernels are made for."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        given = (problem.q_dtype, problem.kv_dtype, problem.out_dtype)
        if given in TYPES:
            return None
        allowed = ", ".join("/".join(types) for types in TYPES)
        return Refusal(f"q/KV/o are {'/'.join(given)}; there are {allowed}", "convert q, and give o its type")

    def __str__(self) -> str:
        return f"q/KV/o {', '.join('/'.join(types) for types in TYPES)}"


@dataclass(frozen=True)
class PlannedHeadsFit:
    """The heads of a planned call are a multiple of those that the table folds them into."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if not problem.plan_units:
            return None
        try:
            mla_heads.fold(persona.target, problem.heads, problem.q_dtype, problem.kv_dtype, max(1, problem.q_len))
        except mla_heads.NotPlannedError as error:
            return Refusal(error.reason, error.remedy)
        return None

    def __str__(self) -> str:
        return "with a plan, a multiple of the heads that are folded"


def splits_of(persona: Persona, problem: MlaProblem, threads: int = 0) -> int:
    """How many pieces each request of a call is cut into where the caller does not say. On a CPU `threads` are what is
    kept busy: each piece more is a part of 32 KiB for 16 heads to write and to merge."""
    batch, context = max(1, problem.batch), max(1, problem.context)
    units = threads or mla_heads.compute_units(persona)
    if persona.target == "sm_90a":
        return mla_sm90.unasked_splits(problem, persona)
    told = 0
    if persona.family == "amd" and mla_asm.is_one_tile(problem):
        told = estimated.mla_splits(persona, problem.kv_dtype, context, batch)
    return told or unasked_splits(units, batch, context)


def unasked_splits(cu_count: int, batch: int, context: float | None) -> int:
    """How many pieces a request is cut into where the caller does not say: the count of 1 to 16 that keeps compute
    units busiest, weighed against what starting a piece costs beside `context` tokens, if that is given; the lowest of
    equals (upstream's `get_meta_param`)."""
    units = max(1, cu_count)

    def worth(splits: int) -> float:
        pieces = batch * splits
        busy = pieces / (-(-pieces // units) * units)
        return busy if context is None else busy * context / (context + _OVERHEAD_TOKENS * splits)

    return max(range(1, _MOST_UNASKED + 1), key=worth)


def sizes(problem: MlaProblem, persona: Persona) -> dict[str, Value]:
    """What the plan puts into the decode kernel's arguments."""
    fold = 1
    if problem.plan_units:
        fold = mla_heads.fold(persona.target, problem.heads, problem.q_dtype, problem.kv_dtype, problem.q_len).fold
    return {
        "batch": problem.batch,
        "heads": problem.heads,
        "page_size": problem.page_size,
        "splits": problem.splits,
        "workgroups": problem.plan_units,
        "fold": fold,
        "q_len": problem.q_len,
        "causal": int(problem.causal),
        "column_groups": 1,
    }


def merge_sizes(decode: Mapping[str, Value]) -> dict[str, Value]:
    """The same of the merge behind it."""
    return {name: decode[name] for name in ("batch", "heads", "page_size", "splits", "fold", "q_len", "workgroups")}


def merges(problem: MlaProblem) -> bool:
    """Whether a row may have several pieces, or be of a request without any."""
    return problem.splits != 1


# CPU ------------------------------------------------------------------------------------------------------------------

_DECODE_CPU, _REDUCE_CPU = "aiterlite_mla_decode_cpu", "aiterlite_mla_reduce_cpu"


def host_unit(target: str) -> Unit:
    """The family's CPU implementation, a symbol for each set of types."""
    symbols = [f"{_DECODE_CPU}_{'_'.join(types)}" for types in TYPES]
    symbols += [f"{_REDUCE_CPU}_{dim}_{out}" for dim in MERGED_DIMS for out in ("bf16", "fp16")]
    return Unit("mla", ("csrc/mla/decode.cpp", "csrc/mla/reduce.cpp"), target, symbols=tuple(symbols))


def _cpu_kernels(problem: MlaProblem, persona: Persona, plan: None) -> tuple[Kernel, ...]:
    unit, given = host_unit(persona.target), sizes(problem, persona)
    types = f"{problem.q_dtype}_{problem.kv_dtype}_{problem.out_dtype}"
    decode = Kernel(unit, f"{_DECODE_CPU}_{types}", DECODE_ARGS, args=given)
    if not merges(problem):
        return (decode,)
    symbol = f"{_REDUCE_CPU}_{VALUE_DIM}_{problem.out_dtype}"
    return decode, Kernel(unit, symbol, REDUCE_ARGS, args=merge_sizes(given))


def _cpu_merge(problem: MergeProblem, persona: Persona, plan: None) -> tuple[Kernel, ...]:
    symbol = f"{_REDUCE_CPU}_{problem.head_dim}_{problem.out_dtype}"
    return (Kernel(host_unit(persona.target), symbol, REDUCE_ARGS, args=_merge_args(problem)),)


def _merge_args(problem: MergeProblem) -> dict[str, Value]:
    return {
        "batch": 0,
        "heads": problem.heads,
        "page_size": 1,
        "splits": 0,
        "fold": 1,
        "q_len": problem.q_len,
        "tiles": problem.batch,
        "workgroups": problem.batch,
    }


# GPUs -----------------------------------------------------------------------------------------------------------------

DECODE_KERNEL, REDUCE_KERNEL = "aiterlite_mla_decode", "aiterlite_mla_reduce"
# Of a merge: loads that a thread has in flight, and how many threads may share a part's four values.
_PARTS_AHEAD, _MOST_SLICES, _FEW_SLICES = 8, 4, 2
_RING, _CHUNK = 4, 16


# How mla/decode.hip is cut: columns of a matrix product, waves, and the most tiles of columns for which sums and q stay
# in registers.
_COLUMNS, _WAVES, _MOST_TILES = 16, 4, 4


@dataclass(frozen=True)
class MlaPlan:
    """One launch of mla/decode.hip: `column_tiles` of rows of q a workgroup, for each piece `column_groups` workgroups,
    which take turns where a plan's pieces are larger than this table's (`spare`: or may be smaller), tiles of `tokens`
    tokens, `shared_bytes` of LDS."""

    column_tiles: int
    column_groups: int
    tokens: int
    shared_bytes: int
    grid: int
    spare: bool = False


def _pitch(row_bytes: int) -> int:
    """`pitch_for<Reading::kOperand16>` of tile/layout.h."""
    chunks = -(-row_bytes // _CHUNK)
    return (chunks + (6 - chunks % 4) % 4) * _CHUNK


def shared_bytes(types: tuple[str, str], column_tiles: int, tokens: int) -> int:
    """The size of mla/decode.hip's `Shared`."""
    columns, (q_dtype, kv_dtype) = column_tiles * _COLUMNS, types
    rows = tokens * KEY_DIM * (1 if kv_dtype in EIGHT_BITS else 2)
    weights = (2 if q_dtype == "bf16" else 1) * columns * _pitch(2 * tokens)
    score_waves = min(_WAVES // column_tiles, tokens // 16)
    small = _RING * tokens * (8 + 4) + 4 * _RING + 2 * 4 * score_waves * columns
    return -(-(rows + weights + small) // _CHUNK) * _CHUNK


def _tiles_of_piece(problem: MlaProblem, persona: Persona, q_dtype: str) -> int:
    """Tiles of columns, each of one token, that a plan for such q gives a piece at most."""
    folded = mla_heads.fold(persona.target, problem.heads, q_dtype, problem.kv_dtype, problem.q_len)
    return min(problem.q_len, folded.tile_tokens) * -(-folded.heads // _COLUMNS)


def plan_decode(problem: MlaProblem, persona: Persona) -> MlaPlan:
    """The fewest tiles of columns with which each workgroup has a compute unit, else as many as a piece has rows of q
    (of a plan after its fold, of 8-bit KV also by that of 8-bit q, for which a client may have planned), up to what
    registers hold: a workgroup of few rows is done sooner, and reads again what caches hold. Then the longest
    tiles of tokens that fit. With four tiles of columns AMD's registers do not hold the scores of 64 tokens as well."""
    of_pieces = {problem.q_len * -(-problem.heads // _COLUMNS)}
    if problem.plan_units:
        of_pieces = {_tiles_of_piece(problem, persona, q_dtype) for q_dtype in (problem.q_dtype, problem.kv_dtype)}
    tiles = max(of_pieces)
    # With a plan there is a workgroup for each unit already.
    room = 0 if problem.plan_units else persona.cu_count // max(1, problem.batch * problem.splits)
    column_tiles = 1
    while column_tiles < min(tiles, _MOST_TILES) and -(-tiles // column_tiles) > room:
        column_tiles *= 2
    lengths = (32,) if column_tiles == _MOST_TILES else (64, 32)
    for tokens in lengths:
        size = shared_bytes((problem.q_dtype, problem.kv_dtype), column_tiles, tokens)
        if size <= persona.lds_bytes:
            break
    groups = -(-tiles // column_tiles)
    pieces = problem.plan_units or problem.batch * problem.splits
    return MlaPlan(column_tiles, groups, tokens, size, pieces * groups, spare=len(of_pieces) > 1)


def _reduce_kernel(
    dim: int, out_dtype: str, persona: Persona, parts: int, rows: int, args: Mapping[str, Value]
) -> Kernel:
    """A workgroup for each of `rows` rows of a head, in as many slices as its parts keep busy. On sm_90 few splits are
    merged by threads that share nothing."""
    slices = 1
    while dim == VALUE_DIM and slices < _MOST_SLICES and slices * _PARTS_AHEAD < parts:
        slices *= 2
    few = _PARTS_AHEAD * slices if args["splits"] and slices <= _FEW_SLICES and persona.target == "sm_90a" else 0
    defines = {
        "AITERLITE_DIM": str(dim),
        "AITERLITE_OUT": out_dtype,
        "AITERLITE_SLICES": str(slices),
        **({"AITERLITE_FEW_PARTS": str(few)} if few else {}),
        **overlap_defines(persona.target),
    }
    unit = Unit(
        "mla/reduce", ("csrc/mla/reduce.hip",), persona.target, tuple(defines.items()), symbols=(REDUCE_KERNEL,)
    )
    block = along_x(max(persona.wave_size, dim // 4 * slices))
    return Kernel(unit, REDUCE_KERNEL, REDUCE_ARGS, along_x(rows), block, args=args)


def _gpu_kernels(problem: MlaProblem, persona: Persona, plan: MlaPlan) -> tuple[Kernel, ...]:
    defines = {
        "AITERLITE_COLUMN_TILES": str(plan.column_tiles),
        "AITERLITE_KV": problem.kv_dtype,
        "AITERLITE_OUT": problem.out_dtype,
        "AITERLITE_PLANNED": str(int(problem.plan_units > 0)),
        "AITERLITE_Q": problem.q_dtype,
        "AITERLITE_SPARE": str(int(plan.spare)),
        "AITERLITE_TOKENS": str(plan.tokens),
        "AITERLITE_WAVES": str(_WAVES),
        **overlap_defines(persona.target),
    }
    unit = Unit(
        "mla/decode", ("csrc/mla/decode.hip",), persona.target, tuple(defines.items()), symbols=(DECODE_KERNEL,)
    )
    given = {**sizes(problem, persona), "column_groups": plan.column_groups}
    block = along_x(_WAVES * persona.wave_size)
    decode = Kernel(unit, DECODE_KERNEL, DECODE_ARGS, along_x(plan.grid), block, lds=plan.shared_bytes, args=given)
    return _with_merge(decode, problem, persona, given)


def _asm_kernels(problem: MlaProblem, persona: Persona, plan: mla_asm.AsmPlan) -> tuple[Kernel, ...]:
    unit, symbol = mla_asm.unit(persona, plan)
    given = {**sizes(problem, persona), "column_groups": plan.column_groups}
    block = along_x(plan.variant.block)
    decode = Kernel(unit, symbol, DECODE_ARGS, along_x(plan.grid), block, args=given)
    return _with_merge(decode, problem, persona, given)


def _sm90_kernels(problem: MlaProblem, persona: Persona, plan: mla_sm90.Sm90Plan) -> tuple[Kernel, ...]:
    unit = mla_sm90.unit(problem, persona, plan)
    given = {**sizes(problem, persona), "column_groups": plan.column_groups}
    grid, block = along_x(plan.grid), along_x(mla_sm90.threads(plan, problem.page_size))
    arguments, maps = mla_sm90.arguments(plan), mla_sm90.maps(problem, plan)
    decode = Kernel(
        *(unit, mla_sm90.symbol(plan), arguments, grid, block),
        lds=plan.shared_bytes,
        cluster=max(1, plan.ranks),
        args=given,
        maps=maps,
    )
    return _with_merge(decode, problem, persona, given)


def _with_merge(
    decode: Kernel, problem: MlaProblem, persona: Persona, given: Mapping[str, Value]
) -> tuple[Kernel, ...]:
    """`decode`, and where a row may have several pieces their merge."""
    if not merges(problem):
        return (decode,)
    # With a plan, workgroups go on to further tiles, and to requests without KV.
    units = min(problem.plan_units, problem.batch * (problem.q_len + 1)) if problem.plan_units else problem.batch
    parts = problem.splits or -(-problem.plan_units // problem.batch)
    args = {**merge_sizes(given), "workgroups": units}
    rows = units * problem.q_len * problem.heads
    return decode, _reduce_kernel(VALUE_DIM, problem.out_dtype, persona, parts, rows, args)


def _gpu_merge(problem: MergeProblem, persona: Persona, plan: None) -> tuple[Kernel, ...]:
    rows = problem.batch * problem.q_len * problem.heads
    args = _merge_args(problem)
    return (_reduce_kernel(problem.head_dim, problem.out_dtype, persona, problem.pieces, rows, args),)


# The tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MergedDim:
    """Rows of a merge are of a length that kernels are made for."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if problem.head_dim in MERGED_DIMS and problem.out_dtype in ("bf16", "fp16"):
            return None
        given = f"head_dim is {problem.head_dim} and the output {problem.out_dtype}"
        return Refusal(f"{given}; allowed: {', '.join(map(str, MERGED_DIMS))}, bf16 or fp16")

    def __str__(self) -> str:
        return f"head_dim {' or '.join(map(str, MERGED_DIMS))}"


_SIZES = (
    TypesFit(),
    PlannedHeadsFit(),
    Between("heads", 1, MOST_HEADS, "split the heads over more ranks"),
    Between("batch", 1, _INT32_MAX),
    Between("q_len", 1, 1 << 20),
    Between("page_size", 1, 1 << 20),
    Between("splits", 0, MOST_SPLITS),
)
_AMD = Targets(("gfx942", "gfx950"))
_SM90 = (OneOf("kv_dtype", mla_sm90.KV_DTYPES, "convert 8-bit q and KV to e4m3fn"),)
_MERGE_SIZES = (
    MergedDim(),
    Between("heads", 1, 1 << 16),
    Between("batch", 1, _INT32_MAX),
    Between("q_len", 1, 1 << 20),
)


def derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """`out_dtype`, where it is not given, is q's; a plan's problem has no splits; an 8-bit q has KV of its type."""
    q = values.get("q_dtype", "bf16")
    derived = {"out_dtype": "bf16" if q in EIGHT_BITS else q, "kv_dtype": q}
    if values.get("plan_units"):
        derived["splits"] = 0
    return {**derived, **values}


def _tiles_told(problem: MlaProblem, persona: Persona) -> int:
    """What assembly for several tiles of rows of q gains where estimates tell that it is faster, though each of its
    workgroups reads KV again: of no more pieces than where they were made."""
    if problem.plan_units or problem.splits > _MOST_UNASKED:
        return 0
    told = estimated.mla_tiles(persona, mla_asm.tiles(problem, persona), problem.context, problem.batch)
    return estimated.FAVOUR if told == "asm" else 0


def _asm_row(name: str, kv_bytes: int, preference: int, *more: Requirement) -> Row:
    return Row(
        name=name,
        backend="asm",
        requires=(
            *(_AMD, OneOf("dtype", ("bf16",)), *_SIZES, mla_asm.TypesFit(kv_bytes), mla_asm.PagesFit()),
            *(Between("batch", 1, mla_asm.MOST_REQUESTS), *more),
        ),
        preference=preference,
        plan=mla_asm.plan_one_part if name == mla_asm.FP8_ONE else mla_asm.plan,
        kernels=_asm_kernels,
        accuracy=mla_accuracy.ASM_ONE_PART if name == mla_asm.FP8_ONE else mla_accuracy.ASM,
        favour=_tiles_told if name == mla_asm.BF16_TILES else None,
        favoured_by=estimated.WHY,
    )


def elsewhere(problem: MlaProblem, persona: Persona) -> list[MlaProblem]:
    """As many splits, or those of the target for a call that named none; a plan is one for its compute units."""
    found: list[MlaProblem] = []
    for one in with_native_floats(problem, persona):
        if one.plan_units:
            found.append(replace(one, plan_units=mla_heads.compute_units(persona)))
        else:
            found += {one: None, replace(one, splits=splits_of(persona, replace(one, splits=1))): None}
    return found


_SWEEP = (one_axis("heads", 16, 128), one_axis("batch", 2), one_axis("context", 96), one_axis("splits", 2))
DECODE = Table(
    "mla_decode_fwd",
    MlaProblem,
    (
        Row("cpu", "host", (Targets(("cpu-*",)), *_SIZES), kernels=_cpu_kernels, accuracy=mla_accuracy.CPU),
        Row("mfma", "hip", (_AMD, *_SIZES), 0, plan_decode, _gpu_kernels, accuracy=mla_accuracy.AMD),
        _asm_row(mla_asm.BF16, 2, mla_asm.FIRST, mla_asm.OneTile()),
        _asm_row(mla_asm.BF16_TILES, 2, asm.PREFERENCE),
        _asm_row(mla_asm.FP8, 1, mla_asm.FIRST, mla_asm.NotAskedFor()),
        _asm_row(mla_asm.FP8_ONE, 1, asm.PREFERENCE, mla_asm.OneTile()),
        Row(
            *("wgmma", "cuda", (Targets(("sm_90a",)), *_SM90, *_SIZES), 0, mla_sm90.plan_decode, _sm90_kernels),
            accuracy=mla_accuracy.SM90,
        ),
    ),
    _SWEEP,
    derive,
    elsewhere,
)
_PREFILL_SWEEP = (one_axis("heads", 16), one_axis("batch", 1), one_axis("context", 40), one_axis("q_len", 8, 24))
PREFILL = Table("mla_prefill_fwd", MlaProblem, DECODE.rows, _PREFILL_SWEEP, derive)
_MERGE_SWEEP = (one_axis("batch", 3), one_axis("heads", 16, 8), one_axis("pieces", 3))
REDUCE = Table(
    "mla_reduce_v1",
    MergeProblem,
    (
        Row("cpu", "host", (Targets(("cpu-*",)), *_MERGE_SIZES), kernels=_cpu_merge),
        Row("hip", "hip", (_AMD, *_MERGE_SIZES), kernels=_gpu_merge),
        Row("cuda", "cuda", (Targets(("sm_90a",)), *_MERGE_SIZES), kernels=_gpu_merge),
    ),
    _MERGE_SWEEP,
)
