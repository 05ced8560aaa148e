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
from dataclasses import astuple, dataclass
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
GROUPS = (1, 2)
# Clusters that are not portable: the driver is asked to allow them, and they take less shared memory, so that
# a part of the chip with few multiprocessors still holds one.
CLUSTERS = (1, 2, 3, 4, 5, 6, 7, 8, 16)
# Clusters that fetch tokens together.
SHARES = (1, 2, 4, 8)
STEP_K = 64
GROUP_ROWS = 64
MAX_STAGES = 16
_ARCH = hardware.ARCHITECTURES[TARGET]


@dataclass(frozen=True)
class Sm90Tiling:
    """The defines of one variant.

    A cluster of `cluster` workgroups owns `groups` * 64 weight rows by `cols` token columns and splits K; each has
    `stages` steps of 64 k under way. `share` such clusters, of neighbouring rows, are one and fetch the tokens once.
    """

    cols: int
    groups: int
    stages: int
    cluster: int
    share: int = 1

    @property
    def together(self) -> int:
        """The workgroups of a cluster as the hardware has it."""
        return self.cluster * self.share

    @property
    def rows(self) -> int:
        return GROUP_ROWS * self.groups

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a workgroup: the ring, the sums that it receives, barriers, and what aligns them."""
        pairs = _quotient(self.cols // 2, self.cluster)
        received = pairs * self.cluster * 32 * self.groups * 16 if self.cluster > 1 else 0
        return 1024 + self.stages * stage_bytes(self.cols, self.groups) + received + 16 + 16 * self.stages + 16


def stage_bytes(cols: int, groups: int) -> int:
    return 2 * STEP_K * (GROUP_ROWS * groups + cols)


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
    """What an estimate weighs, fitted to timings of 27 problems on an H200 (benchmarks/sweep_gemm_wide.py): the tilings
    that it chooses are 1.5 % from the fastest in the geometric mean, 8 % at most.

    `memory` in bytes a microsecond. In microseconds: `base`; each `round` trip to memory beyond the first ring of
    stages; each `step` of 128 tokens that a multiprocessor fetches; each further `wave` of workgroups; each `doubling`
    of a cluster; `exchange` for each 64 sums that a thread has to give away; being `alone` on a multiprocessor, so that
    no workgroup of the next launch can come; each doubling of `sharing`. Without unit: `imbalance` of multiprocessors;
    `stranded` ones for each further workgroup of a cluster, which must fit one part of the chip; the part of fetching
    tokens that is `shared`, the rest being what a multiprocessor takes in; workgroups `packed` on one multiprocessor
    for each that has room there.
    """

    memory: float = 4.29e6
    base: float = 2.03
    round: float = 1.97
    step: float = 0.0957
    wave: float = 2.55
    doubling: float = 0.0679
    exchange: float = 0.687
    alone: float = 0.101
    imbalance: float = 0.0783
    stranded: float = 1.88
    shared: float = 0.581
    sharing: float = 0.111
    packed: float = 0.0952


_COST = Cost()


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
    # Independent of this chip's multiprocessors: an H100 or H200 with another number gives the same bits.
    usual = hardware.USUAL_CHIP[TARGET].compute_units
    clusters = (_best(INVARIANT_TOKENS, m, k, usual, CLUSTERS).cluster,) if invariant else CLUSTERS
    return _best(cols, m, k, compute_units, clusters)


@functools.lru_cache(maxsize=4096)
def _best(cols: int, m: int, k: int, compute_units: int, clusters: tuple[int, ...]) -> Sm90Tiling:
    return min(candidates(cols, k, clusters), key=lambda cut: (estimate(cut, m, k, compute_units), astuple(cut)))


def candidates(cols: int, k: int, clusters: tuple[int, ...] = CLUSTERS) -> Iterator[Sm90Tiling]:
    """Tilings that leave each workgroup of a cluster a step of K, with as long a ring as one, two or three workgroups
    of a multiprocessor have room for."""
    steps = _quotient(k, STEP_K)
    for groups, cluster, share in itertools.product(GROUPS, clusters, SHARES):
        if cluster > steps or cols % (8 * share) or cluster * share not in CLUSTERS:
            continue
        most = max(2, min(MAX_STAGES, _quotient(steps, cluster)))
        cuts = [Sm90Tiling(cols, groups, stages, cluster, share) for stages in range(2, most + 1)]
        for resident in (1, 2, 3):
            least = max(resident, 1 + (cluster * share > _ARCH.portable_cluster))
            fitting = [cut for cut in cuts if _resident(cut) >= least]
            if fitting:
                yield fitting[-1]


def _resident(cut: Sm90Tiling) -> int:
    """Workgroups that a multiprocessor holds."""
    return _ARCH.lds_unit_bytes // (cut.shared_bytes + _ARCH.lds_overhead)


def estimate(cut: Sm90Tiling, m: int, k: int, compute_units: int) -> float:
    """Microseconds: the weights' stream or the rounds of a ring, whichever is longer; fetching tokens; what starting
    and the exchange of sums take."""
    cost = _COST
    steps = _quotient(_quotient(k, STEP_K), cut.cluster)
    grid = _quotient(m, cut.rows * cut.share) * cut.together
    resident, busiest = _resident(cut), _quotient(grid, compute_units)
    usable = max(1.0, compute_units - cost.stranded * (cut.together - 1))
    waves = math.ceil(grid / max(1, int(usable * resident)))
    # Clusters may be packed on a part of the chip while the launch ahead still holds the rest.
    load = busiest + cost.packed * max(0.0, min(resident, grid) - busiest)
    imbalance = load * compute_units / grid - 1
    memory = 2 * m * k / cost.memory * (1 + cost.imbalance * imbalance)
    rounds = max(0.0, steps / min(cut.stages, steps) - 1) * cost.round * waves
    fetched = 1 - cost.shared * (1 - 1 / cut.share)
    tokens = cost.step * steps * cut.cols / 128 * load * fetched
    exchange = 0.0
    if cut.cluster > 1:
        exchange = cost.doubling * math.log2(cut.cluster) + cost.exchange * cut.cols * cut.groups / 64
    start = cost.base + cost.wave * (waves - 1) + cost.alone * (resident == 1) + cost.sharing * math.log2(cut.share)
    return start + max(memory, rounds) + tokens + exchange


def _quotient(a: int, b: int) -> int:
    return -(-a // b)


def device_unit(problem: Any, persona: Persona, plan: Sm90Plan) -> Unit:
    cut = plan.tiling
    defines = {
        "AITERLITE_CLUSTER": str(cut.cluster),
        "AITERLITE_CLUSTER_SIZE": str(cut.together),
        "AITERLITE_COLS": str(cut.cols),
        "AITERLITE_ELEMENT": problem.dtype,
        "AITERLITE_GROUPS": str(cut.groups),
        "AITERLITE_SHARE": str(cut.share),
        "AITERLITE_SHARED_BYTES": str(plan.shared_bytes),
        "AITERLITE_STAGES": str(cut.stages),
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

    def rows(name: str, operand: str, count: str, box_rows: int) -> TensorMap:
        """A matrix of rows of k elements, fetched in steps of K of so many rows."""
        return TensorMap(f"{name}_map", operand, problem.dtype, ("k", count), (f"stride_{name}",), (STEP_K, box_rows))

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
            maps=(rows("w", "weight", "m", cut.rows), rows("x", "x", "n", cut.cols // cut.share)),
        ),
    )
