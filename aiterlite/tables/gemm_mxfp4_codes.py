"""GEMM of MXFP4 weights and MXFP4 tokens on gfx950, whose matrix unit multiplies codes and scales: how it is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aiterlite.dispatch import Between, Holds, OneOf, Row, Targets
from aiterlite.hardware import CHIPS, USUAL_CHIP
from aiterlite.kernel import Kernel, Workspace, along_x
from aiterlite.tables import gemm_mxfp4_amd as amd
from aiterlite.tables.gemm_mxfp4_problem import LAYS, NEAR_ROWS, REQUIRES, MxGemmProblem
from aiterlite.target import Persona

KERNEL = "aiterlite_gemm_mxfp4_codes"
STEP_K = 256
# Pieces of a call that is split, at the most (csrc/include/aiterlite/gemm_mxfp4/split_args.h).
COUNTERS = 4096
_BYTES = STEP_K * 17 // 32  # of a row of weights and a step
# Numbers of tokens that share a cut, so that a token's bits do not depend on the others of its call.
CLASSES = (4, 16, 32, 64)
_TILES, _SPLITS, _MOST_WAVES = (1, 2, 3, 4, 5, 6, 8), (1, 2, 3, 4, 6, 8), 16
_LDS_BYTES, _REGISTERS, _REGISTERS_IN_LOOPS = 160 << 10, 512, 52
_MOST_REGISTERS = 288  # of a wave, of which 256 are at hand, and the others take instructions to reach
_ARGUMENTS = 128  # bytes that a wave reads
# Upstream's kernels: a workgroup of 4 waves has 128 features and 32 tokens, of many tokens 64, and reads three steps
# twice. Instructions of a wave, and of a step of so many tokens.
_THEIR_TOKENS, _THEIR_ROWS, _THEIR_SURPLUS, _THEIR_WAVES = 32, 128, 3, 4
_THEIR_WAVE, _THEIR_STEP, _THEIR_LONGER_STEP = 325, 50, 84


@dataclass(frozen=True)
class Plan:
    """A workgroup has `tokens` by `rows` of weights and `split_steps` steps of 256 k, which its `waves` take in turn;
    `splits` share K."""

    tokens: int
    rows: int
    waves: int
    splits: int
    split_steps: int
    grid: int

    @property
    def tiles(self) -> int:
        """Of 16 by 16 sums."""
        return self.rows // 16 * (self.tokens // 16)

    @property
    def rounds(self) -> int:
        """Steps of a wave, at the most."""
        return -(-self.split_steps // self.waves)


@dataclass(frozen=True)
class _Cost:
    """What an estimate weighs, near what emulator/amd_calibration.json fitted to times that AMD published. In
    microseconds: a `round` of workgroups without its loads; the `meeting` of those that split K; the `trip` of a load.
    In bytes a microsecond: what a compute `unit` takes in of the caches. `reached`: of a chip's published memory. In
    instructions: of a `wave` besides its steps, of a `step` besides loads and products, of a `tile`'s end."""

    round: float = 1.2
    meeting: float = 2.0
    unit: float = 8.8e4
    reached: float = 0.88
    overlap: float = 1.43
    wave: int = 85
    step: int = 8
    tile: int = 36
    mhz: float = 2400
    trip: float = 0.8


_COST = _Cost()


def _class_of(problem: MxGemmProblem) -> int:
    """The tokens that a cut is made for."""
    return next((size for size in CLASSES if size >= problem.n), CLASSES[-1])


def _fits(made: Plan) -> bool:
    """Whether registers and LDS have room for its waves: operands of two steps, and sums."""
    tiles = made.rows // 16 + made.tokens // 16
    registers = 9 * min(2, made.rounds) * tiles + 4 * made.tiles + (_REGISTERS_IN_LOOPS if made.rounds > 2 else 28)
    most = min(_MOST_REGISTERS, _REGISTERS // -(-made.waves // 4))
    return made.waves <= _MOST_WAVES and registers <= most and made.waves * made.tiles * 1024 <= _LDS_BYTES


def _cuts(problem: MxGemmProblem) -> Iterator[Plan]:
    tokens, steps = max(16, _class_of(problem)), -(-problem.k // STEP_K)
    for tiles in _TILES:
        pieces = -(-problem.m // (16 * tiles)) * -(-problem.n // tokens) * problem.batch
        for split_steps in dict.fromkeys(-(-steps // splits) for splits in _SPLITS):
            splits = -(-steps // split_steps)
            if pieces > (COUNTERS if splits > 1 else 2**31 - 1):
                continue
            for waves in dict.fromkeys(
                -(-split_steps // -(-split_steps // most)) for most in range(_MOST_WAVES, 0, -1)
            ):
                made = Plan(tokens, 16 * tiles, waves, splits, split_steps, pieces * splits)
                if _fits(made):
                    yield made


def plan(problem: MxGemmProblem, persona: Persona) -> Plan:
    """The cut of the least estimated time of those that ask for no more bytes than upstream's kernel, issue a tenth
    less and multiply no more rows; the same for all layouts, so that these have the same bits."""
    steps, tokens = -(-problem.k // STEP_K), max(_class_of(problem), problem.n)
    their = -(-tokens // _THEIR_TOKENS) * -(-problem.m // _THEIR_ROWS) * problem.batch
    step_bytes = _THEIR_ROWS * _BYTES + min(tokens, _THEIR_TOKENS) * STEP_K // 2 + _THEIR_TOKENS * STEP_K // 32
    most_bytes = their * (steps + _THEIR_SURPLUS) * step_bytes + 2 * tokens * problem.m * problem.batch
    wide = tokens > _THEIR_TOKENS
    wave = _THEIR_WAVE + steps * (_THEIR_LONGER_STEP if wide else _THEIR_STEP)
    most_issued = 0.9 * _THEIR_WAVES * wave * (-(-their // 2) if wide else their)
    most_rows = -(-problem.m // _THEIR_ROWS) * _THEIR_ROWS
    made = list(_cuts(problem))
    few = [
        cut
        for cut in made
        if _bytes(cut, problem) <= most_bytes
        and cut.grid * _issued(cut) <= most_issued
        and -(-problem.m // cut.rows) * cut.rows <= most_rows
    ]
    return min(few or made, key=lambda cut: (round(estimate(cut, problem, persona), 2), cut.rows, cut.splits))


def _step_bytes(made: Plan, problem: MxGemmProblem) -> float:
    """What a workgroup asks for of caches: rows, tokens and their scales, twice as many as there are."""
    tokens = min(_class_of(problem), made.tokens)
    return made.rows * _BYTES + tokens * (STEP_K // 2 + STEP_K // 16)


def _bytes(made: Plan, problem: MxGemmProblem) -> float:
    tokens, pieces = max(_class_of(problem), problem.n), made.grid // made.splits
    splits = 8.0 * made.splits * tokens * problem.m * problem.batch if made.splits > 1 else 0.0
    ends = made.grid * made.waves * _ARGUMENTS + 2.0 * tokens * problem.m * problem.batch
    return pieces * -(-problem.k // STEP_K) * _step_bytes(made, problem) + ends + splits


def _loads(made: Plan) -> int:
    """Of a step."""
    row_tiles, token_tiles = made.rows // 16, made.tokens // 16
    return 2 * (row_tiles + token_tiles) + -(-row_tiles // 2) + -(-token_tiles // 2)


def _issued(made: Plan) -> float:
    """Instructions of a workgroup."""
    steps = made.split_steps * (_loads(made) + 2 * made.tiles + _COST.step)
    splits = made.waves * 20 + made.tiles * 12 if made.splits > 1 else 0
    return steps + splits + made.waves * (_COST.wave + made.tiles) + made.tiles * (4 * made.waves + _COST.tile)


def estimate(made: Plan, problem: MxGemmProblem, persona: Persona) -> float:
    """Microseconds: what memory gives beside what the busiest unit takes in and issues, and what splits cost."""
    chip = CHIPS.get(persona.chip, USUAL_CHIP[persona.target])
    memory = 1e3 * (chip.memory_gb_per_s or USUAL_CHIP[persona.target].memory_gb_per_s) * _COST.reached
    issue = 4 * _issued(made) / min(4, made.waves) / _COST.mhz
    under_way = made.waves * min(2, made.rounds) * made.rows * _BYTES
    taken = made.split_steps * _step_bytes(made, problem) / min(_COST.unit, under_way / _COST.trip)
    lds = made.waves * made.tiles * 20 / _COST.mhz
    vector = 5.5 * made.split_steps * _loads(made) / _COST.mhz
    rounds = -(-made.grid // max(1, persona.cu_count))
    busy = rounds * ((issue**2 + taken**2 + lds**2 + vector**2) ** 0.5 + _COST.round)
    stream = problem.m * problem.batch * problem.k * 17 / 32 / memory
    together: float = (busy**_COST.overlap + stream**_COST.overlap) ** (1 / _COST.overlap)
    return together + (_COST.meeting if made.splits > 1 else 0.0)


def _least_rounds(problem: MxGemmProblem, made: Plan) -> int:
    """Of whole steps, those that each wave of the last split has."""
    return (problem.k // STEP_K - (made.splits - 1) * made.split_steps) // made.waves


def kernels(problem: MxGemmProblem, persona: Persona, made: Plan) -> tuple[Kernel, ...]:
    args = amd.split_args(problem, made)
    values: dict[str, int | str] = {
        "BIAS": int(problem.bias),
        "LEAST": min(2, _least_rounds(problem, made)),
        "ONE": int(problem.n <= made.tokens and problem.batch == 1),
        "RESULT": amd.result_of(problem),
        "ROUNDS": min(4, made.rounds),
        "SHUFFLED": int(problem.shuffled),
        "SPLITS": made.splits,
        "STREAMS": int(problem.n <= made.tokens),
        "TAIL": int(problem.k % STEP_K != 0),
        "TILES": made.rows // 16,
        "TOKENS": made.tokens,
        "WAVES": made.waves,
        "W_SCALES": LAYS.index(problem.w_scale),
        "X_SCALE_SHUFFLED": int(problem.x_scale_shuffled),
    }
    unit = amd.unit_of("codes", KERNEL, persona, values)
    return (Kernel(unit, KERNEL, amd.ARGS, along_x(made.grid), along_x(64 * made.waves), args=args),)


def workspace(problem: MxGemmProblem, persona: Persona, made: Plan) -> Workspace | None:
    """Counters, and sums of the splits of each piece."""
    if made.splits == 1:
        return None
    return Workspace("gemm_mxfp4 codes", 4 * COUNTERS, 4 * COUNTERS + 1024 * made.tiles * made.grid)


_REQUIRES = (
    Targets(("gfx950",)),
    OneOf("x", ("fp4",)),
    *REQUIRES,
    Holds("aligned", True, "x, w or their rows do not begin at multiples of 16 bytes", "copy them"),
    Holds("near", True, f"{NEAR_ROWS} rows of x, w or their scales lie 2^31 bytes apart or more", "copy them"),
    Between("k", 1, 2**24),
    amd.CountsFit(),
)
ROW = Row("codes", "hip", _REQUIRES, 0, plan, kernels, workspace)
