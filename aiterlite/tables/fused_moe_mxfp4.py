"""The fused mixture of experts with weights of MXFP4 on GPUs: kernels from one source for gfx942, gfx950 and sm_90a,
which problems they serve, how they are cut.

Hidden states become MXFP4 where the precision is a4w4, and where it is a8w4 the bf16 numbers that MXFP8 has for them;
pairs of token and slot are sorted by experts in blocks, stage 1 makes h, stage 2 a row for each slot, and a sum in the
order of slots follows: the same bits in every launch, and those of a token do not depend on others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiterlite.dispatch import Holds, OneOf, Refusal, Row, Targets, Wishes
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Operand, Value, Workspace, along_x, overlap_defines
from aiterlite.tables import fused_moe_mxfp4_codes as codes
from aiterlite.tables import moe_sorting, mxfp4_quant
from aiterlite.tables.fused_moe_parts import FEW, Places, slots_in, sum_kernel
from aiterlite.tables.fused_moe_problem import A4W4, A8W4, ACTIVATIONS, ARGS, MoeProblem
from aiterlite.tables.moe_sorting import SortProblem
from aiterlite.tables.mx_types import BLOCK as MX_BLOCK
from aiterlite.tables.mxfp4_quant import MxQuantProblem
from aiterlite.target import Persona

STAGE1, STAGE2, NUMBERS = (f"aiterlite_fused_moe_mxfp4_{name}" for name in ("stage1", "stage2", "numbers"))
_HOPPER = "sm_90a"
# Of rows of weights that a wave has.
_EACH, _WAVES, _NUMBERS_THREADS = 32, 4, 256
_GROUP = _EACH * _WAVES
_LISTS = ("sorted_ids", "sorted_weights", "sorted_expert_ids", "num_valid_ids")
# Pairs of one expert that are not sorted (fused_moe/few_pairs.h).
_FEW_ENTRIES = 16
# How RoundUp chooses scales (csrc/include/aiterlite/numeric/mxfp4_encode.h).
_CARRY, _LEAST = 0x3FFFFF, 1
# A lane of the sum holds a slot.
_MOST_TOPK = {_HOPPER: 32}


@dataclass(frozen=True)
class Plan:
    """At most `blocks` blocks of `entries`, which a workgroup of a stage has, of so many waves. `few`: they are groups
    of pairs of one expert, which are not sorted."""

    entries: int
    blocks: int
    waves: int = _WAVES
    few: bool = False


def _named(problem: MoeProblem) -> int:
    return problem.global_experts or problem.experts


def plan(problem: MoeProblem, persona: Persona) -> Plan:
    """Blocks that hold what nearly every expert has, so that its weights are read once; of as many entries as registers
    have room for."""
    most = min(problem.tokens, 2 * problem.pairs // _named(problem) + 4)
    if codes.serve(problem, persona):
        most = codes.ENTRIES
    sizes = (8, 16) if persona.target == _HOPPER else (16, 32)
    entries = next((size for size in sizes if most <= size), sizes[-1])
    capacity = moe_sorting.least_capacity(problem.pairs, _named(problem), entries)
    return Plan(entries, max(1, capacity // entries))


def plan_few(problem: MoeProblem, persona: Persona) -> Plan:
    """As many groups as pairs may make, and a wave a workgroup, so that more of the chip reads."""
    if codes.serve(problem, persona):
        return Plan(codes.ENTRIES, codes.few_blocks(problem), few=True)
    return Plan(_FEW_ENTRIES, problem.pairs, waves=1, few=True)


def _sorting(problem: MoeProblem, made: Plan) -> SortProblem:
    return SortProblem(problem.tokens, _named(problem), problem.topk, made.entries)


def _rounds(problem: MoeProblem) -> bool:
    return problem.precision == A4W4


def _scales_apart(problem: MoeProblem, persona: Persona, k: int) -> int:
    """Bytes from row to row of the scales of x and h, where they are made here."""
    return codes.scales_apart(k) if codes.serve(problem, persona) else k // MX_BLOCK


@dataclass(frozen=True)
class _Buffers:
    """What kernels leave for each other in the workspace, as fields of their arguments."""

    stages: Mapping[str, Value]
    x: Mapping[str, Value]
    scratch: int
    total: int


def _buffers(problem: MoeProblem, persona: Persona, made: Plan) -> _Buffers:
    places, pairs, packed = Places(), problem.pairs, _rounds(problem)
    of_x, of_h = (_scales_apart(problem, persona, k) for k in (problem.width, problem.inter))
    stages: dict[str, Value] = {
        "local_topk_ids": places.take(4 * pairs),
        "block_size": made.entries,
        "h": places.take(pairs * problem.inter // 2 if packed else 2 * pairs * problem.inter),
        "h_scale": places.take(pairs * of_h) if packed else 0,
    }
    stages["slots"] = 0 if codes.adds_slots(problem, persona, made.blocks) else slots_in(places, problem)
    scratch = 0
    if made.few and not codes.serve(problem, persona):
        stages |= dict.fromkeys(_LISTS, 0)
    else:
        sizes = (4 * made.blocks * made.entries, 4 * made.blocks * made.entries, 4 * made.blocks, 8)
        stages |= {name: places.take(size) for name, size in zip(_LISTS, sizes, strict=True)}
    if not made.few:
        scratch = places.take(moe_sorting.scratch_within(_sorting(problem, made), persona)).offset
    x: dict[str, Value] = {}
    if packed and not problem.quantised:
        x["out"] = places.take(problem.tokens * problem.width // 2)
        x["scales"] = places.take(problem.tokens * of_x)
    if problem.precision == A8W4:
        x["h"] = places.take(2 * problem.tokens * problem.width)
    return _Buffers(stages, x, scratch, places.bytes)


def _unit(name: str, symbol: str, persona: Persona, defines: Mapping[str, int | str]) -> Unit:
    spelled = {f"AITERLITE_{key}": str(value) for key, value in sorted(defines.items())}
    spelled |= overlap_defines(persona.target)
    source = f"csrc/fused_moe/mxfp4_{name}.hip"
    return Unit(f"fused_moe/mxfp4_{name}", (source,), persona.target, tuple(spelled.items()), symbols=(symbol,))


def _quantise(problem: MoeProblem, persona: Persona, into: Mapping[str, Value]) -> tuple[Kernel, ...]:
    rows, blocks = MxQuantProblem(problem.tokens, problem.width, problem.dtype), problem.width // MX_BLOCK
    apart = _scales_apart(problem, persona, problem.width)
    given: dict[str, Value] = {
        **into, "num_rows": Operand("num_local_tokens"), "num_rows_factor": 1, "carry": _CARRY, "least": _LEAST,
        "stride_row": apart, "stride_block": 1, "stride_part": 0, "part_blocks": blocks,
    }  # fmt: skip
    made = mxfp4_quant.gpu_kernels(rows, persona, mxfp4_quant.plan(rows, persona))
    return tuple(replace(kernel, args={**kernel.args, **given}) for kernel in made)


def _numbers(problem: MoeProblem, persona: Persona, into: Mapping[str, Value]) -> tuple[Kernel, ...]:
    defines: dict[str, int | str] = {"ELEMENT": problem.dtype, "QUANTISED": int(problem.quantised)}
    grid, block = along_x(problem.tokens * _parts(problem)), along_x(_NUMBERS_THREADS)
    return (Kernel(_unit("numbers", NUMBERS, persona, defines), NUMBERS, ARGS, grid, block, args=into),)


def _parts(problem: MoeProblem) -> int:
    """Workgroups of a token."""
    return -(-problem.width // (8 * _NUMBERS_THREADS))


def _features(problem: MoeProblem, persona: Persona) -> int:
    """Of a wave of stage 2. Twice as many read h half as often; their results would be half of gfx942's LDS."""
    return 2 * _EACH if persona.target == "gfx950" and problem.width % (2 * _EACH) == 0 else _EACH


def kernels(problem: MoeProblem, persona: Persona, made: Plan) -> tuple[Kernel, ...]:
    buffers, packed = _buffers(problem, persona, made), _rounds(problem)
    first: dict[str, Value] = dict(buffers.stages)
    before: tuple[Kernel, ...] = ()
    if "h" in buffers.x:
        before = _numbers(problem, persona, {**buffers.stages, **buffers.x})
        first |= {"x": buffers.x["h"], "stride_x": problem.width}
    elif buffers.x:
        before = _quantise(problem, persona, buffers.x)
        first |= {"x": buffers.x["out"], "x_scale": buffers.x["scales"], "stride_x": problem.width // 2}
        first |= {"stride_scale_token": _scales_apart(problem, persona, problem.width), "stride_scale_group": 1}
    results: dict[str, Value] = {name: buffers.stages[name] for name in (*_LISTS, "local_topk_ids")}
    results |= {"moe_buf": 0, "moe_buf_bytes": 0}
    sort: tuple[Kernel, ...] = ()
    if not made.few:
        sort = moe_sorting.kernels_within(_sorting(problem, made), persona, problem.experts, results, buffers.scratch)
    if codes.serve(problem, persona):
        return (*before, *sort, *codes.kernels(problem, persona, made.blocks, made.few, first, buffers.stages))
    common: dict[str, int | str] = {
        "FEW": int(made.few),
        "PACKED": int(packed),
        "SHUFFLED": int(problem.shuffled),
        "TOKENS": made.entries,
        "WAVES": made.waves,
        "WEIGHTED": int(problem.weighted_input),
    }
    eight = problem.precision == A8W4
    number, activation = "bf16" if packed or eight else problem.dtype, ACTIVATIONS.index(problem.activation)
    gate_up = {**common, "ACTIVATION": activation, "BIASED": int(problem.bias1), "NUMBER": number, "ROUNDS": int(eight)}
    features = _features(problem, persona)
    down = {**common, "BIASED": int(problem.bias2), "FEATURES": features, "RESULT": problem.dtype}
    threads = along_x(made.waves * (32 if persona.target == _HOPPER else 64))

    def kernel(name: str, symbol: str, rows: int, each: int, defines: Mapping[str, int | str], args: Any) -> Kernel:
        grid = along_x(made.blocks * -(-rows // (each * made.waves)))
        return Kernel(_unit(name, symbol, persona, defines), symbol, ARGS, grid, threads, args=args)

    return (
        *before,
        *sort,
        kernel("stage1", STAGE1, problem.inter, _EACH, gate_up, first),
        kernel("stage2", STAGE2, problem.width, features, down, buffers.stages),
        sum_kernel(problem, persona, buffers.stages),
    )


def workspace(problem: MoeProblem, persona: Persona, made: Plan) -> Workspace:
    return Workspace("fused_moe", 0, _buffers(problem, persona, made).total)


def _accuracy(problem: MoeProblem) -> str:
    kinds = {A4W4: "x and h are quantised to MXFP4", A8W4: "x and h are quantised to MXFP8"}
    how = kinds.get(problem.precision, "x is not quantised; h is rounded to bf16")
    return f"{how}; each slot's result is rounded to {problem.dtype}"


@dataclass(frozen=True)
class CountsFit:
    """An expert's codes are at 32-bit offsets, workgroups number in 31 bits, slots are lanes of a wave."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if min(problem.tokens, problem.topk, problem.experts) < 1:
            return None  # which others refuse
        if problem.inter * problem.width >= 2**32:
            return Refusal(f"an expert's w1 of {2 * problem.inter} x {problem.width} may have 4 GiB or more")
        made = plan(problem, persona)
        groups = made.blocks * -(-max(problem.width, problem.inter) // _GROUP)
        if max(groups, problem.tokens * _parts(problem)) >= 2**31:
            return Refusal(f"{problem.tokens} tokens make 2^31 workgroups or more", "split the tokens")
        most = _MOST_TOPK.get(persona.target, 64)
        return Refusal(f"topk is {problem.topk}; allowed: up to {most}") if problem.topk > most else None

    def __str__(self) -> str:
        return "experts of less than 4 GiB, fewer than 2^31 workgroups; on sm_90a at most 32 slots"


_REQUIRES = (
    OneOf("quant", ("mxfp4",)),
    OneOf("activation", ACTIVATIONS),
    Holds("aligned", True, "rows of x or a weight do not begin at multiples of 16 bytes", "copy them"),
    CountsFit(),
)


_AMD = ("gfx942", "gfx950")


def _row(name: str, back_end: str, *targets: str) -> Row:
    requires = (Targets(targets), *_REQUIRES)
    return Row(name, back_end, requires, 0, plan, kernels, workspace, accuracy=_accuracy)


ROWS: tuple[Row, ...] = (
    Row("mxfp4_few", "hip", (Targets(_AMD), *_REQUIRES, *FEW), 10, plan_few, kernels, workspace, accuracy=_accuracy),
    _row("mxfp4", "hip", *_AMD),
)
SM90_ROWS: tuple[Row, ...] = (_row("mxfp4_mma", "cuda", _HOPPER),)
