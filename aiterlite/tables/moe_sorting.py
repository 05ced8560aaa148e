"""Sorting tokens by experts, and the sum over what experts made of them: problems, plans, kernels, the family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiterlite.dispatch import Axis, Between, OneOf, Refusal, Row, Table, Targets, Wishes, one_axis
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import WORKSPACE, Kernel, Operand, Value, Workspace, along_x, overlap_defines
from aiterlite.tables.family import Family
from aiterlite.target import Persona

OP, ALIGN_OP, SUM_OP = "moe_sorting", "moe_align_block_size", "moe_sum"
_HEADER = "aiterlite/moe_sorting/args.h"
SORT_ARGS = ArgumentStruct("aiterlite_moe_sorting_args", _HEADER)
SUM_ARGS = ArgumentStruct("aiterlite_moe_sum_args", _HEADER)
ONCE, COUNT, PLACE = (f"aiterlite_moe_sort_{name}" for name in ("once", "count", "place"))
SUM, SORT_CPU = "aiterlite_moe_sum", "aiterlite_moe_sort_cpu"

MOST_EXPERTS, MOST_TOPK, MOST_BLOCK = 1024, 64, 1024
# Pairs of token and slot: what entries number in 32 bits, and what is worth a tile a workgroup.
MOST_PAIRS = 1 << 22
# Kernels are made for so many experts, and the threads of a workgroup for each: their counts must fit shared memory.
_EXPERTS = {256: 1024, 512: 1024, 1024: 512}
_FEW_THREADS, _FEW_PAIRS = 256, 256
# One workgroup sorts so many pairs in about the time of a second launch, and in shared memory (moe_sorting/once.hip).
ONCE_PAIRS = 2048
# On an H200 one workgroup takes 8.0 us for 128 pairs and 11.9 for 2,048, tiles 6.9 and 9.5; for 32 pairs 5.4 and 5.7.
_ONCE_PAIRS_H200 = 64
# Pairs of a lane of a tile, at most (moe_sorting/tiles.hip).
STEPS = 8
# Every workgroup that places pairs reads the counts of all tiles.
_TILES = 128
# A workgroup clears so much of the buffer of results before one more is worth its start; a CU holds a few.
_CLEARED_BYTES, _CLEARING_PER_CU = 32 << 10, 4
# dispatch_policy, as upstream numbers it.
POLICIES = (0, 1, 2)


@dataclass(frozen=True)
class SortProblem:
    """`tokens` with `topk` slots each, by `experts`, in blocks of `block_size`; `cleared` bytes of results become zero.

    `policy`: 2 asks for tiles, 1 for one workgroup where one can, 0 for what is faster. The rest is what samples are
    made of: whether every third expert is `masked`.
    """

    tokens: int
    experts: int
    topk: int = 8
    block_size: int = 32
    cleared: int = 0
    policy: int = 0
    masked: bool = False

    @property
    def pairs(self) -> int:
        return self.tokens * self.topk


@dataclass(frozen=True)
class AlignProblem:
    """`pairs` by `experts`, in blocks of `block_size`."""

    pairs: int
    experts: int
    block_size: int = 32

    @property
    def policy(self) -> int:
        return 0

    @property
    def cleared(self) -> int:
        return 0


@dataclass(frozen=True)
class SumProblem:
    """`tokens` rows of `width` elements, each the sum over `topk` slots. `vectors`: all rows begin at multiples of 16
    bytes and are as long."""

    tokens: int
    topk: int
    width: int
    dtype: str = "bf16"
    vectors: bool = True


def capacity(tokens: int, topk: int, experts: int, block_size: int) -> int:
    """Entries of the sorted buffers, as upstream allocates them; more where a token may name an expert twice."""
    return max(0, tokens * topk + experts * block_size - topk, least_capacity(tokens * topk, experts, block_size))


def least_capacity(pairs: int, experts: int, block_size: int) -> int:
    """The most entries that the blocks of any ids have: each expert that has a pair fills up at most all of a block but
    one entry."""
    return (pairs + min(experts, pairs) * (block_size - 1)) // block_size * block_size


# Plans ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SortPlan:
    """`tiles` workgroups of `threads` sort `steps` pairs a lane, and `clearing` more clear the buffer of results;
    kernels are made for `bound` experts."""

    bound: int
    threads: int
    steps: int
    tiles: int
    clearing: int


def _bound(experts: int) -> int:
    return next(bound for bound in _EXPERTS if experts <= bound)


def _clearing(cleared: int, persona: Persona) -> int:
    return min(-(-cleared // _CLEARED_BYTES), _CLEARING_PER_CU * max(1, persona.cu_count))


def plan_once(problem: SortProblem | AlignProblem, persona: Persona) -> SortPlan:
    """Few threads where there are few pairs, so that barriers and columns are short."""
    bound = _bound(problem.experts)
    threads = _FEW_THREADS if problem.pairs <= _FEW_PAIRS else _EXPERTS[bound]
    steps = max(1, -(-problem.pairs // threads))
    return SortPlan(bound, threads, steps, 1, _clearing(problem.cleared, persona))


def plan_tiles(problem: SortProblem | AlignProblem, persona: Persona) -> SortPlan:
    """As many tiles as there may be before their counts take long to read; then longer ones."""
    bound = _bound(problem.experts)
    threads = _EXPERTS[bound]
    steps = min(STEPS, max(1, -(-problem.pairs // (threads * _TILES))))
    tiles = max(1, -(-problem.pairs // (threads * steps)))
    return SortPlan(bound, threads, steps, tiles, _clearing(problem.cleared, persona))


def _counts_bytes(plan: SortPlan) -> int:
    return 2 * plan.bound * plan.tiles


def scratch_bytes(problem: SortProblem | AlignProblem, plan: SortPlan) -> int:
    """What the kernels of tiles leave for each other."""
    return _counts_bytes(plan) + 4 * max(1, problem.pairs)


def _workspace(problem: SortProblem | AlignProblem, persona: Persona, plan: SortPlan) -> Workspace:
    return Workspace("moe sorting", 0, scratch_bytes(problem, plan))


# Kernels --------------------------------------------------------------------------------------------------------------


def device_unit(target: str, source: str, plan: SortPlan) -> Unit:
    defines = {"AITERLITE_EXPERTS": str(plan.bound), "AITERLITE_THREADS": str(plan.threads), **overlap_defines(target)}
    symbols = (ONCE,) if source == "once" else (COUNT, PLACE)
    return Unit(
        f"moe_sorting/{source}", (f"csrc/moe_sorting/{source}.hip",), target, tuple(defines.items()), symbols=symbols
    )


def _args(problem: SortProblem | AlignProblem, plan: SortPlan, **more: Value) -> dict[str, Value]:
    groups = plan.tiles + plan.clearing
    given = {"steps": plan.steps, "tiles": plan.tiles, "groups": groups, "counts": 0, "ranks": 0}
    given |= {"experts": problem.experts, "local_experts": problem.experts}
    return {**given, "block_size": problem.block_size, **more}


def _once(problem: SortProblem | AlignProblem, persona: Persona, plan: SortPlan) -> tuple[Kernel, ...]:
    unit, grid = device_unit(persona.target, "once", plan), along_x(plan.tiles + plan.clearing)
    return (Kernel(unit, ONCE, SORT_ARGS, grid, along_x(plan.threads), args=_args(problem, plan)),)


def _tiles(
    problem: SortProblem | AlignProblem, persona: Persona, plan: SortPlan, scratch: int = 0
) -> tuple[Kernel, ...]:
    unit, block = device_unit(persona.target, "tiles", plan), along_x(plan.threads)
    between = {"counts": Operand(WORKSPACE, scratch), "ranks": Operand(WORKSPACE, scratch + _counts_bytes(plan))}
    args = _args(problem, plan, **between)
    return (
        Kernel(unit, COUNT, SORT_ARGS, along_x(plan.tiles + plan.clearing), block, args=args),
        Kernel(unit, PLACE, SORT_ARGS, along_x(plan.tiles), block, args=args),
    )


def kernels_within(
    problem: SortProblem, persona: Persona, local_experts: int, results: Mapping[str, Value], scratch: int
) -> tuple[Kernel, ...]:
    """The kernels that sort as a part of another operator's call, for a GPU. A mask may name more than the
    `local_experts` that are here: those behind do not count. `results` says where each of their fields
    lies that the call does not bring under the field's name, or 0 where it is not asked for; from byte `scratch` on of
    the call's workspace they need as much as `scratch_within` says."""
    once = problem.pairs <= (_ONCE_PAIRS_H200 if persona.target == "sm_90a" else ONCE_PAIRS)
    if once:
        kernels = _once(problem, persona, plan_once(problem, persona))
    else:
        kernels = _tiles(problem, persona, plan_tiles(problem, persona), scratch)
    given: dict[str, Value] = {"padding": problem.topk << 24 | problem.tokens, "valid_words": 2, "token_nums": 0}
    given |= {"local_experts": local_experts, **results}
    return tuple(replace(kernel, args={**kernel.args, **given}) for kernel in kernels)


def scratch_within(problem: SortProblem, persona: Persona) -> int:
    return scratch_bytes(problem, plan_tiles(problem, persona))


def _cpu(problem: SortProblem | AlignProblem, persona: Persona, plan: None) -> tuple[Kernel, ...]:
    unit = Unit("moe_sort", ("csrc/moe_sorting/sort.cpp",), persona.target, symbols=(SORT_CPU,))
    return (Kernel(unit, SORT_CPU, SORT_ARGS, args=_args(problem, SortPlan(0, 0, 0, 0, 0))),)


_SUM_THREADS = 128
_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


def _sum(problem: SumProblem, persona: Persona, plan: None) -> tuple[Kernel, ...]:
    defines = {"AITERLITE_ELEMENT": problem.dtype, "AITERLITE_VECTORS": str(int(problem.vectors))}
    defines |= overlap_defines(persona.target)
    unit = Unit(
        "moe_sorting/sum", ("csrc/moe_sorting/sum.hip",), persona.target, tuple(defines.items()), symbols=(SUM,)
    )
    each = _SUM_THREADS * (16 // _BYTES[problem.dtype] if problem.vectors else 1)
    grid = problem.tokens * -(-problem.width // each)
    return (Kernel(unit, SUM, SUM_ARGS, along_x(grid), along_x(_SUM_THREADS)),)


def _sum_cpu(problem: SumProblem, persona: Persona, plan: None) -> tuple[Kernel, ...]:
    symbols = tuple(f"{SUM}_cpu_{dtype}" for dtype in _BYTES)
    unit = Unit("moe_sum", ("csrc/moe_sorting/sum.cpp",), persona.target, symbols=symbols)
    return (Kernel(unit, f"{SUM}_cpu_{problem.dtype}", SUM_ARGS),)


# The tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairsFit:
    """A call has at most `most` pairs of token and slot."""

    most: int

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if 0 <= problem.pairs <= self.most:
            return None
        return Refusal(f"there are {problem.pairs} pairs of token and slot; allowed: 0 to {self.most}", "split tokens")

    def __str__(self) -> str:
        return f"at most {self.most} pairs of token and slot"


@dataclass(frozen=True)
class OneWorkgroup:
    """One workgroup sorts the pairs, and the policy does not ask for tiles. Where the policy leaves it open, one
    workgroup is the faster way up to `fast` pairs."""

    fast: int = ONCE_PAIRS

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if problem.policy == 2:
            return Refusal("the policy asks for tiles", "pass dispatch_policy=0 or 1")
        if problem.pairs > ONCE_PAIRS:
            return Refusal(
                f"{problem.pairs} pairs of token and slot are more than {ONCE_PAIRS}, what one workgroup sorts"
            )
        if problem.policy == 0 and problem.pairs > self.fast:
            return Refusal(f"tiles are faster from {self.fast} pairs of token and slot on", "pass dispatch_policy=1")
        return None

    def __str__(self) -> str:
        return f"at most {self.fast} pairs of token and slot, and no policy that asks for tiles"


_EACH = (Between("experts", 1, MOST_EXPERTS), Between("block_size", 1, MOST_BLOCK), PairsFit(MOST_PAIRS))
# Entries have 24 bits for the token.
_SORT = (Between("tokens", 0, MOST_PAIRS), Between("topk", 1, MOST_TOPK), OneOf("policy", POLICIES), *_EACH)
_SUM = (
    OneOf("dtype", tuple(_BYTES)),
    Between("tokens", 1, MOST_PAIRS),
    Between("topk", 0, 1 << 16),
    Between("width", 1, 1 << 20),
)
_CPU, _AMD, _HOPPER = Targets(("cpu-*",)), Targets(("gfx942", "gfx950")), Targets(("sm_90a",))


def _rows(sizes: tuple[Any, ...]) -> tuple[Row, ...]:
    few, fewer = (*sizes, OneWorkgroup()), (*sizes, OneWorkgroup(_ONCE_PAIRS_H200))
    return (
        Row("cpu", "host", (_CPU, *sizes), kernels=_cpu),
        Row("workgroup", "hip", (_AMD, *few), 1, plan_once, _once),
        Row("tiles", "hip", (_AMD, *sizes), 0, plan_tiles, _tiles, _workspace),
        Row("block", "cuda", (_HOPPER, *fewer), 1, plan_once, _once),
        Row("blocks", "cuda", (_HOPPER, *sizes), 0, plan_tiles, _tiles, _workspace),
    )


def derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Results of DeepSeek-R1's width in bf16."""
    return {"cleared": values["tokens"] * 7168 * 2, **values}


# DeepSeek-R1, and with its shared expert as one more.
_EXPERTS_AXIS = Axis(("experts", "topk"), ((256, 8), (257, 9)))
TABLE = Table(OP, SortProblem, _rows(_SORT), (_EXPERTS_AXIS, one_axis("tokens", 1, 16, 256, 1024)), derive)
ALIGN_TABLE = Table(ALIGN_OP, AlignProblem, _rows(_EACH), (one_axis("experts", 256), one_axis("pairs", 8, 2048, 8192)))
SUM_TABLE = Table(
    SUM_OP,
    SumProblem,
    (
        Row("cpu", "host", (_CPU, *_SUM), kernels=_sum_cpu),
        Row("hip", "hip", (_AMD, *_SUM), kernels=_sum),
        Row("cuda", "cuda", (_HOPPER, *_SUM), kernels=_sum),
    ),
    (Axis(("topk", "width"), ((8, 7168), (9, 7168))), one_axis("tokens", 1, 16, 256)),
)

FAMILY = Family(
    name="moe_sorting",
    tables=(TABLE, ALIGN_TABLE, SUM_TABLE),
    ops=("aiterlite.ops.moe_sorting", "aiterlite.ops.moe_sum"),
    samples="aiterlite.ops.samples.moe_sorting",
)
