"""Routing of tokens to experts: what a call is, how a row of logits is cut into lanes, and which kernel serves it.

One kernel serves all six functions (csrc/routing/route.hip, route.cpp); they differ in what a problem holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Axis, Between, OneOf, Refusal, Requirement, Row, Table, Targets, Wishes, one_axis
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Value, along_x, overlap_defines
from aiterlite.tables.family import Family
from aiterlite.target import Persona

ARGS = ArgumentStruct("aiterlite_routing_args", "aiterlite/routing/args.h")
KERNEL, _CPU_KERNEL = "aiterlite_route", "aiterlite_route_cpu"
ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
NO_BIAS, SCORES = "none", ("sigmoid", "softmax")
MOST_EXPERTS, MOST_TOPK, MOST_GROUPS, MOST_SHARED = 1024, 32, 32, 32
# Of a lane: some more, and their ranks and places no longer fit its registers on Hopper.
_MOST_EACH = 48
_VECTOR_BYTES = 16


@dataclass(frozen=True)
class RoutingProblem:
    """`topk` of each row of gating[num_tokens, experts], among the best `topk_groups` of `groups`.

    `score` is of `SCORES`, `bias` the type of the choice's bias or "none". `renorm`: weights are divided by their sum.
    `shared_experts` get columns behind the chosen: with `shared_scored`, logits of theirs lie behind a row's experts.
    `aligned`: rows and bias start at multiples of 16 bytes.
    """

    num_tokens: int
    experts: int
    topk: int
    groups: int = 1
    topk_groups: int = 1
    dtype: str = "fp32"
    bias: str = NO_BIAS
    score: str = "softmax"
    renorm: bool = True
    shared_experts: int = 0
    shared_scored: bool = False
    aligned: bool = True


@dataclass(frozen=True)
class Cut:
    """How a row is cut: a token has `lanes` lanes of a wave, `group_lanes` of them a group, each with `each` experts.
    `vectors`: it reads them 16 bytes at a time."""

    lanes: int
    group_lanes: int
    each: int
    vectors: bool


@dataclass(frozen=True)
class RoutingPlan:
    cut: Cut
    waves: int
    grid: int


def cut(problem: RoutingProblem, wave_size: int) -> Cut | None:
    """The cut for waves of `wave_size` lanes; None where a lane would have more than it can sort.

    A warp of 32 has one instruction for the greatest of its lanes, so it is a token's. Lanes of a row of 16 exchange
    without the LDS unit on a wave of 64, so a token has no more, unless each had more than 16 experts.
    """
    vector = _VECTOR_BYTES // ITEM_BYTES[problem.dtype]
    size = problem.experts // problem.groups
    whole = problem.aligned and size % vector == 0
    least = 32 if wave_size == 32 else 16
    most = max(problem.groups, problem.topk, problem.shared_experts)
    found = None
    for lanes in (lanes for lanes in (16, 32, 64) if least <= lanes <= wave_size and lanes >= most):
        group_lanes = 1 << (lanes // problem.groups).bit_length() - 1
        each = -(-size // group_lanes)
        each = -(-each // vector) * vector if whole else each
        found = Cut(lanes, group_lanes, each, whole)
        if each <= 16:
            break
    return found if found is not None and found.each <= _MOST_EACH else None


@dataclass(frozen=True)
class Routable:
    """Groups divide the experts, and those that are kept hold the experts to choose."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if problem.groups < 1 or problem.experts % problem.groups:
            return Refusal(f"{problem.experts} experts are not {problem.groups} groups of equal size")
        if not 1 <= problem.topk_groups <= problem.groups:
            return Refusal(f"topk_groups must be 1 to groups ({problem.groups}), it is {problem.topk_groups}")
        held = problem.topk_groups * (problem.experts // problem.groups)
        if problem.topk > held:
            return Refusal(
                f"topk is {problem.topk}, and the groups that are kept hold {held} experts", "keep more groups"
            )
        return None

    def __str__(self) -> str:
        return "groups of equal size, enough of them kept"


@dataclass(frozen=True)
class FitsLanes:
    """The experts of a lane fit its registers."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        cuttable = persona.family != "cpu" and problem.groups > 0 and problem.dtype in ITEM_BYTES
        if not cuttable or cut(problem, persona.wave_size) is not None:
            return None
        size = problem.experts // problem.groups
        return Refusal(
            f"a group of {size} experts, of {problem.groups} groups, takes more than {_MOST_EACH} experts a lane",
            "use a power of two of groups",
        )

    def __str__(self) -> str:
        return f"at most {_MOST_EACH} experts a lane"


def plan(problem: RoutingProblem, persona: Persona) -> RoutingPlan:
    """One wave a workgroup while there are few, so that all compute units have some; then four, which start sooner than
    as many workgroups."""
    made = cut(problem, persona.wave_size)
    assert made is not None
    in_all = -(-problem.num_tokens * made.lanes // persona.wave_size)
    waves = 1 if in_all <= 4 * persona.cu_count else 4
    return RoutingPlan(made, waves, -(-in_all // waves))


def _fields(problem: RoutingProblem) -> dict[str, Value]:
    return {
        "tokens": problem.num_tokens,
        "experts": problem.experts,
        "topk": problem.topk,
        "groups": problem.groups,
        "topk_groups": problem.topk_groups,
        "softmax": int(problem.score == "softmax"),
        "renorm": int(problem.renorm),
        "bias_fp32": int(problem.bias == "fp32"),
        "shared": problem.shared_experts,
        "shared_scored": int(problem.shared_scored),
    }


def _gpu_kernels(problem: RoutingProblem, persona: Persona, plan: RoutingPlan) -> tuple[Kernel, ...]:
    biased = problem.bias != NO_BIAS
    defines = {
        "AITERLITE_ALIGNED": int(plan.cut.vectors),
        "AITERLITE_BIAS": problem.bias if biased else problem.dtype,
        "AITERLITE_BIASED": int(biased),
        "AITERLITE_EACH": plan.cut.each,
        "AITERLITE_EXPERTS": problem.experts,
        "AITERLITE_GATING": problem.dtype,
        "AITERLITE_GROUPS": problem.groups,
        "AITERLITE_GROUP_LANES": plan.cut.group_lanes,
        "AITERLITE_LANES": plan.cut.lanes,
        "AITERLITE_RENORM": int(problem.renorm),
        "AITERLITE_SHARED_EXPERTS": problem.shared_experts,
        "AITERLITE_SHARED_SCORED": int(problem.shared_scored and problem.shared_experts > 0),
        "AITERLITE_SOFTMAX": int(problem.score == "softmax"),
        "AITERLITE_TOPK": problem.topk,
        "AITERLITE_TOPK_GROUPS": problem.topk_groups,
        "AITERLITE_WAVES": plan.waves,
        **overlap_defines(persona.target),
    }
    texts = tuple((name, str(value)) for name, value in defines.items())
    unit = Unit("routing/route", ("csrc/routing/route.hip",), persona.target, texts, symbols=(KERNEL,))
    block = along_x(plan.waves * persona.wave_size)
    return (Kernel(unit, KERNEL, ARGS, along_x(plan.grid), block, args=_fields(problem)),)


def host_unit(target: str) -> Unit:
    """The family's CPU implementation, a symbol for each type of logits."""
    symbols = tuple(f"{_CPU_KERNEL}_{dtype}" for dtype in ITEM_BYTES)
    return Unit("routing", ("csrc/routing/route.cpp",), target, symbols=symbols)


def _cpu_kernels(problem: RoutingProblem, persona: Persona, plan: None) -> tuple[Kernel, ...]:
    symbol = f"{_CPU_KERNEL}_{problem.dtype}"
    return (Kernel(host_unit(persona.target), symbol, ARGS, args=_fields(problem)),)


# The tables -----------------------------------------------------------------------------------------------------------


def _defaults(fixed: Mapping[str, Any], bias: bool = False) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """With a bias, which is of the logits' type where nobody says."""

    def derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**fixed, **({"bias": values.get("dtype", "fp32")} if bias else {}), **values}

    return derive


def _table(
    op: str, fixed: Mapping[str, Any], sweep: tuple[Axis, ...], *more: Requirement, biased: bool = False
) -> Table:
    """Of an operator all of whose problems have `fixed` fields: its rows refuse others."""
    requires: tuple[Requirement, ...] = (
        OneOf("dtype", tuple(ITEM_BYTES)),
        OneOf("bias", tuple(ITEM_BYTES) if biased else (NO_BIAS,)),
        OneOf("score", SCORES),
        *(OneOf(name, (value,)) for name, value in fixed.items()),
        Between("num_tokens", 1, 2**31 - 1),
        Between("experts", 1, MOST_EXPERTS),
        Between("topk", 1, MOST_TOPK),
        Between("groups", 1, MOST_GROUPS),
        Between("shared_experts", 0, MOST_SHARED),
        *more,
        Routable(),
    )
    gpu = (*requires, FitsLanes())
    rows = (
        Row("cpu", "host", (Targets(("cpu-*",)), *requires), kernels=_cpu_kernels),
        Row("waves", "hip", (Targets(("gfx942", "gfx950")), *gpu), 0, plan, _gpu_kernels),
        Row("warps", "cuda", (Targets(("sm_90a",)), *gpu), 0, plan, _gpu_kernels),
    )
    return Table(op, RoutingProblem, rows, sweep, _defaults(fixed, biased))


_ALONE = {"groups": 1, "topk_groups": 1}
_TOKENS = one_axis("num_tokens", 1, 256)
# DeepSeek-R1, with tensor parallel and data parallel alike; Kimi-K2.
_R1 = Axis(("experts", "groups", "topk_groups", "topk"), ((256, 8, 4, 8), (384, 1, 1, 8)))
_PLAIN = Axis(("experts", "topk"), ((128, 8), (8, 2)))

BIASED_GROUPED_TOPK = _table(
    "biased_grouped_topk",
    {"score": "sigmoid", "shared_experts": 0},
    (_R1, _TOKENS, one_axis("dtype", "fp32", "bf16")),
    biased=True,
)
MOE_FUSED_GATE = _table(
    "moe_fused_gate",
    {"score": "sigmoid", "renorm": True, "shared_scored": False},
    (_R1, _TOKENS, one_axis("shared_experts", 0, 1)),
    biased=True,
)
GROUPED_TOPK = _table("grouped_topk", {"shared_experts": 0}, (_R1, _TOKENS))
TOPK_SOFTMAX = _table(
    "topk_softmax",
    {"score": "softmax", **_ALONE, "shared_scored": True},
    (_PLAIN, _TOKENS, one_axis("shared_experts", 0, 1)),
)
TOPK_SIGMOID = _table(
    "topk_sigmoid", {"score": "sigmoid", **_ALONE, "renorm": False, "shared_experts": 0}, (_PLAIN, _TOKENS)
)
FUSED_TOPK = _table("fused_topk", {"score": "softmax", **_ALONE, "shared_experts": 0}, (_PLAIN, _TOKENS))

TABLES = (BIASED_GROUPED_TOPK, GROUPED_TOPK, MOE_FUSED_GATE, TOPK_SOFTMAX, TOPK_SIGMOID, FUSED_TOPK)
FAMILY = Family(
    name="routing", tables=TABLES, ops=("aiterlite.ops.routing_operators",), samples="aiterlite.ops.samples.routing"
)
