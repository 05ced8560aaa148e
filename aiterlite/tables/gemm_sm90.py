"""The skinny GEMM that sm_90's copy engine feeds and its warpgroup matrix unit multiplies: its variants and tiling.

Every tiling that fits is given an estimated time, whose weights are fitted to measurements
(docs/perf/gemm-wide-sm90.md), and the best is taken. In `batch_invariant` the cluster, which alone decides the order of
a sum, is a function of M and K.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiterlite import hardware
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, TensorMap, along_x, overlap_defines
from aiterlite.tables.gemm_args import SM90_ARGS
from aiterlite.tables.gemm_rc_plan import INVARIANT_TOKENS
from aiterlite.target import Persona

TARGET = "sm_90a"
KERNEL = "aiterlite_sm90_wv_split_k"
COLUMNS = (8, 16, 32, 64, 128)
MAX_COLUMNS = 128
# Those of 16 are not portable: the driver is asked to allow them, and they take less shared memory, so that a part of
# the chip with few multiprocessors still holds one. Clusters of 3, 5, 6 and 7 strand more multiprocessors than they
# even out: they were never the fastest.
CLUSTERS = (1, 2, 4, 8, 16)
# Clusters that fetch tokens together.
SHARES = (1, 2, 4, 8)
STEP_K = 64
GROUP_ROWS = 64
MAX_STAGES = 16
_ARCH = hardware.ARCHITECTURES[TARGET]


@dataclass(frozen=True)
class Sm90Tiling:
    """The defines of one variant.

    A cluster of `cluster` workgroups owns `rows` weight rows by `cols` token columns and splits K; each has `stages`
    steps of `depth` * 64 k under way, and fetches the weights of `early` of them to the L2 before the kernels ahead
    have ended. `share` such clusters, of neighbouring rows, are one and fetch the tokens once. `admits_early`: the next
    launch's workgroups may come when this one may read, not when all is multiplied. `tiles` such clusters, of `cols`
    tokens each, are one and fetch the weights once.
    """

    cols: int
    rows: int
    stages: int
    cluster: int
    share: int = 1
    depth: int = 1
    early: int = 0
    admits_early: bool = False
    tiles: int = 1

    @functools.cached_property
    def together(self) -> int:
        """The workgroups of a cluster as the hardware has it."""
        return self.cluster * self.share * self.tiles

    @functools.cached_property
    def groups(self) -> int:
        """Warpgroups that multiply."""
        return _quotient(self.rows, GROUP_ROWS)

    @functools.cached_property
    def step_k(self) -> int:
        return STEP_K * self.depth

    @functools.cached_property
    def stage_bytes(self) -> int:
        return 2 * self.step_k * (self.rows + self.cols)

    @functools.cached_property
    def received(self) -> int:
        """Places for four sums each that the others of a cluster send."""
        if self.cluster == 1:
            return 0
        live_threads = 32 * _quotient(self.rows, 16)
        if self.cols // 16 >= self.cluster:
            return _quotient(self.cols // 16, self.cluster) * 2 * (self.cluster - 1) * live_threads
        return _quotient(self.cols // 2, self.cluster) * self.cluster * live_threads // 4

    @functools.cached_property
    def shared_bytes(self) -> int:
        """Shared memory of a workgroup: the ring, what is read beyond it, the sums that it receives, barriers, and what
        aligns them."""
        beyond = max(0, self.groups * GROUP_ROWS - self.rows - self.depth * self.cols) * 2 * STEP_K + 16
        sums = self.received * 16 + 16
        return 1024 + self.stages * self.stage_bytes + beyond + sums + 16 * self.stages + 16


@dataclass(frozen=True)
class Sm90Plan:
    """One launch: the variant's tiling and the geometry. It needs no workspace."""

    tiling: Sm90Tiling
    grid: int
    block: int
    shared_bytes: int
    workspace: int = 0


@dataclass(frozen=True)
class Cost:
    """What an estimate weighs, fitted to timings on an H200 (benchmarks/sweep_gemm_wide.py).

    Rates in bytes a microsecond: `memory`; what a multiprocessor `takes` in, weights and tokens; what the `l2` gives to
    all; sums that a workgroup `sends`. Cycles of a `clock`: `group`, of a step's products beside the matrix unit's own.
    In microseconds: `base`; each `issue` of a step; each `round` trip to memory beyond the first ring of stages; each
    further `wave` of workgroups; an `exchange` of sums, and each `doubling` of the cluster that has one; each doubling
    of `sharing`; each KB of results that a workgroup `ends`; rows that are `narrow`, for each 16 below 32; `two`
    workgroups on a multiprocessor; being
    `alone` on a multiprocessor, so that no workgroup of the next launch can come. What is saved where a ring holds all
    of K and the next launch is `admitted` from the start, and by weights that are fetched `early`, all or a part.
    Without unit: `imbalance` of multiprocessors; the `norm` by which streams beside each other add up.
    """

    memory: float = 4.52e6
    takes: float = 140e3
    l2: float = 13.3e6
    sends: float = 19.9e3
    clock: float = 1800.0
    group: float = 27.0
    base: float = 1.85
    issue: float = 0.049
    round: float = 0.88
    wave: float = 2.48
    exchange: float = 0.125
    doubling: float = 0.037
    sharing: float = 0.195
    ends: float = 0.016
    two: float = 0.099
    narrow: float = 0.052
    alone: float = 0.093
    admitted: float = 0.16
    early: float = 0.19
    early_part: float = 0.13
    imbalance: float = 0.072
    norm: float = 3.9


_COST = Cost()
_USUAL_UNITS = hardware.USUAL_CHIP[TARGET].compute_units
# Bytes of weights that a workgroup fetches to the L2 before its predecessors have ended, where they are not all: more
# stands in the copy engine's way when the kernel may read.
_EARLY_BYTES = 32 << 10
# Steps of several pieces of 64 k cost the copying lane less; but no more than this, so that rings have several.
_DEPTHS, _DEEP_BYTES = (1, 2, 4), 24 << 10


def plan(problem: Any, persona: Persona) -> Sm90Plan:
    """The tiling and geometry of a launch; `problem` has n, m, k and reduction."""
    invariant = problem.reduction == "batch_invariant"
    return plan_of(tiling(problem.n, problem.m, problem.k, max(1, persona.cu_count), invariant), problem.m)


def plan_of(cut: Sm90Tiling, m: int) -> Sm90Plan:
    return Sm90Plan(cut, _quotient(m, cut.rows * cut.share) * cut.together, 32 + 128 * cut.groups, cut.shared_bytes)


def tiling(n: int, m: int, k: int, compute_units: int, invariant: bool) -> Sm90Tiling:
    """The tiling for a problem on a chip of this many multiprocessors: the same for all tokens that need the same
    columns, so that a batch that grows and shrinks compiles five kernels at most."""
    cols = next(c for c in COLUMNS if c >= n)
    if invariant:
        # Independent of this chip's multiprocessors: an H100 or H200 with another number gives the same bits.
        return _best(
            cols, m, k, compute_units, (_best(INVARIANT_TOKENS, m, k, _USUAL_UNITS, CLUSTERS, (1,)).cluster,), (1,)
        )
    measured = _MEASURED.get((cols, m, k)) if compute_units == _USUAL_UNITS else None
    return measured or _best(cols, m, k, compute_units, CLUSTERS, _DEPTHS)


# The fastest of sweeps on an H200 (docs/perf/gemm-wide-sm90.md), by columns, M and K, where another kernel is close or
# the estimate takes another tiling: it knows neither how neighbours that share tokens wait for each other, nor what
# memory makes of few rows. Marked ones were measured at the next N or K, and take the same shares.
_MEASURED = {
    (8, 1536, 7168): Sm90Tiling(8, 56, 6, 4, depth=2, early=2),
    (8, 2112, 7168): Sm90Tiling(8, 32, 5, 2, depth=4, early=1),
    (8, 4096, 4096): Sm90Tiling(8, 64, 5, 2, depth=2, early=2),  # N 16
    (16, 128, 2880): Sm90Tiling(16, 64, 2, 16, depth=2, early=2, admits_early=True),
    (16, 640, 2880): Sm90Tiling(16, 64, 6, 8, early=6, admits_early=True),
    (16, 1536, 7168): Sm90Tiling(16, 56, 11, 4, early=4),
    (16, 2112, 7168): Sm90Tiling(16, 32, 9, 2, depth=2, early=4),
    (16, 2880, 2880): Sm90Tiling(16, 48, 12, 2, early=5),  # N 32
    (16, 3072, 1536): Sm90Tiling(16, 24, 5, 1, depth=4, early=2),
    (16, 4096, 4096): Sm90Tiling(16, 64, 5, 2, depth=2, early=2),
    (32, 128, 2880): Sm90Tiling(32, 32, 3, 16, early=3, admits_early=True),
    (32, 2112, 7168): Sm90Tiling(32, 32, 13, 2, depth=2, early=4),
    (32, 4096, 4096): Sm90Tiling(32, 64, 9, 2, depth=2, early=2),
    (64, 128, 2880): Sm90Tiling(64, 24, 3, 16, early=3, admits_early=True),
    (64, 2112, 7168): Sm90Tiling(64, 72, 12, 4, 2, early=3),
    (64, 2880, 2880): Sm90Tiling(64, 48, 15, 2, 2, early=5),
    (64, 7168, 2048): Sm90Tiling(64, 112, 9, 2, early=4),
    (64, 7168, 2304): Sm90Tiling(64, 112, 9, 2, early=4),  # K 2048
    (128, 640, 2880): Sm90Tiling(64, 48, 6, 8, early=6, admits_early=True, tiles=2),
    (128, 2112, 7168): Sm90Tiling(128, 72, 7, 4, 2, early=3),
    (128, 2880, 2880): Sm90Tiling(128, 48, 9, 2, early=4),
    (128, 7168, 2048): Sm90Tiling(128, 64, 9, 1, 8, early=4),
    (128, 7168, 2304): Sm90Tiling(128, 64, 9, 1, 8, early=4),
}


@functools.lru_cache(maxsize=4096)
def _best(
    cols: int, m: int, k: int, compute_units: int, clusters: tuple[int, ...], depths: tuple[int, ...]
) -> Sm90Tiling:
    every = candidates(cols, m, k, compute_units, clusters, depths)

    def score(cut: Sm90Tiling) -> tuple[float, int, int, int, int, int]:
        return estimate(cut, m, k, compute_units), cut.rows, cut.cluster, cut.share, cut.depth, cut.stages

    return min(every, key=score)


def candidates(
    cols: int,
    m: int,
    k: int,
    compute_units: int,
    clusters: tuple[int, ...] = CLUSTERS,
    depths: tuple[int, ...] = _DEPTHS,
) -> Iterator[Sm90Tiling]:
    """Tilings that leave each workgroup of a cluster a step of K, with as long a ring as one, two or three workgroups
    of a multiprocessor have room for; of 64 or 128 rows, or as many as make the clusters one wave."""
    tiles = (1, 2) if cols == MAX_COLUMNS else (1,)
    for tile, cluster, share in itertools.product(tiles, clusters, SHARES):
        together, own = cluster * share * tile, cols // tile
        if together not in CLUSTERS or own % (8 * share):
            continue
        if (cluster, share, tile) == (1, 2, 1):
            continue  # two that only share tokens were slower than each alone
        at_once = _fitting(together, compute_units) * share
        even = {_quotient(_quotient(m, at_once * resident), 8 * tile) * 8 * tile for resident in (1, 2)}
        for rows in sorted({64, 128, *(r for r in even if 16 <= r <= 128)}):
            for depth in depths:
                if depth > 1 and (k % STEP_K or 2 * STEP_K * depth * (rows + own) > _DEEP_BYTES):
                    continue
                steps = _quotient(k, STEP_K * depth)
                if cluster <= steps:
                    one_each = _quotient(m, rows) <= at_once
                    yield from _rings(Sm90Tiling(own, rows, 2, cluster, share, depth, tiles=tile), steps, one_each)


def _rings(cut: Sm90Tiling, steps: int, one_each: bool) -> Iterator[Sm90Tiling]:
    """A tiling with the longest ring that leaves room for two workgroups on a multiprocessor, and, where that does not
    hold all of K, the longest for one."""
    each = _quotient(steps, cut.cluster)
    stage, step_bytes = cut.stage_bytes + 16, 2 * cut.step_k * cut.rows
    fixed = cut.shared_bytes - 2 * stage
    for resident in (2, 1):
        room = _ARCH.lds_unit_bytes // resident - _ARCH.lds_overhead
        stages = min(MAX_STAGES, max(2, each), (room - fixed) // stage)
        if stages < 2 or (resident == 1 and cut.together > _ARCH.portable_cluster):
            continue  # a part of the chip with few multiprocessors must still hold a cluster that is not portable
        if each <= stages and resident > 1 and one_each:
            # The next launch's workgroups have room, and this one's have asked for all that they need.
            yield _with_ring(cut, stages, each, True)
            return
        yield _with_ring(cut, stages, max(1, _EARLY_BYTES // step_bytes), False)


def _with_ring(cut: Sm90Tiling, stages: int, early: int, admits_early: bool) -> Sm90Tiling:
    return Sm90Tiling(cut.cols, cut.rows, stages, cut.cluster, cut.share, cut.depth, early, admits_early, cut.tiles)


def _fitting(together: int, compute_units: int) -> int:
    """Clusters that a chip holds at once, one workgroup on each multiprocessor."""
    return max(1, hardware.units_in_clusters(together, compute_units) // together)


def _resident(cut: Sm90Tiling) -> int:
    """Workgroups that a multiprocessor holds."""
    threads = 32 + 128 * cut.groups
    return min(_ARCH.lds_unit_bytes // (cut.shared_bytes + _ARCH.lds_overhead), _ARCH.unit_threads // threads)


def estimate(cut: Sm90Tiling, m: int, k: int, compute_units: int) -> float:
    """Microseconds: what streams beside each other, of weights, of tokens, and the rounds of a ring; what starting, the
    exchange of sums and results take."""
    cost = _COST
    steps = _quotient(_quotient(k, cut.step_k), cut.cluster)
    clusters = _quotient(m, cut.rows * cut.share)
    grid, fitting, resident = clusters * cut.together, _fitting(cut.together, compute_units), max(1, _resident(cut))
    busiest, waves = _quotient(clusters, fitting), _quotient(clusters, fitting * resident)
    imbalance = max(0.0, compute_units * busiest / grid - 1)
    streams = (
        2 * m * k / cost.memory * (1 + cost.imbalance * imbalance),
        busiest * steps * cut.stage_bytes / cost.takes,
        2 * grid * steps * cut.step_k * (cut.rows / cut.tiles + cut.cols / cut.share) / cost.l2,
        busiest * steps * cost.issue,
        busiest * steps * (cost.group + 4 * cut.depth * _product_cycles(cut)) / cost.clock,
        (steps / min(cut.stages, steps) - 1) * cost.round * waves,
    )
    time: float = cost.base + math.fsum(stream**cost.norm for stream in streams) ** (1 / cost.norm)
    time += cost.wave * (waves - 1) + cost.sharing * math.log2(cut.share * cut.tiles) + cost.alone * (resident == 1)
    time += cost.ends * cut.rows * cut.cols / 512
    if cut.cluster > 1:
        sent = 64 * _quotient(cut.rows, 16) * cut.cols * (cut.cluster - 1) / cut.cluster
        time += cost.exchange + cost.doubling * math.log2(cut.cluster) + sent / cost.sends
    time += cost.narrow * max(0, 32 - cut.rows) / 16 + cost.two * (busiest > 1)
    if cut.admits_early:
        early = 2 * min(cut.early, steps) * cut.step_k * cut.rows
        return time - cost.admitted - cost.early * min(1.0, early / _EARLY_BYTES)
    return time - cost.early_part * (cut.early > 0)


def _product_cycles(cut: Sm90Tiling) -> float:
    """Cycles of the matrix unit for 16 k: operands in shared memory (fragment/sm90_wgmma.h)."""
    return cut.groups * max(16 + cut.cols / 4, cut.cols / 2)


def _quotient(a: int, b: int) -> int:
    return -(-a // b)


def device_unit(problem: Any, persona: Persona, plan: Sm90Plan) -> Unit:
    cut = plan.tiling
    defines = {
        "AITERLITE_ADMIT_EARLY": str(int(cut.admits_early)),
        "AITERLITE_CLUSTER": str(cut.cluster),
        "AITERLITE_CLUSTER_SIZE": str(cut.together),
        "AITERLITE_COLS": str(cut.cols),
        "AITERLITE_DEPTH": str(cut.depth),
        "AITERLITE_EARLY": str(cut.early),
        "AITERLITE_ELEMENT": problem.dtype,
        "AITERLITE_ROWS": str(cut.rows),
        "AITERLITE_SHARE": str(cut.share),
        "AITERLITE_SHARED_BYTES": str(plan.shared_bytes),
        "AITERLITE_STAGES": str(cut.stages),
        "AITERLITE_TOKEN_TILES": str(cut.tiles),
        **overlap_defines(persona.target),
    }
    return Unit(
        "gemm/sm90_wv_split_k",
        ("csrc/gemm/sm90_wv_split_k.hip",),
        persona.target,
        defines=tuple(defines.items()),
        symbols=(KERNEL,),
    )


def kernels(problem: Any, persona: Persona, plan: Sm90Plan) -> tuple[Kernel, ...]:
    cut = plan.tiling

    def rows(name: str, operand: str, count: str, box_rows: int, box_pieces: int) -> TensorMap:
        """A matrix of rows of k elements, fetched in steps of K of so many rows: 64 k, or several times 64."""
        sizes: tuple[int | str, ...] = ("k", count, 1)
        strides: tuple[int | str, ...] = (f"stride_{name}", STEP_K)
        if cut.depth > 1:
            sizes = (STEP_K, count, problem.k // STEP_K)
        return TensorMap(f"{name}_map", operand, problem.dtype, sizes, strides, (STEP_K, box_rows, box_pieces))

    return (
        Kernel(
            device_unit(problem, persona, plan),
            KERNEL,
            SM90_ARGS,
            along_x(plan.grid),
            along_x(plan.block),
            lds=plan.shared_bytes,
            cluster=cut.together,
            args={"n": problem.n, "m": problem.m, "k": problem.k},
            maps=(
                rows("w", "weight", "m", cut.rows // cut.tiles, cut.depth if cut.tiles == 1 else 1),
                rows("x", "x", "n", cut.cols // cut.share, cut.depth if cut.share == 1 else 1),
            ),
        ),
    )
