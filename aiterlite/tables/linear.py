"""`linear`: which operator of the family serves a call, or torch.

Its rows are those of wvSplitK and of wvSplitKrc, each with one requirement more: that the operator is the one to take
here. What is fastest is data (gemm_crossover.py); what keeps the promise of `batch_invariant` is a rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from aiterlite.dispatch import Refusal, Row, Table, Targets, Wishes
from aiterlite.tables import asm, gemm, gemm_crossover, gemm_rc
from aiterlite.tables.gemm_crossover import Verdict
from aiterlite.tables.gemm_rc_plan import MAX_TOKENS
from aiterlite.target import Persona

WV_SPLIT_K, WV_SPLIT_K_RC, TORCH = "wvSplitK", "wvSplitKrc", "torch"
_BATCH_INVARIANT = "batch_invariant"
_ANYWHERE = Targets(("*",))


def verdict(problem: gemm_rc.RcProblem, persona: Persona) -> Verdict:
    """The fastest operator for 1 to 128 tokens, as far as it is known, and how that is known."""
    found = gemm_crossover.verdict(persona, problem.n, problem.m, problem.k)
    if found is not None:
        return found
    # On a CPU one kernel serves both operators; beyond these tokens nobody has measured it (docs/perf/gemm-cpu.md).
    on_cpu = persona.family == "cpu"
    most = gemm.CPU_LINEAR_TOKENS if on_cpu else gemm.MAX_TOKENS
    known = "on CPUs" if on_cpu else f"nothing was measured on {persona.target}, so"
    if problem.n <= most:
        return Verdict(WV_SPLIT_K, f"{known} up to {most} tokens")
    return Verdict(TORCH, f"{known} beyond {most} tokens")


def most_tokens(persona: Persona, reduction: str) -> int:
    """The tokens that a kernel may serve, whatever the shape: torch serves more, and nothing is left to decide."""
    if persona.family == "cpu" and reduction != _BATCH_INVARIANT and not gemm_crossover.shipped(persona.target):
        return gemm.CPU_LINEAR_TOKENS
    return MAX_TOKENS


def in_range(n: int, dtype: str) -> bool:
    """Whether any kernel of the family may serve so many tokens of a dtype; torch does where none may."""
    return 1 <= n <= MAX_TOKENS and dtype in gemm.DTYPES


@dataclass(frozen=True)
class Fastest:
    """`operator` is the one to take: the fastest at the nearest point that was measured or estimated, unless
    `batch_invariant` leaves only one that keeps its promise.

    The promise is for 1 to 128 tokens in the dtypes of the kernels. An assembly row (`backend`) that
    AITERLITE_PREFER=asm asks for goes before what is fastest. Nothing is said of targets and tokens that the row does
    not serve.
    """

    operator: str
    backend: str = ""
    targets: Targets = _ANYWHERE

    def refuse(self, problem: gemm_rc.RcProblem, persona: Persona, wishes: Wishes) -> Refusal | None:
        if not in_range(problem.n, problem.dtype) or min(problem.m, problem.k) < 1:
            return None
        if self.targets.refuse(problem, persona, wishes) is not None:
            return None
        if self.operator == WV_SPLIT_K and problem.n > gemm.MAX_TOKENS:
            return None
        if problem.reduction == _BATCH_INVARIANT:
            if self.operator == WV_SPLIT_K_RC:
                return None
            reason = f"reduction is batch_invariant, and the bits of {self.operator} may depend on n"
            return Refusal(reason, "AITERLITE_GEMM_REDUCTION=deterministic")
        # torch serves where nothing else does, however fast it is.
        if self.operator == TORCH or (self.backend == "asm" and wishes.prefer == "asm"):
            return None
        found = verdict(problem, persona)
        if found.winner == self.operator:
            return None
        return Refusal(f"{found.winner} is faster: {found.why}", f"call {self.operator} to have it all the same")

    def __str__(self) -> str:
        return "no batch_invariant to keep" if self.operator == TORCH else f"{self.operator} the fastest, or asked for"


def _competing(operator: str, row: Row, name: str) -> Row:
    (targets,) = [need for need in row.requires if isinstance(need, Targets)]
    return replace(row, name=name, requires=(*row.requires, Fastest(operator, row.backend, targets)))


_ROWS = {
    WV_SPLIT_K: tuple(_competing(WV_SPLIT_K, row, row.name) for row in gemm.WV_SPLIT_K.rows),
    WV_SPLIT_K_RC: tuple(_competing(WV_SPLIT_K_RC, row, f"rc_{row.name}") for row in gemm_rc.WV_SPLIT_K_RC.rows),
    TORCH: (Row(TORCH, TORCH, (Fastest(TORCH),), preference=asm.PREFERENCE - 1, fallback=True),),
}
LINEAR = Table(
    "linear", gemm_rc.RcProblem, tuple(row for rows in _ROWS.values() for row in rows), gemm_rc.SWEEP, gemm_rc.derive
)
