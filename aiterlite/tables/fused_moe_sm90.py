"""What the fused mixture of experts serves on sm_90a, and by which kernels (fused_moe_sm90_kernels.py; plans:
fused_moe_sm90_plan.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Between, Holds, OneOf, Refusal, Row, Targets, Wishes
from aiterlite.tables import fused_moe_sm90_kernels as kernels
from aiterlite.tables import fused_moe_sm90_plan as plans
from aiterlite.tables.fused_moe_parts import NativeWeights
from aiterlite.tables.fused_moe_problem import ACTIVATIONS, BLOCK
from aiterlite.tables.fused_moe_sm90_plan import STEP_BYTES
from aiterlite.target import Persona

_MOST_TOPK = 32
# Tokens of `join`: rows of slots of three parts, 50 MB of 4,096 tokens, are what the L2 may hold.
_MOST_JOINED = 4096

# Requirements ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WholeParts:
    """x and h come in parts of 128 elements."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        for name in ("width", "inter"):
            value = getattr(problem, name)
            if value < BLOCK or value % BLOCK:
                return Refusal(f"{name} is {value}, no multiple of {BLOCK}", "pad the weights with zeros")
        return None

    def __str__(self) -> str:
        return f"widths that are multiples of {BLOCK}"


@dataclass(frozen=True)
class MergedSlots:
    """A token has one entry an expert, or its sums would have two additions at a time."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if min(problem.tokens, problem.topk, problem.experts) < 1 or plans.sums_fit(problem):
            return None  # others refuse the first
        return _unsorted(problem)

    def __str__(self) -> str:
        return "slots of one expert that are one entry"


@dataclass(frozen=True)
class PreparedLists:
    """Up to as many tokens as it may sort, the kernel that prepares does; of more, others."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if min(problem.tokens, problem.topk, problem.experts) < 1:
            return None  # others refuse that
        if problem.tokens > plans.MOST_PREPARED or plans.pairs_of_thread(problem, plans.plan_join(problem, persona)):
            return None
        return _unsorted(problem)

    def __str__(self) -> str:
        return f"pairs that one workgroup sorts, or more than {plans.MOST_PREPARED} tokens"


@dataclass(frozen=True)
class KeptFits:
    """Sums of all tokens and a ring lie in shared memory; the kernel that prepares sorts by a cluster."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if min(problem.tokens, problem.topk, problem.experts) < 1:
            return None  # others refuse that
        plan = plans.plan_kept(problem, persona)
        if not plans.pairs_of_thread(problem, plan) or plan.workgroups < 2 * kernels.MANY_CLUSTER:
            return _unsorted(problem)
        if plans.kept_shared(plan, problem) <= plans.SHARED_BYTES and plan.down_stages >= 2:
            return None
        return Refusal(f"sums of {problem.tokens} tokens and a ring do not fit shared memory")

    def __str__(self) -> str:
        return "sums that shared memory keeps"


def _unsorted(problem: Any) -> Refusal:
    """Why the kernels that prepare do not sort a problem's pairs."""
    if not plans.merges(problem):
        why = "a row a slot" if problem.by_slots else "weights on the input of several slots"
        return Refusal(f"a token's slots of one expert are kept apart ({why})")
    return Refusal(f"one workgroup does not sort {problem.pairs} pairs of {plans.global_experts(problem)} experts")


@dataclass(frozen=True)
class StepsFit:
    """The steps of all products number in 31 bits."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        step = STEP_BYTES // plans.element_bytes(problem)
        steps = (problem.pairs // 8 + problem.experts) * problem.inter * problem.width // (BLOCK * step)
        if steps < 2**31:
            return None
        return Refusal(f"its products have about {steps} steps; allowed: less than 2^31", "split the tokens")

    def __str__(self) -> str:
        return "products of less than 2^31 steps"


@dataclass(frozen=True)
class GivenBlocks:
    """A caller's blocks are of a size that products take."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if plans.given_columns(problem):
            return None
        return Refusal(f"block_size is {problem.block_size}, no multiple of 8", "sort by blocks of 32 or 64")

    def __str__(self) -> str:
        return "blocks of a multiple of 8 entries"


_HOPPER = (
    Targets(("sm_90a",)),
    OneOf("activation", ACTIVATIONS),
    NativeWeights(),
    WholeParts(),
    StepsFit(),
    Between("topk", 1, _MOST_TOPK),
)
_FEW = Between("tokens", 1, plans.MOST_SUMS, "their sums fit shared memory")
_JOINED = Between("tokens", 1, _MOST_JOINED, "rows of slots that wait to be added lie in the L2")
_SUMMED = Holds("by_slots", False, "the result has a row a slot, and this adds them up")
_KEPT = (
    Between("tokens", kernels.MANY, plans.MOST_PREPARED, "a cluster sorts them, and says how many entries a block has"),
    OneOf("quant", ("block",)),
    Holds("shuffled", False, "boxes are of rows as they lie"),
    Holds("bias2", False, "rows of w2 have biases"),
    KeptFits(),
)
_ALIGNED = Holds("aligned", True, "rows of x or a weight do not begin at multiples of 16 bytes", "copy them")


def _row(name: str, needs: tuple[Any, ...], priority: int, plan: Any, launches: Any) -> Row:
    return Row(name, "cuda", (*_HOPPER, *needs), priority, plan, launches, kernels.workspace)


ROWS: tuple[Row, ...] = (
    _row("sums", (_ALIGNED, _FEW, _SUMMED, MergedSlots()), 1, plans.plan_sums, kernels.sums_kernels),
    _row("join", (_ALIGNED, _JOINED, _SUMMED, PreparedLists()), 1, plans.plan_join, kernels.join_kernels),
    _row("kept", (_ALIGNED, _SUMMED, *_KEPT), 1, plans.plan_kept, kernels.kept_kernels),
    _row("slots", (_ALIGNED,), 0, plans.plan_slots, kernels.slots_kernels),
)
FMOE_ROWS: tuple[Row, ...] = (_row("slots", (GivenBlocks(),), 0, plans.plan_slots, kernels.slots_kernels),)
