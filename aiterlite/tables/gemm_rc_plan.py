"""The tiling of `wv_split_k_reduce`: how a problem is cut into tiles and shards, as a pure function of it, of the chip
and of the reduction.

Every cut that compiles is given an estimated time, from rates that are published or derived, not fitted: no timing of
this kernel stands behind them yet. The best is taken.

In `batch_invariant` the cut of K (waves, unroll, width of a shard) is a function of M, K and the target alone, chosen
once for INVARIANT_TOKENS tokens on the target's usual number of compute units; N chooses only how many rows and columns
a workgroup owns, which changes no sum's order.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from aiterlite.hardware import USUAL_CHIP
from aiterlite.tables.gemm_plan import CHIPS, TILE_K, TILE_ROWS, Chip

REDUCTIONS = ("deterministic", "fast", "batch_invariant")
MAX_TOKENS = 128
MAX_SHARDS = 64
INVARIANT_TOKENS = 32

# As csrc/include/aiterlite/gemm_reduce_args.h has them.
COUNTERS = 4096
REDUCE_NONE, REDUCE_SLICES, REDUCE_ATOMIC = 0, 1, 2

_COLUMNS = (16, 32, 64, 128)
_WAVES = ((1, 4), (2, 2), (4, 1), (1, 8), (2, 4), (4, 2), (8, 1))  # over rows, over K
_TOKEN_VECTORS = 8
_MAX_TOKEN_STEPS = 32
_MAX_LDS = 32 * 1024
_BATCH_REGISTERS, _OTHER_REGISTERS = 184, 48


@dataclass(frozen=True)
class Rates:
    """What the estimate weighs of a target beside `Chip`: microseconds that a load from memory takes; bytes a
    microsecond from the first cache of a compute unit."""

    latency: float
    first_cache: float


RATES = {
    "sm_90a": Rates(0.7, 218e3),
    "sm_80": Rates(0.6, 180e3),
    "sm_89": Rates(0.6, 290e3),
    "gfx942": Rates(0.9, 134e3),
    "gfx950": Rates(0.9, 154e3),
}


@dataclass(frozen=True)
class ReduceTiling:
    """The defines of one variant.

    A workgroup owns `row_waves` * `tiles` * 16 weight rows by `cols` token columns; each of its `row_waves` * `k_waves`
    waves takes every `k_waves`-th turn of `unroll` steps of 32 k.
    """

    cols: int
    tiles: int
    row_waves: int
    k_waves: int
    unroll: int

    @property
    def rows(self) -> int:
        return self.row_waves * self.tiles * TILE_ROWS

    @property
    def waves(self) -> int:
        return self.row_waves * self.k_waves

    @property
    def round_k(self) -> int:
        """The k that the waves take together in one turn."""
        return TILE_K * self.unroll * self.k_waves


@dataclass(frozen=True)
class Cut:
    """A tiling, and K in `shards` shards of `shard_k`, the last of which may be shorter."""

    tiling: ReduceTiling
    shards: int
    shard_k: int


def workspace_bytes(reduce: int, tiles: int, tile_floats: int, shards: int) -> int:
    """What a launch reads and writes in its workspace: the counters of all tiles, then the partial sums."""
    if reduce == REDUCE_NONE:
        return 0
    return 4 * COUNTERS + 4 * tiles * tile_floats * (shards if reduce == REDUCE_SLICES else 1)


def reduce_kind(reduction: str, shards: int) -> int:
    """The kernel's AITERLITE_REDUCE for a reduction mode."""
    if shards == 1:
        return REDUCE_NONE
    return REDUCE_ATOMIC if reduction == "fast" else REDUCE_SLICES


def cut(target: str, n: int, m: int, k: int, compute_units: int, reduction: str) -> Cut:
    """How a problem of 1 to 128 tokens is cut on a target with this many compute units: the same for all that need the
    same columns, so that a batch that grows and shrinks compiles and plans four times at most."""
    return _cut(target, next(c for c in _COLUMNS if c >= n), m, k, compute_units, reduction)


def estimated_time(target: str, n: int, m: int, k: int, compute_units: int, reduction: str) -> float:
    """The microseconds that the plan expects of its choice."""
    return _time(target, cut(target, n, m, k, compute_units, reduction), n, m, k, compute_units)


@functools.lru_cache(maxsize=4096)
def _cut(target: str, n: int, m: int, k: int, compute_units: int, reduction: str) -> Cut:
    if reduction != "batch_invariant":
        return _best(target, _candidates(target, n, m, k), n, m, k, compute_units)
    fixed = _invariant(target, m, k)
    order = (fixed.tiling.k_waves, fixed.tiling.unroll, fixed.shard_k)
    same = [c for c in _candidates(target, n, m, k) if (c.tiling.k_waves, c.tiling.unroll, c.shard_k) == order]
    return _best(target, same, n, m, k, compute_units)


@functools.lru_cache(maxsize=1024)
def _invariant(target: str, m: int, k: int) -> Cut:
    units = USUAL_CHIP[target].compute_units
    # Every N must find a tiling with this cut of K: registers for the most columns, counters for the lowest tiles.
    possible = [
        c
        for c in _candidates(target, INVARIANT_TOKENS, m, k)
        if compiles(CHIPS[target], replace(c.tiling, cols=MAX_TOKENS, tiles=1))
        and (c.shards == 1 or m <= COUNTERS * TILE_ROWS)
    ]
    return _best(target, possible, INVARIANT_TOKENS, m, k, units)


def _best(target: str, cuts: list[Cut], n: int, m: int, k: int, compute_units: int) -> Cut:
    def score(c: Cut) -> tuple[float, int, tuple[int, ...]]:
        t = c.tiling
        rank = (t.tiles, t.row_waves, t.k_waves, t.unroll)
        return round(_time(target, c, n, m, k, compute_units), 3), c.shards, rank

    return min(cuts, key=score)


def _candidates(target: str, cols: int, m: int, k: int) -> list[Cut]:
    chip = CHIPS[target]
    cuts = []
    for tiles in (1, 2, 4):
        for row_waves, k_waves in _WAVES:
            for unroll in (1, 2, 4, 8):
                tiling = ReduceTiling(cols, tiles, row_waves, k_waves, unroll)
                if compiles(chip, tiling):
                    cuts += [Cut(tiling, *shards) for shards in _shards(tiling, m, k)]
    return cuts


def _shards(tiling: ReduceTiling, m: int, k: int) -> Iterator[tuple[int, int]]:
    """Numbers of shards and their width: whole rounds, where there are several. The last one has something to do."""
    rounds = _quotient(k, tiling.round_k)
    tiles = _quotient(m, tiling.rows)
    yield 1, k
    seen = {1}
    for wanted in (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, MAX_SHARDS):
        each = _quotient(rounds, wanted)
        shards = _quotient(rounds, each)
        if shards not in seen and tiles <= COUNTERS and tiles * shards < 2**31:
            seen.add(shards)
            yield shards, each * tiling.round_k


def _time(target: str, c: Cut, n: int, m: int, k: int, compute_units: int) -> float:
    """Estimated microseconds: the slowest of the weights' stream, the tokens through both caches, and the latencies
    that follow each other in a workgroup; a part of the others; and the reduction."""
    chip, rates, tiling = CHIPS[target], RATES[target], c.tiling
    tiles = _quotient(m, tiling.rows)
    workgroups = tiles * c.shards
    resident = max(1, min(_fit(chip, tiling), _quotient(workgroups, compute_units)))
    passes = _quotient(workgroups, compute_units * resident)
    imbalance = _quotient(workgroups, compute_units) * compute_units / workgroups
    stream = 2.0 * m * k / chip.memory * (1 + 0.4 * (min(imbalance, 2.0) - 1))
    second = 2.0 * tiles * n * k / chip.cache
    busy = min(workgroups, compute_units)
    first = 2.0 * k * tiles * tiling.row_waves * (tiling.cols + tiling.tiles * TILE_ROWS) / (rates.first_cache * busy)
    turns = _quotient(c.shard_k, tiling.round_k)
    # A turn waits for memory, then for its groups of tokens, part of which hides behind the products.
    groups = max(1, tiling.unroll * (tiling.cols // chip.tile_columns) // _TOKEN_VECTORS)
    serial = passes * turns * (rates.latency + 0.15 * (groups - 1))
    parts = (stream, second, first, serial)
    exchange = 0.1 * (tiling.k_waves > 1) + 0.05 * tiling.tiles
    return max(parts) + 0.2 * (sum(parts) - max(parts)) + exchange + _reduction_time(chip, rates, c, n, m)


def _reduction_time(chip: Chip, rates: Rates, c: Cut, n: int, m: int) -> float:
    """Microseconds to write and read the sums of all shards, and for the round trips of the last workgroup."""
    if c.shards == 1:
        return 0.0
    threads = c.tiling.waves * chip.wave_size
    trips = _quotient(c.tiling.rows * n // 4, threads) * _quotient(c.shards, 4)
    return 8.0 * m * n * c.shards / chip.cache + rates.latency * (1.5 + 0.5 * trips)


def _fit(chip: Chip, tiling: ReduceTiling) -> int:
    """Workgroups that a compute unit holds."""
    arch, threads = chip.arch, tiling.waves * chip.wave_size
    registers = _quotient(_held(chip, tiling) + _OTHER_REGISTERS, 8) * 8 * threads
    return max(1, min(chip.registers // registers, arch.lds_bytes // _lds(tiling), arch.unit_threads // threads))


def compiles(chip: Chip, tiling: ReduceTiling) -> bool:
    """Whether the kernel's static assertions hold: registers of a turn, tokens of a turn, LDS of the partial sums."""
    held = _held(chip, tiling)
    waves_per_simd = _quotient(tiling.waves, chip.arch.simds)
    fits = (held + _OTHER_REGISTERS) * waves_per_simd * chip.wave_size <= chip.registers // chip.arch.simds
    requested = tiling.unroll * (tiling.cols // chip.tile_columns) <= _MAX_TOKEN_STEPS
    return held <= _BATCH_REGISTERS and fits and requested and _lds(tiling) <= _MAX_LDS


def _held(chip: Chip, tiling: ReduceTiling) -> int:
    columns = tiling.cols // chip.tile_columns
    lane_rows = 2 if chip.tile_columns == 8 else 1
    tokens = min(tiling.unroll * columns, _TOKEN_VECTORS)
    return 4 * (tiling.tiles * (columns + tiling.unroll * lane_rows) + tokens)


def _lds(tiling: ReduceTiling) -> int:
    columns = min(tiling.cols, 512 // tiling.waves)
    return 4 * tiling.waves * columns * TILE_ROWS


def _quotient(a: int, b: int) -> int:
    return -(-a // b)
