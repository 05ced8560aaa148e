"""GEMM of 8-bit floats on gfx942 and gfx950: the compiled kernel, how it is cut, and the sum over splits of K."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Between, Holds, Refusal, Row, Targets, Wishes
from aiterlite.hardware import CHIPS, USUAL_CHIP
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import WORKSPACE, Kernel, Operand, Value, Workspace, along_x
from aiterlite.tables.gemm_a8w8_parts import quantised, quantised_bytes, sizes
from aiterlite.tables.gemm_a8w8_problem import SIZES, STEP_K, A8w8Problem, NativeFloats, WholeGroups
from aiterlite.target import Persona

KERNEL, SUM = "aiterlite_gemm_a8w8_mfma", "aiterlite_gemm_a8w8_sum"
ARGS = ArgumentStruct("aiterlite_gemm_a8w8_split_args", "aiterlite/gemm_a8w8/split_args.h")
TARGETS = ("gfx942", "gfx950")
_TOKENS, _TILES, _THREADS, _SUM_THREADS = (16, 32, 64), (1, 2, 4), 256, 256
# Workgroups of a compute unit, as registers are bounded for.
_RESIDENT = 2
_MOST_SPLITS = 64


@dataclass(frozen=True)
class Plan:
    """A workgroup has `tokens` by `rows` of weights and `split_steps` steps of 128 k; `splits` share K."""

    tokens: int
    rows: int
    splits: int
    split_steps: int
    grid: int


@dataclass(frozen=True)
class Cost:
    """What an estimate weighs; none of it was measured. In microseconds: a `launch` more, for the sum; what a workgroup
    takes to `start`. In bytes a microsecond: `cache`, of what splits leave each other. `reached`: of a chip's published
    memory."""

    launch: float = 3.0
    start: float = 1.0
    cache: float = 1.4e6
    reached: float = 0.8


COST = Cost()
# Microseconds of a trip to memory, for which a step of a workgroup's weights is on its way. These and `Cost.cache` are
# those whose plans come nearest to the best by the emulator's estimates without being worse by its timelines, which on
# gfx950 go for more splits of a short K; so do AMD's own tables there (docs/perf/estimates.md).
TRIP = {"gfx942": 0.5, "gfx950": 1.0}


def plan(problem: A8w8Problem, persona: Persona) -> Plan:
    """The cut of the least estimated time, of as many tokens as there are, up to 64."""
    tokens = next((t for t in _TOKENS if t >= problem.n), _TOKENS[-1])
    steps, token_tiles = problem.k // STEP_K, -(-problem.n // tokens)
    best: tuple[float, Plan] | None = None
    for tiles in _TILES:
        rows = 64 * tiles
        pieces = -(-problem.m // rows) * token_tiles * problem.batches
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


def estimate(made: Plan, problem: A8w8Problem, persona: Persona) -> float:
    """Microseconds: what the busiest compute unit takes in, by its share of memory or by what its workgroups have on
    their way, and what splits cost."""
    chip = CHIPS.get(persona.chip, USUAL_CHIP[persona.target])
    units = max(1, persona.cu_count)
    memory = COST.reached * 1e3 * (chip.memory_gb_per_s or USUAL_CHIP[persona.target].memory_gb_per_s)
    each = -(-made.grid // units)
    # A step of a workgroup's weights is on its way while the one before is multiplied.
    rate = min(memory / units, min(each, _RESIDENT) * made.rows * STEP_K / TRIP[persona.target])
    stream = each * made.split_steps * STEP_K * (made.rows + made.tokens) / rate
    trips = -(-each // _RESIDENT) * COST.start
    if made.splits == 1:
        return stream + trips
    partial = 8.0 * made.splits * problem.n * problem.m * problem.batches
    return stream + trips + COST.launch + partial / COST.cache


def _pitch(problem: A8w8Problem, made: Plan) -> int:
    return -(-problem.m // made.rows) * made.rows


def _unit(name: str, symbol: str, persona: Persona, values: Mapping[str, int | str]) -> Unit:
    defines = tuple((f"AITERLITE_{key}", str(value)) for key, value in values.items())
    return Unit(f"gemm_a8w8/{name}", (f"csrc/gemm_a8w8/{name}.hip",), persona.target, defines, symbols=(symbol,))


def kernels(problem: A8w8Problem, persona: Persona, made: Plan) -> tuple[Kernel, ...]:
    given, before = quantised(problem, persona)
    args: dict[str, Value] = {**sizes(problem), **given, "splits": made.splits, "split_steps": made.split_steps}
    args |= {"pitch": _pitch(problem, made)}
    args["partial"] = Operand(WORKSPACE, quantised_bytes(problem)) if made.splits > 1 else 0
    ends: dict[str, int | str] = {"RESULT": problem.dtype}
    ends |= {"W_BLOCKS": int(problem.W_BLOCKS), "X_GROUPS": int(problem.X_GROUPS)}
    cut = {"SHUFFLED": int(problem.is_shuffled), "SPLIT": int(made.splits > 1), "TILES": made.rows // 64}
    unit = _unit("mfma", KERNEL, persona, {**ends, **cut, "TOKENS": made.tokens})
    launches = (*before, Kernel(unit, KERNEL, ARGS, along_x(made.grid), along_x(_THREADS), args=args))
    if made.splits == 1:
        return launches
    grid = problem.n * problem.batches * -(-_pitch(problem, made) // (4 * _SUM_THREADS))
    unit = _unit("sum", SUM, persona, {**ends, "THREADS": _SUM_THREADS})
    return (*launches, Kernel(unit, SUM, ARGS, along_x(grid), along_x(_SUM_THREADS), args=args))


def workspace(problem: A8w8Problem, persona: Persona, made: Plan) -> Workspace | None:
    partial = 4 * made.splits * problem.n * problem.batches * _pitch(problem, made) if made.splits > 1 else 0
    total = quantised_bytes(problem) + partial
    return Workspace("gemm_a8w8", 0, total) if total else None


@dataclass(frozen=True)
class CountsFit:
    """Workgroups number in 31 bits, and rows of a workgroup's weights lie within 4 GiB."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if -(-problem.m // 64) * -(-problem.n // _TOKENS[-1]) * problem.batches >= 2**31:
            return Refusal("its tiles number 2^31 or more", "split the tokens")
        if problem.n * problem.batches * -(-problem.m // (4 * _SUM_THREADS)) >= 2**31:
            return Refusal("its results' parts number 2^31 or more", "split the tokens")
        if problem.k >= 2**24:
            return Refusal(f"k is {problem.k}; offsets have 32 bits, allowed: less than 2^24", "split K")
        return None

    def __str__(self) -> str:
        return "tiles that number in 31 bits"


_REQUIRES = (
    Targets(TARGETS),
    NativeFloats(),
    *SIZES,
    Holds("aligned", True, "x, w or their rows do not begin at multiples of 16 bytes", "copy them"),
    WholeGroups(STEP_K),
    CountsFit(),
)
ROW = Row("mfma", "hip", _REQUIRES, 0, plan, kernels, workspace)
BATCHED_ROW = Row("mfma", "hip", (*_REQUIRES, Between("batch", 1, 2**31 - 1)), 0, plan, kernels, workspace)
