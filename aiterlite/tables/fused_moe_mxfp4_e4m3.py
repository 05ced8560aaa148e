"""The fused mixture of experts with weights of MXFP4 by 8-bit products on sm_90a: which problems its kernels serve,
how they are cut, and where what they leave each other lies.

One kernel sorts pairs by experts and makes codes of x, one makes h (csrc/fused_moe/sm90_mx_group_up.hip), one the
result (sm90_mx_group_down.hip). A code of MXFP4 is a number of e4m3fn, in which hidden states are too; so x and h are
what the other rows make of them, and what they multiply is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiterlite.dispatch import Between, Holds, OneOf, Refusal, Row, Targets, Wishes
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Value, Workspace, along_x, overlap_defines
from aiterlite.tables import fused_moe_sm90_kernels as sm90
from aiterlite.tables import fused_moe_sm90_plan as plans
from aiterlite.tables.fused_moe_parts import Places
from aiterlite.tables.fused_moe_problem import A4W4, A8W4, ACTIVATIONS, MoeProblem
from aiterlite.tables.mx_types import BLOCK as MX_BLOCK
from aiterlite.target import Persona

UP, DOWN = (f"aiterlite_sm90_moe_mx_group_{name}" for name in ("up", "down"))
# Elements of a step of K; rows of a step; elements of h, and threads of a warpgroup.
_STEP, _STEP_ROWS, _GROUP_THREADS = 256, 64, 128
_SHARED_BYTES = 227 << 10
# Of a warpgroup, as floats.
_SCALES = 4 * _STEP_ROWS * _STEP // MX_BLOCK
# Of a workgroup, that no kernel has.
_RESERVED = 1024
_MOST_TOKENS, _MOST_PAIRS = 128, 1024
_MOST_OF_EXPERT = 4
_ROUNDINGS = {A4W4: 2, A8W4: 3}


@dataclass(frozen=True)
class Plan:
    """Entries in blocks of `columns`. Workgroups of `groups` warpgroups, each with a ring of `stages`, so many
    `resident`; stage 2 has one of `down_groups` and `down_stages`, which owns `down_rows` of every result."""

    columns: int
    groups: int
    stages: int
    resident: int
    down_groups: int
    down_stages: int
    down_rows: int
    fenced: bool = True
    cluster: int = 1
    together: bool = False


def _stage(problem: MoeProblem, columns: int) -> int:
    """A step of 64 rows, its scales and those of columns, their codes, entries and weights."""
    scales = 8 * _STEP_ROWS * (2 if problem.shuffled else 1)
    held = _STEP_ROWS * (_STEP // 2) + columns * _STEP + scales + columns * (4 * _STEP // MX_BLOCK + 8)
    return -(-held // 1024) * 1024


def up_shared(problem: MoeProblem, made: Plan) -> int:
    sums = max(1, made.groups - 1) * _GROUP_THREADS * 2 * made.columns + made.groups * _SCALES
    return (
        made.groups * made.stages * _stage(problem, made.columns)
        + -(-(sums + 2 * MX_BLOCK * made.columns) // 1024) * 1024
    )


def blocks(problem: MoeProblem, made: Plan) -> int:
    return plans.entries(problem, made) // made.columns  # type: ignore[arg-type]


def _beside_down(problem: MoeProblem, rows: int, groups: int, most: int) -> int:
    """Turns, experts and counts of blocks, and sums."""
    return -(-(groups * (8 + _SCALES) + -(-3 * most // 16) * 16 + 16 + problem.tokens * 4 * (rows + 4)) // 1024) * 1024


def down_shared(problem: MoeProblem, made: Plan) -> int:
    ring = made.down_groups * made.down_stages * _stage(problem, made.columns)
    return ring + _beside_down(problem, made.down_rows, made.down_groups, blocks(problem, made))


def plan(problem: MoeProblem, persona: Persona) -> Plan:
    """Cuts that were timed (docs/perf/moe-sm90.md); fewer warpgroups of stage 2 where sums take their place."""
    units = 8 * (persona.cu_count or 1)
    rows = min(_STEP_ROWS, 8 * -(-problem.width // units))
    made = Plan(8, 2, 4, 2, 5, 2, rows)
    while made.down_groups > 1 and down_shared(problem, made) > _SHARED_BYTES:
        made = replace(made, down_groups=made.down_groups - 1)
    return made


def sizes(problem: MoeProblem, made: Plan) -> dict[str, int]:
    count = blocks(problem, made) * made.columns
    return {
        "local_topk_ids": 4 * problem.pairs,
        "codes": problem.tokens * problem.width,
        "code_scale": 4 * problem.tokens * problem.width // MX_BLOCK,
        "sorted_ids": 4 * count,
        "sorted_weights": 4 * count,
        "num_valid_ids": 8,
        "sorted_expert_ids": 4 * (count // made.columns),
        "h": count * problem.inter,
        "h_scale": 4 * count * problem.inter // MX_BLOCK,
    }


def _places(problem: MoeProblem, made: Plan) -> tuple[dict[str, Value], int]:
    taken = Places()
    return {name: taken.take(size) for name, size in sizes(problem, made).items()}, taken.bytes


def _unit(name: str, symbol: str, defines: Mapping[str, int | str]) -> Unit:
    spelled = {f"AITERLITE_{key}": str(value) for key, value in sorted(defines.items())} | overlap_defines("sm_90a")
    source = f"csrc/fused_moe/sm90_{name}.hip"
    return Unit(f"fused_moe/sm90_{name}", (source,), "sm_90a", tuple(spelled.items()), symbols=(symbol,))


def kernels(problem: MoeProblem, persona: Persona, made: Plan) -> tuple[Kernel, ...]:
    args, _ = _places(problem, made)
    args |= {"workgroups": 0, "entry_pitch": blocks(problem, made) * made.columns, "block_size": made.columns}
    args |= dict.fromkeys(("slots", "partial", "arrived", "arrivals"), 0)
    rounding, threads = _ROUNDINGS[problem.precision], plans.PREPARE_THREADS
    sorts = plans.pairs_of_thread(problem, made)  # type: ignore[arg-type]
    prepare: dict[str, int | str] = {"ELEMENT": problem.dtype, "PAIRS": max(1, sorts), "QUANTISES": rounding}
    prepare["SORTS"] = 1
    common = {
        "COLS": made.columns, "FENCED": int(made.fenced), "GIVEN": 0, "INLINE": 0, "INTER": problem.inter,
        "SHUFFLED": int(problem.shuffled), "TOGETHER": int(made.together),
        "WEIGHTED_INPUT": int(problem.weighted_input),
    }  # fmt: skip
    up = {
        **common, "ACTIVATION": ACTIVATIONS.index(problem.activation), "BIAS1": int(problem.bias1),
        "CLUSTER": made.cluster, "GROUPS": made.groups, "INTERLEAVED": int(problem.interleaved),
        "RESIDENT": made.resident, "ROUNDING": rounding, "SHARED_BYTES": up_shared(problem, made),
        "STAGES": made.stages, "WIDTH": problem.width,
    }  # fmt: skip
    down = {
        **common, "BIAS2": int(problem.bias2), "BLOCKS": blocks(problem, made), "GROUPS": made.down_groups,
        "ROWS": made.down_rows, "SHARED_BYTES": down_shared(problem, made),
        "STAGES": made.down_stages, "TOKENS": problem.tokens,
    }  # fmt: skip
    grids = (
        along_x(1 + -(-problem.tokens * problem.width // 8 // threads)),
        along_x(made.cluster * blocks(problem, made) * problem.inter // MX_BLOCK),
        along_x(-(-problem.width // made.down_rows)),
    )
    of_first = plans.prepare_shared(problem, made)  # type: ignore[arg-type]
    units = _unit("prepare", sm90.PREPARE, prepare), _unit("mx_group_up", UP, up), _unit("mx_group_down", DOWN, down)
    shared_of = of_first, up_shared(problem, made), down_shared(problem, made)
    blocks_of = threads, _GROUP_THREADS * made.groups, _GROUP_THREADS * made.down_groups
    made_of = zip(units, grids, blocks_of, shared_of, (1, made.cluster, 1), strict=True)
    return tuple(
        Kernel(unit, unit.symbols[0], sm90.ARGS, grid, along_x(count), lds=shared, args=args, cluster=cluster)
        for unit, grid, count, shared, cluster in made_of
    )


def workspace(problem: MoeProblem, persona: Persona, made: Plan) -> Workspace:
    return Workspace("fused_moe", 0, _places(problem, made)[1])


def _accuracy(problem: MoeProblem) -> str:
    kind = "MXFP4" if problem.precision == A4W4 else "MXFP8"
    return f"x and h are quantised to {kind}; slots are summed in float32"


@dataclass(frozen=True)
class WholeSteps:
    """K comes in steps of 256."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        for name in ("width", "inter"):
            value = getattr(problem, name)
            if value < _STEP or value % _STEP:
                return Refusal(f"{name} is {value}, no multiple of {_STEP}", "pad the weights with zeros")
        return None

    def __str__(self) -> str:
        return f"widths that are multiples of {_STEP}"


@dataclass(frozen=True)
class SortedHere:
    """One workgroup sorts the pairs, a token's slots of one expert are one entry, and sums fit shared memory."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if min(problem.tokens, problem.topk, problem.experts) < 1:
            return None  # others refuse that
        made = plan(problem, persona)
        if not plans.pairs_of_thread(problem, made):  # type: ignore[arg-type]
            return Refusal("a token's slots of one expert are kept apart, or one workgroup does not sort the pairs")
        if down_shared(problem, made) > _SHARED_BYTES:
            return Refusal(f"sums of {problem.tokens} tokens do not fit shared memory")
        return None

    def __str__(self) -> str:
        return "pairs that one workgroup sorts, slots of one expert that are one entry"


@dataclass(frozen=True)
class FewOfAnExpert:
    """Nearly all experts have one block of 8 entries: more of them read weights again, which nobody has timed."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        named = plans.global_experts(problem)
        if problem.pairs <= _MOST_OF_EXPERT * named:
            return None
        return Refusal(f"{problem.pairs} pairs of {named} experts; allowed: up to {_MOST_OF_EXPERT} an expert")

    def __str__(self) -> str:
        return f"at most {_MOST_OF_EXPERT} pairs an expert, on average"


_REQUIRES = (
    Targets(("sm_90a",)),
    OneOf("quant", ("mxfp4",)),
    # On a GPU a4w4 of weights as they lie was tried; a8w4 and shuffled ones were simulated on a host.
    OneOf("precision", (A4W4,)),
    Holds("shuffled", False, "weights are shuffled, which no GPU has tried"),
    OneOf("activation", ACTIVATIONS),
    OneOf("dtype", ("bf16",), "cast hidden states to bf16"),
    Between("tokens", 2, _MOST_TOKENS, "one token is faster without sorting"),
    Between("pairs", 1, _MOST_PAIRS),
    Between("topk", 1, 32),
    Holds("aligned", True, "rows of x or a weight do not begin at multiples of 16 bytes", "copy them"),
    Holds("quantised", False, "hidden states are codes, and this makes numbers of 16-bit ones"),
    Holds("by_slots", False, "the result has a row a slot, and this adds them up"),
    WholeSteps(),
    FewOfAnExpert(),
    SortedHere(),
)
ROWS: tuple[Row, ...] = (Row("mxfp4_e4m3", "cuda", _REQUIRES, 15, plan, kernels, workspace, accuracy=_accuracy),)
