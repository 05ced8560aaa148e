"""How the kernels of the fused mixture of experts are cut on sm_90a, and where what they leave each other lies.

`sums`: stage 2 adds to every token's sums (csrc/fused_moe/sm90_down.hip). `slots`: it writes a row for
each pair of token and slot, which a sum follows (sm90_down_slots.hip). Stage 1 is the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from aiterlite.kernel import Operand
from aiterlite.tables import moe_sorting as sorting
from aiterlite.tables.fused_moe_parts import Places, by_slots
from aiterlite.tables.fused_moe_problem import BLOCK, FmoeProblem, MoeProblem
from aiterlite.target import Persona

# Columns of a product; blocks of entries have as many.
COLUMNS = (8, 16, 24, 32, 48, 64)
STEP_BYTES, PRODUCT_ROWS = 128, 64
_PARTIAL_ROWS = 2 * BLOCK
SHARED_BYTES, _MOST_STAGES = 227 << 10, 16
# Up to so many tokens a workgroup of stage 2 has room for the sums of its columns beside a long ring. Rings are as long
# for all up to the next of these.
_SUMS_TOKENS = (16, 64, 128, 256, 512)
MOST_SUMS = _SUMS_TOKENS[-1]
# Up to so many every workgroup makes its own lists of entries (fused_moe/sm90_lists.h), and then up to so many one
# workgroup sorts (sm90_prepare.hip), each of its threads so many pairs.
_INLINE_TOKENS, _INLINE_PAIRS, _INLINE_EXPERTS = 16, 160, 1024
PREPARE_THREADS = 1024
JOIN_THREADS = 640
_ADDERS = (4, 5)
# Rows of slots that the L2 keeps beside a stream of weights, in bytes, and of so many times 256 elements.
_PARTS_BYTES, _LEAST_PARTS, _MOST_PARTS = 26 << 20, 3, 8
# Tiles are not cut from so many entries of an expert on, and where the last round has so large a share of all.
_ALL_HIT, _WHOLE_SHARE = 8, 0.93
# Words from one of the counters of stage 2 that adds up to the next.
_COUNTER_WORDS = 32
MOST_PREPARED, _PAIRS_OF_THREAD = 1024, (1, 2, 4, 10)

Problem = MoeProblem | FmoeProblem


@dataclass(frozen=True)
class SumsPlan:
    """Entries in blocks of `columns`, by lists that are made `inline` or before; rings of so many stages in stage 1 and
    2; stage 1 cut for `workgroups`, and stage 2 for those that have `down_rows` of every result each."""

    columns: int
    inline: bool
    workgroups: int
    stages: int
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


@dataclass(frozen=True)
class SlotsPlan:
    """Entries in blocks of `columns`; a ring of `stages` in stage 1, of `down_stages` in stage 2, both cut for
    `workgroups`."""

    columns: int
    workgroups: int
    stages: int
    down_stages: int

    @property
    def inline(self) -> bool:
        return False


@dataclass(frozen=True)
class JoinPlan:
    """As a `SlotsPlan`; stage 2 adds up what it makes of slots, of which rows of so many `parts` of 256 elements lie in
    memory, by warps of which a workgroup has `adders`."""

    columns: int
    workgroups: int
    stages: int
    down_stages: int
    adders: int
    parts: int

    @property
    def inline(self) -> bool:
        return False


@dataclass(frozen=True)
class KeptPlan:
    """As a `JoinPlan`; stage 2 keeps sums of `down_rows` of every result in shared memory, in `sum_bits`, beside a ring
    of `down_stages` blocks; clusters of `ranks` share h."""

    columns: int
    workgroups: int
    stages: int
    down_rows: int
    down_stages: int
    down_groups: int
    ranks: int = 2
    sum_bits: int = 24

    @property
    def inline(self) -> bool:
        return False

    @property
    def down_threads(self) -> int:
        return 128 * self.down_groups + 128 * -(-3 * self.takers // 4)

    @property
    def takers(self) -> int:
        """Warps of a role that take blocks in turn."""
        return next(count for count in (3, 2, 1) if self.down_stages % count == 0)


Plan = SumsPlan | SlotsPlan | JoinPlan | KeptPlan


def element_bytes(problem: Problem) -> int:
    """Of weights, and of x and h as they are multiplied."""
    return 2 if isinstance(problem, MoeProblem) and problem.quant == "none" else 1


def quantises(problem: Problem) -> bool:
    """Whether x is quantised in the call."""
    return isinstance(problem, MoeProblem) and problem.quant != "none" and not problem.quantised


def global_experts(problem: Problem) -> int:
    """That ids may name."""
    return (problem.global_experts if isinstance(problem, MoeProblem) else 0) or problem.experts


def _columns(problem: MoeProblem) -> int:
    """The least that holds nearly all experts' entries where routing is even: the mean, and 2.75 times its root."""
    mean = problem.pairs / global_experts(problem)
    wanted = mean + 2.75 * math.sqrt(mean)
    return next((count for count in COLUMNS if wanted <= count), COLUMNS[-1])


def given_columns(problem: FmoeProblem) -> int:
    """The most that a caller's blocks are whole multiples of; 0 where there is none."""
    return next((count for count in reversed(COLUMNS) if problem.block_size % count == 0), 0)


def merges(problem: MoeProblem) -> bool:
    """Whether a token's slots of one expert may be one entry, of their weights' sum: where weights go on the result,
    which does not have each slot."""
    return problem.topk == 1 or not (problem.weighted_input or problem.by_slots)


def _inline(problem: MoeProblem) -> bool:
    few = problem.tokens <= _INLINE_TOKENS and problem.pairs <= _INLINE_PAIRS
    return few and problem.experts <= _INLINE_EXPERTS and not problem.masked and merges(problem)


# Bytes of shared memory, as the kernels' structs have them ------------------------------------------------------------


def _up(value: int, by: int) -> int:
    return -(-value // by) * by


def _stage(cols: int) -> int:
    """A step of 256 rows of weights (sm90_stream.h), and its two barriers."""
    return _up(2 * BLOCK * STEP_BYTES + cols * STEP_BYTES + 4 * (cols + 2), 1024) + 16


def _ring(cols: int, stages: int) -> int:
    return _up(stages * _stage(cols), 1024)


def _sums_stage(cols: int) -> int:
    return _up(PRODUCT_ROWS * STEP_BYTES + cols * STEP_BYTES + 12 * cols + 8, 1024) + 16


def _lists(cols: int, inline: bool) -> int:
    return _up(4 * _INLINE_EXPERTS + _INLINE_EXPERTS // 8 + _INLINE_PAIRS * (8 + 2 * cols) + 4, 16) if inline else 16


def _beside_gate_up(cols: int, inline: bool, element: int) -> int:
    return cols * (BLOCK * element + 16) + 4 * cols * 9 + _lists(cols, inline)


def _beside_slots(cols: int) -> int:
    return cols * (2 * (_PARTIAL_ROWS + 8) + 4)


def _join_stage(cols: int) -> int:
    return _up(2 * BLOCK * STEP_BYTES + cols * STEP_BYTES + 8 * cols + 8, 1024) + 16


def _beside_join(cols: int, adders: int) -> int:
    """Rows of two tiles on their way to memory, and two batches of 8 rows of slots of each that adds."""
    tickets = 8 * 20 + 8
    return 2 * (cols * 2 * (_PARTIAL_ROWS + 8) + 16) + 2 * adders * (8 * 2 * _PARTIAL_ROWS + 8) + tickets


def join_shared(plan: JoinPlan) -> int:
    return _up(plan.down_stages * _join_stage(plan.columns) + _beside_join(plan.columns, plan.adders), 1024)


def gate_up_shared(plan: Plan, element: int) -> int:
    return _ring(plan.columns, plan.stages) + _up(_beside_gate_up(plan.columns, plan.inline, element), 1024)


def kept_ring(plan: KeptPlan, steps: int) -> int:
    """Stage 2's, without planes."""
    stage = (plan.down_rows + plan.columns) * STEP_BYTES * steps
    numbers = _up(4 * (plan.columns * (2 * steps + 1) + 1), 16)
    return _up(plan.down_stages * (stage + numbers + 16) + 32 * plan.down_groups + 32, 1024)


def kept_shared(plan: KeptPlan, problem: MoeProblem) -> int:
    below = plan.down_rows if plan.sum_bits == 24 else _up(plan.down_rows, 16) // 2
    return _up(kept_ring(plan, problem.inter // STEP_BYTES) + (problem.tokens + 1) * (2 * plan.down_rows + below), 16)


def slots_shared(plan: SlotsPlan) -> int:
    return _ring(plan.columns, plan.down_stages) + _up(_beside_slots(plan.columns), 1024)


def sums_ring(plan: SumsPlan) -> int:
    """Stage 2's, with the sums of one token."""
    beside = 16 * 4 + _lists(plan.columns, plan.inline) + plan.sum_bytes
    return _up(plan.down_stages * _sums_stage(plan.columns) + beside, 1024)


def sums_shared(plan: SumsPlan, tokens: int) -> int:
    return _up(sums_ring(plan) + (tokens - 1) * plan.sum_bytes, 16)


def prepare_shared(problem: MoeProblem, plan: Plan) -> int:
    pitch, experts = -(-problem.tokens // 32) | 1, global_experts(problem)
    return _up(experts * (6 * pitch + 4) + 6 * problem.pairs + 2 * entries(problem, plan), 16)


def _stages(stage: int, beside: int, rounding: int = 2048) -> int:
    return min(_MOST_STAGES, (SHARED_BYTES - rounding - beside) // stage)


# Plans ----------------------------------------------------------------------------------------------------------------


def plan_sums(problem: MoeProblem, persona: Persona) -> SumsPlan:
    inline, element, units = _inline(problem), element_bytes(problem), persona.cu_count or 1
    # Of inline lists an expert has one block.
    cols = (8 if problem.tokens <= 8 else _INLINE_TOKENS) if inline else _columns(problem)
    rows = PRODUCT_ROWS if problem.shuffled else min(PRODUCT_ROWS, _up(-(-problem.width // units), 8))
    tokens = next(bound for bound in _SUMS_TOKENS if problem.tokens <= bound)
    most = _stages(_sums_stage(cols), 16 * 4 + _lists(cols, inline) + 4 * (rows + 4) * tokens, 1024)
    # A warp of stage 2 that gathers fills the same stages again and again; with three of them more registers are left.
    warps = (4, 3) if cols <= 32 else (3,)
    down, gather = next((count, n) for count in range(most, 0, -1) for n in warps if count % n == 0)
    steps = problem.inter * element // STEP_BYTES
    # Registers for so many groups of warps; and a ring that holds a block of each of them.
    groups = next((n for n in range(4 if cols <= 16 else 3 if cols <= 32 else 2, 1, -1) if n * steps <= down), 1)
    stages = _stages(_stage(cols), _beside_gate_up(cols, inline, element))
    return SumsPlan(cols, inline, units, stages, rows, down, groups, gather)


def plan_slots(problem: Problem, persona: Persona) -> SlotsPlan:
    cols = _columns(problem) if isinstance(problem, MoeProblem) else given_columns(problem)
    stages = _stages(_stage(cols), _beside_gate_up(cols, False, element_bytes(problem)))
    return SlotsPlan(cols, persona.cu_count or 1, stages, _stages(_stage(cols), _beside_slots(cols)))


def plan_join(problem: MoeProblem, persona: Persona) -> JoinPlan:
    cols = _columns(problem)
    stages = _stages(_stage(cols), _beside_gate_up(cols, False, element_bytes(problem)))
    # As many that add as leave the longest ring.
    fit = {count: _stages(_join_stage(cols), _beside_join(cols, count), 1024) for count in _ADDERS}
    adders = max(_ADDERS, key=lambda count: (fit[count], count))
    parts = _PARTS_BYTES // (2 * _PARTIAL_ROWS * max(1, problem.pairs))
    parts = min(max(parts, _LEAST_PARTS), _MOST_PARTS, -(-problem.width // _PARTIAL_ROWS))
    return JoinPlan(cols, persona.cu_count or 1, stages, fit[adders], adders, parts)


def plan_kept(problem: MoeProblem, persona: Persona) -> KeptPlan:
    cols, units = _columns(problem), persona.cu_count or 1
    stages = _stages(_stage(cols), _beside_gate_up(cols, False, element_bytes(problem)))
    rows = min(PRODUCT_ROWS, _up(-(-problem.width // units), 8))
    # Two or three warps of each role take blocks in turn: one alone takes longer for a block than the block.
    counts = [n for n in range(_MOST_STAGES, 0, -1) if n % 2 == 0 or n % 3 == 0 or n == 1]
    made = [KeptPlan(cols, units, stages, rows, n, min(n, 2)) for n in counts]
    return next((plan for plan in made if kept_shared(plan, problem) <= SHARED_BYTES), made[-1])


def whole_tiles(problem: Problem, plan: Plan) -> bool:
    """Whether stage 1's tiles are not cut, where the last round of them leaves few multiprocessors idle."""
    if not isinstance(problem, MoeProblem) or plan.inline or problem.pairs < _ALL_HIT * global_experts(problem):
        return False
    # Where routing is even all experts have entries, and nearly all one block.
    blocks = max(1, -(-problem.pairs // (problem.experts * plan.columns))) * problem.experts
    tiles = blocks * problem.inter // BLOCK
    rounds = -(-tiles // plan.workgroups)
    return tiles >= _WHOLE_SHARE * rounds * plan.workgroups


def arrivals(problem: MoeProblem) -> int:
    """Words of the counters of stage 2 that adds up: what is taken, and how much of each 256 elements is stored, and
    fetched."""
    return _COUNTER_WORDS * (2 + 2 * -(-problem.width // _PARTIAL_ROWS))


def sums_fit(problem: MoeProblem) -> bool:
    """Whether no two entries of a block are a token's, so that its sums have one addition at a time."""
    return _inline(problem) or pairs_of_thread(problem, SlotsPlan(_columns(problem), 1, 1, 1)) > 0


def pairs_of_thread(problem: MoeProblem, plan: Plan) -> int:
    """Of a thread that sorts in the kernel that prepares; 0 where others sort, who leave slots apart."""
    fits = problem.tokens <= MOST_PREPARED and merges(problem)
    fits = fits and prepare_shared(problem, plan) <= SHARED_BYTES - 1024
    return next((n for n in _PAIRS_OF_THREAD if fits and problem.pairs <= n * PREPARE_THREADS), 0)


# The workspace --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NamedPlaces:
    """Of each buffer, and the bytes of all."""

    of: Mapping[str, Operand]
    bytes: int


def entries(problem: Problem, plan: Plan) -> int:
    """That the lists have, at most: rows of h."""
    size = problem.block_size if isinstance(problem, FmoeProblem) else plan.columns
    return max(size, sorting.least_capacity(problem.pairs, global_experts(problem), size))


def places(problem: Problem, plan: Plan, persona: Persona) -> NamedPlaces:
    """Where in the workspace what lies, by the names of fields."""
    element, count = element_bytes(problem), entries(problem, plan)
    # Of a caller's lists nothing says which pairs count: marks do, which begin as zeros.
    sizes = {"local_topk_ids": 4 * problem.pairs}
    if quantises(problem):
        sizes |= {"codes": problem.tokens * problem.width, "code_scale": 4 * problem.width // BLOCK * problem.tokens}
    if isinstance(problem, MoeProblem):
        sizes |= {"sorted_ids": 4 * count, "sorted_weights": 4 * count, "num_valid_ids": 8}
        sizes["sorted_expert_ids"] = 4 * (count // plan.columns)
        if not plan.inline and not pairs_of_thread(problem, plan):
            sizes["scratch"] = sorting.scratch_within(sort_problem(problem, plan), persona)
    sizes |= {"h": count * problem.inter * element, "h_scale": 4 * count * problem.inter // BLOCK}
    sizes["partial"] = 4 * 2 * plan.workgroups * plan.columns * _PARTIAL_ROWS
    if isinstance(plan, SlotsPlan) and not by_slots(problem):
        sizes["slots"] = 2 * problem.pairs * problem.width
    if isinstance(plan, JoinPlan) and isinstance(problem, MoeProblem):
        sizes["slots"] = 2 * problem.pairs * plan.parts * _PARTIAL_ROWS
        sizes["arrived"] = 4 * arrivals(problem)
    if isinstance(plan, KeptPlan):  # entries of each block
        sizes["arrived"] = 4 * (count // plan.columns)
    taken = Places()
    return NamedPlaces({name: taken.take(size) for name, size in sizes.items()}, taken.bytes)


def sort_problem(problem: MoeProblem, plan: Plan) -> sorting.SortProblem:
    return sorting.SortProblem(problem.tokens, global_experts(problem), problem.topk, plan.columns)
