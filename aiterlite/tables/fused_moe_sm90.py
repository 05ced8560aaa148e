"""The fused mixture of experts on sm_90a: how its kernels are cut, and where what they share lies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from aiterlite.dispatch import Between, Holds, OneOf, Row, Targets
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import WORKSPACE, Kernel, Operand, TensorMap, Value, Workspace, along_x, overlap_defines
from aiterlite.tables import moe_sorting as sorting
from aiterlite.tables.fused_moe_problem import ACTIVATIONS, BLOCK, MoeProblem
from aiterlite.target import Persona

_HEADER = "aiterlite/fused_moe/sm90_args.h"
ARGS, GEMM_ARGS = (ArgumentStruct(f"aiterlite_sm90_moe_{name}args", _HEADER) for name in ("", "gemm_"))
PREPARE, GATE_UP, FINISH, DOWN = (f"aiterlite_sm90_moe_{name}" for name in ("prepare", "gate_up", "finish", "down"))

# Columns of a product; blocks of entries have as many.
COLUMNS = (8, 16, 24, 32, 48, 64)
_STEP_BYTES, _PARTIAL_ROWS, _PRODUCT_ROWS = 128, 256, 64
_PREPARE_THREADS, _GATE_UP_THREADS, _FINISH_THREADS = 1024, 384, 256
_SHARED_BYTES = 227 << 10
_MOST_STAGES = 16
# Steps of stage 1 that are asked for together: 281.9 us for 64 tokens on an H200, 285.0 of one, 282.4 of three.
_TOGETHER = 2
# Up to so many tokens a workgroup of stage 2 holds the sums of its columns, and one workgroup sorts.
MOST_SUMS, MOST_SORTED = 512, 1024
# Pairs of token and slot of a thread that sorts.
_PAIRS_OF_THREAD = (1, 2, 4, 10)
_SUMS_TOKENS = (16, 64, 128, 256, 512)
# Up to so many every workgroup makes its own lists of entries (fused_moe/sm90_lists.h).
_INLINE_TOKENS, _INLINE_PAIRS, _INLINE_EXPERTS = 16, 160, 1024


@dataclass(frozen=True)
class Sm90MoePlan:
    """Entries in blocks of `columns`, by lists that are made `inline` or before; rings of so many stages in stage 1 and
    2; stage 1 cut for `workgroups`, and stage 2 for those that have `down_rows` of every result each."""

    columns: int
    inline: bool
    workgroups: int
    gate_up_stages: int
    down_rows: int
    down_stages: int
    down_groups: int
    down_gather_warps: int

    @property
    def down_threads(self) -> int:
        return 128 * self.down_groups + 32 * (self.down_gather_warps + 1)

    @property
    def sum_bytes(self) -> int:
        """Of a token, in a workgroup of stage 2."""
        return 4 * (self.down_rows + 4)


def _element(problem: MoeProblem) -> int:
    return 2 if problem.quant == "none" else 1


def columns(problem: MoeProblem) -> int:
    """The least that holds nearly all experts' entries where routing is even: the mean, and 2.75 times its root."""
    mean = problem.pairs / problem.experts
    wanted = mean + 2.75 * math.sqrt(mean)
    return next((count for count in COLUMNS if wanted <= count), COLUMNS[-1])


def _up(value: int, by: int) -> int:
    return -(-value // by) * by


# Bytes of shared memory, as the kernels' structs have them.


def _gate_up_stage(cols: int) -> int:
    return _up(2 * BLOCK * _STEP_BYTES + cols * _STEP_BYTES + 4 * (cols + 2), 1024)


def _down_stage(cols: int) -> int:
    return _up(_PRODUCT_ROWS * _STEP_BYTES + cols * _STEP_BYTES + 12 * cols + 8, 1024)


def _lists(cols: int, inline: bool) -> int:
    return _up(4 * _INLINE_EXPERTS + _INLINE_EXPERTS // 8 + _INLINE_PAIRS * (8 + 2 * cols) + 4, 16) if inline else 16


def _gate_up_beside(cols: int, inline: bool, element: int) -> int:
    """What stands beside the ring."""
    return cols * (BLOCK * element + 16) + 4 * cols * 9 + _lists(cols, inline)


def _gate_up_shared(plan: Sm90MoePlan, element: int) -> int:
    beside = _gate_up_beside(plan.columns, plan.inline, element)
    return _up(plan.gate_up_stages * (_gate_up_stage(plan.columns) + 16) + beside, 1024)


def _down_ring(plan: Sm90MoePlan) -> int:
    """With the sums of one token."""
    beside = 16 + _lists(plan.columns, plan.inline) + plan.sum_bytes
    return _up(plan.down_stages * (_down_stage(plan.columns) + 16) + beside, 1024)


def _inline(problem: MoeProblem) -> bool:
    few = problem.tokens <= _INLINE_TOKENS and problem.pairs <= _INLINE_PAIRS
    return few and problem.experts <= _INLINE_EXPERTS and not problem.masked


def plan_sums(problem: MoeProblem, persona: Persona) -> Sm90MoePlan:
    inline = _inline(problem)
    # Of inline lists an expert has one block.
    cols = (8 if problem.tokens <= 8 else _INLINE_TOKENS) if inline else columns(problem)
    units = persona.cu_count or 1
    rows = _PRODUCT_ROWS if problem.shuffled else min(_PRODUCT_ROWS, _up(-(-problem.width // units), 8))
    gate_up = (_SHARED_BYTES - 1024 - _gate_up_beside(cols, inline, _element(problem))) // (_gate_up_stage(cols) + 16)
    tokens = next(bound for bound in _SUMS_TOKENS if problem.tokens <= bound)
    sums = 4 * (rows + 4) * tokens
    down = (_SHARED_BYTES - 1024 - 16 - _lists(cols, inline) - sums) // (_down_stage(cols) + 16)
    # A warp of stage 2 that gathers fills the same stages again and again.
    stages = next(count for count in range(min(down, _MOST_STAGES), 0, -1) if count % 4 == 0 or count % 3 == 0)
    steps = problem.inter * _element(problem) // _STEP_BYTES
    most = 4 if cols <= 16 else 3 if cols <= 32 else 2
    groups = next((count for count in range(most, 1, -1) if count * steps <= stages), 1)
    gather = 4 if stages % 4 == 0 else 3
    return Sm90MoePlan(cols, inline, units, min(gate_up, _MOST_STAGES), rows, stages, groups, gather)


# The workspace --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Places:
    """Where in the workspace what lies, by the names of fields; and its size."""

    offsets: Mapping[str, int]
    total: int

    def __getitem__(self, name: str) -> Operand:
        return Operand(WORKSPACE, self.offsets[name])


def _entries(problem: MoeProblem, plan: Sm90MoePlan) -> int:
    experts = max(problem.experts, 1)
    return max(plan.columns, sorting.least_capacity(problem.pairs, experts, plan.columns))


def places(problem: MoeProblem, plan: Sm90MoePlan) -> Places:
    element, entries = _element(problem), _entries(problem, plan)
    quantises = _quantises(problem)
    sizes = {
        "codes": problem.tokens * problem.width if quantises else 0,
        "code_scale": 4 * problem.width // BLOCK * problem.tokens if quantises else 0,
        "sorted_ids": 4 * entries,
        "sorted_weights": 4 * entries,
        "sorted_expert_ids": 4 * (entries // plan.columns),
        "num_valid_ids": 8,
        "local_topk_ids": 4 * problem.pairs,
        "h": entries * problem.inter * element,
        "h_scale": 4 * entries * problem.inter // BLOCK,
        "partial": 4 * 2 * plan.workgroups * plan.columns * _PARTIAL_ROWS,
    }
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name] = end
        end = _up(end + size, 256)
    return Places(offsets, end)


def _workspace(problem: MoeProblem, persona: Persona, plan: Sm90MoePlan) -> Workspace:
    return Workspace("fused moe", 0, places(problem, plan).total)


# Kernels --------------------------------------------------------------------------------------------------------------


def _quantises(problem: MoeProblem) -> bool:
    """Whether x is quantised here."""
    return problem.quant != "none" and not problem.quantised


def _code(problem: MoeProblem) -> str:
    return problem.dtype if problem.quant == "none" else problem.code


def _unit(name: str, problem: MoeProblem, plan: Sm90MoePlan, symbol: str, **more: int | str) -> Unit:
    defines: dict[str, int | str] = {
        "AITERLITE_ACTIVATION": ACTIVATIONS.index(problem.activation),
        "AITERLITE_CODE": _code(problem),
        "AITERLITE_COLS": plan.columns,
        "AITERLITE_INLINE": int(plan.inline),
        "AITERLITE_INTERLEAVED": int(problem.interleaved),
        "AITERLITE_ROW_SCALES": int(problem.quant == "token"),
        "AITERLITE_WEIGHTED_INPUT": int(problem.weighted_input),
        **more,
        **overlap_defines("sm_90a"),
    }
    texts = tuple((key, str(value)) for key, value in defines.items())
    return Unit(f"fused_moe/sm90_{name}", (f"csrc/fused_moe/sm90_{name}.hip",), "sm_90a", texts, symbols=(symbol,))


def _gate_up_map(problem: MoeProblem) -> TensorMap:
    """128 gate, or up, rows of 128 bytes."""
    width, inter, experts, code = problem.width, problem.inter, problem.experts, _code(problem)
    step = _STEP_BYTES // _element(problem)
    if problem.shuffled:
        return _shuffled_map(problem, "w1", 2 * inter, width, BLOCK)
    if problem.interleaved:
        sizes, strides, box = (width, 2, experts * inter), (width, 2 * width), (step, 1, BLOCK)
    else:
        sizes, strides, box = (width, inter, 2 * experts), (width, inter * width), (step, BLOCK, 1)
    return TensorMap("w_map", "w1", code, sizes, strides, box)


def _shuffled_map(problem: MoeProblem, name: str, rows: int, k: int, box_rows: int) -> TensorMap:
    """Pieces of 16 rows of 16 bytes, those of 16 rows after each other along k; a box has all rows of 16 bytes together
    (the layout without swizzle of sm90_wgmma.h)."""
    element = _element(problem)
    piece, panels, steps = 256 // element, problem.experts * rows // 16, k * element // 16
    box = (piece, box_rows // 16, _STEP_BYTES // 16)
    return TensorMap("w_map", name, _code(problem), (piece, panels, steps), (16 * k, piece), box, 0)


def _down_map(problem: MoeProblem, plan: Sm90MoePlan) -> TensorMap:
    """A workgroup's rows of 128 bytes."""
    if problem.shuffled:
        return _shuffled_map(problem, "w2", problem.width, problem.inter, plan.down_rows)
    sizes, step = (problem.inter, problem.experts * problem.width), _STEP_BYTES // _element(problem)
    return TensorMap("w_map", "w2", _code(problem), sizes, (problem.inter,), (step, plan.down_rows))


def _args(problem: MoeProblem, plan: Sm90MoePlan) -> dict[str, Value]:
    at = places(problem, plan)
    given: dict[str, Value] = {name: at[name] for name in at.offsets}
    given |= {"workgroups": plan.workgroups, "entry_pitch": _entries(problem, plan), "block_size": plan.columns}
    if not _quantises(problem):
        given |= {"codes": Operand("x"), "code_scale": Operand("x_scale") if problem.quantised else 0}
    else:
        given |= {"stride_scale_token": 1, "stride_scale_group": problem.tokens}
    return given | {"slots": 0}


def _prepare(problem: MoeProblem, plan: Sm90MoePlan, args: Mapping[str, Value]) -> tuple[Kernel, ...]:
    """Sorts where lists are not made inline, and quantises where x is not yet."""
    groups = problem.tokens * problem.width // BLOCK if _quantises(problem) else 0
    grid = (not plan.inline) + -(-groups // (_PREPARE_THREADS // 8))
    if not grid:
        return ()
    each = 1 if plan.inline else next(n for n in _PAIRS_OF_THREAD if problem.pairs <= n * _PREPARE_THREADS)
    defines = {"AITERLITE_ELEMENT": problem.dtype, "AITERLITE_PAIRS": each, "AITERLITE_SORTS": int(not plan.inline)}
    texts = tuple((name, str(value)) for name, value in defines.items())
    unit = Unit(
        "fused_moe/sm90_prepare",
        ("csrc/fused_moe/sm90_prepare.hip",),
        "sm_90a",
        (*texts, *overlap_defines("sm_90a").items()),
        symbols=(PREPARE,),
    )
    experts = problem.global_experts or problem.experts
    pitch = -(-problem.tokens // 32) | 1
    shared = experts * (6 * pitch + 4) + 2 * problem.pairs + 8 * _entries(problem, plan)
    lds = 0 if plan.inline else _up(shared, 16)
    return (Kernel(unit, PREPARE, ARGS, along_x(grid), along_x(_PREPARE_THREADS), lds=lds, args=args),)


def _stage_1(problem: MoeProblem, plan: Sm90MoePlan, args: Mapping[str, Value]) -> tuple[Kernel, ...]:
    after = {**args, **({"stride_x": problem.width} if _quantises(problem) else {})}
    shared = _gate_up_shared(plan, _element(problem))
    more: dict[str, int | str] = {"AITERLITE_STAGES": plan.gate_up_stages, "AITERLITE_SHARED_BYTES": shared}
    leads = plan.inline and not _quantises(problem)
    more |= {
        "AITERLITE_SHUFFLED": int(problem.shuffled),
        "AITERLITE_LEADS": int(leads),
        "AITERLITE_TOGETHER": _TOGETHER,
    }
    gate_up = _unit("gate_up", problem, plan, GATE_UP, **more)
    maps = (_gate_up_map(problem),)
    grid, block = along_x(plan.workgroups), along_x(_GATE_UP_THREADS)
    finish = _unit("finish", problem, plan, FINISH)
    return (
        Kernel(gate_up, GATE_UP, GEMM_ARGS, grid, block, lds=shared, args=after, maps=maps),
        Kernel(finish, FINISH, ARGS, along_x(max(1, plan.workgroups - 1)), along_x(_FINISH_THREADS), args=after),
    )


def _sums(problem: MoeProblem, persona: Persona, plan: Sm90MoePlan) -> tuple[Kernel, ...]:
    args = _args(problem, plan)
    ring = _down_ring(plan)
    shared = _up(ring + (problem.tokens - 1) * plan.sum_bytes, 16)
    more: dict[str, int | str] = {"AITERLITE_STAGES": plan.down_stages, "AITERLITE_SHARED_BYTES": ring}
    more |= {"AITERLITE_SHUFFLED": int(problem.shuffled), "AITERLITE_ELEMENT": problem.dtype, "AITERLITE_ADD": 0}
    more |= {"AITERLITE_ROWS": plan.down_rows, "AITERLITE_GROUPS": plan.down_groups}
    more["AITERLITE_GATHER_WARPS"] = plan.down_gather_warps
    down = Kernel(
        _unit("down", problem, plan, DOWN, **more),
        DOWN,
        GEMM_ARGS,
        along_x(-(-problem.width // plan.down_rows)),
        along_x(plan.down_threads),
        lds=shared,
        args=args,
        maps=(_down_map(problem, plan),),
    )
    return (*_prepare(problem, plan, args), *_stage_1(problem, plan, args), down)


_HOPPER = (
    Targets(("sm_90a",)),
    OneOf("dtype", ("bf16", "fp16")),
    OneOf("code", ("e4m3fn", "")),
    Holds("aligned", True, "an operand is not 16-byte aligned", "pad rows and addresses to 16 bytes"),
    Between("experts", 1, 1024),
    Between("global_experts", 0, 1024),
)
ROWS: tuple[Row, ...] = (
    Row("sums", "cuda", (*_HOPPER, Between("tokens", 1, MOST_SUMS)), 1, plan_sums, _sums, _workspace),
)
