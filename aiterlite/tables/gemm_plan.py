"""The tiling of `wv_split_k`: how a problem is cut, as a pure function of it and of the chip.

Two questions are answered apart. How are rows and K cut into workgroups (slices, tiles, cluster)? By the least
estimated time. How does a workgroup cut its K (waves, unroll)? In whole turns, so that the loads that a compute unit
has in flight cover the memory latency (Little's law).

What the estimate weighs is fitted to measurements on sm_90a (docs/perf/gemm-sm90.md). For the other chips the rates are
derived from published ones, and no timing of this kernel stands behind them. `hardware.py` has the facts.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from itertools import product

from aiterlite import hardware
from aiterlite.hardware import Architecture

# (M, K) of DeepSeek-R1's projections on one rank, and one square; and token counts. Benchmarks measure these, and
# checks build what the plan makes of them.
SHAPES = ((256, 7168), (576, 7168), (1536, 7168), (2112, 7168), (3072, 1536), (7168, 2048), (7168, 2304), (4096, 4096))
TOKENS = (1, 2, 4, 8, 16)

# Weight rows of one matrix instruction, and the k that one 16-byte load of each lane covers.
TILE_ROWS = 16
TILE_K = 32
_MAX_LDS = 48 * 1024
# Registers of a lane that a batch of loads and sums may take, and what the rest of the kernel needs beside them.
_BATCH_REGISTERS, _OTHER_REGISTERS = 184, 40


@dataclass(frozen=True)
class Cost:
    """What an estimate weighs. Without unit: `imbalance` of compute units, `idle` ones where workgroups are fewer,
    workgroups that are each `alone` on a compute unit, the `tokens` that come from the cache beside the weights, a
    second tile of `columns`. In microseconds: a workgroup's start (`load`, for each that a compute unit has), a further
    tile of rows (`tiles`), being in a `cluster`, and each `doubling` of its size."""

    imbalance: float = 0.4
    idle: float = 0.0
    alone: float = 0.0
    tokens: float = 0.3
    columns: float = 0.03
    load: float = 0.04
    tiles: float = 0.08
    cluster: float = 0.0
    doubling: float = 0.0


@dataclass(frozen=True)
class Chip:
    """An architecture, and what the estimate weighs of it. Rates in bytes a microsecond, times in microseconds.

    `tile_columns`: columns of a matrix instruction; `memory`: what a kernel that only reads reaches; `cache`: the
    last-level cache to all compute units together; `flight`: bytes that a compute unit should have under way, 2 to 3
    times memory rate x latency / compute units; `registers`: 32-bit registers of a compute unit that the plan may give;
    `cost`: what the estimate weighs. Only the architecture and what is derived of it are facts.
    """

    arch: Architecture
    tile_columns: int
    memory: float
    cache: float
    flight: int
    registers: int
    cost: Cost

    @property
    def wave_size(self) -> int:
        return self.arch.wave_size

    @property
    def clusters(self) -> tuple[int, ...]:
        """The powers of two that every chip of the architecture can launch."""
        return tuple(size for size in (1, 2, 4, 8) if size <= self.arch.portable_cluster)


def _chip(target: str, tile_columns: int, memory: float, cache: float, flight: int, cost: Cost = Cost()) -> Chip:
    arch = hardware.ARCHITECTURES[target]
    return Chip(arch, tile_columns, memory, cache, flight, arch.unit_registers, cost)


# Fitted to 2,300 timings of 40 problems on an H200: docs/perf/gemm-sm90.md.
_SM90_COST = Cost(
    imbalance=0.53, idle=2.35, alone=0.08, tokens=0.25, columns=0.5, load=0.02, tiles=0.05, cluster=0.06, doubling=0.41
)

CHIPS = {
    chip.arch.target: chip
    for chip in (
        _chip("sm_90a", 8, 3.1e6, 5.5e6, 64 << 10, _SM90_COST),
        _chip("sm_80", 8, 1.7e6, 4.0e6, 40 << 10),
        _chip("sm_89", 8, 0.8e6, 4.0e6, 24 << 10),
        _chip("gfx942", 16, 4.3e6, 14e6, 40 << 10),
        _chip("gfx950", 16, 6.1e6, 16e6, 64 << 10),
    )
}


@dataclass(frozen=True)
class Tiling:
    """The defines of one variant.

    A workgroup of `waves` waves owns `tiles` tiles of 16 / `slices` weight rows, each row cut into `slices` pieces; a
    wave has `unroll` loads of each tile in flight; `cluster` workgroups share one group of rows and split K between
    them; `cols` token columns are held.
    """

    cols: int
    slices: int
    waves: int
    unroll: int
    tiles: int
    cluster: int

    def workgroups(self, m: int) -> int:
        """The grid of a problem of m weight rows."""
        return _groups(m, self.slices, self.tiles) * self.cluster


@functools.lru_cache(maxsize=4096)
def tiling(target: str, n: int, m: int, k: int, compute_units: int, aligned: bool) -> Tiling:
    """The tiling for a problem on a target with this many compute units."""
    chip = CHIPS[target]
    chosen = split_k(chip, ranked_cuts(chip, n, m, k, compute_units)[0], m, k, compute_units)
    # Element-wise loads fill the pipeline without being unrolled.
    return chosen if aligned else replace(chosen, unroll=1)


def estimated_time(target: str, n: int, m: int, k: int, compute_units: int) -> float:
    """The microseconds that the plan expects of its choice."""
    chip = CHIPS[target]
    return _cut_time(chip, ranked_cuts(chip, n, m, k, compute_units)[0], n, m, k, compute_units)


def _groups(m: int, slices: int, tiles: int) -> int:
    return _quotient(m * slices, TILE_ROWS * tiles)


def _quotient(a: int, b: int) -> int:
    return -(-a // b)


Cut = tuple[int, int, int, int]  # cols, slices, tiles, cluster


def ranked_cuts(chip: Chip, n: int, m: int, k: int, compute_units: int) -> list[Cut]:
    """Every cut that holds the tokens and leaves each slice of each workgroup something to do, best estimate first."""
    cuts = [
        (cols, slices, tiles, cluster)
        for cols, slices, tiles, cluster in product((8, 16), (1, 2, 4, 8, 16), (1, 2, 4), chip.clusters)
        if cols >= chip.tile_columns and n * slices <= cols and TILE_K * slices * cluster <= max(k, TILE_K)
    ]
    return sorted(cuts, key=lambda cut: (_cut_time(chip, cut, n, m, k, compute_units), cut))


def _cut_time(chip: Chip, cut: Cut, n: int, m: int, k: int, compute_units: int) -> float:
    """Estimated microseconds: the weights' stream, lengthened where compute units hold unequal numbers of workgroups;
    the tokens, which come from the cache beside it and so count for less; what starting costs."""
    cols, slices, tiles, cluster = cut
    cost = chip.cost
    groups = _groups(m, slices, tiles)
    load = groups * cluster / compute_units
    imbalance = _quotient(groups * cluster, compute_units) / load
    stream = 2.0 * m * k / chip.memory
    tokens = 2.0 * groups * n * k / chip.cache
    lengthened = cost.imbalance * (imbalance - 1) + cost.idle * max(1 / load - 1, 0)
    lengthened += cost.alone * (load <= 1)
    lengthened += cost.columns * (cols // chip.tile_columns - 1)
    start = cost.load * load + cost.tiles * (tiles - 1)
    if cluster > 1:
        start += cost.cluster + cost.doubling * math.log2(cluster)
    return stream * (1 + lengthened) + cost.tokens * tokens + start


def split_k(chip: Chip, cut: Cut, m: int, k: int, compute_units: int) -> Tiling:
    """How the workgroups of a cut share their K among waves and loads in flight."""
    cols, slices, tiles, cluster = cut
    steps = _quotient(k, TILE_K * slices * cluster)
    resident = _quotient(_groups(m, slices, tiles) * cluster, compute_units)
    best: tuple[float, int] | None = None
    chosen = Tiling(cols, slices, 1, 1, tiles, cluster)
    for waves, unroll in product(range(1, 17), range(1, 9)):
        candidate = Tiling(cols, slices, waves, unroll, tiles, cluster)
        if not compiles(chip, candidate) or (waves - 1) * unroll >= steps:
            continue
        fit = chip.registers // (_registers(chip, candidate) * waves * chip.wave_size)
        if fit < 1:
            continue
        turns = _quotient(steps, waves * unroll)
        waste = turns * waves * unroll / steps - 1
        flight = min(resident, fit) * min(waves * unroll, steps) * tiles * 2 * TILE_ROWS * TILE_K
        # Too little under way is worse than too much, and does not matter where everything is under way at once.
        short = max(chip.flight / flight - 1, 0) if turns > 1 or fit < resident else 0.0
        beyond = 0.15 * max(flight / chip.flight - 1, 0)
        shape = 0.02 * abs(unroll * tiles - 4) + 0.04 * (resident > fit) + 0.05 * (waves < 4)
        score = (round(short + beyond + 0.8 * waste + shape + 0.02 * turns, 3), waves)
        if best is None or score < best:
            best, chosen = score, candidate
    return chosen


def compiles(chip: Chip, candidate: Tiling) -> bool:
    """Whether the kernel's static assertions hold: threads, registers of a batch, LDS of the partial sums."""
    column_tiles = candidate.cols // chip.tile_columns
    held = _operand_registers(chip, candidate) + 4 * candidate.tiles * column_tiles
    waves_per_simd = _quotient(candidate.waves, chip.arch.simds)
    simd_registers = chip.registers // chip.arch.simds
    fits = held <= _BATCH_REGISTERS and (held + _OTHER_REGISTERS) * waves_per_simd * chip.wave_size <= simd_registers
    tokens = candidate.cols // candidate.slices
    rows = TILE_ROWS // candidate.slices * candidate.tiles
    partial = candidate.waves * tokens * (TILE_ROWS * candidate.tiles + 4)
    received = candidate.cluster * _quotient(tokens * rows, candidate.cluster)
    threads = candidate.waves * chip.wave_size
    return threads <= chip.arch.largest_workgroup and fits and 4 * (partial + received) <= _MAX_LDS


def _operand_registers(chip: Chip, candidate: Tiling) -> int:
    lane_rows = 2 if chip.tile_columns == 8 else 1
    return 4 * candidate.unroll * (lane_rows * candidate.tiles + candidate.cols // chip.tile_columns)


def _registers(chip: Chip, candidate: Tiling) -> int:
    """An upper estimate of a lane's registers."""
    columns = candidate.cols // chip.tile_columns
    used = 16 + 8 * candidate.tiles + 8 * columns + 4 * candidate.tiles * columns
    return _quotient(used + _operand_registers(chip, candidate), 8) * 8
