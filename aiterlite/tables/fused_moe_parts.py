"""What the fused mixture of experts' tables of several back ends share: what follows a row for each slot, what clears
marks, where buffers lie in a workspace, and what kernels of all GPUs need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Between, Refusal, Wishes
from aiterlite.jit.spec import Unit
from aiterlite.kernel import WORKSPACE, Kernel, Operand, Value, along_x, overlap_defines
from aiterlite.tables import estimated
from aiterlite.tables.fused_moe_problem import ARGS, NATIVE, FmoeProblem, MoeProblem
from aiterlite.target import Persona

SUM, ABSENT, CLEAR = (f"aiterlite_fused_moe_{name}" for name in ("sum", "absent", "clear"))
_LINE, _CLEAR_THREADS, _ELEMENTS = 256, 256, 8


def favoured(kind: str) -> Callable[[MoeProblem | FmoeProblem, Persona], int]:
    """What a row of a kind of kernels gains where estimates tell that it is the fastest (tables/estimated.py): of
    weights that they were made for, and with all experts here."""

    def favour(problem: MoeProblem | FmoeProblem, persona: Persona) -> int:
        if not isinstance(problem, MoeProblem) or problem.quant != "block" or not problem.shuffled or problem.masked:
            return 0
        layer = (problem.experts, problem.topk, problem.width, problem.inter)
        return estimated.FAVOUR if estimated.fused_moe(persona, problem.tokens, layer) == kind else 0

    return favour


class Places:
    """Buffers of a workspace, one behind the other."""

    def __init__(self) -> None:
        self.bytes = 0

    def take(self, size: int) -> Operand:
        place = Operand(WORKSPACE, self.bytes)
        self.bytes += -(-size // _LINE) * _LINE
        return place


def by_slots(problem: MoeProblem | FmoeProblem) -> bool:
    """Whether rows of slots are the result."""
    return isinstance(problem, MoeProblem) and problem.by_slots


def slots_in(places: Places, problem: MoeProblem | FmoeProblem) -> Operand:
    """Where rows of slots go: to the result where they are it."""
    return Operand("out") if by_slots(problem) else places.take(2 * problem.pairs * problem.width)


def sum_kernel(
    problem: MoeProblem | FmoeProblem,
    persona: Persona,
    args: Mapping[str, Value],
    marks: bool = False,
    weighs: bool = False,
) -> Kernel:
    """The sum over slots that follows rows of them; with `marks` those that are marked, added to the result; with
    `weighs` each times its routing weight. Where the rows are the result, zeros for slots that have none."""
    wave = 32 if persona.target == "sm_90a" else 64
    threads = min(1024, -(-problem.width // (_ELEMENTS * wave)) * wave)
    if by_slots(problem):
        unit = _unit("absent", ABSENT, persona, {"THREADS": threads})
        return Kernel(unit, ABSENT, ARGS, along_x(problem.pairs), along_x(threads), args=args)
    defines: dict[str, int | str] = {"MARKS": int(marks), "RESULT": problem.dtype, "THREADS": threads}
    if weighs:
        defines["WEIGHS"] = 1
    unit = _unit("sum", SUM, persona, defines)
    return Kernel(unit, SUM, ARGS, along_x(problem.tokens), along_x(threads), args=args)


def clear_kernel(problem: FmoeProblem, persona: Persona, args: Mapping[str, Value]) -> Kernel:
    """Makes marks, local_topk_ids, zero ahead of the kernels that set them: a caller's lists do not say which pairs
    they hold, and what a workspace holds is another call's."""
    unit = _unit("clear", CLEAR, persona, {"THREADS": _CLEAR_THREADS})
    grid = -(-problem.pairs // _CLEAR_THREADS)
    return Kernel(unit, CLEAR, ARGS, along_x(grid), along_x(_CLEAR_THREADS), args=args)


def _unit(name: str, symbol: str, persona: Persona, defines: Mapping[str, int | str]) -> Unit:
    spelled = {f"AITERLITE_{key}": str(value) for key, value in defines.items()} | overlap_defines(persona.target)
    sources = (f"csrc/fused_moe/{name}.hip",)
    return Unit(f"fused_moe/{name}", sources, persona.target, tuple(spelled.items()), symbols=(symbol,))


# Requirements ---------------------------------------------------------------------------------------------------------


# Of AMD's kernels that do not sort (fused_moe/few_pairs.h): a wave's lanes hold a pair each.
FEW_TOKENS, FEW_PAIRS = 4, 64
FEW = (Between("tokens", 1, FEW_TOKENS), Between("pairs", 1, FEW_PAIRS, "tokens are sorted then"))


@dataclass(frozen=True)
class NativeWeights:
    """Weights are of the hidden states' type, or of the 8-bit format that the chip multiplies."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if getattr(problem, "quant", "block") == "none" or problem.code in (NATIVE, persona.fp8):
            return None
        if getattr(problem, "is_mx", False):
            return Refusal("weights are of MXFP4, which rows named mxfp4 multiply")
        reason = f"weights are {problem.code}, and {persona.target} multiplies {persona.fp8}"
        return Refusal(reason, f"convert the weights to {persona.fp8}")

    def __str__(self) -> str:
        return "weights of 16 bits, or of the chip's own 8-bit format"
