"""The kernels of the fused mixture of experts on sm_90a (plans: fused_moe_sm90_plan.py; what they serve:
fused_moe_sm90.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Operand, TensorMap, Value, Workspace, along_x, overlap_defines
from aiterlite.tables import fused_moe_sm90_plan as plans
from aiterlite.tables import moe_sorting as sorting
from aiterlite.tables import quant
from aiterlite.tables.fused_moe_parts import by_slots, clear_kernel, sum_kernel
from aiterlite.tables.fused_moe_problem import ACTIVATIONS, BLOCK, FmoeProblem, MoeProblem
from aiterlite.tables.fused_moe_sm90_plan import STEP_BYTES, JoinPlan, KeptPlan, Plan, Problem, SlotsPlan, SumsPlan
from aiterlite.tables.quant_plan import QuantProblem
from aiterlite.target import Persona

_HEADER = "aiterlite/fused_moe/sm90_args.h"
ARGS, GEMM_ARGS = (ArgumentStruct(f"aiterlite_sm90_moe_{name}args", _HEADER) for name in ("", "gemm_"))
PREPARE_MANY = "aiterlite_sm90_moe_prepare_many"
# From so many tokens on a cluster sorts: 5.6 us for 256 on an H200, one workgroup 6.4; 1,024 take 9.7 and 15.6.
MANY, _MANY_THREADS, MANY_CLUSTER = 128, 512, 8
PREPARE, GATE_UP, FINISH, DOWN, DOWN_SLOTS, DOWN_JOIN, DOWN_KEPT = (
    f"aiterlite_sm90_moe_{name}"
    for name in ("prepare", "gate_up", "finish", "down", "down_slots", "down_join", "down_kept")
)
_STREAM_THREADS, _SPLIT_THREADS, _FINISH_THREADS = 384, 640, 256
# Steps of weights that are asked for together: 281.9 us for 64 tokens on an H200, 285.0 of one, 282.4 of three.
_TOGETHER = 2
# Of a thread that multiplies, and of others, in stage 2 that adds up.
_JOIN_REGISTERS = {"MULTIPLIER_REGISTERS": 168, "OTHER_REGISTERS": 48}
# Scales that a row's sum is multiplied by at its end, as kernels number them.
_ROW_SCALES = {"token": 1, "tensor": 2}
# Fields of sm_90's struct that the common one in it lacks.
_OWN_ARGS = ("codes", "code_scale", "partial", "workgroups", "entry_pitch", "arrived", "arrivals")


def _code(problem: Problem) -> str:
    return problem.dtype if plans.element_bytes(problem) == 2 else problem.code


def _asked(problem: Problem, name: str, otherwise: Any) -> Any:
    """A field of calls of `fused_moe`, which the others lack."""
    return getattr(problem, name) if isinstance(problem, MoeProblem) else otherwise


def _shuffled(problem: Problem) -> bool:
    return bool(_asked(problem, "shuffled", True))


# Tensor maps ----------------------------------------------------------------------------------------------------------


def _gate_up_map(problem: Problem) -> TensorMap:
    """128 gate, or up, rows of 128 bytes."""
    width, inter, experts = problem.width, problem.inter, problem.experts
    step = STEP_BYTES // plans.element_bytes(problem)
    if _shuffled(problem):
        return _shuffled_map(problem, "w1", 2 * inter, width, BLOCK)
    if _asked(problem, "interleaved", False):
        sizes, strides, box = (width, 2, experts * inter), (width, 2 * width), (step, 1, BLOCK)
    else:
        sizes, strides, box = (width, inter, 2 * experts), (width, inter * width), (step, BLOCK, 1)
    return TensorMap("w_map", "w1", _code(problem), sizes, strides, box)


def _shuffled_map(problem: Problem, name: str, rows: int, k: int, box_rows: int) -> TensorMap:
    """Pieces of 16 rows of 16 bytes, those of 16 rows after each other along k; a box has all rows of 16 bytes together
    (the layout without swizzle of fragment/sm90_wgmma.h)."""
    element = plans.element_bytes(problem)
    piece, panels, steps = 256 // element, problem.experts * rows // 16, k * element // 16
    box = (piece, box_rows // 16, STEP_BYTES // 16)
    return TensorMap("w_map", name, _code(problem), (piece, panels, steps), (16 * k, piece), box, 0)


def _down_map(problem: Problem, rows: int) -> TensorMap:
    """So many rows of 128 bytes."""
    if _shuffled(problem):
        return _shuffled_map(problem, "w2", problem.width, problem.inter, rows)
    sizes, step = (problem.inter, problem.experts * problem.width), STEP_BYTES // plans.element_bytes(problem)
    return TensorMap("w_map", "w2", _code(problem), sizes, (problem.inter,), (step, rows))


# Kernels --------------------------------------------------------------------------------------------------------------


def _unit(name: str, symbol: str, defines: Mapping[str, int | str]) -> Unit:
    spelled = {f"AITERLITE_{key}": str(value) for key, value in defines.items()} | overlap_defines("sm_90a")
    sources = (f"csrc/fused_moe/sm90_{name}.hip",)
    return Unit(f"fused_moe/sm90_{name}", sources, "sm_90a", tuple(spelled.items()), symbols=(symbol,))


def _common(problem: Problem, plan: Plan) -> dict[str, int | str]:
    return {
        "BIAS1": int(_asked(problem, "bias1", False)),
        "BIAS2": int(_asked(problem, "bias2", False)),
        "CODE": _code(problem),
        "COLS": plan.columns,
        "GIVEN": int(isinstance(problem, FmoeProblem)),
        "INLINE": int(plan.inline),
        "INTERLEAVED": int(_asked(problem, "interleaved", False)),
        "SHUFFLED": int(_shuffled(problem)),
        "ROW_SCALES": _ROW_SCALES.get(_asked(problem, "quant", "block"), 0),
        "SPLIT": 0,
        "TILED": int(isinstance(plan, JoinPlan | KeptPlan)),
        "WEIGHTED_INPUT": int(_asked(problem, "weighted_input", False)),
    }


def _args(problem: Problem, plan: Plan, persona: Persona) -> dict[str, Value]:
    places = plans.places(problem, plan, persona).of
    given: dict[str, Value] = {name: place for name, place in places.items() if name != "scratch"}
    given |= {"workgroups": plan.workgroups, "entry_pitch": plans.entries(problem, plan)}
    if isinstance(problem, MoeProblem):
        given["block_size"] = plan.columns
    if not plans.quantises(problem):
        codes = _asked(problem, "quant", "block") != "none"
        given |= {"codes": Operand("x"), "code_scale": Operand("x_scale") if codes else 0}
    counters = plans.arrivals(problem) if isinstance(plan, JoinPlan) and isinstance(problem, MoeProblem) else 0
    return {"slots": Operand("out") if by_slots(problem) else 0, "arrived": 0, **given, "arrivals": counters}


def _before(
    problem: MoeProblem, persona: Persona, plan: Plan, args: dict[str, Value]
) -> tuple[tuple[Kernel, ...], dict[str, Value]]:
    """What sorts where lists are not made inline, and quantises where x is not yet; and the arguments behind it."""
    tokens, width, groups = problem.tokens, problem.width, problem.width // BLOCK
    quantises = plans.quantises(problem)
    if plan.inline or plans.pairs_of_thread(problem, plan):
        scales: dict[str, Value] = {"stride_scale_token": 1, "stride_scale_group": tokens}
        after = {**args, **scales, "stride_x": width} if quantises else args
        return _prepare(problem, plan, {**args, **scales} if quantises else args), after
    after, kernels = dict(args), tuple[Kernel, ...]()
    if isinstance(plan, JoinPlan):  # the kernel that quantises makes counters zeros
        scales = {"stride_scale_token": 1, "stride_scale_group": tokens} if quantises else {}
        kernels = _prepare(problem, plan, {**args, **scales}, sorts=False)
        after |= {**scales, "stride_x": width} if quantises else {}
    elif quantises:
        rows = QuantProblem(tokens, width, BLOCK, problem.dtype, problem.code)
        into: dict[str, Value] = {"out": args["codes"], "scales": args["code_scale"]}
        into |= {"num_rows": Operand("num_local_tokens"), "num_rows_factor": 1}
        kernels = quant.rows_within(rows, persona, into)
        after |= {"stride_x": width, "stride_scale_token": groups, "stride_scale_group": 1}
    names = ("sorted_ids", "sorted_weights", "sorted_expert_ids", "num_valid_ids", "local_topk_ids")
    lists: dict[str, Value] = {name: args[name] for name in names} | {"moe_buf": 0, "moe_buf_bytes": 0}
    scratch = plans.places(problem, plan, persona).of["scratch"].offset
    sorting_of = plans.sort_problem(problem, plan)
    return kernels + sorting.kernels_within(sorting_of, persona, problem.experts, lists, scratch), after


def _prepare(problem: MoeProblem, plan: Plan, args: Mapping[str, Value], sorts: bool = True) -> tuple[Kernel, ...]:
    """The kernel that sorts by one workgroup or a cluster, quantises, and makes counters zeros; none where there is
    nothing to do."""
    quantises, sorts = plans.quantises(problem), sorts and not plan.inline
    groups = problem.tokens * problem.width // BLOCK if quantises else 0
    counters = plans.arrivals(problem) if isinstance(plan, JoinPlan) else 0
    defines: dict[str, int | str] = {"ELEMENT": problem.dtype, "QUANTISES": int(quantises)}
    if sorts and problem.tokens >= MANY and plan.workgroups >= 2 * MANY_CLUSTER:
        threads, ranks = _MANY_THREADS, MANY_CLUSTER
        defines["PAIRS"] = -(-(-(-problem.tokens // ranks) * problem.topk) // threads)
        defines["COUNTS"] = int(isinstance(plan, KeptPlan))
        others = max(-(-groups // (threads // 8)), -(-counters // threads))
        unit, grid = _unit("prepare_many", PREPARE_MANY, defines), along_x(ranks * (1 + -(-others // ranks)))
        return (Kernel(unit, PREPARE_MANY, ARGS, grid, along_x(threads), cluster=ranks, args=args),)
    threads = plans.PREPARE_THREADS
    defines |= {"PAIRS": max(1, plans.pairs_of_thread(problem, plan) * sorts), "SORTS": int(sorts)}
    grid = along_x(max(sorts + -(-groups // (threads // 8)), -(-counters // threads), 1))
    lds = plans.prepare_shared(problem, plan) if sorts else 0
    unit = _unit("prepare", PREPARE, defines)
    kernel = Kernel(unit, PREPARE, ARGS, grid, along_x(threads), lds=lds, args=args)
    return (kernel,) if sorts or quantises or counters else ()


def _gate_up(problem: Problem, plan: Plan, args: Mapping[str, Value], leads: bool) -> tuple[Kernel, ...]:
    shared = plans.gate_up_shared(plan, plans.element_bytes(problem))
    whole = plans.whole_tiles(problem, plan)
    ends = {**_common(problem, plan), "ACTIVATION": ACTIVATIONS.index(problem.activation), "WHOLE": int(whole)}
    ring = {"SHARED_BYTES": shared, "STAGES": plan.stages, "TOGETHER": _TOGETHER}
    unit = _unit("gate_up", GATE_UP, {**ends, **ring, "LEADS": int(leads)})
    grid, block, maps = along_x(plan.workgroups), along_x(_STREAM_THREADS), (_gate_up_map(problem),)
    cuts = along_x(max(1, plan.workgroups - 1))
    kernel = Kernel(unit, GATE_UP, GEMM_ARGS, grid, block, lds=shared, args=args, maps=maps)
    if whole:
        return (kernel,)
    return (
        kernel,
        Kernel(_unit("finish", FINISH, ends), FINISH, ARGS, cuts, along_x(_FINISH_THREADS), args=args),
    )


def sums_kernels(problem: MoeProblem, persona: Persona, plan: SumsPlan) -> tuple[Kernel, ...]:
    args = _args(problem, plan, persona)
    before, after = _before(problem, persona, plan, args)
    defines = {
        **_common(problem, plan),
        "ELEMENT": problem.dtype,
        "GATHER_WARPS": plan.down_gather_warps,
        "GROUPS": plan.down_groups,
        "ROWS": plan.down_rows,
        "SHARED_BYTES": plans.sums_ring(plan),
        "STAGES": plan.down_stages,
    }
    unit, maps = _unit("down", DOWN, defines), (_down_map(problem, plan.down_rows),)
    grid, block = along_x(-(-problem.width // plan.down_rows)), along_x(plan.down_threads)
    shared = plans.sums_shared(plan, problem.tokens)
    down = Kernel(unit, DOWN, GEMM_ARGS, grid, block, lds=shared, args=after, maps=maps)
    return (*before, *_gate_up(problem, plan, after, leads=not before), down)


def slots_kernels(problem: Problem, persona: Persona, plan: SlotsPlan) -> tuple[Kernel, ...]:
    args = _args(problem, plan, persona)
    before, after = ((), args) if isinstance(problem, FmoeProblem) else _before(problem, persona, plan, args)
    shared = plans.slots_shared(plan)
    defines = {
        **_common(problem, plan),
        "ELEMENT": problem.dtype,
        "SHARED_BYTES": shared,
        "SPLIT": 1,
        "STAGES": plan.down_stages,
        "TOGETHER": _TOGETHER,
    }
    unit, maps = _unit("down_slots", DOWN_SLOTS, defines), (_down_map(problem, BLOCK),)
    grid, block = along_x(plan.workgroups), along_x(_SPLIT_THREADS)
    given = isinstance(problem, FmoeProblem)
    shared_args = {name: value for name, value in args.items() if name not in _OWN_ARGS}
    clear = (clear_kernel(problem, persona, shared_args),) if isinstance(problem, FmoeProblem) else ()
    return (
        *clear,
        *before,
        *_gate_up(problem, plan, after, leads=not before),
        Kernel(unit, DOWN_SLOTS, GEMM_ARGS, grid, block, lds=shared, args=after, maps=maps),
        sum_kernel(problem, persona, shared_args, given),
    )


def join_kernels(problem: MoeProblem, persona: Persona, plan: JoinPlan) -> tuple[Kernel, ...]:
    args = _args(problem, plan, persona)
    before, after = _before(problem, persona, plan, args)
    shared = plans.join_shared(plan)
    defines = {
        **_common(problem, plan),
        "ELEMENT": problem.dtype,
        "SHARED_BYTES": shared,
        "STAGES": plan.down_stages,
        **_JOIN_REGISTERS,
        "ADDERS": plan.adders,
        "PARTS": plan.parts,
    }
    unit, maps = _unit("down_join", DOWN_JOIN, defines), (_down_map(problem, BLOCK),)
    grid, block = along_x(plan.workgroups), along_x(plans.JOIN_THREADS)
    down = Kernel(unit, DOWN_JOIN, GEMM_ARGS, grid, block, lds=shared, args=after, maps=maps)
    return (*before, *_gate_up(problem, plan, after, leads=not before), down)


def kept_kernels(problem: MoeProblem, persona: Persona, plan: KeptPlan) -> tuple[Kernel, ...]:
    args = _args(problem, plan, persona)
    before, after = _before(problem, persona, plan, args)
    # Both together have no more than a launch gives so many threads.
    multiplier, other = {256: (232, 40), 384: (232, 40), 512: (168, 48), 640: (168, 48), 768: (120, 40)}[
        plan.down_threads
    ]
    defines = {
        **_common(problem, plan),
        "ELEMENT": problem.dtype,
        "GROUPS": plan.down_groups,
        "MULTIPLIER_REGISTERS": multiplier,
        "OTHER_REGISTERS": other,
        "RANKS": plan.ranks,
        "ROWS": plan.down_rows,
        "SHARED_BYTES": plans.kept_ring(plan, problem.inter // STEP_BYTES),
        "STAGES": plan.down_stages,
        "STEPS": problem.inter // STEP_BYTES,
        "SUM_BITS": plan.sum_bits,
        "TAKERS": plan.takers,
    }
    sizes, strides = (problem.inter, problem.width, problem.experts), (problem.inter, problem.inter * problem.width)
    w_map = TensorMap("w_map", "w2", _code(problem), sizes, strides, (STEP_BYTES, plan.down_rows, 1))
    grid = along_x(-(-problem.width // (plan.down_rows * plan.ranks)) * plan.ranks)
    unit, block = _unit("down_kept", DOWN_KEPT, defines), along_x(plan.down_threads)
    shared = plans.kept_shared(plan, problem)
    down = Kernel(unit, DOWN_KEPT, GEMM_ARGS, grid, block, lds=shared, cluster=plan.ranks, args=after, maps=(w_map,))
    return (*before, *_gate_up(problem, plan, after, leads=not before), down)


def workspace(problem: Problem, persona: Persona, plan: Plan) -> Workspace:
    return Workspace("fused_moe", 0, plans.places(problem, plan, persona).bytes)
