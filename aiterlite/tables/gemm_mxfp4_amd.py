"""GEMM of MXFP4 weights on gfx942 and gfx950: the compiled kernel, how it is cut, and the sum over splits of K."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Between, Holds, Refusal, Row, Targets, Wishes
from aiterlite.hardware import CHIPS, USUAL_CHIP
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import WORKSPACE, Kernel, Operand, Value, Workspace, along_x
from aiterlite.tables.gemm_a8w8_amd import COST, Plan
from aiterlite.tables.gemm_mxfp4_problem import LAYS, REQUIRES, MxGemmProblem, sizes
from aiterlite.target import Persona

KERNEL, SUM = "aiterlite_gemm_mxfp4_mfma", "aiterlite_gemm_mxfp4_sum"
ARGS = ArgumentStruct("aiterlite_gemm_mxfp4_split_args", "aiterlite/gemm_mxfp4/split_args.h")
TARGETS = ("gfx942", "gfx950")
STEP_K = 128
_TILES, _THREADS, _SUM_THREADS, _MOST_SPLITS = (1, 2), 256, 256, 64
# Workgroups of a compute unit, as registers are bounded for.
_RESIDENT = 2
_BYTES = STEP_K * 17 // 32  # of a row and step
# Microseconds of a trip to memory, chosen as those of gemm_a8w8_amd.py; two steps are on their way.
_TRIP = 0.5


def _tokens(problem: MxGemmProblem, persona: Persona) -> int:
    """Tokens of a workgroup: what registers hold of them beside weights."""
    most = 64 if problem.is_packed and persona.target == "gfx950" else 32
    return next((t for t in (16, 32, 64) if t >= problem.n and t <= most), most)


def plan(problem: MxGemmProblem, persona: Persona) -> Plan:
    """The cut of the least estimated time, the same for all layouts, so that these have the same bits."""
    tokens = _tokens(problem, persona)
    steps, token_tiles = -(-problem.k // STEP_K), -(-problem.n // tokens)
    best: tuple[float, Plan] | None = None
    for tiles in _TILES:
        rows = 64 * tiles
        pieces = -(-problem.m // rows) * token_tiles * problem.batch
        for split_steps in dict.fromkeys(-(-steps // splits) for splits in range(1, min(steps, _MOST_SPLITS) + 1)):
            splits = -(-steps // split_steps)
            if pieces * splits >= 2**31:
                continue
            made = Plan(tokens, rows, splits, split_steps, pieces * splits)
            time = round(estimate(made, problem, persona), 3)
            if best is None or time < best[0]:
                best = time, made
    assert best is not None
    return best[1]


def estimate(made: Plan, problem: MxGemmProblem, persona: Persona) -> float:
    """Microseconds: what the busiest compute unit takes in, by its share of memory or by what its workgroups have on
    their way, and what splits cost."""
    chip = CHIPS.get(persona.chip, USUAL_CHIP[persona.target])
    units = max(1, persona.cu_count)
    memory = COST.reached * 1e3 * (chip.memory_gb_per_s or USUAL_CHIP[persona.target].memory_gb_per_s)
    each = -(-made.grid // units)
    # A step of a workgroup's weights is on its way while the one before is multiplied.
    rate = min(memory / units, min(each, _RESIDENT) * 2 * made.rows * _BYTES / _TRIP)
    token_bytes = _BYTES if problem.is_packed else 2 * STEP_K
    stream = each * made.split_steps * (made.rows * _BYTES + made.tokens * token_bytes) / rate
    trips = -(-each // _RESIDENT) * COST.start
    if made.splits == 1:
        return stream + trips
    partial = 8.0 * made.splits * problem.n * problem.m * problem.batch
    return stream + trips + COST.launch + partial / COST.cache


def pitch(problem: MxGemmProblem, made: Any) -> int:
    rows: int = made.rows
    return -(-problem.m // rows) * rows


def unit_of(name: str, symbol: str, persona: Persona, values: Mapping[str, int | str]) -> Unit:
    defines = tuple((f"AITERLITE_{key}", str(value)) for key, value in sorted(values.items()))
    return Unit(f"gemm_mxfp4/{name}", (f"csrc/gemm_mxfp4/{name}.hip",), persona.target, defines, symbols=(symbol,))


def kernels(problem: MxGemmProblem, persona: Persona, made: Plan) -> tuple[Kernel, ...]:
    args = split_args(problem, made)
    values: dict[str, int | str] = {
        "NUMBER": "fp16" if problem.x == "fp16" else "bf16",
        "PACKED": int(problem.is_packed),
        "RESULT": result_of(problem),
        "SHUFFLED": int(problem.shuffled),
        "SPLIT": int(made.splits > 1),
        "TILES": made.rows // 64,
        "TOKENS": made.tokens,
        "W_SCALES": LAYS.index(problem.w_scale),
        "X_SCALE_SHUFFLED": int(problem.x_scale_shuffled),
    }
    unit = unit_of("mfma", KERNEL, persona, values)
    first = Kernel(unit, KERNEL, ARGS, along_x(made.grid), along_x(_THREADS), args=args)
    if made.splits == 1:
        return (first,)
    grid = problem.n * problem.batch * -(-pitch(problem, made) // (4 * _SUM_THREADS))
    unit = unit_of("sum", SUM, persona, {"RESULT": result_of(problem), "THREADS": _SUM_THREADS})
    return first, Kernel(unit, SUM, ARGS, along_x(grid), along_x(_SUM_THREADS), args=args)


def result_of(problem: MxGemmProblem) -> str:
    """The type of the result, in a kernel's words."""
    return "float" if problem.dtype == "fp32" else problem.dtype


def split_args(problem: MxGemmProblem, made: Any) -> dict[str, Value]:
    return {
        **sizes(problem),
        "splits": made.splits,
        "split_steps": made.split_steps,
        "pitch": pitch(problem, made),
        "unused": 0,
        "partial": Operand(WORKSPACE) if made.splits > 1 else 0,
    }


def workspace(problem: MxGemmProblem, persona: Persona, made: Plan) -> Workspace | None:
    if made.splits == 1:
        return None
    return Workspace("gemm_mxfp4", 0, 4 * made.splits * problem.n * problem.batch * pitch(problem, made))


@dataclass(frozen=True)
class CountsFit:
    """Workgroups number in 31 bits."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if -(-problem.m // 64) * -(-problem.n // 16) * problem.batch >= 2**31:
            return Refusal("its tiles number 2^31 or more", "split the tokens")
        if problem.n * problem.batch * -(-problem.m // (4 * _SUM_THREADS)) >= 2**31:
            return Refusal("its results' parts number 2^31 or more", "split the tokens")
        return None

    def __str__(self) -> str:
        return "tiles that number in 31 bits"


_REQUIRES = (
    Targets(TARGETS),
    *REQUIRES,
    Holds("aligned", True, "x, w or their rows do not begin at multiples of 16 bytes", "copy them"),
    Between("k", 1, 2**24),
    CountsFit(),
)
ROW = Row("mfma", "hip", _REQUIRES, 0, plan, kernels, workspace)
