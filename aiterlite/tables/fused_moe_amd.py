"""The fused mixture of experts on gfx942 and gfx950 by compiled kernels: which problems they serve, how they are cut.

`gemv`, for 1 to 4 tokens, is two kernels straight from topk_ids, which read the weights of each expert that is hit
once. `two_stage_*` sort the pairs of token and slot by experts in blocks, quantise the hidden states, make h of each
block, then slots, and sum those in order; each chip has a row, since the size of blocks is a choice between reading
weights once more and multiplying padding. All give the same bits in every launch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import ComputeUnits, Holds, Refusal, Row, Targets, Wishes
from aiterlite.jit.spec import Unit
from aiterlite.kernel import WORKSPACE, Kernel, Operand, Value, Workspace, along_x
from aiterlite.tables import moe_sorting, quant
from aiterlite.tables.estimated import WHY
from aiterlite.tables.fused_moe_parts import FEW, NativeWeights, Places, clear_kernel, favoured, slots_in, sum_kernel
from aiterlite.tables.fused_moe_problem import ACTIVATIONS, ARGS, BLOCK, FmoeProblem, MoeProblem
from aiterlite.tables.moe_sorting import SortProblem
from aiterlite.tables.quant_plan import QuantProblem
from aiterlite.target import Persona

FEW_GATE_UP, FEW_DOWN, STAGE1, STAGE2 = (
    f"aiterlite_fused_moe_{name}" for name in ("few_gate_up", "few_down", "stage1", "stage2")
)
# Of a block that a workgroup may take.
_ENTRIES = (64, 32, 16)
_THREADS, _ROWS, _INNER = 256, 16, 8
_LINE = 256


# Plans ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FewPlan:
    """`waves` of a workgroup, which load `unroll` blocks of 128 bytes of the width, or `down_unroll` of the inner one,
    at once."""

    waves: int
    unroll: int
    down_unroll: int


@dataclass(frozen=True)
class TwoStagePlan:
    """Blocks of `block_size` entries, at most `blocks` of them. A workgroup has `entries` of one, which may be part of
    it or more than it has, and in stage 2 `features` of the result."""

    block_size: int
    blocks: int
    entries: int
    features: int

    @property
    def parts(self) -> int:
        return self.blocks * -(-self.block_size // self.entries)


def plan_few(problem: MoeProblem, persona: Persona) -> FewPlan:
    """Up to 4 waves share the width, each with 7 blocks on its way, as many as registers hold. With 8, which would have
    all of DeepSeek-R1's width on its way at once, more of a workgroup's time is its start and the sum over waves:
    estimates are 7 to 19 % longer, and timelines no shorter (docs/perf/estimates.md)."""
    blocks = problem.width // _step(problem)
    waves = min(4, blocks)
    return FewPlan(waves, _turn(-(-blocks // waves), 7), _turn(problem.inter // _step(problem), 4))


def _step(problem: MoeProblem | FmoeProblem) -> int:
    """Of what kernels multiply at once: 128 bytes, which of 8 bits is a group of one scale."""
    return BLOCK // 2 if isinstance(problem, MoeProblem) and problem.quant == "none" else BLOCK


def _turn(count: int, most: int) -> int:
    """How many of a count to take at a time, at most so many, for turns of about the same length."""
    return -(-count // -(-count // most))


def _two_stage(problem: MoeProblem | FmoeProblem, block_size: int) -> TwoStagePlan:
    blocks = moe_sorting.least_capacity(problem.pairs, _global_experts(problem), block_size) // block_size
    # As many as divide the block; of blocks that none divides, as many as it has, nearly.
    entries = next((count for count in _ENTRIES if block_size % count == 0), 0) or next(
        count for count in reversed(_ENTRIES) if block_size <= count or count == _ENTRIES[0]
    )
    # A block's results cross shared memory: 64 entries of 256 features would leave room for one workgroup a CU.
    features = 256 if entries < 64 and problem.width % 256 == 0 else 128
    return TwoStagePlan(block_size, max(1, blocks), entries, features)


def plan_two_stage(problem: MoeProblem, persona: Persona) -> TwoStagePlan:
    """Reading weights takes the time up to hundreds of tokens: blocks that hold what nearly every expert has, so that
    its weights are read once. Of random routing that is twice the average and 8 more, and never above all tokens."""
    most = min(problem.tokens, 2 * problem.pairs // _global_experts(problem) + 8)
    return _two_stage(problem, next((size for size in (16, 32) if most <= size), 64))


def plan_few_units(problem: MoeProblem, persona: Persona) -> TwoStagePlan:
    """80 CUs of MI300X's memory: multiplying padding takes longer than reading an expert's weights again."""
    each = problem.pairs // _global_experts(problem)
    return _two_stage(problem, 16 if each <= 16 else 32 if each <= 64 else 64)


def plan_sorted(problem: FmoeProblem, persona: Persona) -> TwoStagePlan:
    return _two_stage(problem, problem.block_size)


def _global_experts(problem: MoeProblem | FmoeProblem) -> int:
    return getattr(problem, "global_experts", 0) or problem.experts


# Kernels --------------------------------------------------------------------------------------------------------------

_SCALES = {"none": 0, "token": 1, "block": 2, "tensor": 3}
_NOTHING: dict[str, Value] = {
    "sorted_ids": 0,
    "sorted_weights": 0,
    "sorted_expert_ids": 0,
    "num_valid_ids": 0,
    "local_topk_ids": 0,
    "h": 0,
    "h_scale": 0,
    "slots": 0,
    "block_size": 0,
}


def _unit(name: str, persona: Persona, symbols: tuple[str, ...], defines: Mapping[str, Any]) -> Unit:
    spelled = {f"AITERLITE_{key}": str(int(v) if isinstance(v, bool) else v) for key, v in defines.items()}
    source = f"csrc/fused_moe/{name}.hip"
    return Unit(f"fused_moe/{name}", (source,), persona.target, tuple(sorted(spelled.items())), symbols=symbols)


def _weights_of(problem: MoeProblem | FmoeProblem) -> dict[str, Any]:
    """What both stages are compiled for."""
    if isinstance(problem, FmoeProblem):
        return {"ELEMENT": problem.code, "SCALES": 2, "SHUFFLED": 1, "WEIGHTED": 0}
    return {
        "ELEMENT": _element(problem),
        "SCALES": _SCALES[problem.quant],
        "SHUFFLED": problem.shuffled,
        "WEIGHTED": problem.weighted_input,
    }


def _element(problem: MoeProblem) -> str:
    return problem.dtype if problem.quant == "none" else problem.code


def _few(problem: MoeProblem, persona: Persona, plan: FewPlan) -> tuple[Kernel, ...]:
    defines = {
        **_weights_of(problem),
        "ACTIVATION": ACTIVATIONS.index(problem.activation),
        "BIAS1": problem.bias1,
        "BIAS2": problem.bias2,
        "BY_SLOTS": problem.by_slots,
        "DOWN_UNROLL": plan.down_unroll,
        "RESULT": problem.dtype,
        "UNROLL": plan.unroll,
        "WAVES": plan.waves,
        "X": problem.code if problem.quantised else problem.dtype,
    }
    unit = _unit("few_tokens", persona, (FEW_GATE_UP, FEW_DOWN), defines)
    args, block = {**_NOTHING, "h": Operand(WORKSPACE)}, along_x(64 * plan.waves)
    return (
        Kernel(unit, FEW_GATE_UP, ARGS, along_x(problem.pairs * problem.inter // _INNER), block, args=args),
        Kernel(unit, FEW_DOWN, ARGS, along_x(problem.width // _ROWS), block, args=args),
    )


def _few_workspace(problem: MoeProblem, persona: Persona, plan: FewPlan) -> Workspace:
    return Workspace("fused_moe", 0, 2 * problem.pairs * problem.inter)


@dataclass(frozen=True)
class _Buffers:
    """The workspace of the two-stage path: what kernels leave for each other, as fields of their arguments."""

    stages: Mapping[str, Value]
    quantised: Mapping[str, Value]
    scratch: int
    total: int


def _buffers(problem: MoeProblem | FmoeProblem, persona: Persona, plan: TwoStagePlan) -> _Buffers:
    places, pairs = Places(), problem.pairs
    # Of a caller's own sorting nothing says which slots count: stage 1 marks them.
    local = places.take(4 * pairs)
    element = 2 if isinstance(problem, MoeProblem) and problem.quant == "none" else 1
    stages: dict[str, Value] = {
        "local_topk_ids": local,
        "block_size": plan.block_size,
        "h": places.take(element * pairs * problem.inter),
        "h_scale": places.take(4 * pairs * problem.inter // BLOCK if element == 1 else 0),
        "slots": slots_in(places, problem),
    }
    quantised: dict[str, Value] = {}
    scratch = 0
    if isinstance(problem, MoeProblem):
        entries = plan.blocks * plan.block_size
        stages["sorted_ids"] = places.take(4 * entries)
        stages["sorted_weights"] = places.take(4 * entries)
        stages["sorted_expert_ids"] = places.take(4 * plan.blocks)
        stages["num_valid_ids"] = places.take(8)
        scratch = places.take(moe_sorting.scratch_within(_sorting(problem, plan), persona)).offset
        if _quantises(problem):
            quantised["out"] = places.take(problem.tokens * problem.width)
            quantised["scales"] = places.take(4 * problem.tokens * problem.width // BLOCK)
    return _Buffers(stages, quantised, scratch, places.bytes)


def _quantises(problem: MoeProblem) -> bool:
    return problem.quant != "none" and not problem.quantised


def _sorting(problem: MoeProblem, plan: TwoStagePlan) -> SortProblem:
    return SortProblem(problem.tokens, _global_experts(problem), problem.topk, plan.block_size)


def _stages(problem: MoeProblem | FmoeProblem, persona: Persona, plan: TwoStagePlan) -> tuple[Kernel, ...]:
    marks = isinstance(problem, FmoeProblem)
    buffers = _buffers(problem, persona, plan)
    weights = {**_weights_of(problem), "TOKENS": plan.entries, "MARKS": marks}
    first: dict[str, Value] = dict(buffers.stages)
    if buffers.quantised:
        first |= {"x": buffers.quantised["out"], "x_scale": buffers.quantised["scales"], "stride_x": problem.width}
        first |= {"stride_scale_token": problem.width // BLOCK, "stride_scale_group": 1}
    gate_up = {
        **weights,
        "ACTIVATION": ACTIVATIONS.index(problem.activation),
        "BIASED": isinstance(problem, MoeProblem) and problem.bias1,
        "INTERLEAVED": isinstance(problem, MoeProblem) and problem.interleaved,
    }
    biased = isinstance(problem, MoeProblem) and problem.bias2
    down = {**weights, "BIASED": biased, "RESULT": problem.dtype, "TILES": plan.features // 64}

    def kernel(name: str, symbol: str, grid: int, block: int, defines: Mapping[str, Any], args: Any) -> Kernel:
        unit = _unit(name, persona, (symbol,), defines)
        return Kernel(unit, symbol, ARGS, along_x(grid), along_x(block), args=args)

    before = (clear_kernel(problem, persona, buffers.stages),) if isinstance(problem, FmoeProblem) else ()
    return (
        *before,
        kernel("stage1", STAGE1, plan.parts * -(-problem.inter // BLOCK), _THREADS, gate_up, first),
        kernel("stage2", STAGE2, plan.parts * problem.width // plan.features, _THREADS, down, buffers.stages),
        sum_kernel(problem, persona, buffers.stages, marks),
    )


def _two_stage_kernels(problem: MoeProblem, persona: Persona, plan: TwoStagePlan) -> tuple[Kernel, ...]:
    buffers = _buffers(problem, persona, plan)
    kernels: tuple[Kernel, ...] = ()
    if buffers.quantised:
        rows = QuantProblem(problem.tokens, problem.width, BLOCK, problem.dtype, problem.code)
        given = {**buffers.quantised, "num_rows": Operand("num_local_tokens"), "num_rows_factor": 1}
        kernels += quant.rows_within(rows, persona, given)
    names = ("sorted_ids", "sorted_weights", "sorted_expert_ids", "num_valid_ids", "local_topk_ids")
    results: dict[str, Value] = {name: buffers.stages[name] for name in names}
    results |= {"moe_buf": 0, "moe_buf_bytes": 0}
    kernels += moe_sorting.kernels_within(_sorting(problem, plan), persona, problem.experts, results, buffers.scratch)
    return kernels + _stages(problem, persona, plan)


def _workspace(problem: MoeProblem | FmoeProblem, persona: Persona, plan: TwoStagePlan) -> Workspace:
    return Workspace("fused_moe", 0, _buffers(problem, persona, plan).total)


def _few_accuracy(problem: MoeProblem) -> str:
    if problem.quant == "none":
        return ""
    return f"{_both(problem, 'not quantised')}; h is rounded to bf16"


def _two_stage_accuracy(problem: MoeProblem | FmoeProblem) -> str:
    if isinstance(problem, MoeProblem) and problem.quant == "none":
        return ""
    how = _both(problem, "quantised by groups of 128")
    return f"{how}; each slot's result is rounded to {problem.dtype}"


def _both(problem: MoeProblem | FmoeProblem, how: str) -> str:
    given = isinstance(problem, FmoeProblem) or problem.quantised
    return f"h is {how}" if given else f"x and h are {how}"


# Requirements ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WholeBlocks:
    """The width is a multiple of 128, the inner one too, or of 64 where weights have 16 bits; and an expert's matrices
    are of less than 4 GiB."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        for name, step in (("width", BLOCK), ("inter", _step(problem))):
            value = getattr(problem, name)
            if value < step or value % step:
                return Refusal(f"{name} is {value}, no multiple of {step}", "pad the weights with zeros")
        if 2 * problem.inter * problem.width * 2 > 2**32 - _LINE:
            return Refusal(f"an expert's w1 of {2 * problem.inter} x {problem.width} may have 4 GiB or more")
        return None

    def __str__(self) -> str:
        return (
            f"widths of whole blocks of {BLOCK} ({BLOCK // 2} of the inner one's 16 bits), experts of less than 4 GiB"
        )


@dataclass(frozen=True)
class CountsFit:
    """What kernels number, workgroups and groups of x that are quantised, are numbers below 2^31."""

    plan: Callable[[Any, Persona], TwoStagePlan]

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if min(problem.tokens, problem.topk, problem.experts, getattr(problem, "block_size", 1)) < 1:
            return None  # which others refuse
        plan = self.plan(problem, persona)
        workgroups = plan.parts * max(problem.width // plan.features, problem.inter // BLOCK)
        groups = problem.tokens * problem.width // BLOCK
        if workgroups < 2**31 and groups <= quant.MOST_GROUPS:
            return None
        return Refusal(f"{problem.tokens} tokens make {workgroups} workgroups and {groups} groups", "split tokens")

    def __str__(self) -> str:
        return "fewer than 2^31 workgroups, and at most 2^30 groups of hidden states"


_AMD, GFX942, GFX950 = Targets(("gfx942", "gfx950")), Targets(("gfx942",)), Targets(("gfx950",))
# Besides what tables/fused_moe.py asks of every row.
_MOE = (
    NativeWeights(),
    WholeBlocks(),
    Holds("aligned", True, "rows of x or a weight do not begin at multiples of 16 bytes", "copy them"),
)


def _two_stage_row(name: str, units: tuple[Any, ...], preference: int, plan: Any) -> Row:
    requires = (*units, *_MOE, CountsFit(plan))
    of_call: dict[str, Any] = {"accuracy": _two_stage_accuracy, "favour": favoured("two_stage"), "favoured_by": WHY}
    return Row(name, "hip", requires, preference, plan, _two_stage_kernels, _workspace, **of_call)


_OF_FEW: dict[str, Any] = {"accuracy": _few_accuracy, "favour": favoured("gemv"), "favoured_by": WHY}
ROWS = (
    Row("gemv", "hip", (_AMD, *_MOE, *FEW), 30, plan_few, _few, _few_workspace, **_OF_FEW),
    _two_stage_row("two_stage_304", (GFX942, ComputeUnits(304, 304)), 10, plan_two_stage),
    _two_stage_row("two_stage_80", (GFX942, ComputeUnits(80, 80)), 10, plan_few_units),
    _two_stage_row("two_stage_256", (GFX950, ComputeUnits(256, 256)), 10, plan_two_stage),
    _two_stage_row("two_stage", (_AMD,), 5, plan_two_stage),
)
FMOE_ROWS = (
    Row(
        "two_stage",
        "hip",
        (_AMD, NativeWeights(), WholeBlocks(), CountsFit(plan_sorted)),
        10,
        plan_sorted,
        _stages,
        _workspace,
        accuracy=_two_stage_accuracy,
    ),
)
