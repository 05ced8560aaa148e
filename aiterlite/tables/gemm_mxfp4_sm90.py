"""GEMM of MXFP4 weights on sm_90a: the kernel whose warps stream weights to themselves, and how problems are cut.

Every cut that fits is given an estimated time, and the best is taken: by the bytes that memory and a multiprocessor
take in, by the instructions that decoding takes, and by the steps that one warp does one after the other.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

from aiterlite import hardware
from aiterlite.dispatch import Between, Holds, Refusal, Row, Targets, Wishes
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, along_x, overlap_defines
from aiterlite.tables.gemm_mxfp4_problem import ARGS, LAYS, REQUIRES, MxGemmProblem, sizes
from aiterlite.tables.mx_types import BLOCK
from aiterlite.target import Persona

TARGET = "sm_90a"
KERNEL = "aiterlite_sm90_gemm_mxfp4"
STEP_K, TILE_ROWS = 256, 16
COLUMNS, TILES, CLUSTERS, K_WAVES, ROW_WAVES = (8, 16, 32, 64), (1, 2), (1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4, 8)
MOST_TOKENS = 192
MOST_WAVES, LEAST_WAVES, STAGES = 16, 4, (2, 3, 4, 6, 8)
# Of 132 multiprocessors, how many can be in clusters of so many at once, asked of an H200's driver.
_IN_CLUSTERS = {1: 132, 2: 132, 4: 120, 8: 120}
# Registers of a thread, by columns and tiles, as ptxas has them.
_REGISTERS = {
    **{(8, 1): 128, (8, 2): 184, (16, 1): 160, (16, 2): 248},
    **{(32, 1): 216, (64, 1): 255},
}
_ARCH = hardware.ARCHITECTURES[TARGET]


@dataclass(frozen=True)
class Cut:
    """The defines of one variant: a cluster of `cluster` workgroups owns `rows` weight rows by `cols` tokens and splits
    K. A warp has `tiles` tiles of 16 rows and every `k_waves`-th step of 256 k, `stages` of them under way. `x_steps`
    steps of tokens are held at once."""

    cols: int
    rows: int
    tiles: int
    cluster: int
    k_waves: int
    stages: int
    x_steps: int
    early: int = 1

    @property
    def waves(self) -> int:
        return self.rows // (TILE_ROWS * self.tiles) * self.k_waves

    @property
    def shared_bytes(self) -> int:
        units = self.rows // TILE_ROWS * self.cols // 8
        ring = self.waves * self.stages * self.tiles * TILE_ROWS * (STEP_K // 2 + STEP_K // BLOCK)
        received = -(-units // self.cluster) * self.cluster * 32 if self.cluster > 1 else 0
        handed = (self.k_waves - 1) * units * 32
        tokens = self.cols * (2 * STEP_K * self.x_steps + 64)
        return -(-(ring + 16 * (received + handed + 2) + 16 + tokens) // 1024) * 1024

    @property
    def resident(self) -> int:
        """Workgroups that a multiprocessor has room for, one or two."""
        by_memory = _ARCH.lds_unit_bytes // (self.shared_bytes + _ARCH.lds_overhead)
        registers = _REGISTERS[self.cols, self.tiles] * 32 * self.waves
        return 2 if by_memory >= 2 and 2 * registers <= _ARCH.unit_registers else 1


@dataclass(frozen=True)
class Plan:
    """One launch."""

    cut: Cut
    grid: int
    block: int
    shared_bytes: int


@dataclass(frozen=True)
class Cost:
    """What an estimate weighs. In bytes a microsecond: `memory`, and `intake` of a multiprocessor. In microseconds:
    `base`; `step` of a warp, a tile of rows and 8 tokens, beside `product` for each further 8; an `exchange` in a
    cluster and each `doubling` of it; each further `wave` of workgroups; being `alone` on a multiprocessor. In steps a
    microsecond: `rate`, at which a multiprocessor decodes tiles."""

    memory: float = 4.4e6
    intake: float = 42e3
    base: float = 1.5
    step: float = 0.42
    product: float = 0.08
    rate: float = 14.0
    exchange: float = 0.4
    doubling: float = 0.05
    wave: float = 1.0
    alone: float = 0.2
    gather: float = 0.15


def plan(problem: MxGemmProblem, persona: Persona) -> Plan:
    return plan_of(cut_for(problem, max(1, persona.cu_count)), problem)


def plan_of(cut: Cut, problem: MxGemmProblem) -> Plan:
    tiles = -(-problem.m // cut.rows) * -(-problem.n // cut.cols) * problem.batch
    return Plan(cut, tiles * cut.cluster, 32 * cut.waves, cut.shared_bytes)


def cut_for(problem: MxGemmProblem, compute_units: int) -> Cut:
    """The same for all tokens that need the same columns, and for all layouts, so that these have the same bits."""
    cols = next((c for c in COLUMNS if c >= problem.n), COLUMNS[-1])
    return _best(cols, -(-problem.n // cols), problem.m, problem.k, problem.batch, compute_units)


@functools.lru_cache(maxsize=4096)
def _best(cols: int, token_tiles: int, m: int, k: int, batch: int, compute_units: int) -> Cut:
    def score(cut: Cut) -> tuple[float, tuple[int, ...]]:
        return round(estimate(cut, token_tiles, m, k, batch, compute_units), 3), astuple(cut)

    return min(candidates(cols, m, k), key=score)


def candidates(cols: int, m: int, k: int) -> Iterator[Cut]:
    """Cuts whose warps each have a step, with as many stages as they have use of and as leave room for the next launch,
    and as one workgroup alone has room for."""
    steps = -(-k // STEP_K)
    for row_waves, tiles, cluster, k_waves in itertools.product(ROW_WAVES, TILES, CLUSTERS, K_WAVES):
        rows, waves = row_waves * tiles * TILE_ROWS, row_waves * k_waves
        own = -(-steps // cluster)
        if (cols, tiles) in _REGISTERS and _REGISTERS[cols, tiles] * 32 * waves > _ARCH.unit_registers:
            continue
        small = rows >= 2 * m or waves < LEAST_WAVES
        if (cols, tiles) not in _REGISTERS or waves > MOST_WAVES or cluster > steps or (k_waves > 1 and k_waves > own):
            continue
        if small and not (own <= k_waves or rows >= m):
            continue
        seen: set[tuple[int, int]] = set()
        for room in (_ARCH.lds_unit_bytes // 2 - _ARCH.lds_overhead, _ARCH.lds_bytes):
            made = _filled(Cut(cols, rows, tiles, cluster, k_waves, 2, k_waves), own, room)
            if made is not None and (made.stages, made.x_steps) not in seen:
                seen.add((made.stages, made.x_steps))
                yield made


def _filled(bare: Cut, own: int, room: int) -> Cut | None:
    """With all tokens of a workgroup held, or as many as fit, and as many stages as are left room for."""
    most = -(-own // bare.k_waves) * bare.k_waves
    each = -(-own // bare.k_waves)
    for stages in (4, 3, 2):
        # Each round of tokens begins with the ring's first stage.
        for x_steps in (most, *range(most - most % (stages * bare.k_waves), 0, -stages * bare.k_waves)):
            if x_steps < most and x_steps > 16:
                continue
            cut = Cut(bare.cols, bare.rows, bare.tiles, bare.cluster, bare.k_waves, stages, x_steps)
            if cut.shared_bytes > room:
                continue
            for more in STAGES:
                longer = Cut(bare.cols, bare.rows, bare.tiles, bare.cluster, bare.k_waves, more, x_steps)
                if x_steps == most and stages <= more <= max(2, each) and longer.shared_bytes <= room:
                    cut = longer
            return cut
    return None


def estimate(cut: Cut, token_tiles: int, m: int, k: int, batch: int, compute_units: int, cost: Cost = Cost()) -> float:
    """Microseconds: the weights' stream, or what the busiest multiprocessor takes in, decodes or does in one warp,
    whichever is longest; what starting and the exchange of sums take."""
    steps = -(-k // STEP_K)
    own = -(-steps // cut.cluster)
    usable = max(1, _IN_CLUSTERS[cut.cluster] * compute_units // 132)
    grid = -(-m // cut.rows) * token_tiles * batch * cut.cluster
    busiest = -(-grid // usable)
    together = min(busiest, cut.resident)
    rounds = -(-busiest // together)
    weights = 17 / 32 * STEP_K * cut.rows * own
    tokens = 2 * STEP_K * own * (cut.cols / 2 if cut.cols == COLUMNS[0] else cut.cols)
    memory = m * k * batch * 17 / 32 / cost.memory
    intake = busiest * (weights + tokens) / cost.intake
    work = 1 + cost.product / cost.step * (cut.cols // 8 - 1)
    decoding = busiest * own * cut.rows // TILE_ROWS * work / cost.rate
    one_warp = rounds * -(-own // cut.k_waves) * cost.step * work * (1 + 0.6 * (cut.tiles - 1))
    chunks = -(-own // cut.x_steps)
    exchange = 0.1 * (cut.k_waves > 1)
    if cut.cluster > 1:
        sent = 4 * cut.rows * cut.cols * (cut.cluster - 1) / cut.cluster
        exchange += cost.exchange + cost.doubling * cut.cluster.bit_length() + sent / 34e3
    # Too few bytes on their way leave memory idle.
    held = together * cut.waves * min(cut.stages, -(-own // cut.k_waves)) * cut.tiles * TILE_ROWS * STEP_K * 17 / 32
    under_way = min(1.0, held * min(grid / together, usable) / usable / 40e3)
    start = cost.base + cost.wave * (rounds - 1) + cost.alone * (cut.resident == 1)
    reading = tokens * together / cost.intake * 0.5 + 0.8 * (chunks - 1) * rounds
    return start + reading + max(memory / max(under_way, 0.05), intake, decoding, one_warp) + exchange


# Kernels --------------------------------------------------------------------------------------------------------------


def _unit(problem: MxGemmProblem, made: Plan) -> Unit:
    cut = made.cut
    values: dict[str, int | str] = {
        "CLUSTER": cut.cluster,
        "COLS": cut.cols,
        "EARLY": cut.early,
        "K_WAVES": cut.k_waves,
        "NUMBER": "fp16" if problem.x == "fp16" else "bf16",
        "PACKED": int(problem.is_packed),
        "RESIDENT": cut.resident,
        "RESULT": "float" if problem.dtype == "fp32" else problem.dtype,
        "ROWS": cut.rows,
        "SHARED_BYTES": made.shared_bytes,
        "SHUFFLED": int(problem.shuffled),
        "STAGES": cut.stages,
        "TILES": cut.tiles,
        "W_SCALES": LAYS.index(problem.w_scale),
        "X_SCALE_SHUFFLED": int(problem.x_scale_shuffled),
        "X_STEPS": cut.x_steps,
    }
    defines = {f"AITERLITE_{name}": str(value) for name, value in values.items()} | overlap_defines(TARGET)
    return Unit("gemm_mxfp4/sm90", ("csrc/gemm_mxfp4/sm90.hip",), TARGET, tuple(defines.items()), symbols=(KERNEL,))


def kernels(problem: MxGemmProblem, persona: Persona, made: Plan) -> tuple[Kernel, ...]:
    grid, block = along_x(made.grid), along_x(made.block)
    unit, cut = _unit(problem, made), made.cut
    return (
        Kernel(unit, KERNEL, ARGS, grid, block, lds=made.shared_bytes, cluster=cut.cluster, args=dict(sizes(problem))),
    )


@dataclass(frozen=True)
class GridFits:
    """Workgroups number in 31 bits."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        tiles = -(-problem.n // COLUMNS[-1]) * -(-problem.m // TILE_ROWS) * problem.batch * CLUSTERS[-1]
        if tiles < 2**31:
            return None
        return Refusal("its tiles number 2^31 or more", "split the tokens")

    def __str__(self) -> str:
        return "tiles that number in 31 bits"


_REQUIRES = (
    Targets((TARGET,)),
    *REQUIRES,
    Holds("aligned", True, "x, w or their rows do not begin at multiples of 16 bytes", "copy them"),
    Between("n", 1, MOST_TOKENS, "dequantised by torch, which is faster"),
    Between("k", 1, 2**24),
    GridFits(),
)
ROW = Row("mma", "cuda", _REQUIRES, 0, plan, kernels)
# Weights dequantised by torch, and its product: of more tokens than that, decoding for each tile takes longer, by the
# kernel's times and the bytes that dequantising moves; and of rows that the kernel does not read. No speed is claimed.
DENSE_ROW = Row("dequantised", "torch", (Targets((TARGET,)), *REQUIRES), -1)
