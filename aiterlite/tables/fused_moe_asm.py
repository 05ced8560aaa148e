"""The one-stage fused mixture of experts in assembly: its kernels, which problems they serve, and their launches.

One workgroup takes 32 sorted entries of an expert through gate, up, activation and down, so nothing but results goes
through memory. `vs` leaves rows out by s_setvskip, `novs` by exec; both give the same bits. A call of `fused_moe` sorts
and quantises before. Results are stored slot by slot and summed in order, or, where the call does not ask for the same
bits each time, added to the result as pairs of bf16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Between, ComputeUnits, Holds, OneOf, Refusal, Row, Targets, Wishes
from aiterlite.hardware import CHIPS
from aiterlite.kernel import Kernel, Operand, Value, Workspace, along_x
from aiterlite.tables import moe_sorting, quant
from aiterlite.tables.asm import PREFERENCE, AsmKernel, AsmVariant
from aiterlite.tables.estimated import WHY
from aiterlite.tables.fused_moe_parts import NativeWeights, Places, clear_kernel, favoured, sum_kernel
from aiterlite.tables.fused_moe_problem import ARGS, BLOCK, FmoeProblem, MoeProblem
from aiterlite.tables.moe_sorting import SortProblem
from aiterlite.tables.quant_plan import QuantProblem
from aiterlite.target import Persona

ROWS_OF_BLOCK, COLUMNS = 32, 256
# Widths in turns of 512 columns; the scales of 16,384 fit LDS. Partial results take all of inter at once, in registers.
WIDTH_STEP, LEAST_WIDTH, MOST_WIDTH, MOST_SLICES = 512, 1024, 16384, 4
LDS_BYTES = 41984
# Below, blocks of 32 entries are mostly padding, and fewer than half of the CUs have one.
FEWEST_TOKENS = 32
STORES = ("atomic", "partial")
Problem = MoeProblem | FmoeProblem


@dataclass(frozen=True)
class OneStagePlan:
    """`store`: results are added to the result (atomic), or stored slot by slot (partial); `slices` of 256 columns of
    inter are a workgroup's. `marks`: the kernel says which slots there are. There are at most `blocks` sorted ones."""

    activation: str
    store: str
    slices: int
    vskip: bool
    marks: bool
    blocks: int
    grid: int

    @property
    def variant(self) -> AsmVariant:
        """How it is assembled; the tile of a workgroup is (entries, columns of inter)."""
        knobs = {"ACTIVATION": self.activation, "GRID": self.grid, "MARKS": int(self.marks), "SLICES": self.slices}
        knobs |= {"STORE": self.store, "VSKIP": int(self.vskip)}
        return AsmVariant(
            defines=tuple((f"AITERLITE_{name}", str(value)) for name, value in knobs.items()),
            tile=(ROWS_OF_BLOCK, COLUMNS * self.slices),
            waves=4,
            waves_per_simd=1,
            lds_bytes=LDS_BYTES,
        )


def plan(problem: Problem, persona: Persona, vskip: bool) -> OneStagePlan:
    """A workgroup a CU, which holds all of its registers."""
    experts = getattr(problem, "global_experts", 0) or problem.experts
    blocks = moe_sorting.least_capacity(problem.pairs, experts, ROWS_OF_BLOCK) // ROWS_OF_BLOCK
    store, slices, marks = "atomic", 1, False
    if problem.deterministic:
        store, slices, marks = "partial", problem.inter // COLUMNS, isinstance(problem, FmoeProblem)
    return OneStagePlan(problem.activation, store, slices, vskip, marks, max(1, blocks), persona.cu_count)


# The manifest ---------------------------------------------------------------------------------------------------------


def _variants(activation: str, vskip: bool, target: str) -> tuple[AsmVariant, ...]:
    """On the target's largest chip (the grid is one number in the code): atomic, and partial by number of slices, which
    the activation has nothing to do with."""
    grid = max(chip.compute_units or 0 for chip in CHIPS.values() if chip.target == target)
    knobs = [("atomic", 1, False), ("partial", 1, False)]
    if activation == "silu":
        knobs += [("partial", 1, True), ("partial", 2, False), ("partial", MOST_SLICES, False)]
    return tuple(
        OneStagePlan(activation, store, slices, vskip, marks, 0, grid).variant for store, slices, marks in knobs
    )


def _kernel(vskip: bool, activation: str) -> AsmKernel:
    skipping = "vs" if vskip else "novs"
    return AsmKernel(
        name=f"one_stage_{skipping}_{activation}",
        unit=f"fused_moe/one_stage_{skipping}_{activation}",
        symbol=f"fmoe_bf16_blockscaleFp8_g1u1_{skipping}_{activation}_1tg_ps_32x256",
        source="asm/fused_moe/fmoe_fp8_blockscale_g1u1.S",
        targets=("gfx942", "gfx950"),
        arguments=ARGS,
        dtypes=("bf16",),
        variants=lambda target: _variants(activation, vskip, target),
        vskip=vskip,
        rows=("one_stage_vs",) if vskip else ("one_stage_novs", "one_stage_novs_304", "one_stage_novs_256"),
    )


# By whether they use s_setvskip, and by activation.
KERNEL_OF: Mapping[tuple[bool, str], AsmKernel] = {
    (vskip, activation): _kernel(vskip, activation) for vskip in (False, True) for activation in ("silu", "gelu")
}
KERNELS = tuple(KERNEL_OF.values())


# Launches -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Buffers:
    """What kernels leave for each other, as fields of the arguments of the layer's and of the quantisation's."""

    layer: Mapping[str, Value]
    quantised: Mapping[str, Value]
    scratch: int
    total: int


def _sorting(problem: MoeProblem, store: str) -> SortProblem:
    cleared = 2 * problem.tokens * problem.width if store == "atomic" else 0
    experts = problem.global_experts or problem.experts
    return SortProblem(problem.tokens, experts, problem.topk, ROWS_OF_BLOCK, cleared)


def _buffers(problem: Problem, persona: Persona, plan: OneStagePlan) -> _Buffers:
    places = Places()
    layer: dict[str, Value] = {"h": 0, "h_scale": 0, "slots": 0, "local_topk_ids": 0, "block_size": ROWS_OF_BLOCK}
    if plan.store == "partial":
        layer["local_topk_ids"] = places.take(4 * problem.pairs)
        layer["slots"] = places.take(2 * problem.pairs * problem.width)
    quantised: dict[str, Value] = {}
    scratch = 0
    if isinstance(problem, MoeProblem):
        layer["sorted_ids"] = places.take(4 * plan.blocks * ROWS_OF_BLOCK)
        layer["sorted_weights"] = places.take(4 * plan.blocks * ROWS_OF_BLOCK)
        layer["sorted_expert_ids"] = places.take(4 * plan.blocks)
        layer["num_valid_ids"] = places.take(8)
        layer["sorted_entries"] = plan.blocks * ROWS_OF_BLOCK
        scratch = places.take(moe_sorting.scratch_within(_sorting(problem, plan.store), persona)).offset
        if not problem.quantised:
            quantised["out"] = places.take(problem.tokens * problem.width)
            quantised["scales"] = places.take(4 * problem.tokens * problem.width // BLOCK)
            layer |= {"x": quantised["out"], "x_scale": quantised["scales"], "stride_x": problem.width}
            layer |= {"stride_scale_token": problem.width // BLOCK, "stride_scale_group": 1}
    return _Buffers(layer, quantised, scratch, places.bytes)


def _workspace(problem: Problem, persona: Persona, plan: OneStagePlan) -> Workspace | None:
    buffers = _buffers(problem, persona, plan)
    if buffers.total == 0:
        return None
    return Workspace("fused_moe", 0, buffers.total)


def _before(problem: MoeProblem, persona: Persona, plan: OneStagePlan, buffers: _Buffers) -> tuple[Kernel, ...]:
    """Quantises x, and sorts the pairs; where results are added, the sorting clears what they are added to."""
    kernels: tuple[Kernel, ...] = ()
    if buffers.quantised:
        rows = QuantProblem(problem.tokens, problem.width, BLOCK, problem.dtype, problem.code)
        given = {**buffers.quantised, "num_rows": Operand("num_local_tokens"), "num_rows_factor": 1}
        kernels += quant.rows_within(rows, persona, given)
    names = ("sorted_ids", "sorted_weights", "sorted_expert_ids", "num_valid_ids", "local_topk_ids")
    results: dict[str, Value] = {name: buffers.layer[name] for name in names}
    sorting = _sorting(problem, plan.store)
    results |= {"moe_buf": Operand("out") if sorting.cleared else 0, "moe_buf_bytes": sorting.cleared}
    return kernels + moe_sorting.kernels_within(sorting, persona, problem.experts, results, buffers.scratch)


def _kernels(problem: Problem, persona: Persona, plan: OneStagePlan) -> tuple[Kernel, ...]:
    buffers, kernel = _buffers(problem, persona, plan), KERNEL_OF[plan.vskip, plan.activation]
    unit = kernel.device_unit(plan.variant, persona.target)
    launches: tuple[Kernel, ...] = (
        Kernel(unit, kernel.symbol, ARGS, along_x(plan.grid), along_x(256), args=buffers.layer),
    )
    if isinstance(problem, MoeProblem):
        launches = _before(problem, persona, plan, buffers) + launches
    elif plan.marks:
        launches = (clear_kernel(problem, persona, buffers.layer), *launches)
    if plan.store == "partial":
        launches += (sum_kernel(problem, persona, buffers.layer, plan.marks),)
    return launches


# Rows -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OneStageFits:
    """Width is a multiple of 512 from 1,024 to 16,384, inter of 256, and at most 1,024 where results are stored slot by
    slot."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        width, inter = problem.width, problem.inter
        if not (LEAST_WIDTH <= width <= MOST_WIDTH and width % WIDTH_STEP == 0):
            return Refusal(f"width is {width}, no multiple of {WIDTH_STEP} from {LEAST_WIDTH} to {MOST_WIDTH}")
        if inter < COLUMNS or inter % COLUMNS:
            return Refusal(f"inter is {inter}, no multiple of {COLUMNS}", f"pad the weights to {COLUMNS}")
        if problem.deterministic and inter > MOST_SLICES * COLUMNS:
            most = MOST_SLICES * COLUMNS
            return Refusal(f"inter is {inter}, and sums in order take at most {most}", "pass deterministic=False")
        if 2 * inter * width >= 1 << 32:
            return Refusal(f"an expert's w1 of {2 * inter} x {width} has 4 GiB or more")
        return None

    def __str__(self) -> str:
        return f"width a multiple of {WIDTH_STEP} from {LEAST_WIDTH} to {MOST_WIDTH}, inter of {COLUMNS}"


_LAYER = (
    OneOf("dtype", ("bf16",)),
    OneOf("activation", ("silu", "gelu")),
    NativeWeights(),
    OneStageFits(),
)
_MOE = (
    OneOf("quant", ("block",)),
    Holds("shuffled", True, "w1 and w2 lie row by row", "shuffle_weight them by (16, 16)"),
    Holds("interleaved", False, "rows of gate and up take turns"),
    Holds("weighted_input", False, "the routing weight goes on the input"),
    Holds("by_slots", False, "the result has a row a slot"),
    Holds("bias1", False, "rows of w1 have biases"),
    Holds("bias2", False, "rows of w2 have biases"),
    Holds("aligned", True, "rows of x or a weight do not begin at multiples of 16 bytes", "copy them"),
    *_LAYER,
)
_FMOE = (OneOf("block_size", (ROWS_OF_BLOCK,), "sort in blocks of 32"), *_LAYER)
_ENOUGH = Between("tokens", FEWEST_TOKENS, moe_sorting.MOST_PAIRS, "few tokens leave blocks of 32 empty")


def _row(name: str, vskip: bool, requires: tuple[Any, ...], preference: int) -> Row:
    return Row(
        name=name,
        backend="asm",
        requires=requires,
        preference=preference,
        plan=lambda problem, persona: plan(problem, persona, vskip),
        kernels=_kernels,
        workspace=_workspace,
        vskip=vskip,
        favour=None if vskip else favoured("one_stage"),
        favoured_by=WHY,
    )


def _rows(common: tuple[Any, ...]) -> tuple[Row, ...]:
    """On the chips that it is made for, `novs` goes before compiled kernels from as many tokens on as fill it; anywhere
    else, and for fewer tokens, where assembly is asked for. `vs` only where it is asked for by name."""
    made_for = {
        "304": (Targets(("gfx942",)), ComputeUnits(304, 304)),
        "256": (Targets(("gfx950",)), ComputeUnits(256, 256)),
    }
    first = [_row(f"one_stage_novs_{units}", False, (*chip, *common, _ENOUGH), 20) for units, chip in made_for.items()]
    targets = Targets(("gfx942", "gfx950"))
    return (
        *first,
        _row("one_stage_novs", False, (targets, *common), PREFERENCE),
        _row("one_stage_vs", True, (targets, *common), PREFERENCE - 1),
    )


ROWS, FMOE_ROWS = _rows(_MOE), _rows(_FMOE)
